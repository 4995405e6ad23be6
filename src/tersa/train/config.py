"""What a training run does: every setting, checked together before any work starts.

A `TrainConfig` says everything about a run but the data, the model and the machine, so that equal configs
(with those) give equal weights. It is stored with each result. Settings that would be ignored are refused
(a momentum for Adam, a gamma without a schedule that uses it), because a request that does nothing misleads.

Example:
    >>> TrainConfig(optimizer="adam", epochs=3).learning_rate
    0.001
    >>> TrainConfig(optimizer="adm", batch=-1)
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: training settings: 2 faults
      - unknown optimizer 'adm'; did you mean 'adam'? known: adadelta, adagrad, adam, adamw, lbfgs, ...
      - batch is -1; must be greater than or equal to 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tersa.errors import UsageError, faults, unknown
from tersa.records.base import Record

OptimiserName = Literal["sgd", "momentum", "nesterov", "adagrad", "adadelta", "adam", "adamw", "lbfgs"]
ScheduleName = Literal["constant", "cosine", "one-cycle", "step", "exponential"]
DistillationForm = Literal["none", "document", "temperature"]
Precision = Literal["fp32", "bf16"]
Keep = Literal["best", "last"]

RATES: dict[str, float] = {
    "sgd": 0.1,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adagrad": 0.01,
    "adadelta": 1.0,
    "adam": 0.001,
    "adamw": 0.001,
    "lbfgs": 1.0,
}
"""Learning rate of each optimiser where none is given."""

MOMENTUM = 0.9
GAMMA = 0.1
ONE_CYCLE_WARMUP = 0.25


class TrainConfig(Record):
    """Settings of one training run."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    optimizer: OptimiserName = "momentum"
    """Update rule; `momentum` is Polyak's heavy ball, `nesterov` its look-ahead form, `sgd` has neither."""
    learning_rate: float = Field(default=RATES["momentum"], gt=0)
    """Peak learning rate; the schedule multiplies it. Where it is left out, the optimiser's own default."""
    momentum: float = Field(default=MOMENTUM, ge=0, lt=1)
    """Share of the last update that is carried on; used by `momentum` and `nesterov` alone."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Pull of weights towards zero per unit of learning rate; biases and normalisation layers are exempt."""
    batch: int = Field(default=128, ge=0)
    """Most images of one update; an epoch is cut into equal parts of at most so many. 0: the whole split."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the training split."""
    iterations: int | None = Field(default=None, ge=1)
    """Number of updates in all; overrides `epochs` and may end inside one."""
    schedule: ScheduleName = "one-cycle"
    """How the learning rate goes over the run; see `tersa.train.schedules`."""
    step_epochs: int = Field(default=0, ge=0)
    """Epochs between two drops of the `step` schedule."""
    gamma: float = Field(default=GAMMA, gt=0, le=1)
    """What the learning rate is multiplied by at each drop (`step`) or after each epoch (`exponential`)."""
    warmup: float | None = Field(default=None, ge=0, lt=1)
    """Share of all updates in which the rate climbs linearly; left out, 0.25 for `one-cycle` and 0 else."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability s taken from the right class and spread evenly over all K."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Largest Euclidean norm of the whole gradient; longer ones are scaled down to it. 0: no limit."""
    flip: bool = False
    """Mirror training images left-right with probability one half."""
    pad: int = Field(default=0, ge=0)
    """Pixels of border that are added before a crop of the old size is cut at a random place. 0: none."""
    early_stop: int = Field(default=0, ge=0)
    """Epochs without a better validation accuracy (ties: lower loss) after which the run ends. 0: never."""
    keep: Keep = "best"
    """Weights the model ends with: of the best validation accuracy (ties: lower loss), or the last."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the order of images, augmentation and dropout."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass; `bf16` is autocast, weights and updates stay float32."""
    channels_last: bool = False
    """Keep images and weights as N, H, W, C while training: another speed, and another order of rounding."""
    distillation: DistillationForm = "none"
    """How a teacher is followed: document 002's sum of cross-entropies, or Hinton's with a temperature."""
    distillation_weight: float = Field(default=0.5, ge=0)
    """Weight of the teacher's term: lambda >= 0 (`document`), or w in 0..1 (`temperature`)."""
    distillation_temperature: float = Field(default=1.0, gt=0)
    """T that divides both networks' logits before the softmax; of the `temperature` form alone."""

    @model_validator(mode="wrap")
    @classmethod
    def _all_faults_at_once(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        raw = {key: entry for key, entry in value.items() if not (key == "learning_rate" and entry is None)}
        raw.setdefault("learning_rate", RATES.get(str(raw.get("optimizer", "momentum")), RATES["momentum"]))
        found: list[str] = []
        bad: set[str] = set()
        try:
            made = handler(raw)
        except ValidationError as error:
            details = error.errors()
            found = [_say(detail) for detail in details]
            bad = {str(detail["loc"][0]) for detail in details}
            made = handler({key: entry for key, entry in raw.items() if key not in bad})
        found += [rule.text for rule in RULES if not bad & set(rule.fields) and rule.broken(made)]
        if found:
            raise faults("training settings", found)
        return made

    @property
    def warmup_share(self) -> float:
        """Share of all updates in which the rate climbs, with the schedule's default filled in."""
        if self.warmup is not None:
            return self.warmup
        return ONE_CYCLE_WARMUP if self.schedule == "one-cycle" else 0.0

    @property
    def augments(self) -> bool:
        """Training images are changed at random."""
        return self.flip or self.pad > 0


CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimiserName),
    "schedule": get_args(ScheduleName),
    "distillation": get_args(DistillationForm),
    "precision": get_args(Precision),
    "keep": get_args(Keep),
}


