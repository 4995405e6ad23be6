"""The only way a file reaches the disk: whole or not at all.

A temporary file in the same folder, fsync, rename: a kill at any moment leaves the old file or the new one,
never half of one.

Example:
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_atomic(folder / "a.txt", "whole")
    >>> [path.name for path in folder.iterdir()]
    ['a.txt']
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an error.

    The file is flushed to the disk before the rename, and the folder after it. On an error the temporary
    file is removed and `path` is as it was; an `OSError` names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
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
        if error.errno is not None and error.filename in (None, name):
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:  # of whatever library writes the block's file; only a disk's error is renamed
        number = OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors) tell of a full disk."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
