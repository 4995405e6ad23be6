"""Do our latencies agree with those of the runtimes' own tools, on the same files?

    python benchmarks/runtimes_own_tools.py --rounds 9

For LeNet (FP32, INT8), ResNet-20 and MobileNet at 32x32, one image, one thread: the median of `tersa bench`'s
timing against OpenVINO's benchmark_app (synchronous, one stream) and against a plain loop over ONNX Runtime's
Python API. Ours and theirs take turns, half a second each; the ratio is the median over rounds of ours /
theirs with its bootstrap interval.

benchmark_app reads the library's own clock (`InferRequest.latency`), ours includes the call from Python,
which any user of the Python API pays: checking the input, passing it, waking the thread that works, copying
the logits out. What that is, is measured on the same network: `call ms` is the median of Python's time of a
call minus the library's own time of the same call. `explained` is (ours - call) / theirs, and has to lie
within 5 % where the plain ratio does not. Writes `results/runtimes_own_tools.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from tersa.export.artefact import Artefact, Header
from tersa.export.int8 import Calibration
from tersa.export.onnx import export_onnx
from tersa.files import write_atomic
from tersa.models import build
from tersa.numerics import bootstrap_interval
from tersa.targets.base import Effort
from tersa.targets.environment import environment
from tersa.targets.openvino_cpu import load_openvino
from tersa.targets.rounds import time_sides
from tersa.targets.worker import Order, Worker, pack

RESULTS = Path(__file__).parent / "results" / "runtimes_own_tools.csv"
NETWORKS = (
    ("lenet", (1, 28, 28), "fp32"),
    ("lenet", (1, 28, 28), "int8"),
    ("resnet:20", (3, 32, 32), "fp32"),
    ("mobilenet:1.0", (3, 32, 32), "fp32"),
)
AGREE = 0.05
APP = (
    "import sys; sys.modules['openvino_telemetry'] = None; "
    "from openvino.tools.benchmark.main import main; main()"
)
"""benchmark_app without the package that reports its use."""


def files(folder: Path) -> list[Artefact]:
    """The networks as files."""
    found: list[Artefact] = []
    for index, (spec, shape, precision) in enumerate(NETWORKS):
        header = Header(tuple("0123456789"), shape, (0.4,) * shape[0], (0.3,) * shape[0])
        images = np.random.default_rng(0).random((64, *shape), dtype=np.float32)
        found.append(
            export_onnx(
                build(spec, shape, 10),
                header,
                folder / f"{index}.onnx",
                precision=precision,
                calibration=Calibration(images) if precision == "int8" else None,
            )
        )
    return found


def benchmark_app(artefact: Artefact, seconds: float) -> float:
    """Median milliseconds of a call by OpenVINO's own tool."""
    shape = ",".join(map(str, (1, *artefact.header.shape)))
    options = ["-m", str(artefact.path), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1"]
    options += ["-nthreads", "1", "-infer_precision", "f32", "-t", str(max(1, round(seconds)))]
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-c", APP, *options, "-data_shape", f"[{shape}]", "-shape", f"[{shape}]"],
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )
    median = re.search(r"Median:\s+([0-9.]+) (ms|us)", done.stdout)
    if not median:
        sys.exit(f"benchmark_app gave no median: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return float(median[1]) * (1.0 if median[2] == "ms" else 1e-3)


def by_hand(artefact: Artefact) -> Callable[[float], float]:
    """A loop over ONNX Runtime's Python API, one time for each call, as its documentation shows it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artefact.path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    image = np.random.default_rng(0).random((1, *artefact.header.shape), dtype=np.float32)

    def median(seconds: float) -> float:
        times, end = [], time.perf_counter() + seconds
        for _ in range(20):
            session.run(None, {name: image})
        while time.perf_counter() < end:
            start = time.perf_counter()
            session.run(None, {name: image})
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    return median


def ours(worker: Worker, seconds: float) -> float:
    """Median milliseconds of a call as `tersa bench` times it."""
    [timing] = time_sides([worker], Effort(seconds=seconds, warmup_seconds=0.2))
    return float(np.median(timing.times_ms))


def compare(
    artefact: Artefact, target: str, theirs: Callable[[float], float], rounds: int, seconds: float
) -> dict:
    """Both in turn: medians and the interval of the ratio."""
    image = np.random.default_rng(0).random((1, *artefact.header.shape), dtype=np.float32)
    mine, others = [], []
    with Worker(Order(target, "m", artefact.header.precision, pack(artefact, target))) as worker:
        worker.first(image)
        for turn in range(rounds):
            for side in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
                if side == "ours":
                    mine.append(ours(worker, seconds))
                else:
                    others.append(theirs(seconds))
    ratios = np.array(mine) / np.array(others)
    low, high = bootstrap_interval(ratios[:, None], lambda draws: np.median(draws[..., 0], axis=1))
    return {
        "ours_ms": statistics.median(mine),
        "theirs_ms": statistics.median(others),
        "ratio": float(np.median(ratios)),
        "low": low,
        "high": high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = environment(threads=1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="tersa.") as name:
        folder = Path(name)
        for (spec, shape, precision), artefact in zip(NETWORKS, files(folder), strict=True):
            hand = by_hand(artefact)
            sides = (("openvino", "benchmark_app", None), ("onnxruntime", "python loop", hand))
            for target, tool, run in sides:
                theirs = run or (lambda seconds, artefact=artefact: benchmark_app(artefact, seconds))
                found = compare(artefact, target, theirs, options.rounds, options.seconds)
                call = call_ms(artefact, options.seconds) if target == "openvino" else 0.0
                explained = (found["ours_ms"] - call) / found["theirs_ms"]
                agrees = min(abs(found["ratio"] - 1), abs(explained - 1)) <= AGREE
                told = {
                    "network": spec,
                    "shape": "x".join(map(str, shape)),
                    "precision": precision,
                    "runtime": target,
                    "tool": tool,
                    **found,
                    "call_ms": call,
                    "explained": explained,
                    "agrees": agrees,
                    "rounds": options.rounds,
                    "processor": machine.processor,
                    "date": machine.date,
                    "commit": machine.commit,
                }
                rows.append(told)
                print(
                    f"{spec:14s} {precision} {target:12s} ours {found['ours_ms']:.4f} ms, {tool} "
                    f"{found['theirs_ms']:.4f} ms, ratio {found['ratio']:.3f} "
                    f"({found['low']:.3f} to {found['high']:.3f}); the call from Python {call:.4f} ms, "
                    f"without it {explained:.3f}",
                    flush=True,
                )
    text = [
        rows[0].keys(),
        *([f"{v:.5g}" if isinstance(v, float) else v for v in row.values()] for row in rows),
    ]
    with tempfile.TemporaryFile("w+", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(text)
        file.seek(0)
        write_atomic(options.out, file.read())
    within = sum(abs(float(str(row["ratio"])) - 1) <= AGREE for row in rows)
    explained = sum(bool(row["agrees"]) for row in rows)
    print(
        f"within 5 %: {within} of {len(rows)}; within 5 % or explained by the call from Python: {explained}"
    )


def call_ms(artefact: Artefact, seconds: float) -> float:
    """Milliseconds that a call of OpenVINO from Python takes beside the library's own time of it.

    On one core, as `tersa bench` runs it: the caller and the library's worker take turns there.
    """
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # threads that are made from here on stay there, too
    try:
        core = load_openvino().Core()
        request = core.compile_model(artefact.path, "CPU", settings | {"ENABLE_CPU_PINNING": False})
        request = request.create_infer_request()
        image = np.random.default_rng(0).random((1, *artefact.header.shape), dtype=np.float32)
        beside, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            np.array(request.infer([image], share_inputs=True)[0])
            beside.append(1e3 * (time.perf_counter() - start) - request.latency)
        return statistics.median(beside)
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
