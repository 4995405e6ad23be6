"""CIFAR-10 in each of its forms gives the same images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tersa.data import cifar, load
from tersa.errors import DataError

PER_BATCH = 20


def batches(pattern: Callable[..., np.ndarray]) -> dict[str, bytes]:
    """Six small batch files: labels run through the ten classes."""
    result: dict[str, bytes] = {}
    for number, name in enumerate((*cifar.TRAIN, cifar.TEST)):
        images = pattern(PER_BATCH, 3072, seed=number)
        labels = (np.arange(PER_BATCH) % 10).astype(np.uint8)
        result[name] = np.concatenate((labels[:, None], images), axis=1).tobytes()
    return result


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_record_is_a_label_and_three_planes() -> None:
    pixels = np.arange(3072) % 251
    images, labels = cifar.parse(bytes([7]) + pixels.astype(np.uint8).tobytes(), "b")
    assert labels.tolist() == [7]
    assert images[0, 1, 2, 3] == (1024 + 2 * 32 + 3) % 251


def test_archive_and_unpacked_files_agree(tmp_path: Path, pattern: Callable[..., np.ndarray]) -> None:
    files = batches(pattern)
    archive(tmp_path / "a" / "cifar-10" / cifar.ARCHIVE, files)
    unpacked(tmp_path / "b" / cifar.UNPACKED, files)
    unpacked(tmp_path / "c" / "cifar-10", files)
    tasks = [load("cifar-10", data_dir=tmp_path / place, download=False) for place in "abc"]
    for task in tasks:
        assert task.shape == (3, 32, 32)
        assert (len(task.train), len(task.validation), len(task.test)) == (80, 20, 20)
        assert torch.equal(task.train.images, tasks[0].train.images)
        assert torch.equal(task.test.images, tasks[0].test.images)
        assert task.classes[3] == "cat"
    assert tasks[0].provenance.note == cifar.NOT_OFFICIAL
    assert tasks[1].provenance.note == cifar.BATCHES_NOTE


@pytest.mark.parametrize(("suffix", "note"), [("jpg", cifar.JPEG_NOTE), ("png", cifar.COPY_NOTE)])
@pytest.mark.parametrize("zipped", [True, False])
def test_class_folders_and_zip(
    tmp_path: Path,
    class_files: Callable[..., dict[str, bytes]],
    write_zip: Callable[..., Path],
    write_folder: Callable[..., Path],
    suffix: str,
    note: str,
    zipped: bool,
) -> None:
    files = class_files(cifar.CLASSES, train=3, test=1, size=(32, 32, 3), suffix=suffix)
    place = tmp_path / "cifar-10"
    place.mkdir()
    if zipped:
        write_zip(place / "cifar-10-copy.zip", files)
    else:
        write_folder(place, files)
    task = load("cifar-10", data_dir=tmp_path, download=False)
    assert task.classes == cifar.CLASSES
    assert task.test.labels.tolist() == list(range(10))
    assert task.provenance.note == note
    assert task.provenance.source == "cifar-10"


def test_zip_of_other_classes_is_refused(
    tmp_path: Path, class_files: Callable[..., dict[str, bytes]], write_zip: Callable[..., Path]
) -> None:
    write_zip(tmp_path / "cifar-10.zip", class_files(("cat", "dog"), size=(32, 32, 3)))
    with pytest.raises(DataError, match="classes cat, dog; CIFAR-10 has airplane"):
        load("cifar-10", data_dir=tmp_path, download=False)


def test_images_of_another_size_are_refused(
    tmp_path: Path, class_files: Callable[..., dict[str, bytes]], write_zip: Callable[..., Path]
) -> None:
    write_zip(tmp_path / "cifar-10.zip", class_files(cifar.CLASSES, train=1, test=1, size=(16, 16, 3)))
    with pytest.raises(DataError, match=r"images of \(3, 16, 16\), CIFAR-10 has \(3, 32, 32\)"):
        load("cifar-10", data_dir=tmp_path, download=False)


def test_folders_of_other_classes_are_not_taken_for_cifar(
    tmp_path: Path, class_files: Callable[..., dict[str, bytes]], write_folder: Callable[..., Path]
) -> None:
    write_folder(tmp_path, class_files(("cat", "dog")))
    assert cifar.find(tmp_path).files == ()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.pop("data_batch_4.bin"), "no data_batch_4.bin in the archive"),
        (lambda f: f.update({"test_batch.bin": f["test_batch.bin"][:-1]}), "expected a multiple of 3073"),
        (lambda f: f.update({"test_batch.bin": b""}), "0 bytes, expected a multiple"),
        (lambda f: f.update({"test_batch.bin": b"\x0a" + f["test_batch.bin"][1:]}), "label 10 of image 0"),
    ],
)
def test_a_wrong_archive_is_refused(
    tmp_path: Path,
    pattern: Callable[..., np.ndarray],
    damage: Callable[[dict[str, bytes]], object],
    message: str,
    leftovers: Callable[[], list[str]],
) -> None:
    files = batches(pattern)
    damage(files)
    archive(tmp_path / cifar.ARCHIVE, files)
    with pytest.raises(DataError, match=message):
        load("cifar-10", data_dir=tmp_path, download=False)
    assert leftovers() == []


@pytest.mark.parametrize("keep", [10, 200, -40])
def test_a_truncated_archive_is_refused(
    tmp_path: Path, pattern: Callable[..., np.ndarray], keep: int
) -> None:
    path = archive(tmp_path / cifar.ARCHIVE, batches(pattern))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged or truncated archive"):
        load("cifar-10", data_dir=tmp_path, download=False)


def test_a_missing_batch_file_is_named(tmp_path: Path, pattern: Callable[..., np.ndarray]) -> None:
    folder = unpacked(tmp_path / "cifar-10", batches(pattern))
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"incomplete in .*: no data_batch_2.bin"):
        load("cifar-10", data_dir=tmp_path, download=False)


def test_a_link_out_of_the_archive_is_not_followed(
    tmp_path: Path, pattern: Callable[..., np.ndarray]
) -> None:
    path = tmp_path / cifar.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"no data_batch_1\.bin"):
        cifar.read((path,))
