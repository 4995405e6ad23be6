"""The history file: rows as they were, one transaction each, refused when it is something else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tersa.errors import DataError
from tersa.records.results import Epoch
from tersa.train.history import HistoryWriter, read_history


def row(epoch: int, accuracy: float = 90.0) -> Epoch:
    return Epoch(
        epoch=epoch,
        train_loss=0.1 * epoch,
        train_accuracy=80.0,
        validation_loss=1 / 3,
        validation_accuracy=accuracy,
        learning_rate=1e-30,
        seconds=2.5,
    )


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run" / "history.db"
    with HistoryWriter(path) as history:
        for epoch in (1, 2, 3):
            history.add(row(epoch))
    assert read_history(path) == [row(1), row(2), row(3)]


def test_a_reader_sees_each_epoch_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with HistoryWriter(path) as history:
        history.add(row(1))
        assert read_history(path) == [row(1)]
        history.add(row(2))
        assert read_history(path) == [row(1), row(2)]


def test_an_epoch_is_replaced_and_a_new_attempt_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with HistoryWriter(path) as history:
        history.add(row(1))
        history.add(row(1, accuracy=95.0))
        assert read_history(path) == [row(1, accuracy=95.0)]
    with HistoryWriter(path):
        assert read_history(path) == []


def test_no_side_files_stay_behind(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history.db") as history:
        history.add(row(1))
    assert [p.name for p in tmp_path.iterdir()] == ["history.db"]


def test_another_file_is_refused_by_reader_and_writer(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(b"certainly not a database" * 50)
    with pytest.raises(DataError, match="is not a history"):
        read_history(path)
    with pytest.raises(DataError, match="is not a history"):
        HistoryWriter(path)


def test_a_missing_file_and_a_newer_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_history(tmp_path / "nothing.db")
    path = tmp_path / "history.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(DataError, match="schema 99"):
        read_history(path)
    with pytest.raises(DataError, match="schema 99"):
        HistoryWriter(path)
