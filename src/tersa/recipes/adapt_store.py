"""What adapt remembers beside its trajectory: candidates, measurements, and where the time went.

Three more tables in the run's `history.db`. Rows of a step are written before the step itself, and those of a
step that did not come to be are dropped when the run goes on, so that a resumed run decides as one that was
never stopped: measured times are read, not measured again. The time of a stage is stored as it goes on, with
that of each part of it: a killed run forgets no more than the part that it was in.

Example:
    >>> import tempfile
    >>> store = AdaptStore(Path(tempfile.mkdtemp()))
    >>> store.spend("cut", 0.5); store.spend("cut", 0.25); store.seconds()
    {'cut': 0.75}
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tersa.database import asking
from tersa.recipes.trajectory import DATABASE
from tersa.records.adaptation import Candidate, Checked, CheckedEnergy

TABLES = ("candidates", "checks", "energies")
"""Of records; each belongs to a step."""


class AdaptStore:
    """The tables of one run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATABASE
        self._running: dict[str, float] = {}  # stages being timed, and up to when that is stored
        with self._open() as connection:
            for table in TABLES:
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} (step INTEGER NOT NULL, record TEXT NOT NULL)"
                )
            connection.execute("CREATE TABLE IF NOT EXISTS spent (stage TEXT PRIMARY KEY, seconds REAL)")

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        """One transaction."""
        with asking(self.path), closing(sqlite3.connect(self.path)) as connection, connection:
            yield connection

    def forget_after(self, step: int) -> None:
        """Drop what belongs to steps that were not finished."""
        with self._open() as connection:
            for table in TABLES:
                connection.execute(f"DELETE FROM {table} WHERE step > ?", (step,))

    def add_candidates(self, rows: Sequence[Candidate]) -> None:
        """Store the candidates of a step."""
        with self._open() as connection:
            connection.executemany(
                "INSERT INTO candidates VALUES (?, ?)", [(row.step, row.model_dump_json()) for row in rows]
            )

    def candidates(self) -> list[Candidate]:
        """All of them, in order."""
        with asking(self.path):
            return [Candidate.model_validate_json(text) for text in self._records("candidates")]

    def add_check(self, row: Checked) -> None:
        """Store a measurement."""
        with self._open() as connection:
            connection.execute("INSERT INTO checks VALUES (?, ?)", (row.step, row.model_dump_json()))

    def checks(self) -> list[Checked]:
        """All of them, in order."""
        with asking(self.path):
            return [Checked.model_validate_json(text) for text in self._records("checks")]

    def add_energy(self, row: CheckedEnergy) -> None:
        """Store a measurement of energy."""
        with self._open() as connection:
            connection.execute("INSERT INTO energies VALUES (?, ?)", (row.step, row.model_dump_json()))

    def energies(self) -> list[CheckedEnergy]:
        """All of them, in order."""
        with asking(self.path):
            return [CheckedEnergy.model_validate_json(text) for text in self._records("energies")]

    def _records(self, table: str) -> list[str]:
        with self._open() as connection:
            return [text for (text,) in connection.execute(f"SELECT record FROM {table} ORDER BY rowid")]

    def spend(self, stage: str, seconds: float) -> None:
        """Add time to a stage, and to the stages around it what they have taken so far."""
        self._add([(stage, seconds), *self._so_far()])

    def lap(self) -> None:
        """Store what the stages that are being timed have taken so far."""
        self._add(self._so_far())

    def _so_far(self) -> list[tuple[str, float]]:
        now = time.perf_counter()
        found = [(stage, now - since) for stage, since in self._running.items()]
        self._running = dict.fromkeys(self._running, now)
        return found

    def _add(self, rows: Sequence[tuple[str, float]]) -> None:
        with self._open() as connection:
            connection.executemany(
                "INSERT INTO spent VALUES (?, ?) ON CONFLICT (stage) DO UPDATE SET "
                "seconds = seconds + excluded.seconds",
                rows,
            )

    @contextmanager
    def timed(self, stage: str) -> Generator[None]:
        """Add the time of a block to a stage; blocks of other stages may lie in it."""
        assert stage not in self._running
        self._running[stage] = time.perf_counter()
        try:
            yield
        finally:
            self.lap()
            del self._running[stage]

    def seconds(self) -> dict[str, float]:
        """Time of every stage so far."""
        with self._open() as connection:
            return dict(connection.execute("SELECT stage, seconds FROM spent ORDER BY rowid"))
