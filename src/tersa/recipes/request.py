"""What is asked of one run of shrink, whole and checked before any work.

Example:
    >>> ShrinkSpec(data="digits", goals=Goals(max_loss=2.0)).precision
    'auto'
"""

from __future__ import annotations

import shlex

from pydantic import Field, ValidationError

from tersa.data.task import Task
from tersa.errors import UsageError, faults, unknown
from tersa.recipes.deploy import shippable
from tersa.recipes.descent import Protocol, default_protocol
from tersa.recipes.goals import Goals
from tersa.records import (
    Record,
)
from tersa.train.baseline import default_config
from tersa.train.config import TrainConfig, override

DEFAULT_GOALS = Goals(max_loss=1.0)
"""What is asked when nothing is asked."""


class ShrinkSpec(Record):
    """Everything that decides the result of one run; stored as `spec.toml`.

    Attributes:
        data: a known data set or a path.
        model: a spec, `module.py:build` or an exported file; None for the data's default.
        checkpoint: trained weights for it, or None to train the baseline here.
        goals: what is asked.
        target: where latency counts, with options.
        batch: images per call there.
        precision: `fp32`, `int8`, or `auto` (INT8 only if it keeps the goals and is not slower).
        seed: of everything random.
        epochs: of the baseline's training, or None for the data's default.
        validation: images (or share) of train that steer, or None for the data's default.
        protocol: settings of `descent.Protocol` that differ from what suits the data.
    """

    data: str = "digits"
    model: str | None = None
    checkpoint: str | None = None
    goals: Goals = DEFAULT_GOALS
    target: str = "onnxruntime@threads=1"
    batch: int = 1
    precision: str = "auto"
    seed: int = 0
    epochs: int | None = None
    validation: int | float | None = None
    protocol: dict[str, int | float | str] = Field(default_factory=dict[str, int | float | str])

    def check(self) -> None:
        """Faults that show before any work.

        Raises:
            UsageError: goals, target, batch or precision cannot be.
        """
        self.goals.check()
        shippable(self.precision, self.target)
        strange = self.protocol.keys() - Protocol.model_fields.keys()
        if strange:
            raise unknown("protocol setting", sorted(strange)[0], Protocol.model_fields)
        _protocol(self.protocol, 1)
        if self.epochs is not None and self.checkpoint is not None:
            raise UsageError("--epochs trains a baseline, --checkpoint brings one; leave out one of them")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be 1 or more")


def protocol_of(spec: ShrinkSpec, task: Task) -> Protocol:
    """The pruning settings of a run: what suits the data, with what was asked to differ."""
    return _protocol(spec.protocol, len(task.train))


def _protocol(changes: dict[str, int | float | str], images: int) -> Protocol:
    try:
        return Protocol.model_validate({**default_protocol(images).model_dump(), **changes})
    except ValidationError as error:
        found = [f"{e['loc'][0]} is {e['input']}: {e['msg'].lower()}" for e in error.errors()]
        raise faults("pruning settings", found) from None


def baseline_config(spec: ShrinkSpec, task: Task, model: str) -> TrainConfig:
    """Settings of the baseline's training."""
    config = override(default_config(task, model), {"seed": spec.seed})
    return config if spec.epochs is None else override(config, {"epochs": spec.epochs})


def command_of(spec: ShrinkSpec) -> str:
    """The command line that does the same (settings of the protocol that it lacks are in the report).

    >>> command_of(ShrinkSpec(data="my photos", goals=Goals(max_loss=2.0), protocol={"tune": 50}))
    "tersa shrink --data 'my photos' --max-loss 2 --tune 50"
    """
    words = ["tersa", "shrink", "--data", spec.data]
    goals = {
        "max-loss": spec.goals.max_loss,
        "min-accuracy": spec.goals.min_accuracy,
        "size": spec.goals.size and spec.goals.size.text("size"),
        "latency": spec.goals.latency and spec.goals.latency.text("latency"),
        "macs": spec.goals.macs and spec.goals.macs.text("macs"),
    }
    given = {"model": spec.model, "checkpoint": spec.checkpoint, **goals}
    default = ShrinkSpec()
    for name in ("target", "batch", "precision", "seed", "epochs", "validation"):
        given[name] = getattr(spec, name) if getattr(spec, name) != getattr(default, name) else None
    known = ("retrain", "tune", "share", "criterion_samples")
    given |= {name: spec.protocol.get(name) for name in known}
    for name, value in given.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)
