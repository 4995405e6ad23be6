"""Binary and ternary weights against XNOR-Net's and TWN's formulas."""

import pytest
import torch

from tersa.quant.quantiser import measure, quantise
from tersa.quant.signs import TERNARY_SHARE
from tersa.quant.spec import QuantSpec

X = torch.tensor([[-1.0, 0.0, 0.5, 0.1], [3.0, -0.1, -1.9, 1.0]])
ONE = torch.tensor(1.0)


def test_binary_layer_is_xnor_net() -> None:
    """a = mean |x| and sign(0) = +1: the scale with the least squared error."""
    spec = QuantSpec(kind="binary")
    found = quantise(X, spec)
    a = float(X.abs().mean())
    torch.testing.assert_close(found.values, a * torch.tensor([[-1.0, 1, 1, 1], [1, -1, -1, 1]]))
    assert found.codes.tolist() == [[0, 1, 1, 1], [1, 0, 0, 1]]
    best = float((found.values - X).square().sum())
    for factor in (0.99, 1.01):
        bounds = (torch.tensor(-a * factor), torch.tensor(a * factor))
        assert float((quantise(X, spec, bounds=bounds).values - X).square().sum()) > best


def test_binary_channel_has_a_scale_per_row() -> None:
    low, high = measure(X, QuantSpec(kind="binary", range="channel"))
    torch.testing.assert_close(high, torch.tensor([0.4, 1.5]))
    torch.testing.assert_close(low, -high)


@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_global_takes_the_end_of_the_range(kind: str) -> None:
    spec = QuantSpec.model_validate({"kind": kind, "range": "global", "low": -0.25, "high": 2.0})
    assert quantise(X, spec).values.abs().max() == 2


def test_binary_connects_hard_sigmoid() -> None:
    """p(+a) = clip((x / a + 1) / 2, 0, 1): 0, 0.25, 0.5, 1, 1 here."""
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0, 7.0])
    spec = QuantSpec(kind="binary", range="global", rounding="stochastic")
    for u, expected in [
        (0.0, [-1, 1, 1, 1, 1]),
        (0.249, [-1, 1, 1, 1, 1]),
        (0.25, [-1, -1, 1, 1, 1]),
        (0.5, [-1, -1, -1, 1, 1]),
        (1 - 2**-24, [-1, -1, -1, 1, 1]),
    ]:
        assert quantise(x, spec, uniform=torch.full((5,), u)).values.tolist() == expected


def test_ternary_layer_is_twn() -> None:
    """mean |x| is 0.95, so 0.665 is the threshold, and 1, 3, 1.9, 1 are above it."""
    found = quantise(X, QuantSpec(kind="ternary"))
    a = (1 + 3 + 1.9 + 1) / 4
    torch.testing.assert_close(found.values, a * torch.tensor([[-1.0, 0, 0, 0], [1, 0, -1, 1]]))
    assert pytest.approx(0.665) == TERNARY_SHARE * 0.95


def test_ternary_channels_have_their_own_thresholds() -> None:
    """Row 1: mean 0.4, threshold 0.28, a = 0.75; row 2: mean 1.5, threshold 1.05, a = 2.45."""
    found = quantise(X, QuantSpec(kind="ternary", range="channel"))
    expected = torch.tensor([[-0.75, 0, 0.75, 0], [2.45, 0, -2.45, 0]])
    torch.testing.assert_close(found.values, expected)


def test_ternary_global_is_symmetric_with_two_bits() -> None:
    x = torch.sin(torch.arange(200.0)) * 1.5
    ternary = quantise(x, QuantSpec(kind="ternary", range="global"))
    symmetric = quantise(x, QuantSpec(kind="symmetric", bits=2, range="global"))
    assert torch.equal(ternary.values, symmetric.values)
    assert torch.equal(ternary.codes, symmetric.codes)


def test_ternary_stochastic_is_between_neighbours() -> None:
    x = torch.tensor([-0.75, -0.25, 0.0, 0.5])
    spec = QuantSpec(kind="ternary", range="global", rounding="stochastic")
    for u, expected in [(0.0, [0, 0, 0, 1]), (0.5, [-1, 0, 0, 0]), (0.8, [-1, -1, 0, 0])]:
        assert quantise(x, spec, uniform=torch.full((4,), u)).values.tolist() == expected


def test_means_are_exact_for_equal_magnitudes() -> None:
    """The scale of 100,003 values +-0.1 is 0.1 to the bit: a snapped layer keeps its scale for ever."""
    x = torch.where(torch.arange(100_003) % 3 == 0, 0.1, -0.1)
    for kind in ("binary", "ternary"):
        assert torch.equal(quantise(x, QuantSpec.model_validate({"kind": kind})).values, x)
