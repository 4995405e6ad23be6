"""The candidates of one step of NetAdapt: each group cut as far as it must be, ranked, one chosen.

Ranked without training, every candidate is scored as it is. Ranked by accuracy, what happens depends on the
request:

    --score finetune      every candidate is fine-tuned for T iterations and evaluated, as NetAdapt does
    a score, --hybrid h   the score names a short list of K (`--shortlist`); these run a race (`adapt_race`),
                          after a share of T the best of them alone goes on to T

Scores without training look at a network as a whole and do not see that one narrow layer lets nothing
through: of 128 channels the last one seems cheap. What they rank are *gentle* cuts, and a step in which no
group can give way gently asks for less; only where none can at all, they rank any. NetAdapt's own ranking
sees a bottleneck in the accuracy.

With `--race` both can be had of either. Where all of a short list diverge, the next K places of the ranking
are fine-tuned, and so on. What is chosen has had T iterations either way.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from tersa.adapt.grid import widths as widths_to_try
from tersa.adapt.netadapt import Cut, Reduction, by_accuracy, search
from tersa.adapt.proxies import PROXIES, Probe
from tersa.errors import Diverged
from tersa.prune.groups import Groups
from tersa.prune.surgery import remove_
from tersa.recipes.adapt_fit import Fit, lowest
from tersa.recipes.adapt_race import TUNED, Way, order, tuned, won
from tersa.records.adaptation import Candidate

log = logging.getLogger(__name__)

SAVES = 1.0 - 1e-9
"""A candidate must save something, also where the constraint has been met already by another estimate."""

HALVINGS = 8
"""Times that a step is halved, where no single group can save what it asks."""

LEFT_OF_STEP, LEFT_OF_FIRST = 1 / 4, 1 / 8
"""Shares of a group's channels, before a step and in the first network, that a gentle cut leaves."""

Quality = tuple[str, float]
"""What a network was ranked by, and the value."""


@dataclass(frozen=True)
class _Chosen:
    """A group, the width that was found for it, and how long that took."""

    place: int
    cut: Cut
    seconds: float


def ways(
    fit: Fit, model: nn.Module, groups: Groups, index: int, first: float, quality: Quality | None
) -> list[Way]:
    """All candidates of step `index`, the one that wins marked; none where no group can give way (then
    `fit.job.ended` is `empty`), or where all of them diverged or have no score (`diverged`).

    Args:
        fit: the run.
        model: the network before the step.
        groups: its channel groups.
        index: of the step, from 1.
        first: cost of the baseline.
        quality: what the network before the step was chosen by; None where it was not.
    """
    spec, now = fit.spec, fit.cost().at(fit.widths(groups))
    trained = spec.score == TUNED or by_accuracy(now, first, 1.0, spec.hybrid)
    by_accuracy_alone = spec.score == TUNED or (trained and not spec.shortlist)
    cuts = _cuts(fit, groups, now, first, index, gently=not by_accuracy_alone)
    if not cuts:
        fit.job.ended = "empty"
        return []
    importances = fit.importances(model, groups, index)
    made = [_made(fit, model, groups, importances, cut, index) for cut in cuts]
    if by_accuracy_alone:
        return _living(fit, tuned(fit, made, index, _before(fit, model, TUNED, quality), now))
    made = [way for each in made if (way := _scored(fit, each, spec.score)) is not None]
    if not made:
        fit.cause = f"the score {spec.score} of every candidate of the next step is no number"
        return _living(fit, [])
    before = _before(fit, model, spec.score, quality)
    if not trained:
        return won(made, before, now)
    raced, places, accuracy = list[Way](), order(made, before, now), _before(fit, model, TUNED, quality)
    while places and not raced:
        listed, places = places[: spec.shortlist], places[spec.shortlist :]
        raced = tuned(fit, [made[n] for n in listed], index, accuracy, now)
    return raced + [made[n] for n in sorted(places)] if _living(fit, raced) else []


def _living(fit: Fit, ways: list[Way]) -> list[Way]:
    """The same; where all diverged, the run is told."""
    if not ways:
        fit.job.ended = "diverged"
    return ways


