"""A packed program as an OpenVINO model: the same computation, its binary layers in OpenVINO's own kernels.

    Convolution of 1-bit weights and codes    BinaryConvolution (XNOR and popcount); padded places count 0
    any other Convolution                     Convolution of whole numbers in float32, exact below 2^23
    Threshold, Levels of one bit              FakeQuantize to 0 and 1
    Threshold of more bits                    Gather: a table of what every sum gives
    MaxPool of 1-bit codes                    before their FakeQuantize: the sign of the largest is the same

OpenVINO merges neighbours when it compiles: a scale into weights or thresholds, a product and a sum into one
rounding. A program rounds after each step, so that nodes which change no value stand where that would change
logits. And what is wrong in its binary convolution (2026.4) is gone round: channels that are no multiple of
8, a tensor added to it with a FakeQuantize behind, strides of 3 and more; paddings that it refuses, too.

What is refused, by name: layers on floats, whose sums have an order of their own; activations of several bits
made of floats; whole numbers from 2^23 on. OpenVINO has binary convolutions for a fixed batch size only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tersa.binary.bitpack import largest
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
)
from tersa.errors import TargetError

Floats = npt.NDArray[np.float32]

MOST_WHOLE = 1 << 23
"""Sums stay below this: float32 then holds them, and the halves between them that are their thresholds."""
MOST_TABLE = 1 << 24
"""Entries of the table of a Threshold of several bits."""
CHANNELS = 8
"""OpenVINO's binary convolution reads channels by the byte."""
MOST_PADDING = 4
"""That OpenVINO's binary convolution takes, if the row that it makes is at least as long."""
LARGEST = float(np.finfo(np.float32).max)


def binary_layers(program: Program) -> list[int]:
    """Convolutions of 1-bit weights on 1-bit codes that OpenVINO's binary one computes."""
    return [place for place, one in enumerate(program.operations) if _binary(program, place, one)]


def require_binary(program: Program) -> None:
    """Refuse what OpenVINO has no exact operations for.

    Raises:
        TargetError: says that nothing is binary, or names the first operation.
    """
    if not binary_layers(program):
        raise TargetError(
            "openvino in packed: no layer is one for OpenVINO's binary convolution (1-bit weights and 1-bit "
            f"activations); the network is {program.precision or 'of other bits'}"
        )
    for place, one in enumerate(program.operations):
        why = _why_not(program, place, one)
        if why:
            raise TargetError(f"openvino in packed: operation {place} ({type(one).__name__}) {why}")


def _why_not(program: Program, place: int, one: Operation) -> str:
    value = program.values[place]
    if isinstance(one, FloatPixels | FloatConvolution):
        return "works on floats, which OpenVINO would add in another order"
    if isinstance(one, SumPool) and value.kind == "floats":
        return "adds floats, which OpenVINO would do in another order"
    if isinstance(one, Levels) and value.bits > 1:
        return f"makes activations of {value.bits} bits, OpenVINO has binary ones"
    if value.kind in ("sums", "integers") and value.bound >= MOST_WHOLE:
        return f"makes sums of up to {value.bound:,}; OpenVINO's float32 is exact below {MOST_WHOLE:,}"
    if isinstance(one, Threshold) and value.bits > 1:
        entries = len(one.table) * (2 * program.values[one.source].bound + 1)
        if entries > MOST_TABLE:
            return f"would be a table of {entries:,} levels; at most {MOST_TABLE:,} are allowed"
    return ""


def _binary(program: Program, place: int, one: Operation) -> bool:
    if not isinstance(one, Convolution) or one.weights.bits != 1 or not _one_bit(program, one.source):
        return False
    side, width = max(one.weights.shape[1:3]), program.values[place].shape[2]
    right = one.stride <= 2 or side <= 3
    taken = one.padding <= min(MOST_PADDING, width) and (side <= 7 or one.padding == 0 or one.stride == 1)
    return right and taken


def _one_bit(program: Program, index: int) -> bool:
    value = program.values[index]
    return value.kind == "codes" and value.bits == 1


def binary_model(openvino: Any, program: Program, images: int) -> Any:
    """The `openvino.Model` of a program for batches of so many images: pixels in 0..1 to logits (N, K).

    Args:
        openvino: the package.
        program: what to compute.
        images: in a batch.

    Raises:
        TargetError: as `require_binary`.
    """
    require_binary(program)
    return _Builder(openvino, program, images).model()


