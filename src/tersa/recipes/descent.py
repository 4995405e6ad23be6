"""From the baseline down to the smallest network that keeps what was asked.

    descend_: score channels, remove the least important share, retrain briefly; again and again. Each step is
              kept on disk, so any of them can be gone back to.
    search:   fine-tune a few of those steps at length, distilling from the baseline, and find by galloping
              and bisection the smallest one whose files meet the goals on the validation split.

The brief retraining decides nothing but the next step: what a network is worth is seen only after the long
fine-tune, which is why the search tries steps whose brief accuracy lies below the floor as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from tersa.data.augment import NONE, default_augmentation
from tersa.data.task import Task
from tersa.errors import Diverged
from tersa.models.summary import macs, parameters
from tersa.numerics import paired_loss
from tersa.prune.criteria import CRITERIA, collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose, layer_widths
from tersa.prune.surgery import remove_, resize_
from tersa.recipes.deploy import Dock, Option, export_options
from tersa.recipes.goals import Goals, Standing, keeps_accuracy, within_bounds
from tersa.recipes.setting import Say
from tersa.recipes.trajectory import Trajectory
from tersa.records import Record, Stage, Step
from tersa.train.config import TrainConfig
from tersa.train.evaluation import evaluate
from tersa.train.lessons import Lessons, prepare
from tersa.train.loop import Progress, train

HOPELESS_POINTS = 1.5
"""Brief accuracy further below the floor than this and twice the allowed loss is not won back by tuning."""


class Protocol(Record):
    """How channels are removed and what follows.

    Attributes:
        criterion: of `prune.criteria`.
        normalisation: of `prune.normalise`.
        criterion_samples: training images that are scored.
        share: of the remaining channels that one step removes.
        retrain: iterations after each step.
        tune: iterations of the closing fine-tune.
        batch: images per iteration of both.
        learning_rate: peak of both, AdamW with one cycle.
        temperature: of the distillation from the baseline.
        teacher_weight: share of the teacher's term in the loss.
        views: of each training image that the baseline answers for distillation (`train.lessons`).
    """

    criterion: str = "taylor"
    normalisation: str = "l2"
    criterion_samples: int = 1000
    share: float = 0.12
    retrain: int
    tune: int
    batch: int = 128
    learning_rate: float = 2e-3
    temperature: float = 4.0
    teacher_weight: float = 0.9
    views: int = 8


def default_protocol(images: int) -> Protocol:
    """Iterations that suit a training split of `images`: half an epoch after a step, sixteen at the end."""
    per_epoch = max(1, images // 128)
    return Protocol(retrain=min(200, max(60, per_epoch // 2)), tune=min(8000, max(800, 16 * per_epoch)))


@dataclass
class Job:
    """One run of shrink, while it works.

    Attributes:
        task: the data.
        baseline: the trained network; the teacher, never changed.
        fresh: builds an untrained network of the baseline's class and size.
        goals: what is asked.
        protocol: how.
        dock: exports and weighs candidates.
        way: the steps on disk.
        seed: of the whole run.
        device: for training.
        say: shows progress.
        lessons: the baseline's answers to fixed views of the training images, once they are there.
    """

    task: Task
    baseline: nn.Module
    fresh: Callable[[], nn.Module]
    goals: Goals
    protocol: Protocol
    dock: Dock
    way: Trajectory
    seed: int
    device: str
    say: Say
    tuned: dict[int, tuple[Step, list[Option]]] = field(default_factory=dict)
    lessons: Lessons | None = None

    def network(self, table: str, index: int) -> nn.Module:
        """The network of a stored step."""
        model = self.fresh()
        resize_(model, self.way.weights("tuned" if table == "tuned" else "steps", index))
        return model.eval()


# --- down ----------------------------------------------------------------------------------------------


def descend_(job: Job) -> list[Step]:
    """Prune until nothing is left to win; goes on from the steps that are stored already."""
    rows = job.way.rows("steps")
    if not rows:
        rows = [_step_zero(job)]
    model = job.network("steps", rows[-1].index)
    groups = find_groups(model, job.task.shape)
    whole = len(find_groups(job.baseline, job.task.shape).units)
    while not _enough(job, rows):
        began = time.perf_counter()
        index = rows[-1].index + 1
        units = _next(job, model, groups, index)
        if not len(units):
            break
        groups = remove_(model, groups, units)
        retrain_(job, model, job.protocol.retrain, seed=job.seed + 1000 * index)
        what = f"removed {len(units)} channels, retrained {job.protocol.retrain} iterations"
        row = _row(job, model, groups, index, "prune", what, began)
        job.way.add("steps", row, model)
        rows.append(row)
        _say_step(job, row, len(groups.units), whole)
    job.say("prune", 1.0, f"{len(rows) - 1} steps")
    return rows


def _say_step(job: Job, row: Step, left: int, whole: int) -> None:
    share = 1.0 - left / whole
    remark = f"{left} of {whole} channels, {row.parameters:,} parameters, {row.validation_accuracy:.2f} %"
    job.say("prune", min(0.99, share**4), remark)


def _step_zero(job: Job) -> Step:
    model = job.fresh()
    model.load_state_dict(job.baseline.state_dict())
    groups = find_groups(model, job.task.shape)
    row = _row(job, model, groups, 0, "baseline", "the trained network", time.perf_counter())
    job.way.add("steps", row, model)
    return row


def _next(job: Job, model: nn.Module, groups: Groups, index: int) -> torch.Tensor:
    """The units that step `index` removes."""
    if not len(groups.units):
        return groups.units
    generator = torch.Generator().manual_seed(job.seed + index)
    chosen = torch.randperm(len(job.task.train), generator=generator)[: job.protocol.criterion_samples]
    scores = collect(
        model.to(job.device), groups, job.task, job.task.train.take(chosen), CRITERIA[job.protocol.criterion]
    )
    scores = normalise(scores, groups, NORMALISATIONS[job.protocol.normalisation])
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

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    spatial = any(isinstance(module, nn.Conv2d) for module in model.modules())
    lessons = _lessons(job, spatial=spatial)
    flip, pad = lessons.augmentation
    config = TrainConfig(
        optimizer="adamw",
        learning_rate=job.protocol.learning_rate,
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
    if done.status == "diverged":
        raise Diverged(
            f"retraining diverged (learning rate {job.protocol.learning_rate:g}); try a lower --rate"
        )
    # Contiguous, as when read back from disk: a resumed run must compute the same sums in the same order.
    model.to("cpu").to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]


def _lessons(job: Job, *, spatial: bool) -> Lessons:
    """The baseline's answers; asked once for the whole run. A fully connected network gets no shifts."""
    if job.lessons is None:
        augmentation = default_augmentation(job.task) if spatial else NONE
        job.lessons = prepare(
            job.baseline,
            job.task,
            flip=augmentation.flip,
            pad=augmentation.pad,
            views=job.protocol.views,
            seed=job.seed,
            device=job.device,
            progress=lambda share: job.say(
                "ask the baseline", share, f"{job.protocol.views} views of each image"
            ),
        )
    return job.lessons


