"""MobileNet, first version: `mobilenet:1.0`, the number being the width multiplier.

A 3x3 stem, then thirteen blocks of a depthwise 3x3 and a pointwise 1x1 convolution, batch normalisation and
ReLU after each, global average, one fully connected layer: 3,217,226 parameters with ten outputs at width
1.0. Layers are `stem`, `blocks.0.depthwise`, `blocks.0.pointwise`, ... and `fc`.

Images up to 64x64 keep their size in the stem (stride 1 for 2), as the CIFAR forms of such networks do:
halved five times, a 32x32 image would be one pixel for the last three blocks.

Example:
    >>> sum(p.numel() for p in build("1.0", (3, 224, 224), 10).parameters())
    3217226

References:
    Howard et al., MobileNets (2017), table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, initialise_he_, multiplier, scaled

GRAMMAR = "mobilenet:1.0 (width multiplier from 0.05 to 4)"
STEM = 32
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
"""(output channels at width 1.0, stride) of the thirteen blocks."""
SMALL_IMAGE = 64


class Separable(nn.Module):
    """Depthwise 3x3 and pointwise 1x1 convolution, each with batch normalisation and ReLU.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the depthwise convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H/stride, W/stride) of (N, inputs, H, W)."""
        x = self.relu1(self.bn1(self.depthwise(x)))
        return self.relu2(self.bn2(self.pointwise(x)))


class MobileNet(nn.Module):
    """Stem, thirteen separable blocks, global average, one fully connected layer.

    Args:
        shape: (C, H, W) of one image.
        width: every layer has this times its channels, rounded, at least 1.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, width: float, classes: int) -> None:
        super().__init__()
        channels, height, across = shape
        inputs = scaled(STEM, width)
        stride = 1 if max(height, across) <= SMALL_IMAGE else 2
        self.stem = nn.Conv2d(channels, inputs, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        blocks: list[nn.Module] = []
        for width_at_one, step in BLOCKS:
            outputs = scaled(width_at_one, width)
            blocks.append(Separable(inputs, outputs, step))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.relu(self.bn(self.stem(x)))
        x = self.avgpool(self.blocks(x))  # (N, 1024, 1, 1)
        return self.fc(torch.flatten(x, 1))


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `mobilenet:ARGUMENT`."""
    model = MobileNet(shape, multiplier(argument, GRAMMAR), classes)
    initialise_he_(model)
    return model


FAMILY = Family(
    name="mobilenet",
    grammar=GRAMMAR,
    default="1.0",
    smallest=8,
    build=build,
    about="MobileNet V1, 3.2 M parameters with ten outputs at width 1.0",
)
