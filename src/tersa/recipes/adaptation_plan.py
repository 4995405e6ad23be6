"""How long `tersa reproduce adaptation` would take, from one block of each network that is timed for real.

    latency table    layers that are not measured yet x `adapt_plan.LAYER_SECONDS`
    stages           two steps x blocks x deltas x seconds of the widest block, timed as `quick` times it
                     and taken as often as `full` builds interpolators
    scores           steps of the greedy way x blocks x a candidate's scores
    searches         `adapt_plan.plan` of each, the baseline of a network counted once

Steps are those of a way by multiply-accumulates. An estimate, as all of them: later blocks are narrower, and
work beside this one counts.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from tersa.adapt.measuring import count_missing
from tersa.adapt.proxies import PROXIES, Probe
from tersa.adapt.resource import Macs
from tersa.adapt.table import path_of
from tersa.recipes import adapt_plan
from tersa.recipes.adaptation import (
    BUDGET,
    MEASURED,
    MIDDLE,
    OUTPUTS,
    SCORED,
    SCORES,
    SIDE,
    SPECS,
    AdaptationPlan,
    search_spec,
)  # fmt: skip
from tersa.recipes.adaptation_stages import Measured, Subject, block_times, walk
from tersa.recipes.setting import Setting


def expected_seconds(plan: AdaptationPlan) -> float:
    """About how long the whole work takes from nothing but the latency table that is there."""
    return sum(_network(plan, name) for name in plan.networks) + _searches(plan)


def _network(plan: AdaptationPlan, network: str) -> float:
    mode, shape = plan.request.mode, (3, SIDE, SIDE)
    subject = Subject.of(SPECS[network], shape, OUTPUTS, Macs())
    path = path_of(plan.request.table)
    _, missing = count_missing(path, subject.anatomy, plan.target)
    blocks = len(subject.anatomy.groups)
    widest = max(range(blocks), key=lambda each: subject.anatomy.widths[each])
    repeat, builds = MEASURED["quick"]
    with tempfile.TemporaryDirectory() as folder:
        asked = Measured(plan.deltas[-1], BUDGET, plan.request.iterations, repeat, builds)
        began = time.perf_counter()
        block_times(subject, subject.anatomy.widths, widest, asked, Path(folder))
        one = (time.perf_counter() - began) * MEASURED[mode][1] / builds
    delta = MIDDLE if MIDDLE in plan.deltas else plan.deltas[-1]
    steps = len(walk(subject, delta=delta, budget=BUDGET)) - 1
    scores = steps * blocks * _scored(subject, SCORED[mode])
    return missing * adapt_plan.LAYER_SECONDS + 2 * blocks * len(plan.deltas) * one + scores


def _scored(subject: Subject, images: int) -> float:
    probe = Probe(torch.randn(images, *subject.shape), torch.zeros(images, dtype=torch.long))
    began = time.perf_counter()
    for name in SCORES:
        PROXIES[name].score(subject.model, probe)
    return time.perf_counter() - began


def _searches(plan: AdaptationPlan) -> float:
    """Whole adaptations; one seed takes as long as another, and updates are timed once a network."""
    directory = Path(plan.request.data_dir) if plan.request.data_dir else None
    total, known = 0.0, dict[str, adapt_plan.AdaptPlan]()
    for network, strategy, seed in plan.searches:
        spec = search_spec(plan, network, strategy, seed)
        if network not in known:
            known[network] = adapt_plan.plan(spec, Setting(directory, threads=1))
            total += plan.request.seeds * _of(known[network], "baseline")
        found = known[network]
        _, _, search = adapt_plan.search_part(spec, found.groups, found.iteration_s)
        total += search + _of(found, "tune") + _of(found, "test and measure")
    return total


def _of(found: adapt_plan.AdaptPlan, name: str) -> float:
    return next(step.seconds for step in found.steps if step.name == name)
