"""What becomes of sums: bits by thresholds, OR-ed where a pooling follows, 16-bit integers or floats."""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportUnknownArgumentType=false, reportUnusedFunction=false

from __future__ import annotations

import numpy as np
from numba import carray, njit

from tersa.binary import columns as k
from tersa.binary.tiles import as_floats, as_integers, as_shorts, peek_half, peek_word, poke_half, reached


@njit(inline="always")
def mask(sums, thresholds, level, count):
    """One bit plane of 32 codes: parity of the thresholds reached among each 2^level-th."""
    step = 1 << level
    found = reached(sums, thresholds + 128 * (step - 1))
    j = 2 * step
    while j <= count:
        found ^= reached(sums, thresholds + 128 * (j - 1))
        j += step
    return np.uint32(found)


@njit
def finish(table, i, sums, image, group, y, x):
    """What becomes of one pixel's 32 sums."""
    bound = table[i, k.T] + group * table[i, k.T_GROUP]
    bound += peek_word(table[i, k.T_ROWS] + 8 * y) + peek_word(table[i, k.T_COLUMNS] + 8 * x)
    pool = table[i, k.POOL]
    if pool == 2:
        y >>= 1
        x >>= 1
    elif pool > 2:
        y //= pool
        x //= pool
    at = table[i, k.OUT] + image * table[i, k.OUT_IMAGE] + y * table[i, k.OUT_ROW] + x * table[i, k.OUT_PIXEL]
    ending = table[i, k.ENDING]
    if ending == k.TO_BITS:
        at += 4 * group
        for plane in range(table[i, k.OUT_PLANES]):
            found = mask(sums, bound, plane, table[i, k.LEVEL_COUNT])
            if pool > 1:
                found |= peek_half(at)
            poke_half(at, found)
            at += table[i, k.OUT_PLANE]
        return
    first = 32 * group
    count = min(table[i, k.CHANNELS] - first, 32)
    factor = np.int32(table[i, k.FACTOR])
    total = carray(as_integers(sums), (32,))
    offset = carray(as_integers(bound), (32,))
    if ending == k.TO_SHORTS:
        short = carray(as_shorts(at + 2 * first), (32,))
        for lane in range(count):
            short[lane] = np.int16(factor * total[lane] + offset[lane])
        return
    out = carray(as_floats(at + 4 * first), (32,))
    scale = carray(as_floats(table[i, k.SCALE] + 4 * first), (32,))
    shift = carray(as_floats(table[i, k.SHIFT] + 4 * first), (32,))
    if table[i, k.ALPHA] != 0:
        alpha = carray(as_floats(table[i, k.ALPHA] + 4 * first), (32,))
        for lane in range(count):
            y1 = np.float32(np.int32(factor * total[lane] + offset[lane])) * alpha[lane]
            y2 = y1 * scale[lane]
            out[lane] = y2 + shift[lane]
    else:
        for lane in range(count):
            y2 = np.float32(np.int32(factor * total[lane] + offset[lane])) * scale[lane]
            out[lane] = y2 + shift[lane]


@njit(inline="always")
def bit(sums, bounds, rows, columns, out, row_bytes, pixel_bytes, half, y, x):
    """One pixel's 32 sums against one threshold each, stored, or OR-ed where a 2x2 pooling halves y and x."""
    mask = np.uint32(reached(sums, bounds + peek_word(rows + 8 * y) + peek_word(columns + 8 * x)))
    at = out + (y >> half) * row_bytes + (x >> half) * pixel_bytes
    poke_half(at, mask | peek_half(at) if half else mask)


@njit
def clear(table, i, group, image, y, stop):
    """Zeros where a pooling ORs into."""
    pool = table[i, k.POOL]
    if pool > 1:
        for row in range(y // pool, stop // pool):
            for column in range(table[i, k.COLUMNS] // pool):
                at = table[i, k.OUT] + image * table[i, k.OUT_IMAGE] + row * table[i, k.OUT_ROW]
                poke_half(at + column * table[i, k.OUT_PIXEL] + 4 * group, np.uint32(0))
