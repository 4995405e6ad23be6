"""A full disk: one line, nothing lost, nothing half written, and the work goes on when there is room again.

`RLIMIT_FSIZE` makes every write beyond a size fail as the kernel's own would; `max_page_count` makes SQLite
say what it says on a full disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tests.hardening.stage import Stage
from tests.hardening.test_data_files import zip_file
from tests.hardening.trials import trials

from tersa.adapt.table import Machine, Point, TableFile
from tersa.errors import DataError
from tersa.files import replacing, write_atomic
from tersa.recipes.pruning_curves import Curve
from tersa.recipes.pruning_store import PruningStore, Walked
from tersa.records.results import Epoch
from tersa.study.cell import Cell
from tersa.study.store import StudyStore
from tersa.train.history import HistoryWriter, read_history

TRAIN = ["train", "--data", "digits", "--model", "mlp:16", "--epochs", "6", "--threads", "1"]
STUDY = ["study", "run", "--data", "digits", "--model", "mlp:20", "--epochs", "3", "--bits", "2,4"]
STUDY += ["--seeds", "2", "--workers", "1"]
LIMITS = (4096, 12_000, 34_000, 50_000)
"""Largest file in bytes: the run fails at its history, at a checkpoint, or at its report."""


def halves(folder: Path) -> list[str]:
    """Files that were being written."""
    return [path.name for path in folder.rglob("*") if path.name.endswith(".part") or ".tmp" in path.name]


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@trials(len(LIMITS))
def test_a_training_that_fills_the_disk_goes_on_to_the_same_weights(stage: Stage, tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    stage.run(*TRAIN, "--out", calm, "--json").json()
    refused = 0
    for limit in LIMITS:
        done = stage.run(*TRAIN, "--out", rough, "--resume", largest_file=limit)
        if done.code:
            refused += 1
            assert str(rough) in done.refused()
        assert halves(rough) == []
    assert refused >= 3
    stage.run(*TRAIN, "--out", rough, "--resume", "--json").json()
    assert weights(rough) == weights(calm)


@trials(3)
def test_a_study_that_fills_the_disk_keeps_what_it_has(stage: Stage, tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    stage.run(*STUDY, "--out", calm, "--json").json()
    for limit in (4096, 16_000, 40_000):
        done = stage.run(*STUDY, "--out", rough, "--resume", largest_file=limit)
        if done.code:
            done.refused()
        assert halves(rough) == []
    stage.run(*STUDY, "--out", rough, "--resume", "--json").json()
    with StudyStore(calm / "study.db") as a, StudyStore(rough / "study.db") as b:
        found = [[row.model_dump(exclude={"seconds"}) for row in store.results()] for store in (a, b)]
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_a_full_cache_costs_time_not_the_result(stage: Stage, tmp_path: Path) -> None:
    """The decoded images of a zip do not fit: they are decoded, and not kept."""
    (tmp_path / "pets.zip").write_bytes(zip_file(pictures=20))
    done = stage.run("data", "show", tmp_path / "pets.zip", "--json", largest_file=100)
    assert "decoded images are not kept" in done.err
    assert "error:" not in done.err
    assert halves(tmp_path) == []


def full(path: Path) -> Callable[[sqlite3.Connection], None]:
    """No page more than the file has."""

    def limit(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")

    return limit


BIG = "x" * 20_000


def test_a_study_store_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with StudyStore(path, write=True) as store:
        store.enter([Cell(seed=1)])
        before = store.summaries()
        full(path)(store.connection)
        with pytest.raises(DataError, match=r"study\.db cannot be written: .* is full; make room"):
            store.fail([Cell(seed=1)], BIG)
        assert store.summaries() == before
        store.connection.execute("PRAGMA max_page_count=100000")
        store.fail([Cell(seed=1)], BIG)  # the same store goes on when there is room
        assert [row.status for row in store.summaries()] == ["failed"]


def test_a_pruning_store_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "pruning.db"
    with PruningStore(path, write=True) as store:
        full(path)(store.connection)
        walked = Walked(curve=Curve(criterion="random"), status="failed", message=BIG)
        with pytest.raises(DataError, match=r"pruning\.db cannot be written: .* is full; make room"):
            store.add(walked)
        assert store.curves() == []
        store.connection.execute("PRAGMA max_page_count=100000")
        store.add(walked)
        assert store.curves() == [walked]


def test_a_latency_table_on_a_full_disk(tmp_path: Path) -> None:
    with TableFile(tmp_path / "latency.db") as file:
        machine = Machine("m1", "one")
        file.add(machine, [Point("linear", 4, 2, 0.5, 7)])
        full(file.path)(file._connection)
        with pytest.raises(DataError, match=r"latency\.db cannot be written: .* is full; make room"):
            file.add(machine, [Point(BIG, 8, 2, 0.5, 7)])
        assert file.points("m1") == {"linear": {(4, 2): 0.5}}


def test_a_history_on_a_full_disk(tmp_path: Path) -> None:
    def row(epoch: int) -> Epoch:
        return Epoch(
            epoch=epoch,
            train_loss=1.0,
            train_accuracy=1.0,
            validation_loss=1.0,
            validation_accuracy=1.0,
            learning_rate=0.1,
            seconds=1.0,
        )

    path = tmp_path / "history.db"
    with HistoryWriter(path) as history:
        history.add(row(0))
        full(path)(history.connection)
        more = (history.add(row(epoch)) for epoch in range(1, 1000))
        with pytest.raises(DataError, match=r"history\.db cannot be written: .* is full; make room"):
            list(more)
    kept = read_history(path)
    assert [one.epoch for one in kept] == list(range(len(kept)))
    assert kept


@pytest.mark.parametrize("where", ["write", "fsync", "rename", "safetensors"])
def test_an_older_file_stays_where_the_new_one_does_not_fit(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3)}, path)
    before = path.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def save() -> None:
        with replacing(path):
            raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    places = {"write": (Path, "write_bytes"), "fsync": (os, "fsync"), "rename": (Path, "replace")}
    with monkeypatch.context() as patch:
        if where in places:
            patch.setattr(*places[where], fails)
        with pytest.raises(OSError, match="No space left") as caught:
            save() if where == "safetensors" else write_atomic(path, b"another")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