class _Builder:
    """Nodes of the model by the program's values; a 1-bit code is what is compared, and with what."""

    def __init__(self, openvino: Any, program: Program, images: int) -> None:
        self.ov, self.ops, self.program, self.images = openvino, openvino.opset8, program, images
        self.pixels = self.ops.parameter([images, *program.shape], np.float32)
        self.made: dict[int, Any] = {}  # levels, integers, sums and floats as float32
        self.compared: dict[int, tuple[Any, Floats]] = {}  # 1-bit codes: +1 where the node is above the value
        self.bits: dict[int, Any] = {}

    def model(self) -> Any:
        for place, one in enumerate(self.program.operations):
            self._take(place, one)
        shape = np.array([self.images, len(self.program.classes)])
        logits = self.ops.reshape(self.made[len(self.program.operations) - 1], shape, special_zero=False)
        return self.ov.Model([logits], [self.pixels])

    def _take(self, place: int, one: Operation) -> None:
        match one:
            case Pixels():
                self._pixels(place, one)
            case Convolution():
                self.made[place] = self._convolution(place, one)
            case Threshold():
                self._threshold(place, one)
            case Levels():
                self._levels(place, one)
            case MaxPool() if _one_bit(self.program, place):
                node, end = self.compared[one.source]
                self.compared[place] = self._max_pool(node, one), end
            case MaxPool():
                self.made[place] = self._max_pool(self.made[one.source], one)
            case SumPool():
                total = self.ops.reduce_sum(self._read(one.source), np.array([2, 3]), keep_dims=True)
                if one.turned is not None:
                    total = self.ops.multiply(total, _channels(1 - 2 * one.turned.astype(np.float32)))
                self.made[place] = total
            case Affine():
                self.made[place] = self._affine(one)
            case Relu():
                self.made[place] = self.ops.maximum(self.made[one.source], np.float32(0))
            case Add():
                self.made[place] = self.ops.add(self.made[one.source], self.made[one.other])
            case Repeat():
                self.made[place] = self.ops.concat([self.made[one.source]] * one.copies, 1)
            case AveragePool():
                window = [min(one.size, side) for side in self.program.values[one.source].shape[1:]]
                self.made[place] = self.ov.opset1.avg_pool(
                    *(self.made[one.source], [one.size] * 2, [0, 0], [0, 0], window), True, "ceil"
                )
            case FloatPixels() | FloatConvolution():
                raise AssertionError(f"{one} is refused before")

    # codes ------------------------------------------------------------------------------------------------

    def _pixels(self, place: int, one: Pixels) -> None:
        """Floats go to the nearest byte, and that to the nearest level, as `kernels.to_bytes` does."""
        scaled = self.ops.multiply(self.pixels, np.float32(255))
        byte = self.ops.clamp(self.ops.round(scaled, "half_to_even"), 0.0, 255.0)
        if one.shape != self.program.shape:
            byte = self.ops.reshape(byte, np.array([self.images, *one.shape]), special_zero=False)
        if one.bits == 1:
            self.compared[place] = byte, np.array([127.5], np.float32)
            return
        most = largest(one.bits)
        if one.bits < 8:  # no byte is a tie
            byte = self.ops.round(self.ops.multiply(byte, np.float32(most / 255)), "half_to_even")
        self.made[place] = self.ops.subtract(self.ops.multiply(byte, np.float32(2)), np.float32(most))

    def _threshold(self, place: int, one: Threshold) -> None:
        node, bits = self._read(one.source), self.program.values[place].bits
        table = one.table.astype(np.int64)
        if bits == 1:
            end = np.clip(table[:, 0], -MOST_WHOLE, MOST_WHOLE) - 0.5  # halfway: whole numbers meet no tie
            self.compared[place] = node, end.astype(np.float32)
            return
        bound = self.program.values[one.source].bound
        sums = np.arange(-bound, bound + 1)
        levels = 2 * (sums[None, :, None] >= table[:, None, :]).sum(-1) - largest(bits)  # (O, 2 bound + 1)
        first = np.arange(len(table)) * len(sums) + bound
        index = self.ops.add(self.ops.convert(node, np.int32), _channels(first.astype(np.int32)))
        self.made[place] = self.ops.gather(levels.reshape(-1).astype(np.float32), index, np.int64(0))

    def _levels(self, place: int, one: Levels) -> None:
        """x >= t is x > the number before t. Where nothing else reads x, OpenVINO would merge what made it
        with the FakeQuantize: the comparison is made before."""
        node = self.made[one.source]
        end: Floats = np.nextafter(one.thresholds, np.float32(-np.inf))
        if all(isinstance(self.program.operations[r], Levels) for r in self.program.readers(one.source)):
            node = self.ops.convert(self.ops.greater(node, _channels(end)), np.float32)
            end = np.array([0.5], np.float32)
        self.compared[place] = node, end

    def _read(self, index: int) -> Any:
        """A value as float32; 1-bit codes as -1 and 1."""
        if index not in self.compared:
            return self.made[index]
        node, end = self.compared[index]
        above = self.ops.convert(self.ops.greater(node, _channels(end)), np.float32)
        return self.ops.subtract(self.ops.multiply(above, np.float32(2)), np.float32(1))

    def _bits(self, index: int) -> Any:
        """1-bit codes as 0 and 1, with channels of ones up to the next multiple of `CHANNELS`."""
        if index not in self.bits:
            node, end = self.compared[index]
            channels = self.program.values[index].shape[0]
            more = -channels % CHANNELS
            if more:
                node = self.ops.pad(
                    node, np.array([0] * 4), np.array([0, more, 0, 0]), "constant", np.float32(1)
                )
                end = np.concatenate([np.broadcast_to(end, channels), np.zeros(more, np.float32)])
            zero, one = (np.full((1, 1, 1, 1), level, np.float32) for level in (0, 1))
            ends = _channels(end)
            self.bits[index] = self.ops.fake_quantize(node, ends, ends, zero, one, 2)
        return self.bits[index]

    # sums -------------------------------------------------------------------------------------------------

    def _convolution(self, place: int, one: Convolution) -> Any:
        weights = np.moveaxis(one.weights.integers(), -1, 1)  # (O, C, kh, kw)
        binary = _binary(self.program, place, one)
        more = -weights.shape[1] % CHANNELS if binary else 0
        how = ([one.stride] * 2, [one.padding] * 2, [one.padding] * 2, [1, 1])
        if binary:
            constant = self._packed(weights, more)
            found = self.ov.opset1.binary_convolution(
                self._bits(one.source), constant, *how, "xnor-popcount", 0.0
            )
        else:
            found = self.ops.convolution(self._read(one.source), weights.astype(np.float32), *how)
        if more % 2:
            found = self.ops.subtract(found, self._taps(one))
        scaled = isinstance(self.program.operations[self.program.readers(place)[0]], Affine)
        if scaled and (not binary or more % 2):  # or the scale is merged into weights, or what is subtracted
            found = self.ops.round(found, "half_to_even")
        return found

    def _packed(self, weights: npt.NDArray[np.int32], more: int) -> Any:
        """Weights as a constant of bits; those of added channels of ones cancel each other, two by two."""
        outputs, channels, rows, columns = weights.shape
        added = np.ones((outputs, more, rows, columns), np.int32)
        added[:, 1::2] = -1
        plus = np.concatenate([weights, added], 1) > 0
        shape = [outputs, channels + more, rows, columns]
        tensor = self.ov.Tensor(self.ov.Type.u1, self.ov.Shape(shape))  # has memory of its own
        tensor.data.reshape(-1)[...] = np.packbits(plus.reshape(-1), bitorder="little")
        return self.ov.op.Constant(tensor)

    def _taps(self, one: Convolution) -> Floats:
        """What an added channel without a counterpart gives: how many places of the kernel are in the map."""
        shape, kernel = self.program.values[one.source].shape[1:], one.weights.shape[1:3]
        inside = np.pad(np.ones(shape, np.float32), one.padding)
        windows = sliding_window_view(inside, kernel)[:: one.stride, :: one.stride]
        return windows.sum((2, 3), dtype=np.float32)[None, None]

    # floats -----------------------------------------------------------------------------------------------

    def _affine(self, one: Affine) -> Any:
        node = self._read(one.source)
        if isinstance(self.program.operations[one.source], Affine):
            node = self._rounded(node)
        for factor in (one.alpha, one.scale):
            if factor is not None:
                node = self._rounded(self.ops.multiply(node, _channels(factor)))
        return self.ops.add(node, _channels(one.shift))

    def _rounded(self, node: Any) -> Any:
        """The same floats, over which OpenVINO merges nothing."""
        return self.ops.clamp(node, -LARGEST, LARGEST)

    def _max_pool(self, node: Any, one: MaxPool) -> Any:
        return self.ov.opset1.max_pool(node, [one.stride] * 2, [0, 0], [0, 0], [one.size] * 2)


def _channels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One value for each channel, or for all, beside (N, C, H, W)."""
    return values.reshape(1, -1, 1, 1)
