"""How much faster do runs train together than one by one?

    python benchmarks/study_throughput.py --rounds 7

28 cells of one network (document 000's grid: 2 quantisers x 2 ranges x 7 bit widths) are trained on MNIST for
a few updates in six ways, which take turns:

    stack-1, stack-2      the study engine, one process with 1 thread and with 2
    stack-2x1             the study engine, two processes of 14 cells with 1 thread each
    loop-1, loop-2        28 plain PyTorch loops one after the other (nn.Sequential, Adadelta(foreach=True),
                          weights snapped by tensor operations after each step), one process with 1 thread
                          and with 2
    loop-2x1              the same, two processes of 14 cells with 1 thread each

Both train the same cells on the same batches, held in memory. A ratio is that of the medians over rounds.
`products` is the time that the matrix products of one update alone would take at this machine's rate for
large products (1 thread), beside its share of stack-1.

    python benchmarks/study_throughput.py --grid

times each of document 000's rules in the same two processes, with its evaluations, and extrapolates the full
grid of 1,344 runs (two data sets) from that sample.

Writes `results/study_throughput.csv` and `results/study_grid.csv`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import multiprocessing as mp
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from tersa.data import load
from tersa.rules.products import product
from tersa.rules.registry import rule as rule_of
from tersa.study.cell import Cell
from tersa.study.measure import Workload
from tersa.study.stack import network_for
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "study_throughput.csv"
GRID = RESULTS.with_name("study_grid.csv")
NETWORKS = {
    "1x4": "mlp:4",
    "6x20": "mlp:" + "x".join(["20"] * 6),
    "2x50": "mlp:50x50",
    "3x50": "mlp:50x50x50",
    "2x100": "mlp:100x100",
    "3x100": "mlp:100x100x100",
}
RULES = ("bp", "fa-document", "dni-document", "hsic-document")
DATA_SETS = 2
SINGLE, THREE = "against best single process", "against best of three"
WAYS = ("stack-1", "loop-1", "stack-2", "loop-2", "stack-2x1", "loop-2x1")


def cells(model: str, rule: str = "bp") -> list[Cell]:
    """The document's grid for one network."""
    return [
        Cell(model=model, rule=rule, quant=quant, range=where, bits=bits)
        for quant in ("symmetric", "asymmetric")
        for where in ("global", "layer")
        for bits in range(2, 9)
    ]


def snap(x: Tensor, cell: Cell) -> Tensor:
    """What a user would write: the documents' formulas in tensor operations."""
    if cell.quant == "symmetric":
        a = 1.0 if cell.range == "global" else x.abs().max()
        q = 2 ** (cell.bits - 1) - 1
        return torch.round(x * (q / a)).clamp(-q, q) * (a / q)
    low, high = (-1.0, 1.0) if cell.range == "global" else (x.min(), x.max())
    m = 2**cell.bits - 1
    return torch.round((x - low) * (m / (high - low))).clamp(0, m) * ((high - low) / m) + low


class Loops:
    """Plain PyTorch: one network after the other."""

    def __init__(self, group: list[Cell], images: Tensor, labels: Tensor) -> None:
        self.group, self.images, self.labels = group, images.flatten(1), labels
        widths = [784, *[int(w) for w in group[0].model.removeprefix("mlp:").split("x")]]
        self.models: list[nn.Module] = []
        for cell in group:
            torch.manual_seed(cell.seed)
            layers: list[nn.Module] = []
            for inputs, outputs in itertools.pairwise(widths):
                layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            self.models.append(nn.Sequential(*layers, nn.Linear(widths[-1], 10)))
        self.optimizers = [torch.optim.Adadelta(m.parameters(), lr=1.0, foreach=True) for m in self.models]

    def __call__(self, updates: int) -> None:
        """That many updates of every network."""
        for cell, model, optimizer in zip(self.group, self.models, self.optimizers, strict=True):
            for k in range(updates):
                index = torch.arange(64 * k, 64 * k + 64)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(self.images[index]), self.labels[index])
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.copy_(snap(parameter, cell))


@dataclass(frozen=True)
class Order:
    """What a worker shall time.

    Attributes:
        way: one of `WAYS`.
        model: of the zoo.
        updates: how many; 0 for one evaluation of the test split.
        rule: of the registry.
        phase: of the rule, by its place.
    """

    way: str
    model: str
    updates: int
    rule: str = "bp"
    phase: int = 0


def _worker(pipe: Connection, half: int) -> None:
    """Serve timings: an `Order` in, then "go", seconds out; what it made last is kept warm."""
    task = load("mnist")
    images, labels = task.normalise(task.train.images), task.train.labels
    made: dict[tuple[object, ...], Workload | Loops] = {}
    while (order := pipe.recv()) is not None:
        kind, count = order.way.split("-")
        threads = 1 if count == "2x1" else int(count)
        key = (kind, order.model, count == "2x1", order.rule, order.phase)
        if key not in made:
            if len(made) > len(WAYS):
                made.clear()
            group = (
                cells(order.model, order.rule)[half::2] if count == "2x1" else cells(order.model, order.rule)
            )
            made[key] = (
                Workload(group, task, phase=order.phase) if kind == "stack" else Loops(group, images, labels)
            )
            made[key](3)
        torch.set_num_threads(threads)
        pipe.send("ready")
        pipe.recv()
        work = made[key]
        started = time.perf_counter()
        if isinstance(work, Loops):
            work(order.updates)
        elif order.updates:
            work(order.updates, threads=threads)
        else:
            work.evaluate(threads=threads)
        pipe.send(time.perf_counter() - started)


