"""Binary convolutions by table look-up, for processors with AVX2 and no popcount of vectors.

Four bits of an activation have sixteen answers to four bits of a weight. A table of bytes has them all, and
one instruction (`vpshufb`) looks them up for 32 output channels. An answer is at most 4, half a byte: a
table holds those of two neighbouring pixels, which then cost as much as one.

    table[i] = popcount(x0 ^ i) + 16 popcount(x1 ^ i)      x0, x1: the same four channels of two pixels

Three answers t are added up in a byte and go into two 16-bit accumulators of byte pairs (even, odd),

    low  += t & 0x0f0f              sum of x0's counts, of both channels
    rest += t >> 4                  sum of (x1's even count + 16 x0's odd count + 256 x1's odd count)

twenty times at most before these could overflow; `low` then takes x0's odd counts out of `rest`. That is 3
instructions for 256 products, where adding carries and counting them takes 7 (`byte_counts`). Tables are
written before each layer, once for all its output channels.

References:
    Mula, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions (2018), for `vpshufb` as a table.
    Wei et al., T-MAC (2025), for tables of activations that bits of weights look up.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tersa.binary.vectors import I8, I16, I32, I64, LANES, cpu_features, load, splat, vector_of

LOOKUPS = "avx2" in cpu_features() and "avx512vpopcntdq" not in cpu_features()
"""Whether tables are faster than counting here."""
TABLE = 16
"""Bytes of a table: one for each value of four bits of a weight."""
WORD = 16 * TABLE
"""Bytes of the tables of 64 channels."""
STEPS = 20
"""Sums of three answers that the accumulators hold: 20 (12 + 16 12 + 256 12) < 2^16."""
MOST = (1 << 16) - 2
"""The largest count of an output; the limit that is above all counts is one more."""
PAIRS = 16
"""Pairs of pixels of one block, whose counts stay in the nearest cache."""
COUNTS = 128 * PAIRS
"""Bytes of a block's counts, of 32 channels."""
SPAN = 2
"""Groups of 32 channels of one block: a table that is in the nearest cache is used so many times."""

