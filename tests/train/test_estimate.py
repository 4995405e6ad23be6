"""Estimates: lengths exact, time and memory of the right size, the model left alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import tersa.train.estimate as measured
from tersa.data.task import Task
from tersa.train.checkpoint import weights_digest
from tersa.train.config import TrainConfig
from tersa.train.estimate import TIMED, WARM, estimate, iteration_seconds, memory_bytes
from tersa.train.loop import train

FACTOR = 8
"""Runs of hundredths of a second on a machine that does other things: the order of magnitude is tested."""


def test_an_estimate_is_near_the_run_and_leaves_no_trace(
    network: Callable[[], nn.Module], task: Task
) -> None:
    model = network().train()
    before, random = weights_digest(model), torch.get_rng_state()
    config = TrainConfig(batch=16, epochs=20, early_stop=1)
    found = estimate(model, task, config)
    assert (found.epochs, found.iterations) == (20, 160)
    assert weights_digest(model) == before
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    began = time.perf_counter()
    train(model, task, config.model_copy(update={"early_stop": 0}))
    spent = time.perf_counter() - began
    assert spent / FACTOR < found.seconds < spent * FACTOR


def test_distillation_and_lbfgs_can_be_estimated(linear: Callable[[], nn.Module], task: Task) -> None:
    for config in (TrainConfig(distillation="document"), TrainConfig(optimizer="lbfgs", batch=0)):
        assert estimate(linear(), task, config).seconds > 0


def test_memory_grows_with_weights_and_with_what_the_optimiser_keeps(task: Task) -> None:
    small = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    large = nn.Sequential(nn.Flatten(), nn.Linear(36, 200_000), nn.Linear(200_000, 3))
    weights = 4 * sum(p.numel() for p in large.parameters())
    plain = memory_bytes(large, task, TrainConfig(optimizer="sgd"))
    assert plain - memory_bytes(small, task, TrainConfig(optimizer="sgd")) > 4 * weights
    twice = memory_bytes(large, task, TrainConfig(optimizer="adam")) - plain
    assert abs(twice - 2 * weights) < weights  # the process itself may grow between the two


def test_a_slow_network_is_timed_on_few_updates(
    linear: Callable[[], nn.Module], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def slow(model: nn.Module, task: Task, config: TrainConfig, **_: object) -> None:
        asked.append(config.iterations)
        time.sleep(0.02)

    monkeypatch.setattr(measured, "train", slow)
    assert 0.001 < iteration_seconds(linear(), task, TrainConfig()) < 0.02
    assert asked == [WARM, WARM + TIMED]
    monkeypatch.setattr(measured, "ENOUGH_S", 0.01)
    assert iteration_seconds(linear(), task, TrainConfig()) >= 0.01
    assert asked[2:] == [WARM]
