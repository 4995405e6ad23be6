"""The two ways to narrower networks: NetAdapt's, step by step, and all widths at once.

Both leave their networks in the trajectory, every one exportable (`tersa export --run DIR --at N`), and go on
from the last stored one. Steps are judged by estimates; every few steps, and where the estimate says that the
budget is met, the whole network is measured and the estimate corrected, until a measurement says so too.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tersa.adapt.budget import Damage, solve
from tersa.adapt.grid import widths as widths_to_try
from tersa.adapt.netadapt import Cut, Reduction, by_accuracy, price, search
from tersa.adapt.proxies import PROXIES, Probe
from tersa.errors import Diverged
from tersa.prune.groups import Groups
from tersa.prune.surgery import after, remove_
from tersa.recipes.adapt_fit import Fit, lowest
from tersa.recipes.retraining import retrain_
from tersa.records import Candidate, Step
from tersa.report.numbers import plural
from tersa.train.evaluation import evaluate

log = logging.getLogger(__name__)

LANDINGS = 6
"""Corrections of the estimate by a measurement before the solver gives up."""

NEAR = 0.93
"""A network whose interval ends this near below the limit is not tried to be made wider."""

SAVES = 1.0 - 1e-9
"""A candidate must save something, also where the constraint has been met already by another estimate."""


def begin(fit: Fit) -> list[Step]:
    """The stored steps; the baseline's row where there are none."""
    rows = fit.job.way.rows("steps")
    if not rows:
        model = fit.job.network("steps", 0)
        row = fit.weigh(model, fit.job.groups, 0, "the trained network", 0.0)
        fit.job.way.add("steps", row, model)
        rows = [row]
    fit.store.forget_after(rows[-1].index)
    fit.calibrate()
    return rows


def by_budget(fit: Fit) -> int:
    """Solve for the widths, and for those of a front on the way; returns the step of the budget asked.

    Raises:
        UsageError: no widths meet the budget.
        TargetError: the runtime has gone.
    """
    rows = begin(fit)
    job, points = fit.job, max(1, fit.spec.front)
    if len(rows) > points:
        return points
    model = job.network("steps", 0)
    with fit.store.timed("solve"):
        importances = fit.importances(model, job.groups, 1)
        damage = damages(fit, importances)
    for index in range(len(rows), points + 1):
        began = time.perf_counter()
        job.say("solve", (index - 1) / points, "")
        share = (points - index) / points
        widths = _land(fit, damage, importances, index, share)
        network, groups, gone = _narrowed(fit, importances, widths)
        what = f"solved for {share_words(fit, share)}, removed {plural(len(gone), 'channel')}"
        if fit.spec.front and fit.spec.finetune_steps:
            with fit.store.timed("finetune"):
                retrain_(job, network, fit.spec.finetune_steps, seed=job.seed + 1000 * index)
            what += f", fine-tuned {plural(fit.spec.finetune_steps, 'iteration')}"
        row = fit.weigh(network, groups, index, what, time.perf_counter() - began)
        job.way.add("steps", row, network, gone)
        job.say("solve", index / points, f"{row.parameters:,} parameters, {row.validation_accuracy:.2f} %")
    return points


def share_words(fit: Fit, share: float) -> str:
    """What a point was solved for, in words."""
    if share:
        return "a looser budget"
    return " and ".join(f"{name} of {most:.4g}" for name, most in fit.limits().items())


def damages(fit: Fit, importances: list[Tensor]) -> list[Damage]:
    """What narrowing each group costs, over the widths that may be chosen."""
    return [Damage(scores.clamp(min=0.0).tolist(), widths_to_try(len(scores))) for scores in importances]


