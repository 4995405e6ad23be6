"""Convolutions by table look-up (`lookups`): the tables, counts of a block, and what becomes of them.

A block is up to 16 pairs of neighbouring pixels and 64 output channels. It is counted segment by segment of
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
    counts_and_places,
    negated,
    ones_of_four,
    ones_of_two,
    shifted,
    threes_of_four,
    threes_of_two,
    write_tables,
)
from tersa.binary.tiles import peek_half, peek_word, poke_half, poke_word, scratch


@njit
def look_up(table, i, task):
    """Up to 64 channels over some rows of one image, from tables that lie where the words would."""
    shares = table[i, k.TASKS] // table[i, k.IMAGES]  # image by image: a thread reads what it wrote
    image, share = task // shares, task % shares
    first = SPAN * (share // table[i, k.CHUNKS])
    y = (share % table[i, k.CHUNKS]) * table[i, k.CHUNK]
    stop = min(y + table[i, k.CHUNK], table[i, k.ROWS])
    span = min(SPAN, table[i, k.GROUPS] - first)
    columns = table[i, k.COLUMNS]
    x_at = table[i, k.X] + image * table[i, k.X_IMAGE]
    room = counts_and_places()
    places = room + SPAN * COUNTS
    for group in range(first, first + span):
        clear(table, i, group, image, y, stop)
    along = (columns + 1) >> 1
    last = (stop - y) * along
    start = 0
    while start < last:
        pairs = min(PAIRS, last - start)
        for pair in range((pairs + 3) // 4 * 4):
            place = start + min(pair, pairs - 1)
            row = x_at + (y + place // along) * table[i, k.STEP_Y]
            poke_word(places + 8 * pair, row + 2 * (place % along) * table[i, k.STEP_X])
        _count(table, i, first, span, pairs, room, places)
        for group in range(span):
            _settle(table, i, first + group, image, y, start, pairs, room + COUNTS * group)
        start += pairs


@njit
def _count(table, i, first, span, pairs, counts, places):
    """Counts of some pairs of pixels and some times 32 channels, segment by segment of the kernel's rows."""
    run = table[i, k.RUN]
    fresh = 1
    for plane in range(table[i, k.PLANE_COUNT]):
        entry = table[i, k.PLANES] + 24 * plane
        offset, shift = peek_word(entry), peek_word(entry + 16)
        weights = table[i, k.W] + first * table[i, k.W_GROUP] + peek_word(entry + 8)
        if plane > 0 and shift > 0:
            for group in range(span):
                shifted(counts + COUNTS * group, 4 * pairs, shift)
        for _ in range(table[i, k.KERNEL_ROWS]):
            done = 0
            while done < run:
                steps = min(STEPS, (run - done) // 3)
                for tile in range(0, pairs, 4):
                    at = places + 8 * tile
                    a0, a1 = peek_word(at) + offset, peek_word(at + 8) + offset
                    a2, a3 = peek_word(at + 16) + offset, peek_word(at + 24) + offset
                    for group in range(span):
                        w = weights + group * table[i, k.W_GROUP]
                        out = counts + COUNTS * group + 128 * tile
                        if pairs - tile > 2:
                            if steps > 0:
                                threes_of_four(a0, a1, a2, a3, w, steps, fresh, out)
                            else:
                                ones_of_four(a0, a1, a2, a3, w, run - done, fresh, out)
                        elif steps > 0:
                            threes_of_two(a0, a1, w, steps, fresh, out)
                        else:
                            ones_of_two(a0, a1, w, run - done, fresh, out)
                fresh = 0
                used = 3 * steps if steps > 0 else run - done
                done += used
                offset += TABLE * used
                weights += 32 * used
            offset += table[i, k.X_ROW] - TABLE * run


@njit
def _settle(table, i, group, image, y, start, pairs, counts):
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
            mine = counts + 128 * pair + 64 * pixel
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
