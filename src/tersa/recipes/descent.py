"""From the baseline down: score channels, remove the least important share, retrain briefly; again and again.

Every step is kept on disk, so any of them can be gone back to (`tersa export --at`). The brief retraining
decides nothing but the next step: what a network is worth shows after a long fine-tune, which `search.py`
gives to a few of them.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

from tersa.errors import Diverged, ModelError, UsageError
from tersa.models.lighten import lighten_, split
from tersa.models.summary import macs, parameters
from tersa.numerics import PairedLoss, paired_loss
from tersa.prune.holding import alive
from tersa.prune.masks import parse_granularity
from tersa.prune.protocol import layer_widths
from tersa.prune.schedules import SCHEDULES
from tersa.recipes.channels import Channels
from tersa.recipes.deploy import export_exact, export_options
from tersa.recipes.goals import Standing, within_bounds
from tersa.recipes.job import Ending, Job, Remover
from tersa.recipes.retraining import forget, retrain_
from tersa.recipes.zeroed import Zeroed
from tersa.records.results import Stage, Step
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress

log = logging.getLogger(__name__)

HOPELESS_POINTS = 1.5
"""Pruning pauses when the brief accuracy is further below the floor than this and twice the allowed loss; it
goes on where a long fine-tune shows that it was a pause too early."""


EXPORTED_STEPS, EXPORTED_LATER = 64, 16
"""Steps whose file size is told, exporting takes a second: the first ones, then every so many."""


def descend_(job: Job, *, until: int = 0) -> list[Step]:
    """Prune on from the last stored step until there is a reason to stop (`job.ended`); returns all steps.

    Args:
        job: the run.
        until: rows to have at least, whatever the accuracy and the bounds say: for a search that has found
            that pruning paused too early.

    Raises:
        UsageError: nothing can be removed in the scope that was asked.
    """
    rows = job.way.rows("steps") or [_step_zero(job)]
    if job.light and len(rows) == 1:
        rows.append(_lighten(job))
    remover = _remover(job, rows[-1].index)
    start = remover.start
    if remover.left <= remover.least and rows[-1].index <= bool(job.light):
        where = f"in {job.protocol.scope}" if job.protocol.layers() else "in the network"
        few = job.protocol.round_to
        have = "one channel" if few == 1 else f"{few} channels or fewer"
        raise UsageError(f"nothing can be removed {where}: every layer has {have} or must stay")
    while True:
        job.ended = _over(job, remover, rows)
        if job.ended in ("empty", "schedule") or (job.ended is not None and len(rows) >= until):
            break
        began = time.perf_counter()
        index = rows[-1].index + 1
        try:
            what = remover.step_(index, _count(job, index, start, remover.left))
            row = weigh(job, remover.model, index, "prune", what, began)
        except (Diverged, ModelError) as error:
            log.warning("%s; going on with the %d steps there are", error, len(rows))
            job.ended = "diverged" if isinstance(error, Diverged) else "broken"
            job.reason = str(error)
            break
        job.way.add("steps", row, remover.model, remover.gone(), remover.memory())
        rows.append(row)
        _say_step(job, row, remover)
    job.say("prune", 1.0, f"{len(rows) - 1} steps, down to {rows[-1].parameters:,} parameters")
    return rows


def _remover(job: Job, index: int) -> Remover:
    """What removes, going on from a stored step."""
    kind = parse_granularity(job.protocol.granularity)
    return Channels.at(job, index) if kind == "map" else Zeroed.at(job, index, kind)


def _over(job: Job, remover: Remover, rows: list[Step]) -> Ending | None:
    """Whether the steps so far are reason enough to stop."""
    if remover.left <= remover.least:
        return "empty"
    if job.protocol.schedule != "open" and rows[-1].index - bool(job.light) >= job.protocol.steps:
        return "schedule"
    return pause(job, rows)


def pause(job: Job, rows: list[Step]) -> Ending | None:
    """Whether goals or accuracy are reason enough to stop."""
    if job.goals.bounded and rows[-1].within:
        return "bounds"
    if job.protocol.schedule != "open":
        return None
    allowed = job.allowed_loss
    if allowed is not None:
        hopeless = allowed + max(HOPELESS_POINTS, 2 * allowed)
        if allowed < 0 or (len(rows) > 2 and all(row.loss_points > hopeless for row in rows[-2:])):
            return "floor"
    return None


def _count(job: Job, index: int, start: int, left: int) -> int:
    """How many units step `index` removes; 0 where a schedule has its share already."""
    protocol = job.protocol
    if protocol.schedule == "open":
        return protocol.stride().count(start, left)
    share = SCHEDULES[protocol.schedule](index - bool(job.light), protocol.steps, protocol.amount)
    return max(0, round(share * start) - (start - left))


def _say_step(job: Job, row: Step, remover: Remover) -> None:
    left, start = remover.left, remover.start
    remark = f"{left} of {start} {remover.unit}s, {row.parameters:,} parameters"
    job.say("prune", min(0.99, (1.0 - left / start) ** 4), f"{remark}, {row.validation_accuracy:.2f} %")


def _step_zero(job: Job) -> Step:
    model = job.network("steps", 0)
    row = weigh(job, model, 0, "baseline", "the trained network", time.perf_counter())
    job.way.add("steps", row, model)
    return row


def _lighten(job: Job) -> Step:
    """The network with lighter modules, which learns from the baseline before it is pruned."""
    began = time.perf_counter()
    model = job.network("steps", 0)
    for each in split(f"net+{job.light}")[1]:
        begin = "weights" if each.kind == "separable" else "random"
        lighten_(model, each.kind, each.layers, squeeze=each.squeeze, start=begin, seed=job.seed)

    def show(at: Progress) -> None:
        job.say(job.light, min(0.99, at.iteration / at.iterations), f"loss {at.loss:.3f}")

    job.say(job.light, 0.0, "")
    state = job.way.folder / "steps" / "001.training"
    retrain_(job, model, job.protocol.tune, seed=job.seed + 500, progress=show, keep=state)
    what = f"replaced convolutions by {job.light}, distilled {job.protocol.tune} iterations from the baseline"
    row = weigh(job, model, 1, "light", what, began)
    job.way.add("steps", row, model, torch.empty(0, dtype=torch.long))
    forget(state)
    job.say(job.light, 1.0, f"{row.parameters:,} parameters, {row.validation_accuracy:.2f} %")
    return row


def weigh(job: Job, model: nn.Module, index: int, stage: Stage, what: str, began: float) -> Step:
    """Weigh a network; where a bound is on its file or speed, every file that could be shipped."""
    found = evaluate(model, job.task.validation, job.task, device=job.device)
    model.to("cpu")
    loss = paired_loss(job.dock.correct, found.correct.numpy())
    cost = macs(model, job.task.shape)
    size, latency, within = _within(job, model, index, found.accuracy, loss, cost)
    return Step(
        index=index,
        stage=stage,
        what=what,
        validation_accuracy=found.accuracy,
        loss_points=loss.points,
        standard_error=loss.standard_error,
        parameters=alive(model) if job.zeroes else parameters(model),
        macs=cost,
        size_bytes=size,
        latency_ms=latency,
        within=within,
        widths=layer_widths(model, job.groups),
        seconds=time.perf_counter() - began,
    )


def _within(
    job: Job, model: nn.Module, index: int, accuracy: float, loss: PairedLoss, cost: int
) -> tuple[int | None, float | None, bool | None]:
    """Size of the exact file (None: not exported), the least cautious latency, and whether one file is within
    all bounds."""
    assert job.dock.start is not None
    folder = job.way.folder / "steps"
    if not (job.goals.size or job.goals.latency):
        exported = index <= EXPORTED_STEPS or index % EXPORTED_LATER == 0
        size = export_exact(job.dock, model, folder / "candidate").size_bytes if exported else None
        standing = Standing(
            accuracy, loss, cost, size, None, alive(model) if job.zeroes else parameters(model)
        )
        return size, None, within_bounds(job.goals, job.dock.start, standing) if job.goals.bounded else None
    timed = job.goals.latency is not None
    options = export_options(job.dock, model, folder, "candidate", latency=timed, accuracy=False)
    within = any(within_bounds(job.goals, job.dock.start, option.standing) for option in options)
    latencies = [o.standing.latency_ms for o in options if o.standing.latency_ms is not None]
    return options[0].artefact.size_bytes, min(latencies, default=None), within
