"""DenseNet without bottlenecks: `densenet:40` with growth 12.

    x_{l+1} = [x_l, conv3x3(relu(bn(x_l)))]

Three dense blocks of (depth - 4) / 3 layers, each layer adding 12 channels; between the blocks a 1x1
convolution that keeps the channels and an average pooling that halves the size. This is the paper's first
CIFAR form, 1.0 M parameters at depth 40. Layers are `conv1`, `block1.0.bn`, `block1.0.conv`, ...,
`transition1.conv`, `fc`.

Example:
    >>> sum(p.numel() for p in build("40", (3, 32, 32), 10).parameters())
    1019722

References:
    Huang et al., Densely Connected Convolutional Networks (2017), section 3 and table 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, choice, initialise_he_

GRAMMAR = "densenet:22|40|100"
DEPTHS = (22, 40, 100)
GROWTH = 12
STEM = 16


class DenseLayer(nn.Module):
    """Adds `GROWTH` channels to its input.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels + GROWTH, H, W) of (N, channels, H, W)."""
        return torch.cat([x, self.conv(self.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """1x1 convolution that keeps the channels, then 2x2 average pooling.

    Args:
        channels: of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels, H/2, W/2) of (N, channels, H, W)."""
        return self.pool(self.conv(self.relu(self.bn(x))))


def dense_block(channels: int, layers: int) -> nn.Sequential:
    """Layers that each see everything before them."""
    return nn.Sequential(*(DenseLayer(channels + i * GROWTH) for i in range(layers)))


class DenseNet(nn.Module):
    """Three dense blocks, two transitions, global average, one fully connected layer.

    Args:
        channels: C of the images.
        layers: per block; the depth is 3 * layers + 4.
        classes: K, outputs.
    """

    def __init__(self, channels: int, layers: int, classes: int) -> None:
        super().__init__()
        wide, wider, widest = (STEM + i * layers * GROWTH for i in (1, 2, 3))
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.block1 = dense_block(STEM, layers)
        self.transition1 = Transition(wide)
        self.block2 = dense_block(wide, layers)
        self.transition2 = Transition(wider)
        self.block3 = dense_block(wider, layers)
        self.bn = nn.BatchNorm2d(widest)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widest, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.transition1(self.block1(self.conv1(x)))
        x = self.block3(self.transition2(self.block2(x)))
        x = self.avgpool(self.relu(self.bn(x)))
        return self.fc(torch.flatten(x, 1))


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `densenet:ARGUMENT`."""
    depth = choice(argument, DEPTHS, GRAMMAR)
    model = DenseNet(shape[0], (depth - 4) // 3, classes)
    initialise_he_(model)
    return model


FAMILY = Family(
    name="densenet",
    grammar=GRAMMAR,
    default="40",
    smallest=8,
    build=build,
    about="DenseNet with growth 12, 1.0 M parameters for 40 layers",
)
