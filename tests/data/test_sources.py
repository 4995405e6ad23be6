"""Where data are looked for, what is downloaded, and what is said when nothing is found."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tersa.data import SOURCES, load, sources
from tersa.data.download import fetch
from tersa.data.source import Remote
from tersa.errors import DataError, UsageError

WriteIdx = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here reaches an official place, whatever it asks for."""
    for name, source in SOURCES.items():
        monkeypatch.setitem(sources.SOURCES, name, replace(source, mirrors=()))


@pytest.mark.parametrize("source", list(SOURCES.values()), ids=list(SOURCES))
def test_every_source_keeps_the_contract(source: Any, tmp_path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", source.name)
    assert source.about
    assert "\n" not in source.about
    assert not source.find(tmp_path).files
    assert bool(source.package) != bool(source.remote)
    for remote in source.remote:
        assert re.fullmatch(r"[0-9a-f]{64}", remote.sha256)
        assert remote.size > 0
    assert len(source.mirrors) >= (2 if source.remote else 0)
    assert all(mirror.startswith("http") for mirror in source.mirrors)


@pytest.mark.parametrize("below", ["mnist", "."])
@pytest.mark.parametrize("root", ["data_dir", "variable", "cache"])
def test_each_root_is_searched_with_and_without_the_name(
    tmp_path: Path, write_idx: WriteIdx, monkeypatch: pytest.MonkeyPatch, root: str, below: str
) -> None:
    monkeypatch.setenv("TERSA_DATA", str(tmp_path / "variable"))
    folder = {
        "data_dir": tmp_path / "given",
        "variable": tmp_path / "variable",
        "cache": tmp_path / "cache" / "data",
    }
    write_idx(folder[root] / below)
    (tmp_path / "given").mkdir(exist_ok=True)
    task = load("mnist", data_dir=tmp_path / "given", download=False)
    assert Path(task.provenance.location) == folder[root] / below


def test_the_first_root_wins_and_an_incomplete_one_is_passed_over(
    tmp_path: Path, write_idx: WriteIdx, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, variable = tmp_path / "given", tmp_path / "variable"
    monkeypatch.setenv("TERSA_DATA", str(variable))
    write_idx(given / "mnist", seed=3)
    write_idx(variable / "mnist", seed=7)
    assert load("mnist", data_dir=given, download=False).provenance.location == str(given / "mnist")
    next((given / "mnist").iterdir()).unlink()
    assert load("mnist", data_dir=given, download=False).provenance.location == str(variable / "mnist")


def test_a_seed_and_a_validation_are_obeyed(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path, train=100)
    one, two, same = (
        load("mnist", data_dir=tmp_path, seed=s, validation=40, download=False) for s in (1, 2, 1)
    )
    assert len(one.validation) == 40
    assert torch.bincount(one.validation.labels).tolist() == [4] * 10
    assert torch.equal(one.validation.images, same.validation.images)
    assert not torch.equal(one.validation.images, two.validation.images)
    assert len(load("mnist", data_dir=tmp_path, validation=0.5, download=False).validation) == 50
    with pytest.raises(UsageError, match=r"cannot cut 95 of 100 images in 10 classes; allowed: 1\.\.90"):
        load("mnist", data_dir=tmp_path, validation=95, download=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minst", r"unknown data set 'minst'; did you mean 'mnist'\? known: .*; or the path of a folder"),
        (
            "imagenet",
            "unknown data set 'imagenet'; known: cifar-10, digits, fashion-mnist, mnist; or the path",
        ),
        ("nowhere/pets", "no file or folder 'nowhere/pets'; give an existing path, or one of"),
        ("pets.zip", "no file or folder 'pets.zip'"),
        (__file__, "is no data set; expected a folder or .zip of class folders, or an .npz file"),
    ],
)
def test_an_unknown_name_is_explained(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(name)


def test_a_data_dir_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*/nowhere"):
        load("mnist", data_dir=tmp_path / "nowhere")


def test_what_is_nowhere_is_said_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"mnist is not on this machine \(looked in .*\); `tersa data get mnist`.*12 MB"
    ):
        load("mnist", data_dir=tmp_path, download=False)


@pytest.fixture
def served(tmp_path: Path, write_idx: WriteIdx, server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small mnist at a place of its own, as if it were the official one."""
    folder = write_idx(tmp_path / "official")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.files = files
    remote = tuple(
        Remote(one.name, hashlib.sha256(files[one.name]).hexdigest(), len(files[one.name]))
        for one in SOURCES["mnist"].remote
    )
    source = replace(SOURCES["mnist"], remote=remote, mirrors=(server.address,))
    monkeypatch.setitem(sources.SOURCES, "mnist", source)
    monkeypatch.setattr(sources, "fetch_file", partial(fetch, pause_s=0))
    return server


def test_what_is_missing_is_downloaded_once(served: Any, cache_home: Path) -> None:
    first = load("mnist")
    assert Path(first.provenance.location) == cache_home / "data" / "mnist"
    assert len(served.asked) == 4
    second = load("mnist")
    assert len(served.asked) == 4
    assert torch.equal(first.test.images, second.test.images)


def test_a_cut_download_is_continued_by_the_next_load(served: Any, cache_home: Path) -> None:
    served.cuts = [None, 5, 0, 0, 0]
    with pytest.raises(DataError, match="cannot download"):
        load("mnist")
    with pytest.raises(DataError, match="incomplete"):
        load("mnist", download=False)
    served.cuts = []
    load("mnist")
    assert sum(1 for _, wanted in served.asked if wanted == "bytes=5-") >= 1
    names = {path.name for path in (cache_home / "data" / "mnist").iterdir()}
    assert names == set(served.files)


def test_a_download_that_was_damaged_since_is_fetched_again(served: Any, cache_home: Path) -> None:
    load("mnist")
    path = cache_home / "data" / "mnist" / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        load("mnist", download=False)
    assert len(load("mnist").test) == 20
    assert path.read_bytes() == whole
    assert len(served.asked) == 5


def test_a_bundled_source_cannot_be_fetched() -> None:
    with pytest.raises(DataError, match="digits cannot be downloaded"):
        sources.fetch(SOURCES["digits"])


def test_the_survey_tells_all_states(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path / "mnist")
    write_idx(tmp_path / "fashion-mnist")
    (tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte.gz").unlink()
    found = {one.name: one for one in sources.survey(tmp_path)}
    states = {name: one.state for name, one in found.items()}
    assert states == {
        "digits": "bundled",
        "mnist": "found",
        "fashion-mnist": "incomplete",
        "cifar-10": "missing",
    }
    assert found["mnist"].location == str(tmp_path / "mnist")
    assert found["mnist"].lacking == ()
    assert found["fashion-mnist"].lacking == ("train-labels-idx1-ubyte.gz",)
    assert found["cifar-10"].lacking == ("cifar-10-binary.tar.gz",)
    assert "170 MB" in found["cifar-10"].hint
    assert found["digits"].hint == found["mnist"].hint == ""