def _cuts(fit: Fit, groups: Groups, now: float, first: float, index: int, *, gently: bool) -> list[_Chosen]:
    """The width of every group that can give way; for less than the step's share where none can for it.

    Gently, those that can give way so, if for any share there is one; else as if it had not been asked.
    """
    spec = fit.spec
    aim = Reduction(spec.delta, spec.decay).constraint(now, first, index - 1, 1.0)
    # Differs from the paper: NetAdapt ends where no group alone can save a whole step.
    found: list[_Chosen] = []
    before, widest = fit.widths(groups), fit.anatomy.widths
    for most in easier(now, aim):
        cuts = _cuts_within(fit, groups, most)
        mild = [c for c in cuts if gentle(c.cut.width, before[c.place], widest[c.place])]
        if mild and gently:
            return mild
        found = found or cuts
        if found and not gently:
            break
    return found


def gentle(width: int, before: int, first: int) -> bool:
    """Whether a cut leaves a group enough of the channels that it has, and of those that it had first.

    >>> gentle(32, 128, 128), gentle(31, 128, 128), gentle(16, 32, 128), gentle(15, 32, 128)
    (True, False, True, False)
    """
    return width >= LEFT_OF_STEP * before and width >= LEFT_OF_FIRST * first


def easier(now: float, aim: float) -> Iterator[float]:
    """What a step asks for, then half as much less, and so on; at last anything less than now.

    >>> [round(most, 3) for most in easier(1.0, 0.6)][:3]
    [0.6, 0.8, 0.9]
    """
    least = now * SAVES
    for halved in range(HALVINGS + 1):
        most = now - (now - aim) / 2**halved
        if most >= least:
            break
        yield most
    yield least


def _cuts_within(fit: Fit, groups: Groups, most: float) -> list[_Chosen]:
    """The width of every group with which the network costs at most so much."""
    spec, widths = fit.spec, fit.widths(groups)
    found: list[_Chosen] = []
    for place in range(len(widths)):
        began = time.perf_counter()
        choices = [w for w in widths_to_try(fit.anatomy.widths[place]) if w < widths[place]]
        cut = search(spec.cut, choices, fit.cost().along(place, widths), most)
        seconds = time.perf_counter() - began
        fit.store.spend("cut", seconds)
        if cut is not None:
            found.append(_Chosen(place, cut, seconds))
    return found


def _made(
    fit: Fit, model: nn.Module, groups: Groups, importances: Sequence[Tensor], chosen: _Chosen, index: int
) -> Way:
    """The network with one group narrower, not ranked yet."""
    place, widths = chosen.place, list(fit.widths(groups))
    trial, before = copy.deepcopy(model), widths[place]
    widths[place] = chosen.cut.width
    left = remove_(trial, groups, lowest(groups, importances, widths))
    row = Candidate(
        step=index,
        group=groups.groups[place].name,
        before=before,
        width=chosen.cut.width,
        estimate_ms=fit.estimate_ms(widths),
        cost=chosen.cut.cost,
        score=-math.inf,
        scored_by="",
        chosen=False,
        tries=chosen.cut.tries,
        cut_seconds=chosen.seconds,
        score_seconds=0.0,
        evaluate_seconds=0.0,
    )
    return Way(row, trial, left)


def _scored(fit: Fit, way: Way, name: str) -> Way | None:
    """Ranked without training; None where the score is no number."""
    value, seconds = score(fit, way.model, name)
    if not math.isfinite(value):
        log.warning("%s at width %d: the score %s is %s; left out", way.row.group, way.row.width, name, value)
        return None
    row = way.row.model_copy(update={"score": value, "scored_by": name, "score_seconds": seconds})
    return replace(way, row=row)


def _before(fit: Fit, model: nn.Module, name: str, quality: Quality | None) -> float:
    """What the network before the step is worth, in the candidates' measure.

    Raises:
        Diverged: it is no number.
    """
    if quality and quality[0] == name:
        return quality[1]
    value = fit.answers(model).accuracy if name == TUNED else score(fit, model, name)[0]
    if not math.isfinite(value):
        raise Diverged(f"the score {name} of the network before the step is {value}; take another --score")
    return value


def score(fit: Fit, model: nn.Module, name: str) -> tuple[float, float]:
    """A training-free score, which may be no number, and how long it took."""
    began, job = time.perf_counter(), fit.job
    with fit.store.timed("score"):
        images = job.task.train.spread(fit.spec.score_images)
        probe = Probe(job.task.normalise(images.images), images.labels, job.seed)
        value = PROXIES[name].score(model, probe)
    return value, time.perf_counter() - began
