"""Binary residual networks with real-valued shortcuts: `bresnet18`, `bresnet20`.

    y = shortcut(x) + norm(conv(sign(x)))        one 3x3 convolution per block, two blocks per ResNet block

The shortcut carries real values past every binary convolution (Bi-Real Net). Where a stage begins with a
stride the shortcut is a 2x2 mean whose channels are doubled by repetition (ReActNet), so that no weight of
the network is outside the binary layers. The end is a sign, the sum over the map (an exact integer for
signs), a fully connected layer and the normalisation that makes its sums logits.

`bresnet20`: 16, 32, 64 channels, 3 x 2 blocks each. `bresnet18`: 64, 128, 256, 512 channels, 2 x 2 blocks
each. The first layer is 3x3 with stride 1, its normalised sums start the shortcut.

Differs from the papers: no parametrised activations, no float layers unless the suffix asks for them.

Example:
    >>> model = build(BRESNET20, (3, 32, 32), 10, LowBits()).eval()
    >>> sum(p.numel() for p in model.parameters() if p.dim() > 1)
    268336

References:
    Liu et al., Bi-Real Net (ECCV 2018), section 3.1; Liu et al., ReActNet (ECCV 2020), section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.errors import UsageError
from tersa.models.family import Shape
from tersa.models.lowbit import Builder, LowBitFamily, LowBits, binary_family
from tersa.quant.layers import SumPool2d

BRESNET18 = ((64, 4), (128, 4), (256, 4), (512, 4))
BRESNET20 = ((16, 6), (32, 6), (64, 6))
"""Channels and blocks of each stage."""


class BinaryBlock(nn.Module):
    """A low-bit convolution beside a real-valued shortcut.

        y = repeat(pool(x), copies) + norm(conv(activation(x)))

    Attributes:
        activation: `QuantActivation`.
        conv: `QuantConv2d`, 3x3.
        norm: `IntegerBatchNorm2d`.
        pool: of the shortcut, a 2x2 mean or nothing.
        copies: how often the shortcut's channels are repeated, 1 or 2.

    Args:
        layers: of the network.
        inputs: channels of the input.
        outputs: of the convolution, `inputs` or twice that.
        stride: of the convolution and the shortcut, 1 or 2.
    """

    def __init__(self, layers: Builder, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activation = layers.activation()
        self.conv, self.norm = layers.conv(inputs, outputs, stride=stride, padding=1)
        self.pool: nn.Module = (
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
        )
        self.copies = outputs // inputs

    def forward(self, x: Tensor) -> Tensor:
        """Real values (N, outputs, H/stride, W/stride) of (N, inputs, H, W)."""
        shortcut = self.pool(x)
        if self.copies > 1:
            shortcut = torch.cat([shortcut] * self.copies, 1)
        return shortcut + self.norm(self.conv(self.activation(x)))


def build(stages: tuple[tuple[int, int], ...], shape: Shape, classes: int, bits: LowBits) -> nn.Module:
    """A residual network of these stages, as one `nn.Sequential`."""
    if bits.masked:
        raise UsageError("mask=subsidiary is for networks without shortcuts, which show every channel")
    if bits.sums:
        raise UsageError(
            "pool=sums is for networks with poolings, and a binary ResNet has strides; leave it out"
        )
    layers = Builder(bits, shape[0])
    channels, rows, columns = stages[0][0], shape[1], shape[2]
    modules: list[nn.Module] = [layers.pixels(), *layers.conv(shape[0], channels, padding=1)]
    for place, (width, blocks) in enumerate(stages):
        for block in range(blocks):
            stride = 2 if place > 0 and block == 0 else 1
            modules.append(BinaryBlock(layers, channels, width, stride))
            channels = width
            rows, columns = -(-rows // stride), -(-columns // stride)
    end = [layers.activation(before_last=True), SumPool2d()]
    return nn.Sequential(*modules, *end, *layers.logits(channels, classes, places=rows * columns))


def _family(name: str, stages: tuple[tuple[int, int], ...], about: str) -> LowBitFamily:
    def made(argument: str, shape: Shape, classes: int, bits: LowBits) -> nn.Module:
        return build(stages, shape, classes, bits)

    return binary_family(name, about, made, smallest=8)


FAMILIES: tuple[LowBitFamily, ...] = (
    _family("bresnet18", BRESNET18, "binary ResNet-18 with real-valued shortcuts, 11 M weights of one bit"),
    _family("bresnet20", BRESNET20, "binary ResNet-20 with real-valued shortcuts, 0.27 M weights of one bit"),
)
