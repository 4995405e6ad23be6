"""What `tersa shrink` would do and about how long it would take, without doing it.

Speed is measured on a few batches of the untrained baseline; the rest follows from the number of iterations.
A pruned network costs less at every step; by how much is assumed, not measured (`PRUNED_COST`, `TUNED_COST`,
`TEACHER_COST`). A rough estimate, and only of an otherwise idle machine.
"""

from __future__ import annotations

from dataclasses import asdict

from tersa.data.augment import default_augmentation
from tersa.data.sources import load as load_task
from tersa.models.summary import parameters, summary
from tersa.models.zoo import default_spec
from tersa.recipes.request import ShrinkSpec, baseline_config, protocol_of
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.start import find_start
from tersa.records import Record
from tersa.train.config import extent
from tersa.train.device import choose
from tersa.train.estimate import in_words, iteration_seconds, memory_bytes

STEPS = 30
"""Pruning steps of a usual run."""
PROBES = 4
"""Long fine-tunes of a usual search."""
PRUNED_COST = 0.35
"""Assumed mean cost of one iteration over all steps, against the baseline's."""
TUNED_COST = 0.15
"""Assumed cost of one iteration of a long fine-tune, against the baseline's."""
TEACHER_COST = 0.3
"""Assumed cost of the baseline's forward pass, against an iteration of its training."""


class PlannedStep(Record):
    """One part of the work.

    Attributes:
        name: as the progress bar names it.
        what: in words.
        seconds: estimated.
        time: the same in words.
    """

    name: str
    what: str
    seconds: float
    time: str


class PlannedLayer(Record):
    """One layer of the baseline; `size_bytes` at 4 bytes per parameter."""

    name: str
    kind: str
    output: list[int]
    parameters: int
    macs: int
    size_bytes: int


class Plan(Record):
    """The parts of the work with the whole time and the memory.

    Attributes:
        model: as it was asked for, or the data's default.
        layers: of the baseline, in order.
        steps: in order.
        seconds: estimated, in all.
        time: the same in words.
        memory_bytes: of the process at its largest, estimated.
    """

    model: str
    layers: list[PlannedLayer]
    steps: list[PlannedStep]
    seconds: float
    time: str
    memory_bytes: int


def plan(spec: ShrinkSpec, setting: Setting) -> Plan:
    """Estimate the work of `shrink(spec)`.

    Raises:
        UsageError, DataError, ModelError: what `shrink` would raise before its work.
    """
    spec.check()
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    begin = find_start(spec, task)
    name, model = begin.model, begin.network()
    config, protocol = baseline_config(spec, task, name), protocol_of(spec, task)
    with threads_of(setting):
        per_iteration = iteration_seconds(model, task, config, device=choose(setting.device))
    length = extent(config, len(task.train))
    views = 1 if default_augmentation(task).nothing else protocol.views
    each = per_iteration * protocol.batch / max(config.batch, 1)
    parts = [
        (
            "baseline",
            _baseline_words(spec, length.epochs),
            0.0 if begin.trained else per_iteration * length.iterations,
        ),
        (
            "ask the baseline",
            f"{views} view{'s' if views > 1 else ''} of each training image, for distillation",
            views * length.per_epoch * per_iteration * TEACHER_COST,
        ),
        (
            "prune",
            f"about {STEPS} steps: score, remove {100 * protocol.share:.0f} % of the channels, "
            f"retrain {protocol.retrain} iterations",
            STEPS * (protocol.retrain * each * PRUNED_COST + 0.5),
        ),
        (
            "tune",
            f"about {PROBES} fine-tunes of {protocol.tune} iterations, each exported and checked",
            PROBES * (protocol.tune * each * TUNED_COST + 3.0),
        ),
        ("test and measure", f"{len(task.test)} test images, every installed runtime", 30.0),
    ]
    steps = [PlannedStep(name=n, what=w, seconds=s, time=in_words(s)) for n, w, s in parts]
    total = sum(step.seconds for step in steps)
    answers = 4 * views * len(task.train) * len(task.classes)
    memory = memory_bytes(model, task, config) + 2 * 4 * parameters(model) + answers  # teacher, candidate
    layers = [
        PlannedLayer.model_validate({**asdict(row), "output": list(row.output)})
        for row in summary(model, task.shape).rows
    ]
    return Plan(
        model=name,
        layers=layers,
        steps=steps,
        seconds=total,
        time=in_words(total),
        memory_bytes=memory,
    )


def _baseline_words(spec: ShrinkSpec, epochs: int) -> str:
    if spec.checkpoint or spec.run:
        return f"weights from {spec.checkpoint or spec.run}"
    return f"{epochs} epochs of training, unless the cache has it"
