"""Convolutions of -1 and 1 for a training: floats in, float sums out, on bits in between.

`convolve` is a way for `tersa.quant.sums`. Inputs and weights become words of signs while every value is
looked at; one that is neither -1 nor 1 makes it decline, and so do layers too small to gain. The convolution
is that of the packed programs: it looks up or counts, as the processor does best. Some images go through at
once, so that their sums stay in the cache until they lie channels first.

Example:
    >>> rng = np.random.default_rng(0)
    >>> x = rng.choice(np.float32([-1, 1]), (64, 64, 8, 8))
    >>> w = rng.choice(np.float32([-1, 1]), (64, 64, 3, 3))
    >>> convolve(x[:2], w, stride=1, padding=1) is None  # too small
    True
    >>> sums = convolve(x, w, stride=1, padding=1)
    >>> sums.shape, bool(sums[0, 5, 1, 2] == (x[0, :, 0:3, 1:4] * w[5]).sum())
    ((64, 64, 8, 8), True)
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager

import numba
import numpy as np
import numpy.typing as npt

from tersa.binary.lowering import Lowered, form_read
from tersa.binary.program import Affine, Convolution, Part, Pixels, Weights
from tersa.binary.runtime import execute
from tersa.binary.sign_kernels import are_signs, read_alone, read_together, turned_alone, turned_together
from tersa.binary.step_table import Table

Floats = npt.NDArray[np.float32]

FEWEST_PRODUCTS = 1 << 27
"""Of a layer and batch: some milliseconds of float work; for less, loading the kernels would take longer."""
FEWEST_PLACES = 1 << 11
"""Of the outputs, over all images: to lay the weights takes as long as some hundred places do in floats."""
FEWEST_CHANNELS = 32
"""Of inputs and outputs."""
SUMS_AT_ONCE = 1 << 20
"""Of each thread: 4 MiB."""


def convolve(inputs: Floats, weights: Floats, stride: int, padding: int, threads: int = 1) -> Floats | None:
    """Sums of signs by signs; padded places count 0.

    Args:
        inputs: (N, C, H, W).
        weights: (O, C, kh, kw).
        stride: of the kernel.
        padding: places on every side.
        threads: that share the work; at most numba's.

    Returns:
        (N, O, H', W'), or None: some value is neither -1 nor 1, the layer is too small to gain, or words of
        bits do not suit it.
    """
    (n, c, h, w), (o, _, kh, kw) = inputs.shape, weights.shape
    rows, columns = ((side + 2 * padding - k) // stride + 1 for side, k in ((h, kh), (w, kw)))
    places = n * max(rows, 0) * max(columns, 0)
    if min(c, o) < FEWEST_CHANNELS or places < FEWEST_PLACES or places * weights.size < FEWEST_PRODUCTS:
        return None
    if not are_signs(weights.reshape(-1).view(np.int32)):
        return None
    laid = Weights.of(np.ascontiguousarray(weights.transpose(0, 2, 3, 1)).astype(np.int32), 1)
    ones, zeros = np.ones(o, np.float32), np.zeros(o, np.float32)
    part = Part(
        (), (c, h, w), (Pixels(1, (c, h, w)), Convolution(0, laid, stride, padding), Affine(1, ones, zeros))
    )
    if form_read(part, 1) != "words":
        return None
    threads = min(threads, int(getattr(numba.config, "NUMBA_NUM_THREADS")))  # noqa: B009 - set at run time
    most = max(1, threads * SUMS_AT_ONCE // (o * rows * columns))
    at_once = math.ceil(n / math.ceil(n / most))
    table = Table(Lowered(part), at_once, threads)
    return _through(table, inputs, (n, o, rows, columns), padding, threads)


def _through(
    table: Table, inputs: Floats, shape: tuple[int, int, int, int], padding: int, threads: int
) -> Floats | None:
    """The images, some at once, through a table whose first row (pixels) is left out."""
    n, c, h, w = inputs.shape
    o, places = shape[1], shape[2] * shape[3]
    read, turned = (read_alone, turned_alone) if threads == 1 else (read_together, turned_together)
    buffer = table.buffer(0, "words").view(np.uint32)[:, 0, padding : padding + h, padding : padding + w]
    sums = table.logits.reshape(table.images, places, o)
    found = np.empty(shape, np.float32)
    images, out = inputs.reshape(n, c, h * w).view(np.int32), found.reshape(n, o, places)
    with _threads(threads):
        for first in range(0, n, table.images):
            some = images[first : first + table.images]
            if read(some, buffer):
                return None
            execute(table.rows[1:], threads)
            turned(sums, out[first : first + table.images])
    return found


@contextmanager
def _threads(threads: int) -> Generator[None]:
    """numba's threads, which one thread leaves alone."""
    before = 0 if threads == 1 else numba.get_num_threads()
    if before:
        numba.set_num_threads(threads)
    try:
        yield
    finally:
        if before:
            numba.set_num_threads(before)
