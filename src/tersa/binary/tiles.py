"""The innermost loops of packed inference: four pixels times 32 output channels, in vector registers.

`bits` adds up XOR and popcount of 64-bit words, `integers` products of 16-bit integers:

    bits:      acc[p, o] = - sum over plane pairs 2^e sum over words popcount(x[p, word] ^ w[word, o])
    integers:  acc[p, o] =   sum over taps x[p, tap] w[tap, o]
    bytes:     the same of bytes x, in sums of 16 bits

Lanes of a vector are output channels, so that nothing is added across lanes and the activation word is a
broadcast. The loops are written as LLVM vectors, not left to the vectoriser: `ctpop` of eight 64-bit words is
one instruction with AVX-512 VPOPCNTDQ, and a table look-up (`vpshufb`) with AVX2 alone. Plane pairs come in
the order of falling e, and the sums are shifted left where e falls (Horner's scheme).

Memory is addressed by number. Nothing here knows where an address points: `step_table` lays out every buffer
so that all taps of all pixels lie inside it.

References:
    Courbariaux et al., Binarized Neural Networks (2016), section 2.3, for the XNOR kernel.
    Mula, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions (2018).
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tersa.binary.byte_counts import SHORTEST, block_by_bytes
from tersa.binary.vectors import (
    BY_BYTES,
    BYTE_PRODUCTS,
    I8,
    I16,
    I32,
    I64,
    LANES,
    PIXELS,
    Arguments,
    Kind,
    load,
    splat,
    vector_of,
)


def _add_bits(builder: Any, total: Any, word: Any, weights: list[Any]) -> Any:
    """total - popcount(word ^ sign), or - popcount((word ^ sign) & mask) for ternary weights."""
    mixed = builder.xor(word, weights[0])
    if len(weights) == 2:
        mixed = builder.and_(mixed, weights[1])
    kind = ir.FunctionType(mixed.type, [mixed.type])
    count = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{mixed.type.count}i64")
    return builder.sub(total, builder.call(count, [mixed]))


def _add_products(builder: Any, total: Any, pair: Any, weights: list[Any]) -> Any:
    """total + x0 w0 + x1 w1 of 16-bit integers: one instruction (`vpmaddwd`) and an addition."""
    halves = vector_of(I16, 2 * total.type.count)
    wide = vector_of(I32, 2 * total.type.count)
    product = builder.mul(
        builder.sext(builder.bitcast(pair, halves), wide),
        builder.sext(builder.bitcast(weights[0], halves), wide),
    )
    parts = [
        builder.shuffle_vector(
            product, product, ir.Constant(vector_of(I32, total.type.count), list(range(start, wide.count, 2)))
        )
        for start in (0, 1)
    ]
    return builder.add(total, builder.add(*parts))


def _add_bytes(builder: Any, total: Any, four: Any, weights: list[Any]) -> Any:
    """total + (x0 w0 + x1 w1, x2 w2 + x3 w3), bytes x and signed bytes w, in two sums of 16 bits."""
    bytes_, halves = vector_of(I8, 4 * total.type.count), vector_of(I16, 2 * total.type.count)
    kind = ir.FunctionType(halves, [bytes_, bytes_])
    name = "llvm.x86.avx512.pmaddubs.w.512" if bytes_.count == 64 else "llvm.x86.avx2.pmadd.ub.sw"
    add = cgutils.get_or_insert_function(builder.module, kind, name)
    products = builder.call(add, [builder.bitcast(four, bytes_), builder.bitcast(weights[0], bytes_)])
    return builder.bitcast(builder.add(builder.bitcast(total, halves), products), total.type)


def _narrowed(builder: Any, sums: Any) -> Any:
    """64-bit sums as int32."""
    return builder.trunc(sums, vector_of(I32, sums.type.count))


def _both_halves(builder: Any, sums: Any) -> Any:
    """The two 16-bit sums of each lane, added."""
    half = ir.Constant(sums.type, [16] * sums.type.count)
    return builder.add(builder.ashr(builder.shl(sums, half), half), builder.ashr(sums, half))


_BITS = Kind(I64, _add_bits, total=_narrowed)
_TERNARY = Kind(I64, _add_bits, parts=2, total=_narrowed)
_INTEGERS = Kind(I32, _add_products)
_BYTES = Kind(I32, _add_bytes, total=_both_halves)


def _block(
    builder: Any, kind: Kind, a: Arguments, first_pixel: int, pixels: int, lane: int, lanes: int
) -> None:
    """Sums of some pixels and lanes of the tile; the accumulators become registers (mem2reg)."""
    vector = vector_of(kind.element, kind.lanes)
    vectors = lanes // kind.lanes
    zero = ir.Constant(vector, None)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(pixels)]
    for one in (one for row in sums for one in row):
        builder.store(zero, one)
    step_bytes = ir.Constant(I64, kind.size)
    weight_bytes = ir.Constant(I64, kind.parts * LANES * kind.size)
    with cgutils.for_range(builder, a.count) as pair:
        entry = builder.add(a.pairs, builder.mul(pair.index, ir.Constant(I64, 24)))
        plane, weight_plane, shift = (
            load(builder, builder.add(entry, ir.Constant(I64, 8 * place)), I64, 8) for place in range(3)
        )
        if kind.element is I64:
            shifts = splat(builder, shift, vector)
            for one in (one for row in sums for one in row):
                builder.store(builder.shl(builder.load(one), shifts), one)
        weights = cgutils.alloca_once(builder, I64)
        start = builder.add(a.weights, weight_plane)
        builder.store(builder.add(start, ir.Constant(I64, lane * kind.size)), weights)
        with cgutils.for_range(builder, a.rows) as row:
            offset = builder.add(plane, builder.mul(row.index, a.row_bytes))
            bases = [builder.add(a.pixels[first_pixel + i], offset) for i in range(pixels)]
            with cgutils.for_range(builder, a.run) as step:
                along = builder.mul(step.index, step_bytes)
                at = builder.load(weights)
                loaded = [
                    [
                        load(
                            builder,
                            builder.add(at, ir.Constant(I64, (part * LANES + i * kind.lanes) * kind.size)),
                            vector,
                            kind.lanes * kind.size,
                        )
                        for part in range(kind.parts)
                    ]
                    for i in range(vectors)
                ]
                for base, accumulators in zip(bases, sums, strict=True):
                    value = load(builder, builder.add(base, along), kind.element, 1)
                    spread = splat(builder, value, vector)
                    for accumulator, one in zip(accumulators, loaded, strict=True):
                        builder.store(kind.add(builder, builder.load(accumulator), spread, one), accumulator)
                builder.store(builder.add(at, weight_bytes), weights)
    for i, accumulators in enumerate(sums):
        for j, accumulator in enumerate(accumulators):
            total = kind.total(builder, builder.load(accumulator))
            place = 4 * ((first_pixel + i) * LANES + lane + j * kind.lanes)
            where = builder.add(a.out, ir.Constant(I64, place))
            builder.store(total, builder.inttoptr(where, total.type.as_pointer()), align=4)


def _blocks(builder: Any, kind: Kind, a: Arguments, pixels: int, *, by_bytes: bool) -> None:
    """All blocks of a tile."""
    at_once, lanes = kind.block(pixels, by_bytes=by_bytes)
    one = block_by_bytes if by_bytes else _block
    for first in range(0, pixels, at_once):
        for lane in range(0, LANES, lanes):
            one(builder, kind, a, first, at_once, lane, lanes)


def _tile(kind: Kind, pixels: int) -> Any:
    """A numba function of `pixels` addresses and the rest of `Arguments`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        arguments = Arguments(list(args[:pixels]), *args[pixels:])
        if kind is _BYTES and not BYTE_PRODUCTS:
            return cgutils.get_null_value(I64)  # no step asks for it
        if not BY_BYTES or kind.element is not I64:
            _blocks(builder, kind, arguments, pixels, by_bytes=False)
            return cgutils.get_null_value(I64)
        long = builder.icmp_unsigned(">=", arguments.run, ir.Constant(I64, SHORTEST))
        with builder.if_else(long) as (then, otherwise):
            with then:
                _blocks(builder, kind, arguments, pixels, by_bytes=True)
            with otherwise:
                _blocks(builder, kind, arguments, pixels, by_bytes=False)
        return cgutils.get_null_value(I64)

    signature = types.int64(*[types.int64] * (pixels + 7))
    if pixels == 1:

        @intrinsic
        def one(typing, x, weights, rows, run, row_bytes, pairs, count, out):  # type: ignore[no-untyped-def]
            return signature, codegen

        return one

    @intrinsic
    def four(typing, x0, x1, x2, x3, weights, rows, run, row_bytes, pairs, count, out):  # type: ignore[no-untyped-def]
        return signature, codegen

    return four


