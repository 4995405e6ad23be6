"""Packed programs, compiled: one call runs a whole network, step by step, each step cut into tasks.

What is done is a table of 64-bit integers, written by `step_table`: each row says what, with addresses,
strides and sizes. A task is a share of a row that writes memory of its own: `alone` does all tasks in turn,
`together` hands those of each row to threads. Convolutions run over pixels four at a time, 32 channels wide
(`tiles`), and their sums never reach memory: thresholds turn them into bits, which are stored, or OR-ed where
a max pooling follows (`endings`). Where no instruction counts the bits of a vector, most convolutions look
their products up instead (`table_steps`). The twin that says the same readably is `reference`.

Arithmetic in float32 is unfused (no fast-math), in the order of `reference`: equal bits are the contract.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportUnknownArgumentType=false, reportUnusedFunction=false

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, njit, prange

from tersa.binary import columns as k
from tersa.binary.endings import bit, clear, finish
from tersa.binary.float_steps import convolve_floats, floats_in_place, windows
from tersa.binary.table_steps import look_up, tabulate
from tersa.binary.tiles import (
    as_bytes,
    as_floats,
    as_integers,
    as_shorts,
    bits_of_four,
    bits_of_one,
    bytes_of_four,
    bytes_of_one,
    integers_of_four,
    integers_of_one,
    peek_half,
    peek_word,
    poke_word,
    scratch,
    ternary_of_four,
    ternary_of_one,
)

ZERO = np.float32(0)


@njit(inline="always")
def _next(y, x, columns, last):
    """The pixel after (y, x), row by row; the last stays."""
    x += 1
    if x == columns:
        if y == last:
            return y, x - 1
        return y + 1, 0
    return y, x


@njit
def _convolve(table, i, task):
    """Sums of 32 channels over some rows of one image, and what becomes of them."""
    per_group = table[i, k.IMAGES] * table[i, k.CHUNKS]
    group = task // per_group
    image = (task % per_group) // table[i, k.CHUNKS]
    y = (task % table[i, k.CHUNKS]) * table[i, k.CHUNK]
    stop = min(y + table[i, k.CHUNK], table[i, k.ROWS])
    clear(table, i, group, image, y, stop)
    columns = table[i, k.COLUMNS]
    pool = table[i, k.POOL]
    kind = table[i, k.KIND]
    x_at = table[i, k.X] + image * table[i, k.X_IMAGE]
    step_y = table[i, k.STEP_Y]
    step_x = table[i, k.STEP_X]
    w = table[i, k.W] + group * table[i, k.W_GROUP]
    rows = table[i, k.KERNEL_ROWS]
    run = table[i, k.RUN]
    x_row = table[i, k.X_ROW]
    pairs = table[i, k.PLANES]
    pair_count = table[i, k.PLANE_COUNT]
    sums = scratch()
    left = (stop - y) * columns
    x = 0
    plain = table[i, k.ENDING] == k.TO_BITS and table[i, k.LEVEL_COUNT] == 1 and pool <= 2
    half = pool - 1
    bounds = table[i, k.T] + group * table[i, k.T_GROUP]
    b_rows, b_columns = table[i, k.T_ROWS], table[i, k.T_COLUMNS]
    out = table[i, k.OUT] + image * table[i, k.OUT_IMAGE] + 4 * group
    out_row, out_pixel = table[i, k.OUT_ROW], table[i, k.OUT_PIXEL]
    if left == 1:
        at = x_at + y * step_y
        if kind == k.BITS:
            bits_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        elif kind == k.TERNARY:
            ternary_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        elif kind == k.BYTES:
            bytes_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        else:
            integers_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        finish(table, i, sums, image, group, y, x)
        return
    last = stop - 1
    while left > 0:
        y1, x1 = _next(y, x, columns, last)
        y2, x2 = _next(y1, x1, columns, last)
        y3, x3 = _next(y2, x2, columns, last)
        a0 = x_at + y * step_y + x * step_x
        a1 = x_at + y1 * step_y + x1 * step_x
        a2 = x_at + y2 * step_y + x2 * step_x
        a3 = x_at + y3 * step_y + x3 * step_x
        if kind == k.BITS:
            bits_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        elif kind == k.TERNARY:
            ternary_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        elif kind == k.BYTES:
            bytes_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        else:
            integers_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        if plain:  # the last pixel may come twice: its bits are the same
            bit(sums, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y, x)
            bit(sums + 128, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y1, x1)
            bit(sums + 256, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y2, x2)
            bit(sums + 384, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y3, x3)
        else:
            finish(table, i, sums, image, group, y, x)
            if left > 1:
                finish(table, i, sums + 128, image, group, y1, x1)
            if left > 2:
                finish(table, i, sums + 256, image, group, y2, x2)
            if left > 3:
                finish(table, i, sums + 384, image, group, y3, x3)
        left -= 4
        y, x = _next(y3, x3, columns, last)


@njit
def _pixels(table, i, image, y):
    """One row of bytes as codes, words, 16-bit integers or floats; `W` is what each byte becomes."""
    columns = table[i, k.COLUMNS]
    channels = table[i, k.CHANNELS]
    plane = table[i, k.INPUT_ROWS] * columns
    size = channels * plane
    bytes_in = carray(as_bytes(table[i, k.X] + image * size), (size,))
    start = table[i, k.OUT] + image * table[i, k.OUT_IMAGE] + y * table[i, k.OUT_ROW]
    kind = table[i, k.KIND]
    if kind == k.PIXEL_WORDS:
        code = carray(as_bytes(table[i, k.W]), (256,))
        for x in range(columns):
            at = start + x * table[i, k.OUT_PIXEL]
            for level in range(table[i, k.OUT_PLANES]):
                for first in range(0, channels, 64):
                    word = np.int64(0)
                    for c in range(first, min(first + 64, channels)):
                        q = np.int64(code[bytes_in[c * plane + y * columns + x]])
                        word |= (q >> level & 1) << (c - first)
                    poke_word(at + level * table[i, k.OUT_PLANE] + first // 8, word)
        return
    if kind == k.PIXEL_BYTES:
        code = carray(as_bytes(table[i, k.W]), (256,))
        codes = carray(as_bytes(start), (columns * channels,))
        for c in range(channels):
            for x in range(columns):
                codes[x * channels + c] = code[bytes_in[c * plane + y * columns + x]]
        return
    if kind == k.PIXEL_SHORTS:
        value = carray(as_shorts(table[i, k.W]), (256,))
        shorts = carray(as_shorts(start), (columns * channels,))
        for c in range(channels):
            for x in range(columns):
                shorts[x * channels + c] = value[bytes_in[c * plane + y * columns + x]]
        return
    floats = carray(as_floats(start), (columns * channels,))
    table_of = carray(as_floats(table[i, k.W]), (256 * channels,))
    for c in range(channels):
        for x in range(columns):
            floats[x * channels + c] = table_of[256 * c + bytes_in[c * plane + y * columns + x]]


@njit
def _sum_bits(table, i, image, group):
    """Codes of 32 channels, added over the map."""
    sums = scratch()
    total = carray(as_integers(sums), (32,))
    total[:] = 0
    flip = peek_half(table[i, k.W] + 4 * group)  # the complement of a code is its negated level
    at = table[i, k.X] + image * table[i, k.X_IMAGE] + 4 * group
    for plane in range(table[i, k.X_PLANES]):
        for y in range(table[i, k.INPUT_ROWS]):
            for x in range(table[i, k.INPUT_COLUMNS]):
                half = peek_half(
                    at + plane * table[i, k.X_PLANE] + y * table[i, k.X_ROW] + x * table[i, k.X_PIXEL]
                )
                half ^= flip
                for lane in range(32):
                    total[lane] += np.int32((half >> np.uint32(lane)) & np.uint32(1)) << np.int32(plane)
    finish(table, i, sums, image, group, 0, 0)


@njit
def _max_bits(table, i, image, y):
    """One row of a max pooling of codes, word by word: the larger code bit by bit from the highest plane."""
    planes = table[i, k.X_PLANES]
    words = -(-table[i, k.CHANNELS] // 64)
    for x in range(table[i, k.COLUMNS]):
        at = (
            table[i, k.OUT]
            + image * table[i, k.OUT_IMAGE]
            + y * table[i, k.OUT_ROW]
            + x * table[i, k.OUT_PIXEL]
        )
        window = table[i, k.X] + image * table[i, k.X_IMAGE] + y * table[i, k.STEP_Y] + x * table[i, k.STEP_X]
        for word in range(words):
            to = at + 8 * word
            for plane in range(planes):
                poke_word(
                    to + plane * table[i, k.OUT_PLANE],
                    peek_word(window + 8 * word + plane * table[i, k.X_PLANE]),
                )
            for place in range(1, table[i, k.SIZE] * table[i, k.SIZE]):
                other = window + 8 * word + (place // table[i, k.SIZE]) * table[i, k.X_ROW]
                other += (place % table[i, k.SIZE]) * table[i, k.X_PIXEL]
                larger = np.int64(0)  # channels whose new code is larger
                open_ = np.int64(-1)  # channels whose planes agree so far
                for back in range(planes):
                    plane = planes - 1 - back
                    old = peek_word(to + plane * table[i, k.OUT_PLANE])
                    new = peek_word(other + plane * table[i, k.X_PLANE])
                    larger |= open_ & new & ~old
                    open_ &= ~(new ^ old)
                for plane in range(planes):
                    old = peek_word(to + plane * table[i, k.OUT_PLANE])
                    new = peek_word(other + plane * table[i, k.X_PLANE])
                    poke_word(to + plane * table[i, k.OUT_PLANE], (old & ~larger) | (new & larger))


@njit
def _levels(table, i, image, y):
    """One row of floats as codes."""
    channels = table[i, k.CHANNELS]
    count = table[i, k.LEVEL_COUNT]
    thresholds = carray(as_floats(table[i, k.T]), (count,))
    for x in range(table[i, k.COLUMNS]):
        start = table[i, k.X] + image * table[i, k.X_IMAGE] + y * table[i, k.X_ROW] + x * table[i, k.X_PIXEL]
        floats = carray(as_floats(start), (channels,))
        at = (
            table[i, k.OUT]
            + image * table[i, k.OUT_IMAGE]
            + y * table[i, k.OUT_ROW]
            + x * table[i, k.OUT_PIXEL]
        )
        for first in range(0, channels, 64):
            for plane in range(table[i, k.OUT_PLANES]):
                poke_word(at + plane * table[i, k.OUT_PLANE] + first // 8, 0)
            for c in range(first, min(first + 64, channels)):
                q = 0
                for j in range(count):
                    q += 1 if floats[c] >= thresholds[j] else 0
                for plane in range(table[i, k.OUT_PLANES]):
                    to = at + plane * table[i, k.OUT_PLANE] + first // 8
                    poke_word(to, peek_word(to) | (np.int64(q >> plane & 1) << (c - first)))


@njit
def _unpack(table, i, image, y):
    """One row of codes as levels, in 16-bit integers or floats."""
    channels = table[i, k.CHANNELS]
    planes = table[i, k.X_PLANES]
    largest = (1 << planes) - 1
    for x in range(table[i, k.COLUMNS]):
        at = table[i, k.X] + image * table[i, k.X_IMAGE] + y * table[i, k.X_ROW] + x * table[i, k.X_PIXEL]
        to = (
            table[i, k.OUT]
            + image * table[i, k.OUT_IMAGE]
            + y * table[i, k.OUT_ROW]
            + x * table[i, k.OUT_PIXEL]
        )
        shorts = carray(as_shorts(to), (channels,))
        floats = carray(as_floats(to), (channels,))
        for c in range(channels):
            q = 0
            for plane in range(planes):
                q |= (peek_word(at + plane * table[i, k.X_PLANE] + c // 64 * 8) >> (c % 64) & 1) << plane
            if table[i, k.KIND] == k.UNPACK_SHORTS:
                shorts[c] = np.int16(2 * q - largest)
            else:
                floats[c] = np.float32(2 * q - largest)


@njit
def _task(table, i, task):
    kind = table[i, k.KIND]
    if k.BITS <= kind <= k.BYTES:
        _convolve(table, i, task)
        return
    if kind == k.LOOKED_UP:
        look_up(table, i, task)
        return
    if kind == k.SUM_BITS:
        _sum_bits(table, i, task // table[i, k.GROUPS], task % table[i, k.GROUPS])
        return
    image = task // table[i, k.ROWS]
    y = task % table[i, k.ROWS]
    if kind <= k.PIXEL_FLOATS:
        _pixels(table, i, image, y)
    elif kind == k.MAX_BITS:
        _max_bits(table, i, image, y)
    elif kind == k.LEVELS:
        _levels(table, i, image, y)
    elif k.UNPACK_SHORTS <= kind <= k.UNPACK_FLOATS:
        _unpack(table, i, image, y)
    elif kind <= k.REPEAT:
        floats_in_place(table, i, image, y)
    elif kind <= k.SUM_FLOATS:
        windows(table, i, image, y)
    elif kind == k.CONVOLVE_FLOATS:
        convolve_floats(table, i, image, y)
    else:
        tabulate(table, i, image, y)


@njit
def _row(table, i):
    """All tasks of a row, in turn."""
    for task in range(table[i, k.TASKS]):
        _task(table, i, task)


def digest_of_sources(folder: Path = Path(__file__).parent) -> str:
    """A digest of all files that the kernels are compiled from.

    numba looks at this file alone before it takes a compilation from its cache, and at what its functions
    enclose: they enclose the digest, so that a change anywhere is one.
    """
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


# Two functions, not one compiled twice: numba's cache does not tell two compilations of one function apart.
# Calls are all that is in a prange, because loops and slices inside it are rewritten.
def _compiled(digest: str) -> tuple[Any, Any]:
    @njit(cache=True, nogil=True)
    def alone(table):
        """Every row of the table, on one thread."""
        _ = digest
        for i in range(len(table)):
            _row(table, i)

    @njit(cache=True, nogil=True, parallel=True)
    def together(table):
        """Every row of the table, its tasks on `numba.get_num_threads()` threads."""
        _ = digest
        for i in range(len(table)):
            if table[i, k.SMALL]:
                _row(table, i)
            else:
                for task in prange(table[i, k.TASKS]):
                    _task(table, i, task)

    return alone, together


alone, together = _compiled(digest_of_sources())


@njit(cache=True, nogil=True)
def to_bytes(pixels, out):
    """round(255 x) of pixels in 0..1, ties to even."""
    for i in range(len(pixels)):
        out[i] = np.uint8(min(max(np.rint(pixels[i] * np.float32(255)), ZERO), np.float32(255)))
