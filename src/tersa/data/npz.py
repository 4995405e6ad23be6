"""A user's own arrays: one `.npz` file (`numpy.savez`), never with pickled objects.

Names (upper or lower case), the first that is there:

    train         train_images, x_train, train_x       labels: train_labels, y_train, train_y
    test          test_images, x_test, test_x          labels: test_labels, y_test, test_y
    validation    validation_images, val_images,       labels: validation_labels, val_labels,
                  x_validation, x_val, validation_x,           y_validation, y_val, validation_y,
                  val_x                                        val_y
    all in one    images, x, data, features            labels: labels, y, target, targets
    class names   classes, class_names                 optional; else `0`, `1`, ...

Validation is optional (cut from train). Without test arrays a fifth is cut from train, stratified, with a
fixed seed that no option changes. Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with C of 1 to 4, or
plain features (N, F), which become (N, 1, 1, F). Bytes stay bytes; floats become float32 and are taken as
they are, without division; other integers are taken as bytes if they are all in 0..255 (features: as
floats). Labels are integers 0..K-1, (N,) or (N, 1).

Example:
    >>> layout(np.zeros((5, 28, 28), np.uint8), "x_train").shape
    (5, 1, 28, 28)
    >>> layout(np.zeros((5, 32, 32, 3), np.uint8), "x_train").shape
    (5, 3, 32, 32)
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from tersa.data.source import SPLITS, Array, Decoded, Found, Source, checked
from tersa.data.split import stratified
from tersa.errors import DataError, brief

IMAGES = {
    "train": ("train_images", "x_train", "train_x"),
    "test": ("test_images", "x_test", "test_x"),
    "validation": (
        "validation_images",
        "val_images",
        "x_validation",
        "x_val",
        "validation_x",
        "val_x",
    ),
}
LABELS = {
    "train": ("train_labels", "y_train", "train_y"),
    "test": ("test_labels", "y_test", "test_y"),
    "validation": (
        "validation_labels",
        "val_labels",
        "y_validation",
        "y_val",
        "validation_y",
        "val_y",
    ),
}
POOLED_IMAGES = ("images", "x", "data", "features")
POOLED_LABELS = ("labels", "y", "target", "targets")
CLASS_NAMES = ("classes", "class_names")

CHANNELS = (1, 2, 3, 4)
TEST_SHARE = 0.2
TEST_SEED = 0
"""Fixed, so that every accuracy on one file is of the same images."""

MAX_TOTAL_BYTES = 16 << 30


def find(path: Path) -> Found:
    """An `.npz` file at `path`."""
    return Found((path,)) if path.is_file() and path.suffix.lower() == ".npz" else Found()


def read(paths: tuple[Path, ...]) -> Decoded:
    """Images and labels of one `.npz` file.

    Raises:
        DataError: damaged, pickled, an array missing, of a wrong shape or kind, NaN, or a label out of range.
    """
    path = paths[0]
    arrays = _arrays(path)
    found = {split: pair for split in SPLITS if (pair := _pair(arrays, split, path)) is not None}
    if "train" not in found:
        names = ", ".join(sorted(arrays)) or "none"
        raise DataError(
            f"{path}: no train images; found arrays: {names}; expected train_images or x_train or images"
        )
    note = ""
    if "test" not in found:
        found, note = _with_test(found, path), f"test is a fixed stratified cut of {TEST_SHARE:.0%} of train"
    parts = [found[split] for split in SPLITS if split in found]
    if len({(images.shape[1:], images.dtype) for images, _ in parts}) > 1:
        shapes = ", ".join(f"{split} {found[split][0].shape[1:]} {found[split][0].dtype}" for split in found)
        raise DataError(f"{path}: splits differ in shape or type: {shapes}")
    labels = np.concatenate([labels for _, labels in parts])
    sizes = tuple(len(found[split][1]) if split in found else 0 for split in SPLITS)
    decoded = Decoded(
        np.concatenate([images for images, _ in parts]),
        labels,
        (sizes[0], sizes[1], sizes[2]),
        _classes(arrays, labels, path),
        note,
    )
    return checked(decoded, str(path))


def layout(array: Array, name: str) -> Array:
    """Images as (N, C, H, W), uint8 or float32.

    Raises:
        DataError: another number of dimensions, no images, no channel axis of 1 to 4, not numbers, or NaN.
    """
    if array.ndim not in (2, 3, 4) or not array.size:
        raise DataError(
            f"{name}: shape {array.shape}; expected (N, H, W), (N, C, H, W), (N, H, W, C) or (N, F)"
        )
    array = _values(array, name)
    if array.ndim == 2:
        return array[:, None, None, :]  # (N, 1, 1, F)
    if array.ndim == 3:
        return array[:, None]  # (N, 1, H, W)
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first and last:  # (N, 3, 4, 4) or (N, 4, 4, 3): images are rather square, else as torch has it
        first = array.shape[2] == array.shape[3] or array.shape[1] != array.shape[2]
    if not first and not last:
        raise DataError(
            f"{name}: shape {array.shape} has no axis of 1 to 4 channels; transpose it to (N, C, H, W)"
        )
    return array if first else np.ascontiguousarray(array.transpose(0, 3, 1, 2))  # (N, C, H, W)


def _values(array: Array, name: str) -> Array:
    """The same values as uint8 or float32."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = array.astype(np.float32)
        if not np.isfinite(values).all():
            where = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
            raise DataError(f"{name}: NaN or infinity in image {where}")
        return values
    if array.dtype.kind not in "iub":
        raise DataError(f"{name}: values of type {array.dtype}; expected bytes, integers or floats")
    if array.ndim == 2:
        return array.astype(np.float32)
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if array.min() < 0 or array.max() > 255:
        raise DataError(f"{name}: integers {array.min()}..{array.max()}; store bytes 0..255, or floats")
    return array.astype(np.uint8)


