"""Columns of the table that the kernels run: `KIND` says what a step does, the others what it needs."""

from __future__ import annotations

(
    PIXEL_BYTES, PIXEL_WORDS, PIXEL_SHORTS, PIXEL_FLOATS, BITS, TERNARY, SHORTS, BYTES, LOOKED_UP, SUM_BITS,
    MAX_BITS, LEVELS, UNPACK_SHORTS, UNPACK_FLOATS, AFFINE, RELU, ADD, REPEAT, AVERAGE, MAX_FLOATS,
    SUM_FLOATS, CONVOLVE_FLOATS, TABULATE,
) = range(23)  # fmt: skip
"""What a step does."""

TO_BITS, TO_FLOATS, TO_SHORTS, TO_BITS_BELOW = range(4)
"""What becomes of sums; `TO_BITS_BELOW`: of counts that were looked up, by 16-bit limits."""

(
    KIND, TASKS, IMAGES, ROWS, COLUMNS, CHUNK, CHUNKS, GROUPS, CHANNELS,
    X, X_IMAGE, X_PLANE, X_ROW, X_PIXEL, X_PLANES, STEP_Y, STEP_X,
    W, W_GROUP, KERNEL_ROWS, RUN, PLANES, PLANE_COUNT,
    OUT, OUT_IMAGE, OUT_PLANE, OUT_ROW, OUT_PIXEL, OUT_PLANES, POOL, ENDING,
    T, T_GROUP, T_ROWS, T_COLUMNS, LEVEL_COUNT, FACTOR, ALPHA, SCALE, SHIFT,
    OTHER, OTHER_IMAGE, OTHER_ROW, OTHER_PIXEL, SIZE, INPUT_ROWS, INPUT_COLUMNS,
    INPUT_CHANNELS, KERNEL_COLUMNS, PADDING, PARTS, SMALL,
) = range(52)  # fmt: skip
"""Columns of the table. `X...` is what is read, `OUT...` what is written: address of the first place inside
the padding (of a convolution's first tap, or table), and bytes from one image, plane, row and pixel to the
next; `STEP_Y` and `STEP_X` are bytes from one output pixel's first tap to the next one's. `PADDING` are rows
of taps above the map; they have no tables, and a convolution that looks up reads none of them. `PARTS` is the
address of int64 (part, 2): the first group of channels of each part that is looked up together, and how many.
`T...` are thresholds or offsets (class, group, level, 32) int32, or limits (class, group, 32) uint16. A
`SMALL` row is done before other threads have begun."""

WIDTH = 52
