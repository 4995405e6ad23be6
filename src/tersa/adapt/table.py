"""Tables of layers: what single layers take on one machine, measured once, in SQLite, shared by networks.

    latency.db (user cache, or `--table FILE`)
      machines(machine, text, hardware, target)                fingerprint of machine, runtime and options
      points(machine, family, inputs, outputs, ms, rounds)     one row per measured layer
      calls(machine, ms)                                       the empty call
      energies(machine, family, inputs, outputs, mj, calls, counters)   and
      energy_calls(machine, mj, calls, counters)               the same of energy, where it was asked for

What is measured is a `Quantity`, times or energies; each has its own layers and empty call. Energies belong
to the counters that were read, too: where the empty call's were others, a row is not seen.

A row is written as soon as its block is measured, so a killed run loses at most a block. Rows belong to a
machine: the hardware (processor, cores and device) with the runtime, its version and options. Another runtime
or device gets rows of its own in the same file. A file whose rows of the target are all of other hardware is
refused (`choose_machine`) unless the user allows it, and these rows are then never mixed with own ones.

A machine behind ssh tells its own processor and cores, so that rows of an address whose hardware was changed
are other hardware's, too; so are rows of it from older versions, which took the processor of this machine.

Layers are measured with what is around them, which is measured without them and taken off (`measuring.py`);
what a chain of layers saves or adds is left to one factor per network (`resource.py`).

Example:
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "latency.db"
    >>> with TableFile(place) as file:
    ...     file.add(Machine("m1", "one"), [Point("linear", 4, 2, 0.5, 7)])
    ...     file.points("m1")["linear"]
    {(4, 2): 0.5}
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tersa.data.cache import cache_dir
from tersa.database import asking
from tersa.errors import DataError, UsageError
from tersa.export.processor import cpuinfo, processor_name
from tersa.targets.base import Session
from tersa.targets.environment import cores

SCHEMA = 1
NAME = "latency.db"


@dataclass(frozen=True)
class Machine:
    """What measured costs belong to.

    Attributes:
        key: short digest.
        text: everything that it is made of, for messages.
        hardware: processor, cores and device.
        target: runtime and options, without the version.
    """

    key: str
    text: str
    hardware: str = ""
    target: str = ""


@dataclass(frozen=True)
class Quantity:
    """What is measured of layers, and where the file keeps it.

    Attributes:
        layers: SQL table of layers.
        calls: SQL table of empty calls.
        column: of the value in both.
        unit: of it.
        noun: what a value is, in messages.
        alike: condition for a row of a layer to be seen, beside the machine's.
    """

    layers: str
    calls: str
    column: str
    unit: str
    noun: str
    alike: str = "TRUE"


TIMES = Quantity("points", "calls", "ms", "ms", "time")
ENERGIES = Quantity(
    "energies",
    "energy_calls",
    "mj",
    "mJ",
    "energy",
    "counters = (SELECT c.counters FROM energy_calls c WHERE c.machine = energies.machine)",
)

Row = tuple[str | int | float, ...]
"""A row of layers without its machine: family, inputs, outputs, value, and what else the quantity has."""


class Point(NamedTuple):
    """One timed layer.

    Attributes:
        family: `Family.key()`.
        inputs: channels.
        outputs: channels.
        ms: of one call, what is around the layer taken off.
        rounds: of which it is the fastest.
    """

    family: str
    inputs: int
    outputs: int
    ms: float
    rounds: int


def machine_of(session: Session) -> Machine:
    """The fingerprint of the machine and runtime that a session runs on."""
    processor, count = session.hardware or (processor_name(cpuinfo()), cores())
    hardware = {"processor": processor, "cores": str(count), "device": session.device}
    parts = {**hardware, "target": session.target, "runtime": session.runtime}
    text = ", ".join(f"{name} {value}" for name, value in parts.items())
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return Machine(key, text, json.dumps(hardware, sort_keys=True), session.target)


def default_path() -> Path:
    """The table in the user cache."""
    return cache_dir() / NAME


def path_of(asked: str | None) -> Path:
    """The table that is asked for, or the one in the user cache."""
    return Path(asked) if asked else default_path()


class TableFile:
    """An open table.

    Args:
        path: of the SQLite file; it is made where it is missing.

    Raises:
        DataError: the file is no such table, damaged, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{path} cannot be made: {error.strerror}; give another --table, or set TERSA_CACHE"
            ) from None
        with asking(path, DAMAGED):
            self._connection = sqlite3.connect(path, timeout=30)
        try:
            with self._open() as connection:
                _prepare(connection, path)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        """One transaction."""
        with asking(self.path, DAMAGED), self._connection:
            yield self._connection

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def machines(self, of: Quantity = TIMES) -> list[tuple[Machine, int]]:
        """Every machine with the number of its points, the fullest first."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT m.machine, m.text, m.hardware, m.target, COUNT(p.machine) FROM machines m "
                f"LEFT JOIN {of.layers} p USING (machine) GROUP BY m.machine ORDER BY 5 DESC, m.machine"
            ).fetchall()
        return [(Machine(*parts), count) for *parts, count in found]

    def points(self, machine: str, of: Quantity = TIMES) -> dict[str, dict[tuple[int, int], float]]:
        """Everything measured on a machine: family -> (inputs, outputs) -> ms, or mJ.

        Raises:
            DataError: a value that is no number.
        """
        found: dict[str, dict[tuple[int, int], float]] = {}
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT family, inputs, outputs, {of.column} FROM {of.layers} "
                f"WHERE machine = ? AND {of.alike}",
                (machine,),
            ).fetchall()
        for family, inputs, outputs, value in rows:
            self._refuse(value, f"'{family}' at {inputs} to {outputs} channels", of)
            found.setdefault(family, {})[inputs, outputs] = value
        return found

    def _refuse(self, value: object, what: str, of: Quantity) -> None:
        """Only numbers from 0 were stored.

        Raises:
            DataError: another value.
        """
        if not isinstance(value, float) or not math.isfinite(value) or value < 0:
            raise DataError(
                f"{self.path} holds {value} {of.unit} for {what}, which is no {of.noun}; measure again with "
                "tersa adapt --fresh-table, or give another --table"
            )

    def add(self, machine: Machine, points: Iterable[Row], of: Quantity = TIMES) -> None:
        """Store measured points, all or none of them."""
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO machines VALUES (?, ?, ?, ?)", astuple(machine))
            for point in points:
                _insert(connection, of.layers, (machine.key, *point))

    def call(self, machine: str, of: Quantity = TIMES) -> float | None:
        """The empty call, None where it was not measured.

        Raises:
            DataError: a value that is no number.
        """
        with self._open() as connection:
            row = connection.execute(
                f"SELECT {of.column} FROM {of.calls} WHERE machine = ?", (machine,)
            ).fetchone()
        if row is None:
            return None
        self._refuse(row[0], "the empty call", of)
        return row[0]

    def set_call(self, machine: Machine, *values: str | int | float, of: Quantity = TIMES) -> None:
        """Store the empty call: its value, and what else the quantity has."""
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO machines VALUES (?, ?, ?, ?)", astuple(machine))
            _insert(connection, of.calls, (machine.key, *values))

    def counters(self, machine: str) -> str | None:
        """The counters that a machine's energies are of, None where it has none."""
        with self._open() as connection:
            row = connection.execute(
                "SELECT counters FROM energy_calls WHERE machine = ?", (machine,)
            ).fetchone()
        return None if row is None else row[0]

    def drop_damaged(self, machine: str, of: Quantity = TIMES) -> None:
        """Remove a machine's points that are no time, or no energy, which `points` refuses."""
        with self._open() as connection:
            value = of.column
            connection.execute(
                f"DELETE FROM {of.layers} "
                f"WHERE machine = ? AND (typeof({value}) != 'real' OR {value} < 0 OR {value} > ?)",
                (machine, sys.float_info.max),
            )


