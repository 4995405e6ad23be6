"""From the baseline down: score channels, remove the least important share, retrain briefly; again and again.

Every step is kept on disk, so any of them can be gone back to. The brief retraining decides nothing but the
next step: what a network is worth shows after a long fine-tune, which `search.py` gives to a few of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tersa.data.augment import NONE, default_augmentation
from tersa.data.task import Task
from tersa.errors import Diverged
from tersa.export.onnx import export_onnx
from tersa.models.summary import macs, parameters
from tersa.numerics import PairedLoss, paired_loss
from tersa.prune.costs import cost_aware, unit_macs
from tersa.prune.criteria import CRITERIA, collect
from tersa.prune.groups import Groups
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose, layer_widths
from tersa.prune.surgery import after, remove_, resize_
from tersa.recipes.deploy import Dock, export_options
from tersa.recipes.goals import Goals, Standing, within_bounds
from tersa.recipes.setting import Say
from tersa.recipes.trajectory import Table, Trajectory
from tersa.records import Record, Stage, Step
from tersa.train.config import TrainConfig
from tersa.train.evaluation import evaluate
from tersa.train.lessons import Lessons, prepare
from tersa.train.loop import Progress, train

log = logging.getLogger(__name__)

HOPELESS_POINTS = 1.5
"""Pruning pauses when the brief accuracy is further below the floor than this and twice the allowed loss; it
goes on where a long fine-tune shows that it was a pause too early."""

LESSON_BYTES = 10**9
"""Most memory for the baseline's answers; more views than fit are not drawn."""

TRIES = 3
"""Attempts at a retraining that diverges, each at a quarter of the last one's learning rate."""

Ending = Literal["bounds", "floor", "empty", "diverged"]
"""Why pruning stopped: bounds met, accuracy gone, nothing left to remove, training diverged."""


class Protocol(Record):
    """How channels are removed and what follows."""

    criterion: Literal["taylor"] = "taylor"
    """Importance of a channel; see `prune.criteria`."""
    normalisation: Literal["none", "l1", "l2"] = "l2"
    """What makes layers comparable; see `prune.normalise`."""
    mac_weight: float = Field(default=0.5, ge=0)
    """Lambda of the penalty on a channel's share of the MACs; 0 for none. See `prune.costs`."""
    criterion_samples: int = Field(default=1000, ge=1)
    """Training images that channels are scored on."""
    share: float = Field(default=0.12, gt=0, lt=1)
    """Share of the remaining channels that one step removes."""
    retrain: int = Field(ge=1)
    """Iterations after each step."""
    tune: int = Field(ge=1)
    """Iterations of the closing fine-tune."""
    batch: int = Field(default=128, ge=1)
    """Images per iteration of both."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of both, AdamW with one cycle."""
    temperature: float = Field(default=4.0, gt=0)
    """Of the distillation from the baseline."""
    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the teacher's term in the loss."""
    views: int = Field(default=8, ge=1)
    """Views of each training image that the baseline answers for distillation; see `train.lessons`."""


