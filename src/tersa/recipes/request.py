"""What is asked of one run of shrink or prune, whole and checked before any work.

Example:
    >>> ShrinkSpec(data="digits", goals=Goals(max_loss=2.0)).precision
    'auto'
"""

from __future__ import annotations

import shlex
from typing import Literal

from pydantic import Field, ValidationError

from tersa.data.task import Task
from tersa.errors import UsageError, faults, unknown
from tersa.recipes.deploy import shippable
from tersa.recipes.goals import Bound, Goals, Kind
from tersa.recipes.pruning import Protocol, check_protocol, default_protocol, listed
from tersa.records.base import Record
from tersa.train.baseline import default_config
from tersa.train.config import TrainConfig, override

DEFAULT_GOALS = Goals(max_loss=1.0)
"""What is asked when nothing is asked."""


FLAGS = {"normalisation": "normalize", "mac_weight": "mac-penalty"}
"""Settings whose option has another name."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "shrink": ("retrain", "tune", "share", "criterion_samples"),
    "prune": (
        "criterion",
        "normalisation",
        "mac_weight",
        "scope",
        "granularity",
        "keep",
        "step",
        "schedule",
        "amount",
        "steps",
        "recompute",
        "regrow",
        "round_to",
        "retrain",
        "retrain_scope",
        "optimiser",
        "tune",
        "learning_rate",
        "teacher_weight",
        "pad",
        "arithmetic",
        "criterion_samples",
    ),
}
"""Settings of the protocol that a verb has options for."""


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
        training: settings of the baseline's training that differ from the data's default.
        protocol: settings of `pruning.Protocol` that differ from what suits the data.
        verb: that asked.
        run: folder of a run whose network is pruned, or None.
        light: convolutions are replaced first: `separable`, `fire` or `shift`, `KIND@LAYER,...` for some.
        scratch: train the same sizes from scratch beside the result.
        cluster: bits of the clustered and coded file, `auto` for the fewest that keep the goal, or None.
        coder: entropy coder of it.
        coded_size: bytes that it may have, or their share of 4 bytes for each parameter of the baseline: the
            most accurate file within them; None for the smallest that keeps the goal.
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
    training: dict[str, str] = Field(default_factory=dict[str, str])
    protocol: dict[str, int | float | str] = Field(default_factory=dict[str, int | float | str])
    verb: Literal["shrink", "prune", "adapt"] = "shrink"
    run: str | None = None
    light: str | None = None
    scratch: bool = False
    cluster: int | Literal["auto"] | None = None
    coder: Literal["auto", "huffman", "arithmetic"] = "auto"
    coded_size: Bound | None = None

    @property
    def pruned_model(self) -> str:
        """The spec of the network that loses channels."""
        return f"{self.model}+{self.light}" if self.light else str(self.model)

    def check(self) -> None:
        """Faults that show before any work.

        Raises:
            UsageError: goals, target, batch or precision cannot be.
        """
        self.goals.check()
        if self.goals.energy is not None and self.verb != "adapt":
            raise UsageError(
                f"--energy {self.goals.energy.text('energy')}: only tersa adapt limits energy; leave it out, "
                "or bound --latency, --macs, --size or --parameters"
            )
        shippable(self.precision, self.target)
        strange = self.protocol.keys() - Protocol.model_fields.keys()
        if strange:
            raise unknown("protocol setting", sorted(strange)[0], Protocol.model_fields)
        protocol = _protocol(self.protocol, 1)
        check_protocol(protocol)
        if "steps" in self.protocol and protocol.schedule == "open":
            raise UsageError(
                "--steps belongs to a schedule; give --schedule one-shot, steady, geometric or cubic"
            )
        if protocol.granularity != "map":
            _check_zeros(self.goals, protocol.granularity, dense=self.precision == "fp32" and not self.light)
        if self.epochs is not None and self.checkpoint is not None:
            raise UsageError("--epochs trains a baseline, --checkpoint brings one; leave out one of them")
        if self.run and (self.model or self.checkpoint or self.epochs is not None):
            raise UsageError("--run brings a trained network; leave out --model, --checkpoint and --epochs")
        if self.training and (self.run or self.checkpoint):
            raise UsageError("--set is for the training of a baseline; weights are given, leave it out")
        if self.verb == "prune" and "keep" in self.protocol and not listed(protocol.keep):
            raise UsageError("--keep '' names no layer; give LAYER,LAYER*, or leave it out")
        if self.coder != "auto" and self.cluster is None:
            raise UsageError(
                f"--coder {self.coder} is of the file that --cluster writes; give --cluster BITS or auto"
            )
        if isinstance(self.cluster, int) and not 1 <= self.cluster <= 8:
            raise UsageError(f"--cluster {self.cluster}: bits are 1 to 8, or auto")
        if self.coded_size is not None and (self.cluster is None or protocol.tune < 2):
            raise UsageError(
                "--coded-size is of the file that --cluster writes, and needs --tune of 2 or more"
            )
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be 1 or more")


def _check_zeros(goals: Goals, granularity: str, *, dense: bool) -> None:
    """Refuse what single zeros cannot reach: they are stored and computed with like other weights.

    Args:
        goals: what is asked.
        granularity: of what is zeroed.
        dense: nothing but zeros makes the network smaller: neither INT8 nor light modules.

    Raises:
        UsageError: a bound on MACs, latency or the ONNX file, or on parameters below what n:m leaves.
    """
    for name, bound in (("macs", goals.macs), ("latency", goals.latency), ("size", goals.size)):
        if bound is not None and (dense or name == "macs"):
            instead = " (or --coded-size with --cluster)" if name == "size" else ""
            raise UsageError(
                f"--{name} is out of reach of --granularity {granularity}: zeros are stored and computed "
                f"with like other weights; bound --parameters{instead}, or give --granularity map"
            )
    left, _, of = granularity.partition(":")
    if dense and of and goals.parameters is not None and goals.parameters.relative:
        share = int(left) / int(of)
        if goals.parameters.value < share:
            raise UsageError(
                f"--parameters {goals.parameters.value:g}x is out of reach of --granularity {granularity}, "
                f"which leaves {share:g}x; ask for that or more, or give --granularity weight"
            )


def share_of(text: str) -> float:
    """A share from `90%` or `0.9`.

    Raises:
        UsageError: not a number, or not between 0 and 1.

    >>> share_of("90%"), share_of("0.25")
    (0.9, 0.25)
    """
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise UsageError(f"--amount '{text}' is not a share; write 90% or 0.9")
    return value


def bits_of(text: str | None) -> int | Literal["auto"] | None:
    """Bits of the clustered file: a number, `auto`, or None.

    Raises:
        UsageError: anything else.

    >>> bits_of("4"), bits_of("auto"), bits_of(None)
    (4, 'auto', None)
    """
    if text is None or text == "auto":
        return text
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--cluster '{text}' is not understood; write bits (1 to 8) or auto")
    return int(text)


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
    epochs = {} if spec.epochs is None else {"epochs": spec.epochs}
    return override(default_config(task, model), {**epochs, **spec.training, "seed": spec.seed})


def command_of(spec: ShrinkSpec) -> str:
    """The command line that does the same (settings of the protocol that it lacks are in the report).

    >>> command_of(ShrinkSpec(data="my photos", goals=Goals(max_loss=2.0), protocol={"tune": 50}))
    "tersa shrink --data 'my photos' --max-loss 2 --tune 50"
    """
    words = ["tersa", spec.verb, "--data", spec.data]
    goals = {"max-loss": spec.goals.max_loss, "min-accuracy": spec.goals.min_accuracy}
    bounds: tuple[Kind, ...] = ("parameters", "macs", "size", "latency")
    limits = {name: bound.text(name) for name in bounds if (bound := getattr(spec.goals, name))}
    if spec.coded_size is not None:
        limits["coded-size"] = spec.coded_size.text("size")
    given = {"model": spec.model, "run": spec.run, "checkpoint": spec.checkpoint, **goals, **limits}
    default = ShrinkSpec(precision="fp32" if spec.verb == "prune" else "auto", scratch=spec.verb == "prune")
    for name in ("target", "batch", "precision", "seed", "epochs", "validation", "light", "cluster", "coder"):
        given[name] = getattr(spec, name) if getattr(spec, name) != getattr(default, name) else None
    given |= {name: spec.protocol.get(name) for name in OPTIONS[spec.verb]}
    for name, value in given.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{FLAGS.get(name, name.replace('_', '-'))}", text]
    for name, value in spec.training.items():
        words += ["--set", f"{name}={value}"]
    if spec.scratch != default.scratch:
        words.append("--scratch" if spec.scratch else "--no-scratch")
    return shlex.join(words)
