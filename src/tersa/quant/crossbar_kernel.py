"""The compiled twin of `tersa.quant.programming.program`: one pass over each run's cells, in place.

Arithmetic is float32 in the twin's order, but for the normal numbers: their quantile is Wichura's AS 241,
routine PPND7 (seven digits), in float64, and computed for changed cells alone, in order of their index.
Threads share the runs.

References:
    Wichura, Algorithm AS 241: the percentage points of the normal distribution (Applied Statistics 37, 1988).
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

SAME = np.float32(1e-5)
PARTNER = np.float32(0.5**0.5)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
GIVEN, LARGEST = 0, 1
BLOCK = 256
"""Cells that are looked at together."""
WORDS = 1.0 / (1 << 32)


@njit(inline="always", error_model="numpy")
def _mix(word):
    word = np.uint32(word ^ (word >> np.uint32(16)))
    word = np.uint32(word * np.uint32(0x7FEB352D))
    word = np.uint32(word ^ (word >> np.uint32(15)))
    word = np.uint32(word * np.uint32(0x846CA68B))
    return np.uint32(word ^ (word >> np.uint32(16)))


@njit(error_model="numpy", cache=True)
def normal_quantile(u):
    """Phi^-1(u) of u in (0, 1), to about 1e-7 of its value."""
    q = u - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        top = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
        return q * top / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0)
    r = np.sqrt(-np.log(min(u, 1.0 - u)))
    if r <= 5.0:
        r -= 1.6
        top = ((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777
        size = top / ((0.12021132975 * r + 0.73700164250) * r + 1.0)
    else:  # not reached by 32-bit words, for which r < 4.8
        r -= 5.0
        top = ((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150
        size = top / ((0.012258202635 * r + 0.24197894225) * r + 1.0)
    return size if q > 0 else -size


@njit(inline="always", error_model="numpy")
def _normal(index, key):
    word = _mix(np.uint32(_mix(np.uint32(index)) ^ key))
    return np.float32(normal_quantile((np.float64(word) + 0.5) * WORDS))


@njit(inline="always", error_model="numpy")
def _ordered(word):
    """Integers that sort as the floats whose bits they are; its own inverse."""
    return np.int32(word ^ ((word >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(error_model="numpy")
def _extremes(x):
    """Smallest and largest value; over integers, because float comparisons forbid vector registers."""
    words = x.view(np.int32)
    low = high = _ordered(words[0])
    for i in range(len(words)):
        word = _ordered(words[i])
        low = min(low, word)
        high = max(high, word)
    return _ordered(low).view(np.float32), _ordered(high).view(np.float32)


@njit(inline="always", error_model="numpy")
def _held(x, low, high):
    """x held in low..high; NaN stays NaN, so that a diverged run is seen."""
    return low if x < low else (high if x > high else x)


@njit(error_model="numpy")
def _differs(w, level, low, high, centre, scale):
    """How many cells of a block are asked for another level than they have."""
    count = np.int32(0)
    for i in range(len(w)):
        x = (_held(w[i], low, high) - centre) * scale
        count += np.int32(0) if abs(x - level[i]) <= SAME else np.int32(1)
    return count


@njit(error_model="numpy")
def _write(w, level, deviation, low, high, centre, scale, sigma, key, start, places):
    """Write the cells of a block that changed; they are gathered without a branch, which would be guessed."""
    count = 0
    for i in range(len(w)):
        x = (_held(w[i], low, high) - centre) * scale
        places[count] = i
        count += 0 if abs(x - level[i]) <= SAME else 1
    for entry in range(count):
        i = places[entry]
        level[i] = (_held(w[i], low, high) - centre) * scale
        deviation[i] = sigma * _normal(start + i, key)


@njit(error_model="numpy")
def _read(out, w, deviation, low, high, half):
    """What the cells of a piece give."""
    for i in range(len(w)):
        out[i] = _held(w[i], low, high) + half * deviation[i]


@njit(error_model="numpy")
def _piece(out, w, level, deviation, low, high, centre, half, scale, sigma, key, start):
    """Cells of one piece, block by block: blocks without a change are only looked at, in vector registers."""
    places = np.empty(BLOCK, np.int64)
    for a in range(0, len(w), BLOCK):
        b = min(a + BLOCK, len(w))
        if _differs(w[a:b], level[a:b], low, high, centre, scale) > 0:
            _write(
                w[a:b], level[a:b], deviation[a:b], low, high, centre, scale, sigma, key, start + a, places
            )
        _read(out[a:b], w[a:b], deviation[a:b], low, high, half)


@njit(error_model="numpy")
def _run(
    run, out, weights, level, deviation, halves, starts, index, positive, negative,
    origin, pieces, low, high, sigma, key,
):  # fmt: skip
    """One run of one tensor; the arguments are those of `program_`, all arrays."""
    count = weights.shape[1]
    room = halves.shape[1]
    width = count // pieces[run]
    entry = starts[run]
    last = starts[run + 1]
    word = np.uint32(key[run])
    for piece in range(pieces[run]):
        a = piece * width
        row = weights[run, a : a + width]
        least, most = low[run], high[run]
        if origin[run] != GIVEN:
            least, most = _extremes(row)
        if origin[run] == LARGEST:
            most = max(abs(least), abs(most))
            least = -most
        centre, half = (most + least) / TWO, (most - least) / TWO
        scale = ONE / half if half > ZERO else ZERO
        _piece(
            out[run, a : a + width], row, level[run, a : a + width], deviation[run, a : a + width],
            least, most, centre, half, scale, sigma[run], word, a,
        )  # fmt: skip
        share = room // pieces[run]
        for place in range(piece * share, (piece + 1) * share):
            halves[run, place] = half
        while entry < last and index[entry] < a + width:
            i = index[entry]
            inside = _held(weights[run, i], least, most)
            x = (inside - centre) * scale
            p, n = positive[entry], negative[entry]
            noise = ZERO if p == p and n == n else PARTNER * deviation[run, i]
            p = p if p == p else max(x, ZERO)
            n = n if n == n else max(-x, ZERO)
            out[run, i] = centre + half * (p - n + noise)
            entry += 1


@njit(cache=True, error_model="numpy")
def alone(
    out, weights, level, deviation, halves, starts, index, positive, negative,
    origin, pieces, low, high, sigma, key,
):  # fmt: skip
    """Every run, on one thread."""
    for run in range(len(weights)):
        _run(
            run, out, weights, level, deviation, halves, starts, index, positive, negative,
            origin, pieces, low, high, sigma, key,
        )  # fmt: skip


# A function of its own: numba's cache does not tell two compilations of one function apart.
@njit(cache=True, error_model="numpy", parallel=True)
def together(
    out, weights, level, deviation, halves, starts, index, positive, negative,
    origin, pieces, low, high, sigma, key,
):  # fmt: skip
    """Every run, on `numba.get_num_threads()` threads."""
    for run in prange(len(weights)):
        _run(
            run, out, weights, level, deviation, halves, starts, index, positive, negative,
            origin, pieces, low, high, sigma, key,
        )  # fmt: skip
