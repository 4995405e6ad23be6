"""Document 004's binary VGG16, pruned before it is packed: how much faster does it run, at what loss?

    python benchmarks/pruning_binary.py --seed 0 --out runs/pruning-binary

The document's future work. Two commands in one, both resumable: `tersa train` (`bvgg16`, every weight and
every activation between layers 1 bit; bfloat16 forward passes), then `tersa prune --run` of what it gave with
`--target packed --precision packed`: channels go until a call of the packed program, one image, takes at most
`--latency` times the baseline's, both timed in the same rounds; then one fine-tune. Labels alone teach: an
epoch of the teacher's answers would cost more than the fine-tune.

The schedule is one of a CPU: Fashion-MNIST, some thousand updates, about an hour on one core; the baseline is
not trained to its best. The same on CIFAR-10 wants a GPU (`gpu/bvgg16.py`). Accuracy is of the exported
`.tersa` files, which are held against the network's logits bit for bit, on all test images. The row goes to
`results/pruning_binary.csv`; a seed that has a row is not run again. Asked: at least twice as fast, at most 1
point lost. `--quick` is a trial of minutes whose row is printed and not kept.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from tersa import Goals, Setting, ShrinkSpec, shrink
from tersa.recipes.goals import parse_bound
from tersa.recipes.train import TrainedRun, run_training
from tersa.recipes.train_request import TrainRequest
from tersa.records.results import ShrinkResult

RESULTS = Path(__file__).parent / "results" / "pruning_binary.csv"
MODEL, DATA = "bvgg16+w1a1:by=ste/approx,pool=sums", "fashion-mnist"
TARGET = "packed@threads=1"
ASKED = {"speedup": 2.0, "loss_points": 1.0}
TRAINING: dict[str, object] = {
    "iterations": 2_200,
    "batch": 100,
    "learning_rate": 0.005,
    "precision": "bf16",
    "keep": "last",
}
PROTOCOL: dict[str, int | float | str] = {
    "optimiser": "follow",
    "arithmetic": "bf16",
    "teacher_weight": 0.0,
    "weight_decay": 0.0,
    "batch": 100,
    "step": "12%left",
    "retrain": 40,
    "tune": 3_000,
}
QUICK_TRAINING: dict[str, object] = {"iterations": 20}
QUICK: dict[str, int | float | str] = {"step": "30%left", "retrain": 2, "tune": 4, "criterion_samples": 100}


def row(trained: TrainedRun, result: ShrinkResult, latency: str) -> dict[str, object]:
    """What is kept of a run."""
    environment = result.environment
    return {
        "seed": result.seed,
        "model": result.model,
        "data": result.task,
        "latency_asked": latency,
        "updates": TRAINING["iterations"],
        "baseline_test_accuracy": round(result.baseline.test_accuracy, 2),
        "test_accuracy": round(result.result.test_accuracy, 2),
        "loss_points": round(result.loss_points, 2),
        "loss_standard_error": round(result.loss_standard_error, 3),
        "speedup": round(result.speedup, 2),
        "baseline_ms": round(result.baseline.latency_ms.median, 4),
        "ms": round(result.result.latency_ms.median, 4),
        "target": result.target,
        "same_logits": f"{result.agreement.images if not result.agreement.largest_difference else 'no'}",
        "baseline_bytes": result.baseline.size_bytes,
        "bytes": result.result.size_bytes,
        "compression": round(result.compression, 2),
        "acceleration": round(result.acceleration, 2),
        "widths": " ".join(f"{layer.name}={layer.after}" for layer in result.layers),
        "seconds": round(trained.seconds + result.seconds),
        "processor": environment.processor,
        "threads": environment.threads,
        "torch": environment.versions["torch"],
        "date": environment.date[:10],
        "command": result.command,
    }


def run(asked: argparse.Namespace, out: Path) -> dict[str, str]:
    """The baseline, then the pruned network; whatever is done already is read back."""

    def say(task: str, done: float, remark: str) -> None:
        if done == 1:
            print(f"{task}: {remark}", flush=True)

    setting = Setting(threads=asked.threads, say=say, seconds=0.5 if asked.quick else 3.0)
    training = TRAINING | (QUICK_TRAINING if asked.quick else {}) | {"seed": asked.seed}
    request = TrainRequest(data=DATA, model=MODEL, settings=training)
    trained = run_training(request, out / "baseline", setting=setting, resume=True)
    print(f"baseline: {trained.test_accuracy:.2f} % on test, {trained.seconds:.0f} s", flush=True)
    spec = ShrinkSpec(
        verb="prune",
        data=DATA,
        run=str(out / "baseline"),
        goals=Goals(latency=parse_bound(asked.latency, "latency")),
        target=TARGET,
        precision="packed",
        seed=asked.seed,
        protocol=PROTOCOL | (QUICK if asked.quick else {}),
    )
    result = shrink(spec, out / "pruned", setting=setting, resume=True)
    return {name: str(value) for name, value in row(trained, result, asked.latency).items()}


def stored() -> list[dict[str, str]]:
    """The rows that are there."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def keep(found: dict[str, str]) -> None:
    """Add a row to those that are there."""
    rows = sorted([*stored(), found], key=lambda each: int(each["seed"]))
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def tell(each: dict[str, str]) -> None:
    """A row in words, the targets beside it."""
    print(
        f"seed {each['seed']}: {each['baseline_test_accuracy']} % became {each['test_accuracy']} %, "
        f"{each['loss_points']} points lost (asked {ASKED['loss_points']:g}); packed {each['speedup']}x "
        f"faster (asked {ASKED['speedup']:g}), {each['baseline_ms']} to {each['ms']} ms; "
        f"{each['baseline_bytes']} to {each['bytes']} bytes; {int(each['seconds']) / 60:.0f} minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", default="0.47x", help="of the packed baseline; 0.5x with a margin")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pruning-binary"), help="where it works and resumes"
    )
    parser.add_argument("--threads", type=int, default=None, help="all cores where none is given")
    parser.add_argument("--quick", action="store_true", help="a trial of minutes; no row is kept")
    asked = parser.parse_args()
    folder = asked.out / f"{'quick-' if asked.quick else ''}seed-{asked.seed}"
    if asked.quick:
        tell(run(asked, folder))
        return
    if not any(int(old["seed"]) == asked.seed for old in stored()):
        keep(run(asked, folder))
    for each in stored():
        tell(each)


if __name__ == "__main__":
    main()
