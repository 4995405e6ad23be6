"""Candidates of one step that are fine-tuned: all of them to the end, or a race that the best alone ends.

With T the iterations of a short fine-tune (`--finetune-steps`) and c candidates:

    --race 1    every candidate is fine-tuned for T iterations and evaluated, as NetAdapt does       c T
    --race r    every candidate is fine-tuned for a heat, the first r T of its T iterations, and
                evaluated; the one that lost least per cost saved goes on to T alone       c r T + (1 - r) T

A heat is the beginning of the whole fine-tune: its learning rate is laid out for T iterations, and the winner
goes on with its optimiser and its images as they were, to the same bytes as without a race. So a race changes
nothing but, now and then, which candidate wins (`benchmarks/race_agreement.py` counts how often). This is
successive halving with one cut, from c to one.

Heats are compared on a part of the validation split (`HEAT_IMAGES`): after a tenth of a fine-tune an accuracy
moves from update to update by more than the standard error of so many, 1.1 points at the most.

Short fine-tunes learn from labels, as NetAdapt's do, with AdamW; the closing one is `tersa prune`'s
(`pruning.short`).

References:
    Jamieson & Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization (AISTATS
    2016), algorithm 1; Yang et al., NetAdapt (ECCV 2018), algorithm 1, without a race.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from safetensors.torch import load
from torch import nn

from tersa.adapt.netadapt import price
from tersa.errors import Diverged
from tersa.prune.groups import Groups
from tersa.recipes.adapt_fit import Fit
from tersa.recipes.adapt_workers import Learnt, Lesson, packed, tune, unpack_
from tersa.recipes.job import Job
from tersa.recipes.pruning import short
from tersa.recipes.retraining import Paused, go_on_, retrain_, start_
from tersa.records.adaptation import Candidate
from tersa.train.evaluation import Evaluation

log = logging.getLogger(__name__)

TUNED = "finetune"
"""What a candidate is ranked by where it was trained: percent of validation accuracy."""

HEAT_IMAGES = 2000
"""Images of the validation split that heats are compared on."""


@dataclass(frozen=True)
class Way:
    """One candidate with its network.

    Attributes:
        row: what is stored of it.
        model: its network.
        groups: what is left of the channel groups.
        found: its answers on the validation split, where it was evaluated.
    """

    row: Candidate
    model: nn.Module
    groups: Groups
    found: Evaluation | None = None


@dataclass(frozen=True)
class _Heat:
    """A candidate after its heat.

    Attributes:
        way: the candidate, ranked.
        seed: of its fine-tune.
        paused: what it goes on from; None where it begins anew.
        weights: after the heat, where a worker ran it.
    """

    way: Way
    seed: int
    paused: Paused | None = None
    weights: bytes = b""


def order(rivals: Sequence[Way], before: float, now: float) -> list[int]:
    """Places of candidates, the least loss per cost saved first.

    Args:
        rivals: candidates with their scores.
        before: score of the network before the step.
        now: its cost.
    """
    prices = [price(before, way.row.score, now, way.row.cost) for way in rivals]
    return sorted(range(len(rivals)), key=lambda place: (prices[place], place))


def won(rivals: list[Way], before: float, now: float) -> list[Way]:
    """The same, the winner marked."""
    best = order(rivals, before, now)[:1]
    return [
        replace(way, row=way.row.model_copy(update={"chosen": True})) if place in best else way
        for place, way in enumerate(rivals)
    ]


def tuned(fit: Fit, rivals: Sequence[Way], index: int, before: float, now: float) -> list[Way]:
    """Candidates fine-tuned, in place, ranked by accuracy, the winner marked; without those that diverged.

    Args:
        fit: the run.
        rivals: the candidates.
        index: of the step.
        before: accuracy of the network before it.
        now: its cost.
    """
    seeds = [fit.job.seed + 1000 * index + place for place in range(len(rivals))]
    if fit.spec.heat >= fit.spec.finetune_steps or len(rivals) < 2:
        return won(_to_the_end(fit, rivals, seeds), before, now)
    heats = _heats(fit, rivals, seeds, before, now)
    marked = won([heat.way for heat in heats], before, now)
    return [
        _gone_on(fit, replace(heat, way=way)) if way.row.chosen else way
        for heat, way in zip(heats, marked, strict=True)
    ]


def _to_the_end(fit: Fit, rivals: Sequence[Way], seeds: Sequence[int]) -> list[Way]:
    """All of them after T iterations."""
    whole, found = fit.spec.finetune_steps, list[Way]()
    if fit.crew.alone or len(rivals) < 2:
        for way, seed in zip(rivals, seeds, strict=True):
            began = time.perf_counter()
            try:
                with fit.store.timed("finetune"):
                    retrain_(_labelled(fit), way.model, whole, seed=seed)
            except Diverged as error:
                _left_out(way, error)
                continue
            spent = time.perf_counter() - began
            found.append(_ranked(way, *_asked(fit, way, None), whole, spent))
        return found
    lessons = [Lesson(packed(way.model), whole, seed) for way, seed in zip(rivals, seeds, strict=True)]
    for way, each in zip(rivals, _learnt(fit, lessons), strict=True):
        if isinstance(each, Diverged):
            _left_out(way, each)
            continue
        unpack_(way.model, each.weights)
        found.append(_ranked(way, each.evaluation(fit.job), each.evaluate_seconds, whole, each.tune_seconds))
    return found


def _heats(fit: Fit, rivals: Sequence[Way], seeds: Sequence[int], before: float, now: float) -> list[_Heat]:
    """All of them after their heats; of one process the leader alone keeps what it goes on from."""
    whole, part = fit.spec.finetune_steps, fit.spec.heat
    if not fit.crew.alone:
        lessons = [
            Lesson(packed(way.model), whole, seed, until=part, images=HEAT_IMAGES)
            for way, seed in zip(rivals, seeds, strict=True)
        ]
        learnt = zip(rivals, seeds, _learnt(fit, lessons), strict=True)
        return [heat for way, seed, each in learnt if (heat := _brought(fit, way, seed, each)) is not None]
    found: list[_Heat] = []
    for way, seed in zip(rivals, seeds, strict=True):
        heat = _heat(fit, way, seed)
        if heat is None:
            continue
        found.append(heat)
        lead = order([each.way for each in found], before, now)[0]
        found = [each if n == lead else replace(each, paused=None) for n, each in enumerate(found)]
    return found


def _heat(fit: Fit, way: Way, seed: int) -> _Heat | None:
    """One candidate after its heat, in place; None where that diverged."""
    began, part = time.perf_counter(), fit.spec.heat
    try:
        with fit.store.timed("finetune"):
            paused = start_(_labelled(fit), way.model, fit.spec.finetune_steps, until=part, seed=seed)
    except Diverged as error:
        _left_out(way, error)
        return None
    spent = time.perf_counter() - began
    return _Heat(_ranked(way, *_asked(fit, way, HEAT_IMAGES), part, spent), seed, paused)


def _brought(fit: Fit, way: Way, seed: int, each: Learnt | Diverged) -> _Heat | None:
    """The same of a worker; the network is left as it was before."""
    if isinstance(each, Diverged):
        _left_out(way, each)
        return None
    found = each.evaluation(fit.job)
    ranked = _ranked(way, found, each.evaluate_seconds, fit.spec.heat, each.tune_seconds)
    return _Heat(ranked, seed, weights=each.weights)


def _gone_on(fit: Fit, heat: _Heat) -> Way:
    """The winner of a race after T iterations; where the rest diverges, as it was after its heat."""
    way, whole, began = heat.way, fit.spec.finetune_steps, time.perf_counter()
    try:
        with fit.store.timed("finetune"):
            if heat.paused:
                go_on_(_labelled(fit), way.model, heat.paused)
            else:
                retrain_(_labelled(fit), way.model, whole, seed=heat.seed)
    except Diverged as error:
        log.warning("%s at width %d: %s; left as it was after its heat", way.row.group, way.row.width, error)
        after = heat.paused.state.weights if heat.paused else load(heat.weights)
        way.model.load_state_dict(after)
        return way
    spent = time.perf_counter() - began
    found = _ranked(way, *_asked(fit, way, None), whole, spent)
    return replace(found, row=found.row.model_copy(update={"heat_score": way.row.score}))


def _learnt(fit: Fit, lessons: Sequence[Lesson]) -> list[Learnt | Diverged]:
    """What workers bring back."""
    with fit.store.timed("finetune"):
        return tune(fit.spec, _labelled(fit), fit.crew, fit.data_dir, lessons)


def _labelled(fit: Fit) -> Job:
    """The run for short fine-tunes, which learn from labels."""
    return replace(fit.job, protocol=short(fit.job.protocol))


def _left_out(way: Way, error: Diverged) -> None:
    log.warning("%s at width %d: %s; left out", way.row.group, way.row.width, error)


def _asked(fit: Fit, way: Way, most: int | None) -> tuple[Evaluation, float]:
    """A candidate's answers on images of the validation split, all for None, and the seconds that took."""
    began = time.perf_counter()
    return fit.answers(way.model, most), time.perf_counter() - began


def _ranked(way: Way, found: Evaluation, asked: float, iterations: int, spent: float) -> Way:
    """A candidate by its accuracy.

    Args:
        way: the candidate.
        found: its answers.
        asked: seconds of these.
        iterations: of the fine-tune so far.
        spent: seconds of its last part.
    """
    row = way.row.model_copy(
        update={
            "score": found.accuracy,
            "scored_by": TUNED,
            "score_seconds": way.row.score_seconds + spent,
            "evaluate_seconds": way.row.evaluate_seconds + asked,
            "iterations": iterations,
        }
    )
    return replace(way, row=row, found=found)
