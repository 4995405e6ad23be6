"""A user's own images: a folder, or a zip of one, with one sub-folder for each class.

    PATH/train/CLASS/*.png|jpg|jpeg      what networks learn from
    PATH/test/CLASS/*                    what the last line of a report is measured on
    PATH/validation/CLASS/*              optional (or `val`); else it is cut from train

Classes are in alphabetical order (in numerical order where all names are numbers). Images are turned as their
EXIF orientation says, and must then be of one size. If every image is grey the task has one channel, else
three; an alpha channel is dropped. A zip is read where it is: nothing is unpacked to the disk.

Example:
    task = tersa.data.load("pets.zip")     # pets.zip: train/cat/1.png, train/dog/1.png, test/cat/2.png, ...
"""

from __future__ import annotations

import io
import logging
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image

from tersa.data.source import SPLITS, Array, Decoded, Found, Source, checked
from tersa.errors import DataError, brief, shown

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg")
FOLDERS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
GREY = ("1", "L", "LA")
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation (1 is upright)."""

MAX_PIXELS = 4096 * 4096
MAX_MEMBER_BYTES = 64 << 20
MAX_TOTAL_BYTES = 16 << 30
"""Bounds on what a zip claims to hold: above any image folder that small networks learn from."""

REPORT_S = 5.0


@dataclass(frozen=True)
class Item:
    """One image file.

    Attributes:
        split: `train`, `test` or `validation`.
        label: name of its class.
        name: path within the folder or zip, with forward slashes.
    """

    split: str
    label: str
    name: str


@dataclass(frozen=True)
class Listing:
    """The images of a folder or zip in their order, and its classes in label order."""

    items: tuple[Item, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One decoded image.

    Attributes:
        values: (C, H, W) as stored, upright; of a file of this module uint8 with one or three channels.
        notes: what was done to it and dropped from it.
    """

    values: Array
    notes: tuple[str, ...] = ()


def find(path: Path) -> Found:
    """A folder or a zip file at `path`; what is in it shows when it is read."""
    return Found((path,)) if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip") else Found()


def read(paths: tuple[Path, ...]) -> Decoded:
    """Decode every image of one folder or zip.

    Raises:
        DataError: no train or test images, an empty class, a class of test that train lacks, an image that
            cannot be decoded or has another size, or a zip that is damaged or unsafe.
    """
    path = paths[0]
    with _opened(path) as (names, load):
        listing = arrange(names, str(path))
        ordered = [item for split in SPLITS for item in listing.items if item.split == split]
        images = _decode(ordered, load, str(path))
    label = {name: index for index, name in enumerate(listing.classes)}
    train, test, validation = (sum(item.split == split for item in ordered) for split in SPLITS)
    labels = np.array([label[item.label] for item in ordered], dtype=np.int64)
    return checked(Decoded(images, labels, (train, test, validation), listing.classes), str(path))


def listing(path: Path) -> Listing:
    """The images of a folder or zip, without decoding any.

    Raises:
        DataError: as `read`, but for the images themselves.
    """
    with _opened(path) as (names, _):
        return arrange(names, str(path))


def arrange(names: Sequence[str], where: str) -> Listing:
    """Sort file names into splits and classes.

    Args:
        names: paths with forward slashes; folders end with one. Hidden files and `__MACOSX` are passed over,
            and one folder around everything is taken off.
        where: the folder or zip, for messages.

    Raises:
        DataError: no train or no test folder, an empty class, a class that train lacks.
    """
    visible = [name for name in names if not any(p.startswith((".", "__MACOSX")) for p in name.split("/"))]
    places = _within(visible)
    items: list[Item] = []
    seen: dict[str, set[str]] = {}
    ignored = 0
    for name, parts in places:
        split = FOLDERS.get(parts[0]) if parts else None
        if split is None or len(parts) < 2:
            continue
        folder = len(parts) == 2 and name.endswith("/")
        if folder or len(parts) > 2:
            seen.setdefault(split, set()).add(parts[1])
        if len(parts) == 3 and not name.endswith("/") and name.lower().endswith(SUFFIXES):
            items.append(Item(split, parts[1], name))
        elif not name.endswith("/"):
            ignored += 1
    if ignored:
        logger.warning("%s: %d files that are not CLASS/*%s are left out", where, ignored, "|".join(SUFFIXES))
    _check_classes(items, seen, where, sorted({parts[0] for _, parts in places if parts}))
    classes = tuple(sorted({item.label for item in items if item.split == "train"}, key=_rank(seen["train"])))
    for name in classes:
        if shown(name) != name:
            raise DataError(f"{where}: the class {shown(name)} has a name that is not UTF-8; rename it")
    return Listing(tuple(sorted(items, key=lambda item: (classes.index(item.label), item.name))), classes)


