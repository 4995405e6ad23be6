"""How long do the caches take to come back after another network ran?

    python benchmarks/cache_recovery.py [--turns 200] [--calls 12]

Two processes of one file (LeNet on 28x28 images, 13 MB of weights, ONNX Runtime, one thread), on one core,
take turns of some calls: A B, B A, A B, ... Each call is timed. Printed are the medians of a turn's first
call, of the second, ..., over that of the last, once where the process itself ran just before and once where
the other one did; then by how much that lengthens eight calls after one untimed call. It is what the untimed
calls of `tersa.targets.rounds` leave out. Writes `results/cache_recovery.csv`.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime

from tersa.export.artefact import Header
from tersa.export.onnx import export_onnx
from tersa.models import build
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "cache_recovery.csv"
TIMED = 8


def serve(path: str, pipe: Connection, core: int) -> None:
    """Time so many calls as are asked for, one by one."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.zeros((1, 1, 28, 28), np.float32)}
    while calls := pipe.recv():
        times = [time.perf_counter()]
        for _ in range(calls):
            session.run(None, feed)
            times.append(time.perf_counter())
        pipe.send(np.diff(times))


def measured(path: Path, turns: int, calls: int) -> dict[str, np.ndarray]:
    """Times of the calls, (turns, calls), after the process itself and after the other one."""
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(str(path), theirs, 0), daemon=True).start()
        pipes.append(ours)
        ours.send(50)
        ours.recv()
    found: dict[str, list[np.ndarray]] = {"itself": [], "the other": []}
    for turn in range(turns):
        order = pipes if turn % 2 == 0 else pipes[::-1]
        for after, pipe in zip(found, order, strict=True):
            pipe.send(calls)
            found[after].append(pipe.recv())
    for pipe in pipes:
        pipe.send(0)
    return {after: np.array(times[2:]) for after, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--calls", type=int, default=12)
    asked = parser.parse_args()
    header, machine = Header(tuple("0123456789"), (1, 28, 28), (0.13,), (0.31,)), environment(threads=1)
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        artefact = export_onnx(build("lenet", header.shape, 10), header, Path(folder) / "net.onnx")
        times = measured(artefact.path, asked.turns, asked.calls)
    rows: list[tuple[object, ...]] = []
    for after, each in times.items():
        medians = np.median(each, axis=0)
        relative = medians / medians[-1]
        print(f"after {after:10}", " ".join(f"{one:.2f}" for one in relative))
        rows += [
            (after, call, f"{1e3 * ms:.4f}", f"{one:.3f}", machine.processor, machine.date, machine.commit)
            for call, (ms, one) in enumerate(zip(medians, relative, strict=True))
        ]
    seen = {after: float(np.median(each[:, 1 : 1 + TIMED].mean(1))) for after, each in times.items()}
    longer = 100 * (seen["the other"] / seen["itself"] - 1)
    print(f"{TIMED} calls after one untimed call: {longer:.0f} % longer after the other than after itself")
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("after", "call", "ms", "over_last", "processor", "date", "commit"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
