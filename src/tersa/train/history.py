"""Epochs of one run in an SQLite file, readable while it grows.

One table, `epochs`, with the columns of `records.Epoch`; the schema version is SQLite's `user_version`.
Each epoch is one transaction (write-ahead log), so that a kill loses at most the epoch in flight.

Example:
    >>> import tempfile
    >>> row = Epoch(epoch=1, train_loss=0.5, train_accuracy=80.0, validation_loss=0.4,
    ...             validation_accuracy=85.0, learning_rate=0.1, seconds=2.0)
    >>> path = Path(tempfile.mkdtemp()) / "history.db"
    >>> with HistoryWriter(path) as history:
    ...     history.add(row)
    >>> read_history(path) == [row]
    True
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from tersa.database import asking
from tersa.errors import DataError
from tersa.records.base import SCHEMA
from tersa.records.results import Epoch

COLUMNS = tuple(Epoch.model_fields)
UNFIT = "{path} is not a history that can be written: {error}; move it away"


class HistoryWriter:
    """Writes a run's epochs as they end; rows of an earlier attempt at the same run are removed first.

    A resumed run hands over its restored epochs again (`loop.train`), so that the table always equals the
    history of the run that wrote it last.

    Args:
        path: of the database, made if need be.

    Raises:
        DataError: `path` is something else, or of a newer schema.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with asking(path, UNFIT):
            self.connection = sqlite3.connect(path)
        try:
            with asking(path, UNFIT):
                _check_schema(self.connection, path)
                self.connection.execute("PRAGMA journal_mode=WAL")
                with self.connection:
                    self.connection.execute(f"CREATE TABLE IF NOT EXISTS epochs ({_schema()})")
                    self.connection.execute("DELETE FROM epochs")
                    self.connection.execute(f"PRAGMA user_version={SCHEMA}")
        except DataError:
            self.connection.close()
            raise

    def add(self, row: Epoch) -> None:
        """Store one epoch; an epoch that is there already is replaced."""
        holes = ", ".join(f":{name}" for name in COLUMNS)
        with asking(self.path, UNFIT), self.connection:
            self.connection.execute(f"INSERT OR REPLACE INTO epochs VALUES ({holes})", row.model_dump())

    def close(self) -> None:
        """Close the database; the write-ahead log is folded into it."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _schema() -> str:
    types = {name: "INTEGER" if f.annotation is int else "REAL" for name, f in Epoch.model_fields.items()}
    return ", ".join(f"{name} {kind} NOT NULL" for name, kind in types.items()) + ", PRIMARY KEY (epoch)"


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA:
        raise DataError(
            f"{path} has schema {version}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )


def read_history(path: Path) -> list[Epoch]:
    """The epochs of a run, in order.

    Raises:
        DataError: no such file, not a history, or of a newer schema.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    damaged = "{path} is not a history: {error}"
    with asking(path, damaged), closing(sqlite3.connect(path)) as connection:
        _check_schema(connection, path)
        rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM epochs ORDER BY epoch").fetchall()
        return [Epoch(**dict(zip(COLUMNS, row, strict=True))) for row in rows]
