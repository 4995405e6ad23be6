"""The store: whole transactions, exact numbers, one writer, and a refusal of what it does not know."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.study.fake_engine import result

from tersa.errors import DataError, UsageError
from tersa.study.cell import Cell, CellResult
from tersa.study.store import StudyStore

CELLS = [Cell(data="digits", model="mlp:4", epochs=3, quant="symmetric", bits=b) for b in (2, 3, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


def test_results_come_back_to_the_last_bit(path: Path) -> None:
    wild = Cell(data="digits", model="mlp:5", epochs=2)
    given = [result(cell, "beside") for cell in (*CELLS, wild)]
    with StudyStore(path, write=True) as store:
        store.enter([*CELLS, wild])
        store.add(given)
        assert store.results() == given
    with StudyStore(path) as store:
        assert store.results() == given
        assert store.results([wild.key, "unknown"]) == [given[3]]


def test_values_that_are_no_numbers_come_back(path: Path) -> None:
    given = result(CELLS[0])
    layer = given.layers[0].model_copy(update={"mean": math.nan, "high": math.inf})
    with StudyStore(path, write=True) as store:
        store.add([given.model_copy(update={"layers": [layer]})])
        back = store.results()[0].layers[0]
    assert math.isnan(back.mean)
    assert back.high == math.inf
    assert back.angle is None


def test_cells_stand_in_the_order_in_which_they_were_entered(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.enter(CELLS[1:])
        store.enter(CELLS)
        store.add([result(CELLS[0])])
        rows = store.summaries()
    assert [row.cell for row in rows] == [*CELLS[1:], CELLS[0]]
    assert [row.status for row in rows] == ["waiting", "waiting", "done"]
    assert [row.test_accuracy for row in rows] == [None, None, result(CELLS[0]).test_accuracy]
    assert rows[0].key == CELLS[1].key


def test_stacks_get_new_numbers(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.enter(CELLS)
        store.assign([CELLS[:1]])
        store.assign([CELLS[1:2], CELLS[2:]])
        assert [row.stack for row in store.summaries()] == [1, 2, 3]


def test_a_failure_keeps_its_traceback_until_it_works(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.fail(CELLS[:1], "Traceback ...\nRuntimeError: no")
        (row,) = store.summaries()
        assert (row.status, row.test_accuracy, row.message) == (
            "failed",
            None,
            "Traceback ...\nRuntimeError: no",
        )
        store.add([result(CELLS[0])])
        assert store.results() == [result(CELLS[0])]


def test_a_transaction_that_breaks_leaves_nothing(path: Path) -> None:
    def broken() -> Iterator[CellResult]:
        yield result(CELLS[0])
        raise RuntimeError("in the middle")

    with StudyStore(path, write=True) as store:
        store.enter(CELLS)
        with pytest.raises(RuntimeError, match="in the middle"):
            store.add(broken())
        assert [row.status for row in store.summaries()] == ["waiting"] * 3
        store.add([result(CELLS[0])])
        assert len(store.results()) == 1


def test_one_process_writes_and_others_read(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.enter(CELLS)
        with StudyStore(path) as reader:
            assert len(reader.summaries()) == 3
        with pytest.raises(UsageError, match="another process is running the study in"):
            StudyStore(path, write=True)
    StudyStore(path, write=True).close()


def test_a_newer_store_is_refused(path: Path) -> None:
    StudyStore(path, write=True).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")
    for write in (False, True):
        with pytest.raises(
            DataError, match="has version 99, this tersa reads up to 1; install a newer tersa"
        ):
            StudyStore(path, write=write)


def test_what_is_no_study_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        StudyStore(path)
    path.write_text("not a database, but long enough to look like something else " * 20)
    with pytest.raises(DataError, match="is not a study"):
        StudyStore(path)
    with pytest.raises(DataError, match="is not a study"):
        StudyStore(path, write=True)
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE cells (id INTEGER)")
    with pytest.raises(DataError, match="it has no version"):
        StudyStore(path)


def test_a_store_that_was_killed_before_its_tables_were_made_is_empty(path: Path) -> None:
    path.touch()
    with StudyStore(path) as store:
        assert store.summaries() == []
    with StudyStore(path, write=True) as store:
        store.enter(CELLS)
        assert len(store.summaries()) == 3


def test_cells_of_before_a_setting_existed_are_known_by_their_new_name(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.add([result(CELLS[0])])
        old = CELLS[0].model_dump_json(exclude={"stuck"})
        store.connection.execute("UPDATE cells SET key = 'old', json = ?", (old,))
        store.enter(CELLS)
        rows = store.summaries()
    assert [(row.key, row.status) for row in rows] == [
        (CELLS[0].key, "done"), (CELLS[1].key, "waiting"), (CELLS[2].key, "waiting"),
    ]  # fmt: skip


def test_summaries_do_not_read_epochs(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.add([result(cell) for cell in CELLS])
        store.connection.execute("DROP TABLE epochs")
        assert len(store.summaries()) == 3
        with pytest.raises(DataError, match="cannot be read: no such table: epochs"):
            store.results()


def test_a_store_whose_tables_are_made_while_it_is_opened_is_empty(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sqlite3.connect
    with closing(plain(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")

    class Beside(sqlite3.Connection):
        """Another process makes the tables just after the first question."""

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            cursor = super().execute(sql, *values)
            if sql == "PRAGMA user_version":
                monkeypatch.setattr(sqlite3, "connect", plain)
                StudyStore(path, write=True).close()
            return cursor

    monkeypatch.setattr(sqlite3, "connect", partial(plain, factory=Beside))
    with StudyStore(path) as store:
        assert store.summaries() == []
    assert sqlite3.connect is plain
    with StudyStore(path, write=True) as store:
        store.enter(CELLS)
        assert len(store.summaries()) == 3