def _say(detail: ErrorDetails) -> str:
    """One fault that pydantic found, in this project's words."""
    field, given = str(detail["loc"][0]), detail["input"]
    if detail["type"] == "extra_forbidden":
        return str(unknown("setting", field, TrainConfig.model_fields))
    if detail["type"] == "literal_error":
        return str(unknown(field, str(given), CHOICES[field]))
    return f"{field} is {given}; {detail['msg'].replace('Input should be', 'must be')}"


@dataclass(frozen=True)
class Rule:
    """A fault that lies between settings.

    Attributes:
        fields: the settings it reads; it is not looked at when one of them is at fault itself.
        broken: whether a config has the fault.
        text: what is wrong and what to do.
    """

    fields: tuple[str, ...]
    broken: Callable[[TrainConfig], bool]
    text: str


RULES: tuple[Rule, ...] = (
    Rule(
        ("optimizer", "momentum"),
        lambda c: c.optimizer not in ("momentum", "nesterov") and c.momentum != MOMENTUM,
        "momentum is used by the optimizers momentum and nesterov alone; leave it out or choose one of them",
    ),
    Rule(
        ("optimizer", "momentum"),
        lambda c: c.optimizer in ("momentum", "nesterov") and c.momentum == 0,
        "momentum is 0; must be above 0 for the optimizers momentum and nesterov, or choose sgd",
    ),
    Rule(
        ("schedule", "step_epochs"),
        lambda c: c.schedule == "step" and c.step_epochs == 0,
        "the step schedule needs step_epochs: epochs between two drops, 1 or more",
    ),
    Rule(
        ("schedule", "step_epochs"),
        lambda c: c.schedule != "step" and c.step_epochs != 0,
        "step_epochs is used by the step schedule alone; leave it out or choose schedule=step",
    ),
    Rule(
        ("schedule", "gamma"),
        lambda c: c.schedule not in ("step", "exponential") and c.gamma != GAMMA,
        "gamma is used by the schedules step and exponential alone; leave it out or choose one of them",
    ),
    Rule(
        ("schedule", "warmup"),
        lambda c: c.schedule == "one-cycle" and c.warmup == 0,
        "one-cycle needs a warmup above 0; choose schedule=cosine for none",
    ),
    Rule(
        ("optimizer", "weight_decay"),
        lambda c: c.optimizer == "lbfgs" and c.weight_decay != 0,
        "lbfgs offers no weight_decay; leave it out or choose another optimizer",
    ),
    Rule(
        ("optimizer", "clip_norm"),
        lambda c: c.optimizer == "lbfgs" and c.clip_norm != 0,
        "lbfgs offers no clip_norm: its line search needs the true gradient; leave it out",
    ),
    Rule(
        ("optimizer", "channels_last"),
        lambda c: c.optimizer == "lbfgs" and c.channels_last,
        "lbfgs offers no channels_last: it needs flat gradients; leave it out",
    ),
    Rule(
        ("distillation", "distillation_weight"),
        lambda c: c.distillation == "temperature" and c.distillation_weight > 1,
        "distillation_weight must be at most 1 in the temperature form, where it is the teacher's share",
    ),
    Rule(
        ("distillation", "distillation_weight"),
        lambda c: c.distillation == "none" and c.distillation_weight != 0.5,
        "distillation_weight needs distillation=document or distillation=temperature",
    ),
    Rule(
        ("distillation", "distillation_temperature"),
        lambda c: c.distillation != "temperature" and c.distillation_temperature != 1,
        "distillation_temperature is used by distillation=temperature alone; leave it out or choose it",
    ),
)


@dataclass(frozen=True)
class Extent:
    """How long a run is.

    Attributes:
        per_epoch: updates of a whole epoch.
        iterations: updates in all.
        epochs: epochs begun, the last perhaps not whole.
    """

    per_epoch: int
    iterations: int
    epochs: int


def extent(config: TrainConfig, images: int) -> Extent:
    """Updates and epochs of a run over a training split of `images`.

    >>> extent(TrainConfig(batch=100, iterations=25), 1000)
    Extent(per_epoch=10, iterations=25, epochs=3)
    """
    if images < 1:
        raise UsageError("the training split has no images; give data with at least one")
    per_epoch = math.ceil(images / (config.batch or images))
    total = config.iterations or config.epochs * per_epoch
    return Extent(per_epoch, total, math.ceil(total / per_epoch))


def override(config: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """A config with some settings changed, checked again as a whole.

    A new optimiser brings its own learning rate, and a new schedule its own shape, unless given too: the
    old ones were chosen for the old.

    Args:
        config: what to start from.
        changes: new values by field name; text (`"0.1"`, `"true"`) is converted.

    Raises:
        UsageError: unknown settings or values that cannot be, all in one message.

    >>> override(TrainConfig(learning_rate=0.2), {"optimizer": "adam", "pad": "2"}).learning_rate
    0.001
    """
    values: dict[str, object] = config.model_dump()
    if changes.get("optimizer", config.optimizer) != config.optimizer:
        values = {key: old for key, old in values.items() if key not in ("learning_rate", "momentum")}
    if changes.get("schedule", config.schedule) != config.schedule:
        values = {key: old for key, old in values.items() if key not in ("step_epochs", "gamma", "warmup")}
    if "epochs" in changes and "iterations" not in changes:
        values["iterations"] = None
    return TrainConfig.model_validate({**values, **changes})
