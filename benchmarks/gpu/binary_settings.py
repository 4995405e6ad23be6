"""Which settings train a binary network best, told by short trainings on a GPU before a long one is begun.

    python benchmarks/gpu/bvgg16.py teacher                    what they follow, `runs/bvgg16-gpu/teacher`
    python benchmarks/gpu/binary_settings.py --minutes 2       all variants of both networks, in order
    python benchmarks/gpu/binary_settings.py cnv --epochs 20   one network, another length

Every variant changes one thing of the settings in `bvgg16.py` at a learning rate of 0.005 and trains from
nothing, with the whole schedule in its few epochs; compared is the accuracy on the validation split, the test
split is not read. The teacher is asked about every batch. One seed tells points apart, not tenths.
Last, for each network, all changes that gained `--gain` points or more are taken together (of two that change
the same setting the better one). Rows go to `results/binary_settings.csv`, where others stay; when
`--minutes` are over, what is left is not run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from bvgg16 import DATA, LEARNING, NETWORKS, TEACHER, latents_of
from torch import nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import TersaError
from tersa.files import keep_rows
from tersa.models.load import load as load_model
from tersa.train.baseline import default_config
from tersa.train.config import override
from tersa.train.device import choose
from tersa.train.loop import train

RESULTS = Path(__file__).parents[1] / "results" / "binary_settings.csv"
NAMES = {"cnv": "cnv", "bvgg16": "binary"}
"""Networks by their names among those of `bvgg16.py`."""
EPOCHS = {"cnv": 20, "bvgg16": 12}
NO_TEACHER: dict[str, object] = {
    "distillation": "none",
    "distillation_weight": 0.5,
    "distillation_temperature": 1.0,
}
RATE: dict[str, object] = {"learning_rate": 0.005}
SMALLEST = 1e-3
"""What an exponential schedule ends at, as a share of its beginning."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One change of the settings.

    Attributes:
        words: what is changed.
        settings: of the training that differ.
        spec: of the network, with `{}` where its name is, or nothing for the same.
        staged: half of the epochs are spent with float weights and binary activations, whose signs and sizes
            the latent weights then start from.
    """

    words: str
    settings: dict[str, object] = field(default_factory=dict[str, object])
    spec: str = ""
    staged: bool = False


SPEC = "{}+w1a1:by=ste/approx,pool=sums"
FLOATING = "{}+w32a1:by=approx,pool=sums,last=32/1"
BASE = Variant("as they are")
VARIANTS: tuple[Variant, ...] = (
    BASE,
    Variant("learning rate 0.01", {"learning_rate": 0.01}),
    Variant("learning rate 0.02", {"learning_rate": 0.02}),
    Variant("learning rate 0.002", {"learning_rate": 0.002}),
    Variant("exponential from 0.02", {"learning_rate": 0.02, "schedule": "exponential"}),
    Variant("batch 128", {"batch": 128}),
    Variant("no teacher", NO_TEACHER),
    Variant("two stages", staged=True),
    Variant("weights standardised", spec="{}+w1a1:by=ste/approx,pool=sums,shape=standardise"),
    Variant("crops of 2", {"pad": 2}),
    Variant("teacher's temperature 2", {"distillation_temperature": 2.0}),
)


def trained(variant: Variant, name: str, task: Task, epochs: int, teacher: nn.Module, device: str) -> float:
    """The accuracy on the validation split, in percent, at the end of a short training."""
    settings = dict(LEARNING) | RATE | variant.settings | {"epochs": epochs}
    if settings.get("schedule") == "exponential":
        settings["gamma"] = SMALLEST ** (1 / epochs)
    spec = (variant.spec or SPEC).format(name)
    first = epochs // 2 if variant.staged else 0
    model = load_model(spec, task.shape, len(task.classes)).module
    if first:
        started = load_model(FLOATING.format(name), task.shape, len(task.classes)).module
        run(started, task, settings | {"epochs": first, "learning_rate": 0.002}, teacher, device)
        model.load_state_dict(latents_of(started.cpu().state_dict(), model))
    return run(model, task, settings | {"epochs": epochs - first}, teacher, device)


def run(model: nn.Module, task: Task, settings: dict[str, object], teacher: nn.Module, device: str) -> float:
    """Train, and give the last accuracy on the validation split."""
    config = override(default_config(task, SPEC.format("cnv"), device=device), settings)
    follows = config.distillation != "none"
    result = train(model, task, config, teacher=teacher if follows else None, device=device, evaluate_every=0)
    return result.history[-1].validation_accuracy if result.history else float("nan")


def together(found: dict[Variant, float], gain: float) -> Variant | None:
    """All changes that gained, as one variant; None where fewer than two did."""
    gained = [v for v in found if v is not BASE and found[v] >= found[BASE] + gain]
    taken: list[Variant] = []
    for variant in sorted(gained, key=lambda v: -found[v]):  # the best first
        apart = not any(
            set(variant.settings) & set(other.settings) or (variant.spec and other.spec) for other in taken
        )
        taken += [variant] if apart else []
    if len(taken) < 2:
        return None
    settings = {key: value for variant in taken for key, value in variant.settings.items()}
    spec = next((v.spec for v in taken if v.spec), "")
    return Variant(" + ".join(v.words for v in taken), settings, spec, any(v.staged for v in taken))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--epochs", type=int, help="of a training; 20 of cnv, 12 of bvgg16")
    parser.add_argument("--gain", type=float, default=1.0, help="points that count as one")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which nothing more is begun")
    parser.add_argument("--variants", default="", help="only those whose words begin so, by commas")
    parser.add_argument("--teacher", type=Path, default=Path("runs/bvgg16-gpu/teacher/model.safetensors"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if wrong := [name for name in asked.networks if name not in NAMES]:
        parser.error(f"unknown network {wrong[0]}; known: {', '.join(NAMES)}")
    if not asked.teacher.is_file():
        parser.error(f"no {asked.teacher}; train it: python benchmarks/gpu/bvgg16.py teacher")
    starts = tuple(filter(None, asked.variants.split(",")))
    if idle := [start for start in starts if not any(v.words.startswith(start) for v in VARIANTS)]:
        parser.error(f"--variants {idle[0]}: no such change; known: {', '.join(v.words for v in VARIANTS)}")
    if asked.epochs is not None and asked.epochs < 2:
        parser.error(f"--epochs {asked.epochs}: at least 2, of which two stages have one each")
    try:
        began, device, task = time.monotonic(), choose(asked.device), load_task(DATA)
        teacher = load_model(TEACHER, task.shape, len(task.classes), checkpoint=asked.teacher).module
    except TersaError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    command = shlex.join(["python", "benchmarks/gpu/binary_settings.py", *sys.argv[1:]])
    chosen = [BASE, *(v for v in VARIANTS[1:] if not starts or v.words.startswith(starts))]
    for name in asked.networks:
        found: dict[Variant, float] = {}
        assert NETWORKS[NAMES[name]].model == SPEC.format(name)
        epochs = asked.epochs or EPOCHS[name]
        queue: list[Variant | None] = [*chosen, None]
        for variant in queue:
            each = variant or together(found, asked.gain)
            if each is None or time.monotonic() - began > 60 * asked.minutes:
                continue
            start = time.monotonic()
            accuracy = trained(each, name, task, epochs, teacher, device)
            if variant:
                found = {**found, variant: accuracy}
            row = {
                "network": name,
                "change": each.words,
                "validation_accuracy": f"{accuracy:.2f}",
                "gain": f"{accuracy - found[BASE]:+.2f}",
                "epochs": f"{epochs}",
                "seconds": f"{time.monotonic() - start:.1f}",
                "seed": "0",
                "command": command,
                "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
                "torch": torch.__version__,
            }
            keep_rows(asked.csv, [row], ("network", "change", "epochs", "seed"))
            print(f"{name:<8}{accuracy:7.2f} {row['gain']:>7}{row['seconds']:>7} s  {each.words}", flush=True)


if __name__ == "__main__":
    main()
