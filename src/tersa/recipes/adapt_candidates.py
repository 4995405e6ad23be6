"""The candidates of one step of NetAdapt: each group cut as far as it must be, ranked, one chosen.

Ranked without training, every candidate is scored as it is. Ranked by accuracy, what happens depends on the
request:

    --score finetune      every candidate is fine-tuned for T iterations and evaluated, as NetAdapt does
    a score, --hybrid h   the score names a short list of K (`--shortlist`); these are fine-tuned for T/4
                          iterations and evaluated, and the best of them alone goes on to T

Where all of a short list diverge, the next K places of the ranking are fine-tuned, and so on.

Short fine-tunes learn from labels, as NetAdapt's do: asking the baseline about every image, as the closing
fine-tune does, takes longer than they do. What is chosen has had T iterations either way.

Example:
    >>> rung(500), rung(2), rung(0)
    (125, 1, 0)
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
from tersa.adapt.netadapt import Cut, Reduction, by_accuracy, price, search
from tersa.adapt.proxies import PROXIES, Probe
from tersa.errors import Diverged
from tersa.prune.groups import Groups
from tersa.prune.surgery import remove_
from tersa.recipes.adapt_fit import Fit, lowest
from tersa.recipes.adapt_workers import tune, unpack_
from tersa.recipes.job import Job
from tersa.recipes.retraining import retrain_
from tersa.records import Candidate
from tersa.train.evaluation import Evaluation

log = logging.getLogger(__name__)

TUNED = "finetune"
"""What a candidate is ranked by where it was trained: percent of validation accuracy."""

SAVES = 1.0 - 1e-9
"""A candidate must save something, also where the constraint has been met already by another estimate."""

HALVINGS = 8
"""Times that a step is halved, where no single group can save what it asks."""

RUNG = 0.25
"""Share of a short fine-tune after which the short list is compared."""

Quality = tuple[str, float]
"""What a network was ranked by, and the value."""


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
class _Chosen:
    """A group, the width that was found for it, and how long that took."""

    place: int
    cut: Cut
    seconds: float


def rung(steps: int) -> int:
    """Iterations after which a short list is compared."""
    return min(steps, max(1, round(RUNG * steps)))


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
    cuts = _cuts(fit, groups, now, first, index)
    if not cuts:
        fit.job.ended = "empty"
        return []
    importances = fit.importances(model, groups, index)
    made = [_made(fit, model, groups, importances, cut, index) for cut in cuts]
    if spec.score == TUNED or (trained and not spec.shortlist):
        seeds = [_seed(fit, index, place) for place in range(len(made))]
        rivals = _all_tuned(fit, made, spec.finetune_steps, seeds)
        return _living(fit, _won(rivals, _before(fit, model, TUNED, quality), now))
    made = [way for each in made if (way := _scored(fit, each, spec.score)) is not None]
    if not made:
        fit.cause = f"the score {spec.score} of every candidate of the next step is no number"
        return _living(fit, [])
    before = _before(fit, model, spec.score, quality)
    if not trained:
        return _won(made, before, now)
    raced, order = list[Way](), _order(made, before, now)
    while order and not raced:
        listed, order = order[: spec.shortlist], order[spec.shortlist :]
        raced = _race(fit, [made[n] for n in listed], index, now, model, quality)
    return raced + [made[n] for n in sorted(order)] if _living(fit, raced) else []


def _living(fit: Fit, ways: list[Way]) -> list[Way]:
    """The same; where all diverged, the run is told."""
    if not ways:
        fit.job.ended = "diverged"
    return ways


def _cuts(fit: Fit, groups: Groups, now: float, first: float, index: int) -> list[_Chosen]:
    """The width of every group that can give way; for less than the step's share where none can for it."""
    spec = fit.spec
    aim = Reduction(spec.delta, spec.decay).constraint(now, first, index - 1, 1.0)
    # Differs from the paper: NetAdapt ends where no group alone can save a whole step.
    return next((cuts for most in easier(now, aim) if (cuts := _cuts_within(fit, groups, most))), [])


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


