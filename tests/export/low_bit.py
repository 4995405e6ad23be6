"""Small low-bit networks with settled statistics: odd channels, every sign of scale, strides, pooling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tersa.export.artefact import Header
from tersa.models.bresnet import BinaryBlock
from tersa.models.lowbit import Builder, LowBits, vote
from tersa.models.zoo import build
from tersa.quant.layers import PixelInput, SumPool2d

CLASSES = tuple("abcde")
SHAPE = (3, 9, 9)
HEADER = Header(CLASSES, SHAPE, (0.48, 0.45, 0.4), (0.25, 0.24, 0.26))

BITS = {
    "binary": LowBits(),
    "pixels of 1 bit": LowBits(pixels=1),
    "pixels of 3 bits": LowBits(pixels=3),
    "alpha": LowBits(scale="channel"),
    "2/2": LowBits(2, 2, 8, 2, 2, 2),
    "ternary/3": LowBits("ternary", 3, 8, "ternary", "ternary", 3),
    "1/5, ends 8/8": LowBits(1, 5, 8, 8, 8, 8),
    "standardised": LowBits(shaping="standardise"),
}
"""Names of networks by their bits; every sum in them is of integers."""

FLOAT_ENDS = LowBits(1, 1, 32, 32, 32, 32)


def plain(bits: LowBits) -> nn.Module:
    """Padded, strided and pooled convolutions, a vote and a fully connected layer."""
    layers = Builder(bits, SHAPE[0])
    return nn.Sequential(
        *(layers.pixels(), *layers.conv(3, 7, padding=1), layers.activation(), nn.MaxPool2d(2)),
        *(*layers.conv(7, 5, kernel=1), layers.activation()),
        *(*layers.conv(5, 9, stride=2, padding=1), layers.activation()),
        *vote(layers, 9),
        *(*layers.linear(9, 6), layers.activation(before_last=True)),
        *layers.logits(6, len(CLASSES)),
    )


def unpadded(bits: LowBits) -> nn.Module:
    """Convolutions without padding, as in CNV, a pooling and the logits."""
    layers = Builder(bits, SHAPE[0])
    return nn.Sequential(
        *(layers.pixels(), *layers.conv(3, 7), layers.activation()),
        *(*layers.conv(7, 5, kernel=2), layers.activation(), nn.MaxPool2d(2)),
        *(*layers.conv(5, 9, stride=2), layers.activation(before_last=True), nn.Flatten()),
        *layers.logits(9, len(CLASSES)),
    )


def residual(bits: LowBits) -> nn.Module:
    """Two blocks with real-valued shortcuts, the second with a stride and twice the channels."""
    layers = Builder(bits, SHAPE[0])
    start = [layers.pixels(), *layers.conv(3, 6, padding=1)]
    blocks = [BinaryBlock(layers, 6, 6, 1), BinaryBlock(layers, 6, 12, 2)]
    end = [layers.activation(before_last=True), SumPool2d(), *layers.logits(12, len(CLASSES), places=25)]
    return nn.Sequential(*start, *blocks, *end)


def perceptron() -> nn.Module:
    """TFC on these images."""
    return build("tfc", SHAPE, len(CLASSES))


def settled(network: nn.Module) -> nn.Module:
    """In evaluation mode, with normalisations of every sign (and zero), and statistics of some images."""
    for index, (name, tensor) in enumerate(network.named_parameters()):
        if tensor.dim() == 1:
            wave = torch.sin(1.3 * torch.arange(tensor.numel(), dtype=torch.float32) + index)
            tensor.data = (0.8 * wave + (0.3 if "weight" in name else 0.0)).round(decimals=2)
            tensor.data[-1] = 0.0
        else:
            tensor.data = torch.sin(1.7 * torch.arange(tensor.numel(), dtype=torch.float32) + index).view_as(
                tensor
            )
    for part in network.modules():
        if isinstance(part, PixelInput):
            part.settle_(HEADER.mean, HEADER.std)
    network.train()
    with torch.no_grad():
        for _ in range(8):
            network(normalised(pixels(64)))
    return network.eval()


def pixels(count: int) -> npt.NDArray[np.uint8]:
    """Images as bytes, from black to white."""
    return np.random.default_rng(count).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def normalised(images: npt.NDArray[np.uint8]) -> Tensor:
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (HEADER.mean, HEADER.std))
    return (torch.from_numpy(images / np.float32(255)) - mean) / std


def logits(network: nn.Module, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return network(normalised(images)).numpy()
