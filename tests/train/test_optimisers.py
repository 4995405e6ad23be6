"""Optimisers: one update of each against its formula, and what weight decay acts on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tersa.errors import UsageError
from tersa.train.config import CHOICES, TrainConfig
from tersa.train.optimisers import FACTORIES, build, parameter_groups, set_rate_

RATE, MOMENTUM, DECAY = 0.1, 0.8, 0.01
TOLERANCE = 1e-6
"""Float32 updates of numbers near 1."""


def second_update(optimizer: str, **settings: object) -> tuple[float, float, float, float]:
    """Weight before and after two updates with gradients 0.5 and -0.25: (w0, w2, g1, g2)."""
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.7)
    config = TrainConfig.model_validate({"optimizer": optimizer, "learning_rate": RATE, **settings})
    updater = build(config, module)
    for gradient in (0.5, -0.25):
        module.weight.grad = torch.full((1, 1), gradient)
        updater.step()
    return 0.7, module.weight.item(), 0.5, -0.25


def test_there_is_a_factory_for_every_name() -> None:
    assert set(FACTORIES) == set(CHOICES["optimizer"])


def test_sgd() -> None:
    w0, w2, g1, g2 = second_update("sgd")
    assert w2 == pytest.approx(w0 - RATE * (g1 + g2), abs=TOLERANCE)


def test_momentum() -> None:
    w0, w2, g1, g2 = second_update("momentum", momentum=MOMENTUM)
    assert w2 == pytest.approx(w0 - RATE * g1 - RATE * (MOMENTUM * g1 + g2), abs=TOLERANCE)


def test_nesterov_looks_ahead() -> None:
    w0, w2, g1, g2 = second_update("nesterov", momentum=MOMENTUM)
    v2 = MOMENTUM * g1 + g2
    wanted = w0 - RATE * (g1 + MOMENTUM * g1) - RATE * (g2 + MOMENTUM * v2)
    assert w2 == pytest.approx(wanted, abs=TOLERANCE)


def test_adagrad_divides_by_the_root_of_all_squares() -> None:
    w0, w2, g1, g2 = second_update("adagrad")
    assert w2 == pytest.approx(w0 - RATE * (1 + g2 / math.hypot(g1, g2)), abs=TOLERANCE)


def test_adam_corrects_its_means() -> None:
    w0, w2, g1, g2 = second_update("adam")
    mean = (0.9 * 0.1 * g1 + 0.1 * g2) / (1 - 0.9**2)
    square = (0.999 * 0.001 * g1**2 + 0.001 * g2**2) / (1 - 0.999**2)
    assert w2 == pytest.approx(w0 - RATE * (1 + mean / math.sqrt(square)), abs=TOLERANCE)


def test_adamw_takes_the_decay_off_the_weight() -> None:
    plain, decayed = second_update("adam")[1], second_update("adamw", weight_decay=DECAY)[1]
    first = 0.7 * (1 - RATE * DECAY) - RATE
    assert decayed == pytest.approx(first * (1 - RATE * DECAY) + (plain - (0.7 - RATE)), abs=TOLERANCE)


def test_adadelta_needs_no_rate_of_its_own_size() -> None:
    w0, w2, g1, g2 = second_update("adadelta", learning_rate=1.0)
    rho, eps = 0.9, 1e-6
    s1 = (1 - rho) * g1**2
    d1 = math.sqrt(eps) / math.sqrt(s1 + eps) * g1
    s2 = rho * s1 + (1 - rho) * g2**2
    d2 = math.sqrt((1 - rho) * d1**2 + eps) / math.sqrt(s2 + eps) * g2
    assert w2 == pytest.approx(w0 - d1 - d2, abs=TOLERANCE)


def test_lbfgs_solves_a_quadratic_in_a_few_updates() -> None:
    scale, goal = torch.tensor([1.0, 20.0]), torch.tensor([3.0, -2.0])
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(2))
    updater = build(TrainConfig(optimizer="lbfgs"), module)

    def closure() -> float:
        updater.zero_grad()
        loss = (scale * (module.w - goal) ** 2).sum()
        loss.backward()
        return float(loss.detach())

    for _ in range(3):
        updater.step(closure)
    torch.testing.assert_close(module.w.detach(), goal, rtol=0, atol=1e-4)


def test_decay_spares_biases_and_normalisation(network: Callable[[], nn.Module]) -> None:
    module = network()
    decayed, spared = parameter_groups(module, DECAY)
    assert decayed["weight_decay"] == DECAY
    assert spared["weight_decay"] == 0
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 1, 3, 3), (3, 144)]
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(spared["params"]) == 4


def test_frozen_parameters_are_left_out_and_none_left_is_refused(network: Callable[[], nn.Module]) -> None:
    module = network()
    module[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(module, 0.0)) == 4
    module.requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameters"):
        build(TrainConfig(), module)


def test_the_rate_is_set_in_every_group(network: Callable[[], nn.Module]) -> None:
    updater = build(TrainConfig(weight_decay=DECAY), network())
    set_rate_(updater, 0.123)
    assert [group["lr"] for group in updater.param_groups] == [0.123, 0.123]
