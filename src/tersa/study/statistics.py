"""What a study's numbers say: intervals over seeds, rank correlation, agreement, paired tests.

    interval      mean +- t(n - 1) s / sqrt(n)                       over the n seeds of one setting
    Spearman      Pearson's correlation of the average ranks         ours against published cells
    agreement     share of cells on the same side of a threshold     learned or collapsed
    paired test   d_i = accuracy of two cells that differ in one field only; is their mean zero?

Paired tests are Student's t below `FEW_PAIRS` pairs, Wilcoxon's signed-rank test with a bootstrap interval of
the mean from there on; several of them are corrected together by `holm`. Pairs of a grid share data, network
starts and shuffles, so their p-values are a guide to the eye rather than the error rate of an experiment.

Nothing here knows of reports or of published values.

Example:
    >>> interval([97.1, 97.3, 97.2, 97.4, 97.5])
    Interval(mean=97.3, low=97.10..., high=97.49..., count=5)
    >>> spearman([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tersa.numerics import bootstrap_interval

FEW_PAIRS = 10
"""Fewer pairs than this: Wilcoxon's test cannot reach small p-values, and a bootstrap has little to draw."""
EXACT_PAIRS = 25
"""Up to this many pairs the signed-rank distribution is counted, beyond it is taken as normal."""

Test = Literal["paired t", "signed rank", "none"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: of the values.
        low: lower end; the mean itself for one value.
        high: upper end.
        count: how many values.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class PairedTest:
    """Whether two settings differ, from pairs that are equal in everything else.

    Attributes:
        difference: mean of second minus first, in the unit of the values.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided; 1 where there are fewer than two pairs.
        pairs: how many.
        test: which test gave `p`.
    """

    difference: float
    low: float
    high: float
    p: float
    pairs: int
    test: Test


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student's interval of independent values.

    Args:
        values: one per seed; at least one.
        level: coverage, 0..1.
    """
    found = np.asarray(values, dtype=np.float64)
    mean, count = float(found.mean()), len(found)
    if count == 1:
        return Interval(mean, mean, mean, 1)
    half = student_quantile(count - 1, level) * float(found.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def student_tail(t: float, freedom: int) -> float:
    """Two-sided tail P(|T| > |t|) of Student's distribution, by its finite sums for whole degrees of freedom.

    With theta = atan(|t| / sqrt(n)): for odd n, 1 - 2/pi (theta + sin theta (cos theta + 2/3 cos^3 theta +
    ...)); for even n, 1 - sin theta (1 + 1/2 cos^2 theta + (1 3)/(2 4) cos^4 theta + ...).

    References:
        Abramowitz & Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.

    >>> round(student_tail(2.776445, 4), 6)
    0.05
    """
    theta = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return min(max(1.0 - inside, 0.0), 1.0)


def student_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| <= t) = level, by bisection.

    >>> round(student_quantile(4), 4)
    2.7764
    """
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 1 - level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > 1 - level else (low, middle)
    return high


def ranks(values: npt.ArrayLike) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> ranks([30.0, 10.0, 30.0, 20.0]).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    found = np.asarray(values, dtype=np.float64)
    _, place, count = np.unique(found, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Rank correlation of two equally long series; NaN where one of them is constant or too short.

    References:
        Spearman, The proof and measurement of association between two things (1904).
    """
    x, y = ranks(first), ranks(second)
    if len(x) != len(y):
        raise ValueError(f"rank correlation needs equally long series, got {len(x)} and {len(y)} values")
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y)) if len(x) > 1 else 0.0
    return float(x @ y) / scale if scale > 0 else math.nan


def agreement(first: npt.ArrayLike, second: npt.ArrayLike, threshold: float) -> float:
    """Share of pairs, 0..1, of which both are below the threshold or neither is; NaN without pairs.

    >>> agreement([9.8, 90.0, 40.0], [11.0, 88.0, 10.0], 15.0)
    0.666...
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"agreement needs equally long series, got {x.shape} and {y.shape}")
    return float(np.mean((x < threshold) == (y < threshold))) if x.size else math.nan


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Does the second of two settings differ from the first?

    Args:
        first: accuracies of the first setting; at least one.
        second: those of the second on the same other fields and seeds, in the same order.
    """
    d = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n, mean = len(d), float(d.mean())
    if n == 1:
        return PairedTest(mean, mean, mean, 1.0, 1, "none")
    if n < FEW_PAIRS:
        found = interval(d.tolist())
        error = float(d.std(ddof=1)) / math.sqrt(n)
        p = student_tail(mean / error, n - 1) if error > 0 else float(mean == 0)
        return PairedTest(mean, found.low, found.high, p, n, "paired t")
    low, high = bootstrap_interval(d, lambda draws: draws.mean(1))
    return PairedTest(mean, low, high, signed_rank(d), n, "signed rank")


def signed_rank(differences: npt.ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; differences of zero are left out.

    Up to `EXACT_PAIRS` differences the distribution of the sum of positive ranks is counted exactly, ties
    included; beyond, it is normal with mean n (n + 1) / 4, the tie-corrected variance and half a rank of
    continuity.

    References:
        Wilcoxon, Individual comparisons by ranking methods (1945); Hollander & Wolfe, Nonparametric
        Statistical Methods (1999), section 3.1.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[d != 0]
    if not len(d):
        return 1.0
    rank = ranks(np.abs(d))
    positive = float(rank[d > 0].sum())
    smaller = min(positive, float(rank.sum()) - positive)
    if len(d) <= EXACT_PAIRS:
        return _counted(rank, smaller)
    variance = float((rank**2).sum()) / 4
    z = (abs(positive - float(rank.sum()) / 2) - 0.5) / math.sqrt(variance)
    return min(math.erfc(max(z, 0.0) / math.sqrt(2)), 1.0)


def _counted(rank: Floats, smaller: float) -> float:
    """Exact two-sided p: of all 2^n signs, those whose sum of positive ranks is as small, doubled."""
    doubled = np.rint(2 * rank).astype(int)  # shared ranks are halves
    ways = np.zeros(int(doubled.sum()) + 1)
    ways[0] = 1.0
    for step in doubled:
        moved = np.zeros_like(ways)
        moved[step:] = ways[: len(ways) - step]
        ways = ways + moved
    below = float(ways[: round(2 * smaller) + 1].sum())
    return min(2 * below / 2.0 ** len(rank), 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, step by step, never falling in the order of the given ones.

    References:
        Holm, A simple sequentially rejective multiple test procedure (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda each: p[each])):
        largest = max(largest, min((len(p) - place) * p[index], 1.0))
        corrected[index] = largest
    return corrected
