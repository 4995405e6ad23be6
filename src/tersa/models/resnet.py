"""Residual networks: the CIFAR family `resnet:20|32|44|56|110`, and `resnet18`.

    y = relu(F(x) + shortcut(x)),  F = conv3x3 - bn - relu - conv3x3 - bn

`resnet:6n+2` has three stages of n blocks with 16, 32 and 64 channels. Where a stage begins with a stride,
the shortcut is a 1x1 convolution with batch normalisation (option B). Differs from the paper, whose CIFAR
networks use option A (a strided identity padded with zero channels; 269,722 parameters for 20 layers, here
272,474): published model zoos mostly use B, and zeros are no layer whose channels could be removed.

`resnet18` has four stages of two blocks with 64 to 512 channels. Images above 64x64 get the paper's stem
(7x7, stride 2, max pooling), smaller ones a 3x3 convolution with stride 1, as is the custom on CIFAR.

Layers are `conv1`, `bn1`, `layer1.0.conv1`, ..., `layer2.0.downsample.0`, ..., `fc`.

Example:
    >>> sum(p.numel() for p in build("20", (3, 32, 32), 10).parameters())
    272474

References:
    He et al., Deep Residual Learning for Image Recognition (2016), sections 3.4 and 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, choice, initialise_he_

GRAMMAR = "resnet:20|32|44|56|110"
DEPTHS = (20, 32, 44, 56, 110)
SMALL_IMAGE = 64


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        inputs: channels of the input.
        outputs: channels of both convolutions.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H/stride, W/stride) of (N, inputs, H, W)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width; the first one has the stride."""
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """Three stages of n blocks with 16, 32, 64 channels.

    Args:
        channels: C of the images.
        blocks: n, per stage; the depth is 6n + 2.
        classes: K, outputs.
    """

    def __init__(self, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(16, 16, blocks, 1)
        self.layer2 = stage(16, 32, blocks, 2)
        self.layer3 = stage(32, 64, blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ResNet18(nn.Module):
    """Four stages of two blocks with 64, 128, 256, 512 channels.

    Args:
        shape: (C, H, W) of one image.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        small = max(shape[1:]) <= SMALL_IMAGE
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(shape[0], 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(64, 64, 2, 1)
        self.layer2 = stage(64, 128, 2, 2)
        self.layer3 = stage(128, 256, 2, 2)
        self.layer4 = stage(256, 512, 2, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `resnet:ARGUMENT`."""
    depth = choice(argument, DEPTHS, GRAMMAR)
    model = CifarResNet(shape[0], (depth - 2) // 6, classes)
    initialise_he_(model)
    return model


def build18(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `resnet18`, which takes no argument."""
    del argument
    model = ResNet18(shape, classes)
    initialise_he_(model)
    return model


CIFAR = Family(
    name="resnet",
    grammar=GRAMMAR,
    default="20",
    smallest=8,
    build=build,
    about="CIFAR residual networks with projection shortcuts, 0.27 M parameters for 20 layers",
)

RESNET18 = Family(
    name="resnet18",
    grammar="resnet18",
    default="",
    takes_argument=False,
    smallest=8,
    build=build18,
    about="ResNet-18, 11.2 M parameters with ten outputs",
)
