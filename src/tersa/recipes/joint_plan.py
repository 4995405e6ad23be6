"""What `tersa search` would try and about how long it would take, without doing it.

Example:
    >>> spec = JointSpec(model="mlp:8", costs=("macs",), widths=(1.0, 0.5), most=0.5, bits="2..4")
    >>> plan = plan_search(spec, Setting(threads=1), 10)
    >>> [axis.name for axis in plan.axes], plan.combinations
    (['width', 'prune', 'bits.fc1.weight', 'bits.fc2.weight'], 198)
"""

from __future__ import annotations

import math
from dataclasses import replace

from tersa.data.sources import load as load_task
from tersa.models.zoo import default_spec
from tersa.recipes.joint_networks import SECONDS, searched
from tersa.recipes.joint_request import JointSpec
from tersa.recipes.joint_trials import Axis, combinations
from tersa.recipes.request import baseline_config, protocol_of
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.shrink import prunable, shipped
from tersa.recipes.start import find_start
from tersa.records.base import Record
from tersa.study.cluster import LOCAL, Crew, check_place
from tersa.targets.environment import cores
from tersa.train.config import extent
from tersa.train.device import choose
from tersa.train.estimate import iteration_seconds

WEIGHING = 1.0
"""Seconds of a network's file, validation and a measurement's start."""


class PlannedAxis(Record):
    """One thing that would be searched; `values` in words, `count` of them."""

    name: str
    values: str
    count: int


class SearchPlan(Record):
    """What would be searched.

    Attributes:
        model: as it was asked for, or the data's default.
        trials: networks to try; no more than there are.
        combinations: of all axes.
        seconds: estimated: widths to train and trials, each as costly as the largest network's; as many
            trials at once as workers have cores, and one latency after the other.
    """

    model: str
    axes: list[PlannedAxis]
    trials: int
    combinations: int
    seconds: float


def plan_search(spec: JointSpec, setting: Setting, trials: int, crew: Crew | None = None) -> SearchPlan:
    """Estimate the work of a search.

    Args:
        spec: what is asked.
        setting: how it is carried out.
        trials: networks to try.
        crew: how many of them are trained at once; None for one.

    Raises:
        UsageError, DataError, ModelError: what the search would raise before its work.
    """
    crew = crew or Crew()
    check_place(crew.on)
    spec.check()
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    base = spec.shrinking()
    begin = find_start(base, task)
    shipped(base, task, begin.pruned())
    groups = prunable(begin.pruned(), task, protocol_of(base, task))
    axes = searched(spec, begin, groups)
    trials = min(trials, combinations(axes))
    config = baseline_config(base, task, begin.model)
    with threads_of(setting if crew.alone else replace(setting, threads=crew.threads)):
        each = iteration_seconds(begin.network(), task, config, device=choose(setting.device))
    length = 0 if begin.trained else extent(config, len(task.train)).iterations * len(set(spec.widths))
    tuning = spec.tune * (1.5 if spec.bit_range else 1.0)
    clock = 4 * SECONDS if spec.timed else 0.0
    return SearchPlan(
        model=begin.model,
        axes=[_planned(axis) for axis in axes],
        trials=trials,
        combinations=combinations(axes),
        seconds=each * length + _rounds(trials, crew) * (each * tuning + WEIGHING) + trials * clock,
    )


def _rounds(trials: int, crew: Crew) -> int:
    """How often as many networks as can be are trained at once; workers here have no more than its cores."""
    if crew.alone:
        return trials
    most = max(1, cores() // crew.threads) if crew.on == LOCAL else crew.workers
    return math.ceil(trials / min(crew.workers, most))


def _planned(axis: Axis) -> PlannedAxis:
    if axis.values:
        words = ", ".join(f"{value:g}" for value in axis.values)
    else:
        words = f"{axis.low:g} to {axis.high:g} in steps of {axis.step:g}"
    return PlannedAxis(name=axis.name, values=words, count=axis.count)
