"""Steps on floats, in the order of `reference`: equal bits are the contract."""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportUnknownArgumentType=false, reportUnusedFunction=false

from __future__ import annotations

import numpy as np
from numba import carray, njit

from tersa.binary import columns as k
from tersa.binary.tiles import as_floats

ZERO = np.float32(0)


@njit
def floats_in_place(table, i, image, y):
    """One row of Affine, Relu, Add or Repeat."""
    channels = table[i, k.CHANNELS]
    inputs = table[i, k.INPUT_CHANNELS]
    kind = table[i, k.KIND]
    for x in range(table[i, k.COLUMNS]):
        at = table[i, k.X] + image * table[i, k.X_IMAGE] + y * table[i, k.X_ROW] + x * table[i, k.X_PIXEL]
        to = (
            table[i, k.OUT]
            + image * table[i, k.OUT_IMAGE]
            + y * table[i, k.OUT_ROW]
            + x * table[i, k.OUT_PIXEL]
        )
        source = carray(as_floats(at), (inputs,))
        out = carray(as_floats(to), (channels,))
        if kind == k.AFFINE:
            scale = carray(as_floats(table[i, k.SCALE]), (channels,))
            shift = carray(as_floats(table[i, k.SHIFT]), (channels,))
            if table[i, k.ALPHA] != 0:
                alpha = carray(as_floats(table[i, k.ALPHA]), (channels,))
                for c in range(channels):
                    scaled = source[c] * alpha[c]
                    out[c] = scaled * scale[c] + shift[c]
            else:
                for c in range(channels):
                    out[c] = source[c] * scale[c] + shift[c]
        elif kind == k.RELU:
            for c in range(channels):
                out[c] = max(source[c], ZERO)
        elif kind == k.ADD:
            more = table[i, k.OTHER] + image * table[i, k.OTHER_IMAGE] + y * table[i, k.OTHER_ROW]
            other = carray(as_floats(more + x * table[i, k.OTHER_PIXEL]), (channels,))
            for c in range(channels):
                out[c] = source[c] + other[c]
        else:
            for first in range(0, channels, inputs):
                for c in range(inputs):
                    out[first + c] = source[c]


@njit
def windows(table, i, image, y):
    """One row of a mean, a maximum or a sum of floats over windows, row by row within each."""
    channels = table[i, k.CHANNELS]
    kind = table[i, k.KIND]
    size = table[i, k.SIZE]
    y0 = y * table[i, k.STEP_Y]
    y1 = min(y0 + size, table[i, k.INPUT_ROWS])
    for x in range(table[i, k.COLUMNS]):
        x0 = x * table[i, k.STEP_X]
        x1 = min(x0 + size, table[i, k.INPUT_COLUMNS])
        to = (
            table[i, k.OUT]
            + image * table[i, k.OUT_IMAGE]
            + y * table[i, k.OUT_ROW]
            + x * table[i, k.OUT_PIXEL]
        )
        out = carray(as_floats(to), (channels,))
        out[:] = -np.float32(np.inf) if kind == k.MAX_FLOATS else ZERO
        for row in range(y0, y1):
            for column in range(x0, x1):
                at = (
                    table[i, k.X]
                    + image * table[i, k.X_IMAGE]
                    + row * table[i, k.X_ROW]
                    + column * table[i, k.X_PIXEL]
                )
                source = carray(as_floats(at), (channels,))
                if kind == k.MAX_FLOATS:
                    for c in range(channels):
                        out[c] = max(out[c], source[c])
                else:
                    for c in range(channels):
                        out[c] = out[c] + source[c]
        if kind == k.AVERAGE:
            count = np.float32((y1 - y0) * (x1 - x0))
            for c in range(channels):
                out[c] = out[c] / count


@njit
def convolve_floats(table, i, image, y):
    """One row of a convolution in float32, tap by tap; weights (kh, kw, C, O)."""
    channels = table[i, k.CHANNELS]
    inputs = table[i, k.INPUT_CHANNELS]
    for x in range(table[i, k.COLUMNS]):
        to = (
            table[i, k.OUT]
            + image * table[i, k.OUT_IMAGE]
            + y * table[i, k.OUT_ROW]
            + x * table[i, k.OUT_PIXEL]
        )
        out = carray(as_floats(to), (channels,))
        out[:] = ZERO
        w = table[i, k.W]
        start = table[i, k.X] + image * table[i, k.X_IMAGE] + y * table[i, k.STEP_Y] + x * table[i, k.STEP_X]
        for ky in range(table[i, k.KERNEL_ROWS]):
            for kx in range(table[i, k.KERNEL_COLUMNS]):
                source = carray(
                    as_floats(start + ky * table[i, k.X_ROW] + kx * table[i, k.X_PIXEL]), (inputs,)
                )
                for c in range(inputs):
                    weights = carray(as_floats(w), (channels,))
                    value = source[c]
                    for o in range(channels):
                        out[o] = out[o] + value * weights[o]
                    w += 4 * channels
