"""How long the book's experiments take, by their own plans: what stands beside a value that was not run.

    python benchmarks/reproduction_hours.py

asks every command of the book for its `--dry-run --json`, in an empty folder, and writes
`src/tersa/recipes/hours.csv`. Give it a quiet machine; a command that has no plan here is told and left out.
"""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from tersa.recipes.book import book, missing
from tersa.recipes.hours import COLUMNS, HOURS
from tersa.targets.environment import environment


def seconds(command: str, folder: Path) -> float | None:
    """Of a command's plan; None where it has none here."""
    words = [sys.executable, "-m", *shlex.split(command), "--out", str(folder / "x"), "--dry-run", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        print(f"{command}: {done.stderr.strip()}", file=sys.stderr)
        return None
    return json.loads(done.stdout)["seconds"]


def main() -> None:
    """Write the file."""
    here = environment(1)
    rows: list[tuple[str, str, int, str, str]] = []
    for command in missing(book([])):
        with tempfile.TemporaryDirectory() as folder:
            found = seconds(command, Path(folder))
        print(command, "-" if found is None else f"{found:.0f} s")
        if found is not None:
            rows.append((command, f"{found:.0f}", here.cores, here.processor, here.date[:10]))
    with Path(str(files("tersa.recipes").joinpath(HOURS))).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
