"""How long does `tersa` take to say anything?

    python benchmarks/startup.py --rounds 15

Each round starts, one after another, an interpreter that does nothing, one that imports tersa, and
`tersa --help`; times are medians over rounds, of the wall clock and of the processor. Asked: `--help` under
0.3 s, the import under 0.1 s (less what the interpreter takes itself), and neither imports torch or numpy.
What was imported is read from the interpreter (`-X importtime`). Writes `results/startup.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "startup.csv"
HELP = [sys.executable, "-m", "tersa", "--help"]
STARTS = {
    "python": [sys.executable, "-c", "pass"],
    "import tersa": [sys.executable, "-c", "import tersa"],
    "tersa --help": HELP,
}
HEAVY = ("torch", "numpy", "numba", "onnx", "pydantic")


def start(command: list[str]) -> tuple[float, float]:
    """Seconds of wall clock and processor that a command takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(command: list[str]) -> set[str]:
    """Packages that a command imports."""
    listed = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(listed, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = environment(threads=1)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for command in STARTS.values():
        start(command)  # compiled files and the disk's cache
    for _ in range(options.rounds):
        for name, command in STARTS.items():
            times[name].append(start(command))
    rows: list[dict[str, object]] = []
    for name, command in STARTS.items():
        heavy = sorted(imported(command) & set(HEAVY))
        wall, processor = (statistics.median(column) for column in zip(*times[name], strict=True))
        rows.append(
            {
                "start": name,
                "wall_s": f"{wall:.3f}",
                "processor_s": f"{processor:.3f}",
                "rounds": options.rounds,
                "imports": " ".join(heavy),
                "load": f"{os.getloadavg()[0]:.1f}",
                "processor": machine.processor,
                "python": platform.python_version(),
                "date": machine.date[:10],
            }
        )
        heavies = ", ".join(heavy) or "nothing heavy"
        print(f"{name:14s} {wall:.3f} s, processor {processor:.3f} s; imports {heavies}")
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
