"""What a study has found so far, in one SQLite file that survives being killed.

    cells    one row per cell: its settings, its stack, how it ended, what it gave
    epochs   one row per cell and epoch (`CellEpoch`)
    layers   one row per cell, epoch and tensor (`LayerState`)

The runs of a stack are written in ONE transaction when the stack ends (write-ahead log): a kill at any moment
leaves each stack whole or not begun. Which cells share a stack is stored before the first of them runs: a
study that is killed and taken up again multiplies the same matrices, and ends with the same numbers to the
last bit. One process writes at a time; any number read.

Summaries are read without epochs and layers; `results` reads everything. Nothing here trains.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "study.db"
    >>> with StudyStore(path, write=True) as store:
    ...     store.enter([Cell(seed=1), Cell(seed=2)])
    ...     store.fail([Cell(seed=2)], "out of memory")
    ...     [row.status for row in store.summaries()]
    ['waiting', 'failed']
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from pydantic import ConfigDict

from tersa.database import LockedStore, asking, transaction
from tersa.records.base import Record
from tersa.study.cell import Cell, CellEpoch, CellResult, LayerState

Standing = Literal["waiting", "done", "diverged", "failed"]

TABLES = """
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, json TEXT NOT NULL, stack INTEGER,
    status TEXT NOT NULL DEFAULT 'waiting', test_accuracy REAL, seconds REAL NOT NULL DEFAULT 0,
    stacked INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS epochs (
    cell INTEGER NOT NULL, place INTEGER NOT NULL, epoch INTEGER NOT NULL, phase TEXT NOT NULL,
    train_loss REAL, train_accuracy REAL, test_accuracy REAL, learning_rate REAL,
    PRIMARY KEY (cell, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers (
    cell INTEGER NOT NULL, place INTEGER NOT NULL, epoch INTEGER NOT NULL, layer TEXT NOT NULL,
    tensor TEXT NOT NULL, low REAL, high REAL, mean REAL, variance REAL, angle REAL,
    PRIMARY KEY (cell, place)) WITHOUT ROWID;
"""


class CellSummary(Record):
    """One cell and how it stands, without its epochs."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    key: str
    """Hash of the cell."""
    cell: Cell
    """Its settings."""
    status: Standing
    """`waiting` until it has ended."""
    test_accuracy: float | None
    """Percent, after the last epoch; None where it waits or failed."""
    seconds: float
    """Wall time of its stack over the runs in it."""
    stacked: int
    """Runs that trained together."""
    message: str
    """Why it diverged or failed, with the traceback of a failure."""
    stack: int | None
    """Cells of equal number train together; None before the study was cut."""


class StudyStore(LockedStore):
    """The file of a study.

    Args:
        path: of the database.
        write: make it if need be, and lock it against other writers.

    Raises:
        DataError: no such file, something else, or of a newer version.
        UsageError: another process writes to it.
    """

    VERSION = 1
    TABLES = TABLES
    NAME, MAKER, WORK = "a study", "tersa study run", "running the study"

    def enter(self, cells: Iterable[Cell]) -> None:
        """Add cells that are to run; those that are there stay as they are.

        Cells stored before a setting existed had what is its default now; they get the name that this makes.
        """
        with asking(self.path):
            named = [(Cell.model_validate_json(text).key, place, key) for place, key, text in self._texts()]
        with transaction(self.connection, self.path) as connection:
            connection.executemany(
                "UPDATE OR IGNORE cells SET key = ? WHERE id = ?",
                [(now, place) for now, place, before in named if now != before],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO cells (key, json) VALUES (?, ?)",
                [(cell.key, cell.model_dump_json()) for cell in cells],
            )

    def assign(self, stacks: Iterable[Sequence[Cell]]) -> None:
        """Store which cells train together, each group under a new number."""
        with transaction(self.connection, self.path) as connection:
            last = connection.execute("SELECT COALESCE(MAX(stack), 0) FROM cells").fetchone()[0]
            for number, stack in enumerate(stacks, start=last + 1):
                connection.executemany(
                    "UPDATE cells SET stack = ? WHERE key = ?", [(number, cell.key) for cell in stack]
                )

    def add(self, results: Iterable[CellResult]) -> None:
        """Store how cells ended, all of them in one transaction; earlier rows of theirs are replaced."""
        with transaction(self.connection, self.path) as connection:
            for result in results:
                _write(connection, result)

    def fail(self, cells: Iterable[Cell], message: str) -> None:
        """Store that cells could not be trained, with the traceback."""
        self.add(
            CellResult(
                key=cell.key,
                cell=cell,
                status="failed",
                test_accuracy=None,
                epochs=[],
                layers=[],
                seconds=0.0,
                stacked=0,
                message=message,
            )
            for cell in cells
        )

    def summaries(self) -> list[CellSummary]:
        """Every cell, in the order in which it was entered, without epochs and layers."""
        columns = "key, json, status, test_accuracy, seconds, stacked, message, stack"
        rows = self.rows(f"SELECT {columns} FROM cells ORDER BY id")
        with asking(self.path):
            return [_summary(row) for row in rows]

    def results(self, keys: Iterable[str] | None = None) -> list[CellResult]:
        """Every cell that has ended, with its epochs and layers, in the order in which it was entered.

        Args:
            keys: read only these; by default all.
        """
        wanted = None if keys is None else set(keys)
        found: list[CellResult] = []
        places = self.rows("SELECT id, key FROM cells WHERE status != 'waiting' ORDER BY id")
        for place, key in places:
            if wanted is None or key in wanted:
                with asking(self.path):
                    found.append(self._result(place))
        return found

    def _texts(self) -> list[tuple[int, str, str]]:
        return self.rows("SELECT id, key, json FROM cells")

    def _result(self, place: int) -> CellResult:
        columns = "key, json, status, test_accuracy, seconds, stacked, message, stack"
        head = _summary(self.rows(f"SELECT {columns} FROM cells WHERE id = ?", place)[0])
        epochs = self.rows(f"SELECT {', '.join(EPOCH)} FROM epochs WHERE cell = ? ORDER BY place", place)
        layers = self.rows(f"SELECT {', '.join(LAYER)} FROM layers WHERE cell = ? ORDER BY place", place)
        return CellResult(
            **head.model_dump(exclude={"cell", "stack"}),
            cell=head.cell,
            epochs=[CellEpoch(**_named(CellEpoch, EPOCH, row)) for row in epochs],
            layers=[LayerState(**_named(LayerState, LAYER, row)) for row in layers],
        )


EPOCH = tuple(CellEpoch.model_fields)
LAYER = tuple(LayerState.model_fields)
MAY_LACK = frozenset(
    name
    for kind in (CellEpoch, LayerState)
    for name, field in kind.model_fields.items()
    if type(None) in get_args(field.annotation)
)
"""Columns in which nothing means nothing; in the other ones it is a NaN, which SQLite cannot store."""


def _write(connection: sqlite3.Connection, result: CellResult) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO cells (key, json) VALUES (?, ?)", (result.key, result.cell.model_dump_json())
    )
    (place,) = connection.execute("SELECT id FROM cells WHERE key = ?", (result.key,)).fetchone()
    connection.execute(
        "UPDATE cells SET status = ?, test_accuracy = ?, seconds = ?, stacked = ?, message = ? WHERE id = ?",
        (result.status, result.test_accuracy, result.seconds, result.stacked, result.message, place),
    )
    for table, columns, rows in (("epochs", EPOCH, result.epochs), ("layers", LAYER, result.layers)):
        connection.execute(f"DELETE FROM {table} WHERE cell = ?", (place,))
        holes = ", ".join("?" * (len(columns) + 2))
        connection.executemany(
            f"INSERT INTO {table} (cell, place, {', '.join(columns)}) VALUES ({holes})",
            [(place, i, *(getattr(row, name) for name in columns)) for i, row in enumerate(rows)],
        )


def _summary(row: tuple[Any, ...]) -> CellSummary:
    key, text, status, accuracy, seconds, stacked, message, stack = row
    return CellSummary(
        key=key,
        cell=Cell.model_validate_json(text),
        status=status,
        test_accuracy=accuracy,
        seconds=seconds,
        stacked=stacked,
        message=message,
        stack=stack,
    )


def _named(kind: type[Record], columns: tuple[str, ...], row: tuple[Any, ...]) -> dict[str, Any]:
    named = dict(zip(columns, row, strict=True))
    return {
        name: math.nan if value is None and name not in MAY_LACK else value for name, value in named.items()
    }
