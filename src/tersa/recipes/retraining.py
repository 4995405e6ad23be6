"""Learning again after channels are gone, by distillation from the baseline.

`retrain_` is a run of its own, with a new optimiser: what the long fine-tune needs, and short runs where
`optimiser="fresh"`. A `Follower` is one run that goes on over all steps, whose optimiser keeps what it knows
of the surviving channels (`optimiser="follow"`). Both learn from the baseline's answers to fixed views of the
training images (`train.lessons`), and both try again at a quarter of the learning rate when they diverge.

`start_` is the first part of a `retrain_`, after which networks can be compared, and `go_on_` the rest of it:
both together end with the same bytes as `retrain_` at once.

Example:
    >>> from tersa.recipes.pruning import Protocol
    >>> settings(Protocol(retrain=5, tune=0), 1000, seed=0, spatial=False, shifts=(False, 0)).batch
    128
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tersa.data.augment import NONE, default_augmentation
from tersa.errors import DataError, Diverged, UsageError
from tersa.prune.groups import Groups
from tersa.prune.surgery import remove_, restore_
from tersa.recipes.job import Job, Retraining
from tersa.recipes.pruning import Protocol
from tersa.train.checkpoint import Snapshot
from tersa.train.config import TrainConfig, override
from tersa.train.continued import Continued, begin, learn_, learning, optimiser_state
from tersa.train.continued import restore_ as recall_
from tersa.train.evaluation import evaluate
from tersa.train.lessons import Lessons, most_views, prepare
from tersa.train.loop import Progress, TrainResult, train

log = logging.getLogger(__name__)

GLANCE_IMAGES = 500
COLLAPSE, COLLAPSE_ITERATIONS = 0.5, 100
"""A loss above this share of ln K, and above what it was, after so many iterations is a collapse."""

TRIES = 3
"""Attempts at a retraining that diverges or collapses, each at a quarter of the last one's learning rate."""


def settings(
    protocol: Protocol, images: int, *, seed: int, spatial: bool, shifts: tuple[bool, int]
) -> TrainConfig:
    """The training settings of a retraining, without its length.

    Args:
        protocol: how.
        images: of the training split.
        seed: of the order of images.
        spatial: the network has convolutions.
        shifts: (flip, pad) of the augmentation.
    """
    plain = TrainConfig(
        optimizer=protocol.update,
        learning_rate=protocol.learning_rate,
        weight_decay=protocol.weight_decay,
        clip_norm=protocol.clip_norm,
        batch=min(protocol.batch, images),
        schedule="one-cycle",
        warmup=0.1,
        flip=shifts[0],
        pad=shifts[1],
        keep="last",
        seed=seed,
        channels_last=spatial,
        label_smoothing=protocol.label_smoothing,
        precision=protocol.arithmetic,
    )
    if not protocol.teacher_weight:
        return plain
    return override(
        plain,
        {
            "distillation": "temperature",
            "distillation_weight": protocol.teacher_weight,
            "distillation_temperature": protocol.temperature,
        },
    )


@dataclass(frozen=True)
class Paused:
    """A retraining on its way.

    Attributes:
        iterations: of all of it.
        seed: of the order of images.
        before: the network's state before it.
        attempt: at which learning rate it is, 0 being the protocol's.
        state: of the training.
    """

    iterations: int
    seed: int
    before: dict[str, Tensor]
    attempt: int
    state: Snapshot


@dataclass(frozen=True)
class _Course:
    """What does not change over the attempts at a retraining."""

    job: Retraining
    model: nn.Module
    iterations: int
    seed: int
    before: dict[str, Tensor]
    only: Collection[str] | None = None
    progress: Callable[[Progress], None] | None = None
    keep: Path | None = None


