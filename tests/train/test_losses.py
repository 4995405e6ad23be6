"""Losses against their definitions, gradients against their closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.train.config import TrainConfig
from tersa.train.losses import (
    cross_entropy,
    document_distillation,
    objective,
    soft_cross_entropy,
    temperature_distillation,
)

N, K = 5, 4
EXACT = 1e-12
"""Float64 sums of twenty terms."""


def logits(phase: float) -> Tensor:
    return 2 * torch.sin(torch.arange(N * K, dtype=torch.float64) * 1.3 + phase).reshape(N, K)


LABELS = torch.arange(N) % K
TEACHER = logits(0.4)
SMOOTHING, WEIGHT, HEAT = 0.1, 0.7, 3.0


def target() -> Tensor:
    one_hot = torch.nn.functional.one_hot(LABELS, K).double()
    return (1 - SMOOTHING) * one_hot + SMOOTHING / K


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z)[0]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=EXACT)


def test_cross_entropy() -> None:
    z = logits(0).requires_grad_()
    p = torch.softmax(z, 1)
    loss = cross_entropy(z, LABELS, SMOOTHING)
    close(loss, -(target() * p.log()).sum(1).mean())
    close(gradient(loss, z), (p - target()) / N)


def test_document_form() -> None:
    z = logits(0).requires_grad_()
    p, q = torch.softmax(z, 1), torch.softmax(TEACHER, 1)
    loss = document_distillation(z, LABELS, TEACHER, WEIGHT, SMOOTHING)
    close(loss, -(target() * p.log()).sum(1).mean() - WEIGHT * (q * p.log()).sum(1).mean())
    close(gradient(loss, z), ((p - target()) + WEIGHT * (p - q)) / N)


def test_temperature_form() -> None:
    z = logits(0).requires_grad_()
    p, hot, warm = torch.softmax(z, 1), torch.softmax(z / HEAT, 1), torch.softmax(TEACHER / HEAT, 1)
    loss = temperature_distillation(z, LABELS, TEACHER, WEIGHT, HEAT, SMOOTHING)
    divergence = (warm * (warm.log() - hot.log())).sum(1).mean()
    hard = -(target() * p.log()).sum(1).mean()
    close(loss, (1 - WEIGHT) * hard + WEIGHT * HEAT**2 * divergence)
    close(gradient(loss, z), ((1 - WEIGHT) * (p - target()) + WEIGHT * HEAT * (hot - warm)) / N)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(label_smoothing=SMOOTHING),
        TrainConfig(distillation="document", distillation_weight=WEIGHT),
        TrainConfig(distillation="temperature", distillation_weight=WEIGHT, distillation_temperature=HEAT),
    ],
)
def test_gradients_agree_with_finite_differences(config: TrainConfig) -> None:
    loss = objective(config)
    z = logits(1.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, LABELS, TEACHER), (z,))


@pytest.mark.parametrize("form", ["document", "temperature"])
def test_no_gradient_goes_to_the_teacher(form: str) -> None:
    loss = objective(TrainConfig.model_validate({"distillation": form}))
    z, teacher = logits(0).requires_grad_(), logits(0.4).requires_grad_()
    loss(z, LABELS, teacher).backward()
    assert teacher.grad is None
    assert z.grad is not None


def test_soft_cross_entropy_is_least_where_student_and_teacher_agree() -> None:
    assert soft_cross_entropy(TEACHER, TEACHER) < soft_cross_entropy(TEACHER + logits(2), TEACHER)
    z = TEACHER.clone().requires_grad_()
    close(gradient(soft_cross_entropy(z, TEACHER), z), torch.zeros(N, K, dtype=torch.float64))


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        objective(TrainConfig(distillation="document"))(logits(0), LABELS, None)
