"""LLVM vectors under numba: what the innermost loops of packed inference are written with.

Loads, splats and the two descriptions that a tile is made from: how it adds up (`Kind`) and what it is told
(`Arguments`). What the processor has is decided here, once, from the features that numba compiles for.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import config

LANES = 32
"""Output channels of one tile: half a word of packed output."""
PIXELS = 4
"""Pixels of one tile."""

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def cpu_features() -> frozenset[str]:
    """What numba compiles for: this CPU's features, or those of NUMBA_CPU_FEATURES."""
    asked: str | None = getattr(config, "CPU_FEATURES")  # noqa: B009 - set at run time
    if asked is not None:
        return frozenset(piece[1:] for piece in asked.split(",") if piece.startswith("+"))
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


WIDE = "avx512f" in cpu_features()
"""32 registers of 512 bits; otherwise 16 of 256 bits are assumed, and tiles are computed in parts."""
BYTE_PRODUCTS = "avx512bw" in cpu_features() if WIDE else "avx2" in cpu_features()
"""Products of bytes, added up in pairs, are one instruction (`vpmaddubsw`)."""
BY_BYTES = not WIDE and "avx2" in cpu_features()
"""Population counts by carry-save addition and bytes, where no instruction counts the bits of a word."""


def vector_of(element: ir.Type, lanes: int) -> Any:
    """The type of so many elements side by side."""
    return ir.VectorType(element, lanes)


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    """What lies at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def splat(builder: Any, value: Any, kind: Any) -> Any:
    """One value in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(vector_of(I32, kind.count), [0] * kind.count))


@dataclass(frozen=True)
class Kind:
    """How a tile adds up.

    Attributes:
        element: of activations, weights and sums; two 16-bit integers, or four bytes, are one 32-bit element.
        add: one step of one vector.
        parts: vectors of weights for one vector of sums (2: sign and mask).
        total: what becomes of a vector of sums at the end, int32.
    """

    element: Any
    add: Callable[[Any, Any, Any, list[Any]], Any]
    parts: int = 1
    total: Callable[[Any, Any], Any] = lambda builder, sums: sums

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return self.element.width // 8

    @property
    def lanes(self) -> int:
        """Of one vector register."""
        return (64 if WIDE else 32) // self.size

    def block(self, pixels: int, *, by_bytes: bool = False) -> tuple[int, int]:
        """Pixels and lanes whose sums are in registers at one time."""
        if WIDE:
            return pixels, LANES
        if by_bytes:
            at_once = min(pixels, 2)
            return at_once, 4 // at_once * self.lanes  # sums, ones and counts of each are in registers
        at_once = min(pixels, 2 if self.element is I64 else 4)
        return at_once, min(LANES, 8 // at_once * self.lanes)


@dataclass(frozen=True)
class Arguments:
    """What every tile takes: addresses and counts, all 64-bit integers.

    Attributes:
        pixels: address of the first tap of each pixel.
        weights: of the group of 32 channels, (row, step, part, lane).
        rows: of the kernel.
        run: steps along one row of the kernel: words, pairs of 16-bit integers, or fours of bytes.
        row_bytes: from one row of the input to the next.
        pairs: of planes, int64 (count, 3): bytes to the activation plane, bytes to the weight plane, shift.
        count: of plane pairs.
        out: int32 (pixels, 32).
    """

    pixels: list[Any]
    weights: Any
    rows: Any
    run: Any
    row_bytes: Any
    pairs: Any
    count: Any
    out: Any
