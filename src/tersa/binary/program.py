"""A packed program: what a low-bit network computes, as a list of typed operations on numbered values.

Operation i makes value i from values before it; the first makes the pixels' levels, the last the logits. A
value is one of

    codes      levels of k bits, odd integers; (C, H, W) of one image
    integers   whole numbers with a known bound
    sums       what a convolution of integers gives: feeds exactly one Threshold or Affine
    floats     float32

and every operation checks that what it reads is what it takes, so that a program that exists can run:

    Pixels       bytes 0..255 -> codes: q = round(byte / 255 (2^b - 1))
    FloatPixels  bytes -> floats: (byte / 255 - mean) / std
    Convolution  codes or integers x integer weights -> sums; padded places count 0
    Threshold    sums or integers -> codes: q = how many of the channel's thresholds are <= sum
    Affine       sums, integers or floats -> floats: [x alpha] scale + shift, rounded after each step
    Levels       floats -> codes: q = how many thresholds are <= x
    FloatConvolution, Relu, Add, Repeat, AveragePool: floats -> floats
    MaxPool      codes or floats, SumPool: codes -> integers, floats -> floats

A fully connected layer is a convolution whose kernel is as large as the map. Arrays are numpy's, in the form
in which they are stored; `lowering` brings them into the form in which they are fast.

Example:
    >>> w = Weights.of(np.array([[1, -1], [1, 1]]).reshape(2, 1, 1, 2), bits=1)
    >>> t = Threshold(1, np.array([[0], [1]], np.int32))
    >>> head = (np.ones(2, np.float32), np.zeros(2, np.float32))
    >>> program = Program(("a", "b"), (2, 1, 1), (Pixels(1, (2, 1, 1)), Convolution(0, w), t,
    ...     Convolution(2, w), Affine(3, *head)))
    >>> program.values[-1]
    Value(kind='floats', shape=(2, 1, 1), bits=0, bound=0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from tersa.binary.bitpack import Bytes, codes, largest, levels, pack_flat, unpack_flat
from tersa.errors import ModelError

Shape = tuple[int, int, int]
"""(C, H, W) of one image's value."""
Floats = npt.NDArray[np.float32]
Kind = Literal["codes", "integers", "sums", "floats"]

MOST_BITS = 8
MOST_SUM = 1 << 30
"""Sums stay below this, so that 32 bits hold them and their corrections."""
MOST_SHORT = (1 << 15) - 1
"""Integers that a convolution reads."""
MOST_VALUES = 1 << 24
"""Of one value of one image."""
MOST_WEIGHTS = 1 << 27
"""Of one layer."""
MOST_SIDE = 1 << 16
"""Rows, columns and strides."""


@dataclass(frozen=True)
class Value:
    """What one operation makes.

    Attributes:
        kind: see the head of this file.
        shape: (C, H, W) of one image.
        bits: of codes.
        bound: no integer or sum is larger in size.
    """

    kind: Kind
    shape: Shape
    bits: int = 0
    bound: int = 0


