"""LSQ: values are those of the symmetric quantiser, gradients equal autograd's and the paper's cases."""

import math

import pytest
import torch

from tersa.quant.learned import gradient_scale, initial_step, lsq, lsq_gradient, step_bounds
from tersa.quant.quantiser import fake_quantise, measure, quantise
from tersa.quant.spec import QuantSpec

V = 1.7 * torch.sin(torch.arange(120) * 0.7 + 0.1).view(12, 10) ** 3
UPSTREAM = torch.cos(torch.arange(120.0)).view(12, 10)
SUM_ROUNDING = 1e-5
"""Of a float32 sum of 120 terms up to q = 127 in another order, relative."""


def learned(bits: int) -> QuantSpec:
    return QuantSpec(kind="symmetric", bits=bits, range="learned", storage="latent")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("step", [0.013, 0.25, 1.0])
def test_values_are_the_symmetric_quantisers(bits: int, step: float) -> None:
    s = torch.tensor(step)
    found = quantise(V, learned(bits), bounds=step_bounds(s, bits))
    assert torch.equal(lsq(V, s, bits), found.values)
    q = 2 ** (bits - 1) - 1
    by_paper = torch.round((V / s).clamp(-q, q)) * s
    torch.testing.assert_close(found.values, by_paper, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("step", [0.013, 0.25, 1.0])
def test_closed_form_gradients_are_autograds(bits: int, step: float) -> None:
    v, s = V.clone().requires_grad_(), torch.tensor(step, requires_grad=True)
    by_autograd = torch.autograd.grad((lsq(v, s, bits) * UPSTREAM).sum(), [v, s])
    by_hand = lsq_gradient(UPSTREAM, V, s.detach(), bits)
    torch.testing.assert_close(by_hand[0], by_autograd[0])  # autograd has / s and * s, which round
    torch.testing.assert_close(by_hand[1], by_autograd[1], rtol=SUM_ROUNDING, atol=SUM_ROUNDING)


def test_the_papers_three_cases() -> None:
    """Equation 3 with q = 1 and N = 1: -v/s + round(v/s) inside, -q and q outside."""
    one = torch.tensor(1.0)
    for v, slope in [(0.3, -0.3), (0.75, 0.25), (-0.75, -0.25), (3.0, 1.0), (-3.0, -1.0)]:
        grad_v, grad_step = lsq_gradient(torch.ones(1), torch.tensor([v]), one, 2)
        assert grad_step == pytest.approx(slope)
        assert grad_v == (1 if abs(v) <= 1 else 0)


def test_the_gradient_scale() -> None:
    assert gradient_scale(V, 3) == pytest.approx(1 / math.sqrt(120 * 3))
    (one,) = {
        float(lsq_gradient(torch.ones(n), torch.full((n,), 9.0), V.new_ones(()), 2)[1]) / n**0.5 for n in (4,)
    }
    assert one == pytest.approx(1.0), "n elements at the end pull with n / sqrt(n q)"


def test_the_step_ends_where_the_error_is_least() -> None:
    """Descent on the squared error of 3 bits beats the layer's range, as the paper argues."""
    v = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    step = initial_step(v, 3)
    for _ in range(300):
        grad = 2 * (lsq(v, step, 3) - v) / len(v)
        step = step - 2.0 * lsq_gradient(grad, v, step, 3)[1]
    error = float((lsq(v, step, 3) - v).square().mean())
    layer = quantise(v, QuantSpec(kind="symmetric", bits=3)).values
    assert error < 0.5 * float((layer - v).square().mean())
    for other in (0.97, 1.03):
        assert float((lsq(v, step * other, 3) - v).square().mean()) > error


@pytest.mark.parametrize("bits", [2, 5])
def test_the_start(bits: int) -> None:
    q = 2 ** (bits - 1) - 1
    step = initial_step(V, bits)
    torch.testing.assert_close(step, 2 * V.abs().mean() / math.sqrt(q))
    assert measure(V, learned(bits))[1] == q * step
    assert torch.equal(fake_quantise(V, learned(bits)), lsq(V, step, bits))


def test_all_zeros_start_with_a_step_that_can_move() -> None:
    assert initial_step(torch.zeros(5), 3) == torch.tensor(1 / 3)


def test_a_step_of_zero_gives_zeros_and_no_nan() -> None:
    v, zero = V.clone().requires_grad_(), torch.tensor(0.0, requires_grad=True)
    values = lsq(v, zero, 3)
    assert not values.any()
    grads = torch.autograd.grad((values * UPSTREAM).sum(), [v, zero])
    by_hand = lsq_gradient(UPSTREAM, V, zero.detach(), 3)
    assert all(torch.equal(a, b) for a, b in zip(grads, by_hand, strict=True))
    assert by_hand[1] == 0
