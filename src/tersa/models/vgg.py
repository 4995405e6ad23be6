"""VGG networks with batch normalisation, and VGG-Small.

`vgg:11|16|19` are the paper's configurations A, D and E with batch normalisation after each 3x3 convolution;
`vgg:11x0.5` has half the channels in every layer.
The classifier is the one used on CIFAR, one fully connected layer on globally averaged features, so that one
network serves 32x32 (where the features are 1x1) and 224x224. Its layers are `features.0`, ... and
`classifier`. Differs from the paper: not the three fully connected layers of 4096 units, 120 of its 138
million parameters.

`vgg-small` is the network of low-bit studies on CIFAR-10: 128-128-256-256-512-512 channels, max pooling after
every second convolution, and one fully connected layer on the flattened features.

Example:
    >>> sum(p.numel() for p in build_vgg("16", (3, 32, 32), 10).parameters())
    14724042

References:
    Simonyan & Zisserman, Very Deep Convolutional Networks (2015), table 1.
    Zhang et al., LQ-Nets (2018), section 4.2, for VGG-Small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, choice, initialise_he_, multiplier, scaled

GRAMMAR = "vgg:11|16|19 (and x with a width multiplier from 0.05 to 4: vgg:11x0.5)"
POOL = 0
"""In a plan: a 2x2 max pooling instead of a convolution."""

PLANS: dict[int, tuple[int, ...]] = {
    11: (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    16: (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3, POOL),
    19: (64, 64, POOL, 128, 128, POOL, *[256] * 4, POOL, *[512] * 4, POOL, *[512] * 4, POOL),
}
SMALL_PLAN = (128, 128, POOL, 256, 256, POOL, 512, 512, POOL)


def plan_of(argument: str) -> tuple[int, ...]:
    """Channels and poolings of `vgg:ARGUMENT`.

    Raises:
        UsageError: a depth that is not offered, or a bad width multiplier.

    >>> plan_of("11x0.5")[:6]
    (32, 0, 64, 0, 128, 128)
    """
    depth, times, by = argument.partition("x")
    plan = PLANS[choice(depth, tuple(PLANS), GRAMMAR)]
    width = multiplier(argument, GRAMMAR, by) if times else 1.0
    return tuple(channels and scaled(channels, width) for channels in plan)


def convolutions(channels: int, plan: tuple[int, ...]) -> nn.Sequential:
    """3x3 convolutions with batch normalisation and ReLU, and poolings, in the order of `plan`.

    Convolutions have no bias: the normalisation that follows subtracts the mean.
    """
    layers: list[nn.Module] = []
    for width in plan:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """3x3 convolutions in five halvings, global average, one fully connected layer.

    Args:
        channels: C of the images.
        plan: see `plan_of`.
        classes: K, outputs.
    """

    def __init__(self, channels: int, plan: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.features = convolutions(channels, plan)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(plan[-2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.avgpool(self.features(x))  # (N, 512, 1, 1)
        return self.classifier(torch.flatten(x, 1))


class VGGSmall(nn.Module):
    """Six 3x3 convolutions in three halvings, one fully connected layer on the flattened features.

    Args:
        shape: (C, H, W) of one image.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = convolutions(channels, SMALL_PLAN)
        self.classifier = nn.Linear(SMALL_PLAN[-2] * (height // 8) * (width // 8), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.features(x)  # (N, 512, H/8, W/8)
        return self.classifier(torch.flatten(x, 1))


def build_vgg(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `vgg:ARGUMENT`."""
    model = VGG(shape[0], plan_of(argument), classes)
    initialise_he_(model)
    return model


def build_small(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `vgg-small`, which takes no argument."""
    del argument
    model = VGGSmall(shape, classes)
    initialise_he_(model)
    return model


VGG_FAMILY = Family(
    name="vgg",
    grammar=GRAMMAR,
    default="16",
    smallest=32,  # five halvings
    build=build_vgg,
    about="VGG with batch normalisation and one fully connected layer, 14.7 M parameters for 16 layers",
)

SMALL = Family(
    name="vgg-small",
    grammar="vgg-small",
    default="",
    takes_argument=False,
    smallest=8,
    build=build_small,
    about="six 3x3 convolutions with batch normalisation, 4.7 M parameters on 32x32",
)
