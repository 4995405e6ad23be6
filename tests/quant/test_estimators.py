"""Estimators of the sign's gradient: a contract over the registry, and each one's closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.quant import fused
from tersa.quant.estimators import ESTIMATORS, quantised
from tersa.quant.steps import steps, to_odd

POINTS = torch.tensor([-2.0, -1.0, -0.75, -0.1, -0.0, 0.0, 0.2, 0.5, 1.0, 1.5])

PROGRESS = (0.0, 0.4, 1.0)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """d sum f / dx of a function that has a gradient of its own."""
    leaf = x.double().requires_grad_()
    (found,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return found.float()


def bi_real(x: Tensor) -> Tensor:
    parabola = torch.where(x < 0, 2 * x + x * x, 2 * x - x * x)
    return torch.where(x.abs() < 1, parabola, torch.sign(x))


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ste": lambda x, p: x.clamp(-1, 1),
    "approx": lambda x, p: bi_real(x),
    "swish": lambda x, p: 2 * torch.sigmoid(5 * x) * (1 + 5 * x * (1 - torch.sigmoid(5 * x))) - 1,
    "tanh": lambda x, p: max(10 ** (1 - 2 * p), 1.0) * torch.tanh(10 ** (2 * p - 1) * x),
    "dsq": lambda x, p: torch.tanh((1 + 9 * p) * x.clamp(-1, 1)) / math.tanh(1 + 9 * p),
}
"""The function that each estimator differentiates, written as in its paper."""


def test_every_estimator_has_its_closed_form_here() -> None:
    assert SURROGATES.keys() == ESTIMATORS.keys()


@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_gradient_is_the_surrogates(name: str, progress: float) -> None:
    x = POINTS.clone().requires_grad_()
    weight = torch.linspace(-1, 2, len(POINTS))
    (found,) = torch.autograd.grad((quantised(x, 1, by=name, progress=progress) * weight).sum(), x)
    expected = weight * gradient(lambda z: SURROGATES[name](z, progress), POINTS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_values_are_signs_whatever_the_estimator(name: str) -> None:
    assert quantised(POINTS, 1, by=name, progress=0.5).tolist() == [-1.0] * 4 + [1.0] * 6


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_derivative_is_finite_far_out_and_in_bfloat16(name: str) -> None:
    far = torch.tensor([-1e4, 1e4, 88.0, -88.0])
    for progress in PROGRESS:
        assert torch.isfinite(ESTIMATORS[name].derivative(far, progress)).all()
        assert ESTIMATORS[name].derivative(POINTS.bfloat16(), progress).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_sharpening_estimators_depend_on_the_progress(name: str) -> None:
    first, last = (ESTIMATORS[name].derivative(POINTS, p) for p in (0.0, 1.0))
    assert torch.equal(first, last) != ESTIMATORS[name].sharpens


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_stack_is_mapped_as_one_by_one(name: str) -> None:
    rows = torch.stack([POINTS, POINTS / 3])

    def slope(x: Tensor) -> Tensor:
        return (quantised(x, 1, by=name, progress=0.3) * POINTS).sum()

    mapped = torch.vmap(torch.func.grad(slope))(rows)
    apart = torch.stack([torch.func.grad(slope)(row) for row in rows])
    torch.testing.assert_close(mapped, apart, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_more_bits_are_straight_through_in_their_units(bits: int) -> None:
    x = POINTS.clone().requires_grad_()
    y = quantised(x, bits, by="approx" if bits > 1 else "ste")
    (found,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, to_odd(POINTS, bits))
    assert torch.equal(found, steps(bits) * (POINTS.abs() <= 1).float())


def test_an_unknown_estimator_is_refused_with_the_closest() -> None:
    with pytest.raises(UsageError, match="unknown estimator 'sign'"):
        quantised(POINTS, 1, by="sign")


def test_on_a_gpu_one_kernel_stands_for_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values and gradients whether operators or the kernels of `quant.fused` compute them."""
    x = torch.tensor([-1.5, -1.0, -0.25, -0.0, 0.0, 0.5, 1.0, 3.0])

    def levels_and_gradient(by: str) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_()
        levels = quantised(leaf, 1, by=by)
        levels.backward(torch.arange(1.0, 9.0))
        assert leaf.grad is not None
        return levels.detach(), leaf.grad

    written = {by: levels_and_gradient(by) for by in ("approx", "ste")}
    calls: list[str] = []

    def sign(x: torch.Tensor) -> torch.Tensor:
        calls.append("sign")
        return torch.where(x >= 0, 1.0, -1.0)

    def triangle(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        calls.append("triangle")
        return torch.where(x.abs() < 1, grad * (2 - 2 * x.abs()), 0.0)

    monkeypatch.setattr(fused, "usable", lambda *tensors: True)
    monkeypatch.setattr(fused, "sign", sign)
    monkeypatch.setattr(fused, "triangle", triangle)
    for by, (levels, gradient) in written.items():
        again = levels_and_gradient(by)
        assert torch.equal(again[0], levels)
        assert torch.equal(again[1], gradient)
    assert calls == ["sign", "triangle", "sign"]


def test_the_kernels_are_for_plain_tensors_on_a_gpu_alone() -> None:
    assert not fused.usable(torch.zeros(2))
    assert not fused.usable(torch.zeros(2, dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", fused.TYPES)
def test_the_kernels_give_what_the_operators_give(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(4, 8, 5, 5, generator=generator).to(dtype) for _ in range(2))
    x[0, 0, 0] = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0])
    there = [each.cuda().contiguous(memory_format=torch.channels_last) for each in (grad, x)]
    assert torch.equal(fused.sign(there[1]).cpu(), torch.where(x >= 0, 1.0, -1.0).to(dtype))
    wanted = grad.float() * ESTIMATORS["approx"].derivative(x.float(), 0.0)
    assert torch.equal(fused.triangle(*there).cpu(), wanted.to(dtype))
