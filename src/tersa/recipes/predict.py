"""`tersa predict`: the classes that an artefact gives to images from files.

Images are read as PNG, JPEG or `.npy` (rows x columns, with channels last or first; bytes, or floats in
0..1); a folder stands for all images in it. Colours are converted where the network wants the other kind. A
larger image, a photograph, is turned upright and gives its centre in the network's proportions, shrunk to its
size (document 004, figure 7). Whatever was done is said. A smaller image is an error, because it holds less
than the network looks for: `resize` scales any image as a whole, and squeezes it where its proportions are
others. An image that cannot be taken is an error where it was named; where it was found in a folder it is
left out, with its reason.

Example:
    >>> centre(rows=480, columns=640, shape=(32, 32))
    (0, 80, 480, 480)
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ConfigDict, Field

from tersa.data.folder import SUFFIXES, Picture, decode_picture
from tersa.errors import DataError, ModelError, UsageError, brief, shown
from tersa.export.artefact import Artefact, Header
from tersa.export.check import classify
from tersa.export.onnx import as_pixels
from tersa.records.base import SCHEMA, Record

Array = npt.NDArray[Any]

SEVERAL_TOP, SINGLE_TOP = 3, 10
"""Classes that are named of each of several images, and of one."""

GREY = np.array([0.299, 0.587, 0.114])
"""Luminance of red, green and blue (ITU-R BT.601), as Pillow converts."""

BATCH = 256
"""Images that are read and classified at once."""


PHOTO_PIXELS = 100_000_000
"""Most pixels of one image: cameras make 24 to 60 million, and floats of 100 million are 1.2 GB."""


class Guess(Record):
    """One class with its probability, 0..1."""

    label: str
    probability: float


class Prediction(Record):
    """One image with its most likely classes, best first.

    Attributes:
        top: the most likely classes.
        note: what was converted, cut and shrunk.
        folder: the class that its folder names, or empty.
    """

    image: str
    top: list[Guess]
    note: str = ""
    folder: str = ""


class Skipped(Record):
    """An image of a folder that was left out, and why."""

    image: str
    reason: str


class PredictResult(Record):
    """Everything that one `tersa predict` found."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_version: int = SCHEMA
    verb: Literal["predict"] = "predict"
    model: str
    predictions: list[Prediction]
    right: int | None = None
    """Of the images in folders that name a class, those given that class; None where no folder does."""
    named: int = 0
    """Images in folders that name a class."""
    skipped: list[Skipped] = Field(default_factory=list[Skipped])
    """Images of folders that could not be taken."""
    artefacts: list[str]
    report: str = ""
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """An image as the network wants it: (C, H, W) float32 pixels in 0..1, and what was done to it."""

    pixels: npt.NDArray[np.float32]
    note: str


@dataclass(frozen=True)
class Answers:
    """The images that were classified, and those of folders that were left out."""

    predictions: list[Prediction]
    skipped: list[Skipped]


def predict(
    artefact: Artefact, images: list[Path], *, top: int | None = None, resize: bool = False
) -> Answers:
    """Classify image files.

    Args:
        artefact: the network.
        images: PNG, JPEG or `.npy` files, and folders of them.
        top: how many classes to name; None for `SINGLE_TOP` of one image, `SEVERAL_TOP` of several.
        resize: scale an image of another size as a whole.

    Raises:
        UsageError: no image, or `top` below 1.
        DataError: a named image that cannot be read, or is smaller than the network's and `resize` was not
            asked; or folders in which all images are such.
        ModelError: the network gives another number of logits than it has classes.
    """
    if not images:
        raise UsageError("no image given; name a PNG, JPEG or .npy file, or a folder of them")
    if top is not None and top < 1:
        raise UsageError(f"--top is at least 1, not {top}")
    files = image_files(images)
    top = top or (SINGLE_TOP if len(files) == 1 else SEVERAL_TOP)
    classes = artefact.header.classes
    found: list[Prediction] = []
    skipped: list[Skipped] = []
    named = {place for place in images if not place.is_dir()}
    for start in range(0, len(files), BATCH):
        ready: list[tuple[Path, Prepared]] = []
        for path in files[start : start + BATCH]:
            try:
                ready.append((path, prepare(read_picture(path), artefact.header, str(path), resize=resize)))
            except DataError as error:
                if path in named:
                    raise
                skipped.append(Skipped(image=shown(path), reason=shown(str(error))))
        if not ready:
            continue
        logits = classify(artefact.path, np.stack([one.pixels for _, one in ready]))
        if logits.shape[1] != len(classes):
            raise ModelError(f"{artefact.path} gives {logits.shape[1]} logits for {len(classes)} classes")
        found += [
            Prediction(
                image=shown(path),
                top=_best(row, classes, top),
                note=one.note,
                folder=path.parent.name if path.parent.name in classes else "",
            )
            for (path, one), row in zip(ready, softmax(logits), strict=True)
        ]
    if not found:
        raise DataError(f"none of the {len(files)} images can be taken; the first: {skipped[0].reason}")
    return Answers(found, skipped)


