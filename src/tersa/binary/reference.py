"""Packed programs in plain numpy: every operation as its definition says, one line each, and slow.

The oracle that the compiled kernels are held against, bit for bit. Nothing here is packed: codes are levels
(odd integers), sums are int64, images are NCHW. Floating-point sums (`FloatConvolution`, `SumPool` of floats)
are added in one order, tap by tap, which is the order of the kernels too.

Example:
    >>> from tersa.binary.program import Affine, Convolution, Pixels, Program, Weights
    >>> w = Weights.of(np.array([[1, -1]]).reshape(1, 1, 1, 2), bits=1)
    >>> head = Affine(1, np.float32([0.5]), np.float32([1]))
    >>> program = Program(("a",), (2, 1, 1), (Pixels(8, (2, 1, 1)), Convolution(0, w), head))
    >>> run(program, np.array([255, 0], np.uint8).reshape(1, 2, 1, 1)).tolist()     # (255 + 255) / 2 + 1
    [[256.0]]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tersa.binary.bitpack import largest, levels
from tersa.binary.program import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    FloatConvolution,
    FloatPixels,
    Floats,
    Levels,
    MaxPool,
    Operation,
    Pixels,
    Program,
    Relu,
    Repeat,
    SumPool,
    Threshold,
)
from tersa.binary.thresholds import affine

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


def pixel_codes(bits: int) -> npt.NDArray[np.uint8]:
    """The code of each byte, (256,): round(byte / 255 (2^b - 1)), in which no byte is a tie.

    >>> pixel_codes(1)[[0, 127, 128, 255]].tolist()
    [0, 0, 1, 1]
    """
    scaled = np.arange(256, dtype=np.int64) * largest(bits)
    return ((2 * scaled + 255) // 510).astype(np.uint8)


def run(program: Program, images: Bytes) -> Floats:
    """Logits (N, K) of bytes (N, C, H, W)."""
    values: list[Array] = []
    for operation in program.operations:
        values.append(_made(operation, values, images))
    return values[-1].reshape(len(images), -1)


def _made(operation: Operation, values: list[Array], images: Bytes) -> Array:
    match operation:
        case Pixels():
            return levels(pixel_codes(operation.bits)[images], operation.bits).reshape(-1, *operation.shape)
        case FloatPixels():
            return normalised(images, operation.mean, operation.std)
        case Convolution():
            weights = operation.weights.integers().astype(np.int64)
            windows = _windows(values[operation.source].astype(np.int64), weights.shape, operation)
            return np.einsum("nchwyx,oyxc->nohw", windows, weights)
        case FloatConvolution():
            return _float_convolution(values[operation.source].astype(np.float32), operation)
        case Threshold():
            table = operation.table.astype(np.int64)[None, :, None, None]  # (1, O, 1, 1, T)
            q = (values[operation.source][..., None] >= table).sum(-1)
            return levels(q, table.shape[-1].bit_length())
        case Affine():
            x = np.moveaxis(values[operation.source], 1, -1)
            return np.moveaxis(affine(x, operation.scale, operation.shift, operation.alpha), -1, 1)
        case Levels():
            q = (values[operation.source][..., None] >= operation.thresholds).sum(-1)
            return levels(q, len(operation.thresholds).bit_length())
        case Relu():
            return np.maximum(values[operation.source], np.float32(0))
        case Add():
            return values[operation.source] + values[operation.other]
        case Repeat():
            return np.concatenate([values[operation.source]] * operation.copies, axis=1)
        case AveragePool():
            return _average(values[operation.source], operation.size)
        case MaxPool():
            x = values[operation.source]
            windows = sliding_window_view(x, (operation.size, operation.size), (2, 3))
            return windows[:, :, :: operation.stride, :: operation.stride].max((4, 5))
        case SumPool():
            x = values[operation.source]
            if operation.turned is not None:
                x = np.where(operation.turned[:, None, None], -x, x)
            total = np.zeros(x.shape[:2], np.float32 if x.dtype == np.float32 else np.int64)
            for place in np.ndindex(*x.shape[2:]):
                total = total + x[:, :, place[0], place[1]]
            return total[:, :, None, None]


def normalised(images: Bytes, mean: Floats, std: Floats) -> Floats:
    """(byte / 255 - mean) / std, rounded after each step, (N, C, H, W)."""
    pixels = images.astype(np.float32) / np.float32(255)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _windows(x: Array, shape: tuple[int, ...], operation: Convolution | FloatConvolution) -> Array:
    """(N, C, H', W', kh, kw), with zeros around the map."""
    edge = (operation.padding, operation.padding)
    padded = np.pad(x, [(0, 0), (0, 0), edge, edge])
    step = operation.stride
    return sliding_window_view(padded, (shape[1], shape[2]), (2, 3))[:, :, ::step, ::step]


def _float_convolution(x: Floats, operation: FloatConvolution) -> Floats:
    taps = operation.taps
    windows = _windows(x, taps.shape, operation)
    n, _, h, w = windows.shape[:4]
    total = np.zeros((n, h, w, len(taps)), np.float32)
    for ky, kx, c in np.ndindex(*taps.shape[1:]):
        total += windows[:, c, :, :, ky, kx, None] * taps[:, ky, kx, c]
    return np.moveaxis(total, -1, 1)


def _average(x: Floats, size: int) -> Floats:
    """Sums of a window row by row, then one division, as torch does it."""
    n, c, h, w = x.shape
    found = np.empty((n, c, -(-h // size), -(-w // size)), np.float32)
    for y, z in np.ndindex(*found.shape[2:]):
        part = x[:, :, y * size : (y + 1) * size, z * size : (z + 1) * size]
        total = np.zeros((n, c), np.float32)
        for place in np.ndindex(*part.shape[2:]):
            total = total + part[:, :, place[0], place[1]]
        found[:, :, y, z] = total / np.float32(part.shape[2] * part.shape[3])
    return found
