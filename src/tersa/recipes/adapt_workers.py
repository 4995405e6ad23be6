"""Candidates of one step of NetAdapt fine-tuned at once, by workers beside this process or on a cluster.

A candidate goes to a worker as its weights and comes back as its weights with its answers on the validation
split. What it learns follows from its own seed: the same candidates, whoever trains them, to the rounding
that another number of threads brings. Each step begins its workers anew (some seconds: imports, data), which
pays where a candidate's fine-tune takes longer than that.

Of a race (`adapt_race`) the workers run the heats. What an optimiser remembers stays with them, several times
a network's weights: the winner is fine-tuned from its beginning, by the calling process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import nn

from tersa.data.sources import load as load_task
from tersa.errors import Diverged
from tersa.prune.surgery import resize_
from tersa.recipes.adapt_request import AdaptSpec
from tersa.recipes.job import Retraining
from tersa.recipes.pruning import Protocol
from tersa.recipes.retraining import retrain_, start_
from tersa.recipes.setting import silent
from tersa.recipes.start import find_start
from tersa.study.cluster import Crew
from tersa.study.gather import gather
from tersa.train.evaluation import Evaluation, evaluate


@dataclass(frozen=True)
class Lesson:
    """One candidate to fine-tune.

    Attributes:
        weights: its state, as safetensors.
        iterations: of the fine-tune.
        seed: of the order of images.
        until: of these, how many are made: a heat; None for all.
        images: of the validation split that it answers; None for all.
    """

    weights: bytes
    iterations: int
    seed: int
    until: int | None = None
    images: int | None = None


@dataclass(frozen=True)
class Learnt:
    """What came of a candidate.

    Attributes:
        weights: its state afterwards.
        answers: (N, K) logits on the validation split.
        loss: mean cross-entropy there.
        tune_seconds: of the fine-tune.
        evaluate_seconds: of the answers.
    """

    weights: bytes
    answers: npt.NDArray[np.float32]
    loss: float
    tune_seconds: float
    evaluate_seconds: float

    def evaluation(self, job: Retraining) -> Evaluation:
        """Its answers, as `evaluate` gives them."""
        logits = torch.from_numpy(self.answers)
        labels = job.task.validation.spread(len(logits)).labels.cpu()
        correct = logits.argmax(1) == labels
        return Evaluation(logits, labels, 100.0 * correct.double().mean().item(), self.loss, correct)


@dataclass(frozen=True)
class _Bench:
    """What a worker prepares itself from."""

    spec: AdaptSpec
    protocol: Protocol
    data_dir: Path | None
    device: str


def tune(
    spec: AdaptSpec, job: Retraining, crew: Crew, data_dir: Path | None, lessons: Sequence[Lesson]
) -> list[Learnt | Diverged]:
    """Fine-tune candidates at once, in their order.

    Args:
        spec: of the run.
        job: the run, of which a worker needs the protocol and the device.
        crew: workers.
        data_dir: where data are looked for first.
        lessons: the candidates.

    Raises:
        TersaError: a worker broke; the message is its traceback.
        UsageError: no cluster answers.
    """
    bench = _Bench(spec, job.protocol, data_dir, job.device)
    return gather(lessons, partial(_begin, bench), crew, what="candidate")


def packed(model: nn.Module) -> bytes:
    """A model's state as safetensors."""
    return save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})


def unpack_(model: nn.Module, weights: bytes) -> None:
    """Give a model the state of one of its own shape."""
    model.load_state_dict(load(weights))


def _begin(bench: _Bench) -> Callable[[Lesson], Learnt]:
    """What fine-tunes the candidates of one worker."""
    spec = bench.spec
    task = load_task(spec.data, data_dir=bench.data_dir, seed=spec.seed, validation=spec.validation)
    begin = find_start(spec, task)
    job = Retraining(
        task=task,
        baseline=begin.pruned(),
        protocol=bench.protocol,
        seed=spec.seed,
        device=bench.device,
        say=silent,
    )
    return partial(_learn, job, begin.pruned)


def _learn(job: Retraining, fresh: Callable[[], nn.Module], lesson: Lesson) -> Learnt:
    model = fresh()
    resize_(model, load(lesson.weights))
    began = time.perf_counter()
    if lesson.until is None:
        retrain_(job, model, lesson.iterations, seed=lesson.seed)
    else:
        start_(job, model, lesson.iterations, until=lesson.until, seed=lesson.seed)
    tuned = time.perf_counter() - began
    found = evaluate(model, job.task.validation.spread(lesson.images), job.task, device=job.device)
    asked = time.perf_counter() - began - tuned
    return Learnt(packed(model.cpu()), found.logits.numpy().astype(np.float32), found.loss, tuned, asked)
