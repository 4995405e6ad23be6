"""Cutting one labelled set in two, and the statistics that normalise it.

A cut is stratified: each class gives its share, by the method of largest remainders, so that the shares add
up to exactly the count that was asked for. It is drawn from a `torch.Generator`, keeps the order of the
images, and never takes the last image of a class.

    quota of class k:  q_k = count * n_k / N
    taken of class k:  floor(q_k), plus one for the largest q_k - floor(q_k)

Example:
    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> rest, taken = stratified(labels, 3, torch.Generator().manual_seed(0))
    >>> len(rest), sorted(labels[taken].tolist())
    (3, [0, 0, 1])
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.errors import UsageError

LARGE = 50_000
"""From this many train images on, validation takes a fixed count."""

LARGE_COUNT = 5_000
SHARE = 0.2
"""Validation's share of train below `LARGE` images."""

CHUNK = 4096
STD_FLOOR = 1e-6
"""A channel that varies less is constant: it is centred and not scaled."""


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut `count` positions out of a labelled set, class by class.

    Args:
        labels: (N,), int64.
        count: how many to take, 1..N-K for K classes.
        generator: what the choice follows from.

    Returns:
        Positions left and positions taken, both int64 and ascending, disjoint, together all of 0..N-1.

    Raises:
        UsageError: `count` leaves a class without an image, or takes none.
    """
    n = len(labels)
    k = len(torch.unique(labels))
    if n <= k:
        raise UsageError(
            f"cannot cut {count} of {n} images in {k} classes: each class must keep one; add images"
        )
    if not 1 <= count <= n - k:
        raise UsageError(f"cannot cut {count} of {n} images in {k} classes; allowed: 1..{n - k}")
    taken = torch.zeros(n, dtype=torch.bool)
    for label, share in _shares(labels, count).items():
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=generator)
        taken[members[order[:share]]] = True
    return torch.nonzero(~taken).flatten(), torch.nonzero(taken).flatten()


def _shares(labels: Tensor, count: int) -> dict[int, int]:
    """How many to take of each class; no class gives its last image."""
    present, sizes = torch.unique(labels, return_counts=True)
    n = int(sizes.sum())
    shares = {int(c): min(count * int(s) // n, int(s) - 1) for c, s in zip(present, sizes, strict=True)}
    room = {int(c): int(s) - 1 for c, s in zip(present, sizes, strict=True)}
    remainder = {int(c): count * int(s) % n for c, s in zip(present, sizes, strict=True)}
    by_remainder = sorted(shares, key=lambda c: (-remainder[c], c))
    while sum(shares.values()) < count:  # each round gives one more to each class that has room
        for c in by_remainder:
            if sum(shares.values()) < count and shares[c] < room[c]:
                shares[c] += 1
    return shares


def validation_count(n: int, asked: int | float | None) -> int:
    """How many of `n` train images validation gets.

    Args:
        n: train images before the cut.
        asked: None: 5,000 of 50,000 or more, else a fifth; a whole number: that many; a fraction below 1:
            that share.

    Raises:
        UsageError: neither a count of 1 or more nor a fraction between 0 and 1.
    """
    if asked is None:
        return LARGE_COUNT if n >= LARGE else max(round(SHARE * n), 1)
    if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1:
        return asked
    if isinstance(asked, float) and 0.0 < asked < 1.0:
        return max(round(asked * n), 1)
    raise UsageError(f"validation {asked!r}; allowed: a count of 1 or more, or a fraction between 0 and 1")


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels in 0..1.

        mean_c = sum x_c / n        std_c = sqrt(sum (x_c - mean_c)^2 / n)

    Bytes are counted value by value, so that the result is exact and does not depend on any order; floats
    are summed in double precision, in chunks. A constant channel has std 1.

    Args:
        images: (N, C, H, W), uint8 or float32.
    """
    mean, variance = _of_bytes(images) if images.dtype == torch.uint8 else _of_floats(images)
    std = variance.clamp_min(0).sqrt()
    std = torch.where(std < STD_FLOOR, torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


def _of_bytes(images: Tensor) -> tuple[Tensor, Tensor]:
    c = images.shape[1]
    counts = torch.zeros(c, 256, dtype=torch.int64)
    for chunk in images.split(CHUNK):
        for channel in range(c):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    weights = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    values = torch.arange(256, dtype=torch.float64) / 255.0
    mean = weights @ values
    return mean, (weights * (values - mean[:, None]) ** 2).sum(1)


def _of_floats(images: Tensor) -> tuple[Tensor, Tensor]:
    n = images.numel() // images.shape[1]
    mean = torch.stack([chunk.double().sum((0, 2, 3)) for chunk in images.split(CHUNK)]).sum(0) / n
    centre = mean.view(1, -1, 1, 1)
    squares = [((chunk.double() - centre) ** 2).sum((0, 2, 3)) for chunk in images.split(CHUNK)]
    return mean, torch.stack(squares).sum(0) / n
