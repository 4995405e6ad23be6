"""The way from the baseline to the result, step by step on disk, so that a killed run goes on.

Each step is a row in `history.db` (table `steps`, or `tuned` for a step that was fine-tuned at length) and
a weights file `steps/NNN.safetensors` or `tuned/NNN.safetensors`. The row is written after the weights: what
has no row did not happen, and a leftover file is overwritten. `origin` says what the steps belong to.

Example:
    >>> import tempfile
    >>> way = Trajectory(Path(tempfile.mkdtemp()), {"data": "d1"})
    >>> way.rows("steps"), way.removed()
    ([], [])
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tersa.errors import DataError, UsageError
from tersa.records import Step
from tersa.train.baseline import save_weights

Table = Literal["steps", "tuned"]
DATABASE = "history.db"


class Trajectory:
    """The steps of one run.

    Args:
        folder: of the run.
        origin: what the steps belong to (digests of data and baseline); another one is refused.

    Raises:
        UsageError: the folder holds steps of another origin.
        DataError: the database is damaged.
    """

    def __init__(self, folder: Path, origin: Mapping[str, str]) -> None:
        self.folder = folder
        with closing(self._connect()) as connection, connection:
            for table in ("steps", "tuned"):
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} "
                    "(step INTEGER PRIMARY KEY, record TEXT NOT NULL, removed TEXT NOT NULL)"
                )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS origin (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
            )
            found = dict(connection.execute("SELECT name, value FROM origin"))
            changed = sorted(name for name, value in found.items() if origin.get(name) != value)
            if changed:
                raise UsageError(
                    f"{folder} was started with another {' and another '.join(changed)}; "
                    "bring the old one back, or start again with --overwrite"
                )
            connection.executemany("INSERT OR REPLACE INTO origin VALUES (?, ?)", origin.items())
        self.earlier_seconds = sum(row.seconds for table in ("steps", "tuned") for row in self.rows(table))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / DATABASE)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            connection.close()
            path = self.folder / DATABASE
            raise DataError(f"{path} is damaged ({error}); start again with --overwrite") from None
        return connection

    def rows(self, table: Table) -> list[Step]:
        """All stored steps, in order."""
        with closing(self._connect()) as connection:
            found = connection.execute(f"SELECT record FROM {table} ORDER BY step").fetchall()
        return [Step.model_validate_json(text) for (text,) in found]

    def removed(self) -> list[Tensor]:
        """The units that each pruning step removed, in order."""
        with closing(self._connect()) as connection:
            found = connection.execute("SELECT removed FROM steps ORDER BY step").fetchall()
        return [torch.tensor(json.loads(text), dtype=torch.long) for (text,) in found]

    def add(self, table: Table, step: Step, model: nn.Module, removed: Tensor | None = None) -> None:
        """Store the weights, then the row that makes them count."""
        save_weights(model, self._file(table, step.index))
        units = [] if removed is None else removed.tolist()
        with closing(self._connect()) as connection, connection:
            connection.execute(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",
                (step.index, step.model_dump_json(), json.dumps(units)),
            )

    def weights(self, table: Table, index: int) -> dict[str, Tensor]:
        """The weights of a stored step.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self._file(table, index)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read ({error}); start again with --overwrite") from None

    def _file(self, table: Table, index: int) -> Path:
        return self.folder / table / f"{index:03d}.safetensors"
