"""The prediction follows its roofline: what limits a phase decides, nearest rates stand in."""

from __future__ import annotations

import pytest

from tersa.errors import UsageError
from tersa.models.convolution_costs import ConvolutionLayer, algorithms, cost
from tersa.models.convolution_predict import Machine, predict, predict_one

LAYER = ConvolutionLayer(128, 128, (28, 28), (3, 3), padding=1)
EVEN = {"product": 10.0, "direct": 10.0, "transform": 10.0, "fft": 10.0, "complex product": 10.0}


def test_all_that_can_are_ranked_fastest_first() -> None:
    found = predict(LAYER, Machine(EVEN, bandwidth_gbs=10.0))
    assert sorted(each.algorithm for each in found) == sorted(algorithms(LAYER))
    times = [each.milliseconds for each in found]
    assert times == sorted(times)
    assert times[0] > 0


def test_where_memory_is_free_the_fewest_operations_win() -> None:
    machine = Machine(EVEN, bandwidth_gbs=1e9)
    found = predict(LAYER, machine)
    work = {
        name: cost(LAYER, name).multiplications + cost(LAYER, name).additions for name in algorithms(LAYER)
    }
    assert [each.algorithm for each in found] == sorted(work, key=work.__getitem__)
    assert found[0].algorithm == "winograd-4"
    assert found[0].milliseconds == pytest.approx(work["winograd-4"] / 10e6)
    assert {each.bound for each in found} == {"arithmetic"}


def test_where_arithmetic_is_free_the_fewest_bytes_win() -> None:
    machine = Machine(dict.fromkeys(EVEN, 1e9), bandwidth_gbs=1.0)
    found = predict(LAYER, machine)
    moved = {name: cost(LAYER, name).bytes for name in algorithms(LAYER)}
    assert [each.algorithm for each in found] == sorted(moved, key=moved.__getitem__)
    assert found[0].algorithm == "direct"
    assert {each.bound for each in found} == {"memory"}


def test_slow_transforms_take_winograds_gain_away() -> None:
    fast = predict(LAYER, Machine(EVEN, 1e9), among=("direct", "winograd-2"))
    slow = predict(LAYER, Machine(EVEN | {"transform": 0.1}, 1e9), among=("direct", "winograd-2"))
    assert [each.algorithm for each in fast] == ["winograd-2", "direct"]
    assert [each.algorithm for each in slow] == ["direct", "winograd-2"]


def test_small_products_do_not_reach_the_rate() -> None:
    """At sides equal to h each side halves the rate."""
    layer = ConvolutionLayer(32, 32, (32, 1), (1, 1))
    whole = predict_one(layer, "im2col", Machine({"product": 10.0}, 1e9))
    half = predict_one(layer, "im2col", Machine({"product": 10.0}, 1e9, half_side=32))
    assert half.milliseconds == pytest.approx(8 * whole.milliseconds)


def test_rates_that_were_not_measured_are_the_nearest() -> None:
    machine = Machine({"product": 7.0, "transform": 2.0}, 1.0)
    assert [machine.rate(kind) for kind in ("complex product", "direct", "depthwise", "fft")] == [7, 7, 2, 2]
    assert Machine({"product": 7.0}, 1.0).rate("fft") == 7.0


@pytest.mark.parametrize("name", ["direct", "im2col", "winograd-2", "fft-16"])
def test_slow_gathering_falls_on_the_copies_alone(name: str) -> None:
    even, slow = Machine(EVEN, 10.0), Machine(EVEN, 10.0, gather_gbs=1.0)
    copied = sum(phase.bytes for phase in cost(LAYER, name).phases if phase.kind == "copy")
    apart = predict_one(LAYER, name, slow).milliseconds - predict_one(LAYER, name, even).milliseconds
    assert apart == pytest.approx(copied / 1e6 * (1 - 0.1))
    assert (copied == 0) == (name == "direct")


def test_faults_of_a_machine() -> None:
    with pytest.raises(UsageError, match="needs the rate of a matrix product; it has fft"):
        Machine({"fft": 1.0}, 1.0)
    with pytest.raises(UsageError, match="above 0"):
        Machine({"product": 1.0}, 0.0)
    with pytest.raises(UsageError, match="one group"):
        predict(ConvolutionLayer(4, 4, (8, 8), (3, 3), groups=4), Machine({"product": 1.0}, 1.0), ("fft-8",))
