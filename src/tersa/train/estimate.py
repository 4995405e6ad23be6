"""How long a run would take and how much memory it would need, from a few timed updates on a copy.

    seconds = updates x time of one + evaluations x time of one
    memory  = the process now + images + weights x copies + activations of the largest batch, there and back

An estimate: off by a factor of two where the machine is busy, where its clock changes, or where the network
keeps more than its layers' outputs.

Example:
    >>> in_words(40), in_words(200), in_words(9000)
    ('40 s', '3 min', '2.5 h')
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from tersa.data.task import Task
from tersa.records.base import Record
from tersa.train import device as devices
from tersa.train.batches import RESIDENT_BYTES
from tersa.train.config import TrainConfig, extent
from tersa.train.evaluation import evaluate
from tersa.train.loop import train
from tersa.train.step import CHUNK

WARM, TIMED = 2, 8
"""Updates before the first timed one, and timed updates."""

ENOUGH_S = 3.0
"""Where the first updates took this long, they are the measurement: their start-up is a small part of it."""

EVALUATED = 500
"""Images of the timed evaluation."""

COPIES = {
    "sgd": 0,
    "momentum": 1,
    "nesterov": 1,
    "adagrad": 1,
    "adadelta": 2,
    "adam": 2,
    "adamw": 2,
    "lbfgs": 20,
}
"""What an optimiser keeps, in copies of the weights."""

LIVE = 5
"""Other copies of the weights: themselves, gradients, the best so far, and a checkpoint with both."""


class Estimate(Record):
    """What a run would cost."""

    epochs: int
    """Epochs begun."""
    iterations: int
    """Updates in all."""
    iteration_seconds: float
    """Of one update."""
    seconds: float
    """Of the whole run with its evaluations, without early stop."""
    memory_bytes: int
    """Of the process at its largest."""


def estimate(model: nn.Module, task: Task, config: TrainConfig, *, device: str = "cpu") -> Estimate:
    """Time and memory of `train(model, task, config)`; the model is left as it is.

    The teacher of a distillation is not counted; see `asking_seconds`.

    Args:
        model: the network to be trained.
        task: what it would learn.
        config: how.
        device: where: `cpu`, `cuda` or `auto`.
    """
    place = devices.choose(device)
    length = extent(config, len(task.train))
    one = iteration_seconds(model, task, config, device=place)
    evaluation = asking_seconds(model, task, len(task.validation), device=place)
    return Estimate(
        epochs=length.epochs,
        iterations=length.iterations,
        iteration_seconds=one,
        seconds=length.iterations * one + length.epochs * evaluation,
        memory_bytes=memory_bytes(model, task, config),
    )


def asking_seconds(model: nn.Module, task: Task, images: int, *, device: str = "cpu") -> float:
    """Wall time of a network's answers on so many images, from a few of the validation split."""
    few = task.validation.take(slice(0, EVALUATED))
    began = time.perf_counter()
    evaluate(copy.deepcopy(model), few, task, device=device)
    return (time.perf_counter() - began) * images / len(few)


def iteration_seconds(model: nn.Module, task: Task, config: TrainConfig, *, device: str = "cpu") -> float:
    """Wall time of one update, from a few on a copy of the model and one batch of the images.

    L-BFGS and other optimisers are timed as they would run; a teacher is left out.
    """
    few = task.train.take(slice(0, config.batch or len(task.train)))
    small = replace(task, train=few, validation=few.take(slice(0, 1)), test=few.take(slice(0, 1)))
    plain = {
        "distillation": "none",
        "distillation_weight": 0.5,
        "distillation_temperature": 1.0,
        "early_stop": 0,
        "keep": "last",
    }
    trial = config.model_copy(update=plain)
    spent: list[float] = []
    for iterations in (WARM, WARM + TIMED if config.optimizer != "lbfgs" else WARM + 1):
        began = time.perf_counter()
        settings = trial.model_copy(update={"iterations": iterations})
        train(copy.deepcopy(model), small, settings, device=device, evaluate_every=0)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        spent.append((time.perf_counter() - began) / iterations)
        if spent[0] * iterations > ENOUGH_S:
            break
    return min(spent)


def memory_bytes(model: nn.Module, task: Task, config: TrainConfig) -> int:
    """Memory of the process while it trains, estimated."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    images = task.train.images
    stored = images.numel() * images.element_size()
    floats = min(4 * images.numel(), RESIDENT_BYTES)
    batch = min(config.batch or len(task.train), len(task.train), CHUNK)
    layers = 2 * 4 * batch * _outputs(model, task)
    now = psutil.Process().memory_info().rss
    return now + stored + floats + weights * (LIVE + COPIES[config.optimizer]) + layers


def _outputs(model: nn.Module, task: Task) -> int:
    """Values that all layers give for one image."""
    found: list[int] = []

    def count(_: nn.Module, __: Any, output: object) -> None:
        if isinstance(output, Tensor):
            found.append(output.numel())

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        evaluate(model, task.validation.take(slice(0, 1)), task)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found)


def in_words(seconds: float) -> str:
    """A duration as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
