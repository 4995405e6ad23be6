"""How accurate are binary networks trained here, on a CPU?

    python benchmarks/binary_networks.py cnv
    python benchmarks/binary_networks.py tfc sfc lfc
    python benchmarks/binary_networks.py tfc-8bit sfc-8bit lfc-8bit

The multi-layer perceptrons read pixels of one bit, as the published ones do; those named `-8bit` read the
stored bytes. `sfc` and `lfc` follow a LeNet-5 in floating point (Apprentice), which is trained first.
Each name is one training (`RUNS`), the same as the `tersa train` command in its row of
`results/binary_networks.csv`; its accuracy after each epoch goes to `results/binary_networks_curves.csv`. A
training that was stopped goes on where it was (`runs/binary-networks/NAME`), one that has a row is not run
again. Settings were chosen on the validation split; the test split is read once, by the last weights.
`seconds` are wall time over all attempts, on a machine that may have had other work.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

from tersa.models.zoo import bits_of
from tersa.recipes.setting import Setting
from tersa.recipes.train import WEIGHTS, TrainedRun, history_of, run_training
from tersa.recipes.train_request import TrainRequest

RESULTS = Path(__file__).parent / "results" / "binary_networks.csv"
CURVES = RESULTS.with_name("binary_networks_curves.csv")
FOLDER = Path("runs/binary-networks")


@dataclass(frozen=True)
class Run:
    """One training and what it is held against.

    Attributes:
        data: the data set.
        model: its spec.
        settings: of the training.
        taught: it follows `TEACHER`.
        published: test accuracy in percent of the source below.
        source: where that stands.
    """

    data: str
    model: str
    settings: dict[str, object]
    published: float | None = None
    source: str = ""
    taught: bool = False

    @property
    def command(self) -> str:
        """The same as one command."""
        chosen = " ".join(f"--set {key}={_word(value)}" for key, value in self.settings.items())
        teacher = f" --teacher {TEACHER} --teacher-checkpoint {TAUGHT_BY}" if self.taught else ""
        return f"tersa train --data {self.data} --model {self.model}{teacher} {chosen}"


PYNQ = "brevitas bnn_pynq"
TEACHER, TEACHER_SEED = "lenet5", 7
TAUGHT_BY = FOLDER / "teacher" / WEIGHTS

CNV: dict[str, object] = {
    "batch": 128,
    "epochs": 24,
    "learning_rate": 0.02,
    "precision": "bf16",
    "keep": "last",
}
MLP: dict[str, object] = {"batch": 100, "learning_rate": 0.02, "keep": "last", "label_smoothing": 0.0}
TINY: dict[str, object] = {**MLP, "epochs": 100, "pad": 0}
"""Too small a network to learn shifted digits, too."""
FOLLOWING: dict[str, object] = {
    "distillation": "temperature",
    "distillation_weight": 0.7,
    "distillation_temperature": 4.0,
}
SMALL: dict[str, object] = {**MLP, "epochs": 120, "pad": 1, **FOLLOWING}
LARGE: dict[str, object] = {**MLP, "epochs": 60, "pad": 1, **FOLLOWING}
RUNS: dict[str, Run] = {
    "cnv": Run("cifar-10", "cnv+w1a1", CNV, 84.22, PYNQ),
    "tfc": Run("mnist", "tfc+w1a1:in=1", TINY, 93.17, PYNQ),
    "sfc": Run("mnist", "sfc+w1a1:in=1", SMALL, 97.81, PYNQ, taught=True),
    "lfc": Run("mnist", "lfc+w1a1:in=1", LARGE, 98.88, PYNQ, taught=True),
    "tfc-8bit": Run("mnist", "tfc+w1a1", TINY),
    "sfc-8bit": Run("mnist", "sfc+w1a1", SMALL, taught=True),
    "lfc-8bit": Run("mnist", "lfc+w1a1", LARGE, taught=True),
}


def row(name: str, run: Run, result: TrainedRun) -> dict[str, str]:
    """What is kept of a run."""
    bits = bits_of(run.model)
    assert bits is not None
    environment = result.environment
    found: dict[str, object] = {
        "name": name,
        "data": run.data,
        "model": run.model,
        "bits": bits.describe(),
        "test_accuracy": f"{result.test_accuracy:.2f}",
        "validation_accuracy": f"{result.validation_accuracy:.2f}",
        "published": "" if run.published is None else run.published,
        "published_source": run.source,
        "epochs": result.epochs,
        "parameters": result.parameters,
        "macs": result.macs,
        "seed": result.config.seed,
        "seconds": f"{result.seconds:.0f}",
        "device": result.device,
        "machine": environment.processor,
        "threads": environment.threads,
        "torch": environment.versions.get("torch", ""),
        "note": result.task_note,
        "command": run.command,
    }
    return {key: str(value) for key, value in found.items()}


def carry_out(name: str, threads: int | None) -> None:
    """Train, or go on training, and store the row and the curve."""
    run, folder = RUNS[name], FOLDER / name

    def say(task: str, done: float, remark: str) -> None:
        print(f"{name}: {done:5.1%} {remark}", flush=True)

    setting = Setting(threads=threads, say=say, command=run.command)
    request = TrainRequest(data=run.data, model=run.model, settings=run.settings)
    if run.taught:
        lesson = TrainRequest(data=run.data, model=TEACHER, settings={"seed": TEACHER_SEED})
        run_training(lesson, TAUGHT_BY.parent, setting=setting, resume=TAUGHT_BY.parent.exists())
        taught = {"teacher": TEACHER, "teacher_checkpoint": str(TAUGHT_BY)}
        request = request.model_copy(update=taught)
    result = run_training(request, folder, setting=setting, resume=folder.exists())
    store(RESULTS, name, [row(name, run, result)])
    curve = [
        {
            "name": name,
            "epoch": str(epoch.epoch),
            "train_loss": f"{epoch.train_loss:.4f}",
            "train_accuracy": f"{epoch.train_accuracy:.2f}",
            "validation_loss": f"{epoch.validation_loss:.4f}",
            "validation_accuracy": f"{epoch.validation_accuracy:.2f}",
            "learning_rate": f"{epoch.learning_rate:.6f}",
            "seconds": f"{epoch.seconds:.0f}",
        }
        for epoch in history_of(folder)
    ]
    store(CURVES, name, curve)


def store(path: Path, name: str, rows: list[dict[str, str]]) -> None:
    """Put a run's rows in the place of its old ones."""
    found = [*(old for old in stored(path) if old["name"] != name), *rows]
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(found, key=lambda each: (each["name"], int(each.get("epoch", 0)))))


def stored(path: Path) -> list[dict[str, str]]:
    """Rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=sorted(RUNS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.names:
        if not any(old["name"] == name for old in stored(RESULTS)):
            carry_out(name, arguments.threads)
    for each in stored(RESULTS):
        if each["name"] in arguments.names:
            print(
                f"{each['model']} on {each['data']}, {each['bits']}: {each['test_accuracy']} % on test "
                f"(published {each['published'] or 'none'}), {each['epochs']} epochs, "
                f"{int(each['seconds']) / 60:.0f} minutes"
            )


if __name__ == "__main__":
    main()