BYTES, SHORTS, INTEGERS = vector_of(I8, LANES), vector_of(I16, LANES // 2), vector_of(I32, LANES // 2)


def answers() -> npt.NDArray[np.uint8]:
    """The tables of both halves of every byte, (256, 2, 16).

    >>> answers()[0x31, 0, 0b0111], answers()[0x31, 1, 0b0111]
    (np.uint8(2), np.uint8(1))
    """
    values, index = np.arange(256), np.arange(16)
    halves = np.stack([values & 15, values >> 4], 1)
    return np.bitwise_count(halves[:, :, None] ^ index).astype(np.uint8)


def _at(builder: Any, base: Any, offset: int) -> Any:
    return builder.add(base, ir.Constant(I64, offset)) if offset else base


def _store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


class _Pair:
    """Two pixels' sums over one segment of the kernel's row, of 32 channels."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.low, self.rest = (
            cgutils.alloca_once_value(builder, ir.Constant(SHORTS, None)) for _ in range(2)
        )

    def take(self, tables: Any, weights: list[Any]) -> None:
        """Add the answers of one to three tables that lie side by side."""
        b = self.builder
        kind = ir.FunctionType(BYTES, [BYTES, BYTES])
        shuffle = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx2.pshuf.b")
        total: Any = None
        for place, one in enumerate(weights):
            half = load(b, _at(b, tables, TABLE * place), vector_of(I8, TABLE), 1)
            both = b.shuffle_vector(half, half, ir.Constant(vector_of(I32, LANES), [*range(TABLE)] * 2))
            found = b.call(shuffle, [both, one])
            total = found if total is None else b.add(total, found)
        words = b.bitcast(total, SHORTS)
        mask, four = (ir.Constant(SHORTS, [value] * (LANES // 2)) for value in (0x0F0F, 4))
        b.store(b.add(b.load(self.low), b.and_(words, mask)), self.low)
        b.store(b.add(b.load(self.rest), b.lshr(words, four)), self.rest)

    def counts(self) -> list[tuple[Any, Any]]:
        """16-bit counts of even and odd bytes: of the first pixel, of the second."""
        b = self.builder
        byte, eight, four = (ir.Constant(SHORTS, [value] * (LANES // 2)) for value in (255, 8, 4))
        low, rest = b.load(self.low), b.load(self.rest)
        odd = b.lshr(low, eight)
        rest = b.sub(rest, b.shl(odd, four))
        return [(b.and_(low, byte), odd), (b.and_(rest, byte), b.lshr(rest, eight))]


def _segment(pairs: int, at_once: int) -> Any:
    """A numba function that looks up so many tables at a time, `steps` times, for some pairs of pixels.

    (address of each pair's first table, of the weights, steps, fresh, address of counts): counts, uint16
    (pairs, 2 pixels, 32 channels), are written where fresh is not 0, otherwise added to.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        if not LOOKUPS:
            return cgutils.get_null_value(I64)
        bases, (weights, steps, fresh, counts) = args[:pairs], args[pairs:]
        sums = [_Pair(builder) for _ in bases]
        with cgutils.for_range(builder, steps) as step:
            along = builder.mul(step.index, ir.Constant(I64, at_once * TABLE))
            at = builder.add(weights, builder.mul(step.index, ir.Constant(I64, at_once * LANES)))
            loaded = [load(builder, _at(builder, at, LANES * i), BYTES, LANES) for i in range(at_once)]
            for base, one in zip(bases, sums, strict=True):
                one.take(builder.add(base, along), loaded)
        found = [vector for one in sums for pixel in one.counts() for vector in pixel]
        places = [(_at(builder, counts, 32 * place), vector) for place, vector in enumerate(found)]
        with builder.if_else(builder.icmp_unsigned("!=", fresh, ir.Constant(I64, 0))) as (then, otherwise):
            with then:
                for where, vector in places:
                    _store(builder, vector, where, 32)
            with otherwise:
                for where, vector in places:
                    _store(builder, builder.add(load(builder, where, SHORTS, 32), vector), where, 32)
        return cgutils.get_null_value(I64)

    signature = types.int64(*[types.int64] * (pairs + 4))
    if pairs == 2:

        @intrinsic
        def two(typing, x0, x1, weights, steps, fresh, counts):  # type: ignore[no-untyped-def]
            return signature, codegen

        return two

    @intrinsic
    def four(typing, x0, x1, x2, x3, weights, steps, fresh, counts):  # type: ignore[no-untyped-def]
        return signature, codegen

    return four


threes_of_two, threes_of_four = _segment(2, 3), _segment(4, 3)
ones_of_two, ones_of_four = _segment(2, 1), _segment(4, 1)


@intrinsic
def negated(typing, counts, out):  # type: ignore[no-untyped-def]
    """Minus one pixel's 32 counts, as int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        for place in range(2):
            count = builder.zext(load(builder, _at(builder, args[0], 32 * place), SHORTS, 32), INTEGERS)
            _store(builder, builder.neg(count), _at(builder, args[1], 64 * place), 4)
        return cgutils.get_null_value(I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def below(typing, counts, limits):  # type: ignore[no-untyped-def]
    """Bits of one pixel's 32 counts that are below their limits, uint16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        halves = [
            builder.icmp_unsigned(
                "<",
                load(builder, _at(builder, args[0], 32 * place), SHORTS, 32),
                load(builder, _at(builder, args[1], 32 * place), SHORTS, 32),
            )
            for place in range(2)
        ]
        both = builder.shuffle_vector(*halves, ir.Constant(vector_of(I32, LANES), list(range(LANES))))
        return builder.zext(builder.bitcast(both, I32), I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def shifted(typing, counts, vectors, by):  # type: ignore[no-untyped-def]
    """So many vectors of 16 counts shifted left."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        narrow = builder.trunc(args[2], I16)
        with cgutils.for_range(builder, args[1]) as vector:
            where = builder.add(args[0], builder.shl(vector.index, ir.Constant(I64, 5)))
            moved = builder.shl(load(builder, where, SHORTS, 32), splat(builder, narrow, SHORTS))
            _store(builder, moved, where, 32)
        return cgutils.get_null_value(I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def counts_and_places(typing):  # type: ignore[no-untyped-def]
    """Address of room on the stack for the counts of a block, and behind them the addresses of its tables."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(SHORTS, (SPAN * COUNTS + 8 * PAIRS) // 32))
        return builder.ptrtoint(room, I64)

    return types.int64(), codegen


@intrinsic
def write_tables(typing, row, pixel, places, words, known, out):  # type: ignore[no-untyped-def]
    """The tables of a row of places and their neighbours, from `answers`; the last is its own neighbour.

    (address of the first place's words, bytes from one place to the next, places, words of each, address of
    the answers, address of the first table): tables lie word by word, place by place.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        row, pixel, places, words, known, out = args
        shift = ir.Constant(SHORTS, [4] * (LANES // 2))
        size = builder.shl(words, ir.Constant(I64, 8))
        last = builder.sub(places, ir.Constant(I64, 1))

        def answered(place: Any, byte: Any) -> list[Any]:
            """The answers to two bytes of a place."""
            at = builder.add(builder.add(row, builder.mul(place, pixel)), byte)
            values = [builder.zext(load(builder, _at(builder, at, i), I8, 1), I64) for i in range(2)]
            places_of = [builder.add(known, builder.shl(value, ir.Constant(I64, 5))) for value in values]
            return [load(builder, one, SHORTS, 32) for one in places_of]

        with cgutils.for_range(builder, builder.shl(words, ir.Constant(I64, 2))) as pair:
            byte = builder.shl(pair.index, ir.Constant(I64, 1))
            before = [cgutils.alloca_once(builder, SHORTS) for _ in range(2)]
            for slot, value in zip(before, answered(ir.Constant(I64, 0), byte), strict=True):
                builder.store(value, slot)
            with cgutils.for_range(builder, places) as place:
                after = builder.add(place.index, ir.Constant(I64, 1))
                after = builder.select(builder.icmp_unsigned("<", after, last), after, last)
                to = builder.add(
                    builder.add(out, builder.mul(place.index, size)), builder.shl(byte, ir.Constant(I64, 5))
                )
                for i, (slot, value) in enumerate(zip(before, answered(after, byte), strict=True)):
                    both = builder.or_(builder.load(slot), builder.shl(value, shift))
                    _store(builder, both, _at(builder, to, 32 * i), 32)
                    builder.store(value, slot)
        return cgutils.get_null_value(I64)

    return types.int64(*[types.int64] * 6), codegen
