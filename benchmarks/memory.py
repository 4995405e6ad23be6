"""Peak memory of each command, measured from outside: `python benchmarks/memory.py [--data digits] [--slow]`.

Every command runs in a process of its own; the peak is that of its largest process, as the kernel counts
it (`ru_maxrss`: resident memory, shared libraries included). Prints a table and a last line with the largest,
and writes `benchmarks/results/memory.csv`. Nothing here is a limit: the ceilings stand in
`docs/reliability.md`, and `tests/hardening/test_memory.py` holds the commands under them.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "memory.csv"
MB = 1_000_000
BENCH = ["--targets", "onnxruntime", "--seconds", "0.1"]
STUDY = ["--model", "mlp:100x100", "--epochs", "1", "--bits", "2,3,4,8", "--seeds", "1", "--workers", "1"]


def commands(data: str, folder: Path) -> dict[str, list[str]]:
    """One small job for each verb, on `data`; later ones use what earlier ones made."""
    net = ["--data", data, "--model", "lenet", "--epochs", "1", "--threads", "1"]
    run = folder / "train"
    return {
        "data show": ["data", "show", data, "--out", str(folder / "samples.png")],
        "train": ["train", *net, "--out", str(run)],
        "export": ["export", "--run", str(run), "--out", str(folder / "net.onnx")],
        "predict": ["predict", str(folder / "net.onnx"), str(folder / "image.npy"), "--resize"],
        "bench": ["bench", str(folder / "net.onnx"), "--data", data, *BENCH],
        "study run": ["study", "run", "--data", data, *STUDY, "--out", str(folder / "study")],
        "report": ["report", str(run)],
    }


def slow(data: str, folder: Path) -> dict[str, list[str]]:
    """Jobs of minutes."""
    net = ["--data", data, "--model", "lenet", "--epochs", "1", "--threads", "1"]
    net += ["--tune", "20", "--measure-seconds", "0.1"]
    fp32 = ["--precision", "fp32"]
    return {
        "shrink": [
            "shrink",
            *net,
            *fp32,
            "--max-loss",
            "20",
            "--retrain",
            "8",
            "--out",
            str(folder / "shrink"),
        ],
        "prune": [
            "prune",
            *net,
            *fp32,
            "--parameters",
            "0.5x",
            "--retrain",
            "8",
            "--out",
            str(folder / "prune"),
        ],
        "adapt": ["adapt", *net, "--macs", "0.5x", "--out", str(folder / "adapt")],
    }


def peak(words: list[str], cache: Path) -> int:
    """Bytes at the peak of one command."""
    command = [sys.executable, "-m", "tersa", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERSA_CACHE": str(cache)}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"tersa {' '.join(words)}: exit code {process.returncode}")
    return usage.ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--slow", action="store_true", help="shrink, prune and adapt too")
    given = parser.parse_args()
    rows: list[tuple[str, str, int]] = []
    with tempfile.TemporaryDirectory() as name:
        import numpy as np

        folder = Path(name)
        np.save(folder / "image.npy", np.zeros((64, 64), np.uint8))
        jobs = commands(given.data, folder) | (slow(given.data, folder) if given.slow else {})
        for verb, words in jobs.items():
            rows.append((verb, given.data, peak(words, folder / "cache")))
            print(f"tersa {verb:10} {given.data:14} {rows[-1][2] / MB:6.0f} MB", flush=True)
    keep(rows)
    verb, _, most = max(rows, key=lambda row: row[2])
    print(f"the most: tersa {verb}, {most / MB:.0f} MB")


def keep(rows: list[tuple[str, str, int]]) -> None:
    """Rows of other data stay in the file."""
    old: list[list[str]] = []
    if RESULTS.exists():
        old = list(csv.reader(RESULTS.read_text(encoding="utf-8").splitlines()))[1:]
    new = {(verb, data): [verb, data, str(round(size / MB))] for verb, data, size in rows}
    kept = [row for row in old if (row[0], row[1]) not in new]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["verb", "data", "peak_mb"])
        writer.writerows(sorted([*kept, *new.values()]))


if __name__ == "__main__":
    main()
