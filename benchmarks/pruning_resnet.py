"""ResNet-20 on CIFAR-10 with half the multiply-accumulates: what does it cost in accuracy?

    python benchmarks/pruning_resnet.py --seed 0 --out runs/resnet20
    python benchmarks/pruning_resnet.py --seed 0 --out runs/resnet20 --device cuda

Two commands in one, both resumable: `tersa train` (bfloat16 forward passes, channels last, one cycle of
Nesterov, mirrored and shifted by four pixels; a checkpoint after every epoch), then `tersa prune --run` of
what it gave, to at most 0.5 times the MACs, with one long fine-tune that distils from the baseline (a step
and its fine-tune are on disk when they are done). Killed, the same command goes on where it was; the seconds
are those of the work, over all attempts. The row goes to `results/pruning_resnet.csv`; a seed that has a row
is not run again.

Asked: a baseline of at least 85 % and at most 1.0 point lost on the test split, within two hours on two
cores; on a GPU, with a longer schedule, 91 % and 0.3 points. `--quick` is a trial of minutes that shows that
all of it works: a few updates of everything; its row is printed and not kept.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from tersa import Goals, Setting, ShrinkSpec, shrink
from tersa.recipes.goals import parse_bound
from tersa.recipes.pruning import STRONG
from tersa.recipes.train import TrainedRun, run_training
from tersa.recipes.train_request import TrainRequest
from tersa.records.results import ShrinkResult

RESULTS = Path(__file__).parent / "results" / "pruning_resnet.csv"
MODEL, DATA = "resnet:20", "cifar-10"
MACS = "0.5x"
ASKED = {
    "cpu": {"baseline_test_accuracy": 85.0, "loss_points": 1.0},
    "cuda": {"baseline_test_accuracy": 91.0, "loss_points": 0.3},
}
LENGTHS: dict[str, dict[str, float]] = {
    "cpu": {"epochs": 36},
    "cuda": {"epochs": 160, "batch": 256, "learning_rate": 0.1},
}
PROTOCOL: dict[str, int | float | str] = {
    **STRONG,
    "optimiser": "follow",
    "arithmetic": "bf16",
    "step": "8%left",
    "retrain": 200,
    "tune": 20_000,
    "views": 12,
}
QUICK_ITERATIONS = 60
QUICK: dict[str, int | float | str] = {"step": "25%left", "retrain": 5, "tune": 20, "views": 1}


def row(trained: TrainedRun, result: ShrinkResult) -> dict[str, object]:
    """What is kept of a run."""
    environment = result.environment
    return {
        "seed": result.seed,
        "device": trained.device,
        "epochs": trained.config.epochs,
        "baseline_test_accuracy": round(result.baseline.test_accuracy, 2),
        "test_accuracy": round(result.result.test_accuracy, 2),
        "loss_points": round(result.loss_points, 2),
        "loss_standard_error": round(result.loss_standard_error, 3),
        "parameters": result.result.parameters,
        "compression": round(result.compression, 2),
        "macs": result.result.macs,
        "acceleration": round(result.acceleration, 2),
        "speedup": round(result.speedup, 2),
        "target": result.target,
        "widths": " ".join(f"{layer.name}={layer.after}" for layer in result.layers),
        "baseline_seconds": round(trained.seconds),
        "seconds": round(trained.seconds + result.seconds),
        "processor": environment.processor,
        "threads": environment.threads,
        "torch": environment.versions["torch"],
        "onnxruntime": environment.versions["onnxruntime"],
        "date": environment.date[:10],
        "command": f"python benchmarks/pruning_resnet.py --seed {result.seed} --device {trained.device}",
    }


def run(seed: int, out: Path, threads: int | None, device: str, *, quick: bool) -> dict[str, str]:
    """The baseline, then the pruned network; whatever is done already is read back."""

    def say(task: str, done: float, remark: str) -> None:
        if done == 1:
            print(f"{task}: {remark}", flush=True)

    setting = Setting(threads=threads, say=say, device=device, seconds=0.3 if quick else 3.0)
    length = {"iterations": QUICK_ITERATIONS} if quick else LENGTHS[device]
    asked = {**length, "precision": "bf16", "seed": seed}
    request = TrainRequest(data=DATA, model=MODEL, settings=asked)
    trained = run_training(
        request, out / "baseline", setting=setting, resume=True, evaluate_every=1 if device == "cpu" else 5
    )
    print(f"baseline: {trained.test_accuracy:.2f} % on test, {trained.seconds:.0f} s", flush=True)
    spec = ShrinkSpec(
        verb="prune",
        data=DATA,
        run=str(out / "baseline"),
        goals=Goals(macs=parse_bound(MACS, "macs")),
        precision="fp32",
        seed=seed,
        protocol=PROTOCOL
        | ({} if device == "cpu" else {"arithmetic": "fp32", "tune": 6_000})
        | (QUICK if quick else {}),
    )
    result = shrink(spec, out / "pruned", setting=setting, resume=True)
    return {name: str(value) for name, value in row(trained, result).items()}


def stored() -> list[dict[str, str]]:
    """The rows that are there."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def keep(found: dict[str, str]) -> None:
    """Add a row to those that are there."""
    rows = sorted([*stored(), found], key=lambda each: (each["device"], int(each["seed"])))
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def tell(each: dict[str, str]) -> None:
    """A row in words, the targets beside it."""
    asked = ASKED[each["device"].partition(":")[0]]
    print(
        f"{each['device']}, seed {each['seed']}: {each['baseline_test_accuracy']} % "
        f"(asked {asked['baseline_test_accuracy']:g}) became {each['test_accuracy']} %, "
        f"{each['loss_points']} points lost (asked {asked['loss_points']:g}); "
        f"{each['acceleration']}x fewer MACs, {each['compression']}x fewer parameters, "
        f"{each['speedup']}x faster on {each['target']}; {int(each['seconds']) / 60:.0f} minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/resnet20"), help="where it works and resumes")
    parser.add_argument("--threads", type=int, default=None, help="all cores where none is given")
    parser.add_argument("--device", choices=list(LENGTHS), default="cpu", help="which schedule, and where")
    parser.add_argument("--quick", action="store_true", help="a trial of minutes; no row is kept")
    asked = parser.parse_args()
    folder = asked.out / f"{'quick-' if asked.quick else ''}{asked.device}-seed-{asked.seed}"
    if asked.quick:
        tell(run(asked.seed, folder, asked.threads, asked.device, quick=True))
        return
    if not any((int(old["seed"]), old["device"]) == (asked.seed, asked.device) for old in stored()):
        keep(run(asked.seed, folder, asked.threads, asked.device, quick=False))
    for each in stored():
        tell(each)


if __name__ == "__main__":
    main()