def _row(
    job: Job, model: nn.Module, groups: Groups, index: int, stage: Stage, what: str, began: float
) -> Step:
    found = evaluate(model, job.task.validation, job.task, device=job.device)
    model.to("cpu")
    right = found.correct.numpy()
    loss = paired_loss(job.dock.correct, right)
    size: int | None = None
    latency: float | None = None
    if stage == "prune" and (job.goals.size or job.goals.latency):
        options = export_options(
            job.dock,
            model,
            job.way.folder / "steps",
            "candidate",
            latency=bool(job.goals.latency),
            accuracy=False,
        )
        size = min(option.artefact.size_bytes for option in options)
        latency = min(
            (o.standing.latency_ms for o in options if o.standing.latency_ms is not None), default=None
        )
    return Step(
        index=index,
        stage=stage,
        what=what,
        validation_accuracy=found.accuracy,
        loss_points=loss.points,
        standard_error=loss.standard_error,
        parameters=parameters(model),
        macs=macs(model, job.task.shape),
        size_bytes=size,
        latency_ms=latency,
        widths=layer_widths(model, groups),
        seconds=time.perf_counter() - began,
    )


def _fits(job: Job, row: Step) -> bool:
    """The step is within every bound, as far as weighing and quick timing can tell."""
    assert job.dock.start is not None
    loss = paired_loss(job.dock.correct, job.dock.correct)
    standing = Standing(row.validation_accuracy, loss, row.macs, row.size_bytes, row.latency_ms)
    return within_bounds(job.goals, job.dock.start, standing)


