"""Packed programs, compiled: one call runs a whole network, step by step, each step cut into tasks.

A step is a row of a table of 64-bit integers, written by `lowering`: what is done, and addresses, strides and
sizes. A task is a share of a step that writes memory of its own: `alone` does all tasks in turn, `together`
hands those of each step to threads. Convolutions run over pixels four at a time and 32 output channels wide
(`tiles`), and their sums never reach memory: thresholds turn them into bits, which are stored, or OR-ed where
a max pooling follows. The twin that says the same readably is `reference`.

Arithmetic in float32 is unfused (no fast-math), in the order of `reference`: equal bits are the contract.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportUnknownArgumentType=false, reportUnusedFunction=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from tersa.binary.tiles import (
    as_bytes,
    as_floats,
    as_integers,
    as_shorts,
    bits_of_four,
    bits_of_one,
    integers_of_four,
    integers_of_one,
    peek_half,
    peek_word,
    poke_half,
    poke_word,
    reached,
    scratch,
    ternary_of_four,
    ternary_of_one,
)

(
    PIXEL_WORDS, PIXEL_SHORTS, PIXEL_FLOATS, BITS, TERNARY, SHORTS, SUM_BITS, MAX_BITS, LEVELS, UNPACK_SHORTS,
    UNPACK_FLOATS, AFFINE, RELU, ADD, REPEAT, AVERAGE, MAX_FLOATS, SUM_FLOATS, CONVOLVE_FLOATS,
) = range(19)  # fmt: skip
"""What a step does."""

TO_BITS, TO_FLOATS, TO_SHORTS = range(3)
"""What becomes of sums."""

(
    KIND, TASKS, IMAGES, ROWS, COLUMNS, CHUNK, CHUNKS, GROUPS, CHANNELS,
    X, X_IMAGE, X_PLANE, X_ROW, X_PIXEL, X_PLANES, STEP_Y, STEP_X,
    W, W_GROUP, KERNEL_ROWS, RUN, PAIRS, PAIR_COUNT,
    OUT, OUT_IMAGE, OUT_PLANE, OUT_ROW, OUT_PIXEL, OUT_PLANES, POOL, ENDING,
    T, T_GROUP, T_ROWS, T_COLUMNS, LEVEL_COUNT, FACTOR, ALPHA, SCALE, SHIFT,
    OTHER, OTHER_IMAGE, OTHER_ROW, OTHER_PIXEL, SIZE, INPUT_ROWS, INPUT_COLUMNS,
    INPUT_CHANNELS, KERNEL_COLUMNS,
) = range(49)  # fmt: skip
"""Columns of the table. `X...` is what is read, `OUT...` what is written: address of the first place inside
the padding, and bytes from one image, plane, row and pixel to the next; `STEP_Y` and `STEP_X` are bytes from
one output pixel's first tap to the next one's. `T...` are thresholds or offsets (class, group, level, 32)
int32."""

WIDTH = 49

ONE, ZERO = np.float32(1), np.float32(0)


@njit(inline="always")
def _next(y, x, columns, last):
    """The pixel after (y, x), row by row; the last stays."""
    x += 1
    if x == columns:
        if y == last:
            return y, x - 1
        return y + 1, 0
    return y, x


@njit(inline="always")
def _mask(sums, thresholds, level, count):
    """One bit plane of 32 codes: parity of the thresholds reached among each 2^level-th."""
    step = 1 << level
    found = reached(sums, thresholds + 128 * (step - 1))
    j = 2 * step
    while j <= count:
        found ^= reached(sums, thresholds + 128 * (j - 1))
        j += step
    return np.uint32(found)


@njit
def _finish(table, i, sums, image, group, y, x):
    """What becomes of one pixel's 32 sums."""
    bound = table[i, T] + group * table[i, T_GROUP]
    bound += peek_word(table[i, T_ROWS] + 8 * y) + peek_word(table[i, T_COLUMNS] + 8 * x)
    pool = table[i, POOL]
    if pool == 2:
        y >>= 1
        x >>= 1
    elif pool > 2:
        y //= pool
        x //= pool
    at = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
    ending = table[i, ENDING]
    if ending == TO_BITS:
        at += 4 * group
        for plane in range(table[i, OUT_PLANES]):
            mask = _mask(sums, bound, plane, table[i, LEVEL_COUNT])
            if pool > 1:
                mask |= peek_half(at)
            poke_half(at, mask)
            at += table[i, OUT_PLANE]
        return
    first = 32 * group
    count = min(table[i, CHANNELS] - first, 32)
    factor = np.int32(table[i, FACTOR])
    total = carray(as_integers(sums), (32,))
    offset = carray(as_integers(bound), (32,))
    if ending == TO_SHORTS:
        short = carray(as_shorts(at + 2 * first), (32,))
        for lane in range(count):
            short[lane] = np.int16(factor * total[lane] + offset[lane])
        return
    out = carray(as_floats(at + 4 * first), (32,))
    scale = carray(as_floats(table[i, SCALE] + 4 * first), (32,))
    shift = carray(as_floats(table[i, SHIFT] + 4 * first), (32,))
    if table[i, ALPHA] != 0:
        alpha = carray(as_floats(table[i, ALPHA] + 4 * first), (32,))
        for lane in range(count):
            y1 = np.float32(np.int32(factor * total[lane] + offset[lane])) * alpha[lane]
            y2 = y1 * scale[lane]
            out[lane] = y2 + shift[lane]
    else:
        for lane in range(count):
            y2 = np.float32(np.int32(factor * total[lane] + offset[lane])) * scale[lane]
            out[lane] = y2 + shift[lane]


