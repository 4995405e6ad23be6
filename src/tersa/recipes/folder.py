"""The folder of one run: made once, refused when it is somebody else's, resumed when asked.

`runs/NAME/` holds `spec.toml` (everything asked, written first), `result.json` (written last: a run without
it is not finished), and what the work leaves in between. One process works in a folder at a time: a lock on
the folder itself, which leaves no file and falls with its process.

Example:
    >>> import tempfile
    >>> class Spec(Record):
    ...     seed: int = 0
    >>> place = Path(tempfile.mkdtemp()) / "demo"
    >>> open_folder(place, "shrink", Spec(), resume=False, overwrite=False) == place
    True
    >>> open_folder(place, "shrink", Spec(seed=1), resume=True, overwrite=False)
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: ...demo was started with other settings: seed was 0, is now 1; ...
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import tomlkit

from tersa.errors import UsageError, utf8
from tersa.files import PART, remove, write_atomic
from tersa.records.base import SCHEMA, Record

SPEC, RESULT = "spec.toml", "result.json"
TRASH = ".removed"

P = ParamSpec("P")
T = TypeVar("T")

_held: dict[Path, int] = {}
"""Locks of this process, by folder."""


def open_folder(out: Path, verb: str, spec: Record, *, resume: bool, overwrite: bool) -> Path:
    """Make the run's folder, or enter the one that is there.

    Args:
        out: the folder.
        verb: of the command line; a run of another verb is never resumed.
        spec: everything that decides the result.
        resume: go on with a run of the same verb and spec; a folder that is not there is made.
        overwrite: remove a run that is there.

    Raises:
        UsageError: the folder exists and neither was asked; it is not a run folder; its spec differs; or
            another process works in it.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other; give one")
    utf8(out, "the folder")
    if out.is_dir():
        hold(out)
    sweep(out)
    wanted = {
        "schema_version": SCHEMA,
        "verb": verb,
        **_plain(spec.model_dump(mode="json", exclude_none=True)),
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not out.is_dir() or not (out / SPEC).is_file():
            raise UsageError(f"{out} exists and is not a folder that tersa made; give another --out")
        if overwrite:
            discard(out)
        elif not resume:
            raise UsageError(
                f"{out} exists; --resume goes on with it, --overwrite starts again, or give another --out"
            )
        else:
            _same(out, read_spec(out), wanted)
            remove_halves(out)
            return out
    out.mkdir(parents=True, exist_ok=True)
    hold(out)
    write_atomic(out / SPEC, tomlkit.dumps(wanted))
    return out


def hold(out: Path) -> None:
    """Keep other processes out of a folder, until `release` or the end of this process.

    Raises:
        UsageError: another process holds it.
    """
    release(out)
    handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(f"another process is at work in {out}; wait for it, or give another --out") from None
    except OSError:  # a file system without locks
        os.close(handle)
        return
    _held[out.resolve()] = handle


def release(out: Path) -> None:
    """Let other processes into a folder."""
    handle = _held.pop(out.resolve(), None)
    if handle is not None:
        os.close(handle)


def releasing(work: Callable[P, T]) -> Callable[P, T]:
    """A job that lets go of the folders that it has opened when it ends, well or not."""

    @wraps(work)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        before = set(_held)
        try:
            return work(*args, **kwargs)
        finally:
            for folder in set(_held) - before:
                release(folder)

    return inside


def remove_halves(out: Path) -> None:
    """Remove files that were being written when a run was killed; they are never read."""
    for pattern in HALVES:
        for path in list(out.rglob(pattern)):
            remove(path)


HALVES = (f".*{PART}", ".tmp??????")
"""Temporary names of `files.replacing`, and of safetensors beside the files of older versions."""


def discard(out: Path) -> None:
    """Remove a run folder: renamed first, so that a kill never leaves half of one under its name."""
    out = out.resolve()
    trash = out.with_name(f".{out.name}.{os.getpid()}{TRASH}")
    out.replace(trash)
    shutil.rmtree(trash)


def sweep(out: Path, spec: str = SPEC) -> None:
    """Remove what a killed run left behind: folders on their way out, and a spec that was never finished."""
    out = out.resolve()
    for trash in out.parent.glob(f".{glob.escape(out.name)}.*{TRASH}"):
        shutil.rmtree(trash, ignore_errors=True)
    if out.is_dir():
        left = list(out.iterdir())
        if left and all(path.name.startswith(f".{spec}.") and path.suffix == PART for path in left):
            for path in left:
                remove(path)


def read_spec(folder: Path) -> dict[str, Any]:
    """What a run was asked to do.

    Raises:
        UsageError: no readable `spec.toml` there.
    """
    path = folder / SPEC
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a run folder: it has no {SPEC}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _same(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    found, wanted = _flat(found), _flat(wanted)
    differences = [
        f"{key} was {found.get(key, 'not given')}, is now {wanted.get(key, 'not given')}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise UsageError(
            f"{out} was started with other settings: {'; '.join(differences)}; "
            "resume with the old ones, or start again with --overwrite"
        )


def _flat(tables: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables with dotted keys, so that a difference names the one setting.

    >>> _flat({"seed": 0, "protocol": {"tune": 5}})
    {'seed': 0, 'protocol.tune': 5}
    """
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Nested tables without empty ones, as TOML reads them back."""
    return {
        key: _plain(item) if isinstance(item, dict) else item
        for key, item in value.items()
        if item not in ({}, [])
    }