def retrain_(
    job: Retraining,
    model: nn.Module,
    iterations: int,
    *,
    seed: int,
    only: Collection[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    keep: Path | None = None,
) -> None:
    """Distil from the baseline for some iterations; weights end as plain contiguous tensors on the CPU.

    A training that diverges is tried again from the same weights, at a quarter of the learning rate.

    Args:
        job: teacher, data and protocol.
        model: the network.
        iterations: how many; 0 changes nothing.
        seed: of the order of images.
        only: names of the parameters that may change, None for all.
        progress: called while it trains.
        keep: where its state is kept, epoch by epoch, so that one that was killed goes on; None for nowhere.
            A state that does not fit, as on another device, where the baseline's answers are others, is left.
            The caller removes it (`forget`) once the result is stored.

    Raises:
        Diverged: the loss became NaN or infinite every time.
    """
    if iterations:
        _retrained_(_Course(job, model, iterations, seed, _copied(model), only, progress, keep))


def start_(job: Retraining, model: nn.Module, iterations: int, *, until: int, seed: int) -> Paused:
    """The first updates of a retraining; the network has the weights of that moment.

    Args:
        job: teacher, data and protocol.
        model: the network.
        iterations: of the whole retraining, which its learning rate is laid out for.
        until: updates that are made, fewer than `iterations`.
        seed: of the order of images.

    Raises:
        Diverged: the loss became NaN or infinite every time.
    """
    assert until < iterations
    paused = _retrained_(_Course(job, model, iterations, seed, _copied(model)), until=until)
    assert paused is not None
    return paused


def go_on_(job: Retraining, model: nn.Module, paused: Paused) -> None:
    """The rest of a retraining; the network ends as after `retrain_` at once.

    Raises:
        Diverged: the loss became NaN or infinite every time; the network is as it was before all of it.
    """
    _retrained_(_Course(job, model, paused.iterations, paused.seed, paused.before), paused=paused)


def _retrained_(course: _Course, *, until: int | None = None, paused: Paused | None = None) -> Paused | None:
    """Attempt after attempt until one ends well, or comes to `until`."""
    job, model = course.job, course.model
    for attempt in range(paused.attempt if paused else 0, TRIES):
        start = paused.state if paused and attempt == paused.attempt else None
        done = _learnt_(course, attempt, start, until)
        model.to("cpu").eval()
        if done.state is not None:
            return Paused(course.iterations, course.seed, course.before, attempt, done.state)
        if done.status != "diverged" and not _collapsed(job, model, course.iterations, course.before):
            model.to("cpu")
            return None
        model.load_state_dict(course.before)
    rate = job.protocol.learning_rate / 4 ** (TRIES - 1)
    raise Diverged(f"retraining diverged {TRIES} times, at last with a learning rate of {rate:g}")


def _learnt_(course: _Course, attempt: int, start: Snapshot | None, until: int | None) -> TrainResult:
    """One attempt, from its beginning or from where it was paused or killed."""
    job, model, keep = course.job, course.model, course.keep
    spatial = _spatial(model)
    lessons = lessons_of(job, spatial=spatial)
    shifts = shifts_of(job, spatial=spatial)
    base = settings(job.protocol, len(job.task.train), seed=course.seed, spatial=spatial, shifts=shifts)
    rate = job.protocol.learning_rate / 4**attempt
    config = override(base, {"learning_rate": rate, "iterations": course.iterations})
    state = None if keep is None else _attempt(keep, attempt)

    def learn() -> TrainResult:
        return train(
            model,
            job.task,
            config,
            teacher=lessons,
            device=job.device,
            evaluate_every=None,  # who retrains asks afterwards, and for more than an accuracy
            progress=course.progress,
            checkpoint=state,
            resume=True,
            start=start,
            until=until,
        )

    with learning(model, course.only):
        try:
            return learn()
        except (UsageError, DataError) as error:
            if state is None or not state.is_file():
                raise
            log.info("%s; trained from the start", error)
            state.unlink()
            return learn()


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _attempt(keep: Path, number: int) -> Path:
    """Where an attempt at a training keeps its state: each has a learning rate of its own."""
    return keep.with_name(f"{keep.name}.{number}")


def forget(keep: Path) -> None:
    """Remove the states of a training whose result is stored."""
    for number in range(TRIES):
        _attempt(keep, number).unlink(missing_ok=True)


@dataclass
class Follower:
    """One training that goes on while its network shrinks.

    Attributes:
        job: the run.
        run: the network with its optimiser.
    """

    job: Job
    run: Continued

    @staticmethod
    def begin(job: Job, model: nn.Module, memory: dict[str, Tensor], iterations: int) -> Follower:
        """Go on with a network; without a memory its optimiser begins anew.

        Args:
            job: the run.
            model: the network; it moves to the job's device.
            memory: the optimiser's state as `memory()` gave it, or nothing.
            iterations: updates made so far.
        """
        spatial = _spatial(model)
        lessons = lessons_of(job, spatial=spatial)
        shifts = shifts_of(job, spatial=spatial)
        config = settings(job.protocol, len(job.task.train), seed=job.seed, spatial=spatial, shifts=shifts)
        run = begin(model, job.task, config, teacher=lessons, device=job.device)
        recall_(run, memory, iterations)
        return Follower(job, run)

    def memory(self) -> dict[str, Tensor]:
        """The optimiser's state, for the disk."""
        return optimiser_state(self.run)

    def remove_(self, groups: Groups, units: Tensor) -> Groups:
        """Remove units from the network and from what the optimiser remembers."""
        return remove_(self.run.model, groups, units, self.run.optimizer)

    def restore_(self, groups: Groups, whole: Groups, earlier: dict[str, Tensor]) -> None:
        """Bring removed units back, see `surgery.restore_`."""
        restore_(self.run.model, groups, whole, earlier, self.run.optimizer)

    def learn_(self, iterations: int, only: set[str] | None) -> None:
        """Some more updates, tried again from the same state where they diverge.

        Raises:
            Diverged: the loss became NaN or infinite every time.
        """
        run, asked = self.run, self.run.config
        weights = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
        memory, start = self.memory(), run.iteration
        try:
            for attempt in range(TRIES):
                run.config = override(asked, {"learning_rate": asked.learning_rate / 4**attempt})
                try:
                    learn_(run, iterations, only)
                    if not _collapsed(self.job, run.model, iterations, weights):
                        return
                except Diverged:
                    log.info("retraining ended in NaN; once more at a quarter of the learning rate")
                run.model.load_state_dict(weights)
                recall_(run, memory, start)
        finally:
            run.config = asked
        raise Diverged(f"retraining diverged {TRIES} times")


def follower_of(job: Job, model: nn.Module, index: int) -> Follower | None:
    """The training that goes on from a stored step, where the protocol has one."""
    if job.protocol.optimiser != "follow" or not job.protocol.retrain:
        return None
    done = (index - bool(job.light)) * job.protocol.retrain
    return Follower.begin(job, model, job.way.memory(index), done)


def _glance(job: Retraining, model: nn.Module) -> float:
    """Mean cross-entropy of some training images."""
    images = job.task.train.spread(GLANCE_IMAGES)
    return evaluate(model, images, job.task, device=job.device).loss


def _collapsed(job: Retraining, model: nn.Module, iterations: int, before: dict[str, Tensor]) -> bool:
    """Training has left a network that answers like chance, and that did not before: its units are dead.

    A few iterations prove nothing: batch norm's running statistics may not have followed yet.
    """
    if iterations < COLLAPSE_ITERATIONS:
        return False
    after = _glance(job, model)
    if after < COLLAPSE * math.log(len(job.task.classes)):
        return False
    now = _copied(model)
    model.load_state_dict(before)
    was = _glance(job, model)
    model.load_state_dict(now)
    return not after < was


def _spatial(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def shifts_of(job: Retraining, *, spatial: bool) -> tuple[bool, int]:
    """(flip, pad) of the training images; a fully connected network gets no shifts."""
    usual = default_augmentation(job.task) if spatial else NONE
    pad = usual.pad if job.protocol.pad is None else job.protocol.pad
    return usual.flip, pad


def lessons_of(job: Retraining, *, spatial: bool) -> Lessons | None:
    """The baseline's answers, asked once for the whole run; None where only labels teach."""
    if not job.protocol.teacher_weight:
        return None
    if job.lessons is None:
        flip, pad = shifts_of(job, spatial=spatial)
        views = min(job.protocol.views, most_views(job.task))  # more than fit are not drawn
        shown = views if flip or pad else 1

        def show(share: float) -> None:
            job.say(
                "ask the baseline", share, f"{shown} view{'s' if shown > 1 else ''} of each training image"
            )

        show(0.0)
        job.lessons = prepare(
            job.baseline,
            job.task,
            flip=flip,
            pad=pad,
            views=views,
            seed=job.seed,
            device=job.device,
            progress=show,
        )
    return job.lessons
