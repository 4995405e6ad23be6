"""NetAdapt stage by stage: what one candidate costs the original, and what is left of it with each remedy.

    walk     the greedy way to the budget, by estimates alone: how many steps there are, and their widths
    stages   on two of these steps, the first and the middle one, for every block: the search for the width
             with every set of remedies, some iterations of training (times T over their number), some batches
             of the evaluation likewise, NAS-WOT

A block that no width brings below the constraint is trained at eight channels, as the published code does.
The original builds an interpolator for every estimate: of each layer the first `builds` are built and timed,
the others charged with their mean (`adapt.original`). Fine-tuning is a plain iteration on made-up images
(SGD, batch 128, as the published code's), without its loading of images. Evaluation is of 50,000 images, the
training split, as the published code does for CIFAR-10. Weights are those of initialisation. Seconds are the
processor's: work beside this one takes none of them (one thread).

Example:
    >>> from tersa.adapt.resource import Macs
    >>> subject = Subject.of("lenet:6-8-16", (1, 8, 8), 10, Macs())
    >>> way = walk(subject, delta=0.1, budget=0.5)
    >>> len(way) >= 4, all(a > b for a, b in zip(way, way[1:]))
    (True, True)

References:
    Document 003, sections 5.3 to 5.6.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from tersa.adapt.anatomy import Anatomy
from tersa.adapt.cost import Cost, Limit
from tersa.adapt.grid import widths as widths_to_try
from tersa.adapt.measuring import Filled, fill, wanted
from tersa.adapt.netadapt import Reduction, bisecting, by_accuracy
from tersa.adapt.original import WIDTH_STEP, Estimator, How, Points, cut, published_table
from tersa.adapt.proxies import PROXIES, Probe
from tersa.adapt.resource import Counter, Resource, Table
from tersa.adapt.signature import layers_of
from tersa.adapt.table import TableFile
from tersa.errors import UsageError
from tersa.models.zoo import build
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import remove_
from tersa.recipes.adapt_fit import lowest
from tersa.recipes.adaptation_result import BlockTimes, Remedy, Timed
from tersa.targets.base import Target

BATCH, SCORED = 128, 64
"""Images of an iteration, as published, and of a score."""
EVALUATED = 50_000
HYBRID = 0.3
BUILDS = 2
"""Interpolators of a layer that are built to be timed, for each search."""
BETWEEN = 1e-9
"""Least gain of a greedy step."""

HOWS: dict[Remedy, How] = {
    "original": How(),
    "bisection": How(bisect=True),
    "interpolation": How(once=True),
    "bisection_interpolation": How(bisect=True, once=True),
    "file_interpolation": How(once=True, memory=True),
}
Widths = tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """A network to be narrowed.

    Attributes:
        name: as the zoo knows it.
        shape: (C, H, W) of its images.
        classes: K.
        model: with weights of initialisation.
        groups: of its channels.
        anatomy: its layers.
        cost: of any widths, 1 being the network as it is.
        resource: where a layer's cost comes from.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    model: nn.Module
    groups: Groups
    anatomy: Anatomy
    cost: Cost
    resource: Resource

    @staticmethod
    def of(name: str, shape: tuple[int, int, int], classes: int, resource: Resource) -> Subject:
        """A network of the zoo, costs from a table or counted."""
        torch.manual_seed(0)
        model = build(name, shape, classes)
        groups = find_groups(model, shape)
        anatomy = layers_of(model, shape, groups)
        counter = Counter(anatomy, resource)
        cost = Cost([Limit(counter, counter.total(anatomy.widths))])
        return Subject(name, shape, classes, model, groups, anatomy, cost, resource)


def measured_table(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    target: Target,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Table, Filled]:
    """Latencies of a network's layers on a target, measured where the file lacks them.

    Raises:
        TargetError: the runtime cannot run a layer.
    """
    torch.manual_seed(0)
    model = build(name, shape, classes)
    anatomy = layers_of(model, shape, find_groups(model, shape))
    with TableFile(path) as file:
        found = fill(file, anatomy, target, progress=progress)
        known = file.points(found.machine.key)
        families = {each.family.key() for each in wanted(anatomy)}
        return Table({key: known[key] for key in families}, start=file.call(found.machine.key) or 0.0), found


def walk(subject: Subject, *, delta: float, budget: float) -> list[Widths]:
    """Widths before every step of a greedy way, and at its end.

    At each step the block that keeps the largest share of its channels gives way.
    """
    whole, found = subject.anatomy.widths, [subject.anatomy.widths]
    while (here := subject.cost.at(found[-1])) > budget:
        constraint = Reduction(delta).constraint(here, 1.0, len(found) - 1, budget)
        choices: list[tuple[float, int, int]] = []
        for group, width in enumerate(found[-1]):
            tried = [each for each in widths_to_try(whole[group]) if each < width]
            cost = subject.cost.along(group, found[-1])
            chosen = bisecting(tried, cost, min(constraint, here * (1 - BETWEEN)))
            if chosen is not None:
                choices.append((chosen.width / whole[group], group, chosen.width))
        if not choices:
            break
        _, group, width = max(choices)
        found.append((*found[-1][:group], width, *found[-1][group + 1 :]))
    return found


