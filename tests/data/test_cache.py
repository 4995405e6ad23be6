"""Digests and decoded images are kept, checked when they are read, and made again when they are damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tersa.data import cache, load
from tersa.data.source import Decoded
from tersa.errors import DataError

Pattern = Callable[..., np.ndarray]


@pytest.fixture
def data(pattern: Pattern) -> Decoded:
    return Decoded(pattern(12, 1, 3, 4), np.arange(12) % 2, (6, 4, 2), ("a", "b"), "a note")


def never() -> Decoded:
    raise AssertionError("decoded although the cache has it")


def test_what_is_kept_is_what_was_decoded(data: Decoded) -> None:
    first = cache.decoded("key", lambda: data)
    second = cache.decoded("key", never)
    for got in (first, second):
        np.testing.assert_array_equal(got.images, data.images)
        np.testing.assert_array_equal(got.labels, data.labels)
        assert (got.sizes, got.classes, got.note) == (data.sizes, data.classes, data.note)
        assert got.part("test") == slice(6, 10)


def test_the_array_is_mapped_and_its_file_cannot_be_changed_through_it(data: Decoded) -> None:
    kept = cache.decoded("key", lambda: data)
    assert isinstance(kept.images, np.memmap)
    tensor = torch.from_numpy(kept.images)
    assert tensor.data_ptr() == kept.images.ctypes.data
    tensor.zero_()
    np.testing.assert_array_equal(cache.decoded("key", never).images, data.images)


def cut_array(folder: Path) -> None:
    path = folder / "key.npy"
    path.write_bytes(path.read_bytes()[:-5])


def flip_pixel(folder: Path) -> None:
    path = folder / "key.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def flip_label(folder: Path) -> None:
    path = folder / "key.json"
    path.write_text(path.read_text().replace('"labels": [\n    0,', '"labels": [\n    1,'))


def cut_sidecar(folder: Path) -> None:
    path = folder / "key.json"
    path.write_text(path.read_text()[:-20])


def empty_array(folder: Path) -> None:
    (folder / "key.npy").write_bytes(b"")


def no_array(folder: Path) -> None:
    (folder / "key.npy").unlink()


def other_array(folder: Path) -> None:
    np.save(folder / "key.npy", np.zeros((2, 1, 3, 4), np.uint8))


@pytest.mark.parametrize(
    "harm", [cut_array, flip_pixel, flip_label, cut_sidecar, empty_array, no_array, other_array]
)
def test_a_damaged_entry_is_made_again(
    data: Decoded, cache_home: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache.decoded("key", lambda: data)
    harm(cache_home / "decoded")
    again = cache.decoded("key", lambda: data)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_array_equal(again.labels, data.labels)
    assert "decoding again" in caplog.text
    cache.decoded("key", never)


def test_a_failed_decoding_leaves_nothing(cache_home: Path) -> None:
    def broken() -> Decoded:
        raise DataError("no")

    with pytest.raises(DataError):
        cache.decoded("key", broken)
    assert not (cache_home / "decoded").exists()


def test_an_unwritable_cache_costs_only_time(
    data: Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "file"))
    assert cache.decoded("key", lambda: data) is data
    assert "are not kept" in caplog.text
    (tmp_path / "x").write_bytes(b"x")
    assert len(cache.file_digest(tmp_path / "x")) == 64


def test_leftovers_of_a_killed_process_are_swept(data: Decoded, cache_home: Path) -> None:
    folder = cache_home / "decoded"
    folder.mkdir(parents=True)
    old, young = folder / ".old.npy.1.part", folder / ".young.npy.2.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    cache.decoded("key", lambda: data)
    assert not old.exists()
    assert young.exists()


def test_a_digest_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"content")
    first = cache.file_digest(path)
    assert first == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    monkeypatch.setattr(cache, "_sha256", lambda _: pytest.fail("read again"))
    assert cache.file_digest(path) == first


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"content")
    os.utime(path, ns=(10**18, 10**18))
    first = cache.file_digest(path)
    if change == "inode":
        (tmp_path / "new").write_bytes(b"CONTENT")
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"CONTENT" + b"!" * (change == "size"))
    os.utime(path, ns=(10**18, 10**18 + (change == "time")))
    assert cache.file_digest(path) != first


def test_a_damaged_digest_is_made_again(tmp_path: Path, cache_home: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"content")
    first = cache.file_digest(path)
    (kept,) = (cache_home / "digests").iterdir()
    kept.write_text("{")
    assert cache.file_digest(path) == first


def test_a_tree_is_its_names_and_contents(tmp_path: Path) -> None:
    def tree(name: str, files: dict[str, bytes]) -> str:
        root = tmp_path / name
        root.mkdir()
        for file, content in files.items():
            (root / file).write_bytes(content)
        return cache.tree_digest(root, list(root.iterdir()))

    same = tree("one", {"a": b"1", "b": b"2"})
    assert tree("two", {"b": b"2", "a": b"1"}) == same
    assert tree("three", {"a": b"2", "b": b"1"}) != same
    assert tree("four", {"a": b"1", "c": b"2"}) != same


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nothing: No such file"):
        cache.file_digest(tmp_path / "nothing")


def test_changed_files_have_another_key() -> None:
    assert cache.key_of("a", {"x": "1"}) != cache.key_of("a", {"x": "2"})
    assert cache.key_of("a", {"x": "1"}) != cache.key_of("b", {"x": "1"})
    assert cache.key_of("a", {"x": "1", "y": "2"}) == cache.key_of("a", {"y": "2", "x": "1"})


def test_load_decodes_once(
    tmp_path: Path, write_idx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tersa.data import idx

    write_idx(tmp_path / "mnist")
    first = load("mnist", data_dir=tmp_path, download=False)
    monkeypatch.setattr(idx, "parse", lambda *_: pytest.fail("decoded again"))
    second = load("mnist", data_dir=tmp_path, download=False)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.validation.labels, second.validation.labels)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tersa.data import cache, load

def half(file, images, allow_pickle):
    file.write(images.tobytes()[: images.nbytes // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

cache.np.save = half
load("mnist", data_dir=Path(sys.argv[1]), download=False)
"""


def test_a_kill_while_images_are_written_leaves_no_entry(
    tmp_path: Path, write_idx: Callable[..., Path], cache_home: Path
) -> None:
    write_idx(tmp_path / "mnist")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    kept = [path.suffix for path in (cache_home / "decoded").iterdir()]
    assert kept == [".part"]
    assert len(load("mnist", data_dir=tmp_path, download=False).test) == 20
