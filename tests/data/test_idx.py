"""The IDX parser accepts exactly the format, and says in one line what is wrong with anything else."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tersa.data import idx, load
from tersa.errors import DataError

Write = Callable[..., Path]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64))
def test_random_bytes_are_parsed_or_refused_with_a_data_error(data: bytes) -> None:
    fault = ""
    try:
        array = idx.parse(data, "file")
        assert array.nbytes + 4 + 4 * array.ndim == len(data)
    except DataError as error:
        fault = str(error)
    assert "\n" not in fault
    assert not fault or fault.startswith("file: ")


@settings(max_examples=200, deadline=None)
@given(dimensions=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), tail=st.binary(max_size=40))
def test_absurd_dimensions_are_refused_before_memory_is_taken(dimensions: list[int], tail: bytes) -> None:
    head = bytes([0, 0, 8, len(dimensions)]) + struct.pack(f">{len(dimensions)}I", *dimensions)
    if np.prod([float(d) for d in dimensions]) != len(tail):
        with pytest.raises(DataError, match=r"truncated|too long"):
            idx.parse(head + tail, "file")


@settings(max_examples=50, deadline=None)
@given(array=arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=5)))
def test_what_is_written_is_read_back(array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    np.testing.assert_array_equal(idx.parse(head + array.tobytes(), "file"), array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x08", "begins with 000008"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "begins with 00000d01, expected 00000801"),
        (b"\x89PNG\r\n", "not an IDX file of bytes"),
        (b"\x00\x00\x08\x00", "begins with 00000800"),
        (b"\x00\x00\x08\x05" + bytes(20), "begins with 00000805"),
        (b"\x00\x00\x08\x03\x00\x00", "its header alone needs 16"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03ab", "truncated: 10 bytes, 11 expected for 3 values"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01ab", "too long: 10 bytes, 9 expected"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        idx.parse(data, "labels")


@pytest.mark.parametrize("zipped", [True, False])
def test_four_files_become_a_task(
    tmp_path: Path, write_idx: Write, pattern: Callable[..., np.ndarray], zipped: bool
) -> None:
    write_idx(tmp_path / "mnist", zipped=zipped)
    task = load("mnist", data_dir=tmp_path, download=False)
    assert task.shape == (1, 6, 5)
    assert (len(task.train), len(task.validation), len(task.test)) == (32, 8, 20)
    np.testing.assert_array_equal(task.test.images[:, 0].numpy(), pattern(20, 6, 5, seed=1))
    assert task.test.labels.tolist() == [i % 10 for i in range(20)]
    assert task.classes == tuple("0123456789")
    assert (task.mean, task.std) == ((0.1307,), (0.3081,))
    assert task.provenance.note == "not the official bytes of mnist"
    assert len(task.provenance.sha256) == 4


def test_dotted_names_are_found_too(tmp_path: Path, write_idx: Write) -> None:
    write_idx(tmp_path, zipped=False)
    for path in list(tmp_path.glob("*-idx*")):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert idx.MNIST.find(tmp_path).complete


def test_what_is_missing_is_named(tmp_path: Path, write_idx: Write) -> None:
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match=r"mnist is incomplete in .*: no t10k-labels-idx1-ubyte.gz; .*tersa data get"
    ):
        load("mnist", data_dir=tmp_path, download=False)


def test_labels_of_the_other_family_are_passed_over(
    tmp_path: Path, write_idx: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    from dataclasses import replace

    folder = write_idx(tmp_path)
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    content = list(idx.DIGITS.content)
    content[1] = hashlib.sha256(labels).hexdigest()
    known = replace(idx.DIGITS, content=tuple(content))
    monkeypatch.setattr(idx, "FAMILIES", (known, idx.FASHION))
    assert idx.find(known, folder).complete
    assert idx.find(idx.FASHION, folder).files == ()


def damage_cut(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def damage_flip(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def replace_with(stem: str, array: np.ndarray) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{stem}.gz").write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, "damaged or truncated gzip file"),
        (damage_flip, "damaged or truncated gzip file"),
        (replace_with(idx.STEMS[1], np.full(40, 10)), r"label 10 of train image 0; allowed: 0\.\.9"),
        (replace_with(idx.STEMS[1], np.arange(39) % 10), "40 images but 39 labels"),
        (replace_with(idx.STEMS[1], np.arange(40) % 9), r"class 9 \('9'\) has no train image"),
        (replace_with(idx.STEMS[1], np.zeros((40, 1))), "2 dimensions, expected 1"),
        (replace_with(idx.STEMS[2], np.zeros((20, 5, 5))), "in train they are"),
        (replace_with(idx.STEMS[0], np.zeros((0, 6, 5))), "0 images but 40 labels"),
    ],
)
def test_damaged_files_are_refused_and_nothing_is_kept(
    tmp_path: Path,
    write_idx: Write,
    damage: Callable[[Path], None],
    message: str,
    leftovers: Callable[[], list[str]],
) -> None:
    damage(write_idx(tmp_path / "mnist"))
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", data_dir=tmp_path, download=False)
    assert "\n" not in str(caught.value)
    assert leftovers() == []


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(100_000)))
    monkeypatch.setattr(idx, "LIMIT_BYTES", 50_000)
    with pytest.raises(DataError, match="more than 50000 bytes when decompressed"):
        idx.content(tmp_path / "bomb.gz")


def test_no_images_at_all(tmp_path: Path, write_idx: Write) -> None:
    write_idx(tmp_path / "mnist", test=0)
    with pytest.raises(DataError, match="no test images"):
        load("mnist", data_dir=tmp_path, download=False)
