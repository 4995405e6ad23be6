"""Powers of two: their levels, and nearest in value."""

import pytest
import torch

from tersa.quant.quantiser import levels, quantise
from tersa.quant.spec import QuantSpec

ENDS = (torch.tensor(-1.0), torch.tensor(0.5))


def test_levels_of_three_bits() -> None:
    found = levels(QuantSpec(kind="power-of-two", bits=3), *ENDS)
    assert found.tolist() == [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_exact_powers_times_the_range(bits: int) -> None:
    a = torch.tensor(0.7)
    found = levels(QuantSpec(kind="power-of-two", bits=bits), -a, a)
    count = 2 ** (bits - 1) - 1
    exact = torch.tensor([float(a) * 2.0**-k for k in reversed(range(count))])
    assert torch.equal(found[count + 1 :], exact)
    assert torch.equal(found, -found.flip(0))
    assert bool((found.diff() > 0).all()), "all levels differ, down to 0.7 times 2^-126"


def test_nearest_in_value_with_ties_to_the_smaller_magnitude() -> None:
    x = torch.tensor([0.12, 0.125, 0.13, 0.375, 0.38, 0.75, 0.76, 9.0])
    spec = QuantSpec(kind="power-of-two", bits=3)
    expected = torch.tensor([0, 0, 0.25, 0.25, 0.5, 0.5, 1, 1])
    assert torch.equal(quantise(x, spec, bounds=ENDS).values, expected)
    assert torch.equal(quantise(-x, spec, bounds=ENDS).values, -expected)
    assert quantise(-x, spec, bounds=ENDS).codes.tolist() == [0, 0, -1, -1, -2, -2, -3, -3]


def test_two_bits_are_ternary() -> None:
    x = torch.sin(torch.arange(100.0))
    power = quantise(x, QuantSpec(kind="power-of-two", bits=2, range="global"))
    assert torch.equal(power.values, quantise(x, QuantSpec(kind="ternary", range="global")).values)


def test_stochastic_between_neighbours() -> None:
    """0.3 is a fifth of the way from 0.25 to 0.5."""
    x = torch.tensor([0.3, -0.3, 0.5])
    spec = QuantSpec(kind="power-of-two", bits=3, rounding="stochastic")
    for u, expected in [(0.19, [0.5, -0.5, 0.5]), (0.21, [0.25, -0.25, 0.5])]:
        assert quantise(x, spec, bounds=ENDS, uniform=torch.full((3,), u)).values.tolist() == expected


def test_no_range_gives_zeros() -> None:
    zero = torch.tensor(0.0)
    found = quantise(torch.tensor([-1.0, 2.0]), QuantSpec(kind="power-of-two"), bounds=(zero, zero))
    assert not found.values.any()
    assert not found.codes.any()
