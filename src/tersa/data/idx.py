"""`mnist` and `fashion-mnist`: the IDX format, gzipped or not.

An IDX file is big-endian: two zero bytes, a type (0x08: unsigned byte), the number of dimensions, each
dimension as a 32-bit integer, then the values, the last dimension varying fastest. Nothing may follow.

Both families use the same four file names, so the folder decides which is which, and labels that are known to
belong to the other family are passed over. Whether the bytes are the official ones is judged on the
decompressed content: a file that was unpacked, or packed again, is still the official one.

References:
    LeCun, Cortes & Burges, The MNIST database of handwritten digits (the format is described on its page).
    Xiao, Rasul & Vollgraf, Fashion-MNIST (2017), arXiv:1708.07747.

Example:
    >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "labels").tolist()
    [7, 9]
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tersa.data.source import Array, Decoded, Found, Remote, Source, checked
from tersa.errors import DataError

logger = logging.getLogger(__name__)

UNSIGNED_BYTE = 0x08
LIMIT_BYTES = 1 << 31
"""Largest decompressed file that is read: far above any member of the family, far below a bomb."""

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NOT_OFFICIAL = "not the official bytes"


@dataclass(frozen=True)
class Family:
    """One data set in IDX files.

    Attributes:
        name: as the user says it.
        classes: names of the ten classes.
        content: sha256 of the four official files, decompressed, in the order of `STEMS`.
    """

    name: str
    classes: tuple[str, ...]
    content: tuple[str, str, str, str]


DIGITS = Family(
    "mnist",
    tuple("0123456789"),
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)
FASHION = Family(
    "fashion-mnist",
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)
FAMILIES = (DIGITS, FASHION)


def parse(data: bytes, name: str) -> Array:
    """The array of an IDX file of unsigned bytes.

    Args:
        data: the whole file, decompressed.
        name: of the file, for the message.

    Returns:
        uint8, in the shape that the file states.

    Raises:
        DataError: another magic number, no dimensions, or not exactly as many values as the shape needs.
    """
    if len(data) < 4 or data[:3] != bytes([0, 0, UNSIGNED_BYTE]) or not 1 <= data[3] <= 4:
        begin = data[:4].hex() or "nothing"
        raise DataError(
            f"{name}: not an IDX file of bytes: it begins with {begin}, expected 00000801 to 00000804"
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"{name}: truncated: {len(data)} bytes, its header alone needs {start}")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    expected = start + math.prod(shape)
    if len(data) != expected:
        fault = "truncated" if len(data) < expected else "too long"
        size = "x".join(map(str, shape))
        raise DataError(f"{name}: {fault}: {len(data)} bytes, {expected} expected for {size} values")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def content(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is gzipped (told by its content, not by its name).

    Raises:
        DataError: unreadable, a damaged or truncated gzip stream, or larger than any IDX file of the family.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged or truncated gzip file: {error}; delete it and fetch it again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > LIMIT_BYTES:
        raise DataError(
            f"{path}: more than {LIMIT_BYTES} bytes when decompressed; no file of the family is so large"
        )
    return data


def find(family: Family, folder: Path) -> Found:
    """The four files of `family` that lie directly in `folder`."""
    found = {stem: path for stem in STEMS if (path := _file(folder, stem)) is not None}
    labels = found.get(STEMS[1])
    if labels is not None and _belongs_to_another(family, labels):
        logger.info("%s holds another data set than %s; passed over", folder, family.name)
        return Found()
    if not found:
        return Found()
    return Found(tuple(found.values()), tuple(f"{stem}.gz" for stem in STEMS if stem not in found))


def _file(folder: Path, stem: str) -> Path | None:
    """`STEM`, `STEM.gz`, or the same with a dot for the second dash (`train-images.idx3-ubyte`)."""
    dotted = stem.replace("-idx", ".idx")
    for name in (stem + ".gz", stem, dotted + ".gz", dotted):
        if (folder / name).is_file():
            return folder / name
    return None


def _belongs_to_another(family: Family, labels: Path) -> bool:
    try:
        sha256 = hashlib.sha256(content(labels)).hexdigest()
    except DataError:
        return False  # reading will say what is wrong with it
    return any(sha256 == other.content[1] for other in FAMILIES if other is not family)


def read(family: Family, files: tuple[Path, ...]) -> Decoded:
    """Images and labels of the four files, in the order of `STEMS`.

    Raises:
        DataError: a file is damaged, counts or image sizes differ, or a label is above 9.
    """
    raw = [content(path) for path in files]
    arrays = [parse(data, str(path)) for data, path in zip(raw, files, strict=True)]
    for path, array, dimensions in zip(files, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != dimensions:
            raise DataError(f"{path}: {array.ndim} dimensions, expected {dimensions}")
    train, train_labels, test, test_labels = arrays
    for images, labels, path in ((train, train_labels, files[0]), (test, test_labels, files[2])):
        if len(images) != len(labels):
            raise DataError(f"{path}: {len(images)} images but {len(labels)} labels")
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{files[2]}: images of {test.shape[1:]}, in train they are {train.shape[1:]}")
    official = all(
        hashlib.sha256(data).hexdigest() == sha for data, sha in zip(raw, family.content, strict=True)
    )
    decoded = Decoded(
        np.concatenate((train, test))[:, None],  # (N, 1, H, W)
        np.concatenate((train_labels, test_labels)).astype(np.int64),
        (len(train), len(test), 0),
        family.classes,
        "" if official else f"{NOT_OFFICIAL} of {family.name}",
    )
    return checked(decoded, str(files[0].parent))


MNIST = Source(
    name="mnist",
    about="70,000 grey 28x28 handwritten digits (LeCun, Cortes & Burges)",
    find=partial(find, DIGITS),
    read=partial(read, DIGITS),
    remote=(
        Remote(STEMS[0] + ".gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
        Remote(STEMS[1] + ".gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
        Remote(STEMS[2] + ".gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
        Remote(STEMS[3] + ".gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    normalisation=((0.1307,), (0.3081,)),
)
FASHION_MNIST = Source(
    name="fashion-mnist",
    about="70,000 grey 28x28 pictures of clothing (Zalando Research)",
    find=partial(find, FASHION),
    read=partial(read, FASHION),
    remote=(
        Remote(
            STEMS[0] + ".gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880
        ),
        Remote(STEMS[1] + ".gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515),
        Remote(STEMS[2] + ".gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4422102),
        Remote(STEMS[3] + ".gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148),
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
)
