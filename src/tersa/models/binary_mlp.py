"""Binary multi-layer perceptrons of BNN-PYNQ: `tfc`, `sfc` and `lfc`, three hidden layers of 64, 256, 1024.

    h_0 = pixels,  h_i = sign(norm(W_i h_{i-1})),  logits = norm(W_4 h_3)

1/1 with pixels of 8 bits by themselves; the published ones read binarised pixels: `sfc+w1a1:in=1`. Differs
from BNN-PYNQ: no dropout.

Example:
    >>> model = build_hidden((64,) * 3, (1, 28, 28), 10, LowBits())
    >>> sum(p.numel() for p in model.parameters() if p.dim() == 2)
    59008

References:
    Umuroglu et al., FINN (2017), section 5; brevitas' `bnn_pynq` examples, for the names.
"""

from __future__ import annotations

import math

from torch import nn

from tersa.errors import UsageError
from tersa.models.family import Shape
from tersa.models.lowbit import Builder, LowBitFamily, LowBitNetwork, LowBits, binary_family

WIDTHS = {"tfc": 64, "sfc": 256, "lfc": 1024}
HIDDEN = 3


def build_hidden(widths: tuple[int, ...], shape: Shape, classes: int, bits: LowBits) -> nn.Module:
    """Fully connected layers of these widths and the logits."""
    if bits.sums:
        raise UsageError("pool=sums is for networks with poolings; leave it out")
    layers = Builder(bits, shape[0])
    features = nn.Sequential(layers.pixels(), nn.Flatten())
    inputs = math.prod(shape)
    classifier: list[nn.Module] = []
    for place, width in enumerate(widths, start=1):
        classifier += [*layers.linear(inputs, width), layers.activation(before_last=place == len(widths))]
        inputs = width
    return LowBitNetwork(features, nn.Sequential(*classifier, *layers.logits(inputs, classes)))


def _family(name: str, width: int) -> LowBitFamily:
    def build(argument: str, shape: Shape, classes: int, bits: LowBits) -> nn.Module:
        return build_hidden((width,) * HIDDEN, shape, classes, bits)

    about = f"fully connected layers {HIDDEN} x {width}, 1-bit weights and activations"
    return binary_family(name, about, build, smallest=1, largest=1_000_000)


FAMILIES: tuple[LowBitFamily, ...] = tuple(_family(name, width) for name, width in WIDTHS.items())
