"""Shared values: a tensor holds 2^n different numbers, found among its own by k-means and trainable.

Lloyd's algorithm in one dimension, from centroids spread evenly over low .. high (Deep Compression's linear
start, which keeps the few large weights):

    assign   x goes to the nearest centroid (half-way: the lower one)
    move     each centroid to the mean of its members; one without members stays

`ROUNDS` times; when nothing moves, further rounds change nothing. A tensor with at most 2^n different values
keeps them exactly, so that clustering twice changes nothing. No randomness: equal tensors give equal
centroids. It is a local optimum, not the best one (which in one dimension dynamic programming would find).

Centroids are trained by the gradients of their members:

    value_i = c[code_i],    dL/dc_j = sum over i with code_i = j of dL/dvalue_i

so `shared` (a look-up) under autograd, `centroid_gradient` by hand, and `retrain` for one step of descent are
all of it. Codes are 0 .. 2^n - 1, the place of the centroid in rising order.

Where codes are entropy-coded, values that many weights share cost few bits, and a weight may better take a
centroid that is not the nearest (entropy-constrained quantisation):

    code_i = argmin over k of h_i (x_i - c_k)^2 + lambda l_k,    l_k = -log2 p_k

with h_i how much an error of this weight costs (`cheapest`), p_k the share of weights that take k
(`code_lengths`), and lambda the error that a bit is worth.

Example:
    >>> found = share(torch.tensor([0.0, 0.1, 0.9, 1.0, 1.1]), bits=1)
    >>> found.centroids, found.codes
    (tensor([0.0500, 1.0000]), tensor([0, 0, 1, 1, 1]))
    >>> centroid_gradient(torch.ones(5), found.codes, 2)
    tensor([2., 3.])

References:
    Han, Mao & Dally, Deep Compression (ICLR 2016), section 3.
    Chou, Lookabaugh & Gray, Entropy-Constrained Vector Quantization (IEEE Trans. ASSP 37, 1989): `cheapest`.
    Choi, El-Khamy & Lee, Towards the Limit of Network Quantization (ICLR 2017), section 4: h and lambda.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.quant.base import Quantiser, Snapped, from_zero
from tersa.quant.ranges import bounds
from tersa.quant.rounding import look_up, to_table
from tersa.quant.spec import QuantSpec
from tersa.quant.uniform import clamp_between

ROUNDS = 100
"""Rounds of Lloyd's algorithm: on 78,400 normal weights the squared error is then within 0.3 % of where it
settles, at 1 to 8 bits. A fixed number, so that `vmap` can map it."""

COSTS_AT_ONCE = 2**22
"""Of weights times centroids that `cheapest` holds."""


@dataclass(frozen=True)
class Shared:
    """A tensor of shared values.

    Attributes:
        centroids: (2^n,) in rising order.
        codes: place of each value's centroid, int64, shaped like the tensor.
    """

    centroids: Tensor
    codes: Tensor


def share(x: Tensor, bits: int) -> Shared:
    """Cluster the values of a tensor.

    Args:
        x: any shape, not empty, finite.
        bits: n.
    """
    x = x.detach()
    centroids = lloyd(x, x.amin(), x.amax(), 2**bits)
    return Shared(centroids, to_table(x, centroids))


def shared(centroids: Tensor, codes: Tensor) -> Tensor:
    """value_i = c[code_i], shaped like the codes; autograd sums the gradients of each centroid's members."""
    return look_up(centroids, codes)


def centroid_gradient(grad: Tensor, codes: Tensor, count: int) -> Tensor:
    """dL/dc_j = sum over i with code_i = j of dL/dvalue_i, (count,).

    Args:
        grad: dL/dvalue, any shape.
        codes: of the values, the same shape.
        count: centroids.
    """
    return grad.new_zeros(count).index_add(0, codes.flatten(), grad.flatten())


def retrain(found: Shared, grad: Tensor, learning_rate: float) -> Shared:
    """One step of gradient descent on the centroids; members stay with theirs, and the order is restored.

    Args:
        found: what is trained.
        grad: dL/dvalue, shaped like the codes.
        learning_rate: of the step.

    Raises:
        UsageError: a gradient of another shape.
    """
    if grad.shape != found.codes.shape:
        raise UsageError(
            f"gradient has shape {tuple(grad.shape)}, the clustered tensor {tuple(found.codes.shape)}; "
            "give dL/dvalue of that tensor"
        )
    moved = found.centroids - learning_rate * centroid_gradient(grad, found.codes, len(found.centroids))
    ordered, order = moved.sort()
    return Shared(ordered, order.argsort()[found.codes])


