"""The curvature of single weights against the Hessian itself, and against the estimator that it replaces."""

import itertools

import pytest
import torch
from tests.prune.networks import fill
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.prune.filters import curvature

CLASSES, IMAGES = 3, 6

EXACT = {"rtol": 2e-4, "atol": 1e-6}
"""float32, second derivatives by two routes."""


def network() -> nn.Module:
    """Piecewise linear in each weight: two convolutions, one of them grouped, and two dense layers."""
    return fill(
        nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 2, stride=1, groups=2), nn.ReLU(inplace=True), nn.Flatten()),
            *(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, CLASSES)),
        )
    )


def part() -> tuple[Tensor, Tensor]:
    x = 2 * torch.sin(1.3 * torch.arange(IMAGES * 2 * 16, dtype=torch.float32)).view(IMAGES, 2, 4, 4)
    return x, torch.arange(IMAGES) % CLASSES


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() > 1]


def gradient(model: nn.Module) -> Tensor:
    x, labels = part()
    cost = F.cross_entropy(model(x), labels, reduction="sum")
    parts = torch.autograd.grad(cost, weights(model), create_graph=True)
    return torch.cat([g.reshape(-1) for g in parts])


def hessian_diagonal(model: nn.Module) -> Tensor:
    """Second derivatives one weight after the other."""
    flat, found = gradient(model), []
    for index in range(len(flat)):
        rows = torch.autograd.grad(flat[index], weights(model), retain_graph=True)
        found.append(torch.cat([row.reshape(-1) for row in rows])[index])
    return torch.stack(found)


def estimate(model: nn.Module, probes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = curvature(model, weights(model), iter([part()]), probes=probes, generator=generator)
    return torch.cat([one.reshape(-1) for one in found if one is not None])


def hutchinson(model: nn.Module, probes: int, seed: int = 0) -> Tensor:
    """mean of v * (H v), v of random signs over all weights."""
    generator = torch.Generator().manual_seed(seed)
    flat = gradient(model)
    total = torch.zeros_like(flat)
    for _ in range(probes):
        v = 2.0 * torch.randint(2, flat.shape, generator=generator) - 1.0
        rows = torch.autograd.grad(flat @ v, weights(model), retain_graph=True)
        total += v * torch.cat([row.reshape(-1) for row in rows]) / probes
    return total


def test_mean_over_all_signs_is_the_diagonal_of_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sign vector once instead of random ones: the expectation, exactly."""
    model = network()
    every = torch.tensor(list(itertools.product((0, 1), repeat=CLASSES)))
    monkeypatch.setattr(torch, "randint", lambda _, shape, **__: every.expand(shape))
    found = estimate(model, probes=2**CLASSES)
    expected = hessian_diagonal(model).detach()
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, **EXACT)


def test_never_negative_and_closer_than_hutchinson_with_many_probes() -> None:
    model = network()
    expected = hessian_diagonal(model).detach()
    ours = torch.stack([estimate(model, 1, seed) for seed in range(10)])
    theirs = torch.stack([hutchinson(model, 16, seed) for seed in range(10)])
    assert float(ours.min()) >= 0
    assert float(theirs.min()) < 0
    assert float((ours - expected).norm()) < float((theirs - expected).norm())
