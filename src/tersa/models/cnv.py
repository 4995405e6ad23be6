"""CNV, the convolutional network of FINN and BNN-PYNQ, in floating point (`cnv+w1a1` is in `bvgg.py`).

Unpadded 3x3 convolutions of 64-64 | 128-128 | 256-256 channels with a max pooling after the first two pairs,
then fully connected layers of 512 and 512 units, batch normalisation and ReLU after each. It was laid out for
32x32, where the last convolution leaves one pixel; quantising it gives the published CNV-WxAy networks.
Layers are `features.0`, ... and `classifier.0`, ... Differs from BNN-PYNQ: ReLU where that has a quantised
activation, and no normalisation of the logits.

Example:
    >>> sum(p.numel() for p in build("", (3, 32, 32), 10).parameters())
    1546698

References:
    Umuroglu et al., FINN: A Framework for Fast, Scalable Binarized Neural Network Inference (2017), section
    5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, initialise_he_

PAIRS = (64, 128, 256)
UNITS = (512, 512)


class CNV(nn.Module):
    """Six unpadded convolutions and three fully connected layers.

    Args:
        shape: (C, H, W) of one image.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        for pair in PAIRS:
            for inputs in (channels, pair):
                layers += [nn.Conv2d(inputs, pair, 3, bias=False), nn.BatchNorm2d(pair), nn.ReLU()]
            if pair != PAIRS[-1]:
                layers.append(nn.MaxPool2d(2))
            channels = pair
        self.features = nn.Sequential(*layers)
        features = channels * left(height) * left(width)
        dense: list[nn.Module] = []
        for units in UNITS:
            dense += [nn.Linear(features, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]
            features = units
        self.classifier = nn.Sequential(*dense, nn.Linear(features, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.features(x)  # (N, 256, 1, 1) for 32x32
        return self.classifier(torch.flatten(x, 1))


def left(side: int) -> int:
    """Rows or columns that the convolutions and poolings leave."""
    return ((side - 4) // 2 - 4) // 2 - 4


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `cnv`, which takes no argument."""
    del argument
    model = CNV(shape, classes)
    initialise_he_(model)
    return model


FAMILY = Family(
    name="cnv",
    grammar="cnv",
    default="",
    takes_argument=False,
    smallest=32,  # ((32 - 4) / 2 - 4) / 2 - 4 = 1 pixel is left
    largest=64,
    build=build,
    about="FINN's CNV in floating point, 1.5 M parameters on 32x32",
)