def _insert(connection: sqlite3.Connection, table: str, row: Row) -> None:
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)


DAMAGED = "{path} is not a latency table ({error}); give another --table"


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file; refuse a newer one."""
    connection.execute("PRAGMA journal_mode=WAL")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA:
        raise DataError(
            f"{path} has schema {version}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS machines (machine TEXT PRIMARY KEY, text TEXT NOT NULL, "
        "hardware TEXT NOT NULL, target TEXT NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS points (machine TEXT, family TEXT, inputs INTEGER, "
        "outputs INTEGER, ms REAL, rounds INTEGER, "
        "PRIMARY KEY (machine, family, inputs, outputs))"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS calls (machine TEXT PRIMARY KEY, ms REAL NOT NULL)")
    connection.execute(  # older versions leave the tables of energies alone: the schema stays theirs
        "CREATE TABLE IF NOT EXISTS energies (machine TEXT, family TEXT, inputs INTEGER, "
        "outputs INTEGER, mj REAL, calls INTEGER, counters TEXT, "
        "PRIMARY KEY (machine, family, inputs, outputs))"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS energy_calls (machine TEXT PRIMARY KEY, mj REAL NOT NULL, "
        "calls INTEGER, counters TEXT)"
    )
    connection.execute(f"PRAGMA user_version={SCHEMA}")


def choose_machine(file: TableFile, own: Machine, *, allow_foreign: bool, of: Quantity = TIMES) -> Machine:
    """Whose points a run reads, and measures what is missing of.

    Args:
        file: the table.
        own: this machine with its runtime.
        allow_foreign: take another machine's points where there are none of this one.
        of: what is read.

    Raises:
        UsageError: the file holds only other hardware's points of the target, and that is not allowed; or it
            is allowed and there are none either.
    """
    there = [(machine, count) for machine, count in file.machines(of) if count]
    alike = [(machine, count) for machine, count in there if machine.target == own.target]
    if any(machine.hardware == own.hardware for machine, _ in alike):
        return own
    if alike and allow_foreign:
        return alike[0][0]
    if allow_foreign and there and not any(machine.hardware == own.hardware for machine, _ in there):
        known = ", ".join(sorted({machine.target for machine, _ in there}))
        raise UsageError(
            f"{file.path} has no layers on {own.target}; it has {known}: take one of these as --target, or "
            "leave out --allow-foreign to measure here"
        )
    if alike and file.path != default_path():  # the user's own table, shared between machines, grows
        other, count = alike[0]
        raise UsageError(
            f"{file.path} was measured elsewhere ({count} layers on {other.text}; here: {own.text}); give "
            "another --table (tersa adapt --allow-foreign uses this one)"
        )
    return own
