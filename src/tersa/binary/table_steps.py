"""Convolutions by table look-up (`lookups`): the tables, counts of a block, and what becomes of them.

A block is up to 16 pairs of neighbouring pixels and 128 output channels. It is counted segment by segment of
the kernel's rows, so that a segment's tables and weights are used by the whole block while the nearest cache
has them.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportUnknownArgumentType=false, reportUnusedFunction=false

from __future__ import annotations

import numpy as np
from numba import njit

from tersa.binary import columns as k
from tersa.binary.endings import clear, finish
from tersa.binary.lookups import (
    COUNTS,
    PAIRS,
    SPAN,
    STEPS,
    TABLE,
    below,
    cleared,
    counts_and_places,
    negated,
    ones_for_four,
    ones_for_one,
    ones_for_two,
    shifted,
    threes_for_four,
    threes_for_one,
    threes_for_two,
    write_tables,
)
from tersa.binary.tiles import peek_half, peek_word, poke_half, poke_word, scratch


@njit
def look_up(table, i, task):
    """Up to 128 channels over some rows of one image, from tables that lie where the words would."""
    shares = table[i, k.TASKS] // table[i, k.IMAGES]  # image by image: a thread reads what it wrote
    image, share = task // shares, task % shares
    part = table[i, k.PARTS] + 16 * (share // table[i, k.CHUNKS])
    first, span = peek_word(part), peek_word(part + 8)
    y = (share % table[i, k.CHUNKS]) * table[i, k.CHUNK]
    stop = min(y + table[i, k.CHUNK], table[i, k.ROWS])
    x_at = table[i, k.X] + image * table[i, k.X_IMAGE]
    room = counts_and_places()
    places = room + SPAN * COUNTS * PAIRS
    for group in range(first, first + span):
        clear(table, i, group, image, y, stop)
    along = (table[i, k.COLUMNS] + 1) >> 1
    last = (stop - y) * along
    start = 0
    while start < last:
        pairs = min(PAIRS, last - start)
        for pair in range(pairs):
            place = start + pair
            row = x_at + (y + place // along) * table[i, k.STEP_Y]
            poke_word(places + 8 * pair, row + 2 * (place % along) * table[i, k.STEP_X])
        cleared(room, 4 * span * pairs)
        _count(table, i, first, span, y * along + start, pairs, room, places)
        for group in range(span):
            _settle(table, i, first + group, image, y, start, pairs, room + COUNTS * group, COUNTS * span)
        start += pairs


@njit
def _count(table, i, first, span, start, pairs, counts, places):
    """Counts of some pairs of pixels, the `start`-th of the map and on, and some times 32 channels.

    Segment by segment of the kernel's rows; a pair takes no part in rows that lie outside its map.
    """
    run = table[i, k.RUN]
    along = (table[i, k.COLUMNS] + 1) >> 1
    for plane in range(table[i, k.PLANE_COUNT]):
        entry = table[i, k.PLANES] + 24 * plane
        offset, shift = peek_word(entry), peek_word(entry + 16)
        weights = table[i, k.W] + first * table[i, k.W_GROUP] + span * peek_word(entry + 8)
        if plane > 0 and shift > 0:
            shifted(counts, 4 * span * pairs, shift)
        for row in range(table[i, k.KERNEL_ROWS]):
            top = table[i, k.PADDING] - row  # the first row of outputs for which this row is inside
            low = max(0, top * along - start)
            high = min(pairs, (top + table[i, k.INPUT_ROWS]) * along - start)
            done = 0
            while done < run:
                steps = min(STEPS, (run - done) // 3)
                used = 3 * steps if steps > 0 else run - done
                for pair in range(low, high):
                    tables, out = peek_word(places + 8 * pair) + offset, counts + COUNTS * span * pair
                    if steps > 0:
                        _threes(span, tables, weights, steps, out)
                    else:
                        _ones(span, tables, weights, used, out)
                done += used
                offset += TABLE * used
                weights += 32 * span * used
            offset += table[i, k.X_ROW] - TABLE * run


@njit(inline="always")
def _threes(span, tables, weights, steps, counts):
    if span == SPAN:
        threes_for_four(tables, weights, steps, counts)
    elif span == 2:
        threes_for_two(tables, weights, steps, counts)
    else:
        threes_for_one(tables, weights, steps, counts)


@njit(inline="always")
def _ones(span, tables, weights, steps, counts):
    if span == SPAN:
        ones_for_four(tables, weights, steps, counts)
    elif span == 2:
        ones_for_two(tables, weights, steps, counts)
    else:
        ones_for_one(tables, weights, steps, counts)


@njit
def _settle(table, i, group, image, y, start, pairs, counts, step):
    """What becomes of the counts of some pairs of pixels."""
    columns = table[i, k.COLUMNS]
    plain = table[i, k.ENDING] == k.TO_BITS_BELOW
    half = table[i, k.POOL] - 1
    bounds = table[i, k.T] + group * table[i, k.T_GROUP]
    b_rows, b_columns = table[i, k.T_ROWS], table[i, k.T_COLUMNS]
    out = table[i, k.OUT] + image * table[i, k.OUT_IMAGE] + 4 * group
    out_row, out_pixel = table[i, k.OUT_ROW], table[i, k.OUT_PIXEL]
    sums = scratch()
    along = (columns + 1) >> 1
    row, x = y + start // along, 2 * (start % along)
    for pair in range(pairs):
        for pixel in range(min(2, columns - x)):
            mine = counts + step * pair + 64 * pixel
            if plain:
                limit = bounds + peek_word(b_rows + 8 * row) + peek_word(b_columns + 8 * (x + pixel))
                at = out + (row >> half) * out_row + (x + pixel >> half) * out_pixel
                found = np.uint32(below(mine, limit))
                poke_half(at, found | peek_half(at) if half else found)
            else:
                negated(mine, sums)
                finish(table, i, sums, image, group, row, x + pixel)
        x += 2
        if x >= columns:
            row, x = row + 1, 0


@njit
def tabulate(table, i, image, y):
    """One row of tables."""
    start = table[i, k.X] + image * table[i, k.X_IMAGE] + y * table[i, k.X_ROW]
    out = table[i, k.OUT] + image * table[i, k.OUT_IMAGE] + y * table[i, k.OUT_ROW]
    for _ in range(table[i, k.X_PLANES]):
        write_tables(start, table[i, k.X_PIXEL], table[i, k.COLUMNS], table[i, k.RUN], table[i, k.W], out)
        start += table[i, k.X_PLANE]
        out += table[i, k.OUT_PLANE]
