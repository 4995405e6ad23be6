"""Intervals, ranks and paired tests, against scipy and by their own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tersa.study.statistics import (
    FEW_PAIRS,
    agreement,
    holm,
    interval,
    paired_test,
    ranks,
    signed_rank,
    spearman,
    student_quantile,
    student_tail,
)

CLOSE = 1e-9
"""Both sides are double precision sums of a few dozen terms."""

values = st.lists(st.integers(-20, 20), min_size=2, max_size=12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 29, 100])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, -4.0, 9.0])
def test_the_tail_is_student_s(t: float, freedom: int) -> None:
    assert student_tail(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=CLOSE)


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 60])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_the_quantile_is_student_s(freedom: int, level: float) -> None:
    expected = stats.t.ppf((1 + level) / 2, freedom)
    assert student_quantile(freedom, level) == pytest.approx(expected, rel=CLOSE)


def test_the_interval_is_the_textbook_s() -> None:
    found = interval([97.1, 97.3, 97.2, 97.4, 97.9])
    low, high = stats.t.interval(0.95, 4, found.mean, stats.sem([97.1, 97.3, 97.2, 97.4, 97.9]))
    assert (found.low, found.high) == pytest.approx((low, high), rel=CLOSE)


def test_one_seed_has_no_width() -> None:
    assert interval([42.0]) == interval([42.0, 42.0, 42.0]).__class__(42.0, 42.0, 42.0, 1)


@given(values)
def test_ranks_are_average_ranks(found: list[int]) -> None:
    assert ranks(found).tolist() == stats.rankdata(found).tolist()


@given(values, st.randoms(use_true_random=False))
def test_spearman_is_scipy_s(found: list[int], random: object) -> None:
    other = [value**2 - 3 * value + place % 4 for place, value in enumerate(found)]
    ours = spearman(found, other)
    if len(set(found)) == 1 or len(set(other)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(stats.spearmanr(found, other).statistic, abs=CLOSE)


def test_spearman_needs_equal_lengths() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        spearman([1, 2, 3], [1, 2])
    assert math.isnan(spearman([1.0], [2.0]))


def test_agreement_counts_sides_and_the_threshold_counts_as_learned() -> None:
    assert agreement([15.0, 14.9, 90.0, 9.0], [15.0, 15.0, 20.0, 10.0], 15.0) == 0.75
    assert math.isnan(agreement([], [], 15.0))


@pytest.mark.parametrize("count", [4, 7, 12, 25])
def test_the_exact_signed_rank_test_is_scipy_s(count: int) -> None:
    d = np.sin(np.arange(1, count + 1)) + 0.3  # no ties, no zeros
    expected = stats.wilcoxon(d, mode="exact").pvalue
    assert signed_rank(d) == pytest.approx(expected, abs=CLOSE)


def test_many_pairs_are_taken_as_normal_with_ties() -> None:
    d = np.round(4 * np.sin(np.arange(80)) + 0.7)
    expected = stats.wilcoxon(d[d != 0], mode="approx", correction=True).pvalue
    assert signed_rank(d) == pytest.approx(expected, abs=CLOSE)


def test_ties_are_counted_exactly_by_going_through_all_signs() -> None:
    d = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0])
    rank = stats.rankdata(np.abs(d))
    sums = [rank @ [(signs >> k) & 1 for k in range(6)] for signs in range(64)]
    smaller = min(rank[d > 0].sum(), rank[d < 0].sum())
    assert signed_rank(d) == pytest.approx(2 * np.mean(np.array(sums) <= smaller), abs=CLOSE)


def test_nothing_but_zeros_is_no_difference() -> None:
    assert signed_rank([0.0, 0.0]) == 1.0


def test_few_pairs_are_tested_with_student_s_t() -> None:
    first, second = [90.0, 91.0, 92.0, 93.0], [91.0, 91.5, 93.5, 94.2]
    found = paired_test(first, second)
    assert found.test == "paired t"
    assert found.p == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=CLOSE)
    assert found.difference == pytest.approx(1.05)
    assert found.low < 1.05 < found.high


def test_many_pairs_have_a_bootstrap_interval_around_their_mean() -> None:
    first = np.linspace(10, 98, 30)
    second = first + 2 + np.sin(np.arange(30))
    found = paired_test(first.tolist(), second.tolist())
    assert found.test == "signed rank"
    assert 1 < found.low < found.difference < found.high < 3
    assert found.p < 1e-5


@pytest.mark.parametrize(("second", "p"), [(50.0, 1.0), (51.0, 0.0)])
def test_differences_without_spread(second: float, p: float) -> None:
    found = paired_test([50.0] * 3, [second] * 3)
    assert (found.difference, found.p, found.low, found.high) == (second - 50, p, second - 50, second - 50)


def test_one_pair_proves_nothing() -> None:
    assert paired_test([10.0], [90.0]).p == 1.0
    assert paired_test([10.0], [90.0]).test == "none"
    assert paired_test([1.0] * FEW_PAIRS, [2.0] * FEW_PAIRS).test == "signed rank"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    corrected = holm(p)
    assert all(a <= b <= 1 for a, b in zip(p, corrected, strict=True))
    assert [corrected[i] for i in sorted(range(len(p)), key=p.__getitem__)] == sorted(corrected)
    assert min(corrected) == pytest.approx(min(len(p) * min(p), 1.0))
