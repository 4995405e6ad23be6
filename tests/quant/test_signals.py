"""Hidden outputs and gradients with few bits, each run of a stack by its own."""

import pytest
import torch

from tersa.errors import UsageError
from tersa.quant.quantiser import quantise
from tersa.quant.rounding import uniform_like
from tersa.quant.signals import gradient_quantiser, hidden_quantiser, state_quantiser
from tersa.quant.spec import QuantSpec

STACK = torch.sin(torch.arange(3 * 8 * 5) * 0.7).view(3, 8, 5) * torch.tensor([1.0, 0.01, 30.0]).view(3, 1, 1)
BITS = torch.tensor([1, 3, 8])


def test_hidden_outputs_are_asymmetric_from_zero() -> None:
    """ReLU outputs reach 0, so each run is the asymmetric quantiser on [0, max]."""
    h = STACK.relu()
    found = hidden_quantiser(BITS)(h)
    for run, bits in enumerate(BITS.tolist()):
        spec = QuantSpec(kind="asymmetric", bits=bits)
        torch.testing.assert_close(found[run], quantise(h[run], spec).values, rtol=2e-7, atol=0)
        assert len(found[run].unique()) <= 2**bits
        assert found[run].max() == h[run].max()


def test_hidden_gradient_passes() -> None:
    h = STACK.clone().requires_grad_()
    upstream = torch.cos(torch.arange(120.0)).view(3, 8, 5)
    (grad,) = torch.autograd.grad((hidden_quantiser(BITS)(h) * upstream).sum(), h)
    assert torch.equal(grad, upstream * (STACK >= 0))


def test_states_are_symmetric_and_pass_the_gradient() -> None:
    h = STACK.clone().requires_grad_()
    upstream = torch.cos(torch.arange(120.0)).view(3, 8, 5)
    found = state_quantiser(torch.tensor([2, 0, 8]))(h)
    assert torch.equal(found[0], quantise(STACK[0], QuantSpec(kind="symmetric", bits=2)).values)
    assert torch.equal(found[1], STACK[1])
    (grad,) = torch.autograd.grad((found * upstream).sum(), h)
    assert torch.equal(grad, upstream)


def test_gradients_are_symmetric_per_run() -> None:
    found = gradient_quantiser(torch.tensor([2, 3, 8]))(STACK)
    for run, bits in enumerate([2, 3, 8]):
        assert torch.equal(found[run], quantise(STACK[run], QuantSpec(kind="symmetric", bits=bits)).values)


def test_gradients_stochastic() -> None:
    draws = torch.stack([uniform_like(STACK[0], seed=4, tensor=run) for run in range(3)])
    found = gradient_quantiser(torch.tensor([2, 3, 8]), lambda *shape: draws.view(3, *shape))(STACK)
    for run, bits in enumerate([2, 3, 8]):
        spec = QuantSpec(kind="symmetric", bits=bits, rounding="stochastic")
        assert torch.equal(found[run], quantise(STACK[run], spec, uniform=draws[run]).values)


@pytest.mark.parametrize("make", [hidden_quantiser, gradient_quantiser])
def test_no_bits_no_change_and_runs_do_not_mix(make) -> None:
    x = STACK.abs()
    x[1, 0, 0] = float("nan")
    found = make(torch.tensor([0, 4, 4]))(x)
    assert torch.equal(found[0], x[0])
    assert bool(found[1].isnan().any())
    assert torch.equal(found[2], make(torch.tensor([4]))(x[2:])[0]), "stacked or alone, the same numbers"


@pytest.mark.parametrize("make", [hidden_quantiser, gradient_quantiser])
def test_all_zeros_stay_zeros(make) -> None:
    assert not make(torch.tensor([3, 0]))(torch.zeros(2, 4, 3)).any()


@pytest.mark.parametrize("make", [hidden_quantiser, gradient_quantiser])
def test_convolutional_shapes(make) -> None:
    x = STACK.abs().view(3, 2, 4, 5, 1)
    bits = torch.tensor([4, 2, 8])
    assert torch.equal(make(bits)(x).view(3, 8, 5), make(bits)(STACK.abs()))


@pytest.mark.parametrize(
    ("make", "bits", "words"),
    [
        (hidden_quantiser, [9, 2], r"activation bits are \[9\]"),
        (gradient_quantiser, [1, 2], r"gradient bits are \[1\]"),
        (gradient_quantiser, [[2]], "one number per run"),
    ],
)
def test_other_bits_are_refused(make, bits: list, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make(torch.tensor(bits))
