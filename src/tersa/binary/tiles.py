"""The innermost loops of packed inference: four pixels times 32 output channels, in vector registers.

`bits` adds up XOR and popcount of 64-bit words, `integers` products of 16-bit integers:

    bits:      acc[p, o] = - sum over plane pairs 2^e sum over words popcount(x[p, word] ^ w[word, o])
    integers:  acc[p, o] =   sum over taps x[p, tap] w[tap, o]

Lanes of a vector are output channels, so that nothing is added across lanes and the activation word is a
broadcast. The loops are written as LLVM vectors, not left to the vectoriser: `ctpop` of eight 64-bit words is
one instruction with AVX-512 VPOPCNTDQ, and a table look-up (`vpshufb`) with AVX2 alone. Plane pairs come in
the order of falling e, and the sums are shifted left where e falls (Horner's scheme).

Memory is addressed by number. Nothing here knows where an address points: `lowering` lays out every buffer
so that all taps of all pixels lie inside it. (numba looks at the time of `kernels.py` alone before it uses
its cache: touch that file after a change in here.)

References:
    Courbariaux et al., Binarized Neural Networks (2016), section 2.3, for the XNOR kernel.
    Mula, Kurz and Lemire, Faster Population Counts Using AVX2 Instructions (2018).
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
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

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


def _vector(element: ir.Type, lanes: int) -> Any:
    return ir.VectorType(element, lanes)


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_vector(I32, kind.count), [0] * kind.count))


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
    halves = _vector(I16, 2 * total.type.count)
    wide = _vector(I32, 2 * total.type.count)
    product = builder.mul(
        builder.sext(builder.bitcast(pair, halves), wide),
        builder.sext(builder.bitcast(weights[0], halves), wide),
    )
    parts = [
        builder.shuffle_vector(
            product, product, ir.Constant(_vector(I32, total.type.count), list(range(start, wide.count, 2)))
        )
        for start in (0, 1)
    ]
    return builder.add(total, builder.add(*parts))


@dataclass(frozen=True)
class _Kind:
    """How a tile adds up.

    Attributes:
        element: of activations, weights and sums; a pair of 16-bit integers is one 32-bit element.
        add: one step of one vector.
        parts: vectors of weights for one vector of sums (2: sign and mask).
    """

    element: Any
    add: Callable[[Any, Any, Any, list[Any]], Any]
    parts: int = 1

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return self.element.width // 8

    @property
    def lanes(self) -> int:
        """Of one vector register."""
        return (64 if WIDE else 32) // self.size

    def block(self, pixels: int) -> tuple[int, int]:
        """Pixels and lanes whose sums are in registers at one time."""
        if WIDE:
            return pixels, LANES
        vectors = 8 // min(pixels, 2 if self.size == 8 else 4)
        return min(pixels, 2 if self.size == 8 else 4), min(LANES, vectors * self.lanes)


_BITS = _Kind(I64, _add_bits)
_TERNARY = _Kind(I64, _add_bits, parts=2)
_INTEGERS = _Kind(I32, _add_products)


@dataclass(frozen=True)
class _Arguments:
    """What every tile takes: addresses and counts, all 64-bit integers.

    Attributes:
        pixels: address of the first tap of each pixel.
        weights: of the group of 32 channels, (row, step, part, lane).
        rows: of the kernel.
        run: steps along one row of the kernel: words, or pairs of 16-bit integers.
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


def _block(
    builder: Any, kind: _Kind, a: _Arguments, first_pixel: int, pixels: int, lane: int, lanes: int
) -> None:
    """Sums of some pixels and lanes of the tile; the accumulators become registers (mem2reg)."""
    vector = _vector(kind.element, kind.lanes)
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
            _load(builder, builder.add(entry, ir.Constant(I64, 8 * place)), I64, 8) for place in range(3)
        )
        if kind.element is I64:
            shifts = _splat(builder, shift, vector)
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
                        _load(
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
                    value = _load(builder, builder.add(base, along), kind.element, 2)
                    spread = _splat(builder, value, vector)
                    for accumulator, one in zip(accumulators, loaded, strict=True):
                        builder.store(kind.add(builder, builder.load(accumulator), spread, one), accumulator)
                builder.store(builder.add(at, weight_bytes), weights)
    for i, accumulators in enumerate(sums):
        for j, accumulator in enumerate(accumulators):
            total = builder.load(accumulator)
            if kind.element is I64:
                total = builder.trunc(total, _vector(I32, kind.lanes))
            place = 4 * ((first_pixel + i) * LANES + lane + j * kind.lanes)
            where = builder.add(a.out, ir.Constant(I64, place))
            builder.store(total, builder.inttoptr(where, total.type.as_pointer()), align=4)


def _tile(kind: _Kind, pixels: int) -> Any:
    """A numba function of `pixels` addresses and the rest of `_Arguments`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        arguments = _Arguments(list(args[:pixels]), *args[pixels:])
        at_once, lanes = kind.block(pixels)
        for first in range(0, pixels, at_once):
            for lane in range(0, LANES, lanes):
                _block(builder, kind, arguments, first, at_once, lane, lanes)
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


@intrinsic
def reached(typing, sums, thresholds):  # type: ignore[no-untyped-def]
    """Bits of the 32 lanes whose int32 sum is at least its int32 threshold, from their addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _vector(I32, LANES)
        found = builder.icmp_signed(
            ">=", _load(builder, args[0], vector, 4), _load(builder, args[1], vector, 4)
        )
        return builder.zext(builder.bitcast(found, I32), I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def scratch(typing):  # type: ignore[no-untyped-def]
    """Address of room on the stack for the sums of one tile, int32 (4, 32)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(_vector(I32, LANES), PIXELS))
        return builder.ptrtoint(room, I64)

    return types.int64(), codegen


def _peek(element: Any, kind: Any) -> Any:
    @intrinsic
    def read(typing, address):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _load(builder, args[0], element, element.width // 8)

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
