"""`tersa adapt` from nothing to half the latency: is the network within it, what does it lose, how long?

    python benchmarks/adapt_networks.py [--networks lenet,vgg,mobilenet] [--seed 0] [--threads 2]

Each network is trained, its latency table measured, its widths solved for half the latency of ONNX Runtime
(one thread, batch 1), the narrow network fine-tuned with distillation, exported and measured beside the
baseline in interleaved rounds. `LeNet` on MNIST has every default; `vgg:11x0.5` and `mobilenet:0.5` on
CIFAR-10 (a JPEG copy where the official bytes are missing) have the schedules of `RUNS`, minutes on a CPU.

The closing fine-tune is that of `tersa prune` (Nesterov, one cycle, half of the loss from the baseline's
answers); `--gentle` takes the one that `tersa adapt` had before (AdamW).

Asked: the measured latency at or under the budget, the upper end of its interval included; at most 0.3 points
lost on the test split, from baselines of at least 80 % on CIFAR-10; LeNet within 40 minutes.

A killed command goes on when it is given again: work is kept in `--out`, trained networks and tables too, so
that another `--out` begins from nothing. Minutes are those of the attempt that finished, and of a baseline
that an earlier one trained.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from tersa.files import keep_rows
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import AdaptSpec, adapt_command, specified
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.pruning import STRONG
from tersa.recipes.setting import Setting
from tersa.records.results import ShrinkResult

RESULTS = Path(__file__).parent / "results" / "adapt.csv"
BUDGET = "0.5x"
MOST_LOST = 0.3
RUNS: dict[str, dict[str, Any]] = {
    "lenet": {"data": "mnist", "model": "lenet", "target": "onnxruntime"},
    "vgg": {
        "data": "cifar-10",
        "model": "vgg:11x0.5",
        "target": "onnxruntime@threads=1",
        "training": {"epochs": "16", "precision": "bf16"},
        "protocol": {"arithmetic": "bf16", "tune": 7000},
    },
    "mobilenet": {
        "data": "cifar-10",
        "model": "mobilenet:0.5",
        "target": "onnxruntime@threads=1",
        "training": {"epochs": "20"},
        "protocol": {"tune": 12_000, "views": 12},
    },
}
"""What is asked of each, beside the budget."""


def spec_of(network: str, seed: int, table: Path, *, gentle: bool = False) -> AdaptSpec:
    """What `tersa adapt` is asked; gentle: with the closing fine-tune that it had before.

    >>> spec_of("lenet", 3, Path("t.db")).goals.latency
    Bound(value=0.5, relative=True)
    """
    goals, asked = Goals(latency=parse_bound(BUDGET, "latency")), {"protocol": {}, **RUNS[network]}
    protocol = asked.pop("protocol") if gentle else {**STRONG, **asked.pop("protocol")}
    return specified(**asked, protocol=protocol, goals=goals, seed=seed, table=str(table))


def row_of(result: ShrinkResult, command: str, wall: float, used: float) -> dict[str, str]:
    """A finished run in numbers."""
    mine = next(each for each in result.comparisons if each.target == result.target)
    assert mine.before is not None
    assert mine.after is not None
    assert result.adaptation is not None
    assert result.adaptation.budget_ms is not None
    landed = [each for each in result.adaptation.checked if each.step]
    machine = result.environment
    values: dict[str, object] = {
        "command": command,
        "seed": result.seed,
        "budget": BUDGET,
        "speedup": f"{mine.speedup:.3f}",
        "speedup_low": f"{mine.low:.3f}",
        "speedup_high": f"{mine.high:.3f}",
        "baseline_ms": f"{mine.before.latency_ms.median:.4g}",
        "result_ms": f"{mine.after.latency_ms.median:.4g}",
        "limit_ms": f"{result.adaptation.budget_ms:.4g}",
        "estimate_off_percent": f"{100 * abs(landed[-1].first_ms / landed[-1].measured_ms - 1):.1f}",
        "baseline_accuracy": f"{result.baseline.test_accuracy:.2f}",
        "result_accuracy": f"{result.result.test_accuracy:.2f}",
        "loss_standard_error": f"{result.loss_standard_error:.2f}",
        "met": "yes" if all(goal.met for goal in result.goals) else "no",
        "parameters_before": result.baseline.parameters,
        "parameters": result.result.parameters,
        "wall_minutes": f"{wall / 60:.1f}",
        "processor_minutes": f"{used / 60:.1f}",
        "load": f"{os.getloadavg()[2]:.2f}",
        "processor": machine.processor,
        "cores": os.cpu_count(),
        "threads": machine.threads,
        "runtime": f"onnxruntime {machine.versions['onnxruntime']}",
        "date": machine.date[:10],
        "commit": machine.commit,
    }
    return {name: str(value) for name, value in values.items()}


def tell(row: dict[str, str]) -> None:
    """A row in words, what was asked beside it."""
    lost = float(row["baseline_accuracy"]) - float(row["result_accuracy"])
    print(
        f"{row['command']}: {row['speedup']} times faster ({row['speedup_low']} to {row['speedup_high']}, "
        f"asked 2), "
        f"{row['baseline_accuracy']} % became {row['result_accuracy']} %, {lost:.2f} points lost (asked "
        f"{MOST_LOST:g}); {row['wall_minutes']} minutes, {row['processor_minutes']} of processor time",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="all cores where none is given")
    parser.add_argument("--gentle", action="store_true", help="the closing fine-tune that adapt had before")
    parser.add_argument("--out", type=Path, default=Path("runs/adapt-networks"), help="where it resumes")
    asked = parser.parse_args()
    names = asked.networks.split(",")
    if strange := [name for name in names if name not in RUNS]:
        parser.error(f"--networks {','.join(strange)}: unknown; known: {', '.join(RUNS)}")

    def say(task: str, done: float, remark: str) -> None:
        if done == 1 or remark.startswith("step"):
            print(f"  {task}: {remark}", flush=True)

    for name in names:
        folder = asked.out / f"{name}{'-gentle' if asked.gentle else ''}-{asked.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        spec = spec_of(name, asked.seed, folder / "table.db", gentle=asked.gentle)
        setting = Setting(threads=asked.threads, say=say, cache=folder / "cache")
        left = [json.loads(each.read_text())["seconds"] for each in (folder / "cache").rglob("record.json")]
        began, before = time.perf_counter() - sum(left), time.process_time() - sum(left)
        result = adapt(spec, folder / "run", setting=setting, resume=(folder / "run").exists())
        wall, used = time.perf_counter() - began, time.process_time() - before
        command = adapt_command(spec.model_copy(update={"table": None}))
        row = row_of(result, command, wall, used) | {"fine_tune": "gentle" if asked.gentle else "strong"}
        keep_rows(RESULTS, [row], ["command", "seed", "fine_tune"])
        tell(row)


if __name__ == "__main__":
    main()