def _arrays(path: Path) -> dict[str, Array]:
    """Every array of the file by its lower-case name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            total = sum(info.file_size for info in archive.infolist())
        if total > MAX_TOTAL_BYTES:
            raise DataError(f"{path}: {total} bytes when unpacked; allowed: {MAX_TOTAL_BYTES}")
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}  # bytes where a member is no array
            others = {name for name, array in found.items() if not isinstance(array, np.ndarray)}
            damaged = sorted(others & {name.removesuffix(".npy") for name in names if name.endswith(".npy")})
        if damaged:
            raise DataError(f"{path}: damaged: {damaged[0]}.npy in it is no array")
        return {name.lower(): array for name, array in found.items() if name not in others}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or brief(error)}") from None
    except Exception as error:  # noqa: BLE001 - a decoder fed with damaged bytes may raise anything
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: holds Python objects, not arrays of numbers") from None
        raise DataError(f"{path}: damaged, or no .npz file: {brief(error)}") from None


def _pair(arrays: dict[str, Array], split: str, path: Path) -> tuple[Array, Array] | None:
    """Images and labels of one split, or None where the file has no such images."""
    pooled = split == "train" and _first(arrays, IMAGES["train"]) is None
    name = _first(arrays, POOLED_IMAGES if pooled else IMAGES[split])
    if name is None:
        return None
    wanted = POOLED_LABELS if pooled else LABELS[split]
    label_name = _first(arrays, wanted)
    if label_name is None:
        raise DataError(f"{path}: no labels for {name}; expected {' or '.join(wanted)}")
    images = layout(arrays[name], f"{path}: {name}")
    labels = _labels(arrays[label_name], f"{path}: {label_name}")
    if len(images) != len(labels):
        raise DataError(f"{path}: {len(images)} images in {name} but {len(labels)} labels in {label_name}")
    return images, labels


def _first(arrays: dict[str, Array], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in arrays), None)


def _labels(array: Array, name: str) -> Array:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: shape {array.shape}; expected (N,): one class number for each image")
    if array.dtype.kind not in "iu":
        raise DataError(f"{name}: type {array.dtype}; expected integers 0..K-1")
    return array.astype(np.int64)


def _with_test(found: dict[str, tuple[Array, Array]], path: Path) -> dict[str, tuple[Array, Array]]:
    """Cut test from train."""
    images, labels = found["train"]
    k = len(np.unique(labels))
    count = min(max(round(TEST_SHARE * len(labels)), 1), len(labels) - k)
    if count < 1:
        raise DataError(
            f"{path}: no test arrays, and {len(labels)} train images in {k} classes are too few to cut them"
        )
    generator = torch.Generator().manual_seed(TEST_SEED)
    rest, taken = (index.numpy() for index in stratified(torch.from_numpy(labels), count, generator))
    return found | {"train": (images[rest], labels[rest]), "test": (images[taken], labels[taken])}


def _classes(arrays: dict[str, Array], labels: Array, path: Path) -> tuple[str, ...]:
    """Names from the file, else the numbers up to the largest label."""
    name = _first(arrays, CLASS_NAMES)
    if name is None:
        if labels.max() >= len(labels):  # else one absurd label would make a million classes
            raise DataError(
                f"{path}: label {labels.max()} among {len(labels)} images; expected 0..K-1 without gaps"
            )
        return tuple(str(k) for k in range(int(labels.max()) + 1))
    if arrays[name].ndim != 1 or arrays[name].dtype.kind not in "US":
        raise DataError(
            f"{path}: {name} is {arrays[name].dtype} {arrays[name].shape}; expected a list of names"
        )
    return tuple(
        v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in arrays[name].tolist()
    )


SOURCE = Source(
    name="npz",
    about="your own: an .npz file with x_train, y_train, x_test, y_test",
    find=find,
    read=read,
    cached=False,
)
