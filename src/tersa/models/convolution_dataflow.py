"""Which datum a processing element keeps, and how often it must fetch the others: the dataflow families.

One element with a register for one weight, one input and one partial sum; what the loops keep stays, all else
comes from the memory behind it at every multiply-accumulate (M of them, padding left out):

                           weights   inputs   sums read      sums written
    no local reuse         M         M        M - outputs    M
    weight stationary      K T       M        M - outputs    M
    input stationary       M         used     M - outputs    M
    output stationary      M         M        0              outputs
    row stationary         P S       P w      P q - outputs  P q

for K filters of T taps, `used` being the pixels that a tap meets. Row stationary keeps a row of S weights
while a row of inputs slides by, w of its pixels being met: once for each of the P pairs of a row of q outputs
and a row of its filter.

An array of elements shares what it fetches among its rows and columns, which divides the counts by its sides
and leaves the comparison. Document 003 counts four accesses for every multiply-accumulate in the worst case:
`no local reuse` less the first read of each sum, which starts at zero.

`walk` is the readable twin: it runs the loops and counts.

Example:
    >>> layer = ConvolutionLayer(2, 3, (5, 5), (3, 3), padding=1)
    >>> accesses(layer, "weight stationary").weights == layer.weight_words
    True
    >>> [accesses(layer, name).total for name in FAMILIES]
    [3981, 3021, 3017, 2103, 1329]

References:
    Document 003, section 3.1.3. Chen, Emer, Sze, Eyeriss: a Spatial Architecture for Energy-Efficient
    Dataflow (2016). Sze et al., Efficient Processing of Deep Neural Networks (2017). Energies: Horowitz,
    Computing's Energy Problem (2014).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tersa.errors import unknown
from tersa.models.convolution_costs import ConvolutionLayer

FAMILIES = (
    "no local reuse",
    "weight stationary",
    "input stationary",
    "output stationary",
    "row stationary",
)


@dataclass(frozen=True)
class Accesses:
    """Numbers fetched from, or brought to, the memory behind the registers.

    Attributes:
        weights: read.
        inputs: read.
        sums_read: partial sums.
        sums_written: partial sums and outputs.
    """

    weights: int
    inputs: int
    sums_read: int
    sums_written: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.inputs + self.sums_read + self.sums_written


def accesses(layer: ConvolutionLayer, family: str) -> Accesses:
    """How often a dataflow goes to the memory behind its registers.

    Args:
        layer: the convolution; taps on the padding take no work.
        family: one of `FAMILIES`.

    Raises:
        UsageError: no such family.
    """
    if family not in FAMILIES:
        raise unknown("dataflow", family, FAMILIES)
    each = layer.inputs // layer.groups
    down, across = _met(layer, 0), _met(layer, 1)
    work = layer.batch * layer.outputs * each * sum(map(len, down)) * sum(map(len, across))
    first = layer.output_words
    if family == "output stationary":
        return Accesses(work, work, 0, first)
    if family == "row stationary":
        pairs = layer.batch * layer.outputs * each * sum(map(len, down))
        columns = len(set(itertools.chain.from_iterable(across)))
        sums = pairs * layer.output[1]
        return Accesses(pairs * layer.kernel[1], pairs * columns, sums - first, sums)
    weights, inputs = work, work
    if family == "weight stationary":
        weights = layer.weight_words
    if family == "input stationary":
        rows, columns = (len(set(itertools.chain.from_iterable(side))) for side in (down, across))
        inputs = layer.batch * layer.inputs * rows * columns
    return Accesses(weights, inputs, work - first, work)


def walk(layer: ConvolutionLayer, family: str) -> Accesses:
    """The same by running the loops, the kept datum outermost; for small layers.

    Raises:
        UsageError: no such family.
    """
    if family not in FAMILIES:
        raise unknown("dataflow", family, FAMILIES)
    if family == "row stationary":
        return _walk_rows(layer)
    kept = {"weight stationary": 0, "input stationary": 1, "output stationary": 2}.get(family)
    steps = list(_steps(layer))
    if kept is not None:
        steps.sort(key=lambda step: step[kept])
    found = [0, 0, 0, 0]
    register: tuple[int, ...] | None = None
    begun: set[tuple[int, ...]] = set()
    for step in steps:
        datum = None if kept is None else step[kept]
        fresh = kept is None or datum != register
        register = datum
        found[0] += kept != 0 or fresh
        found[1] += kept != 1 or fresh
        output = step[2]
        if kept == 2:
            found[3] += fresh  # written once, when it is done
        else:
            found[2] += output in begun
            found[3] += 1
        begun.add(output)
    return Accesses(*found)


def energy_pj(found: Accesses, macs: int, access_pj: float, mac_pj: float) -> float:
    """Energy of a layer: arithmetic and accesses, picojoules.

    Args:
        found: accesses of one number each.
        macs: multiply-accumulates.
        access_pj: of one number from the memory behind the registers.
        mac_pj: of one multiply-accumulate.
    """
    return macs * mac_pj + found.total * access_pj


def effective_macs(layer: ConvolutionLayer) -> int:
    """Multiply-accumulates without the taps that fall on the padding."""
    each = layer.inputs // layer.groups
    return layer.batch * layer.outputs * each * sum(map(len, _met(layer, 0))) * sum(map(len, _met(layer, 1)))


def _met(layer: ConvolutionLayer, axis: int) -> list[list[int]]:
    """For each output along an axis, the pixels that its taps meet."""
    side, kernel = layer.size[axis], layer.kernel[axis]
    starts = (place * layer.stride - layer.padding for place in range(layer.output[axis]))
    return [[start + tap for tap in range(kernel) if 0 <= start + tap < side] for start in starts]


def _steps(layer: ConvolutionLayer) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(weight, input, output) of every multiply-accumulate."""
    each, made = layer.inputs // layer.groups, layer.outputs // layer.groups
    down, across = _met(layer, 0), _met(layer, 1)
    for n, k, c in itertools.product(range(layer.batch), range(layer.outputs), range(each)):
        channel = k // made * each + c
        for p, q in itertools.product(range(len(down)), range(len(across))):
            for h, w in itertools.product(down[p], across[q]):
                row, column = (
                    pixel - place * layer.stride + layer.padding for pixel, place in ((h, p), (w, q))
                )
                yield (k, c, row, column), (n, channel, h, w), (n, k, p, q)


def _walk_rows(layer: ConvolutionLayer) -> Accesses:
    """One-dimensional convolutions: a filter's row stays, an image's row slides by."""
    each = layer.inputs // layer.groups
    found = [0, 0, 0, 0]
    begun: set[tuple[int, ...]] = set()
    for n, k, _ in itertools.product(range(layer.batch), range(layer.outputs), range(each)):
        for p, rows in enumerate(_met(layer, 0)):
            for _ in rows:
                found[0] += layer.kernel[1]
                seen: set[int] = set()
                for q, columns in enumerate(_met(layer, 1)):
                    found[1] += len(set(columns) - seen)
                    seen |= set(columns)
                    found[2] += (n, k, p, q) in begun
                    found[3] += 1
                    begun.add((n, k, p, q))
    return Accesses(*found)
