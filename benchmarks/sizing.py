"""How many runs does a core train in an hour, and how far does a study spread?

    python benchmarks/sizing.py                    # about 3 minutes on a quiet machine
    python benchmarks/sizing.py --device cuda      # the same of one GPU
    python benchmarks/sizing.py --project          # print the projection again, measure nothing

Stacks of document 000's rules and networks (MNIST, 30 epochs, its quantised settings) are timed at three
sizes by `tersa.study.pace`: a few updates of every phase and an evaluation, times how many there are. Writes
`results/sizing.csv`, then prints and writes what follows from it:

    sizing_hourly_cpu.csv    runs an hour of one core, by rule, in the largest of these stacks: mean, least
                             and most over the six networks; `sizing_hourly_cuda.csv` of one GPU
    sizing_projection.csv    the document's 672 quantised runs on more and more cores: they are cut into
                             stacks as `tersa study run --workers N` cuts them, a stack's seconds are
                             interpolated between the measured sizes, and the longest stacks go first;
                             `busy` is the share of the cores' time that one core would need, in percent;
                             likewise with ten seeds
    sizing_start.csv         seconds of a worker until its first batch is trained

A projection, not a measurement: cores of one kind with memory of their own, workers that are up.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tersa.data import load
from tersa.recipes.quantized_training import BITS, MODELS, QUANTISERS, RANGES, RULES
from tersa.study.cell import Cell
from tersa.study.launch import cut
from tersa.study.pace import makespan, stack_seconds
from tersa.study.stacked import capacity, cost
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "sizing.csv"
COLUMNS = ("rule", "model", "runs", "seconds", "device", "processor", "date")
SIZES = (1, 7, 28)
GPU_SIZES = (1, 28, 64)
CORES = (1, 2, 8, 64, 256, 1024, 4096)
Measured = dict[tuple[str, str], list[tuple[int, float]]]

FIRST_BATCH = """
from tersa.data import load
from tersa.study.cell import Cell
from tersa.study.measure import Workload
Workload([Cell(data="mnist", model="mlp:4", quant="symmetric")], load("mnist"))(1)
"""


def cells(rule: str, model: str, seeds: int = 1) -> list[Cell]:
    """A rule's quantised runs of one network."""
    return [
        Cell.model_validate(
            {"data": "mnist", "rule": rule, "model": model, "quant": quant, "range": reach, "bits": bits}
            | {"seed": seed}
        )
        for quant in QUANTISERS
        for reach in RANGES
        for bits in BITS
        for seed in range(1, seeds + 1)
    ]


def measure(device: str) -> list[tuple[object, ...]]:
    """Rows of the file."""
    task, here = load("mnist"), environment(1)
    rows: list[tuple[object, ...]] = []
    for rule in RULES:
        for model in MODELS:
            for size in GPU_SIZES if device != "cpu" else SIZES:
                seconds = stack_seconds(cells(rule, model, 3)[:size], task, device=device)
                rows.append((rule, model, size, round(seconds, 2), device, here.processor, here.date[:10]))
                print(f"{rule:14} {model:24} {size:3} runs {seconds:8.1f} s", flush=True)
    return rows


def seconds_of(measured: list[tuple[int, float]], runs: int) -> float:
    """Seconds of a stack of so many runs, linear between the measured sizes and beyond them."""
    for (low, first), (high, second) in pairwise(measured):
        if runs <= high or (high, second) == measured[-1]:
            return first + (second - first) * (runs - low) / (high - low)
    raise ValueError("no sizes were measured")


def project(measured: Measured, cores: int, seeds: int) -> tuple[float, int]:
    """Seconds of the document's quantised runs on that many cores, and in how many stacks."""
    every = [cell for rule in RULES for model in MODELS for cell in cells(rule, model, seeds)]
    costs = {(rule, model): cost(cells(rule, model)[0]) for rule in RULES for model in MODELS}
    stacks = cut(every, capacity, lambda cell: costs[cell.rule, cell.model], cores)
    parts = [seconds_of(measured[each[0].rule, each[0].model], len(each)) for each in stacks]
    return makespan(parts, cores), len(stacks)


def read(device: str) -> Measured:
    """What is in the file, of one device."""
    found: Measured = defaultdict(list)
    with RESULTS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["device"] == device:
                found[row["rule"], row["model"]].append((int(row["runs"]), float(row["seconds"])))
    return {key: sorted(sizes) for key, sizes in found.items()}


def start_seconds() -> float:
    """Of a worker, until its first batch is trained: the middle of three."""
    found: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_BATCH], check=True)
        found.append(time.perf_counter() - began)
    return sorted(found)[1]


def hourly(measured: Measured) -> list[tuple[object, ...]]:
    """Runs an hour in the largest stacks, by rule: mean, least and most over the networks."""
    rows: list[tuple[object, ...]] = []
    for rule in RULES:
        own = [sizes[-1] for (name, _), sizes in measured.items() if name == rule]
        found = [3600 * runs / seconds for runs, seconds in own]
        rows.append(
            (rule, own[0][0], *(round(each) for each in (sum(found) / len(found), min(found), max(found))))
        )
    return rows


def projection(measured: Measured) -> list[tuple[object, ...]]:
    """The document's quantised runs on more and more cores, with one seed and with ten."""
    rows: list[tuple[object, ...]] = []
    for seeds in (1, 10):
        alone, _ = project(measured, 1, seeds)
        for cores in CORES:
            seconds, stacks = project(measured, cores, seeds)
            busy = 100 * alone / (seconds * cores)
            rows.append((672 * seeds, cores, round(seconds / 60, 1), stacks, round(busy)))
    return rows


def tell(device: str) -> None:
    """Print and keep what follows from the file."""
    measured = read(device)
    if not measured:
        print(f"nothing measured on {device} yet")
        return
    tables = [(f"sizing_hourly_{device}.csv", ("rule", "stack", "mean", "least", "most"), hourly(measured))]
    if device == "cpu":
        columns = ("runs", "cores", "minutes", "stacks", "busy")
        tables.append(("sizing_projection.csv", columns, projection(measured)))
        tables.append(("sizing_start.csv", ("seconds",), [(round(start_seconds(), 1),)]))
    for name, columns, rows in tables:
        with RESULTS.with_name(name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])
        print(
            f"\n{name}\n" + "\n".join("  ".join(f"{cell!s:>13}" for cell in row) for row in [columns, *rows])
        )


def main() -> None:
    """Measure, write, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--project", action="store_true", help="tell from the file, measure nothing")
    asked = parser.parse_args()
    if not asked.project:
        rows = measure(asked.device)
        kept: list[list[object]] = []
        if RESULTS.is_file():
            with RESULTS.open(newline="", encoding="utf-8") as file:
                kept = [list(row.values()) for row in csv.DictReader(file) if row["device"] != asked.device]
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *kept, *rows])
    tell(asked.device)


if __name__ == "__main__":
    main()
