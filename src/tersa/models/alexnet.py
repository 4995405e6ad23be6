"""AlexNet, one tower: `alexnet`, or `alexnet:0.25` with a width multiplier.

Five convolutions (64-192-384-256-256), three overlapping 3x3 poolings, two fully connected layers of 4096
units with dropout, and the output: 57,044,810 parameters with ten outputs at 224x224 and width 1.0. The
layers have the names that PyTorch users know (`features.0`, ..., `classifier.1`, ...).

Below 63x63 the first convolution's stride of 4 would leave nothing for the third pooling, so it becomes 2
(from 35x35) or 1; the first fully connected layer takes what is left, at most 6x6 by adaptive pooling.

Example:
    >>> stride(224), stride(48), stride(32)
    (4, 2, 1)

References:
    Krizhevsky, One Weird Trick for Parallelizing Convolutional Neural Networks (2014).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, multiplier, scaled

GRAMMAR = "alexnet:1.0 (width multiplier from 0.05 to 4)"
CHANNELS, UNITS = (64, 192, 384, 256, 256), 4096
"""At width 1.0."""
LARGEST_MAP = 6
"""Rows and columns of the features at 224x224."""
LEAST_BEFORE_POOLING = 15
"""Rows that three poolings reduce to 1: 15 -> 7 -> 3 -> 1."""


def _first(side: int, step: int) -> int:
    """Rows after the first convolution: 11x11, padding 2."""
    return (side + 2 * 2 - 11) // step + 1


def stride(side: int) -> int:
    """Stride of the first convolution: the largest of 4, 2, 1 that leaves enough for three poolings."""
    return next((step for step in (4, 2) if _first(side, step) >= LEAST_BEFORE_POOLING), 1)


def _after(side: int, step: int) -> int:
    """Rows after the three poolings (3x3, stride 2); the convolutions between keep the size."""
    rows = _first(side, step)
    for _ in range(3):
        rows = (rows - 3) // 2 + 1
    return rows


class AlexNet(nn.Module):
    """Five convolutions and three fully connected layers.

    Args:
        shape: (C, H, W) of one image.
        width: every layer has this times its channels or units, rounded, at least 1.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, width: float, classes: int) -> None:
        super().__init__()
        channels, height, across = shape
        step = stride(min(height, across))
        rows, columns = (min(_after(side, step), LARGEST_MAP) for side in (height, across))
        first, second, third, fourth, last = (scaled(each, width) for each in CHANNELS)
        units = scaled(UNITS, width)
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, 11, stride=step, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fourth, last, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((rows, columns))
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(last * rows * columns, units),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.avgpool(self.features(x))  # (N, 256, 6, 6) for 224x224
        return self.classifier(torch.flatten(x, 1))


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `alexnet:ARGUMENT`."""
    return AlexNet(shape, multiplier(argument, GRAMMAR), classes)


FAMILY = Family(
    name="alexnet",
    grammar=GRAMMAR,
    default="1.0",
    smallest=32,
    build=build,
    about="AlexNet in one tower, 57.0 M parameters with ten outputs at 224x224 and width 1.0",
)