class Workers:
    """Two processes that do the same work, or halves of it, at the same time."""

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        self.pipes: list[Connection] = []
        for half in range(2):
            ours, theirs = context.Pipe()
            context.Process(target=_worker, args=(theirs, half), daemon=True).start()
            self.pipes.append(ours)

    def end(self) -> None:
        """Let both processes finish."""
        for pipe in self.pipes:
            pipe.send(None)

    def seconds(self, order: Order) -> float:
        """Wall time of an order, of the slower process where both work."""
        pipes = self.pipes if order.way.endswith("2x1") else self.pipes[:1]
        for pipe in pipes:
            pipe.send(order)
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        return max(pipe.recv() for pipe in pipes)


def product_rate(multiply: Callable[[Tensor, Tensor], Tensor], size: int = 1536) -> float:
    """Multiply-accumulates per second of a large product on one thread, the best of 10."""
    torch.set_num_threads(1)
    a = torch.randn(size, size)
    times: list[float] = []
    for _ in range(10):
        started = time.perf_counter()
        multiply(a, a)
        times.append(time.perf_counter() - started)
    return size**3 / min(times)


def products(model: str) -> int:
    """Multiply-accumulates of an update of 28 cells at batch 64: forward, weights, errors but the first."""
    widths = [784, *[int(w) for w in model.removeprefix("mlp:").split("x")], 10]
    pairs = list(itertools.pairwise(widths))
    return 28 * 64 * (3 * sum(a * b for a, b in pairs) - pairs[0][0] * pairs[0][1])


def throughput(workers: Workers, rounds: int, wanted: int) -> None:
    """Stacks against loops for every network."""
    rates = {"torch.mm": product_rate(torch.mm), "oneDNN": product_rate(product)}
    rate, machine = max(rates.values()), environment(1)
    print(", ".join(f"{name} {2 * each / 1e9:.0f} GFLOP/s" for name, each in rates.items()), "on one thread")
    rows: list[dict[str, object]] = []
    for name, model in NETWORKS.items():
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                updates = wanted * (5 if way.startswith("stack") else 1)
                times[way].append(workers.seconds(Order(way, model, updates)) / updates * 1e3)
        median = {way: statistics.median(each) for way, each in times.items()}
        stack = {way: value for way, value in median.items() if way.startswith("stack")}
        loop = {way: value for way, value in median.items() if way.startswith("loop")}
        ideal = products(model) / rate * 1e3
        row: dict[str, object] = {"network": name, "cells": 28, "batch": 64}
        row |= {f"{way} ms": round(value, 2) for way, value in median.items()}
        row |= {
            SINGLE: round(min(loop["loop-1"], loop["loop-2"]) / min(stack["stack-1"], stack["stack-2"]), 2),
            THREE: round(min(loop.values()) / min(stack.values()), 2),
            "products ms": round(ideal, 2),
            "share of product rate": round(ideal / median["stack-1"], 3),
            "GFLOP/s": round(2 * rate / 1e9, 1),
            "rounds": rounds,
            "processor": machine.processor,
            "torch": machine.versions["torch"],
            "date": machine.date[:10],
        }
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in list(row.items())[:13]), flush=True)
    _write(RESULTS, rows)
    for label in (SINGLE, THREE):
        mean = math.exp(statistics.fmean(math.log(float(str(row[label]))) for row in rows))
        print(f"{label}, geometric mean over {len(rows)} networks: {mean:.1f}x")


def grid(workers: Workers, rounds: int, updates: int) -> None:
    """Hours of document 000's whole study, extrapolated per rule and network from a sample."""
    task, machine = load("mnist"), environment(1)
    rows: list[dict[str, object]] = []
    for rule in RULES:
        for name, model in NETWORKS.items():
            cell = cells(model, rule)[0]
            phases = rule_of(rule).phases(network_for(cell, task))
            seconds = 0.0
            for place, phase in enumerate(phases):
                epochs = cell.epochs if phase.epochs is None else phase.epochs
                order = Order("stack-2x1", model, updates, rule, place)
                steps = [workers.seconds(order) / updates for _ in range(rounds)]
                looks = [workers.seconds(replace(order, updates=0)) for _ in range(rounds)]
                images = len(task.train) + len(task.validation)
                seconds += epochs * math.ceil(images / cell.batch) * statistics.median(steps)
                seconds += epochs * 2 * statistics.median(looks)  # the test split, and as many of train
            row: dict[str, object] = {
                "rule": rule,
                "network": name,
                "runs": 28 * DATA_SETS,
                "hours": round(seconds * DATA_SETS / 3600, 3),
                "rounds": rounds,
                "processor": machine.processor,
                "date": machine.date[:10],
            }
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in list(row.items())[:4]), flush=True)
    _write(GRID, rows)
    hours = {rule: sum(float(str(row["hours"])) for row in rows if row["rule"] == rule) for rule in RULES}
    for rule, each in hours.items():
        print(f"{rule}: {each:.2f} hours for {28 * DATA_SETS * len(NETWORKS)} runs")
    others = sum(each for rule, each in hours.items() if not rule.startswith("hsic"))
    print(f"BP, FA and DNI together {others:.2f} hours, HSIC {hours['hsic-document']:.2f} hours")


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=20, help="of a loop; stacks make five times as many")
    parser.add_argument("--grid", action="store_true", help="extrapolate the full grid instead")
    arguments = parser.parse_args()
    work, workers = grid if arguments.grid else throughput, Workers()
    work(workers, arguments.rounds, arguments.updates)
    workers.end()


if __name__ == "__main__":
    main()