@dataclass(frozen=True)
class Measured:
    """What is measured, and how much of it is run.

    Attributes:
        delta: share of the first cost that a step takes off.
        budget: share of the first cost that is left at the end.
        iterations: T of a short fine-tune.
        timed: of these, and batches of an evaluation, that are run.
        builds: interpolators of a layer that are built for real in one search; None for all.
    """

    delta: float
    budget: float = 0.5
    iterations: int = 500
    timed: int = 4
    builds: int | None = BUILDS


def stages(
    subject: Subject,
    asked: Measured,
    *,
    network: str,
    folder: Path,
    say: Callable[[float, str], None] = lambda done, remark: None,
) -> Timed:
    """Two whole steps of the original, stage by stage.

    Args:
        subject: the network.
        asked: what is measured.
        network: its name in tables.
        folder: for the published table's file.
        say: told the share done and a remark.
    """
    way = walk(subject, delta=asked.delta, budget=asked.budget)
    steps, names = len(way) - 1, subject.anatomy.groups
    if not steps:
        raise UsageError(
            f"{network} has no step to make: no block alone saves {asked.delta:g} of the latency; give a "
            "smaller delta"
        )
    table = _published(subject)
    rows: list[BlockTimes] = []
    places = sorted({0, steps // 2})
    for number, place in enumerate(places):
        for block in range(len(names)):
            done = (number * len(names) + block) / (len(places) * len(names))
            say(done, f"step {place + 1} of {steps}, {names[block]}")
            rows.append(_block(subject, table, way[place], block, asked, folder, number))
    costs = [subject.cost.at(widths) for widths in way[:-1]]
    return Timed(
        network=network,
        side=subject.shape[1],
        delta=asked.delta,
        steps=steps,
        trained=sum(by_accuracy(cost, 1.0, asked.budget, HYBRID) for cost in costs),
        iterations=asked.iterations,
        blocks=rows,
    )


def block_times(
    subject: Subject, widths: Widths, block: int, asked: Measured, folder: Path, number: int = 0
) -> BlockTimes:
    """One candidate at one step, with a published table of its own."""
    return _block(subject, _published(subject), widths, block, asked, folder, number)


def _published(subject: Subject) -> Mapping[int, Points]:
    known = subject.resource
    return published_table(subject.anatomy, lambda family, i, o: known.of(family, i, o).value)


def _block(
    subject: Subject,
    table: Mapping[int, Points],
    widths: Widths,
    block: int,
    asked: Measured,
    folder: Path,
    number: int,
) -> BlockTimes:
    """One candidate."""
    file = folder / "table"
    exact = Estimator(subject.anatomy, table, How(once=True, memory=True), file)
    first = exact.at(subject.anatomy.widths)
    constraint = max(asked.budget * first, exact.at(widths) - asked.delta * first)
    found = {
        name: cut(Estimator(subject.anatomy, table, how, file, asked.builds), block, widths, constraint)
        for name, how in HOWS.items()
    }
    width = found["original"].width
    left = width or min(widths[block], WIDTH_STEP)  # published: trained at its narrowest, all the same
    model = narrowed(subject, (*widths[:block], left, *widths[block + 1 :]))
    tune, evaluate, score = work_seconds(model, subject.shape, subject.classes, asked.timed)
    return BlockTimes(
        step=number,
        block=block,
        name=subject.anatomy.groups[block],
        before=widths[block],
        width=width,
        tries=found["original"].tries,
        bisect_tries=found["bisection"].tries,
        built=found["original"].built,
        cuts={
            **{name: each.seconds for name, each in found.items()},
            "ours": _ours(subject, widths, block, asked),
        },
        finetune_s=asked.iterations * tune,
        evaluate_s=EVALUATED / BATCH * evaluate,
        score_s=score,
    )


def _ours(subject: Subject, widths: Widths, block: int, asked: Measured) -> float:
    """Seconds of the bisection that `tersa adapt` makes of a block, table in memory."""
    began = time.process_time()
    here = subject.cost.at(widths)
    constraint = Reduction(asked.delta).constraint(here, 1.0, 0, asked.budget)
    tried = [each for each in widths_to_try(subject.anatomy.widths[block]) if each < widths[block]]
    bisecting(tried, subject.cost.along(block, widths), constraint)
    return time.process_time() - began


def narrowed(subject: Subject, widths: Sequence[int]) -> nn.Module:
    """The network at some widths; which channels stay does not change a time."""
    model = copy.deepcopy(subject.model)
    scores = [torch.arange(len(group.units), dtype=torch.float) for group in subject.groups.groups]
    gone = lowest(subject.groups, scores, widths)
    if len(gone):
        remove_(model, subject.groups, gone)
    return model


def work_seconds(
    model: nn.Module, shape: tuple[int, int, int], classes: int, timed: int
) -> tuple[float, float, float]:
    """Seconds of an iteration of training, of a batch of an evaluation, and of a NAS-WOT score.

    Args:
        model: the network; it learns.
        shape: (C, H, W).
        classes: K.
        timed: of each, after one that does not count; the median does.
    """
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *shape, generator=chance)  # (N, C, H, W)
    labels = torch.randint(classes, (BATCH,), generator=chance)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimiser.step()

    def forward() -> None:
        with torch.inference_mode():
            model.eval()(images)

    probe = Probe(images[:SCORED], labels[:SCORED])
    tune, evaluate = _median(step, timed), _median(forward, timed)
    return tune, evaluate, _median(lambda: PROXIES["naswot"].score(model, probe), 1)


def _median(work: Callable[[], object], times: int) -> float:
    work()
    found: list[float] = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return median(found)