def _within(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each name with its parts, without the one folder that may be around everything."""
    split = [(name, [part for part in name.split("/") if part]) for name in names]
    tops = {parts[0] for _, parts in split if len(parts) > 1}
    if len(tops) == 1 and not tops & FOLDERS.keys():
        return [(name, parts[1:]) for name, parts in split]
    return split


def _check_classes(items: list[Item], seen: dict[str, set[str]], where: str, found: list[str]) -> None:
    for split in ("train", "test"):
        if not seen.get(split):
            there = f"found: {', '.join(found[:6])}" if found else "it is empty"
            raise DataError(
                f"{where}: no class folders in {split}/; expected {split}/CLASS/*.png|jpg|jpeg, {there} "
                "(for a known data set give its name, and this folder as --data-dir)"
            )
    for split, names in seen.items():
        empty = sorted(names - {item.label for item in items if item.split == split})
        if empty:
            raise DataError(
                f"{where}: class '{empty[0]}' of {split} is empty; it needs a .png, .jpg or .jpeg file"
            )
        strange = sorted(names - seen["train"])
        if strange:
            raise DataError(f"{where}: class '{strange[0]}' of {split} is not in train")


def _rank(names: set[str]) -> Callable[[str], tuple[int, str]]:
    """Sort key: by number where all names are numbers, else alphabetically."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return lambda name: (int(name) if numbers else 0, name)


@contextmanager
def _opened(path: Path) -> Generator[tuple[list[str], Callable[[str], bytes]]]:
    """Names in a folder or zip, and a function that gives the bytes of one."""
    if path.is_dir():
        yield _names_of(path), lambda name: (path / name).read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            _check_zip(archive, path)
            yield [info.filename for info in archive.infolist()], archive.read
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or brief(error)}") from None
    except Exception as error:  # noqa: BLE001 - a decoder fed with damaged bytes may raise anything
        raise DataError(f"{path}: damaged zip file: {brief(error)}") from None


def _names_of(root: Path) -> list[str]:
    """Paths below `root/SPLIT/CLASS/`, folders with a slash at the end."""
    names: list[str] = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir()]
    for split in FOLDERS.keys() & {name.rstrip("/") for name in names if name.endswith("/")}:
        for group in (root / split).iterdir():
            if group.is_dir():
                names.append(f"{split}/{group.name}/")
                names += [f"{split}/{group.name}/{file.name}" for file in group.iterdir() if file.is_file()]
    return names


def _check_zip(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a zip whose names leave it or whose content is out of all proportion."""
    total = 0
    for info in archive.infolist():
        name = info.filename
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or re.match(r"[A-Za-z]:", name):
            raise DataError(f"{path}: unsafe name '{name}' in the zip; names must stay below it")
        if info.flag_bits & 1:
            raise DataError(f"{path}: '{name}' is encrypted; unpack it yourself and give the folder")
        if info.file_size > MAX_MEMBER_BYTES:
            raise DataError(f"{path}: '{name}' has {info.file_size} bytes; allowed: {MAX_MEMBER_BYTES}")
        total += info.file_size
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{path}: {total} bytes when unpacked; allowed: {MAX_TOTAL_BYTES}")


def _decode(items: Sequence[Item], load: Callable[[str], bytes], where: str) -> Array:
    """All images in one array (N, C, H, W), uint8."""
    images: Array = np.empty((0, 1, 0, 0), np.uint8)
    last = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters raises
        for index, item in enumerate(items):
            image = decode_image(load(item.name), f"{where}: {item.name}")  # (1 or 3, H, W)
            if not index:
                images = np.empty((len(items), *image.shape), np.uint8)
            if image.shape[1:] != images.shape[2:]:
                raise DataError(_another_size(item, image, items[0], images, where))
            if len(image) == 3 > images.shape[1]:  # the first colour image after grey ones
                images = np.repeat(images, 3, axis=1)
            images[index] = image
            if time.monotonic() - last > REPORT_S:
                last = time.monotonic()
                logger.info("decoding %s: %d of %d images", where, index + 1, len(items))
    return images


def decode_image(data: bytes, name: str) -> Array:
    """One PNG or JPEG file as (1, H, W) or (3, H, W), uint8, upright.

    Raises:
        DataError: not a whole PNG or JPEG image, too large, or of a kind (16 bits) that would lose values.
    """
    return decode_picture(data, name, MAX_PIXELS).values


def decode_picture(data: bytes, name: str, most: int) -> Picture:
    """One PNG or JPEG file of at most `most` pixels, and what was done to it.

    Raises:
        DataError: as `decode_image`.
    """
    notes: list[str] = []
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > most:
                raise DataError(f"{name}: {image.width}x{image.height} pixels; allowed: {most} in all")
            if image.mode not in GREY + COLOUR:
                raise DataError(
                    f"{name}: pixel format {image.mode}; allowed: {', '.join(GREY + COLOUR)} (8 bits)"
                )
            grey = image.mode in GREY
            upright = image.convert("L" if grey else "RGB")
            if _sees_through(image):
                notes.append("transparency dropped")
            turn = TURNED.get(_orientation(image))
            if turn is not None:
                upright = upright.transpose(turn)
                notes.append("turned as its EXIF says")
            values = np.asarray(upright)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - a decoder fed with damaged bytes may raise anything
        strange = isinstance(error, Image.UnidentifiedImageError)
        reason = "not a PNG or JPEG image" if strange else brief(error)
        raise DataError(f"{name}: cannot be decoded: {reason}") from None
    return Picture(values[None] if grey else np.ascontiguousarray(values.transpose(2, 0, 1)), tuple(notes))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or it cannot be read."""
    try:
        found: object = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything, and the pixels are whole
        return 1
    return found if isinstance(found, int) else 1


def _sees_through(image: Image.Image) -> bool:
    """Whether any pixel of a decoded image is not opaque."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return bool((alpha < 255).any())


def _another_size(item: Item, image: Array, first: Item, images: Array, where: str) -> str:
    size, usual = (f"{array.shape[-1]}x{array.shape[-2]}" for array in (image, images))
    return (
        f"{where}: {item.name} is {size} (width x height), {first.name} is {usual}; all must be of one size"
    )


SOURCE = Source(
    name="folder",
    about="your own: a folder or zip of train/CLASS/*.png|jpg and test/CLASS/*",
    find=find,
    read=read,
)
