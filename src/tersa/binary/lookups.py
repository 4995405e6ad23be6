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
COUNTS = 128
"""Bytes of the counts of a pair of pixels, of 32 channels."""
SPAN = 4
"""Groups of 32 channels of one block, at most: a table that is in a register is used so many times."""

BYTES, SHORTS, INTEGERS = vector_of(I8, LANES), vector_of(I16, LANES // 2), vector_of(I32, LANES // 2)


def answers() -> npt.NDArray[np.uint8]:
    """The tables of both halves of every byte, and 16 times them, (256, 2, 2, 16).

    >>> answers()[0x31, 0, 0, 0b0111], answers()[0x31, 0, 1, 0b0111], answers()[0x31, 1, 1, 0b0111]
    (np.uint8(2), np.uint8(1), np.uint8(16))
    """
    values, index = np.arange(256), np.arange(16)
    halves = np.stack([values & 15, values >> 4], 1)
    found = np.bitwise_count(halves[:, :, None] ^ index).astype(np.uint8)
    return np.stack([found, 16 * found], 1)


def spans(groups: int) -> list[int]:
    """Groups of 32 channels that are counted together: by four, the rest by two and one.

    >>> spans(11)
    [4, 4, 2, 1]
    """
    return [SPAN] * (groups // SPAN) + [size for size in (2, 1) if groups & size]


def _at(builder: Any, base: Any, offset: int) -> Any:
    return builder.add(base, ir.Constant(I64, offset)) if offset else base


def _store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


class _Sums:
    """Two pixels' sums over one segment of the kernel's row, of 32 channels."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.low, self.rest = (
            cgutils.alloca_once_value(builder, ir.Constant(SHORTS, None)) for _ in range(2)
        )

    def take(self, answers: Any) -> None:
        """Add the sum of one to three answers."""
        b = self.builder
        words = b.bitcast(answers, SHORTS)
        mask, four = (ir.Constant(SHORTS, [value] * (LANES // 2)) for value in (0x0F0F, 4))
        b.store(b.add(b.load(self.low), b.and_(words, mask)), self.low)
        b.store(b.add(b.load(self.rest), b.lshr(words, four)), self.rest)

    def counts(self) -> list[Any]:
        """16-bit counts of even and odd bytes: of the first pixel, of the second."""
        b = self.builder
        byte, eight, four = (ir.Constant(SHORTS, [value] * (LANES // 2)) for value in (255, 8, 4))
        low, rest = b.load(self.low), b.load(self.rest)
        odd = b.lshr(low, eight)
        rest = b.sub(rest, b.shl(odd, four))
        return [b.and_(low, byte), odd, b.and_(rest, byte), b.lshr(rest, eight)]


def _answered(builder: Any, tables: Any, weights: Any, at_once: int, sums: list[_Sums]) -> None:
    """Look up what the weights of some groups ask of one to three tables that lie side by side.

    A table stays in a register for all groups; weights are read as operands of the look-up, which spares an
    instruction each: processors of four instructions a cycle are bound by their number.
    """
    kind = ir.FunctionType(BYTES, [BYTES, BYTES])
    shuffle = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pshuf.b")
    totals: list[Any] = [None] * len(sums)
    for place in range(at_once):
        half = load(builder, _at(builder, tables, TABLE * place), vector_of(I8, TABLE), 1)
        both = builder.shuffle_vector(half, half, ir.Constant(vector_of(I32, LANES), [*range(TABLE)] * 2))
        for group, total in enumerate(totals):
            at = _at(builder, weights, LANES * (place * len(sums) + group))
            found = builder.call(shuffle, [both, load(builder, at, BYTES, LANES)])
            totals[group] = found if total is None else builder.add(total, found)
    for one, total in zip(sums, totals, strict=True):
        one.take(total)


def _segment(groups: int, at_once: int) -> Any:
    """A numba function that looks up so many tables at a time, `steps` times, for so many groups of channels.

    (address of a pair's first table, of the weights, steps, address of counts): counts, uint16 (2 pixels, 32
    channels) one group after the other, are added to.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        if not LOOKUPS:
            return cgutils.get_null_value(I64)
        tables, weights, steps, counts = args
        sums = [_Sums(builder) for _ in range(groups)]
        table_bytes, weight_bytes = TABLE * at_once, LANES * at_once * groups

        def go(step: Any, more: int) -> None:
            """Some steps from one on."""
            along = builder.add(tables, builder.mul(step, ir.Constant(I64, table_bytes)))
            at = builder.add(weights, builder.mul(step, ir.Constant(I64, weight_bytes)))
            for i in range(more):
                _answered(
                    builder,
                    _at(builder, along, i * table_bytes),
                    _at(builder, at, i * weight_bytes),
                    at_once,
                    sums,
                )

        one = ir.Constant(I64, 1)
        with cgutils.for_range(builder, builder.lshr(steps, one)) as two:
            go(builder.shl(two.index, one), 2)
        with builder.if_then(builder.trunc(steps, ir.IntType(1))):
            go(builder.sub(steps, one), 1)
        for group, each in enumerate(sums):
            for place, vector in enumerate(each.counts()):
                where = _at(builder, counts, COUNTS * group + 32 * place)
                _store(builder, builder.add(load(builder, where, SHORTS, 32), vector), where, 32)
        return cgutils.get_null_value(I64)

    @intrinsic
    def segment(typing, tables, weights, steps, counts):  # type: ignore[no-untyped-def]
        return types.int64(*[types.int64] * 4), codegen

    return segment


threes_for_four, threes_for_two, threes_for_one = (_segment(groups, 3) for groups in (4, 2, 1))
ones_for_four, ones_for_two, ones_for_one = (_segment(groups, 1) for groups in (4, 2, 1))


@intrinsic
def cleared(typing, counts, vectors):  # type: ignore[no-untyped-def]
    """Zeros in so many vectors of 16 counts."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        with cgutils.for_range(builder, args[1]) as vector:
            where = builder.add(args[0], builder.shl(vector.index, ir.Constant(I64, 5)))
            _store(builder, ir.Constant(SHORTS, None), where, 32)
        return cgutils.get_null_value(I64)

    return types.int64(types.int64, types.int64), codegen


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
        room = cgutils.alloca_once(builder, ir.ArrayType(SHORTS, (SPAN * COUNTS * PAIRS + 8 * PAIRS) // 32))
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
        size = builder.shl(words, ir.Constant(I64, 8))
        last = builder.sub(places, ir.Constant(I64, 1))

        def known_of(at: Any) -> list[Any]:
            """Addresses of the answers to four bytes."""
            word = load(builder, at, I32, 1)
            found: list[Any] = []
            for i in range(4):
                value = builder.and_(builder.lshr(word, ir.Constant(I32, 8 * i)), ir.Constant(I32, 255))
                found.append(builder.add(known, builder.shl(builder.zext(value, I64), ir.Constant(I64, 6))))
            return found

        def write(before: list[Any], at: Any, to: Any) -> None:
            """Tables of the answers before and those of a place, which are the next ones before."""
            for i, (slot, address) in enumerate(zip(before, known_of(at), strict=True)):
                both = builder.or_(builder.load(slot), load(builder, _at(builder, address, 32), SHORTS, 32))
                _store(builder, both, _at(builder, to, 32 * i), 32)
                builder.store(load(builder, address, SHORTS, 32), slot)

        with cgutils.for_range(builder, builder.shl(words, ir.Constant(I64, 1))) as four:
            byte = builder.shl(four.index, ir.Constant(I64, 2))
            first = builder.add(row, byte)
            at, to = (cgutils.alloca_once(builder, I64) for _ in range(2))
            builder.store(first, at)
            builder.store(builder.add(out, builder.shl(byte, ir.Constant(I64, 5))), to)
            before = [cgutils.alloca_once(builder, SHORTS) for _ in range(4)]
            for slot, address in zip(before, known_of(first), strict=True):
                builder.store(load(builder, address, SHORTS, 32), slot)
            with cgutils.for_range(builder, last):
                builder.store(builder.add(builder.load(at), pixel), at)
                write(before, builder.load(at), builder.load(to))
                builder.store(builder.add(builder.load(to), size), to)
            write(before, builder.load(at), builder.load(to))
        return cgutils.get_null_value(I64)

    return types.int64(*[types.int64] * 6), codegen