def _all_tuned(fit: Fit, rivals: Sequence[Way], iterations: int, seeds: Sequence[int]) -> list[Way]:
    """Those that did not diverge, fine-tuned in place and ranked by accuracy; at once where there are
    workers."""
    if fit.crew.alone or len(rivals) < 2:
        one_by_one = (_tuned(fit, way, iterations, seed) for way, seed in zip(rivals, seeds, strict=True))
        return [way for way in one_by_one if way is not None]
    with fit.store.timed("finetune"):
        models = [way.model for way in rivals]
        learnt = tune(fit.spec, _labelled(fit), fit.crew, fit.data_dir, models, iterations, seeds)
    found: list[Way] = []
    for way, each in zip(rivals, learnt, strict=True):
        if isinstance(each, Diverged):
            log.warning("%s at width %d: %s; left out", way.row.group, way.row.width, each)
            continue
        unpack_(way.model, each.weights)
        found.append(_ranked(way, each.evaluation(fit.job), each.tune_seconds, each.evaluate_seconds))
    return found


def _labelled(fit: Fit) -> Job:
    """The run for short fine-tunes, which learn from labels."""
    return replace(fit.job, protocol=fit.job.protocol.model_copy(update={"teacher_weight": 0.0}))


def _tuned(fit: Fit, way: Way, iterations: int, seed: int) -> Way | None:
    """Fine-tuned, in place, and ranked by accuracy; None where that diverged."""
    labels = _labelled(fit)
    began = time.perf_counter()
    try:
        with fit.store.timed("finetune"):
            retrain_(labels, way.model, iterations, seed=seed)
    except Diverged as error:
        log.warning("%s at width %d: %s; left out", way.row.group, way.row.width, error)
        return None
    tuned = time.perf_counter() - began
    found = fit.answers(way.model)
    return _ranked(way, found, tuned, time.perf_counter() - began - tuned)


def _ranked(way: Way, found: Evaluation, tuned: float, asked: float) -> Way:
    """A candidate that was fine-tuned for so many seconds and evaluated for so many."""
    row = way.row.model_copy(
        update={
            "score": found.accuracy,
            "scored_by": TUNED,
            "score_seconds": way.row.score_seconds + tuned,
            "evaluate_seconds": way.row.evaluate_seconds + asked,
        }
    )
    return replace(way, row=row, found=found)


def _race(
    fit: Fit, rivals: list[Way], index: int, now: float, model: nn.Module, quality: Quality | None
) -> list[Way]:
    """A short list after a share of its fine-tune; the best goes on alone."""
    whole = fit.spec.finetune_steps
    part = rung(whole) if len(rivals) > 1 else whole
    seeds = [_seed(fit, index, place) for place in range(len(rivals))]
    found = _won(_all_tuned(fit, rivals, part, seeds), _before(fit, model, TUNED, quality), now)
    if part >= whole:
        return found
    return [
        (way.row.chosen and _tuned(fit, way, whole - part, _seed(fit, index, 100 + n))) or way
        for n, way in enumerate(found)
    ]


def _seed(fit: Fit, index: int, place: int) -> int:
    return fit.job.seed + 1000 * index + place


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


def _order(rivals: Sequence[Way], before: float, now: float) -> list[int]:
    """Places of candidates, the least loss per cost saved first."""
    prices = [price(before, way.row.score, now, way.row.cost) for way in rivals]
    return sorted(range(len(rivals)), key=lambda place: (prices[place], place))


def _won(rivals: list[Way], before: float, now: float) -> list[Way]:
    """The same, the winner marked."""
    best = _order(rivals, before, now)[:1]
    return [
        replace(way, row=way.row.model_copy(update={"chosen": True})) if place in best else way
        for place, way in enumerate(rivals)
    ]


def score(fit: Fit, model: nn.Module, name: str) -> tuple[float, float]:
    """A training-free score, which may be no number, and how long it took."""
    began, job = time.perf_counter(), fit.job
    with fit.store.timed("score"):
        images = job.task.train.take(slice(0, fit.spec.score_images))
        probe = Probe(job.task.normalise(images.images), images.labels, job.seed)
        value = PROXIES[name].score(model, probe)
    return value, time.perf_counter() - began
