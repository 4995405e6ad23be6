"""The only way a file reaches the disk: whole or not at all.

A temporary folder beside the file, fsync, rename: a kill at any moment leaves the old file or the new one,
never half of one. The folder is there for libraries that write by a temporary file of their own (safetensors
does): what a kill leaves of theirs lies in it and is found by its name.

Example:
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_atomic(folder / "a.txt", "whole")
    >>> [path.name for path in folder.iterdir()]
    ['a.txt']
"""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path on the disk of `path` that replaces it when the block ends without an error.

    The file is flushed to the disk before the rename, and the folder after it. On an error what is temporary
    is removed and `path` is as it was; an `OSError` names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART))
    temporary = place / path.name
    try:
        temporary.touch()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:  # of whatever library writes the block's file; only a disk's error is renamed
        number = OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


PART = ".part"
"""How the names of what is temporary end."""


def remove_leftovers(path: Path) -> None:
    """Remove what killed writes of `path` left beside it; it is never read."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, that may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors) tell of a full disk."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def keep_rows(path: Path, rows: Sequence[Mapping[str, str]], settings: Sequence[str]) -> None:
    """Add rows to a CSV file, each in place of one of the same settings; the file's other rows stay.

    Args:
        path: of the file; it is made where it is missing.
        rows: at least one, column to text; columns that the file has not go behind its own.
        settings: columns that say what was run, of which the file has one row each.

    Example:
        >>> place = Path(tempfile.mkdtemp()) / "rows.csv"
        >>> keep_rows(place, [{"seed": "0", "accuracy": "90"}, {"seed": "1", "accuracy": "91"}], ["seed"])
        >>> keep_rows(place, [{"seed": "0", "accuracy": "92"}], ["seed"])
        >>> place.read_text().split()
        ['seed,accuracy', '1,91', '0,92']
    """
    there: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            there = list(csv.DictReader(file))
    new = {tuple(row[name] for name in settings) for row in rows}
    every = [*(row for row in there if tuple(row.get(name) for name in settings) not in new), *rows]
    write_rows(path, every)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV file, whole or not at all, with the columns of all rows in order of their appearance.

    >>> place = Path(tempfile.mkdtemp()) / "rows.csv"
    >>> write_rows(place, [{"a": "1"}, {"a": "2", "b": "3"}])
    >>> place.read_text().split()
    ['a,b', '1,', '2,3']
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
    write_atomic(path, text.getvalue())
