"""Which algorithm is best for a layer on a machine: the roofline of every phase, summed.

    time(phase) = max(operations / (rate of its kind x fill), bytes / bandwidth)
    fill        = m / (m + h) k / (k + h) n / (n + h)     for products of m x k and k x n, else 1

The rates are measured (`Machine`): matrix products, additions that stream through a transform, FFTs, copies
and a library's direct convolution run at rates that differ tenfold, so that fewer multiplications alone
decide nothing. h is the side at which a product runs at half its rate, Hockney's n 1/2. Filters that are
transformed once are not in the time.

What this does not know: caches shared with other programs, several threads, the quality of one library's
kernel for one shape. `benchmarks/convolution_algorithms.py` measures a machine and prints predictions beside
times.

Example:
    >>> machine = Machine({"product": 100.0, "direct": 80.0, "transform": 5.0}, bandwidth_gbs=10.0)
    >>> layer = ConvolutionLayer(256, 256, (28, 28), (3, 3), padding=1)
    >>> ranked = predict(layer, machine, among=("direct", "im2col", "winograd-2", "winograd-4"))
    >>> [each.algorithm for each in ranked]
    ['winograd-4', 'winograd-2', 'im2col', 'direct']

References:
    Williams, Waterman, Patterson, Roofline (2009). Hockney, Jesshope, Parallel Computers 2 (1988). Document
    003, chapter 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tersa.errors import UsageError
from tersa.models.convolution_costs import CACHE, ConvolutionLayer, Cost, Kind, Phase, algorithms, cost

NEAREST: Mapping[Kind, Kind] = {
    "complex product": "product",
    "direct": "product",
    "depthwise": "transform",
    "fft": "transform",
    "transform": "direct",
}
"""What stands in for a rate that was not measured."""


@dataclass(frozen=True)
class Machine:
    """What a machine does in a second, measured.

    Attributes:
        gflops: kind of phase -> real operations (multiplications and additions), in thousand millions;
        `product`
            must be there, for others the nearest stands in. `copy` has none: it is all bytes.
        bandwidth_gbs: thousand million bytes from memory.
        gather_gbs: the same where a copy picks its numbers one by one (im2col); None for `bandwidth_gbs`.
        cache_bytes: that products are tiled for.
        half_side: h, side of a matrix product that reaches half its rate.
        name: of the machine.
    """

    gflops: Mapping[str, float]
    bandwidth_gbs: float
    gather_gbs: float | None = None
    cache_bytes: int = CACHE
    half_side: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if "product" not in self.gflops:
            raise UsageError(f"a machine needs the rate of a matrix product; it has {', '.join(self.gflops)}")
        rates = (*self.gflops.values(), self.bandwidth_gbs, self.bytes_rate("copy"), self.cache_bytes)
        if min(rates) <= 0 or self.half_side < 0:
            raise UsageError(f"rates, bandwidth and cache are above 0: {self}")

    def rate(self, kind: Kind) -> float:
        """Operations in a second, in thousand millions; the nearest kind's where this was not measured."""
        while kind not in self.gflops:
            kind = NEAREST[kind]
        return self.gflops[kind]

    def bytes_rate(self, kind: Kind) -> float:
        """Thousand million bytes that a phase of a kind moves in a second."""
        return self.gather_gbs if kind == "copy" and self.gather_gbs is not None else self.bandwidth_gbs


@dataclass(frozen=True)
class Prediction:
    """One algorithm for a layer.

    Attributes:
        algorithm: its name.
        milliseconds: of one call.
        bound: `arithmetic` or `memory`, whichever takes more of the time.
        cost: what it does.
    """

    algorithm: str
    milliseconds: float
    bound: str
    cost: Cost


def predict(
    layer: ConvolutionLayer, machine: Machine, among: Sequence[str] | None = None
) -> list[Prediction]:
    """Every algorithm that can compute a layer, the fastest first.

    Args:
        layer: the convolution.
        machine: what it does in a second.
        among: names to rank; None for `algorithms(layer)`.

    Raises:
        UsageError: an algorithm that cannot compute the layer.
    """
    names = algorithms(layer) if among is None else among
    return sorted((predict_one(layer, name, machine) for name in names), key=lambda found: found.milliseconds)


def predict_one(layer: ConvolutionLayer, algorithm: str, machine: Machine) -> Prediction:
    """The time of one algorithm.

    Raises:
        UsageError: no such algorithm, or it cannot compute the layer.
    """
    found = cost(layer, algorithm, machine.cache_bytes)
    arithmetic = [arithmetic_ms(phase, machine) for phase in found.phases]
    memory = [phase.bytes / machine.bytes_rate(phase.kind) / 1e6 for phase in found.phases]
    times = [max(pair) for pair in zip(arithmetic, memory, strict=True)]
    computing = sum(time for time, own, moved in zip(times, arithmetic, memory, strict=True) if own >= moved)
    bound = "arithmetic" if computing >= sum(times) / 2 else "memory"
    return Prediction(algorithm, sum(times), bound, found)


def arithmetic_ms(phase: Phase, machine: Machine) -> float:
    """Milliseconds of a phase's operations at the rate of its kind, memory left out."""
    operations = phase.counts.multiplications + phase.counts.additions
    if not operations:
        return 0.0
    fill = 1.0
    for side in phase.product or ():
        fill *= side / (side + machine.half_side)
    return operations / (machine.rate(phase.kind) * fill) / 1e6