@njit(inline="always")
def _bit(sums, bounds, rows, columns, out, row_bytes, pixel_bytes, half, y, x):
    """One pixel's 32 sums against one threshold each, stored, or OR-ed where a 2x2 pooling halves y and x."""
    mask = np.uint32(reached(sums, bounds + peek_word(rows + 8 * y) + peek_word(columns + 8 * x)))
    at = out + (y >> half) * row_bytes + (x >> half) * pixel_bytes
    poke_half(at, mask | peek_half(at) if half else mask)


@njit
def _convolve(table, i, task):
    """Sums of 32 channels over some rows of one image, and what becomes of them."""
    per_group = table[i, IMAGES] * table[i, CHUNKS]
    group = task // per_group
    image = (task % per_group) // table[i, CHUNKS]
    y = (task % table[i, CHUNKS]) * table[i, CHUNK]
    stop = min(y + table[i, CHUNK], table[i, ROWS])
    columns = table[i, COLUMNS]
    pool = table[i, POOL]
    if pool > 1:
        for row in range(y // pool, stop // pool):
            for column in range(columns // pool):
                at = table[i, OUT] + image * table[i, OUT_IMAGE] + row * table[i, OUT_ROW]
                poke_half(at + column * table[i, OUT_PIXEL] + 4 * group, np.uint32(0))
    kind = table[i, KIND]
    x_at = table[i, X] + image * table[i, X_IMAGE]
    step_y = table[i, STEP_Y]
    step_x = table[i, STEP_X]
    w = table[i, W] + group * table[i, W_GROUP]
    rows = table[i, KERNEL_ROWS]
    run = table[i, RUN]
    x_row = table[i, X_ROW]
    pairs = table[i, PAIRS]
    pair_count = table[i, PAIR_COUNT]
    sums = scratch()
    left = (stop - y) * columns
    x = 0
    plain = table[i, ENDING] == TO_BITS and table[i, LEVEL_COUNT] == 1 and pool <= 2
    half = pool - 1
    bounds = table[i, T] + group * table[i, T_GROUP]
    b_rows, b_columns = table[i, T_ROWS], table[i, T_COLUMNS]
    out = table[i, OUT] + image * table[i, OUT_IMAGE] + 4 * group
    out_row, out_pixel = table[i, OUT_ROW], table[i, OUT_PIXEL]
    if left == 1:
        at = x_at + y * step_y
        if kind == BITS:
            bits_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        elif kind == TERNARY:
            ternary_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        else:
            integers_of_one(at, w, rows, run, x_row, pairs, pair_count, sums)
        _finish(table, i, sums, image, group, y, x)
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
        if kind == BITS:
            bits_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        elif kind == TERNARY:
            ternary_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        else:
            integers_of_four(a0, a1, a2, a3, w, rows, run, x_row, pairs, pair_count, sums)
        if plain:  # the last pixel may come twice: its bits are the same
            _bit(sums, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y, x)
            _bit(sums + 128, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y1, x1)
            _bit(sums + 256, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y2, x2)
            _bit(sums + 384, bounds, b_rows, b_columns, out, out_row, out_pixel, half, y3, x3)
        else:
            _finish(table, i, sums, image, group, y, x)
            if left > 1:
                _finish(table, i, sums + 128, image, group, y1, x1)
            if left > 2:
                _finish(table, i, sums + 256, image, group, y2, x2)
            if left > 3:
                _finish(table, i, sums + 384, image, group, y3, x3)
        left -= 4
        y, x = _next(y3, x3, columns, last)


@njit
def _pixels(table, i, image, y):
    """One row of bytes as words, 16-bit integers or floats; `W` is what each byte becomes."""
    columns = table[i, COLUMNS]
    channels = table[i, CHANNELS]
    plane = table[i, INPUT_ROWS] * columns
    size = channels * plane
    bytes_in = carray(as_bytes(table[i, X] + image * size), (size,))
    start = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW]
    kind = table[i, KIND]
    if kind == PIXEL_WORDS:
        code = carray(as_bytes(table[i, W]), (256,))
        for x in range(columns):
            at = start + x * table[i, OUT_PIXEL]
            for level in range(table[i, OUT_PLANES]):
                for first in range(0, channels, 64):
                    word = np.int64(0)
                    for c in range(first, min(first + 64, channels)):
                        q = np.int64(code[bytes_in[c * plane + y * columns + x]])
                        word |= (q >> level & 1) << (c - first)
                    poke_word(at + level * table[i, OUT_PLANE] + first // 8, word)
        return
    if kind == PIXEL_SHORTS:
        value = carray(as_shorts(table[i, W]), (256,))
        shorts = carray(as_shorts(start), (columns * channels,))
        for c in range(channels):
            for x in range(columns):
                shorts[x * channels + c] = value[bytes_in[c * plane + y * columns + x]]
        return
    floats = carray(as_floats(start), (columns * channels,))
    table_of = carray(as_floats(table[i, W]), (256 * channels,))
    for c in range(channels):
        for x in range(columns):
            floats[x * channels + c] = table_of[256 * c + bytes_in[c * plane + y * columns + x]]


@njit
def _sum_bits(table, i, image, group):
    """Codes of 32 channels, added over the map."""
    sums = scratch()
    total = carray(as_integers(sums), (32,))
    total[:] = 0
    flip = peek_half(table[i, W] + 4 * group)  # the complement of a code is its negated level
    at = table[i, X] + image * table[i, X_IMAGE] + 4 * group
    for plane in range(table[i, X_PLANES]):
        for y in range(table[i, INPUT_ROWS]):
            for x in range(table[i, INPUT_COLUMNS]):
                half = peek_half(at + plane * table[i, X_PLANE] + y * table[i, X_ROW] + x * table[i, X_PIXEL])
                half ^= flip
                for lane in range(32):
                    total[lane] += np.int32((half >> np.uint32(lane)) & np.uint32(1)) << np.int32(plane)
    _finish(table, i, sums, image, group, 0, 0)


@njit
def _max_bits(table, i, image, y):
    """One row of a max pooling of codes, word by word: the larger code bit by bit from the highest plane."""
    planes = table[i, X_PLANES]
    words = -(-table[i, CHANNELS] // 64)
    for x in range(table[i, COLUMNS]):
        at = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
        window = table[i, X] + image * table[i, X_IMAGE] + y * table[i, STEP_Y] + x * table[i, STEP_X]
        for word in range(words):
            to = at + 8 * word
            for plane in range(planes):
                poke_word(
                    to + plane * table[i, OUT_PLANE], peek_word(window + 8 * word + plane * table[i, X_PLANE])
                )
            for place in range(1, table[i, SIZE] * table[i, SIZE]):
                other = window + 8 * word + (place // table[i, SIZE]) * table[i, X_ROW]
                other += (place % table[i, SIZE]) * table[i, X_PIXEL]
                larger = np.int64(0)  # channels whose new code is larger
                open_ = np.int64(-1)  # channels whose planes agree so far
                for back in range(planes):
                    plane = planes - 1 - back
                    old = peek_word(to + plane * table[i, OUT_PLANE])
                    new = peek_word(other + plane * table[i, X_PLANE])
                    larger |= open_ & new & ~old
                    open_ &= ~(new ^ old)
                for plane in range(planes):
                    old = peek_word(to + plane * table[i, OUT_PLANE])
                    new = peek_word(other + plane * table[i, X_PLANE])
                    poke_word(to + plane * table[i, OUT_PLANE], (old & ~larger) | (new & larger))


@njit
def _levels(table, i, image, y):
    """One row of floats as codes."""
    channels = table[i, CHANNELS]
    count = table[i, LEVEL_COUNT]
    thresholds = carray(as_floats(table[i, T]), (count,))
    for x in range(table[i, COLUMNS]):
        start = table[i, X] + image * table[i, X_IMAGE] + y * table[i, X_ROW] + x * table[i, X_PIXEL]
        floats = carray(as_floats(start), (channels,))
        at = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
        for first in range(0, channels, 64):
            for plane in range(table[i, OUT_PLANES]):
                poke_word(at + plane * table[i, OUT_PLANE] + first // 8, 0)
            for c in range(first, min(first + 64, channels)):
                q = 0
                for j in range(count):
                    q += 1 if floats[c] >= thresholds[j] else 0
                for plane in range(table[i, OUT_PLANES]):
                    to = at + plane * table[i, OUT_PLANE] + first // 8
                    poke_word(to, peek_word(to) | (np.int64(q >> plane & 1) << (c - first)))


@njit
def _unpack(table, i, image, y):
    """One row of codes as levels, in 16-bit integers or floats."""
    channels = table[i, CHANNELS]
    planes = table[i, X_PLANES]
    largest = (1 << planes) - 1
    for x in range(table[i, COLUMNS]):
        at = table[i, X] + image * table[i, X_IMAGE] + y * table[i, X_ROW] + x * table[i, X_PIXEL]
        to = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
        shorts = carray(as_shorts(to), (channels,))
        floats = carray(as_floats(to), (channels,))
        for c in range(channels):
            q = 0
            for plane in range(planes):
                q |= (peek_word(at + plane * table[i, X_PLANE] + c // 64 * 8) >> (c % 64) & 1) << plane
            if table[i, KIND] == UNPACK_SHORTS:
                shorts[c] = np.int16(2 * q - largest)
            else:
                floats[c] = np.float32(2 * q - largest)


@njit
def _floats_in_place(table, i, image, y):
    """One row of Affine, Relu, Add or Repeat."""
    channels = table[i, CHANNELS]
    inputs = table[i, INPUT_CHANNELS]
    kind = table[i, KIND]
    for x in range(table[i, COLUMNS]):
        at = table[i, X] + image * table[i, X_IMAGE] + y * table[i, X_ROW] + x * table[i, X_PIXEL]
        to = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
        source = carray(as_floats(at), (inputs,))
        out = carray(as_floats(to), (channels,))
        if kind == AFFINE:
            scale = carray(as_floats(table[i, SCALE]), (channels,))
            shift = carray(as_floats(table[i, SHIFT]), (channels,))
            if table[i, ALPHA] != 0:
                alpha = carray(as_floats(table[i, ALPHA]), (channels,))
                for c in range(channels):
                    scaled = source[c] * alpha[c]
                    out[c] = scaled * scale[c] + shift[c]
            else:
                for c in range(channels):
                    out[c] = source[c] * scale[c] + shift[c]
        elif kind == RELU:
            for c in range(channels):
                out[c] = max(source[c], ZERO)
        elif kind == ADD:
            more = table[i, OTHER] + image * table[i, OTHER_IMAGE] + y * table[i, OTHER_ROW]
            other = carray(as_floats(more + x * table[i, OTHER_PIXEL]), (channels,))
            for c in range(channels):
                out[c] = source[c] + other[c]
        else:
            for first in range(0, channels, inputs):
                for c in range(inputs):
                    out[first + c] = source[c]


@njit
def _windows(table, i, image, y):
    """One row of a mean, a maximum or a sum of floats over windows, row by row within each."""
    channels = table[i, CHANNELS]
    kind = table[i, KIND]
    size = table[i, SIZE]
    y0 = y * table[i, STEP_Y]
    y1 = min(y0 + size, table[i, INPUT_ROWS])
    for x in range(table[i, COLUMNS]):
        x0 = x * table[i, STEP_X]
        x1 = min(x0 + size, table[i, INPUT_COLUMNS])
        to = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
        out = carray(as_floats(to), (channels,))
        out[:] = -np.float32(np.inf) if kind == MAX_FLOATS else ZERO
        for row in range(y0, y1):
            for column in range(x0, x1):
                at = (
                    table[i, X]
                    + image * table[i, X_IMAGE]
                    + row * table[i, X_ROW]
                    + column * table[i, X_PIXEL]
                )
                source = carray(as_floats(at), (channels,))
                if kind == MAX_FLOATS:
                    for c in range(channels):
                        out[c] = max(out[c], source[c])
                else:
                    for c in range(channels):
                        out[c] = out[c] + source[c]
        if kind == AVERAGE:
            count = np.float32((y1 - y0) * (x1 - x0))
            for c in range(channels):
                out[c] = out[c] / count


@njit
def _convolve_floats(table, i, image, y):
    """One row of a convolution in float32, tap by tap; weights (kh, kw, C, O)."""
    channels = table[i, CHANNELS]
    inputs = table[i, INPUT_CHANNELS]
    for x in range(table[i, COLUMNS]):
        to = table[i, OUT] + image * table[i, OUT_IMAGE] + y * table[i, OUT_ROW] + x * table[i, OUT_PIXEL]
        out = carray(as_floats(to), (channels,))
        out[:] = ZERO
        w = table[i, W]
        start = table[i, X] + image * table[i, X_IMAGE] + y * table[i, STEP_Y] + x * table[i, STEP_X]
        for ky in range(table[i, KERNEL_ROWS]):
            for kx in range(table[i, KERNEL_COLUMNS]):
                source = carray(as_floats(start + ky * table[i, X_ROW] + kx * table[i, X_PIXEL]), (inputs,))
                for c in range(inputs):
                    weights = carray(as_floats(w), (channels,))
                    value = source[c]
                    for o in range(channels):
                        out[o] = out[o] + value * weights[o]
                    w += 4 * channels


@njit
def _task(table, i, task):
    kind = table[i, KIND]
    if BITS <= kind <= SHORTS:
        _convolve(table, i, task)
        return
    if kind == SUM_BITS:
        _sum_bits(table, i, task // table[i, GROUPS], task % table[i, GROUPS])
        return
    image = task // table[i, ROWS]
    y = task % table[i, ROWS]
    if kind <= PIXEL_FLOATS:
        _pixels(table, i, image, y)
    elif kind == MAX_BITS:
        _max_bits(table, i, image, y)
    elif kind == LEVELS:
        _levels(table, i, image, y)
    elif UNPACK_SHORTS <= kind <= UNPACK_FLOATS:
        _unpack(table, i, image, y)
    elif kind <= REPEAT:
        _floats_in_place(table, i, image, y)
    elif kind <= SUM_FLOATS:
        _windows(table, i, image, y)
    else:
        _convolve_floats(table, i, image, y)


@njit(cache=True, nogil=True)
def alone(table):
    """Every step of the table, on one thread."""
    for i in range(len(table)):
        for task in range(table[i, TASKS]):
            _task(table, i, task)


# A function of its own, not `alone` compiled twice: numba's cache does not tell two compilations of one
# function apart. Its body is a call, because loops and slices inside a prange are rewritten.
@njit(cache=True, nogil=True, parallel=True)
def together(table):
    """Every step of the table, its tasks on `numba.get_num_threads()` threads."""
    for i in range(len(table)):
        for task in prange(table[i, TASKS]):
            _task(table, i, task)


@njit(cache=True, nogil=True)
def to_bytes(pixels, out):
    """round(255 x) of pixels in 0..1, ties to even."""
    for i in range(len(pixels)):
        out[i] = np.uint8(min(max(np.rint(pixels[i] * np.float32(255)), ZERO), np.float32(255)))