def default_protocol(images: int) -> Protocol:
    """Iterations that suit a training split of `images`: half an epoch after a step, up to 24 at the end."""
    per_epoch = max(1, images // 128)
    return Protocol(retrain=min(200, max(60, per_epoch // 2)), tune=min(10_000, max(800, 24 * per_epoch)))


@dataclass
class Job:
    """One run of shrink, while it works.

    Attributes:
        task: the data.
        baseline: the trained network; the teacher, never changed.
        groups: its channel groups.
        fresh: builds an untrained network of the baseline's class and size.
        goals: what is asked.
        protocol: how.
        dock: exports and weighs candidates.
        way: the steps on disk.
        seed: of the whole run.
        device: for training.
        say: shows progress.
        lessons: the baseline's answers to fixed views of the training images, once they are there.
        ended: why pruning stopped, once it has.
    """

    task: Task
    baseline: nn.Module
    groups: Groups
    fresh: Callable[[], nn.Module]
    goals: Goals
    protocol: Protocol
    dock: Dock
    way: Trajectory
    seed: int
    device: str
    say: Say
    lessons: Lessons | None = None
    ended: Ending | None = None

    def network(self, table: Table, index: int) -> nn.Module:
        """The network of a stored step."""
        model = self.fresh()
        resize_(model, self.way.weights(table, index))
        return model.eval()

    @property
    def allowed_loss(self) -> float | None:
        """Points of validation accuracy that may be lost, or None."""
        assert self.dock.start is not None
        return self.goals.allowed_loss(self.dock.start.accuracy)


def descend_(job: Job, *, until: int = 0) -> list[Step]:
    """Prune on from the last stored step until there is a reason to stop (`job.ended`); returns all steps.

    Args:
        job: the run.
        until: rows to have at least, whatever the accuracy and the bounds say: for a search that has found
            that pruning paused too early.
    """
    rows = job.way.rows("steps") or [_step_zero(job)]
    removed = job.way.removed()
    groups = job.groups
    for units in removed:
        groups = after(groups, units)
    model = job.network("steps", rows[-1].index)
    while True:
        job.ended = "empty" if all(len(group.units) == 1 for group in groups.groups) else pause(job, rows)
        if job.ended == "empty" or (job.ended is not None and len(rows) >= until):
            break
        began = time.perf_counter()
        index = rows[-1].index + 1
        try:
            units = _next(job, model, groups, index)
            groups = remove_(model, groups, units)
            retrain_(job, model, job.protocol.retrain, seed=job.seed + 1000 * index)
        except Diverged as error:
            log.warning("%s; going on with the %d steps there are", error, len(rows))
            job.ended = "diverged"
            break
        what = f"removed {len(units)} channels, retrained {job.protocol.retrain} iterations"
        row = weigh(job, model, index, "prune", what, began)
        job.way.add("steps", row, model, units)
        rows.append(row)
        _say_step(job, row, len(groups.units))
    job.say("prune", 1.0, f"{len(rows) - 1} steps, down to {rows[-1].parameters:,} parameters")
    return rows


def pause(job: Job, rows: list[Step]) -> Ending | None:
    """Whether the steps so far are reason enough to stop."""
    if job.goals.bounded and rows[-1].within:
        return "bounds"
    allowed = job.allowed_loss
    if allowed is not None:
        hopeless = allowed + max(HOPELESS_POINTS, 2 * allowed)
        if allowed < 0 or (len(rows) > 2 and all(row.loss_points > hopeless for row in rows[-2:])):
            return "floor"
    return None


def _say_step(job: Job, row: Step, left: int) -> None:
    whole = len(job.groups.units)
    remark = f"{left} of {whole} channels, {row.parameters:,} parameters, {row.validation_accuracy:.2f} %"
    job.say("prune", min(0.99, (1.0 - left / whole) ** 4), remark)


def _step_zero(job: Job) -> Step:
    model = job.fresh()
    model.load_state_dict(job.baseline.state_dict())
    row = weigh(job, model.eval(), 0, "baseline", "the trained network", time.perf_counter())
    job.way.add("steps", row, model)
    return row


def _next(job: Job, model: nn.Module, groups: Groups, index: int) -> Tensor:
    """The units that step `index` removes."""
    generator = torch.Generator().manual_seed(job.seed + index)
    chosen = torch.randperm(len(job.task.train), generator=generator)[: job.protocol.criterion_samples]
    images = job.task.train.take(chosen)
    model.to(job.device)
    scores = collect(model, groups, job.task, images, CRITERIA[job.protocol.criterion])
    scores = normalise(scores, groups, NORMALISATIONS[job.protocol.normalisation])
    shape = job.task.shape
    scores = cost_aware(scores, unit_macs(model, groups, shape), macs(model, shape), job.protocol.mac_weight)
    return choose(scores, groups, count=max(1, round(job.protocol.share * len(groups.units))))


def retrain_(
    job: Job,
    model: nn.Module,
    iterations: int,
    *,
    seed: int,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Distil from the baseline for some iterations; weights end as plain contiguous tensors on the CPU.

    A training that diverges is tried again from the same weights, at a quarter of the learning rate.

    Raises:
        Diverged: the loss became NaN or infinite every time.
    """
    spatial = any(isinstance(module, nn.Conv2d) for module in model.modules())
    lessons = _lessons(job, spatial=spatial)
    flip, pad = lessons.augmentation
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    rate = job.protocol.learning_rate
    for _ in range(TRIES):
        config = TrainConfig(
            optimizer="adamw",
            learning_rate=rate,
            weight_decay=1e-4,
            batch=min(job.protocol.batch, len(job.task.train)),
            iterations=iterations,
            schedule="one-cycle",
            warmup=0.1,
            flip=flip,
            pad=pad,
            keep="last",
            seed=seed,
            channels_last=spatial,
            distillation="temperature",
            distillation_weight=job.protocol.teacher_weight,
            distillation_temperature=job.protocol.temperature,
        )
        done = train(
            model, job.task, config, teacher=lessons, device=job.device, evaluate_every=0, progress=progress
        )
        model.to("cpu").eval()
        if done.status != "diverged":
            return
        model.load_state_dict(before)
        rate /= 4
    raise Diverged(f"retraining diverged {TRIES} times, at last with a learning rate of {4 * rate:g}")


def _lessons(job: Job, *, spatial: bool) -> Lessons:
    """The baseline's answers; asked once for the whole run. A fully connected network gets no shifts."""
    if job.lessons is None:
        augmentation = default_augmentation(job.task) if spatial else NONE
        each = 4 * len(job.task.train) * len(job.task.classes)
        views = max(1, min(job.protocol.views, LESSON_BYTES // each))
        shown = 1 if augmentation.nothing else views

        def show(share: float) -> None:
            job.say(
                "ask the baseline", share, f"{shown} view{'s' if shown > 1 else ''} of each training image"
            )

        show(0.0)
        job.lessons = prepare(
            job.baseline,
            job.task,
            flip=augmentation.flip,
            pad=augmentation.pad,
            views=views,
            seed=job.seed,
            device=job.device,
            progress=show,
        )
    return job.lessons


def weigh(job: Job, model: nn.Module, index: int, stage: Stage, what: str, began: float) -> Step:
    """Weigh a network; where a bound is on its file or speed, every file that could be shipped."""
    found = evaluate(model, job.task.validation, job.task, device=job.device)
    model.to("cpu")
    loss = paired_loss(job.dock.correct, found.correct.numpy())
    cost = macs(model, job.task.shape)
    size, latency, within = _within(job, model, found.accuracy, loss, cost)
    return Step(
        index=index,
        stage=stage,
        what=what,
        validation_accuracy=found.accuracy,
        loss_points=loss.points,
        standard_error=loss.standard_error,
        parameters=parameters(model),
        macs=cost,
        size_bytes=size,
        latency_ms=latency,
        within=within,
        widths=layer_widths(model, job.groups),
        seconds=time.perf_counter() - began,
    )


def _within(
    job: Job, model: nn.Module, accuracy: float, loss: PairedLoss, cost: int
) -> tuple[int, float | None, bool | None]:
    """Size of the fp32 file, the least cautious latency, and whether one file is within all bounds."""
    assert job.dock.start is not None
    folder = job.way.folder / "steps"
    if not (job.goals.size or job.goals.latency):
        size = export_onnx(model, job.task, folder / "candidate.onnx").size_bytes
        standing = Standing(accuracy, loss, cost, size, None)
        return size, None, within_bounds(job.goals, job.dock.start, standing) if job.goals.bounded else None
    timed = job.goals.latency is not None
    options = export_options(job.dock, model, folder, "candidate", latency=timed, accuracy=False)
    within = any(within_bounds(job.goals, job.dock.start, option.standing) for option in options)
    latencies = [o.standing.latency_ms for o in options if o.standing.latency_ms is not None]
    return options[0].artefact.size_bytes, min(latencies, default=None), within
