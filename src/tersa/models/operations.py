"""Memory and operations of a network at its bits: binary, integer and floating-point work kept apart.

A multiply-accumulate counts as

    binary    1 bit (or ternary) by 1 bit: an XNOR and a popcount
    integer   up to 8 bits by up to 8 bits, otherwise
    float     everything else

and weights are counted as they are packed: values x bits / 8, ternary as 2 bits. Normalisation, thresholds,
scales and pooling are not counted.

Example:
    >>> from tersa.models.zoo import build
    >>> found = operations(build("sfc", (1, 28, 28), 10), (1, 28, 28))
    >>> found.total.macs == found.total.binary + found.total.integer, found.total.real
    (True, 0)
    >>> found.layers[1].bits, found.layers[1].size_bytes
    ('1/1', 8192)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tersa.models.family import Shape
from tersa.models.summary import summary
from tersa.models.zoo import bits_of
from tersa.quant.layers import FLOAT, QuantConv2d, QuantLinear, WeightBits

TERNARY_BITS = 2
"""Of a packed ternary weight: a mask and a sign."""


@dataclass(frozen=True)
class Work:
    """What one layer, or a whole network, holds and does for one image.

    Attributes:
        name: of the layer.
        kind: `Conv2d 3x3`.
        bits: of weights and inputs, `1/1`; empty for a sum over layers that differ.
        weights: values.
        size_bytes: of the packed weights.
        binary: multiply-accumulates of 1 bit by 1 bit.
        integer: of integers.
        real: in floating point.
    """

    name: str
    kind: str
    bits: str
    weights: int
    size_bytes: int
    binary: int
    integer: int
    real: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all kinds."""
        return self.binary + self.integer + self.real


@dataclass(frozen=True)
class Operations:
    """Every layer with weights, in the order of the network, and their sum.

    Attributes:
        layers: in order.
        description: bits of the network, as `LowBits.describe` prints them; empty for a plain network.
    """

    layers: tuple[Work, ...]
    description: str = ""

    @property
    def low_bit(self) -> bool:
        """Some layer has fewer bits than floating point."""
        return any(work.bits != "32/32" for work in self.layers)

    @property
    def total(self) -> Work:
        """The sum."""
        bits = {work.bits for work in self.layers}
        return Work(
            "in all",
            "",
            bits.pop() if len(bits) == 1 else "",
            sum(work.weights for work in self.layers),
            sum(work.size_bytes for work in self.layers),
            sum(work.binary for work in self.layers),
            sum(work.integer for work in self.layers),
            sum(work.real for work in self.layers),
        )


def operations(model: nn.Module, shape: Shape, spec: str = "") -> Operations:
    """Memory and operations of a network.

    Args:
        model: maps (N, C, H, W) to logits.
        shape: (C, H, W).
        spec: its name, for the description of its bits.

    Raises:
        ModelError: the model does not take images of this shape.
    """
    layers = dict(model.named_modules())
    rows = [row for row in summary(model, shape).rows if row.macs]
    found = tuple(_work(row.name, layers.get(row.name), row.parameters, row.macs) for row in rows)
    return Operations(found, _description(spec, found))


def _work(name: str, layer: nn.Module | None, parameters: int, macs: int) -> Work:
    if not isinstance(layer, QuantConv2d | QuantLinear):
        return Work(name, _kind(layer), "32/32", parameters, 4 * parameters, 0, 0, macs)
    weights, inputs = layer.form.bits, layer.input_bits
    kind = (
        "real" if FLOAT in (weights, inputs) else "binary" if _single(weights) and inputs == 1 else "integer"
    )
    values = layer.weight.numel()
    packed = TERNARY_BITS if weights == "ternary" else weights
    return Work(
        name,
        _kind(layer),
        f"{'t' if weights == 'ternary' else weights}/{inputs}",
        values,
        -(-values * packed // 8),
        **{each: macs if each == kind else 0 for each in ("binary", "integer", "real")},
    )


def _single(weights: WeightBits) -> bool:
    return weights in (1, "ternary")


def _kind(layer: nn.Module | None) -> str:
    name = type(layer).__name__.removeprefix("Quant") if layer is not None else "functions"
    size = getattr(layer, "kernel_size", None)
    return f"{name} {'x'.join(map(str, size))}" if isinstance(size, tuple) else name


def _description(spec: str, found: tuple[Work, ...]) -> str:
    """Bits of the network: what its name says, else those of its layers."""
    bits = bits_of(spec) if spec else None
    if bits is not None:
        return bits.describe()
    if not found or all(work.bits == "32/32" for work in found):
        return ""
    inner = [work.bits for work in found[1:-1]] or [found[0].bits]
    usual, pixels = max(set(inner), key=inner.count), found[0].bits.partition("/")[2]
    return f"{usual} (W/A), input {pixels}, first {found[0].bits}, last {found[-1].bits}"
