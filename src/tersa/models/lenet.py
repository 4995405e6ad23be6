"""LeNet in two forms: the pruning study's padded one, and Caffe's.

`lenet` (widths 32-64-1024): conv1 5x5 -> relu -> pool 2 -> conv2 5x5 -> relu -> pool 2 -> fc1 -> relu -> fc2,
with padding that keeps the size. On 28x28 its weights number 800 / 51,200 / 3,211,264 / 10,240 and its
multiply-accumulates 627,200 / 10,035,200 / 3,211,264 / 10,240, layer by layer.

`lenet5` (widths 20-50-500): Caffe's LeNet-5 for MNIST: no padding, and ReLU after the first fully connected
layer only, 431,080 parameters. The literature on pruning quotes it most.

Example:
    >>> model = build_lenet("32-64-1024", (1, 28, 28), 10)
    >>> [model.get_submodule(name).weight.numel() for name in ("conv1", "conv2", "fc1", "fc2")]
    [800, 51200, 3211264, 10240]

References:
    LeCun et al., Gradient-Based Learning Applied to Document Recognition (1998).
    Caffe, examples/mnist/lenet_train_test.prototxt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, widths

GRAMMAR = "lenet:32-64-1024 (channels, channels, units)"
GRAMMAR5 = "lenet5:20-50-500 (channels, channels, units)"


class LeNet(nn.Module):
    """Two padded 5x5 convolutions, each halved by max pooling, and two fully connected layers.

    Args:
        shape: (C, H, W) of one image.
        widths: channels of conv1, channels of conv2, units of fc1.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        first, second, units = widths
        self.conv1 = nn.Conv2d(channels, first, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(second * (height // 4) * (width // 4), units)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.pool1(self.relu1(self.conv1(x)))  # (N, C1, H/2, W/2)
        x = self.pool2(self.relu2(self.conv2(x)))  # (N, C2, H/4, W/4)
        x = torch.flatten(x, 1)
        return self.fc2(self.relu3(self.fc1(x)))


class LeNet5(nn.Module):
    """Caffe's LeNet-5: unpadded 5x5 convolutions without a non-linearity of their own, max pooling.

    Args:
        shape: (C, H, W) of one image.
        widths: channels of conv1, channels of conv2, units of fc1.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        first, second, units = widths
        self.conv1 = nn.Conv2d(channels, first, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(second * _after(height) * _after(width), units)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = torch.flatten(x, 1)
        return self.fc2(self.relu1(self.fc1(x)))


def _after(side: int) -> int:
    """Rows or columns left after both unpadded convolutions and poolings."""
    return ((side - 4) // 2 - 4) // 2


def build_lenet(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `lenet:ARGUMENT`."""
    return LeNet(shape, widths(argument, "-", GRAMMAR, count=3), classes)


def build_lenet5(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `lenet5:ARGUMENT`."""
    return LeNet5(shape, widths(argument, "-", GRAMMAR5, count=3), classes)


LENET = Family(
    name="lenet",
    grammar=GRAMMAR,
    default="32-64-1024",
    smallest=8,
    build=build_lenet,
    about="two padded 5x5 convolutions and two fully connected layers, 3.3 M parameters on 28x28",
)

LENET5 = Family(
    name="lenet5",
    grammar=GRAMMAR5,
    default="20-50-500",
    smallest=16,  # the second pooling needs 2 rows: ((16 - 4) / 2 - 4) / 2 = 1
    build=build_lenet5,
    about="Caffe's LeNet-5, 431 k parameters on 28x28",
)
