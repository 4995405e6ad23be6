"""Statistics of rounds on made-up numbers: closed forms, coverage, and equal sides that stay equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.targets.statistics import BLOCK, PLACEMENT, blocks, both_orders, compare_rounds, summarise

STARTS = (30, 30, 30, 30)


def noisy(seed: int, centre: float, rounds: int = 120) -> np.ndarray:
    """Times as machines give them: skewed, with bursts that last a few rounds."""
    rng = np.random.default_rng(seed)
    times = centre * (1.0 + 0.02 * rng.gamma(2.0, 1.0, rounds))
    for start in rng.integers(0, rounds, 4):
        times[start : start + 5] *= 1.5
    return times


def test_quantiles_outliers_and_drift_in_closed_form() -> None:
    times = np.array([1.0] * 10 + [1.1] * 10 + [2.0] * 10)
    found = summarise(times)
    assert found.quantiles.median == 1.1
    assert (found.quantiles.p10, found.quantiles.p90) == (1.0, 2.0)
    assert found.drift == 2.0
    assert found.outliers == 10  # 2.0 > 1.1 + 3 x 0.1
    assert found.low <= 1.1 <= found.high


def test_constant_times_have_no_width() -> None:
    found = summarise(np.full(30, 0.5))
    assert (found.low, found.high, found.outliers, found.drift) == (0.5, 0.5, 0, 1.0)


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "faster"), (0.5, "slower"), (1.0, "no difference")])
def test_verdicts(factor: float, verdict: str) -> None:
    before = noisy(1, 3.0)
    found = compare_rounds(before, before / factor)
    assert found.verdict == verdict
    assert found.speedup == pytest.approx(factor)
    assert found.low == pytest.approx(factor * (1 - PLACEMENT))
    assert found.high == pytest.approx(factor * (1 + PLACEMENT))


def test_what_disturbs_both_sides_alike_cancels() -> None:
    load = np.repeat([1.0, 3.0, 1.0, 2.0], 30)
    found = compare_rounds(2.2 * load, 2.0 * load)
    assert found.verdict == "faster"
    assert found.speedup == pytest.approx(1.1)


def test_a_side_that_is_slower_when_it_runs_first_is_not_slower() -> None:
    first, second = np.tile([1.2, 1.0], 30), np.tile([1.0, 1.2], 30)
    found = compare_rounds(first, second)
    assert (found.verdict, found.speedup) == ("no difference", pytest.approx(1.0))
    assert found.high == pytest.approx(1 + PLACEMENT)


def test_equal_sides_nearly_never_differ() -> None:
    verdicts = [compare_rounds(noisy(2 * i, 1.0), noisy(2 * i + 1, 1.0)).verdict for i in range(200)]
    assert verdicts.count("no difference") >= 198


def test_a_placement_effect_is_no_difference() -> None:
    shifted = [compare_rounds(noisy(2 * i, 1.011), noisy(2 * i + 1, 1.0)).verdict for i in range(50)]
    assert shifted.count("no difference") >= 48


def test_a_tenth_is_found() -> None:
    verdicts = [compare_rounds(noisy(2 * i, 1.1), noisy(2 * i + 1, 1.0)).verdict for i in range(50)]
    assert verdicts.count("faster") >= 48


def started(seed: int, factor: float, spread: float = 0.019) -> tuple[np.ndarray, np.ndarray]:
    """Four starts of two sides; every process is a little faster or slower for as long as it lives."""
    rng = np.random.default_rng(seed)
    own = np.exp(rng.normal(0.0, spread / np.sqrt(2), (2, 4)))
    before, after = (np.concatenate([noisy(8 * seed + i, x, 30) for i, x in enumerate(side)]) for side in own)
    return before * factor, after


def test_starts_that_differ_widen_the_interval() -> None:
    found = [compare_rounds(*started(seed, 1.0), STARTS).verdict for seed in range(300)]
    assert 0.90 <= found.count("no difference") / 300 <= 0.99  # 95 % by Student's interval
    tenth = [compare_rounds(*started(seed, 1.1), STARTS).verdict for seed in range(100)]
    assert tenth.count("faster") >= 90


def test_starts_in_closed_form() -> None:
    before, after = np.repeat([1.0, 1.1, 1.2, 1.3], 30), np.ones(120)
    found = compare_rounds(before, after, STARTS)
    logs = np.log([1.0, 1.1, 1.2, 1.3])
    level, half = logs.mean(), 4.302653 * np.sqrt(((logs[:2] - logs[2:]) ** 2).sum() / 2 / 2 / 4)
    assert found.speedup == pytest.approx(np.exp(level))
    assert (found.low, found.high) == pytest.approx(np.exp([level - half, level + half]))
    three = compare_rounds(before[:90], after[:90], (30, 30, 30))
    half = 4.302653 * logs[:3].std(ddof=1) / np.sqrt(3)
    assert (three.low, three.high) == pytest.approx(np.exp([logs[:3].mean() - half, logs[:3].mean() + half]))
    assert compare_rounds(before[:60], after[:60], (30, 30)) == compare_rounds(before[:60], after[:60])


@pytest.mark.parametrize("count", [4, 5, 6])
def test_what_alternates_from_start_to_start_is_no_noise(count: int) -> None:
    """The sides swap their memory: a fifth slower there, at every other start the one or the other."""
    own = 1.1 * np.array([1.2, 1 / 1.2] * 3)[:count]
    found = compare_rounds(np.repeat(own, 20), np.ones(20 * count), (20,) * count)
    assert (found.speedup, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


@pytest.mark.parametrize("starts", [(30, 30, 30), (120, 0), (121,)])
def test_starts_must_make_the_rounds(starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not make the 120 rounds"):
        compare_rounds(np.ones(120), np.ones(120), starts)
    with pytest.raises(ValueError, match="do not make the 120 rounds"):
        summarise(np.ones(120), starts)


def test_the_interval_of_a_median_covers_what_starts_bring() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        own = np.repeat(np.exp(rng.normal(0.0, 0.019, 4)), 30)
        found = summarise(own * np.exp(rng.normal(0.0, 0.003, 120)), STARTS)
        held += found.low <= 1.0 <= found.high
    assert held >= 180  # 95 % of 200; a bootstrap over rounds covers fewer than half


def test_drift_is_that_within_starts() -> None:
    assert summarise(np.repeat([1.0, 2.0, 3.0, 4.0], 30), STARTS).drift == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=3, max_size=40), st.floats(0.2, 5.0))
def test_the_ratio_turns_round_when_the_sides_do(times: list[float], factor: float) -> None:
    before = np.array(times)
    after = before[::-1] / factor
    found, turned = compare_rounds(before, after), compare_rounds(after, before)
    assert found.low <= found.speedup <= found.high
    opposite = {"faster": "slower", "slower": "faster", "no difference": "no difference"}
    if (
        len(both_orders(before / after)) % 2
    ):  # the median of an even number is a mean of two, whose inverse is another mean
        assert turned.speedup == pytest.approx(1.0 / found.speedup)
        assert (
            turned.verdict in (opposite[found.verdict], "no difference") or found.verdict == "no difference"
        )


def test_blocks_keep_neighbours_together() -> None:
    values = np.arange(4.0 * BLOCK + 1)
    assert blocks(values).shape == (4, BLOCK)
    assert blocks(values)[0, 0] == 1.0
    assert blocks(values[:5]).shape == (5, 1)


@pytest.mark.parametrize("sizes", [(3, 4), (0, 0)])
def test_rounds_must_be_paired(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="paired rounds"):
        compare_rounds(np.ones(sizes[0]), np.ones(sizes[1]))
