"""The way from the baseline to the result, step by step on disk, so that a killed run goes on.

Each step is a row in `history.db` (table `steps`) and a weights file `steps/NNN.safetensors`, or
`tuned/NNN.safetensors` for a step that was fine-tuned at length. The row is written after the weights: what
has no row did not happen, and a leftover file is overwritten.

Example:
    >>> import tempfile
    >>> way = Trajectory(Path(tempfile.mkdtemp()))
    >>> way.rows("steps")
    []
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.errors import DataError
from tersa.records import Step, replacing

Table = Literal["steps", "tuned"]


class Trajectory:
    """The steps of one run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with closing(self._connect()) as connection, connection:
            for table in ("steps", "tuned"):
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} (step INTEGER PRIMARY KEY, record TEXT NOT NULL)"
                )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / "history.db")
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            connection.close()
            raise DataError(
                f"{self.folder / 'history.db'} is damaged ({error}); start again with --overwrite"
            ) from None
        return connection

    def rows(self, table: Table) -> list[Step]:
        """All stored steps, in order."""
        with closing(self._connect()) as connection:
            found = connection.execute(f"SELECT record FROM {table} ORDER BY step").fetchall()
        return [Step.model_validate_json(text) for (text,) in found]

    def add(self, table: Table, step: Step, model: nn.Module) -> None:
        """Store the weights, then the row that makes them count."""
        with replacing(self._file(table, step.index)) as temporary:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
        with closing(self._connect()) as connection, connection:
            connection.execute(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (step.index, step.model_dump_json())
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