def image_files(places: list[Path]) -> list[Path]:
    """The files that are named, and in place of each folder the images in it and below, by name.

    Hidden files and `__MACOSX` in a folder are passed over, as in a data set.

    Raises:
        DataError: a folder without images.
    """
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        inside = sorted(
            p
            for p in place.rglob("*")
            if p.suffix.lower() in (*SUFFIXES, ".npy") and not _hidden(p.relative_to(place)) and p.is_file()
        )
        if not inside:
            raise DataError(f"{place} holds no image ({', '.join((*SUFFIXES, '.npy'))})")
        files += inside
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def score(predictions: list[Prediction]) -> tuple[int | None, int]:
    """Right answers among the images whose folder names a class (None without any), and their number."""
    named = [one for one in predictions if one.folder]
    return (sum(one.top[0].label == one.folder for one in named) if named else None), len(named)


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Probabilities (N, K), in float64.

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def read_image(path: Path) -> Array:
    """An image file as (C, H, W), as stored, upright.

    Raises:
        DataError: no such file, not an image, or an array that is none.
    """
    return read_picture(path).values


def read_picture(path: Path) -> Picture:
    """An image file, and what was done to it.

    Raises:
        DataError: as `read_image`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if path.suffix.lower() != ".npy":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd and large files; what matters raises
            return decode_picture(content, str(path), PHOTO_PIXELS)
    try:
        array: Any = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - numpy fed with damaged bytes raises almost anything
        raise DataError(f"{path} is not a readable .npy file: {brief(error)}") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive of arrays (.npz), not one image; save each image with np.save")
    return _pictured(cast(Array, array), path)


def _pictured(array: Array, path: Path) -> Picture:
    """An array as (C, H, W).

    Raises:
        DataError: it is no image.
    """
    if not array.size:
        raise DataError(f"{path} has shape {array.shape}; an image has at least one pixel")
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[2] in (1, 3) and array.shape[0] not in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise DataError(
            f"{path} has shape {array.shape}; an image is rows x columns, or with 1 or 3 channels"
        )
    if array.dtype == np.uint8:
        return Picture(array)
    if array.dtype.kind != "f" or not np.isfinite(array).all() or array.min() < 0.0 or array.max() > 1.0:
        raise DataError(f"{path} holds {array.dtype} values; an image has bytes, or floats in 0..1")
    return Picture(array)


def prepare(picture: Picture, header: Header, name: str, *, resize: bool) -> Prepared:
    """An image in the network's colours and size.

    Raises:
        DataError: an image smaller than the network's, and `resize` was not asked; or other channels.
    """
    channels, rows, columns = header.shape
    part, placed = _part(picture.values, (rows, columns), name, resize=resize)
    notes = [*picture.notes]
    pixels = as_pixels(part)
    if pixels.shape[0] != channels:
        if channels == 1:
            pixels = np.tensordot(GREY, pixels.astype(np.float64), axes=1)[None].astype(np.float32)
            notes.append("colour to grey")
        elif pixels.shape[0] == 1 and channels == 3:
            pixels = np.repeat(pixels, 3, axis=0)
            notes.append("grey to colour")
        else:
            raise DataError(f"{name} has {pixels.shape[0]} channels, the network takes {channels}")
    if pixels.shape[1:] != (rows, columns):
        layers = [
            Image.fromarray(layer).resize((columns, rows), Image.Resampling.BILINEAR) for layer in pixels
        ]
        pixels = np.clip(np.stack([np.asarray(layer) for layer in layers]), 0.0, 1.0)
    return Prepared(np.ascontiguousarray(pixels, np.float32), ", ".join((*notes, *placed)))


def _part(image: Array, shape: tuple[int, int], name: str, *, resize: bool) -> tuple[Array, Sequence[str]]:
    """What of an image is scaled to `shape` (all of it with `resize`, else its centre), and that in words."""
    rows, columns = shape
    height, width = image.shape[1:]
    if (height, width) == shape:
        return image, ()
    if resize:
        return image, (f"scaled from {width}x{height} to {columns}x{rows}",)
    if height < rows or width < columns:
        raise DataError(
            f"{name} is {width}x{height} pixels, smaller than the network's {columns}x{rows}; "
            "--resize scales it"
        )
    notes: list[str] = []
    top, left, tall, wide = centre(height, width, shape)
    if (tall, wide) != (height, width):
        notes.append(f"centre {wide}x{tall} of {width}x{height}")
    if (tall, wide) != shape:
        notes.append(f"shrunk from {wide}x{tall} to {columns}x{rows}")
    return image[:, top : top + tall, left : left + wide], notes


def centre(rows: int, columns: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest part in the middle of an image that has the proportions of `shape`.

    Args:
        rows: of the image.
        columns: of the image.
        shape: rows and columns whose proportions are wanted.

    Returns:
        First row, first column, rows, columns.
    """
    tall = min(rows, columns * shape[0] // shape[1])
    wide = min(columns, rows * shape[1] // shape[0])
    return (rows - tall) // 2, (columns - wide) // 2, tall, wide


def _best(shares: npt.NDArray[np.float64], classes: tuple[str, ...], top: int) -> list[Guess]:
    order = np.argsort(-shares, kind="stable")[:top]
    return [Guess(label=classes[int(index)], probability=float(shares[index])) for index in order]
