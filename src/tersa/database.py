"""What SQLite says, in one line: a full disk, a read-only folder, another process, a damaged file.

Every store of tersa is one SQLite file. `asking` wraps what reads, `transaction` what writes: all of it or
nothing, also where the disk is full in its middle. A store keeps its own tables and its own words for a file
that is something else.

Example:
    >>> connection = sqlite3.connect(":memory:", isolation_level=None)
    >>> with asking(Path("runs.db")):
    ...     connection.execute("SELECT * FROM runs")
    Traceback (most recent call last):
    ...
    tersa.errors.DataError: runs.db cannot be read: no such table: runs
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tersa.errors import DataError, brief

FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
CLOSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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
