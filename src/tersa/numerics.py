"""Numerical primitives with one home: statistics of paired answers, intervals, stable hashes.

Nothing here knows of data sets, models or training.

Example:
    >>> import numpy as np
    >>> before, after = np.array([1, 1, 1, 1, 0]), np.array([1, 1, 0, 1, 1])
    >>> paired_loss(before, after)
    PairedLoss(points=0.0, standard_error=28.284271247461902, images=5)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PairedLoss:
    """How much accuracy a changed network lost on the same images.

    Attributes:
        points: accuracy before minus accuracy after, in percentage points.
        standard_error: of `points`, in percentage points.
        images: how many were compared.
    """

    points: float
    standard_error: float
    images: int

    @property
    def pessimistic(self) -> float:
        """`points` plus one standard error, or one image where that is more: what a goal is held against.

        Networks that agree on a dozen images have not been shown to agree.
        """
        return self.points + max(self.standard_error, 100.0 / self.images)


def paired_loss(before: npt.ArrayLike, after: npt.ArrayLike) -> PairedLoss:
    """Loss of accuracy between two networks that answered the same N images.

    With b images that only the first network got right and c that only the second did:

        points = 100 (b - c) / N
        standard error = 100 sqrt(b + c - (b - c)^2 / N) / N

    Args:
        before: right answers of the first network, (N,), bool or 0/1.
        after: right answers of the second network on the same images, (N,).

    References:
        Agresti, Categorical Data Analysis (2013), section 11.1: differences of dependent proportions.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            f"paired answers need two equal, non-empty vectors, got {first.shape} and {second.shape}"
        )
    n = first.size
    b = int(np.sum(first & ~second))
    c = int(np.sum(~first & second))
    variance = max(b + c - (b - c) ** 2 / n, 0.0)
    return PairedLoss(100.0 * (b - c) / n, 100.0 * float(np.sqrt(variance)) / n, n)


def bootstrap_interval(
    values: npt.NDArray[np.float64],
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over independent rows.

    Args:
        values: (N, ...) observations; rows are resampled with replacement.
        statistic: maps (B, N, ...) resampled observations to (B,) values.
        seed: of the resampling.
        resamples: B, how many resamples are drawn.
        level: coverage of the interval, 0..1.

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(values), size=(resamples, len(values)))
    draws = statistic(values[rows])
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return float(low), float(high)


def digest(value: object, length: int = 16) -> str:
    """Stable hexadecimal name of a JSON-serialisable value: equal values, equal names, on any machine.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
