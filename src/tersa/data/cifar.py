"""`cifar-10`: the official binary archive, its unpacked files, or the same images in class folders.

A record of the binary version is one byte of label (0..9), then 3,072 bytes of pixels: the red, green and
blue planes of 32x32, row by row. Five files make up train, one is test, 10,000 records in each. Recognised in
a folder, in this order:

    cifar-10-binary.tar.gz                          the archive as it is downloaded
    data_batch_1..5.bin, test_batch.bin             unpacked, here or in cifar-10-batches-bin/
    cifar-10*.zip                                   train/CLASS/* and test/CLASS/* (see `folder.py`)
    train/CLASS/*, test/CLASS/*                     the same, unpacked

References:
    Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), chapter 3.

Example:
    >>> record = bytes([3]) + bytes(3072)
    >>> images, labels = parse(record, "test_batch.bin")
    >>> images.shape, labels.tolist()
    ((1, 3, 32, 32), [3])
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from tersa.data import folder
from tersa.data.source import Array, Decoded, Found, Remote, Source, checked
from tersa.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32
MAX_BATCH_BYTES = 100 * 10_000 * RECORD_BYTES

ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST = "test_batch.bin"
UNPACKED = "cifar-10-batches-bin"

JPEG_NOTE = "JPEG copy: expect 1-2 points less than published"
COPY_NOTE = "copy in class folders, not the official archive"
NOT_OFFICIAL = "not the official archive: sha256 differs"
BATCHES_NOTE = "unpacked batch files; their digest is not compared with an official one"


def parse(data: bytes, name: str) -> tuple[Array, Array]:
    """Images (N, 3, 32, 32), uint8, and labels (N,), int64, of one batch file.

    Raises:
        DataError: empty, not a whole number of records, or a label above 9.
    """
    if not data or len(data) % RECORD_BYTES:
        raise DataError(
            f"{name}: {len(data)} bytes, expected a multiple of {RECORD_BYTES}: truncated or no batch file"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)  # (N, 3073)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        wrong = int(np.flatnonzero(labels >= len(CLASSES))[0])
        raise DataError(f"{name}: label {labels[wrong]} of image {wrong}; allowed: 0..9")
    return records[:, 1:].reshape(-1, *SHAPE), labels


def find(place: Path) -> Found:
    """What of CIFAR-10 lies directly in a folder."""
    if (place / ARCHIVE).is_file():
        return Found((place / ARCHIVE,))
    batches = _batches(place)
    if batches.files:
        return batches
    zips = sorted(path for path in place.glob("cifar-10*.zip") if path.is_file())
    if zips:
        return Found((zips[0],))
    if all((place / split / name).is_dir() for split in ("train", "test") for name in CLASSES):
        return Found((place,))
    return Found()


def _batches(place: Path) -> Found:
    for parent in (place, place / UNPACKED):
        there = [parent / name for name in (*TRAIN, TEST) if (parent / name).is_file()]
        if there:
            return Found(tuple(there), tuple(n for n in (*TRAIN, TEST) if not (parent / n).is_file()))
    return Found()


def read(files: tuple[Path, ...]) -> Decoded:
    """Decode whichever form `find` has found.

    Raises:
        DataError: damaged, incomplete, or not CIFAR-10.
    """
    first = files[0]
    if first.name == ARCHIVE:
        decoded = _joined(_from_archive(first), _note_on(first))
    elif first.suffix == ".bin":
        decoded = _joined([parse(_bytes_of(path), str(path)) for path in files], BATCHES_NOTE)
    else:
        decoded = _from_folders(first)
    return checked(decoded, str(first))


def _joined(batches: list[tuple[Array, Array]], note: str) -> Decoded:
    """Train batches, then the test batch."""
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    test = len(batches[-1][1])
    return Decoded(images, labels, (len(labels) - test, test, 0), CLASSES, note)


def _from_archive(path: Path) -> list[tuple[Array, Array]]:
    """The six batch files of the archive; no other member is looked at, and nothing is unpacked."""
    found: dict[str, tuple[Array, Array]] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name not in (*TRAIN, TEST) or not member.isfile():
                    continue
                if member.size > MAX_BATCH_BYTES:
                    raise DataError(f"{path}: {name} has {member.size} bytes; allowed: {MAX_BATCH_BYTES}")
                file = archive.extractfile(member)
                assert file is not None, "a regular member has content"
                found[name] = parse(file.read(), f"{path}: {name}")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged or truncated archive: {error}; delete it and fetch it again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    missing = [name for name in (*TRAIN, TEST) if name not in found]
    if missing:
        raise DataError(f"{path}: no {missing[0]} in the archive; expected {', '.join((*TRAIN, TEST))}")
    return [found[name] for name in (*TRAIN, TEST)]


def _from_folders(path: Path) -> Decoded:
    listing = folder.listing(path)
    if listing.classes != CLASSES:
        raise DataError(
            f"{path}: classes {', '.join(listing.classes[:10])}; CIFAR-10 has {', '.join(CLASSES)}"
        )
    decoded = folder.read((path,))
    if decoded.images.shape[1:] != SHAPE:
        raise DataError(f"{path}: images of {decoded.images.shape[1:]}, CIFAR-10 has {SHAPE}")
    jpeg = any(item.name.lower().endswith((".jpg", ".jpeg")) for item in listing.items)
    return Decoded(decoded.images, decoded.labels, decoded.sizes, CLASSES, JPEG_NOTE if jpeg else COPY_NOTE)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _note_on(archive: Path) -> str:
    with archive.open("rb") as file:
        official = hashlib.file_digest(file, "sha256").hexdigest() == ARCHIVE_SHA256
    return "" if official else NOT_OFFICIAL


SOURCE = Source(
    name="cifar-10",
    about="60,000 colour 32x32 pictures of ten things (Krizhevsky)",
    find=find,
    read=read,
    remote=(Remote(ARCHIVE, ARCHIVE_SHA256, 170_052_171),),
    mirrors=("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
)
