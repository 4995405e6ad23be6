"""Running a packed program: `Runner(program)(images)` gives logits.

Images are bytes 0..255 (N, C, H, W), or floats in 0..1, which are taken to the nearest byte. One thread never
touches numba's threads, so that it may be used in forked processes; more threads are of numba's pool, which
`NUMBA_NUM_THREADS` bounds. A runner keeps buffers for the batch sizes that it has seen, and serves one caller
at a time; others wait.

Example:
    >>> from tersa.binary.program import Affine, Convolution, Pixels, Program, Weights
    >>> w = Weights.of(np.array([[1, -1]]).reshape(1, 1, 1, 2), bits=1)
    >>> head = Affine(1, np.float32([0.5]), np.float32([1]))
    >>> program = Program(("a",), (2, 1, 1), (Pixels(8, (2, 1, 1)), Convolution(0, w), head))
    >>> Runner(program)(np.array([[[[255]], [[0]]]], np.uint8)).tolist()
    [[256.0]]
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from tersa.binary import kernels
from tersa.binary.lowering import MOST_BYTES, Lowered
from tersa.binary.program import Floats, Program
from tersa.binary.step_table import Table
from tersa.errors import ModelError, UsageError

LARGEST_BATCH = 64
"""More images at once would leave the caches and gain nothing."""
MOST_VALUES = 1 << 25
"""Of the largest value of a batch; larger images, and more buffers (`MOST_BYTES`), go in smaller batches."""
KEPT = 4
"""Batch sizes whose buffers are kept."""

KINDS: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.float32))
"""Of images."""

Images = npt.NDArray[np.uint8 | np.float32]


class Runner:
    """A program with its kernels' weights and buffers.

    Args:
        program: what to run.
        threads: that share each step.

    Raises:
        UsageError: more threads than numba has.
        ModelError: one image would need more memory than is allowed.
    """

    def __init__(self, program: Program, threads: int = 1) -> None:
        if not 1 <= threads <= most_threads():
            raise UsageError(f"threads are 1 to {most_threads()} here, not {threads}")
        self.program, self.threads = program, threads
        self._lowered = Lowered(program)
        self._tables: dict[int, Table] = {}
        self._lock = threading.Lock()
        largest = max(math.prod(value.shape) for value in program.values)
        fits = min(MOST_VALUES // largest, MOST_BYTES // self._lowered.image_bytes)
        self._most = max(1, min(LARGEST_BATCH, fits))

    @property
    def most(self) -> int:
        """Images that go through the steps at once; more go in parts."""
        return self._most

    def __call__(self, images: Images) -> Floats:
        """Logits (N, K).

        Raises:
            ModelError: images of another shape or type.
        """
        if images.ndim != 4 or images.shape[1:] != self.program.shape:
            raise ModelError(f"the program takes images {self.program.shape}, got {images.shape[1:]}")
        if images.dtype not in KINDS:
            raise ModelError(f"images are bytes, or float32 in 0..1, not {images.dtype}")
        with self._lock:
            if len(images) <= self._most:
                return self._batch(images)
            parts = [self._batch(images[i : i + self._most]) for i in range(0, len(images), self._most)]
            return np.concatenate(parts)

    def table(self, images: int) -> Table:
        """Buffers and steps for a batch size."""
        found = self._tables.pop(images, None) or Table(self._lowered, images, self.threads)
        self._tables[images] = found
        while len(self._tables) > KEPT:
            self._tables.pop(next(iter(self._tables)))
        return found

    def _batch(self, images: Images) -> Floats:
        if not len(images):
            return np.zeros((0, len(self.program.classes)), np.float32)
        table = self.table(len(images))
        if images.dtype == np.uint8:
            table.pixels[...] = images
        else:
            kernels.to_bytes(np.ascontiguousarray(images).reshape(-1), table.pixels.reshape(-1))
        execute(table.rows, self.threads)
        return table.logits.copy()


def most_threads() -> int:
    """That numba has; it is decided when numba is imported."""
    return int(getattr(numba.config, "NUMBA_NUM_THREADS"))  # noqa: B009 - numba sets it, its types lack it


@contextmanager
def numba_threads(threads: int) -> Generator[None]:
    """Let parallel kernels use so many threads for a block; one thread leaves numba's alone."""
    before = threads if threads == 1 else numba.get_num_threads()
    if before != threads:
        numba.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            numba.set_num_threads(before)


def execute(rows: npt.NDArray[np.int64], threads: int) -> None:
    """Run steps of a table."""
    if threads == 1:
        kernels.alone(rows)
        return
    with numba_threads(threads):
        kernels.together(rows)
