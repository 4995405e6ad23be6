"""What every stored row is: frozen, checked, written whole as JSON and read back.

Example:
    >>> class Row(Record):
    ...     median: float
    >>> Row(median=0.41).model_dump_json()
    '{"median":0.41}'
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tersa.errors import DataError
from tersa.files import write_atomic

SCHEMA = 1
"""Version of every record written to disk; a reader refuses a newer one."""


class Record(BaseModel):
    """A frozen row; unknown keys are refused, so that a typing error is never silently lost.

    JSON has no NaN and no infinity: they are the texts `NaN`, `Infinity` and `-Infinity` there, which come
    back as numbers.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="strings"
    )


def write_record(path: Path, record: Record) -> None:
    """Write a record as indented JSON, whole or not at all."""
    write_atomic(path, record.model_dump_json(indent=2) + "\n")


R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record back, checked.

    Raises:
        DataError: no such file, not JSON, a newer schema, or fields that do not fit.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not a readable JSON file: {error}") from None
    version = raw.get("schema_version", SCHEMA) if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise DataError(
            f"{path} has schema {version}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is not a {kind.__name__}: {where}: {first['msg']}") from None
