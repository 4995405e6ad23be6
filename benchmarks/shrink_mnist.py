"""Document 002's headline: how small does the LeNet become on MNIST for at most 0.24 points of test accuracy?

    python benchmarks/shrink_mnist.py --seeds 0 1 2

Published (table 4.1): 80 times fewer parameters, 7 times fewer operations, 0.239 points. Each seed is one
`tersa shrink --data mnist --model lenet --max-loss 0.24` from nothing (the baseline is trained too); its row
is appended to `results/shrink_mnist.csv` as soon as it is done, and a seed that has a row is not run again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from tersa import Goals, Setting, ShrinkSpec, shrink
from tersa.records.results import ShrinkResult

RESULTS = Path(__file__).parent / "results" / "shrink_mnist.csv"
PUBLISHED = {"compression": 80.0, "acceleration": 7.0, "loss_points": 0.239}


def row(result: ShrinkResult) -> dict[str, object]:
    """What is kept of a run."""
    environment = result.environment
    return {
        "seed": result.seed,
        "baseline_test_accuracy": round(result.baseline.test_accuracy, 2),
        "test_accuracy": round(result.result.test_accuracy, 2),
        "loss_points": round(result.loss_points, 2),
        "loss_standard_error": round(result.loss_standard_error, 3),
        "parameters": result.result.parameters,
        "compression": round(result.compression, 1),
        "macs": result.result.macs,
        "acceleration": round(result.acceleration, 1),
        "precision": result.result.precision,
        "size_bytes": result.result.size_bytes,
        "size_ratio": round(result.size_ratio, 1),
        "speedup": round(result.speedup, 2),
        "target": result.target,
        "widths": " ".join(f"{layer.name}={layer.after}" for layer in result.layers),
        "goals_met": all(goal.met for goal in result.goals),
        "seconds": round(result.seconds),
        "processor": environment.processor,
        "threads": environment.threads,
        "torch": environment.versions["torch"],
        "onnxruntime": environment.versions["onnxruntime"],
        "date": environment.date[:10],
        "command": result.command,
    }


def stored() -> list[dict[str, str]]:
    """The rows that are there."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(seed: int) -> ShrinkResult:
    """One seed, in folders of its own, so that nothing comes from a cache."""
    spec = ShrinkSpec(data="mnist", model="lenet", goals=Goals(max_loss=0.24), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        setting = Setting(
            cache=place / "cache", say=lambda task, done, remark: done == 1 and print(task, remark)
        )
        return shrink(spec, place / "run", setting=setting)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    rows = stored()
    for seed in parser.parse_args().seeds:
        if any(int(old["seed"]) == seed for old in rows):
            continue
        found = {name: str(value) for name, value in row(run(seed)).items()}
        rows = sorted([*rows, found], key=lambda each: int(each["seed"]))
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, found, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for each in rows:
        print(
            f"seed {each['seed']}: "
            f"{each['compression']}x fewer parameters (published {PUBLISHED['compression']:g}x), "
            f"{each['acceleration']}x fewer MACs (published {PUBLISHED['acceleration']:g}x), "
            f"{each['loss_points']} points (published {PUBLISHED['loss_points']}) "
            f"from {each['baseline_test_accuracy']} %, "
            f"{each['precision']} file {each['size_ratio']}x smaller, "
            f"{each['speedup']}x faster on {each['target']}, {int(each['seconds']) / 60:.0f} minutes"
        )


if __name__ == "__main__":
    main()
