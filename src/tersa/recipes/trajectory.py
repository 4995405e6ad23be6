"""The way from the baseline to the result, step by step on disk, so that a killed run goes on.

Each step is a row in `history.db` (table `steps`, or `tuned` for a step that was fine-tuned at length) and
a weights file `steps/NNN.safetensors` or `tuned/NNN.safetensors`. The row is written after the weights: what
has no row did not happen, and a leftover file is overwritten. `origin` says what the steps belong to, so that
any of them can be built again from this folder alone.

Example:
    >>> import tempfile
    >>> way = Trajectory(Path(tempfile.mkdtemp()), {"data": "d1"})
    >>> way.rows("steps"), way.gone().tolist()
    ([], [])
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.database import asking
from tersa.errors import DataError, UsageError
from tersa.files import replacing
from tersa.records.results import Step
from tersa.train.baseline import save_weights

Table = Literal["steps", "tuned"]
DATABASE = "history.db"
DAMAGED = "{path} is damaged ({error}); start again with --overwrite"


class Trajectory:
    """The steps of one run.

    Args:
        folder: of the run.
        origin: what the steps belong to (digests of data and baseline, the baseline's model); another one is
            refused. None to read only.

    Raises:
        UsageError: the folder holds steps of another origin, or none to read.
        DataError: the database is damaged.
    """

    def __init__(self, folder: Path, origin: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.earlier_seconds = 0.0
        self.origin = dict(origin or {})
        if origin is None:
            if not (folder / DATABASE).is_file():
                raise UsageError(f"{folder} has no steps yet: it has no {DATABASE}")
            with self._open() as connection:
                self.origin = dict(connection.execute("SELECT name, value FROM origin"))
            return
        with self._open() as connection:
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

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        """One transaction."""
        path = self.folder / DATABASE
        with asking(path, DAMAGED), closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            with connection:
                yield connection

    def rows(self, table: Table) -> list[Step]:
        """All stored steps, in order."""
        with self._open() as connection:
            found = connection.execute(f"SELECT record FROM {table} ORDER BY step").fetchall()
        with asking(self.folder / DATABASE, DAMAGED):
            return [Step.model_validate_json(text) for (text,) in found]

    def gone(self, index: int | None = None) -> Tensor:
        """The units that a step's network lacks, (U,); of the last step where none is named."""
        which, values = ("", ()) if index is None else ("WHERE step = ?", (index,))
        query = f"SELECT removed FROM steps {which} ORDER BY step DESC LIMIT 1"
        with self._open() as connection:
            found = connection.execute(query, values).fetchone()
        with asking(self.folder / DATABASE, DAMAGED):
            return torch.tensor(json.loads(found[0]) if found else [], dtype=torch.long)

    def add(
        self,
        table: Table,
        step: Step,
        model: nn.Module,
        gone: Tensor | None = None,
        memory: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Store the weights, then the row that makes them count.

        Args:
            table: `steps` or `tuned`.
            step: the row.
            model: its network.
            gone: all units that it lacks.
            memory: the optimiser's state, where it goes on at the next step; only the last one is kept.
        """
        save_weights(model, self._file(table, step.index))
        if memory is not None:
            path = self._memory(step.index)
            with replacing(path) as temporary:
                save_file(dict(memory), temporary)
        units = [] if gone is None else gone.tolist()
        with self._open() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",
                (step.index, step.model_dump_json(), json.dumps(units)),
            )
        if memory is not None:
            self._memory(step.index - 1).unlink(missing_ok=True)

    def memory(self, index: int) -> dict[str, Tensor]:
        """The optimiser's state after a step, empty where none was stored."""
        path = self._memory(index)
        return _load(path) if path.is_file() else {}

    def _memory(self, index: int) -> Path:
        return self.folder / "steps" / f"{index:03d}.optimiser.safetensors"

    def weights(self, table: Table, index: int) -> dict[str, Tensor]:
        """The weights of a stored step.

        Raises:
            DataError: the file is missing or damaged.
        """
        return _load(self._file(table, index))

    def _file(self, table: Table, index: int) -> Path:
        return self.folder / table / f"{index:03d}.safetensors"


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}); start again with --overwrite") from None


def point(way: Trajectory, at: str) -> tuple[Table, Step]:
    """One network of a trajectory.

    Args:
        way: its steps.
        at: `12`, the number of a row as the report shows it: steps of pruning from 0, then those that were
            fine-tuned; or `0.995` or `99.5%`: the network of fewest parameters, fine-tuned or not, whose
            validation accuracy is at least that.

    Raises:
        UsageError: not such a text, no such step, or no network that accurate; what there is, is named.
    """
    text = at.strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise UsageError(
            f"--at '{at}' is not understood; write an accuracy (0.995, 99.5%) or a step (12)"
        ) from None
    rows: list[tuple[Table, Step]] = [(table, row) for table in ("steps", "tuned") for row in way.rows(table)]
    if text.isdigit():
        if int(text) >= len(rows):
            tuned = sum(table == "tuned" for table, _ in rows)
            last = f"{len(rows) - 1}" + (f", the last {tuned} of them fine-tuned" if tuned else "")
            raise UsageError(
                f"--at {text}: the run has steps 0 to {last}; an accuracy is 0.{text} or {text}%"
            )
        return rows[int(text)]
    asked = value if text.endswith("%") else 100.0 * value
    if not 0.0 <= asked <= 100.0:
        raise UsageError(f"--at '{at}' is not an accuracy; write a share (0.995) or percent (99.5%)")
    good = [pair for pair in rows if pair[1].validation_accuracy >= asked - 1e-9]
    if not good:
        best = max((row.validation_accuracy for _, row in rows), default=0.0)
        raise UsageError(f"--at {at}: no step has {asked:g} % on validation; the best has {best:.2f} %")
    return min(good, key=lambda pair: (pair[1].parameters, -pair[1].validation_accuracy))
