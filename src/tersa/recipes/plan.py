"""What `tersa shrink` and `tersa prune` would do and about how long it would take, without doing it.

Speed is measured on a few batches of the untrained baseline; the rest follows from the number of iterations.
Steps are counted from the schedule, or from the pace down to the bounds (`pace`). A pruned network costs less
at every step: in proportion to the square of the share of channels that is left, which is what a network
whose layers all shrink alike computes, but never less than `LEAST_COST`. A rough estimate, and only of an
otherwise idle machine.

Example:
    >>> from tersa.recipes.pruning import Protocol
    >>> [round(share, 2) for share in pace(Protocol(retrain=1, tune=0, step="25%"), 100, 0.3)]
    [0.75, 0.5, 0.25]
"""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from tersa.data.augment import default_augmentation
from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.models.summary import macs, parameters, summary
from tersa.models.zoo import default_spec
from tersa.prune.blocks import NM
from tersa.prune.groups import find_groups
from tersa.prune.holding import full_masks
from tersa.prune.masks import parse_granularity
from tersa.prune.protocol import within
from tersa.prune.schedules import SCHEDULES
from tersa.recipes.pruning import Protocol, listed
from tersa.recipes.request import ShrinkSpec, baseline_config, protocol_of
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.shrink import prunable, shipped
from tersa.recipes.start import find_start
from tersa.recipes.zeroed import masked
from tersa.records.base import Record
from tersa.report.numbers import plural
from tersa.train.config import extent
from tersa.train.device import choose
from tersa.train.estimate import in_words, iteration_seconds, memory_bytes

USUAL_SHARE = 0.02
"""Share of the channels at which the accuracy usually ends a descent that nothing else ends."""
PROBES = 4
"""Long fine-tunes of a usual search for the smallest network that keeps an accuracy."""
LEAST_COST = 0.08
"""Least cost of an iteration of a very small network, against the baseline's: images have to be read."""
STEP_SECONDS = 0.5
"""Beside the retraining: scores, validation and file of a step."""
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
    shipped(spec, task, begin.pruned())
    prunable(begin.pruned(), task, protocol)
    with threads_of(setting):
        per_iteration = iteration_seconds(model, task, config, device=choose(setting.device))
    length = extent(config, len(task.train))
    each = per_iteration * protocol.batch / max(config.batch, 1)
    shares = pace(protocol, _units(spec, task, begin.pruned(), protocol), _share(spec, model, task, protocol))
    costs = [cost(share, protocol) for share in shares]
    views = 1 if default_augmentation(task).nothing else protocol.views
    taught = bool(protocol.teacher_weight) and bool(protocol.retrain or protocol.tune)
    tuned = each * protocol.tune * costs[-1]
    guessed = protocol.schedule == "open" and len(shares) > 1
    probes = PROBES if protocol.schedule == "open" and not spec.goals.bounded else 1
    parts = [
        (
            "baseline",
            _baseline_words(spec, length.epochs),
            0.0 if begin.trained else per_iteration * length.iterations,
        )
    ]
    if taught:
        words = f"{views} view{'s' if views > 1 else ''} of each training image, for distillation"
        parts.append(("ask the baseline", words, views * length.per_epoch * per_iteration * TEACHER_COST))
    if spec.light:
        words = f"replace convolutions, {plural(protocol.tune, 'iteration')}"
        parts.append((spec.light, words, each * protocol.tune))
    parts += [
        (
            "prune",
            f"{'about ' if guessed else ''}{plural(len(shares), 'step')}: score, {_removed(protocol)}, "
            f"retrain {plural(protocol.retrain, 'iteration')}",
            protocol.retrain * each * sum(costs) + STEP_SECONDS * len(shares),
        ),
        (
            "tune",
            f"{f'about {probes} fine-tunes' if probes > 1 else '1 fine-tune'} of "
            f"{plural(protocol.tune, 'iteration')}, each exported and checked",
            probes * (tuned + 3.0),
        ),
    ]
    if spec.scratch and protocol.granularity == "map":
        words = f"the same sizes, {length.epochs} epochs"
        parts.append(("from scratch", words, per_iteration * length.iterations * costs[-1]))
    if spec.cluster:
        words = "shared values, trained and coded" if protocol.tune else "shared values, coded"
        parts.append(("cluster", words, tuned))
    parts.append(("test and measure", f"{len(task.test)} test images, the usual runtimes", 30.0))
    steps = [PlannedStep(name=n, what=w, seconds=s, time=in_words(s)) for n, w, s in parts]
    total = sum(step.seconds for step in steps)
    answers = 4 * views * len(task.train) * len(task.classes) if taught else 0
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


def pace(protocol: Protocol, units: int, bound: float | None) -> list[float]:
    """Share of the channels (or weights) in scope that is left after each step.

    Args:
        protocol: how.
        units: there are at the start.
        bound: share at which the bounds are met, None where the accuracy ends it.
    """
    kind = parse_granularity(protocol.granularity)
    if isinstance(kind, NM):
        return [kind.n / kind.m]
    if protocol.schedule != "open":
        share, steps = SCHEDULES[protocol.schedule], protocol.steps
        return [1.0 - share(index, steps, protocol.amount) for index in range(1, steps + 1)]
    stride, left, found = protocol.stride(), units, list[float]()
    while left > 1 and left > (USUAL_SHARE if bound is None else bound) * units:
        left = max(1, left - max(1, stride.count(units, left)))
        found.append(left / units)
    return found or [1.0]


def cost(share: float, protocol: Protocol) -> float:
    """Of one iteration when this share is left, against the baseline's."""
    return max(LEAST_COST, share * share) if protocol.granularity == "map" else 1.0


def _units(spec: ShrinkSpec, task: Task, model: nn.Module, protocol: Protocol) -> int:
    """Channels or weights in scope at the start."""
    if protocol.granularity == "map":
        groups = find_groups(model, task.shape, listed(protocol.keep))
        return int(within(groups, protocol.layers()).sum())
    return sum(mask.numel() for mask in full_masks(model, masked(protocol, model)).values())


def _share(spec: ShrinkSpec, model: nn.Module, task: Task, protocol: Protocol) -> float | None:
    """Share of the channels or weights at which the bounds that can be told from it are met."""
    limits = spec.goals.parameters, spec.goals.macs, spec.goals.size
    weights = parameters(model)
    before = weights, macs(model, task.shape), 4 * weights
    shares = [bound.limit(cost) / cost for bound, cost in zip(limits, before, strict=True) if bound]
    if not shares:
        return None
    return min(shares) ** 0.5 if protocol.granularity == "map" else min(shares)


def _removed(protocol: Protocol) -> str:
    """What a step removes, in words."""
    what = "channels" if protocol.granularity == "map" else f"{protocol.granularity}s"
    if protocol.schedule != "open":
        return f"remove {100 * protocol.amount:g} % of the {what} in all"
    if isinstance(parse_granularity(protocol.granularity), NM):
        return f"keep {protocol.granularity.replace(':', ' of ')} weights"
    stride = protocol.stride()
    if stride.of == "units":
        return f"remove {plural(int(stride.value), what.removesuffix('s'))}"
    return f"remove {stride.value:g} % of the {what}{' left' if stride.of == 'left' else ''}"


def _baseline_words(spec: ShrinkSpec, epochs: int) -> str:
    if spec.checkpoint or spec.run:
        return f"weights from {spec.checkpoint or spec.run}"
    return f"{epochs} epochs of training, unless the cache has it"
