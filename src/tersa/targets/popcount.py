"""How many products of single bits a processor can make: what layers of packed integers are measured against.

    counted:    x = popcount(x ^ w), over and over, in as many vector registers as hide every latency
    looked up:  the innermost loop of `tersa.binary.lookups`, over the same few tables and weights

Of counting nothing is loaded, added or stored. Where a population count is made of several instructions
(AVX2) looking up passes it, and the limit is the larger of both. Compiled by numba for the vectors that the
processor has (AVX-512, else AVX2).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tersa.binary import lookups
from tersa.binary.layout import aligned
from tersa.binary.lookups import threes_for_four
from tersa.binary.vectors import LANES, cpu_features

WIDE, NARROW = (8, 24), (4, 8)
"""64-bit lanes of a vector, and registers in flight: with AVX-512, and without."""
STEPS = 200_000
CALLS = 10_000


@intrinsic
def _popcounts(typing: Any, steps: Any) -> Any:
    """`steps` times x = popcount(x ^ w) in every register; returns something of all of them."""
    del typing, steps
    lanes, registers = WIDE if "avx512f" in cpu_features() else NARROW

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        del context, signature
        vector = ir.VectorType(ir.IntType(64), lanes)
        count = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.ctpop.v{lanes}i64"
        )
        places = [
            cgutils.alloca_once_value(builder, ir.Constant(vector, [i + 1] * lanes)) for i in range(registers)
        ]
        with cgutils.for_range(builder, args[0]) as loop:
            first = builder.insert_element(
                ir.Constant(vector, ir.Undefined), loop.index, ir.Constant(ir.IntType(32), 0)
            )
            zero = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            other = builder.shuffle_vector(first, first, zero)
            for place in places:
                builder.store(builder.call(count, [builder.xor(builder.load(place), other)]), place)
        total = builder.load(places[0])
        for place in places[1:]:
            total = builder.add(total, builder.load(place))
        found = builder.extract_element(total, ir.Constant(ir.IntType(32), 0))
        return builder.add(found, ir.Constant(ir.IntType(64), 64 * lanes * registers << 32))

    return types.int64(types.int64), codegen


@njit
def _go(steps: int) -> int:
    return _popcounts(steps)  # pyright: ignore[reportCallIssue] - numba gives the first argument


@njit
def _look_up(tables: int, weights: int, counts: int, calls: int) -> None:
    """One pair of pixels, over and over."""
    for _ in range(calls):
        threes_for_four(tables, weights, lookups.STEPS, counts)  # pyright: ignore[reportCallIssue] - numba gives the first argument


@lru_cache(maxsize=1)
def counted() -> float:
    """Products of single bits in a second by XOR and population count, on one thread; half a second."""
    bits = (int(_go(1)) >> 32) * STEPS
    return bits / min(best(lambda: _go(STEPS), 40) for _ in range(3))


@lru_cache(maxsize=1)
def looked_up() -> float:
    """The same by looking up; 0 where packed layers do not."""
    if not lookups.LOOKUPS:
        return 0.0
    places = 3 * lookups.STEPS
    tables, weights, counts = (
        aligned((each,), np.uint8)
        for each in (places * lookups.TABLE, lookups.SPAN * places * LANES, lookups.SPAN * lookups.COUNTS)
    )

    def call() -> None:
        _look_up(tables.ctypes.data, weights.ctypes.data, counts.ctypes.data, CALLS)

    call()
    return 8 * LANES * lookups.SPAN * places * CALLS / min(best(call, 40) for _ in range(3))


def limit() -> float:
    """The larger of both; measured once a process."""
    return max(counted(), looked_up())


def best(call: Callable[[], object], repeats: int = 300) -> float:
    """The tenth percentile of a call's times, in seconds: what is short is only ever interrupted."""
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e9)
    return float(np.percentile(times, 10))
