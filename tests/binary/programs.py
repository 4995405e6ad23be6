"""Small packed programs of every kind, drawn from a seed, and low-bit networks with drawn weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tersa.binary.program import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    FloatConvolution,
    FloatPixels,
    Levels,
    MaxPool,
    Operation,
    Pixels,
    Program,
    Relu,
    Repeat,
    SumPool,
    Threshold,
    Weights,
)
from tersa.models import zoo
from tersa.quant.layers import PixelInput

MEAN, STD = (0.47, 0.31, 0.4), (0.2, 0.25, 0.3)
CLASSES = tuple("abcde")


def images(shape: tuple[int, int, int], count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Bytes (N, C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def weights(rng: np.random.Generator, shape: Sequence[int], bits: int) -> Weights:
    """Integer weights of so many bits, 0 for ternary."""
    if bits == 0:
        return Weights.of(rng.integers(-1, 2, shape), 0)
    return Weights.of(2 * rng.integers(0, 2**bits, shape) - (2**bits - 1), bits)


def thresholds(rng: np.random.Generator, outputs: int, bits: int, bound: int) -> Threshold:
    """Thresholds where sums are; the first channels have ends that no sum and that every sum reaches."""
    spread = max(2.0, bound**0.5 * 2)
    table = np.sort(rng.normal(0, spread, (outputs, 2**bits - 1)), axis=1).astype(np.int32)
    table[0] = np.iinfo(np.int32).max
    table[-1] = np.iinfo(np.int32).min
    return Threshold(-1, table)


def one_layer(
    *,
    size: tuple[int, int, int],
    outputs: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    pixel_bits: int = 1,
    weight_bits: int = 1,
    code_bits: int = 1,
    pool: tuple[int, int] | None = None,
    seed: int = 0,
) -> Program:
    """Pixels, one convolution to codes, a pooling where asked, and a layer over the whole map to logits."""
    rng = np.random.default_rng(seed)
    c, h, w = size
    layer = Convolution(0, weights(rng, (outputs, kernel, kernel, c), weight_bits), stride, padding)
    bound = (2**pixel_bits - 1) * layer.weights.largest * kernel * kernel * c
    ending = thresholds(rng, outputs, code_bits, bound)
    operations: list[Operation] = [Pixels(pixel_bits, size), layer, Threshold(1, ending.table)]
    h, w = ((side + 2 * padding - kernel) // stride + 1 for side in (h, w))
    if pool is not None:
        operations.append(MaxPool(2, *pool))
        h, w = ((side - pool[0]) // pool[1] + 1 for side in (h, w))
    last = weights(rng, (len(CLASSES), h, w, outputs), weight_bits)
    operations.append(Convolution(len(operations) - 1, last))
    operations.append(affine(rng, len(operations) - 1, len(CLASSES)))
    return Program(CLASSES, size, tuple(operations), "test")


def affine(rng: np.random.Generator, source: int, channels: int, alpha: bool = True) -> Affine:
    """Scales of both signs and one of 0."""
    scale, shift, factor = rng.normal(size=(3, channels)).astype(np.float32)
    scale[0] = 0
    return Affine(source, scale, shift, factor if alpha else None)


def residual(seed: int = 0, code_bits: int = 2, weight_bits: int | None = None) -> Program:
    """All that is no plain layer: real shortcuts, means, repetition, sums over maps, float layers.

    With `weight_bits`, the float layers have integer weights of so many bits, 0 for ternary.
    """
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.normal(size=2**code_bits - 1)).astype(np.float32)
    size = (3, 7, 9)

    def taps(*shape: int) -> npt.NDArray[np.float32] | Weights:
        floats = rng.normal(size=shape).astype(np.float32)
        return floats if weight_bits is None else weights(rng, shape, weight_bits)

    operations: tuple[Operation, ...] = (
        FloatPixels(size, np.float32(MEAN), np.float32(STD)),
        FloatConvolution(0, taps(5, 3, 3, 3), 1, 1),
        affine(rng, 1, 5),
        Levels(2, levels),
        Convolution(3, weights(rng, (10, 3, 3, 5), 1), 2, 1),
        affine(rng, 4, 10, alpha=False),
        AveragePool(2, 2),
        Repeat(6, 2),
        Add(7, 5),
        Relu(8),
        MaxPool(9, 2, 1),
        Levels(10, levels),
        SumPool(11, (np.arange(10) % 3 == 0).astype(np.uint8)),
        Threshold(12, np.sort(rng.integers(-20, 20, (10, 1)), axis=1).astype(np.int32)),
        Convolution(12, weights(rng, (10, 1, 1, 10), 2)),
        affine(rng, 14, 10),
        SumPool(15),
        FloatConvolution(13, taps(10, 1, 1, 10)),
        Add(16, 17),
        affine(rng, 18, 10),
        FloatConvolution(19, taps(len(CLASSES), 1, 1, 10)),
    )
    return Program(CLASSES, size, operations)


def network(spec: str, shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """A network of the zoo with drawn weights, scales of both signs and settled statistics, in eval mode."""
    torch.manual_seed(seed)
    model = zoo.build(spec, shape, len(CLASSES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.5)
            module.weight.data[0] = 0.0
        if isinstance(module, PixelInput):
            module.settle_(MEAN[: shape[0]], STD[: shape[0]])
    with torch.no_grad():
        model(normalised(images(shape, 4, seed)))
    return model.eval()


def normalised(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Bytes as a network sees them."""
    channels = pixels.shape[1]
    mean, std = (torch.tensor(values[:channels]).view(-1, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(pixels).float() / 255 - mean) / std