def _land(
    fit: Fit, damage: list[Damage], importances: list[Tensor], index: int, share: float
) -> tuple[int, ...]:
    """Widths within the limits by a measurement; points before the last are taken by their estimate."""
    widths = fit.anatomy.widths
    best: tuple[float, tuple[int, ...]] | None = None
    for _ in range(LANDINGS):
        with fit.store.timed("solve"):
            widths = solve(damage, fit.cost(share))
        if share or "latency" not in fit.limits():
            return widths
        row = fit.check(_narrowed(fit, importances, widths)[0], widths, index)
        met = fit.within(row)
        if met:
            lost = sum(each.at(width) for each, width in zip(damage, widths, strict=True))
            best = min(best, (lost, widths)) if best else (lost, widths)
        if best and (not met or row.high >= NEAR * fit.limits()["latency"]):
            break
    if best is None:
        log.warning("%d corrections of the estimate, and the network is still above the limit", LANDINGS)
    return best[1] if best else widths


def _narrowed(
    fit: Fit, importances: list[Tensor], widths: tuple[int, ...]
) -> tuple[nn.Module, Groups, Tensor]:
    """The baseline at these widths, its groups, and what it lacks."""
    network = fit.job.network("steps", 0)
    gone = lowest(fit.job.groups, importances, widths)
    groups = remove_(network, fit.job.groups, gone) if len(gone) else fit.job.groups
    return network, groups, gone


@dataclass(frozen=True)
class _Way:
    """One candidate with its network."""

    row: Candidate
    model: nn.Module
    groups: Groups


def by_netadapt(fit: Fit) -> int:
    """Narrow one group at a step until the budget is met; returns the last step.

    Raises:
        TargetError: the runtime has gone.
        Diverged: every candidate of a step diverged.
    """
    rows, job = begin(fit), fit.job
    model = job.network("steps", rows[-1].index)
    groups = after(job.groups, job.way.gone(rows[-1].index))
    first = fit.cost().at(fit.anatomy.widths)
    quality = _last_quality(fit, rows[-1].index)
    while not _arrived(fit, model, fit.widths(groups), rows[-1].index):
        index = rows[-1].index + 1
        ways = _ways(fit, model, groups, index, first, quality)
        if not ways:
            job.ended = "empty"
            break
        best = next(way for way in ways if way.row.chosen)
        model, groups, quality = best.model, best.groups, (best.row.scored_by, best.row.score)
        what = (
            f"narrowed {best.row.group} from {best.row.before} to {best.row.width}, the best of {len(ways)}"
        )
        seconds = sum(way.row.cut_seconds + way.row.score_seconds + way.row.evaluate_seconds for way in ways)
        step = fit.weigh(model, groups, index, what, seconds)
        fit.store.add_candidates([way.row for way in ways])
        job.way.add("steps", step, model, job.groups.units[~torch.isin(job.groups.units, groups.units)])
        rows.append(step)
        done = (first - fit.cost().at(fit.widths(groups))) / max(first - 1.0, 1e-9)
        remark = f"step {index}: {step.validation_accuracy:.2f} %, {what}"
        job.say("netadapt", min(0.99, max(0.0, done)), remark)
    return rows[-1].index


def _arrived(fit: Fit, model: nn.Module, widths: tuple[int, ...], index: int) -> bool:
    """The limits are met, by a measurement where latency is one of them; measured now and then on the way."""
    now = fit.cost().at(widths)
    if "latency" not in fit.limits():
        return now <= 1.0
    if now > 1.0 and (index == 0 or index % fit.spec.check_every):
        return False
    stored = [row for row in fit.store.checks() if row.step == index]
    row = stored[-1] if stored else fit.check(model, widths, index)
    return fit.within(row) and fit.cost(latency=False).at(widths) <= 1.0


def _last_quality(fit: Fit, step: int) -> tuple[str, float] | None:
    chosen = [row for row in fit.store.candidates() if row.step == step and row.chosen]
    return (chosen[-1].scored_by, chosen[-1].score) if chosen else None


