"""Symmetric and asymmetric levels against their formulas, in exact fractions and in numpy."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tersa.quant.quantiser import levels, quantise
from tersa.quant.spec import QuantSpec

X = (2.2 * torch.sin(torch.arange(400) * 0.37) - 0.3) * torch.cos(torch.arange(400) * 0.011)


def ends(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(low), torch.tensor(high)


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_levels_are_the_documents(bits: int) -> None:
    """a c / q for c = -q .. q, to half an ulp twice (a division and a product)."""
    q = 2 ** (bits - 1) - 1
    found = levels(QuantSpec(kind="symmetric", bits=bits), *ends(-0.3, 0.7)).double()
    exact = [float(Fraction(float(np.float32(0.7))) * c / q) for c in range(-q, q + 1)]
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=2e-7, atol=0)
    assert found[q] == 0
    assert found[-1] == -found[0] == np.float32(0.7), "both ends are levels, exactly"


@pytest.mark.parametrize("bits", range(1, 9))
def test_asymmetric_levels_are_the_documents(bits: int) -> None:
    m = 2**bits - 1
    found = levels(QuantSpec(kind="asymmetric", bits=bits), *ends(-0.3, 0.7)).double()
    low, high = (Fraction(float(np.float32(end))) for end in (-0.3, 0.7))
    exact = [float(low + (high - low) * c / m) for c in range(m + 1)]
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-7)
    assert found[0] == np.float32(-0.3)
    assert found[-1] == np.float32(0.7), "both ends are levels, exactly"


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("a", [1.0, 0.7, 3.3e-5])
def test_symmetric_equals_numpy_bit_for_bit(bits: int, a: float) -> None:
    """The order of operations is the definition; another language that follows it gives the same bits."""
    q, end, x = np.float32(2 ** (bits - 1) - 1), np.float32(a), (X * a).numpy()
    codes = np.clip(np.rint(x * (q / end)), -q, q)
    found = quantise(X * a, QuantSpec(kind="symmetric", bits=bits), bounds=ends(-a, a / 2))
    assert np.array_equal(found.codes.numpy(), codes.astype(np.int16))
    assert np.array_equal(found.values.numpy(), codes / q * end)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.7, 1.9), (0.1, 0.11)])
def test_asymmetric_equals_numpy_bit_for_bit(bits: int, low: float, high: float) -> None:
    m, one, x = np.float32(2**bits - 1), np.float32(1), X.numpy()
    start, end = np.float32(low), np.float32(high)
    codes = np.clip(np.rint((x - start) * (m / (end - start))), 0, m)
    t = codes / m
    found = quantise(X, QuantSpec(kind="asymmetric", bits=bits), bounds=ends(low, high))
    assert np.array_equal(found.codes.numpy(), codes.astype(np.int16))
    assert np.array_equal(found.values.numpy(), start * (one - t) + end * t)


@pytest.mark.parametrize(("kind", "lowest"), [("symmetric", -3), ("asymmetric", 0)])
def test_stochastic_equals_numpy_bit_for_bit(kind: str, lowest: int) -> None:
    """f = floor(clamp(v)), code = f + (u < v - f), with q = 3 and with m = 7 on [-1, 1]."""
    highest = lowest + (6 if kind == "symmetric" else 7)
    u = torch.rand(400, generator=torch.Generator().manual_seed(1))
    scaled = (
        X.numpy() * np.float32(3) if kind == "symmetric" else (X.numpy() + np.float32(1)) * np.float32(3.5)
    )
    inside = np.clip(scaled, lowest, highest)
    codes = np.floor(inside) + (u.numpy() < inside - np.floor(inside))
    spec = QuantSpec.model_validate({"kind": kind, "bits": 3, "rounding": "stochastic"})
    found = quantise(X, spec, bounds=ends(-1.0, 1.0), uniform=u)
    assert np.array_equal(found.codes.numpy(), codes.astype(np.int16))


def test_ties_go_to_the_even_code() -> None:
    found = quantise(
        torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]),
        QuantSpec(kind="symmetric", bits=3),
        bounds=ends(-3, 3),
    )
    assert found.codes.tolist() == [-2, -2, 0, 0, 2, 2]


def test_values_outside_go_to_the_nearer_end() -> None:
    x = torch.tensor([-9.0, 9.0])
    assert quantise(x, QuantSpec(kind="symmetric", bits=4), bounds=ends(-1, 0.5)).values.tolist() == [-1, 1]
    assert quantise(x, QuantSpec(kind="asymmetric", bits=4), bounds=ends(-1, 0.5)).values.tolist() == [
        -1,
        0.5,
    ]


def test_degenerate_ranges() -> None:
    """No width, and a width below which 255 / width is past the largest float."""
    x = torch.tensor([-2.0, 0.0, 5.0])
    for width in (0.0, 1e-38, 2.0**-100):
        found = quantise(x, QuantSpec(kind="symmetric"), bounds=ends(-width, width))
        assert found.values.tolist() == [0, 0, 0]
        assert found.codes.tolist() == [0, 0, 0]
    for low, high in ((0.5, 0.5), (0.0, 1e-38)):
        found = quantise(x, QuantSpec(kind="asymmetric"), bounds=ends(low, high))
        assert found.values.tolist() == [low] * 3
        assert found.codes.tolist() == [0, 0, 0]
        assert found.levels.unique().tolist() == [low]
