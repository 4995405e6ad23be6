"""What SQLite says, in one line: a full disk, a read-only folder, another process, a damaged file.

Every store of tersa is one SQLite file. `asking` wraps what reads, `transaction` what writes: all of it or
nothing, also where the disk is full in its middle. A `LockedStore` is one that long work fills: one process
writes at a time (a lock beside the file, which dies with its owner), any number read.

Example:
    >>> connection = sqlite3.connect(":memory:", isolation_level=None)
    >>> with asking(Path("runs.db")):
    ...     connection.execute("SELECT * FROM runs")
    Traceback (most recent call last):
    ...
    tersa.errors.DataError: runs.db cannot be read: no such table: runs
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tersa.errors import DataError, UsageError, brief

FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
CLOSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
WAIT_S = 60.0
"""How long one connection of a `LockedStore` waits for another's transaction."""


@contextmanager
def asking(path: Path, damaged: str = "{path} cannot be read: {error}") -> Generator[None]:
    """Turn what goes wrong in a block that reads a store into one line.

    Args:
        path: of the file.
        damaged: what to say where neither disk nor folder nor another process is to blame.

    Raises:
        DataError: the file is damaged, or cannot be opened; a row in it is not what was written.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise DataError(said(error, path, damaged)) from None
    except (ValueError, TypeError, LookupError) as error:  # rows that are no records, text that is no UTF-8
        raise DataError(damaged.format(path=path, error=brief(error))) from None


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Generator[sqlite3.Connection]:
    """`BEGIN IMMEDIATE` ... `COMMIT`, or `ROLLBACK` on any error; what was there before stays.

    Args:
        connection: opened without a transaction of Python's own (`isolation_level=None`).
        path: of the file, for the message.

    Raises:
        DataError: it could not be written.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:  # SQLite has rolled back by itself where the disk was full
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise DataError(said(error, path, "{path} cannot be written: {error}")) from None
        raise


def said(error: sqlite3.Error, path: Path, damaged: str) -> str:
    """One line about an error of SQLite, with what to do.

    Args:
        error: from `sqlite3`.
        path: of the file.
        damaged: for errors that are the file's own, with `{path}` and `{error}`.
    """
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    reason = brief(error)
    if code in FULL:
        return f"{path} cannot be written: {reason}; make room on the disk, what was stored is kept"
    if code in CLOSED:
        return f"{path} cannot be opened for writing: {reason}; check the permissions of its folder"
    if code in HELD:
        return f"{path} is held by another process: {reason}; wait for it or stop it"
    return damaged.format(path=path, error=reason)


class LockedStore:
    """A file that one process writes and any number read; a subclass gives its tables and its words.

    Args:
        path: of the database.
        write: make it if need be, and lock it against other writers.

    Attributes:
        VERSION: of the tables; a reader refuses a newer one.
        TABLES: statements that make them where they are not.
        NAME: what it is: `a study`.
        MAKER: the command that makes one.
        WORK: what its writer does, for another one: `running the study`.

    Raises:
        DataError: no such file, something else, or of a newer version.
        UsageError: another process writes to it.
    """

    VERSION: ClassVar[int]
    TABLES: ClassVar[str]
    NAME: ClassVar[str]
    MAKER: ClassVar[str]
    WORK: ClassVar[str]

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self.lock = self._locked() if write else None
        if not write and not path.is_file():
            raise DataError(f"no file {path}; `{self.MAKER}` makes one")
        damaged = f"{{path}} is not {self.NAME}: {{error}}; move it away"
        try:
            with asking(path, damaged):
                self.connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
        except DataError:
            self._unlock()
            raise
        try:
            with asking(path, damaged):
                self._open(write)
        except BaseException:
            self.close()
            raise

    def _open(self, write: bool) -> None:
        version, tables = self._found()
        if version > self.VERSION:
            raise DataError(
                f"{self.path} has version {version}, this tersa reads up to {self.VERSION}; "
                "install a newer tersa"
            )
        if write:
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(
                f"BEGIN IMMEDIATE;{self.TABLES}PRAGMA user_version={self.VERSION};COMMIT;"
            )
        elif version == 0:
            if tables:
                raise DataError(f"{self.path} is not {self.NAME}: it has no version; move it away")
            self.connection.close()  # killed before its tables were made: nothing is in it
            self.connection = sqlite3.connect(":memory:", isolation_level=None)
            self.connection.executescript(self.TABLES)

    def _found(self) -> tuple[int, int]:
        """Version and number of tables as they are at one moment: a writer makes both in one transaction."""
        self.connection.execute("BEGIN")
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        tables = self.connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        self.connection.execute("COMMIT")
        return int(version), int(tables)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds.

        Raises:
            DataError: the file cannot be read.
        """
        with asking(self.path):
            return self.connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the database and let other writers in."""
        self.connection.close()
        self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _locked(self) -> int:
        """A lock file beside the database, held until it is closed or its process dies."""
        import fcntl  # not on Windows

        self.path.parent.mkdir(parents=True, exist_ok=True)
        place = self.path.with_name(f"{self.path.name}-lock")
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise UsageError(
                f"another process is {self.WORK} in {self.path.parent}; wait for it or stop it"
            ) from None
        return handle

    def _unlock(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
