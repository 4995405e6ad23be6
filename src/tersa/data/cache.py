"""What is kept between runs in the user cache: digests of large files and decoded images.

    $TERSA_CACHE, else the platform's cache folder for `tersa`
      data/NAME/FILE        what was downloaded (see `download.py`)
      decoded/KEY.npy       images of one data set, (N, C, H, W), memory-mapped when read
      decoded/KEY.json      its labels, sizes, classes and checksum; written last
      digests/KEY.json      sha256 of a file, valid while its size, time and inode stay the same

KEY is made of the source's name and the sha256 of its files, so that changed files are decoded anew. An entry
that is damaged (size, shape, checksum, unreadable sidecar) is dropped and made again. A cache that cannot be
written costs time, never the result.

Example:
    >>> key_of("mnist", {"a.gz": "00ff"}) == key_of("mnist", {"a.gz": "00fe"})
    False
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pooch

from tersa.data.source import Array, Decoded
from tersa.errors import DataError, shown
from tersa.files import PART, remove, replacing
from tersa.numerics import digest
from tersa.records.base import SCHEMA, Record, read_record, write_record

logger = logging.getLogger(__name__)

DECODERS = 2
"""Raised when a source decodes the same files to other values, so that old entries are not used."""

STALE_S = 86400.0
"""Age in seconds after which a temporary file must be of a killed process, not of a running one."""


class Entry(Record):
    """The sidecar of one decoded array.

    Attributes:
        shape: (N, C, H, W) of the array.
        dtype: `uint8` or `float32`.
        crc32: of the labels followed by the images.
        labels: one for each image.
        sizes: images in train, test and validation.
        classes: names, in label order.
        note: what a reader must know of these data.
    """

    schema_version: int = SCHEMA
    shape: tuple[int, int, int, int]
    dtype: str
    crc32: int
    labels: list[int]
    sizes: tuple[int, int, int]
    classes: tuple[str, ...]
    note: str


class Remembered(Record):
    """The digest of a file or a tree of files, and the state that it belongs to."""

    schema_version: int = SCHEMA
    path: str
    stamp: str
    sha256: str


def cache_dir() -> Path:
    """The user cache: `$TERSA_CACHE`, else the platform's place (`~/.cache/tersa` on Linux).

    A user without a home folder (a bare number in a container) has it among the temporary files.
    """
    try:
        place = os.environ.get("TERSA_CACHE") or pooch.os_cache("tersa")
        return Path(place).expanduser().absolute()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"tersa-{os.getuid()}"


def at_home(path: str | Path) -> Path:
    """The path with a `~` at its begin replaced; as it stands where nobody knows that home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def file_digest(path: Path) -> str:
    """sha256 of a file; read again only when its size, modification time or inode has changed.

    Raises:
        DataError: the file cannot be read.
    """
    return _remembered(path, _stamp([path]), lambda: _sha256(path))


def tree_digest(root: Path, files: Sequence[Path]) -> str:
    """One sha256 for many files: of their relative paths and digests, in the order of the paths."""
    ordered = sorted(files)

    def compute() -> str:
        whole = hashlib.sha256()
        for path in ordered:
            line = f"{path.relative_to(root).as_posix()}\0{_sha256(path)}\n"
            whole.update(line.encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    return _remembered(root, _stamp(ordered), compute)


def key_of(source: str, sha256: dict[str, str]) -> str:
    """Name of the cache entry for what `source` decodes from files with these digests."""
    return f"{source}-{digest([DECODERS, sorted(sha256.items())], length=24)}"


def decoded(key: str, read: Callable[[], Decoded]) -> Decoded:
    """The decoded data of `key`: from the cache as a memory-mapped array, else from `read`, then kept.

    The array is mapped copy-on-write, so that tensors share its memory and nobody can change the file.
    """
    array, sidecar = _paths(key)
    kept = _kept(array, sidecar)
    if kept is not None:
        return kept
    fresh = read()
    try:
        _keep(fresh, array, sidecar)
    except OSError as error:
        logger.warning("decoded images are not kept: %s: %s", array.parent, error.strerror)
        return fresh
    return _kept(array, sidecar) or fresh


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_dir() / "decoded"
    return folder / f"{key}.npy", folder / f"{key}.json"


def _keep(fresh: Decoded, array: Path, sidecar: Path) -> None:
    """Write the array, then the sidecar that makes it valid."""
    images = np.ascontiguousarray(fresh.images)
    labels = np.ascontiguousarray(fresh.labels, dtype=np.int64)
    entry = Entry(
        shape=images.shape,
        dtype=str(images.dtype),
        crc32=_checksum(images, labels),
        labels=labels.tolist(),
        sizes=fresh.sizes,
        classes=fresh.classes,
        note=fresh.note,
    )
    _sweep(array.parent)
    with replacing(array) as temporary, temporary.open("wb") as file:
        np.save(file, images, allow_pickle=False)
    write_record(sidecar, entry)


def _kept(array: Path, sidecar: Path) -> Decoded | None:
    """What the cache holds, or None where it holds nothing that can be trusted."""
    if not sidecar.exists():
        return None
    try:
        entry = read_record(sidecar, Entry)
        images: Array = np.load(array, mmap_mode="c", allow_pickle=False)
        labels = np.array(entry.labels, dtype=np.int64)
        if images.shape != entry.shape or str(images.dtype) != entry.dtype:
            raise ValueError(f"shape {images.shape} {images.dtype}")
        if _checksum(images, labels) != entry.crc32:
            raise ValueError("checksum differs")
    except (DataError, OSError, ValueError, EOFError) as error:
        logger.warning("cached images %s are damaged (%s); decoding again", array.name, error)
        return None
    return Decoded(images, labels, entry.sizes, entry.classes, entry.note)


def _checksum(images: Array, labels: Array) -> int:
    """crc32 of labels and images: about 15 ms for 100 MB."""
    return zlib.crc32(images.reshape(-1).view(np.uint8).data, zlib.crc32(labels.view(np.uint8).data))


def _sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    for leftover in folder.glob(f".*{PART}"):
        if time.time() - leftover.stat().st_mtime > STALE_S:
            remove(leftover)


def _stamp(files: Sequence[Path]) -> str:
    """State of files as the file system tells it, without reading them."""
    state: list[object] = []
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        state.append([str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    return digest(state, length=32)


def _remembered(path: Path, stamp: str, compute: Callable[[], str]) -> str:
    """The digest kept for `path` if its state is still `stamp`, else a fresh one."""
    place = cache_dir() / "digests" / f"{digest(str(path.absolute()), length=24)}.json"
    if place.exists():
        try:
            kept = read_record(place, Remembered)
            if kept.stamp == stamp:
                return kept.sha256
        except DataError as error:
            logger.warning("a kept digest is damaged (%s); reading the file again", error)
    sha256 = compute()
    try:
        write_record(place, Remembered(path=shown(path.absolute()), stamp=stamp, sha256=sha256))
    except OSError as error:
        logger.debug("digest not kept: %s", error)
    return sha256


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