@dataclass(frozen=True, eq=False)
class Weights:
    """Integer weights in planes of bits.

    Attributes:
        shape: (O, kh, kw, C).
        bits: of each weight; 0 for ternary.
        planes: (bits, bytes), bit i of all codes in one plane; ternary: (2, bytes), where weights are not 0,
            and where they are 1.
    """

    shape: tuple[int, int, int, int]
    bits: int
    planes: Bytes

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        planes = self.bits or 2
        if min(self.shape) < 1 or size > MOST_WEIGHTS or not 0 <= self.bits <= MOST_BITS:
            raise ModelError(f"weights of shape {self.shape} with {self.bits} bits cannot be")
        if self.planes.shape != (planes, -(-size // 8)) or self.planes.dtype != np.uint8:
            raise ModelError(f"weights of shape {self.shape} need {planes} planes of {-(-size // 8):,} bytes")

    @staticmethod
    def of(integers: npt.NDArray[np.integer], bits: int) -> Weights:
        """Of odd integers (O, kh, kw, C) of so many bits, or of -1, 0, 1 with `bits` 0."""
        o, kh, kw, c = integers.shape
        code = codes(integers, bits) if bits else (integers != 0) + 2 * (integers > 0)
        return Weights((o, kh, kw, c), bits, pack_flat(code, bits or 2))

    def integers(self) -> npt.NDArray[np.int32]:
        """The weights, (O, kh, kw, C)."""
        code = unpack_flat(self.planes, self.shape)
        if self.bits:
            return levels(code, self.bits)
        return (code & 1).astype(np.int32) * (2 * (code >> 1).astype(np.int32) - 1)

    @property
    def largest(self) -> int:
        """The largest weight."""
        return largest(self.bits) if self.bits else 1


@dataclass(frozen=True)
class Pixels:
    """Bytes to codes: q = round(byte / 255 (2^b - 1)).

    Attributes:
        bits: b.
        shape: (C, H, W) of the images, or (C H W, 1, 1) where the network flattens them at once.
    """

    bits: int
    shape: Shape


@dataclass(frozen=True, eq=False)
class FloatPixels:
    """Bytes to normalised floats: (byte / 255 - mean) / std.

    Attributes:
        shape: (C, H, W).
        mean: (C,).
        std: (C,).
    """

    shape: Shape
    mean: Floats
    std: Floats


@dataclass(frozen=True, eq=False)
class Convolution:
    """Sums of products of integers; padded places count 0.

    Attributes:
        source: codes or integers.
        weights: integers.
        stride: of the kernel.
        padding: places on every side.
    """

    source: int
    weights: Weights
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True, eq=False)
class Threshold:
    """q = how many of the channel's thresholds are <= the sum.

    Attributes:
        source: sums or integers.
        table: (O, 2^k - 1) int32, rising along a row.
    """

    source: int
    table: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Affine:
    """[x alpha] scale + shift in float32, rounded after each step.

    Attributes:
        source: sums, integers or floats.
        scale: (O,).
        shift: (O,).
        alpha: (O,), multiplied first, or None.
    """

    source: int
    scale: Floats
    shift: Floats
    alpha: Floats | None = None


@dataclass(frozen=True, eq=False)
class Levels:
    """q = how many thresholds are <= x.

    Attributes:
        source: floats.
        thresholds: (2^k - 1,), rising.
    """

    source: int
    thresholds: Floats


@dataclass(frozen=True, eq=False)
class FloatConvolution:
    """A convolution in float32, its sums in this file's own order: equal to another's up to rounding.

    Attributes:
        source: floats, or codes or integers where the weights are floats.
        weights: (O, kh, kw, C), or integers of few bits that meet floats (weights only are quantised).
        stride: of the kernel.
        padding: places on every side.
    """

    source: int
    weights: Floats | Weights
    stride: int = 1
    padding: int = 0

    @property
    def taps(self) -> Floats:
        """The weights as floats, (O, kh, kw, C)."""
        if isinstance(self.weights, Weights):
            return self.weights.integers().astype(np.float32)
        return self.weights


@dataclass(frozen=True)
class Relu:
    """max(x, 0) of floats."""

    source: int


@dataclass(frozen=True)
class Add:
    """Floats plus floats."""

    source: int
    other: int


@dataclass(frozen=True)
class Repeat:
    """The channels of floats, so many times one after the other."""

    source: int
    copies: int


@dataclass(frozen=True)
class AveragePool:
    """Mean over windows side by side of floats; a window at the edge is as large as what is left of it."""

    source: int
    size: int


@dataclass(frozen=True)
class MaxPool:
    """Largest level of each window; places that fill no window are left out."""

    source: int
    size: int
    stride: int


@dataclass(frozen=True, eq=False)
class SumPool:
    """Sum over the map: of codes exact, an integer.

    Attributes:
        source: codes or floats.
        turned: (C,), 1 for channels of codes whose sum is negated, or None.
    """

    source: int
    turned: Bytes | None = None


Operation = (
    Pixels | FloatPixels | Convolution | Threshold | Affine | Levels | FloatConvolution | Relu | Add
    | Repeat | AveragePool | MaxPool | SumPool
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Program:
    """A network as operations, with what it says about itself.

    Attributes:
        classes: names, in the order of the logits.
        shape: (C, H, W) of one image.
        operations: see the head of this file.
        precision: bits in words, `1/1 (W/A), input 8, first 1/8, last 1/1`.
        whole: it ends in the logits of its classes; a part of a program may end in any floats.
        values: what each operation makes; worked out.

    Raises:
        ModelError: operations that do not fit each other.
    """

    classes: tuple[str, ...]
    shape: Shape
    operations: tuple[Operation, ...]
    precision: str = ""
    whole: bool = True
    values: tuple[Value, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _infer(self))
        if self.whole:
            _check_end(self)

    @property
    def exact(self) -> bool:
        """All sums are of integers: the program's logits do not depend on an order of additions."""
        return not any(
            isinstance(one, FloatConvolution)
            or (isinstance(one, SumPool) and self.values[one.source].kind == "floats")
            for one in self.operations
        )

    def readers(self, index: int) -> list[int]:
        """Operations that read a value."""
        return self._readers.get(index, [])

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        """For each value that is read, the operations that read it."""
        found: dict[int, list[int]] = {}
        for place, one in enumerate(self.operations):
            for source in dict.fromkeys(sources(one)):
                found.setdefault(source, []).append(place)
        return found


def sources(operation: Operation) -> tuple[int, ...]:
    """The values that an operation reads."""
    if isinstance(operation, Pixels | FloatPixels):
        return ()
    return (operation.source, operation.other) if isinstance(operation, Add) else (operation.source,)


# Checking -------------------------------------------------------------------------------------------------


def _infer(program: Program) -> tuple[Value, ...]:
    found: list[Value] = []
    if min(program.shape) < 1 or math.prod(program.shape) > MOST_VALUES:
        most = f"at most {MOST_VALUES:,} values"
        raise ModelError(f"a program needs an image of {most}, got the shape {program.shape}")
    if not program.operations:
        raise ModelError("a program without operations computes nothing")
    for place, operation in enumerate(program.operations):
        name = f"operation {place} ({type(operation).__name__})"
        first = isinstance(operation, Pixels | FloatPixels)
        if first != (place == 0):
            raise ModelError(f"{name}: the first operation, and no other, reads the pixels")
        if not all(0 <= source < place for source in sources(operation)):
            raise ModelError(f"{name} reads {sources(operation)}; it may read 0 to {place - 1}")
        made = _checked(operation, [found[source] for source in sources(operation)], program, name)
        if min(made.shape) < 1 or math.prod(made.shape) > MOST_VALUES:
            raise ModelError(f"{name} would make {made.shape}")
        if made.bound >= MOST_SUM:
            raise ModelError(f"{name}: sums of up to {made.bound:,} are too large; at most {MOST_SUM:,}")
        found.append(made)
    for place, value in enumerate(found):
        readers = program.readers(place)
        if value.kind == "sums" and (
            len(readers) != 1 or not isinstance(program.operations[readers[0]], Threshold | Affine)
        ):
            raise ModelError(f"the sums of operation {place} must feed one Threshold or Affine")
        if place + 1 < len(found) and not readers:
            raise ModelError(f"nothing reads what operation {place} makes")
    return tuple(found)


def _check_end(program: Program) -> None:
    last = program.values[-1]
    if not program.classes:
        raise ModelError("a program needs classes, got none")
    if last.kind != "floats" or last.shape != (len(program.classes), 1, 1):
        raise ModelError(f"the last operation makes {last}, not {len(program.classes)} logits")


def _checked(operation: Operation, reads: list[Value], program: Program, name: str) -> Value:
    """What the operation makes of what it reads; one line where it cannot."""
    match operation:
        case Pixels():
            flat = (math.prod(program.shape), 1, 1)
            _require(
                operation.shape in (program.shape, flat), name, f"images of {program.shape}", operation.shape
            )
            _require(1 <= operation.bits <= MOST_BITS, name, "1 to 8 bits", operation.bits)
            return Value("codes", operation.shape, operation.bits, largest(operation.bits))
        case FloatPixels():
            _require(operation.shape == program.shape, name, f"images of {program.shape}", operation.shape)
            _floats(name, program.shape[0], operation.mean, operation.std)
            return Value("floats", operation.shape)
        case Convolution():
            _require(reads[0].kind in ("codes", "integers"), name, "codes or integers", reads[0].kind)
            small = reads[0].bound <= MOST_SHORT
            _require(small, name, f"integers of 16 bits, up to {MOST_SHORT:,}", f"up to {reads[0].bound:,}")
            shape = _convolved(
                reads[0].shape, operation.weights.shape, operation.stride, operation.padding, name
            )
            taps = math.prod(operation.weights.shape[1:])
            return Value("sums", shape, bound=taps * operation.weights.largest * reads[0].bound)
        case FloatConvolution():
            _require(reads[0].kind != "sums", name, "floats, codes or integers", reads[0].kind)
            if not isinstance(operation.weights, Weights):
                _floats(name, None, operation.weights)
            shape = operation.weights.shape
            _require(len(shape) == 4, name, "weights (O, kh, kw, C)", shape)
            o, kh, kw, c = shape
            return Value(
                "floats",
                _convolved(reads[0].shape, (o, kh, kw, c), operation.stride, operation.padding, name),
            )
        case Threshold():
            _require(reads[0].kind in ("sums", "integers"), name, "sums or integers", reads[0].kind)
            table = operation.table
            bits = (table.shape[-1] + 1).bit_length() - 1 if table.ndim == 2 else 0
            wanted = (reads[0].shape[0], largest(bits))
            _require(
                1 <= bits <= MOST_BITS and table.shape == wanted,
                name,
                "2^k - 1 for each channel",
                table.shape,
            )
            _require(table.dtype == np.int32, name, "int32", table.dtype)
            _require(
                bool((np.diff(table.astype(np.int64)) >= 0).all()),
                name,
                "thresholds that rise",
                "falling ones",
            )
            return Value("codes", reads[0].shape, bits, largest(bits))
        case Affine():
            _require(
                reads[0].kind in ("sums", "integers", "floats"),
                name,
                "sums, integers or floats",
                reads[0].kind,
            )
            alpha = () if operation.alpha is None else (operation.alpha,)
            _floats(name, reads[0].shape[0], operation.scale, operation.shift, *alpha)
            return Value("floats", reads[0].shape)
        case Levels():
            _require(reads[0].kind == "floats", name, "floats", reads[0].kind)
            _floats(name, None, operation.thresholds)
            bits = (len(operation.thresholds) + 1).bit_length() - 1
            right = 1 <= bits <= MOST_BITS and operation.thresholds.shape == (largest(bits),)
            _require(right, name, "2^k - 1 thresholds", operation.thresholds.shape)
            _require(
                bool((np.diff(operation.thresholds) >= 0).all()), name, "thresholds that rise", "falling ones"
            )
            return Value("codes", reads[0].shape, bits, largest(bits))
        case Relu():
            _require(reads[0].kind == "floats", name, "floats", reads[0].kind)
            return reads[0]
        case Add():
            right = reads[0].kind == reads[1].kind == "floats" and reads[0].shape == reads[1].shape
            _require(right, name, "floats of one shape", [f"{one.kind} {one.shape}" for one in reads])
            return reads[0]
        case Repeat():
            _require(reads[0].kind == "floats", name, "floats", reads[0].kind)
            _require(1 <= operation.copies <= 64, name, "1 to 64 copies", operation.copies)
            c, h, w = reads[0].shape
            return Value("floats", (c * operation.copies, h, w))
        case AveragePool():
            _require(reads[0].kind == "floats", name, "floats", reads[0].kind)
            _require(1 <= operation.size <= MOST_SIDE, name, "a size above 0", operation.size)
            c, h, w = reads[0].shape
            return Value("floats", (c, -(-h // operation.size), -(-w // operation.size)))
        case MaxPool():
            _require(reads[0].kind in ("codes", "floats"), name, "codes or floats", reads[0].kind)
            c, h, w = reads[0].shape
            fits = 1 <= operation.size <= min(h, w) and 1 <= operation.stride <= MOST_SIDE
            _require(fits, name, f"windows within {h} x {w}", (operation.size, operation.stride))
            h, w = ((side - operation.size) // operation.stride + 1 for side in (h, w))
            return Value(reads[0].kind, (c, h, w), reads[0].bits, reads[0].bound)
        case SumPool():
            _require(reads[0].kind in ("codes", "floats"), name, "codes or floats", reads[0].kind)
            c, h, w = reads[0].shape
            turned = operation.turned
            if turned is not None:
                fits = turned.dtype == np.uint8 and turned.shape == (c,) and bool((turned <= 1).all())
                _require(fits and reads[0].kind == "codes", name, f"codes and {c} times 0 or 1", turned.shape)
            if reads[0].kind == "floats":
                return Value("floats", (c, 1, 1))
            return Value("integers", (c, 1, 1), bound=reads[0].bound * h * w)


def _convolved(
    shape: Shape, weights: tuple[int, int, int, int], stride: int, padding: int, name: str
) -> Shape:
    c, h, w = shape
    o, kh, kw, inputs = weights
    _require(inputs == c, name, f"{c} input channels", inputs)
    _require(
        1 <= stride <= MOST_SIDE and 0 <= padding < min(kh, kw),
        name,
        f"a stride and a padding below the kernel's {kh} x {kw}",
        (stride, padding),
    )
    padded = c * (h + 2 * padding) * (w + 2 * padding)
    _require(padded <= MOST_VALUES, name, f"at most {MOST_VALUES:,} values with their padding", f"{padded:,}")
    rows, columns = h + 2 * padding - kh, w + 2 * padding - kw
    _require(rows >= 0 and columns >= 0, name, f"a kernel within {h} x {w}", (kh, kw))
    return o, rows // stride + 1, columns // stride + 1


def _floats(name: str, length: int | None, *arrays: npt.NDArray[np.generic]) -> None:
    for array in arrays:
        _require(array.dtype == np.float32, name, "float32", array.dtype)
        _require(length is None or array.shape == (length,), name, f"{length} values", array.shape)
        _require(bool(np.isfinite(array).all()), name, "finite values", "NaN or infinity")


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise ModelError(f"{name} takes {wanted}, not {found}")
