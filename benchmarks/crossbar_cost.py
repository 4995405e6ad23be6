"""What does training on a noisy crossbar cost beside training on an ideal one?

    python benchmarks/crossbar_cost.py --rounds 9

28 runs of 2x100 at 3 bits in place (few_bits.toml's settings) and the same on an array with programming
noise, read noise and stuck devices take turns on one thread; the ratio is that of the medians. Each stack is
trained for a while first, so that as many cells change at an update as in a real run.

Writes `results/crossbar_cost.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tersa.data import load
from tersa.study.cell import Cell
from tersa.study.measure import Workload
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "crossbar_cost.csv"
BASE = Cell(
    quant="asymmetric", bits=3, range="global", rounding="stochastic", gain=1.7, optimizer="sgd"
)  # fmt: skip
NOISE = {
    "programming noise 5 %": {"program_noise": 0.05},
    "read noise 5 %": {"read_noise": 0.05},
    "stuck devices 5 %": {"stuck": 0.05},
    "all three": {"program_noise": 0.05, "read_noise": 0.05, "stuck": 0.05},
}
RUNS = 28


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    task = load("mnist")
    base = BASE.model_copy(update={"batch": arguments.batch, "learning_rate": 60.0 * arguments.batch / 512})

    def workload(changes: dict[str, float]) -> Workload:
        work = Workload([base.model_copy(update={**changes, "seed": s}) for s in range(RUNS)], task)
        work(60)
        return work

    loads = {"ideal": workload({}), **{name: workload(changes) for name, changes in NOISE.items()}}
    times: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(arguments.rounds):
        for name, work in loads.items():
            started = time.perf_counter()
            work(arguments.updates)
            times[name].append((time.perf_counter() - started) / arguments.updates * 1e3)
    median = {name: statistics.median(each) for name, each in times.items()}
    machine = environment(1)
    rows: list[dict[str, object]] = [
        {
            "array": name,
            "milliseconds_per_update": round(value, 2),
            "ratio_to_ideal": round(value / median["ideal"], 2),
            "runs": RUNS,
            "batch": arguments.batch,
            "rounds": arguments.rounds,
            "processor": machine.processor,
            "date": machine.date[:10],
        }
        for name, value in median.items()
    ]
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in list(row.items())[:3]))
    print(f"a noisy update costs {rows[-1]['ratio_to_ideal']}x an ideal one")


if __name__ == "__main__":
    main()
