"""What `tersa reproduce pruning` has found so far, in one SQLite file that survives being killed.

    baselines   one row per seed: the trained network that its curves start from
    curves      one row per curve and seed that has ended: its settings and how it ended
    points      one row per step of a curve (`pruning_curves.Point`)
    scratch     small networks that were trained from nothing, for table 4.1

A curve is written in ONE transaction when it ends (write-ahead log); until then its walk is a checkpoint of
its own. One process writes at a time; any number read. Nothing here trains.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "pruning.db"
    >>> with PruningStore(path, write=True) as store:
    ...     store.add(Walked(curve=Curve(criterion="random"), status="failed", message="out of memory"))
    ...     [(row.curve.name, row.status) for row in store.curves()]
    [('network-random-none-no-retraining', 'failed')]
"""

from __future__ import annotations

from typing import Literal

from tersa.database import LockedStore, asking, transaction
from tersa.recipes.pruning_curves import Curve, Point
from tersa.records.base import Record

Ending = Literal["done", "diverged", "failed"]
POINT = (
    "step",
    "removed",
    "left",
    "parameters",
    "macs",
    "validation_accuracy",
    "test_accuracy",
    "widths",
    "seconds",
)
"""Columns of a point, in the order of the table; the names are those of `Point`."""

TABLES = """
CREATE TABLE IF NOT EXISTS baselines (seed INTEGER PRIMARY KEY, json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS curves (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, step TEXT NOT NULL, seed INTEGER NOT NULL,
    json TEXT NOT NULL, status TEXT NOT NULL, message TEXT NOT NULL, UNIQUE (name, step, seed));
CREATE TABLE IF NOT EXISTS points (
    curve INTEGER NOT NULL, step INTEGER NOT NULL, removed INTEGER NOT NULL, "left" INTEGER NOT NULL,
    parameters INTEGER NOT NULL, macs INTEGER NOT NULL, validation_accuracy REAL NOT NULL,
    test_accuracy REAL, widths TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (curve, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scratch (
    spec TEXT NOT NULL, seed INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (spec, seed));
"""


class Trained(Record):
    """A network as training left it: a baseline, or a small one from nothing.

    Attributes:
        spec: that builds it (`lenet:9-20-90`).
        seed: of its weights and of the order of images.
        digest: of its weights.
        parameters: trainable values.
        macs: for one image.
        validation_accuracy: percent.
        test_accuracy: percent; it decides nothing.
        iterations: updates that it was trained for.
        seconds: wall time of the training, 0 where it came from the cache.
    """

    spec: str
    seed: int
    digest: str
    parameters: int
    macs: int
    validation_accuracy: float
    test_accuracy: float
    iterations: int
    seconds: float


class Walked(Record):
    """How a curve ended.

    Attributes:
        curve: how it was pruned.
        status: `diverged` where retraining ended in NaN, `failed` at any other error.
        message: of the error, with its traceback; empty for a curve that is done.
        points: of a curve that is done.
    """

    curve: Curve
    status: Ending
    message: str = ""
    points: tuple[Point, ...] = ()

    @property
    def seconds(self) -> float:
        """Wall time of all its steps."""
        return sum(point.seconds for point in self.points)

    @property
    def trouble(self) -> str:
        """The last line of the message."""
        return self.message.strip().rpartition("\n")[2]


def key_of(curve: Curve) -> tuple[str, str, int]:
    """What tells curves apart: name, channels of a step, seed."""
    return curve.name, curve.step, curve.seed


class PruningStore(LockedStore):
    """The file of one reproduction.

    Args:
        path: of the database.
        write: make it if need be, and lock it against other writers.

    Raises:
        DataError: no such file, something else, or of a newer version.
        UsageError: another process writes to it.
    """

    VERSION = 1
    TABLES = TABLES
    NAME, MAKER, WORK = "a reproduction of pruning", "tersa reproduce pruning", "pruning"

    def add(self, walked: Walked) -> None:
        """Store how a curve ended, in one transaction; what it had before is replaced."""
        key = key_of(walked.curve)
        holes = ", ".join("?" * (len(POINT) + 1))
        rows = [[getattr(point, name) for name in POINT] for point in walked.points]
        with transaction(self.connection, self.path) as connection:
            old = connection.execute(
                "SELECT id FROM curves WHERE name = ? AND step = ? AND seed = ?", key
            ).fetchall()
            connection.executemany("DELETE FROM points WHERE curve = ?", old)
            connection.executemany("DELETE FROM curves WHERE id = ?", old)
            place = connection.execute(
                "INSERT INTO curves (name, step, seed, json, status, message) VALUES (?, ?, ?, ?, ?, ?)",
                (*key, walked.curve.model_dump_json(), walked.status, walked.message),
            ).lastrowid
            connection.executemany(f"INSERT INTO points VALUES ({holes})", [[place, *row] for row in rows])

    def keep_baseline(self, trained: Trained) -> None:
        """Store the network that the curves of a seed start from."""
        with transaction(self.connection, self.path) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO baselines VALUES (?, ?)", (trained.seed, trained.model_dump_json())
            )

    def keep_scratch(self, trained: Trained) -> None:
        """Store a small network that was trained from nothing."""
        with transaction(self.connection, self.path) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO scratch VALUES (?, ?, ?)",
                (trained.spec, trained.seed, trained.model_dump_json()),
            )

    def baselines(self) -> dict[int, Trained]:
        """By seed."""
        rows = self.rows("SELECT seed, json FROM baselines ORDER BY seed")
        return {seed: self._trained(text) for seed, text in rows}

    def scratch(self) -> dict[tuple[str, int], Trained]:
        """By spec and seed."""
        rows = self.rows("SELECT spec, seed, json FROM scratch ORDER BY spec, seed")
        return {(spec, seed): self._trained(text) for spec, seed, text in rows}

    def curves(self) -> list[Walked]:
        """Every curve that has ended, with its points, in the order in which they ended."""
        found: list[Walked] = []
        columns = ", ".join(f'"{name}"' for name in POINT)
        for place, text, status, message in self.rows(
            "SELECT id, json, status, message FROM curves ORDER BY id"
        ):
            rows = self.rows(f"SELECT {columns} FROM points WHERE curve = ? ORDER BY step", place)
            with asking(self.path):
                points = tuple(Point.model_validate(dict(zip(POINT, row, strict=True))) for row in rows)
                curve = Curve.model_validate_json(text)
                found.append(Walked(curve=curve, status=status, message=message, points=points))
        return found

    def _trained(self, text: str) -> Trained:
        with asking(self.path):
            return Trained.model_validate_json(text)
