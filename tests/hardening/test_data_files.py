"""Data files of any content are read, or refused in one line: IDX, CIFAR-10, zip, npz, pictures, arrays."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.hardening.trials import damaged, fuzz, one_line

from tersa.data import cifar, folder, idx, npz
from tersa.errors import DataError
from tersa.recipes.predict import read_image

SIDE = 4


def wave(*shape: int) -> np.ndarray:
    """Bytes that look like nothing else."""
    return ((np.sin(np.arange(np.prod(shape)) * 0.37) + 1) * 127).astype(np.uint8).reshape(shape)


def picture(format: str, seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.roll(wave(SIDE, SIDE), seed)).save(file, format)
    return file.getvalue()


def idx_file(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def zip_file(compression: int = zipfile.ZIP_DEFLATED, pictures: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for split in ("train", "test"):
            for label in ("cat", "dog"):
                for number in range(pictures):
                    archive.writestr(f"{split}/{label}/{number}.png", picture("PNG", number + len(split)))
    return file.getvalue()


def npz_file() -> bytes:
    file = io.BytesIO()
    names = {"x_train": wave(6, SIDE, SIDE), "y_train": np.arange(6) % 2}
    np.savez(file, **names, x_test=wave(2, SIDE, SIDE), y_test=np.arange(2))
    return file.getvalue()


def npy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, wave(SIDE, SIDE))
    return file.getvalue()


def tar_file() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, name in enumerate((*cifar.TRAIN, cifar.TEST)):
            data = b"".join(bytes([label % 10]) + bytes(3072) for label in (2 * number, 2 * number + 1))
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(file.getvalue(), mtime=0)


def read_idx(path: Path) -> object:
    return idx.parse(idx.content(path), str(path))


def read_tar(path: Path) -> object:
    return cifar.read((path,))


Case = tuple[str, bytes, Callable[[Path], object]]
CASES: dict[str, Case] = {
    "idx": ("images", idx_file(wave(5, SIDE, SIDE)), read_idx),
    "idx.gz": ("images.gz", gzip.compress(idx_file(wave(5, SIDE, SIDE)), mtime=0), read_idx),
    "cifar.tar.gz": (cifar.ARCHIVE, tar_file(), read_tar),
    "zip": ("pets.zip", zip_file(), lambda path: folder.read((path,))),
    "stored zip": ("pets.zip", zip_file(zipfile.ZIP_STORED), lambda path: folder.read((path,))),
    "npz": ("own.npz", npz_file(), lambda path: npz.read((path,))),
    "npy": ("photo.npy", npy_file(), read_image),
    "png": ("photo.png", picture("PNG"), read_image),
    "jpeg": ("photo.jpg", picture("JPEG"), read_image),
}


def told(path: Path, content: bytes, read: Callable[[Path], object]) -> bool:
    """Whether the reader refused; anything but a `DataError` of one line goes through as a failure."""
    path.write_bytes(content)
    try:
        read(path)
    except DataError as error:
        one_line(error)
        return True
    return False


@pytest.mark.parametrize("kind", CASES)
def test_a_whole_file_is_read(kind: str, tmp_path: Path) -> None:
    name, content, read = CASES[kind]
    assert not told(tmp_path / name, content, read)


@pytest.mark.parametrize("kind", CASES)
@fuzz(60)
@given(draw=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    kind: str, tmp_path: Path, draw: st.DataObject
) -> None:
    name, content, read = CASES[kind]
    told(tmp_path / name, draw.draw(damaged(content)), read)


@pytest.mark.parametrize("kind", CASES)
@fuzz(40)
@given(content=st.binary(max_size=200), keep=st.integers(0, 8))
def test_any_bytes_are_refused_in_one_line(kind: str, tmp_path: Path, content: bytes, keep: int) -> None:
    name, whole, read = CASES[kind]
    assert told(tmp_path / name, whole[:keep] + content, read)


@fuzz(100)
@given(content=st.binary(max_size=6 * 3073))
def test_any_bytes_as_a_cifar_batch(content: bytes) -> None:
    try:
        images, labels = cifar.parse(content, "batch")
    except DataError as error:
        one_line(error)
    else:
        assert len(content) == 3073 * len(images) == 3073 * len(labels)