def code_lengths(counts: Tensor) -> Tensor:
    """l_k = -log2 p_k with p_k = (n_k + 1/2) / (n + L / 2): bits of each code, those nobody takes included.

    Args:
        counts: n_k, (L,).

    >>> code_lengths(torch.tensor([3.5, 0.5])).tolist()
    [0.3219280242919922, 2.321928024291992]
    """
    return (counts.sum() + 0.5 * len(counts)).log2() - (counts + 0.5).log2()


def cheapest(
    x: Tensor, centroids: Tensor, lengths: Tensor, trade: float, curvature: Tensor | None = None
) -> Tensor:
    """code_i = argmin over k of h_i (x_i - c_k)^2 + lambda l_k, int64, shaped like x.

    Args:
        x: values, any shape.
        centroids: c, (L,).
        lengths: l, bits of each code, (L,).
        trade: lambda; 0 gives the nearest centroid.
        curvature: h, shaped like x and above 0; None for 1.

    >>> cheapest(torch.tensor([0.4, 0.9]), torch.tensor([0.0, 0.5]), torch.tensor([1.0, 3.0]), 0.1).tolist()
    [0, 1]
    """
    flat = x.flatten()
    price = trade * lengths
    codes: list[Tensor] = []
    for start in range(0, len(flat), max(1, COSTS_AT_ONCE // len(centroids))):
        span = slice(start, start + max(1, COSTS_AT_ONCE // len(centroids)))
        error = (flat[span, None] - centroids).square()  # (P, L)
        if curvature is not None:
            error = error * curvature.flatten()[span, None]
        codes.append((error + price).argmin(dim=1))
    return torch.cat(codes).view(x.shape) if codes else torch.zeros_like(x, dtype=torch.int64)


def lloyd(x: Tensor, low: Tensor, high: Tensor, count: int) -> Tensor:
    """Centroids in rising order, (count,); see the module for the algorithm.

    On sorted values a cluster is a stretch, and its mean a difference of two running sums (in double).

    Args:
        x: values, any shape.
        low: first centroid of the start, ().
        high: last one.
        count: centroids, 2 or more.
    """
    values = x.flatten().sort().values
    sums = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])  # (P + 1,)
    share = torch.arange(count).to(x) / torch.full_like(low, count - 1)
    centroids = low * (1 - share) + high * share
    for _ in range(ROUNDS):
        middles = 0.5 * centroids[:-1] + 0.5 * centroids[1:]
        inner = torch.searchsorted(values, middles, right=True)
        start = torch.cat([torch.zeros_like(inner[:1]), inner])
        end = torch.cat([inner, torch.full_like(inner[:1], len(values))])
        members = end - start
        means = (sums.gather(0, end) - sums.gather(0, start)) / members.clamp(min=1)
        centroids = torch.where(members > 0, means.to(x.dtype), centroids)
    return _exact_if_few(values, centroids)


def _exact_if_few(values: Tensor, centroids: Tensor) -> Tensor:
    """The different values themselves where there are no more than centroids, the last one repeated."""
    rises = (values[1:] > values[:-1]).long()
    rank = torch.cat(
        [torch.zeros_like(rises[:1]) if len(rises) else values.new_zeros(1).long(), rises.cumsum(0)]
    )
    last = len(centroids) - 1
    own = torch.where(torch.ones_like(centroids).bool(), values[-1], centroids)
    own = own.scatter(0, rank.clamp(max=last), values)
    return torch.where(rank[-1] <= last, own, centroids)


def cluster(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None = None) -> Snapped:
    """Snap to the centroids of x's own values; see `base.Snap` for arguments."""
    table = lloyd(x, low, high, 2**spec.bits)
    place = to_table(x, table, uniform)
    missing = x.isnan()
    return Snapped(
        torch.where(missing, x, look_up(table, place)), torch.where(missing, x, place.to(x)), table
    )


def first_levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """Refused: the range does not decide the levels.

    Raises:
        UsageError: always, saying where the levels are.
    """
    raise UsageError(
        "kind clusters has no levels before it sees values; take `levels` of what `quantise` returns, or "
        "`clusters.share(x, bits).centroids`"
    )


CLUSTERS = Quantiser(cluster, first_levels, clamp_between, bounds, from_zero)