def _enough(job: Job, rows: list[Step]) -> bool:
    """Every bound is reached (and one step more, as a spare), or the accuracy is out of reach."""
    assert job.dock.start is not None
    if job.goals.bounded and sum(_fits(job, row) for row in rows) >= 2:
        return True
    allowed = job.goals.allowed_loss(job.dock.start.accuracy)
    if allowed is None:
        return False
    hopeless = allowed + max(HOPELESS_POINTS, 2 * allowed)
    return len(rows) > 2 and all(row.loss_points > hopeless for row in rows[-2:])


# --- and back up ---------------------------------------------------------------------------------------


def search(job: Job, rows: list[Step]) -> int:
    """Index of the step to ship; its long fine-tune is in `job.tuned`.

    With bounds, the first step within them whose tuned files keep the accuracy. Without, or when none does,
    the smallest step whose tuned files keep the accuracy. Index 0 is the baseline itself.
    """
    if job.goals.bounded:
        for row in [row for row in rows if _fits(job, row)][:2]:
            if row.index == 0 or _passes(job, row.index, bounds=True):
                return row.index
        inside = [row.index for row in rows if _fits(job, row)]
        if inside and not job.goals.guarded:
            return inside[-1]
    return _smallest(job, rows)


def _smallest(job: Job, rows: list[Step]) -> int:
    """Gallop from a guess, then bisect, to the last step that keeps the accuracy after its fine-tune."""
    assert job.dock.start is not None
    allowed = job.goals.allowed_loss(job.dock.start.accuracy)
    last = rows[-1].index
    if allowed is None:
        return last
    guess = max((row.index for row in rows if row.loss_points <= allowed), default=0)
    low, high = 0, last + 1  # low keeps the accuracy, high does not
    probe, stride = max(1, min(guess, last)), 2
    while high - low > 1:
        if _passes(job, probe, bounds=False):
            low = probe
        else:
            high = probe
        if high == last + 1:
            probe, stride = min(low + stride, last), 2 * stride
        elif low == 0:
            probe, stride = max(high - stride, 1), 2 * stride
        else:
            probe = (low + high) // 2
        if not low < probe < high:
            break
    return low


def _passes(job: Job, index: int, *, bounds: bool) -> bool:
    assert job.dock.start is not None
    _, options = tune(job, index)
    start = job.dock.start
    return any(
        keeps_accuracy(job.goals, start, option.standing)
        and (not bounds or within_bounds(job.goals, start, option.standing))
        for option in options
    )


def tune(job: Job, index: int) -> tuple[Step, list[Option]]:
    """Fine-tune a step at length, store it, and export and weigh its files; done once per step."""
    if index in job.tuned:
        return job.tuned[index]
    stored = {row.index: row for row in job.way.rows("tuned")}
    if index in stored:
        row, model = stored[index], job.network("tuned", index)
    else:
        row, model = _tune(job, index)
    options = export_options(
        job.dock, model, job.way.folder / "tuned", f"{index:03d}", latency=bool(job.goals.latency)
    )
    job.tuned[index] = row, options
    best = max(option.standing.accuracy for option in options)
    job.say(f"tune {row.parameters:,} parameters", 1.0, f"{best:.2f} % on validation")
    return row, options


def _tune(job: Job, index: int) -> tuple[Step, nn.Module]:
    began = time.perf_counter()
    model = job.network("steps", index)
    groups = find_groups(model, job.task.shape)
    name = f"tune {parameters(model):,} parameters"

    def show(at: Progress) -> None:
        job.say(name, at.iteration / at.iterations, f"loss {at.loss:.3f}")

    retrain_(job, model, job.protocol.tune, seed=job.seed + 1000 * index + 500, progress=show)
    what = f"distilled {job.protocol.tune} iterations from the baseline"
    row = _row(job, model, groups, index, "distil", what, began)
    job.way.add("tuned", row, model)
    return row, model
