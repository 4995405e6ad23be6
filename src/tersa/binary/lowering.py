"""A program made ready for the kernels: which form each value has, what is one step, how the weights lie.

Codes lie in words (N, planes, H, W, words of C), zero bits around them where a convolution pads, or as 16-bit
integers (N, H, W, C) where products of those are cheaper: many bits, or few channels as in an image; the
codes of an image are bytes where their sums fit 16 bits. Floats are (N, H, W, C). A convolution and the
Threshold or Affine that reads it are one step, and so is a max pooling of 1-bit codes behind them, when its
windows lie side by side. A layer whose output is one place takes the images of a batch for its rows. Where
the processor looks products up faster than it counts them (`lookups`), convolutions with outputs side by side
do.

`step_table` then makes room for a batch and writes down who does what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from tersa.binary.bitpack import largest, words_for
from tersa.binary.layout import (
    GROUP,
    Laid,
    bytes_layout,
    floats_layout,
    groups_for,
    nibbles_layout,
    shorts_layout,
    words_layout,
)
from tersa.binary.lookups import LOOKUPS, MOST, WORD
from tersa.binary.program import (
    Affine,
    Convolution,
    FloatConvolution,
    Floats,
    MaxPool,
    Pixels,
    Program,
    SumPool,
    Threshold,
    Value,
    sources,
)
from tersa.binary.vectors import BYTE_PRODUCTS, WIDE
from tersa.errors import ModelError

Form = Literal["words", "shorts", "bytes", "floats"]

WORD_COST = 4 if WIDE else 16
"""What a word of one plane pair costs, in 16-bit integers: measured, with AVX-512 popcount and without."""
TABLE_COST = 8
"""The same where its products are looked up."""
FEWEST_USES = 3
"""Of a table, by taps and groups of 32 channels, from which on it is worth writing; measured."""
PAGE, ROW_OFFSET = 4096, 1024
"""Bytes after which addresses meet in the same set of the nearest cache, and what a row of tables leaves."""
MOST_TABLES = 1 << 24
"""Bytes of one image's tables, or of a layer's weights for them; what leaves the caches is counted."""
TOGETHER = 1 << 20
"""Bytes of tables that are written before they are read."""
MOST_UNPACKED = 1 << 30
"""Bytes of all weights as kernels read them."""
MOST_BYTES = 1 << 29
"""Of the buffers of one image, and of a batch of several."""
STORED = {"words": np.uint64, "shorts": np.int16, "bytes": np.uint8, "floats": np.float32}
"""How each form is stored."""
LAYOUTS = {"words": words_layout, "shorts": shorts_layout, "bytes": bytes_layout}
"""How weights lie for each form."""


def laid_shape(form: Form, value: Value, padding: int) -> tuple[int, int, int, int]:
    """(planes, rows, columns, channels or words) of one image's value."""
    c, h, w = value.shape
    planes, inner = (value.bits, words_for(c)) if form == "words" else (1, c)
    return planes, h + 2 * padding, w + 2 * padding, inner


def _suits_tables(program: Program, index: int) -> bool:
    """Whether tables would serve a convolution: outputs side by side, and enough uses of each table."""
    operation = program.operations[index]
    if not LOOKUPS or not isinstance(operation, Convolution) or operation.weights.bits == 0:
        return False
    outputs, kh, kw, c = operation.weights.shape
    most = kh * kw * c * largest(operation.weights.bits) * largest(program.values[operation.source].bits)
    pairs = operation.stride == 1 and program.values[index].shape[2] > 1
    weights = groups_for(outputs) * GROUP * kh * kw * words_for(c) * 16 * operation.weights.bits
    fits = most <= MOST and max(tables_of(program, index).image, weights) <= MOST_TABLES
    return pairs and fits and kh * kw * groups_for(outputs) >= FEWEST_USES


