"""Pulses: the exponential curve in closed form, soft bounds, limits."""

import math

import pytest
import torch

from tersa.quant.pulses import Response, pulsed

HALF = torch.tensor(2.0, dtype=torch.float64)
WEIGHTS = 1.9 * torch.sin(torch.arange(50, dtype=torch.float64))
DELTAS = 0.3 * torch.cos(3 * torch.arange(50, dtype=torch.float64))
CURVE = 1e-12
"""Absolute, float64."""


def test_linear_is_the_plain_update_bit_for_bit() -> None:
    weights, deltas = WEIGHTS.float(), 10 * DELTAS.float()
    assert torch.equal(pulsed(weights, deltas, HALF, Response()), weights + deltas)


@pytest.mark.parametrize("up", [0.0, 0.5, 3.0])
def test_equal_pulses_climb_the_curve(up: float) -> None:
    response, pulses = Response("exponential", up=up, down=9.0), 16
    w = -HALF.clone()
    for done in range(1, pulses + 1):
        w = pulsed(w, 2 * HALF / pulses, HALF, response)
        p = done / pulses
        curve = p if up == 0 else (1 - math.exp(-up * p)) / (1 - math.exp(-up))
        assert float((w + HALF) / (2 * HALF)) == pytest.approx(curve, abs=CURVE)


def test_depression_mirrors_potentiation() -> None:
    up = pulsed(WEIGHTS, DELTAS, HALF, Response("exponential", up=2.0, down=0.5))
    down = pulsed(-WEIGHTS, -DELTAS, HALF, Response("exponential", up=0.5, down=2.0))
    torch.testing.assert_close(up, -down)


def test_split_pulses_add_up() -> None:
    response = Response("exponential", up=2.0, down=4.0)
    whole = pulsed(WEIGHTS, DELTAS, HALF, response)
    half = pulsed(pulsed(WEIGHTS, DELTAS / 2, HALF, response), DELTAS / 2, HALF, response)
    torch.testing.assert_close(whole, half)


def test_unequal_answers_are_an_asymmetry() -> None:
    response = Response("exponential", up=1.0, down=5.0)
    w = torch.zeros(1, dtype=torch.float64)
    for _ in range(400):
        w = pulsed(pulsed(w, torch.tensor([0.02]), HALF, response), torch.tensor([-0.02]), HALF, response)
    q = float((w + HALF) / (2 * HALF))

    def answer(a: float, state: float) -> float:
        return a * (1 / (1 - math.exp(-a)) - state)

    assert answer(1.0, q) == pytest.approx(answer(5.0, 1 - q), rel=0.02)  # pulses of 1/200 are not nothing
    assert not 0.45 < q < 0.55


def test_straight_limit_joins_the_curve() -> None:
    below = pulsed(WEIGHTS, DELTAS, HALF, Response("exponential", up=0.99e-4, down=0.99e-4))
    above = pulsed(WEIGHTS, DELTAS, HALF, Response("exponential", up=1.01e-4, down=1.01e-4))
    torch.testing.assert_close(below, above, rtol=0, atol=1e-4 * float(DELTAS.abs().max()))


def test_soft_bounds_in_closed_form_and_never_passed() -> None:
    found = pulsed(WEIGHTS, DELTAS, HALF, Response("soft-bounds"))
    expected = WEIGHTS + DELTAS * (1 - DELTAS.sign() * WEIGHTS / HALF)
    torch.testing.assert_close(found, expected)
    far = pulsed(WEIGHTS, 100 * DELTAS, HALF, Response("soft-bounds"))
    assert float(far.abs().max()) == float(HALF)


@pytest.mark.parametrize("kind", ["soft-bounds", "exponential"])
def test_no_pulse_no_change(kind) -> None:
    found = pulsed(WEIGHTS, torch.zeros_like(WEIGHTS), HALF, Response(kind, up=1.0))
    assert torch.equal(found, WEIGHTS)
