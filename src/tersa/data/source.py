"""What a source of data is: how its files are recognised, how they are read, where they can be had.

A source is a value, not a class to derive from: a name, two functions and the places to download from.
A new one costs one file and one line in `sources.py`. Axes: N images, C channels, H rows, W columns,
K classes. Nothing here touches the disk.

Example:
    >>> import numpy as np
    >>> images = np.zeros((3, 1, 2, 2), np.uint8)
    >>> decoded = Decoded(images, np.array([0, 1, 7]), sizes=(2, 1, 0), classes=("cat", "dog"))
    >>> checked(decoded, "pets.zip")
    Traceback (most recent call last):
    ...
    tersa.errors.DataError: pets.zip: label 7 of test image 0; allowed: 0..1 (2 classes)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tersa.errors import DataError, plain_text

Array = npt.NDArray[Any]
SPLITS = ("train", "test", "validation")


@dataclass(frozen=True)
class Decoded:
    """Everything that a source read, before validation is cut from train.

    Attributes:
        images: (N, C, H, W), uint8 or float32: train, then test, then validation.
        labels: (N,), int64 in 0..K-1, in the same order.
        sizes: images in train, test and validation; the last is 0 where validation is still to be cut.
        classes: names of the K classes, in label order.
        note: what a reader must know of these data, or empty.
        sha256: digests of what was read where that is no file of its own (bundled data), by name.
    """

    images: Array
    labels: Array
    sizes: tuple[int, int, int]
    classes: tuple[str, ...]
    note: str = ""
    sha256: dict[str, str] = field(default_factory=dict[str, str])

    def part(self, split: str) -> slice:
        """Where the images of `train`, `test` or `validation` are."""
        index = SPLITS.index(split)
        start = sum(self.sizes[:index])
        return slice(start, start + self.sizes[index])


@dataclass(frozen=True)
class Remote:
    """One file at an official place.

    Attributes:
        name: of the file, on the server and on the disk.
        sha256: of its bytes as served; nothing else is accepted.
        size: of it, in bytes.
    """

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Found:
    """What one folder holds of a source.

    Attributes:
        files: the files (or the one folder) to read; empty when there is nothing of this source.
        missing: names of the files without which the others cannot be read.
    """

    files: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Everything is there."""
        return bool(self.files) and not self.missing


@dataclass(frozen=True)
class Source:
    """One kind of data that `tersa.data.load` knows.

    Attributes:
        name: as the user says it.
        about: one line for `tersa data list`.
        find: what of it lies directly in a folder (or, for a user's own data, at a path).
        read: decodes the files that `find` found; raises DataError with one line.
        remote: the official files, empty where there is nothing to download.
        mirrors: places that serve them, tried in this order.
        normalisation: documented mean and std per channel; None: computed from the train split.
        package: the installed package that brings the data; empty where files are needed.
        cached: decoding is slow enough to keep its result.
    """

    name: str
    about: str
    find: Callable[[Path], Found]
    read: Callable[[tuple[Path, ...]], Decoded]
    remote: tuple[Remote, ...] = ()
    mirrors: tuple[str, ...] = ()
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    package: str = ""
    cached: bool = True


def checked(decoded: Decoded, where: str) -> Decoded:
    """The same data, if they are what a task needs.

    Args:
        decoded: what a source read.
        where: the file or folder, for the message.

    Raises:
        DataError: no images, a label outside 0..K-1, a class that train does not show, or a class name with
            control characters.
    """
    assert decoded.images.ndim == 4, "a source gives (N, C, H, W)"
    assert decoded.images.dtype in (np.uint8, np.float32), "a source gives bytes or float32"
    assert len(decoded.images) == len(decoded.labels) == sum(decoded.sizes), "one label for each image"
    for split in SPLITS[:2]:
        if decoded.part(split) == slice(0, 0) or not len(decoded.labels[decoded.part(split)]):
            raise DataError(f"{where}: no {split} images; at least one is needed")
    if odd := [name for name in decoded.classes if not plain_text(name)]:
        raise DataError(f"{where}: the class name {odd[0]!a} holds control characters; rename the class")
    k = len(decoded.classes)
    for split in SPLITS:
        labels = decoded.labels[decoded.part(split)]
        wrong = np.flatnonzero((labels < 0) | (labels >= k))
        if wrong.size:
            found = f"label {labels[wrong[0]]} of {split} image {wrong[0]}"
            raise DataError(f"{where}: {found}; allowed: 0..{k - 1} ({k} classes)")
    if k < 2:
        raise DataError(f"{where}: {k} class found; a task needs two or more")
    counts = np.bincount(decoded.labels[decoded.part("train")], minlength=k)
    if not counts.all():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise DataError(f"{where}: class {empty} ('{decoded.classes[empty]}') has no train image")
    return decoded
