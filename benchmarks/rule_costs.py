"""What does an update of each learning rule cost, counted and measured?

    python benchmarks/rule_costs.py --rounds 7

For each rule of the registry: multiply-accumulates of the matrix products of one update (counted by torch),
and the time of one update per run in a stack of 28 runs of 2x100 at batch 64 on one thread, as a ratio to
backpropagation's. Rules take turns, and a ratio is that of medians over rounds. Rules with several phases
(unformatted training, then a classifier) have a row for each. Beside them stands document 000's O() of a
whole training, n being the largest of all sizes, where it gives one.

Writes `results/rule_costs.csv`, and `costs.json` into the folder of a study where one is named (--study),
whose report then shows them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tersa.data import load
from tersa.errors import UsageError
from tersa.rules.registry import RULES
from tersa.study.cell import Cell
from tersa.study.measure import Workload
from tersa.study.stack import network_for
from tersa.targets.environment import environment

RESULTS = Path(__file__).parent / "results" / "rule_costs.csv"
DOCUMENT = {"bp": "O(n^5)", "fa": "O(n^5)", "hsic": "O(n^5)", "dni": "O(n^6)"}
"""Document 000, section 2.4: of a whole training."""
RUNS = 28


def workloads() -> dict[str, Workload]:
    """One stack for each phase of each rule."""
    task = load("mnist")
    found: dict[str, Workload] = {}
    for name, rule in RULES.items():
        cells = [Cell(model="mlp:100x100", rule=name, seed=seed) for seed in range(RUNS)]
        try:
            phases = rule.phases(network_for(cells[0], task))
        except UsageError as error:
            print(f"{name}: {error}")
            continue
        for number, phase in enumerate(phases):
            label = name if len(phases) == 1 else f"{name} ({phase.name})"
            found[label] = Workload(cells, task, phase=number)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--study", type=Path, help="also write costs.json there")
    arguments = parser.parse_args()
    loads = workloads()
    macs = {name: work.macs() for name, work in loads.items()}
    times: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(arguments.rounds):
        for name, work in loads.items():
            started = time.perf_counter()
            work(arguments.updates)
            times[name].append((time.perf_counter() - started) / arguments.updates / RUNS * 1e6)
    median = {name: statistics.median(each) for name, each in times.items()}
    machine = environment(1)
    rows: list[dict[str, object]] = [
        {
            "rule": name,
            "macs_per_update": macs[name],
            "macs_to_bp": round(macs[name] / macs["bp"], 2),
            "microseconds_per_update": round(median[name], 1),
            "time_to_bp": round(median[name] / median["bp"], 2),
            "order": DOCUMENT.get(name.split(" ")[0].removesuffix("-document"), ""),
            "rounds": arguments.rounds,
            "processor": machine.processor,
            "torch": machine.versions["torch"],
            "date": machine.date[:10],
        }
        for name in loads
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in list(row.items())[:6]))
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if arguments.study is not None:
        kept = ("rule", "microseconds_per_update", "macs_per_update", "order")
        (arguments.study / "costs.json").write_text(
            json.dumps([{key: row[key] for key in kept} for row in rows], indent=1) + "\n", encoding="utf-8"
        )
    dearest = max(rows, key=lambda row: float(str(row["time_to_bp"])))
    print(f"dearest: {dearest['rule']}, {dearest['time_to_bp']}x the time of an update by backpropagation")


if __name__ == "__main__":
    main()
