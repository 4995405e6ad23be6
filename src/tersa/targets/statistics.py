"""What timed rounds say: quantiles, intervals, drift, and the verdict between two sides. No clock in here.

Rounds are paired: round i of both sides ran within milliseconds of one another, so what slows the machine
down slows both, and the ratio within a round is steadier than either time. Orders alternate, so that the
geometric mean of two neighbours' ratios is free of what running first or second in a round brings.

Rounds of one process repeat what that process has: where its memory lies. Where each side was started
several times, the unit that repeats is the start, not the round, and the interval is Student's over the
starts. At every start the sides find each other's memory, and begin in the other order
(`rounds.time_sides`): what that brings has one sign in even starts and the other in odd ones, and is
estimated apart.

Example:
    >>> import numpy as np
    >>> before, after = np.array([2.0, 2.2, 2.1] * 20), np.array([1.0, 1.1, 1.05] * 20)
    >>> compare_rounds(before, after)
    Ratio(speedup=2.0, low=1.96..., high=2.04..., verdict='faster')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tersa.numerics import bootstrap_interval
from tersa.records.results import Quantiles
from tersa.study.statistics import interval, student_quantile

Times = npt.NDArray[np.float64]

BLOCK = 4
"""Rounds per block: neighbours share what disturbs them, so the bootstrap draws blocks, not rounds."""

PLACEMENT = 0.02
"""Two sessions of one file differ by up to this share for as long as they live.

Where a session's memory happens to lie decides which cache lines collide, and more rounds do not average that
out: 60 pairs of equal sessions differed by up to 1.1 % in quiet runs, with bootstrap intervals ten times
narrower, and equal processes differ by more (the column `by_start` of `benchmarks/results/measuring.csv`).
Every interval of a ratio is widened by this much, but where processes were started anew.
"""

LEAST_STARTS, LEAST_ALTERNATING = 3, 4
"""Fewer starts say nothing of how much starts differ: their rounds are taken as those of one; and nothing of
what alternates, which is then a part of how they differ."""


@dataclass(frozen=True)
class Summary:
    """Timed rounds of one side.

    Attributes:
        quantiles: of the time of one call, ms.
        low: lower end of the 95 % interval of the median, ms: Student's over three starts or more, else the
            bootstrap's.
        high: upper end of it, ms.
        outliers: rounds further than 3 median absolute deviations above the median.
        drift: median of the last third of the rounds over that of the first third, of each start; the mean.
    """

    quantiles: Quantiles
    low: float
    high: float
    outliers: int
    drift: float


@dataclass(frozen=True)
class Ratio:
    """Baseline against result.

    Attributes:
        speedup: median over pairs of rounds of before / after; above 1 is faster.
        low: lower end of its 95 % interval.
        high: upper end of it.
        verdict: `faster` when low > 1, `slower` when high < 1, else `no difference`.
    """

    speedup: float
    low: float
    high: float
    verdict: Literal["faster", "slower", "no difference"]


def summarise(times_ms: Times, starts: Sequence[int] = ()) -> Summary:
    """Quantiles and steadiness of one side.

    Args:
        times_ms: (rounds,) time of one call.
        starts: rounds of each start, in their order; empty for one start.
    """
    median, p10, p90 = (float(value) for value in np.percentile(times_ms, [50, 10, 90]))
    deviation = float(np.median(np.abs(times_ms - median)))
    parts = _parts(times_ms, starts)
    if len(parts) >= LEAST_STARTS:
        _, low, high = _student([float(np.median(part)) for part in parts])
    else:
        low, high = bootstrap_interval(blocks(times_ms), _median)
    return Summary(
        quantiles=Quantiles(median=median, p10=p10, p90=p90),
        low=min(low, median),
        high=max(high, median),
        outliers=int(np.sum(times_ms > median + 3.0 * deviation)),
        drift=float(np.mean([_drift(part) for part in parts])),
    )


def _drift(times_ms: Times) -> float:
    third = max(1, len(times_ms) // 3)
    return float(np.median(times_ms[-third:]) / np.median(times_ms[:third]))


def _parts(rounds: Times, starts: Sequence[int]) -> list[Times]:
    """The rounds of each start.

    Raises:
        ValueError: the starts do not make the rounds.
    """
    if starts and (sum(starts) != rounds.size or min(starts) < 1):
        raise ValueError(f"starts of {list(starts)} rounds do not make the {rounds.size} rounds there are")
    return np.split(rounds, np.cumsum(starts)[:-1]) if starts else [rounds]


def _student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of positive values, one per start, with Student's interval, over their logarithms.

    From `LEAST_ALTERNATING` starts on, log v_s = a + d x_s + e_s with x_s = 1, -1, 1, ...: exp(a) by least
    squares, n - 2 degrees of freedom, var a = var e (1 / n + mean(x)^2 / sum (x - mean(x))^2).
    """
    logs, count = np.log(np.asarray(values, np.float64)), len(values)
    if count < LEAST_ALTERNATING:
        found = interval(logs.tolist())
        return math.exp(found.mean), math.exp(found.low), math.exp(found.high)
    signs = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
    off = signs - signs.mean()
    slope = float(off @ logs / (off @ off))
    level = float(logs.mean() - slope * signs.mean())
    variance = float(np.sum((logs - level - slope * signs) ** 2)) / (count - 2)
    half = student_quantile(count - 2) * math.sqrt(variance * (1.0 / count + signs.mean() ** 2 / (off @ off)))
    return math.exp(level), math.exp(level - half), math.exp(level + half)