def _ways(
    fit: Fit,
    model: nn.Module,
    groups: Groups,
    index: int,
    first: float,
    quality: tuple[str, float] | None,
) -> list[_Way]:
    """All candidates of step `index`, the one that wins marked; none where no group can give way."""
    spec, widths = fit.spec, fit.widths(groups)
    now = fit.cost().at(widths)
    trained = spec.score == "finetune" or by_accuracy(now, first, 1.0, spec.hybrid)
    name = "finetune" if trained else spec.score
    constraint = Reduction(spec.delta, spec.decay).constraint(now, first, index - 1, 1.0)
    before = quality[1] if quality and quality[0] == name else _score(fit, model, name)[0]
    importances = fit.importances(model, groups, index)
    ways: list[_Way] = []
    for place in range(len(widths)):
        began = time.perf_counter()
        choices = [w for w in widths_to_try(fit.anatomy.widths[place]) if w < widths[place]]
        found = search(spec.cut, choices, fit.cost().along(place, widths), min(constraint, now * SAVES))
        seconds = time.perf_counter() - began
        fit.store.spend("cut", seconds)
        if found is not None:
            cut = _Chosen(place, found, seconds)
            ways += _candidate(fit, model, groups, importances, cut, name, index)
    if ways:
        best = min(
            range(len(ways)), key=lambda i: (price(before, ways[i].row.score, now, ways[i].row.cost), i)
        )
        ways[best] = replace(ways[best], row=ways[best].row.model_copy(update={"chosen": True}))
    return ways


@dataclass(frozen=True)
class _Chosen:
    """A group, the width that was found for it, and how long that took."""

    place: int
    cut: Cut
    seconds: float


def _candidate(
    fit: Fit,
    model: nn.Module,
    groups: Groups,
    importances: list[Tensor],
    chosen: _Chosen,
    name: str,
    index: int,
) -> list[_Way]:
    """The network with one group narrower, scored; empty where its fine-tune diverged."""
    place, widths = chosen.place, list(fit.widths(groups))
    trial, before = copy.deepcopy(model), widths[place]
    widths[place] = chosen.cut.width
    left = remove_(trial, groups, lowest(groups, importances, widths))
    began = time.perf_counter()
    if name == "finetune":
        try:
            with fit.store.timed("finetune"):
                seed = fit.job.seed + 1000 * index + place
                retrain_(fit.job, trial, fit.spec.finetune_steps, seed=seed)
        except Diverged as error:
            log.warning("%s at width %d: %s; left out", groups.groups[place].name, chosen.cut.width, error)
            return []
    tuned = time.perf_counter() - began
    score, scoring = _score(fit, trial, name)
    row = Candidate(
        step=index,
        group=groups.groups[place].name,
        before=before,
        width=chosen.cut.width,
        estimate_ms=fit.estimate_ms(widths),
        cost=chosen.cut.cost,
        score=score,
        scored_by=name,
        chosen=False,
        tries=chosen.cut.tries,
        cut_seconds=chosen.seconds,
        score_seconds=tuned if name == "finetune" else scoring,
        evaluate_seconds=scoring if name == "finetune" else 0.0,
    )
    return [_Way(row, trial, left)]


def _score(fit: Fit, model: nn.Module, name: str) -> tuple[float, float]:
    """What a network is ranked by, and how long that took."""
    began, job = time.perf_counter(), fit.job
    if name == "finetune":
        with fit.store.timed("evaluate"):
            found = evaluate(model, job.task.validation, job.task, device=job.device).accuracy
            model.cpu()
        return found, time.perf_counter() - began
    with fit.store.timed("score"):
        images = job.task.train.take(slice(0, fit.spec.score_images))
        probe = Probe(job.task.normalise(images.images), images.labels, job.seed)
        value = PROXIES[name].score(model, probe)
    if not math.isfinite(value):
        raise Diverged(f"the score {name} of a candidate is {value}; take another --score")
    return value, time.perf_counter() - began
