"""Costs between measured points, and what a damaged table says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersa.adapt.grid import Grid, axis, widths
from tersa.errors import DataError

PLANE = {(i, o): 2.0 * i + 3.0 * o + 0.5 * i * o for i in (1, 4, 16) for o in (2, 8, 10)}


@given(st.integers(1, 16), st.integers(2, 10))
def test_bilinear_costs_are_given_exactly(inputs: int, outputs: int) -> None:
    found = Grid("plane", PLANE).at(inputs, outputs)
    assert found.value == pytest.approx(2.0 * inputs + 3.0 * outputs + 0.5 * inputs * outputs)
    assert found.exact == ((inputs, outputs) in PLANE)


def test_steps_of_the_machine_are_kept() -> None:
    """A table need not rise: 16 channels may be cheaper than 15."""
    grid = Grid("steps", {(1, 8): 1.0, (1, 15): 5.0, (1, 16): 2.0})
    assert grid.at(1, 16).value == 2.0
    assert grid.at(1, 15).value == 5.0


def test_asking_again_gives_the_same_and_is_not_taken_for_measured() -> None:
    grid = Grid("plane", PLANE)
    assert grid.at(3, 3) == grid.at(3, 3)
    assert not grid.at(3, 3).exact


def test_rows_of_different_lengths() -> None:
    """A row that does not reach so many output channels is passed over for the next one."""
    grid = Grid("ragged", {(1, 1): 1.0, (2, 1): 2.0, (2, 8): 9.0, (4, 1): 4.0})
    assert grid.at(1, 8).value == 9.0
    assert grid.at(2, 8).value == 9.0
    with pytest.raises(DataError, match="a hole: nothing was measured at or beyond 3 to 8 channels"):
        grid.at(3, 8)


def test_square_layers_lie_on_a_line() -> None:
    """Between its points, not at the next one: there is nothing beside the line to lean on."""
    grid = Grid("relu", {(64, 64): 1.0, (128, 128): 2.0})
    assert grid.at(65, 65).value == pytest.approx(1.0 + 1 / 64)
    assert grid.at(96, 96).value == pytest.approx(1.5)
    with pytest.raises(DataError, match="a hole"):
        grid.at(129, 129)


def test_rows_of_another_network_that_begin_above_are_passed_over() -> None:
    """Two networks share a table: a last layer of 10 classes and one of 100, by other numbers of inputs."""
    own = {(i, 10): i * 10 / 1000 for i in (1, 64, 128, 192, 256)}
    other = {(i, 100): i * 100 / 1000 for i in (1, 48, 96, 144, 160, 256)}
    shared, alone = Grid("shared", own | other), Grid("alone", own)
    for inputs in (32, 96, 100, 150, 160, 200):
        assert shared.at(inputs, 10) == alone.at(inputs, 10)
    assert shared.at(96, 100).exact
    assert Grid("wide", other).at(96, 10).value == 9.6  # nothing narrower anywhere


def test_below_the_narrowest_costs_as_much() -> None:
    assert Grid("one", {(4, 4): 2.0, (8, 8): 3.0}).at(1, 1).value == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_cost_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="holds no number at 1 to 2 channels"):
        Grid("bad", {(1, 2): value})


@given(st.integers(1, 5000))
def test_every_width_that_is_tried_is_measured_or_enclosed(most: int) -> None:
    tried, measured = widths(most), axis(most)
    assert tried[-1] == measured[-1] == most
    assert tried[0] == measured[0] == 1
    assert tried == sorted(set(tried))
    assert len(measured) <= 25
    assert all(width % 8 == 0 or width < 8 or width == most for width in tried if most >= 32)
