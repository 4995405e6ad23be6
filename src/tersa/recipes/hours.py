"""How long commands of the book take that nobody has run yet, by their own `--dry-run` on one machine.

`hours.csv` is written by `benchmarks/reproduction_hours.py`: each row is a command, its plan's seconds, and
the machine. Plans time a few updates, or count what will be measured; see each verb.

Example:
    >>> about("tersa reproduce nothing")
    ''
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from tersa.report.numbers import plural
from tersa.train.estimate import in_words

HOURS = "hours.csv"
COLUMNS = ("command", "seconds", "cores", "processor", "date")


@dataclass(frozen=True)
class Planned:
    """What a command's plan says.

    Attributes:
        command: as typed.
        seconds: expected.
        cores: of the machine, all at work where the command has workers.
        processor: its name.
        date: day of the plan, ISO 8601.
    """

    command: str
    seconds: float
    cores: int
    processor: str
    date: str


@cache
def planned() -> dict[str, Planned]:
    """Plans by command."""
    path = files("tersa.recipes").joinpath(HOURS)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {
        row["command"]: Planned(
            row["command"], float(row["seconds"]), int(row["cores"]), row["processor"], row["date"]
        )
        for row in csv.DictReader(lines, strict=True)
    }


def about(command: str) -> str:
    """`about 2.1 h on 2 cores of AMD EPYC`; empty for a command without a plan."""
    found = planned().get(command)
    if found is None:
        return ""
    return f"about {in_words(found.seconds)} on {plural(found.cores, 'core')} of {found.processor}"
