"""The two ways to narrower networks: NetAdapt's, step by step, and all widths at once.

Both leave their networks in the trajectory, every one exportable (`tersa export --run DIR --at N`), and go on
from the last stored one. Steps are judged by estimates; every few steps, and where the estimate says that the
budget is met, the whole network is measured and the estimate corrected, until a measurement says so too
(NetAdapt with `--check-every 0` goes by estimates to its end, as published).
"""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor, nn

from tersa.adapt.budget import Damage, Priced, solve
from tersa.adapt.cost import Cost, Limit
from tersa.adapt.grid import widths as widths_to_try
from tersa.errors import Diverged, UsageError
from tersa.prune.groups import Groups
from tersa.prune.surgery import after, remove_
from tersa.recipes.adapt_candidates import ways
from tersa.recipes.adapt_fit import GLANCE, Fit, lowest
from tersa.recipes.retraining import retrain_
from tersa.records.results import Step
from tersa.report.numbers import plural

log = logging.getLogger(__name__)

LANDINGS = 6
"""Corrections of the estimate by a measurement before the solver gives up."""

LOOSER = "a looser budget"
"""What the networks of a front before the last are solved for, in words."""

NEAR = 0.93
"""A network that takes up so much of a measured limit is not tried to be made wider."""


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

    Where no widths meet the budget, that step's network is the cheapest there is, and a front ends with it.

    Raises:
        TargetError: the runtime has gone.
    """
    rows = begin(fit)
    job, points = fit.job, max(1, fit.spec.front)
    if rows[-1].index and LOOSER not in rows[-1].what:
        return rows[-1].index
    model = job.network("steps", 0)
    with fit.store.timed("solve"):
        importances = fit.importances(model, job.groups, 1)
        damage = damages(fit, importances)
    for index in range(len(rows), points + 1):
        began = time.perf_counter()
        job.say("solve", (index - 1) / points, "")
        share = (points - index) / points
        widths = _estimated(fit, damage, share) if share else None
        if widths is None:
            share, widths = 0.0, _land(fit, damage, importances, index)
        network, groups, gone = _narrowed(fit, importances, widths)
        what = f"solved for {share_words(fit, share)}, removed {plural(len(gone), 'channel')}"
        if fit.spec.front and fit.spec.finetune_steps:
            what += f", {_tuned(fit, network, index)}"
        row = fit.weigh(network, groups, index, what, time.perf_counter() - began)
        job.way.add("steps", row, network, gone)
        fit.store.lap()
        job.say("solve", index / points, f"{row.parameters:,} parameters, {row.validation_accuracy:.2f} %")
        if not share:
            return index
    raise AssertionError("the last point of a front is the budget asked")


def _tuned(fit: Fit, network: nn.Module, index: int) -> str:
    """Fine-tune a point of a front, in place, and say so; where that diverges it stays as it was solved."""
    iterations = plural(fit.spec.finetune_steps, "iteration")
    try:
        with fit.store.timed("finetune"):
            retrain_(fit.job, network, fit.spec.finetune_steps, seed=fit.job.seed + 1000 * index)
    except Diverged as error:
        log.warning("point %d of the front: %s; it is left without its fine-tune", index, error)
        return f"its fine-tune of {iterations} diverged and was left out"
    return f"fine-tuned {iterations}"


def share_words(fit: Fit, share: float) -> str:
    """What a point was solved for, in words."""
    if share:
        return LOOSER
    return " and ".join(f"{name} of {most:.4g}" for name, most in fit.limits().items())


def damages(fit: Fit, importances: list[Tensor]) -> list[Damage]:
    """What narrowing each group costs, over the widths that may be chosen."""
    return [Damage(scores.clamp(min=0.0).tolist(), widths_to_try(len(scores))) for scores in importances]


def _estimated(fit: Fit, damage: list[Damage], share: float) -> tuple[int, ...] | None:
    """Widths of a front's point before the last, taken by their estimate; None where none meet its budget,
    and so none a tighter one."""
    with fit.store.timed("solve"):
        widths, possible = _solved(damage, fit.cost(share))
    return widths if possible else None


def _land(fit: Fit, damage: list[Damage], importances: list[Tensor], index: int) -> tuple[int, ...]:
    """Widths within the limits by a measurement; the cheapest ones where none are."""
    widths = fit.anatomy.widths
    best: tuple[float, tuple[int, ...]] | None = None
    for landing in range(LANDINGS):
        before = widths
        with fit.store.timed("solve"):
            widths, possible = _solved(damage, fit.cost())
        if landing and widths == before and (best or not possible):
            break  # as wide as what is counted allows; or the cheapest network was measured, and is too dear
        if not fit.measures:
            return widths
        found = fit.check(_narrowed(fit, importances, widths)[0], widths, index)
        met = fit.within(found)
        if met:
            lost = sum(each.at(width) for each, width in zip(damage, widths, strict=True))
            best = min(best, (lost, widths)) if best else (lost, widths)
        if best and (not met or fit.share(found) >= NEAR):
            break
    if best is None:
        log.warning("corrections of the estimate by measurements, and the network is still above the limit")
    return best[1] if best else widths


def _solved(damage: list[Damage], cost: Cost) -> tuple[tuple[int, ...], bool]:
    """Widths within a budget, or the cheapest ones; and whether they are within it."""
    try:
        return solve(damage, cost), True
    except UsageError:  # none found
        widths = cheapest(damage, cost)
        return widths, cost.at(widths) <= 1.0


def cheapest(damage: list[Damage], cost: Priced) -> tuple[int, ...]:
    """The narrowest widths, and of each group in turn the cheapest while that saves something (machines have
    steps: narrower may cost more)."""
    now = tuple(each.choices[0] for each in damage)
    while True:
        before = cost.at(now)
        for group, each in enumerate(damage):
            along = cost.along(group, now)
            now = (*now[:group], min(each.choices, key=along), *now[group + 1 :])
        if cost.at(now) >= before:
            return now


def asked(fit: Fit) -> Cost:
    """The cost against the limits as they were asked, by the last factor: what a result is told in."""
    return Cost([Limit(fit.resources[name], most) for name, most in fit.limits().items()])


def why_missed(fit: Fit, groups: Groups) -> str:
    """Why the search went no further than these groups, in words."""
    widths, whole = fit.widths(groups), fit.anatomy.widths
    cost = asked(fit).at(widths)
    if not fit.spec.check_every and cost <= 1.0:
        return f"by its estimate that has {cost:.3g} times the limit; --check-every 5 measures on the way"
    left = f"that has {cost:.3g} times the limit"
    if fit.job.ended == "diverged":
        return f"{fit.cause or 'every candidate of the next step diverged'}; {left}"
    if all(width == widths_to_try(full)[0] for width, full in zip(widths, whole, strict=True)):
        return f"every layer is as narrow as it goes or must stay; {left}"
    if fit.spec.search == "netadapt" and fit.job.ended == "empty":
        return f"no single layer made narrower saves anything more; {left}"
    return f"no network within the limit was found; {left}"


def _narrowed(
    fit: Fit, importances: list[Tensor], widths: tuple[int, ...]
) -> tuple[nn.Module, Groups, Tensor]:
    """The baseline at these widths, its groups, and what it lacks."""
    network = fit.job.network("steps", 0)
    gone = lowest(fit.job.groups, importances, widths)
    groups = remove_(network, fit.job.groups, gone) if len(gone) else fit.job.groups
    return network, groups, gone


def by_netadapt(fit: Fit) -> int:
    """Narrow one group at a step until the budget is met; returns the last step.

    Ends early where no group can give way, or all candidates diverged or have no score; `job.ended` says so.

    Raises:
        TargetError: the runtime has gone.
        Diverged: the score without training of the network before a step is no number.
    """
    rows, job = begin(fit), fit.job
    model = job.network("steps", rows[-1].index)
    groups = after(job.groups, job.way.gone(rows[-1].index))
    first = first_cost(fit)
    quality = _last_quality(fit, rows[-1].index)
    while not _arrived(fit, model, fit.widths(groups), rows[-1].index):
        index = rows[-1].index + 1
        found = ways(fit, model, groups, index, first, quality)
        if not found:
            break
        best = next(way for way in found if way.row.chosen)
        model, groups, quality = best.model, best.groups, (best.row.scored_by, best.row.score)
        what = (
            f"narrowed {best.row.group} from {best.row.before} to {best.row.width}, the best of {len(found)}"
        )
        seconds = sum(way.row.cut_seconds + way.row.score_seconds + way.row.evaluate_seconds for way in found)
        answers = best.found or fit.answers(model, GLANCE)
        step = fit.weigh(model, groups, index, what, seconds, answers)
        fit.store.add_candidates([way.row for way in found])
        job.way.add("steps", step, model, job.groups.units[~torch.isin(job.groups.units, groups.units)])
        fit.store.lap()
        rows.append(step)
        done = (first - fit.cost().at(fit.widths(groups))) / max(first - 1.0, 1e-9)
        remark = f"step {index}: {step.validation_accuracy:.2f} %, {what}"
        job.say("netadapt", min(0.99, max(0.0, done)), remark)
    return rows[-1].index


def first_cost(fit: Fit) -> float:
    """The baseline's cost as the search began with it."""
    with fit.as_begun():
        return fit.cost().at(fit.anatomy.widths)


def _arrived(fit: Fit, model: nn.Module, widths: tuple[int, ...], index: int) -> bool:
    """The limits are met, by a measurement where latency or energy is one; measured now and then on the way.

    Without measurements (`check_every` 0) estimates decide, corrected by the baseline's alone.
    """
    now = fit.cost().at(widths)
    if not fit.measures or not fit.spec.check_every:
        return now <= 1.0
    stored = fit.stored(index)
    if stored is None and now > 1.0 and (index == 0 or index % fit.spec.check_every):
        return False
    found = stored or fit.check(model, widths, index)
    return fit.within(found) and fit.cost(measured=False).at(widths) <= 1.0


def _last_quality(fit: Fit, step: int) -> tuple[str, float] | None:
    chosen = [row for row in fit.store.candidates() if row.step == step and row.chosen]
    return (chosen[-1].scored_by, chosen[-1].score) if chosen else None
