"""What a study has found so far, in one SQLite file that survives being killed.

    cells    one row per cell: its settings, its stack, how it ended, what it gave
    epochs   one row per cell and epoch (`CellEpoch`)
    layers   one row per cell, epoch and tensor (`LayerState`)

The runs of a stack are written in ONE transaction when the stack ends (write-ahead log): a kill at any moment
leaves each stack whole or not begun. Which cells share a stack is stored before the first of them runs: a
study that is killed and taken up again multiplies the same matrices, and ends with the same numbers to the
last bit. One process writes at a time (a lock beside the file, which dies with its owner); any number read.

Summaries are read without epochs and layers; `results` reads everything. Nothing here trains.

Example:
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "study.db"
    >>> with StudyStore(path, write=True) as store:
    ...     store.enter([Cell(seed=1), Cell(seed=2)])
    ...     store.fail([Cell(seed=2)], "out of memory")
    ...     [row.status for row in store.summaries()]
    ['waiting', 'failed']
"""

from __future__ import annotations

import fcntl
import math
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from pydantic import ConfigDict

from tersa.database import asking, transaction
from tersa.errors import DataError, UsageError
from tersa.records import Record
from tersa.study.cell import Cell, CellEpoch, CellResult, LayerState

VERSION = 1
"""Of the tables; a reader refuses a newer one."""
WAIT_S = 60.0
"""How long one connection waits for another's transaction."""
DAMAGED = "{path} is not a study: {error}; move it away"

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


class StudyStore:
    """The file of a study.

    Args:
        path: of the database.
        write: make it if need be, and lock it against other writers.

    Raises:
        DataError: no such file, something else, or of a newer version.
        UsageError: another process writes to it.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self.lock = _locked(path) if write else None
        if not write and not path.is_file():
            raise DataError(f"no file {path}; `tersa study run` makes one")
        try:
            with asking(path, DAMAGED):
                self.connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
        except DataError:
            self._unlock()
            raise
        try:
            with asking(path, DAMAGED):
                self._open(write)
        except BaseException:
            self.close()
            raise

    def _open(self, write: bool) -> None:
        version = int(self.connection.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise DataError(
                f"{self.path} has version {version}, this tersa reads up to {VERSION}; install a newer tersa"
            )
        if write:
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(f"BEGIN IMMEDIATE;{TABLES}PRAGMA user_version={VERSION};COMMIT;")
        elif version == 0:
            if self.connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                raise DataError(f"{self.path} is not a study: it has no version; move it away")
            self.connection.close()  # killed before its tables were made: a study without cells
            self.connection = sqlite3.connect(":memory:", isolation_level=None)
            self.connection.executescript(TABLES)

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
        rows = self._rows(f"SELECT {columns} FROM cells ORDER BY id")
        with asking(self.path):
            return [_summary(row) for row in rows]

    def results(self, keys: Iterable[str] | None = None) -> list[CellResult]:
        """Every cell that has ended, with its epochs and layers, in the order in which it was entered.

        Args:
            keys: read only these; by default all.
        """
        wanted = None if keys is None else set(keys)
        found: list[CellResult] = []
        places = self._rows("SELECT id, key FROM cells WHERE status != 'waiting' ORDER BY id")
        for place, key in places:
            if wanted is None or key in wanted:
                with asking(self.path):
                    found.append(self._result(place))
        return found

    def _texts(self) -> list[tuple[int, str, str]]:
        return self._rows("SELECT id, key, json FROM cells")

    def _result(self, place: int) -> CellResult:
        columns = "key, json, status, test_accuracy, seconds, stacked, message, stack"
        head = _summary(self._rows(f"SELECT {columns} FROM cells WHERE id = ?", place)[0])
        epochs = self._rows(f"SELECT {', '.join(EPOCH)} FROM epochs WHERE cell = ? ORDER BY place", place)
        layers = self._rows(f"SELECT {', '.join(LAYER)} FROM layers WHERE cell = ? ORDER BY place", place)
        return CellResult(
            **head.model_dump(exclude={"cell", "stack"}),
            cell=head.cell,
            epochs=[CellEpoch(**_named(CellEpoch, EPOCH, row)) for row in epochs],
            layers=[LayerState(**_named(LayerState, LAYER, row)) for row in layers],
        )

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with asking(self.path):
            return self.connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the database and let other writers in."""
        self.connection.close()
        self._unlock()

    def _unlock(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def _locked(path: Path) -> int:
    """A lock file beside the database, held until it is closed or its process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_name(f"{path.name}-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UsageError(
            f"another process is running the study in {path.parent}; wait for it or stop it"
        ) from None
    return handle