bits_of_four, bits_of_one = _tile(_BITS, PIXELS), _tile(_BITS, 1)
ternary_of_four, ternary_of_one = _tile(_TERNARY, PIXELS), _tile(_TERNARY, 1)
integers_of_four, integers_of_one = _tile(_INTEGERS, PIXELS), _tile(_INTEGERS, 1)
bytes_of_four, bytes_of_one = _tile(_BYTES, PIXELS), _tile(_BYTES, 1)


@intrinsic
def reached(typing, sums, thresholds):  # type: ignore[no-untyped-def]
    """Bits of the 32 lanes whose int32 sum is at least its int32 threshold, from their addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = vector_of(I32, LANES)
        found = builder.icmp_signed(
            ">=", load(builder, args[0], vector, 4), load(builder, args[1], vector, 4)
        )
        return builder.zext(builder.bitcast(found, I32), I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def scratch(typing):  # type: ignore[no-untyped-def]
    """Address of room on the stack for the sums of one tile, int32 (4, 32)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(vector_of(I32, LANES), PIXELS))
        return builder.ptrtoint(room, I64)

    return types.int64(), codegen


def _peek(element: Any, kind: Any) -> Any:
    @intrinsic
    def read(typing, address):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return load(builder, args[0], element, element.width // 8)

        return kind(types.int64), codegen

    return read


def _poke(element: Any, kind: Any) -> Any:
    @intrinsic
    def write(typing, address, value):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[1], builder.inttoptr(args[0], element.as_pointer()), align=element.width // 8)
            return cgutils.get_null_value(I64)

        return types.int64(types.int64, kind), codegen

    return write


peek_word, poke_word = _peek(I64, types.int64), _poke(I64, types.int64)
peek_half, poke_half = _peek(I32, types.uint32), _poke(I32, types.uint32)


def _view(kind: Any) -> Any:
    @intrinsic
    def pointer(typing, address):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), codegen

    return pointer


as_bytes, as_shorts, as_integers, as_floats = (
    _view(kind) for kind in (types.uint8, types.int16, types.int32, types.float32)
)