def compare_rounds(before_ms: Times, after_ms: Times, starts: Sequence[int] = ()) -> Ratio:
    """Median ratio of paired rounds with its interval, and what it says.

    r_i = before_i / after_i,  m_s = median over the rounds of start s of sqrt(r_2i r_2i+1)

    With three starts or more, speedup = exp(mean_s log m_s), and the interval is Student's over the log m_s;
    with four or more, without what alternates from start to start.
    With fewer, speedup is the one median, and the interval is the block bootstrap's, wider by `PLACEMENT`.
    Fewer than eight rounds are taken one by one, their mean with Student's interval.

    Args:
        before_ms: (rounds,) time of one call of the baseline.
        after_ms: (rounds,) of the result, round by round beside it.
        starts: rounds of each start, in their order; empty for one start.

    References:
        Kalibera and Jones, Rigorous Benchmarking in Reasonable Time (ISMM 2013): repeat at every level that
        brings a variation of its own, and estimate it at the highest one.
    """
    if before_ms.shape != after_ms.shape or before_ms.ndim != 1 or not before_ms.size:
        raise ValueError(
            f"paired rounds need two equal, non-empty vectors, got {before_ms.shape}, {after_ms.shape}"
        )
    parts = _parts(before_ms / after_ms, starts)
    if len(parts) >= LEAST_STARTS:
        found = _student([float(np.median(both_orders(part))) for part in parts])
    else:
        found = _over_rounds(before_ms / after_ms)
    speedup, low, high = found
    verdict = "faster" if low > 1.0 else "slower" if high < 1.0 else "no difference"
    return Ratio(speedup, low, high, verdict)


def _over_rounds(ratios: Times) -> tuple[float, float, float]:
    """(median, low, high) of the rounds of one start; few rounds have Student's interval, as starts do."""
    if len(ratios) < 2 * BLOCK:
        middle, low, high = _student(ratios.tolist())
        return middle, low * (1.0 - PLACEMENT), high * (1.0 + PLACEMENT)
    paired = both_orders(ratios)
    speedup = float(np.median(paired))
    low, high = bootstrap_interval(blocks(paired, BLOCK // 2), _median)
    return speedup, min(low, speedup) * (1.0 - PLACEMENT), max(high, speedup) * (1.0 + PLACEMENT)


def both_orders(ratios: Times) -> Times:
    """(rounds,) to the geometric means of neighbours (rounds // 2,): A B and B A; an odd first one is left
    out.

    >>> both_orders(np.array([1.2, 0.8] * 4)).round(3)
    array([0.98, 0.98, 0.98, 0.98])
    """
    if len(ratios) < 2 * BLOCK:
        return ratios
    return np.sqrt(ratios[len(ratios) % 2 :].reshape(-1, 2).prod(axis=1))


def blocks(values: Times, size: int = BLOCK) -> Times:
    """(rounds,) cut into (rounds // size, size) neighbours; first rounds that fill none are left out."""
    if len(values) < 2 * size:
        return values[:, None]
    return values[len(values) % size :].reshape(-1, size)


def _median(draws: Times) -> Times:
    """(resamples, blocks, BLOCK) to (resamples,)."""
    return np.median(draws.reshape(len(draws), -1), axis=1)
