"""Population counts by carry-save addition and bytes, for processors with AVX2 and no popcount of vectors.

    carry = majority(ones, a, b),  ones = ones ^ a ^ b          two words a, b enter, one carry leaves

The carry's bits count 2. They are counted by table look-up, four at a time, and added up in bytes until these
could overflow; `vpsadbw` then adds the bytes. That is 7 instructions a word, where counting each takes 9.

References:
    Mula, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions (2018), sections 3 and 4.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from tersa.binary.vectors import I8, I32, I64, LANES, Arguments, Kind, load, splat, vector_of

SHORTEST = 8
"""Steps along a row of the kernel from which on this is faster than counting each word; measured."""
STEPS = 31
"""Counts of up to 8 that a byte can add up."""


class _ByteSums:
    """One vector of sums without a popcount instruction: two words go into `ones` and a carry at a time.

    The carry's bits count twice; they are counted by table look-up (`ctpop` of bytes) and added up in bytes
    until these could overflow. 7 instructions a word instead of 9.
    """

    def __init__(self, builder: Any, vector: Any) -> None:
        self.builder, self.vector = builder, vector
        self.bytes = vector_of(I8, 8 * vector.count)
        self.total, self.ones = (
            cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(2)
        )
        self.counts = cgutils.alloca_once_value(builder, ir.Constant(self.bytes, None))

    def begin(self, shifts: Any | None) -> None:
        """All zero, or the total shifted for the next plane pair."""
        zero = ir.Constant(self.vector, None)
        start = zero if shifts is None else self.builder.shl(self.builder.load(self.total), shifts)
        self.builder.store(start, self.total)
        self.builder.store(zero, self.ones)
        self.builder.store(ir.Constant(self.bytes, None), self.counts)

    def take(self, first: Any, second: Any | None) -> None:
        """Add the bits of one word or two."""
        b, ones = self.builder, self.builder.load(self.ones)
        carry, rest = b.and_(ones, first), b.xor(ones, first)
        if second is not None:
            carry, rest = b.or_(carry, b.and_(rest, second)), b.xor(rest, second)
        b.store(rest, self.ones)
        b.store(b.add(b.load(self.counts), self._bits(carry)), self.counts)

    def flush(self) -> None:
        """Bytes into the total."""
        twice = self.builder.shl(
            self._across(self.builder.load(self.counts)), ir.Constant(self.vector, [1] * 4)
        )
        self.builder.store(self.builder.sub(self.builder.load(self.total), twice), self.total)
        self.builder.store(ir.Constant(self.bytes, None), self.counts)

    def end(self) -> None:
        """Everything into the total."""
        self.flush()
        left = self._across(self._bits(self.builder.load(self.ones)))
        self.builder.store(self.builder.sub(self.builder.load(self.total), left), self.total)

    def _bits(self, words: Any) -> Any:
        kind = ir.FunctionType(self.bytes, [self.bytes])
        count = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.ctpop.v32i8")
        return self.builder.call(count, [self.builder.bitcast(words, self.bytes)])

    def _across(self, counts: Any) -> Any:
        """Sums of eight bytes (`vpsadbw`)."""
        kind = ir.FunctionType(self.vector, [self.bytes, self.bytes])
        add = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.x86.avx2.psad.bw")
        return self.builder.call(add, [counts, ir.Constant(self.bytes, None)])


def block_by_bytes(
    builder: Any, kind: Kind, a: Arguments, first_pixel: int, pixels: int, lane: int, lanes: int
) -> None:
    """As `_block`, for words where no instruction counts their bits."""
    vector = vector_of(I64, kind.lanes)
    vectors = lanes // kind.lanes
    sums = [[_ByteSums(builder, vector) for _ in range(vectors)] for _ in range(pixels)]
    every = [one for row in sums for one in row]
    for one in every:
        one.begin(None)
    weights, used = cgutils.alloca_once(builder, I64), cgutils.alloca_once(builder, I64)
    weight_bytes = kind.parts * LANES * 8

    def mixed(bases: list[Any], along: Any, at: Any) -> list[list[Any]]:
        """Words of all pixels, XOR-ed with all vectors of weights (and masked)."""
        places = [
            [
                builder.add(at, ir.Constant(I64, (part * LANES + i * kind.lanes) * 8))
                for part in range(kind.parts)
            ]
            for i in range(vectors)
        ]
        loaded = [[load(builder, place, vector, 32) for place in row] for row in places]
        found: list[list[Any]] = []
        for base in bases:
            spread = splat(builder, load(builder, builder.add(base, along), I64, 2), vector)
            words = [builder.xor(spread, one[0]) for one in loaded]
            if kind.parts == 2:
                words = [builder.and_(word, one[1]) for word, one in zip(words, loaded, strict=True)]
            found.append(words)
        return found

    with cgutils.for_range(builder, a.count) as pair:
        entry = builder.add(a.pairs, builder.mul(pair.index, ir.Constant(I64, 24)))
        plane, weight_plane, shift = (
            load(builder, builder.add(entry, ir.Constant(I64, 8 * place)), I64, 8) for place in range(3)
        )
        for one in every:
            one.begin(splat(builder, shift, vector))
        start = builder.add(builder.add(a.weights, weight_plane), ir.Constant(I64, lane * 8))
        builder.store(start, weights)
        builder.store(ir.Constant(I64, 0), used)
        with cgutils.for_range(builder, a.rows) as row:
            offset = builder.add(plane, builder.mul(row.index, a.row_bytes))
            bases = [builder.add(a.pixels[first_pixel + i], offset) for i in range(pixels)]
            longest = ir.Constant(I64, 2 * STEPS)
            parts = builder.udiv(builder.add(a.run, ir.Constant(I64, 2 * STEPS - 1)), longest)
            with cgutils.for_range(builder, parts) as part:
                begin = builder.mul(part.index, longest)
                left = builder.sub(a.run, begin)
                length = builder.select(builder.icmp_unsigned("<", left, longest), left, longest)
                steps = builder.lshr(builder.add(length, ir.Constant(I64, 1)), ir.Constant(I64, 1))
                then = builder.add(builder.load(used), steps)
                with builder.if_then(builder.icmp_unsigned(">", then, ir.Constant(I64, STEPS))):
                    for one in every:
                        one.flush()
                    builder.store(ir.Constant(I64, 0), used)
                builder.store(builder.add(builder.load(used), steps), used)
                with cgutils.for_range(builder, builder.lshr(length, ir.Constant(I64, 1))) as step:
                    word = builder.add(begin, builder.shl(step.index, ir.Constant(I64, 1)))
                    along, at = builder.shl(word, ir.Constant(I64, 3)), builder.load(weights)
                    first = mixed(bases, along, at)
                    more = builder.add(along, ir.Constant(I64, 8))
                    second = mixed(bases, more, builder.add(at, ir.Constant(I64, weight_bytes)))
                    for row_sums, ones, others in zip(sums, first, second, strict=True):
                        for one, word_one, word_two in zip(row_sums, ones, others, strict=True):
                            one.take(word_one, word_two)
                    builder.store(builder.add(at, ir.Constant(I64, 2 * weight_bytes)), weights)
                odd = builder.and_(length, ir.Constant(I64, 1))
                with builder.if_then(builder.icmp_unsigned("!=", odd, ir.Constant(I64, 0))):
                    last = builder.sub(builder.add(begin, length), ir.Constant(I64, 1))
                    at = builder.load(weights)
                    for row_sums, ones in zip(
                        sums, mixed(bases, builder.shl(last, ir.Constant(I64, 3)), at), strict=True
                    ):
                        for one, word_one in zip(row_sums, ones, strict=True):
                            one.take(word_one, None)
                    builder.store(builder.add(at, ir.Constant(I64, weight_bytes)), weights)
        for one in every:
            one.end()
    for i, accumulators in enumerate(sums):
        for j, one in enumerate(accumulators):
            total = builder.trunc(builder.load(one.total), vector_of(I32, kind.lanes))
            place = 4 * ((first_pixel + i) * LANES + lane + j * kind.lanes)
            where = builder.add(a.out, ir.Constant(I64, place))
            builder.store(total, builder.inttoptr(where, total.type.as_pointer()), align=4)
