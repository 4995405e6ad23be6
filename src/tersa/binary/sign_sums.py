"""Convolutions of -1 and 1 for a training: floats in, float sums out, on bits in between.

`convolve` is a way for `tersa.quant.sums`. Inputs and weights become words of signs while every value is
looked at; one that is neither -1 nor 1 makes it decline, and so do layers too small to gain. The convolution
is that of the packed programs: it looks up or counts, as the processor does best. Some images go through at
once, so that their sums stay in the cache until they lie as the inputs do.

Where no kernel was compiled on a machine before, loading them takes longer than many a training. `Patient`
therefore waits until `PATIENCE` products have gone by in floats.

Example:
    >>> rng = np.random.default_rng(0)
    >>> x, w = (rng.choice(np.float32([-1, 1]), shape) for shape in ((64, 64, 8, 8), (64, 64, 3, 3)))
    >>> convolve(x[:2], w, stride=1, padding=1) is None  # too small
    True
    >>> sums = convolve(x, w, stride=1, padding=1)
    >>> sums.shape, bool(sums[0, 5, 1, 2] == (x[0, :, 0:3, 1:4] * w[5]).sum())
    ((64, 64, 8, 8), True)
"""

from __future__ import annotations

import math
import threading

import numpy as np
import numpy.typing as npt

from tersa.binary import kernels
from tersa.binary import sign_kernels as signs
from tersa.binary.lowering import Lowered, form_read
from tersa.binary.program import Affine, Convolution, Pixels, Program, Weights
from tersa.binary.runtime import execute, most_threads, numba_threads
from tersa.binary.step_table import Table
from tersa.errors import ModelError

Floats = npt.NDArray[np.float32]

FEWEST_PRODUCTS = 1 << 27
"""Of a layer and batch; for less, what each call costs in Python weighs."""
FEWEST_PLACES = 1 << 10
"""Of the outputs, over all images: to lay the weights takes as long as some hundred places do in floats."""
FEWEST_CHANNELS = 64
"""Of inputs and outputs: half of a word's bits would be empty."""
SUMS_AT_ONCE = 1 << 20
"""Of each thread: 4 MiB."""
PATIENCE = 1 << 39
"""Products in floats before kernels are loaded: some 20 seconds at 50 GFLOP/s."""

_one_at_a_time = threading.Lock()


class Patient:
    """`convolve`, from the time on when layers that it could have taken have done `PATIENCE` products.

    Attributes:
        products: that were declined so far.
    """

    def __init__(self) -> None:
        self.products = 0

    def __call__(
        self, inputs: Floats, weights: Floats, stride: int, padding: int, threads: int = 1
    ) -> Floats | None:
        """As `convolve`."""
        loaded = kernels.alone if threads == 1 else kernels.together
        if self.products < PATIENCE and not loaded.signatures:
            self.products += products_of(inputs, weights, stride, padding)
            return None
        return convolve(inputs, weights, stride, padding, threads)


def products_of(inputs: Floats, weights: Floats, stride: int, padding: int) -> int:
    """Products of a convolution that is large enough to gain; 0 for another, or one that cannot be."""
    if inputs.ndim != 4 or weights.ndim != 4 or inputs.shape[1] != weights.shape[1]:
        return 0
    rows, columns = _outputs(inputs, weights, stride, padding)
    places = len(inputs) * max(rows, 0) * max(columns, 0)
    suits = min(weights.shape[:2]) >= FEWEST_CHANNELS and places >= FEWEST_PLACES
    found = places * weights.size
    return found if suits and found >= FEWEST_PRODUCTS else 0


def convolve(inputs: Floats, weights: Floats, stride: int, padding: int, threads: int = 1) -> Floats | None:
    """Sums of signs by signs; padded places count 0.

    Args:
        inputs: (N, C, H, W), contiguous in memory with channels first or last.
        weights: (O, C, kh, kw).
        stride: of the kernel.
        padding: places on every side.
        threads: that share the work; at most numba's.

    Returns:
        (N, O, H', W'), channels first or last as in the inputs, or None: some value is neither -1 nor 1, the
        layer is too small to gain, or words of bits do not suit it.
    """
    if not products_of(inputs, weights, stride, padding):
        return None
    last = not inputs.flags.c_contiguous
    taps = np.ascontiguousarray(weights.transpose(0, 2, 3, 1))  # (O, kh, kw, C)
    if not (_all_signs(inputs[0]) and _all_signs(taps)):
        return None
    threads = min(threads, most_threads())
    n, outputs = len(inputs), math.prod(_outputs(inputs, weights, stride, padding)) * len(weights)
    most = max(1, threads * SUMS_AT_ONCE // outputs)
    with _one_at_a_time, numba_threads(threads):
        try:
            part = _part(inputs.shape[1:], taps, stride, padding)
            if form_read(part, 1) != "words":
                return None
            table = Table(Lowered(part), math.ceil(n / math.ceil(n / most)), threads)
        except ModelError:  # larger than programs may be
            return None
        images = inputs.transpose(0, 2, 3, 1) if last else inputs
        sums = _through(table, np.ascontiguousarray(images), padding, threads, last=last)
    return sums if sums is None or not last else sums.transpose(0, 3, 1, 2)


def _outputs(inputs: Floats, weights: Floats, stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns."""
    rows, columns = (
        (side + 2 * padding - kernel) // stride + 1
        for side, kernel in zip(inputs.shape[2:], weights.shape[2:], strict=True)
    )
    return rows, columns


def _all_signs(values: Floats) -> bool:
    return signs.are_signs(np.ravel(values, order="K").view(np.int32))


def _part(shape: tuple[int, ...], taps: Floats, stride: int, padding: int) -> Program:
    """The convolution as operations whose floats are the sums."""
    o, kh, kw, c = taps.shape
    image = (c, shape[1], shape[2])
    weights = Weights((o, kh, kw, c), 1, np.packbits((taps > 0).reshape(-1), bitorder="little")[None])
    plain = Affine(1, np.ones(o, np.float32), np.zeros(o, np.float32))
    operations = (Pixels(1, image), Convolution(0, weights, stride, padding), plain)
    return Program((), image, operations, whole=False)


def _through(table: Table, images: Floats, padding: int, threads: int, *, last: bool) -> Floats | None:
    """Sums of images (N, C, H, W), or (N, H, W, C) where channels are last, by a table without its pixels."""
    n, first, second, third = images.shape
    h, w = (first, second) if last else (second, third)
    o, rows, columns = table.lowered.program.values[-1].shape
    words = table.buffer(0, "words").view(np.uint32)[:, 0, padding : padding + h, padding : padding + w]
    sums = table.logits.reshape(table.images, rows * columns, o)
    read = signs.READ[last, threads > 1]
    if last:
        found = np.empty((n, rows, columns, o), np.float32)
        bits, out = images.reshape(n, h * w, third).view(np.int32), found.reshape(n, rows * columns, o)
    else:
        found = np.empty((n, o, rows, columns), np.float32)
        bits, out = images.reshape(n, first, h * w).view(np.int32), found.reshape(n, o, rows * columns)
    for start in range(0, n, table.images):
        some, there = bits[start : start + table.images], out[start : start + table.images]
        if read(some, words):
            return None
        execute(table.rows[1:], threads)
        if last:
            there[...] = sums[: len(there)]
        else:
            signs.TURNED[threads > 1](sums, there)
    return found