def _suits_bytes(program: Program, operation: Convolution) -> bool:
    """Whether a convolution of pixels adds up in 16 bits, four taps at a time."""
    _, kh, kw, c = operation.weights.shape
    pixels = isinstance(program.operations[operation.source], Pixels)
    largest_weight = largest(operation.weights.bits) if operation.weights.bits else 1
    most = 2 * kh * -(-kw * c // 4) * largest_weight * largest(program.values[operation.source].bits)
    return BYTE_PRODUCTS and pixels and most < 1 << 15 and largest_weight < 1 << 7


def looked_up(program: Program, index: int) -> bool:
    """Whether a convolution of words looks its products up."""
    return _suits_tables(program, index) and form_read(program, index) == "words"


def form_read(program: Program, index: int) -> Form:
    """The form in which an operation reads its source."""
    operation = program.operations[index]
    if isinstance(operation, Convolution):
        source = program.values[operation.source]
        c = source.shape[0]
        pairs = source.bits * max(1, operation.weights.bits)
        cost = (TABLE_COST if _suits_tables(program, index) else WORD_COST) * pairs * words_for(c)
        numbers: Form = "bytes" if _suits_bytes(program, operation) else "shorts"
        worth = c if numbers == "shorts" else c // 2
        return "words" if source.kind == "codes" and cost <= worth else numbers
    if isinstance(operation, MaxPool | SumPool) and program.values[operation.source].kind == "codes":
        return "words"
    return "floats"


@dataclass(frozen=True)
class TablesShape:
    """Where the tables that a convolution reads lie: bytes from one to the next.

    Attributes:
        rows: of each plane, without the padding: there is nothing to look up.
        columns: of each row, the padding included.
        pixel: tables of one place.
        row: of one row; a multiple of 4096 would bring the same tables of all rows into one set of a cache.
        plane: of all rows.
        image: of all planes.
    """

    rows: int
    columns: int
    pixel: int
    row: int
    plane: int
    image: int

    def images_at_once(self, images: int, threads: int) -> int:
        """Of a batch, those whose tables stay in a cache; no thread is without one."""
        return max(1, min(images, threads * max(1, TOGETHER // self.image)))


def tables_of(program: Program, index: int) -> TablesShape:
    """Of one convolution."""
    operation = program.operations[index]
    assert isinstance(operation, Convolution)
    source = program.values[operation.source]
    c, h, w = source.shape
    columns, pixel = w + 2 * operation.padding, WORD * words_for(c)
    row = columns * pixel
    row += (ROW_OFFSET - row) % PAGE
    return TablesShape(h, columns, pixel, row, h * row, source.bits * h * row)


@dataclass(frozen=True)
class Fused:
    """A step that begins with a convolution or a sum over the map, and what it ends with.

    Attributes:
        index: of the convolution or SumPool.
        ending: of the Threshold or Affine, or None: stored as it is.
        pool: of the MaxPool behind it, or None.
        form: of the value that is made.
    """

    index: int
    ending: int | None
    pool: int | None
    form: Form

    @property
    def made(self) -> int:
        """The value that the step makes."""
        return next(one for one in (self.pool, self.ending, self.index) if one is not None)


class Lowered:
    """A program whose weights lie as the kernels read them; `table` makes room for a batch.

    Args:
        program: what to run.

    Attributes:
        image_bytes: of all buffers of one image, the tables included.
        tables: of the convolutions that look up.

    Raises:
        ModelError: one image would need more than `MOST_BYTES`, or all weights more than `MOST_UNPACKED`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.forms = _forms(program)
        self.image_bytes = sum(
            math.prod(laid_shape(form, program.values[index], padding)) * np.dtype(STORED[form]).itemsize
            for index, forms in self.forms.items()
            if program.values[index].kind != "sums"
            for form, padding in forms.items()
        )
        found = [index for index in range(len(program.operations)) if looked_up(program, index)]
        self.tables = [tables_of(program, index) for index in found]
        if self.image_bytes > MOST_BYTES:
            raise ModelError(
                f"the program needs {self.image_bytes:,} bytes of buffers for one image; "
                f"at most {MOST_BYTES:,} are allowed"
            )
        self.image_bytes += max((each.image for each in self.tables), default=0)
        self.weights: dict[int, Laid] = {}
        self.taps: dict[int, Floats] = {}
        unpacked = 0
        for index, operation in enumerate(program.operations):
            if isinstance(operation, Convolution):
                lay = LAYOUTS[form_read(program, index)]
                lay = nibbles_layout if looked_up(program, index) else lay
                self.weights[index] = lay(operation.weights)
                unpacked += self.weights[index].array.nbytes
            elif isinstance(operation, FloatConvolution):
                self.taps[index] = floats_layout(operation)
                unpacked += self.taps[index].nbytes
            if unpacked > MOST_UNPACKED:
                raise ModelError(f"the program's weights take more than {MOST_UNPACKED:,} bytes unpacked")

    @cached_property
    def steps(self) -> list[tuple[int, Fused | None]]:
        """Operations in order, without those that a step before takes in."""
        taken: set[int] = set()
        found: list[tuple[int, Fused | None]] = []
        for index, operation in enumerate(self.program.operations):
            if index in taken:
                continue
            codes = isinstance(operation, SumPool) and self.program.values[index].kind == "integers"
            if not isinstance(operation, Convolution) and not codes:
                found.append((index, None))
                continue
            stored: set[Form] = set()
            for reader in self.program.readers(index):
                ending = self.program.operations[reader]
                if isinstance(ending, Threshold | Affine):
                    form: Form = "words" if isinstance(ending, Threshold) else "floats"
                    fused = Fused(index, reader, self._pool(reader), form)
                    taken |= {reader} if fused.pool is None else {reader, fused.pool}
                    found.append((fused.made, fused))
                else:
                    stored.add(form_read(self.program, reader))
            found += [(index, Fused(index, None, None, form)) for form in sorted(stored)]
        return found

    def _pool(self, index: int) -> int | None:
        readers = self.program.readers(index)
        if self.program.values[index].bits != 1 or len(readers) != 1:
            return None
        pool = self.program.operations[readers[0]]
        return readers[0] if isinstance(pool, MaxPool) and pool.size == pool.stride else None


def _forms(program: Program) -> dict[int, dict[Form, int]]:
    """For each value, the forms in which it is read, with the padding that each needs."""
    found: dict[int, dict[Form, int]] = {index: {} for index in range(len(program.operations))}
    for index, operation in enumerate(program.operations):
        padding = operation.padding if isinstance(operation, Convolution | FloatConvolution) else 0
        form = form_read(program, index)
        for source in sources(operation):
            found[source][form] = max(padding, found[source].get(form, 0))
    for index, value in enumerate(program.values):
        wanted = found[index]
        if (
            value.kind == "codes"
            and "words" not in wanted
            and not (isinstance(program.operations[index], Pixels) and "floats" not in wanted)
        ):
            wanted["words"] = 0  # what the others are unpacked from
    found[len(program.operations) - 1] = {"floats": 0}
    return found
