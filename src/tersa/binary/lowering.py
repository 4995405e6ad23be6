"""From a program to the table that the kernels run: which form each value has, where it lies, who writes it.

Codes lie in words (N, planes, H, W, words of C), zero bits around them where a convolution pads, or as 16-bit
integers (N, H, W, C) where products of those are cheaper: many bits, or few channels as in an image. Floats
are (N, H, W, C). A convolution and the Threshold or Affine that reads it are one step, and so is a max
pooling of 1-bit codes behind them, when its windows lie side by side. A layer whose output is one place takes
the images of a batch for its rows.

Every buffer is allocated here, with room for all taps of all output places; kernels only follow addresses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from tersa.binary import kernels as k
from tersa.binary.bitpack import levels, pack, words_for
from tersa.binary.layout import (
    Array,
    Laid,
    aligned,
    bounds,
    floats_layout,
    groups_for,
    lanes_of,
    offsets,
    shorts_layout,
    sides,
    words_layout,
)
from tersa.binary.program import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    FloatConvolution,
    FloatPixels,
    Floats,
    Levels,
    MaxPool,
    Pixels,
    Program,
    Relu,
    Repeat,
    Shape,
    SumPool,
    Threshold,
    Value,
    sources,
)
from tersa.binary.reference import normalised, pixel_codes
from tersa.binary.vectors import WIDE
from tersa.errors import ModelError

Form = Literal["words", "shorts", "floats"]

WORD_COST = 4 if WIDE else 16
"""What a word of one plane pair costs, in 16-bit integers: measured, with AVX-512 popcount and without."""
TASKS_PER_THREAD = 4
MOST_UNPACKED = 1 << 30
"""Bytes of all weights as kernels read them."""
MOST_BYTES = 1 << 29
"""Of the buffers of one image, and of a batch of several."""
STORED = {"words": np.uint64, "shorts": np.int16, "floats": np.float32}
"""How each form is stored."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Where a value lies.

    Attributes:
        array: all of it, padding included.
        at: address of the first place inside the padding.
        image: bytes from one image to the next.
        plane: bytes from one plane to the next.
        row: bytes from one row to the next.
        pixel: bytes from one place to the next.
        planes: of codes in words.
    """

    array: Array
    at: int
    image: int
    plane: int
    row: int
    pixel: int
    planes: int = 1

    @staticmethod
    def make(form: Form, value: Value, images: int, padding: int) -> Buffer:
        """Zeros for a value of so many images."""
        shape = _laid(form, value, padding)
        array = aligned((images, *shape), STORED[form])
        image, plane, row, pixel, _ = array.strides
        at = array.ctypes.data + padding * (row + pixel)
        return Buffer(array, at, image, plane, row, pixel, shape[0])


def _laid(form: Form, value: Value, padding: int) -> tuple[int, int, int, int]:
    """(planes, rows, columns, channels or words) of one image's value."""
    c, h, w = value.shape
    planes, inner = (value.bits, words_for(c)) if form == "words" else (1, c)
    return planes, h + 2 * padding, w + 2 * padding, inner


def form_read(program: Program, index: int) -> Form:
    """The form in which an operation reads its source."""
    operation = program.operations[index]
    if isinstance(operation, Convolution):
        source = program.values[operation.source]
        c = source.shape[0]
        pairs = source.bits * max(1, operation.weights.bits)
        return "words" if source.kind == "codes" and WORD_COST * pairs * words_for(c) <= c else "shorts"
    if isinstance(operation, MaxPool | SumPool) and program.values[operation.source].kind == "codes":
        return "words"
    return "floats"


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
        image_bytes: of all buffers of one image.

    Raises:
        ModelError: one image would need more than `MOST_BYTES`, or all weights more than `MOST_UNPACKED`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.forms = _forms(program)
        self.image_bytes = sum(
            math.prod(_laid(form, program.values[index], padding)) * np.dtype(STORED[form]).itemsize
            for index, forms in self.forms.items()
            if program.values[index].kind != "sums"
            for form, padding in forms.items()
        )
        if self.image_bytes > MOST_BYTES:
            raise ModelError(
                f"the program needs {self.image_bytes:,} bytes of buffers for one image; "
                f"at most {MOST_BYTES:,} are allowed"
            )
        self.weights: dict[int, Laid] = {}
        self.taps: dict[int, Floats] = {}
        unpacked = 0
        for index, operation in enumerate(program.operations):
            if isinstance(operation, Convolution):
                words = form_read(program, index) == "words"
                self.weights[index] = (words_layout if words else shorts_layout)(operation.weights)
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

    def table(self, images: int, threads: int) -> Table:
        """Buffers and steps for batches of so many images."""
        return Table(self, images, threads)


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


@dataclass
class Table:
    """A lowered program with room for a batch.

    Attributes:
        lowered: the program.
        images: of the batch.
        threads: that share the steps.
        rows: the table.
        names: the operations of each row, for measurements.
        pixels: (N, C, H, W) bytes, where the images go.
        logits: (N, K) float32, where the answer appears.
    """

    lowered: Lowered
    images: int
    threads: int
    names: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        program = self.lowered.program
        self._kept: list[Array] = []
        self._buffers: dict[tuple[int, Form], Buffer] = {}
        self._rows: list[npt.NDArray[np.int64]] = []
        self.pixels = np.zeros((self.images, *program.shape), np.uint8)
        for index, forms in self.lowered.forms.items():
            if program.values[index].kind == "sums":
                continue
            for form, padding in forms.items():
                value = program.values[index]
                self._buffers[index, form] = Buffer.make(form, value, self.images, padding)
        for index, fused in self.lowered.steps:
            if fused is not None:
                self._fused(fused)
            else:
                self._plain(index)
        self.rows = np.stack(self._rows)
        last = self._buffers[len(program.operations) - 1, "floats"]
        self.logits: Floats = last.array.view(np.float32).reshape(self.images, -1)

    # one row ----------------------------------------------------------------------------------------------

    def _keep(self, array: Array) -> int:
        self._kept.append(array)
        return array.ctypes.data

    def _add(self, names: Iterable[int], **columns: int) -> None:
        row = np.zeros(k.WIDTH, np.int64)
        for name, value in columns.items():
            row[getattr(k, name)] = value
        self._rows.append(row)
        self.names.append(tuple(names))

    def _reads(self, index: int, form: Form, shape: Shape) -> dict[str, int]:
        b = self._buffers[index, form]
        return {
            "X": b.at, "X_IMAGE": b.image, "X_PLANE": b.plane, "X_ROW": b.row, "X_PIXEL": b.pixel,
            "X_PLANES": b.planes,
            "INPUT_CHANNELS": shape[0], "INPUT_ROWS": shape[1], "INPUT_COLUMNS": shape[2],
        }  # fmt: skip

    def _writes(self, index: int, form: Form) -> dict[str, int]:
        b = self._buffers[index, form]
        c, h, w = self.lowered.program.values[index].shape
        return {
            "OUT": b.at, "OUT_IMAGE": b.image, "OUT_PLANE": b.plane, "OUT_ROW": b.row, "OUT_PIXEL": b.pixel,
            "OUT_PLANES": b.planes, "CHANNELS": c, "ROWS": h, "COLUMNS": w, "TASKS": self.images * h,
        }  # fmt: skip

    def _unpacked(self, index: int) -> None:
        """The other forms in which codes are read."""
        for form in self.lowered.forms[index]:
            if form != "words" and self.lowered.program.values[index].kind == "codes":
                kind = k.UNPACK_SHORTS if form == "shorts" else k.UNPACK_FLOATS
                shape = self.lowered.program.values[index].shape
                self._add(
                    [index], KIND=kind, **self._reads(index, "words", shape), **self._writes(index, form)
                )

    # steps ------------------------------------------------------------------------------------------------

    def _plain(self, index: int) -> None:
        program = self.lowered.program
        operation = program.operations[index]
        if isinstance(operation, Pixels | FloatPixels):
            self._pixels(index, operation)
            return
        shape = program.values[sources(operation)[0]].shape
        form = form_read(program, index)
        made: Form = "words" if program.values[index].kind == "codes" else "floats"
        reads = self._reads(sources(operation)[0], form, shape)
        more: dict[str, int] = {}
        match operation:
            case Levels():
                kind = k.LEVELS
                more = {"T": self._keep(operation.thresholds), "LEVEL_COUNT": len(operation.thresholds)}
            case Affine():
                kind = k.AFFINE
                more = self._scales(operation)
            case Relu():
                kind = k.RELU
            case Repeat():
                kind = k.REPEAT
            case Add():
                kind, other = k.ADD, self._buffers[operation.other, "floats"]
                more = {"OTHER": other.at, "OTHER_IMAGE": other.image}
                more |= {"OTHER_ROW": other.row, "OTHER_PIXEL": other.pixel}
            case AveragePool():
                kind = k.AVERAGE
                more = {"SIZE": operation.size, "STEP_Y": operation.size, "STEP_X": operation.size}
            case MaxPool() if form == "floats":
                kind = k.MAX_FLOATS
                more = {"SIZE": operation.size, "STEP_Y": operation.stride, "STEP_X": operation.stride}
            case MaxPool():
                kind = k.MAX_BITS
                more = {"SIZE": operation.size, "STEP_Y": operation.stride * reads["X_ROW"]}
                more["STEP_X"] = operation.stride * reads["X_PIXEL"]
            case SumPool():
                kind = k.SUM_FLOATS
                more = {"SIZE": max(shape[1:]), "STEP_Y": 1, "STEP_X": 1}
            case FloatConvolution():
                kind = k.CONVOLVE_FLOATS
                more = self._float_taps(operation, self.lowered.taps[index], reads)
            case _:
                raise AssertionError(f"{operation} is part of a step before it")
        self._add([index], KIND=kind, **(reads | self._writes(index, made) | more))
        self._unpacked(index)

    def _pixels(self, index: int, operation: Pixels | FloatPixels) -> None:
        for form in self.lowered.forms[index]:
            if isinstance(operation, FloatPixels):
                ramp = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
                images = np.broadcast_to(ramp, (256, operation.shape[0], 1, 1))
                kind = k.PIXEL_FLOATS
                found: Array = np.ascontiguousarray(
                    normalised(images, operation.mean, operation.std)[:, :, 0, 0].T
                )
            else:
                code = pixel_codes(operation.bits)
                kind = k.PIXEL_WORDS if form == "words" else k.PIXEL_SHORTS
                found = code if form == "words" else levels(code, operation.bits).astype(np.int16)
                if form == "floats":
                    continue  # unpacked from the words
            more = {"X": self.pixels.ctypes.data, "W": self._keep(found), "INPUT_ROWS": operation.shape[1]}
            self._add([index], KIND=kind, **(self._writes(index, form) | more))
        if "floats" in self.lowered.forms[index] and isinstance(operation, Pixels):
            shape = operation.shape
            reads, writes = self._reads(index, "words", shape), self._writes(index, "floats")
            self._add([index], KIND=k.UNPACK_FLOATS, **reads, **writes)

    def _float_taps(
        self, operation: FloatConvolution, weights: Floats, reads: dict[str, int]
    ) -> dict[str, int]:
        kh, kw = weights.shape[:2]
        back = operation.padding * (reads["X_ROW"] + reads["X_PIXEL"])
        return {
            "X": reads["X"] - back, "STEP_Y": operation.stride * reads["X_ROW"],
            "STEP_X": operation.stride * reads["X_PIXEL"], "W": self._keep(weights),
            "KERNEL_ROWS": kh, "KERNEL_COLUMNS": kw,
        }  # fmt: skip

    def _scales(self, operation: Affine) -> dict[str, int]:
        found = {"SCALE": self._keep(operation.scale), "SHIFT": self._keep(operation.shift)}
        return found | ({} if operation.alpha is None else {"ALPHA": self._keep(operation.alpha)})

    def _fused(self, fused: Fused) -> None:
        operation = self.lowered.program.operations[fused.index]
        if isinstance(operation, Convolution):
            columns, offset, factor, rows, across = self._convolution(fused, operation)
        else:
            assert isinstance(operation, SumPool)
            columns, offset, factor = self._sum(fused, operation)
            rows, across = [0], [0]
        shape = self.lowered.program.values[fused.index].shape
        columns |= self._ending(fused, offset, factor, shape[0])
        stride = groups_for(shape[0]) * max(1, columns.get("LEVEL_COUNT", 1)) * 128
        different = max(across) + 1
        columns["T_GROUP"] = max(1, columns.get("LEVEL_COUNT", 1)) * 128
        columns["T_ROWS"] = self._keep(np.array(rows, np.int64) * different * stride)
        columns["T_COLUMNS"] = self._keep(np.array(across, np.int64) * stride)
        names = [one for one in (fused.index, fused.ending, fused.pool) if one is not None]
        self._add(names, **columns)
        self._unpacked(fused.made)

    def _convolution(
        self, fused: Fused, operation: Convolution
    ) -> tuple[dict[str, int], npt.NDArray[np.int64], int, list[int], list[int]]:
        program = self.lowered.program
        source, laid = program.values[operation.source], self.lowered.weights[fused.index]
        form = form_read(program, fused.index)
        o, kh, kw, _ = operation.weights.shape
        _, height, width = program.values[fused.index].shape
        reads = self._reads(operation.source, form, source.shape)
        pool = 1 if fused.pool is None else self._size(fused.pool)
        writes = self._writes(fused.made, fused.form)
        groups, images = groups_for(o), self.images
        row_step, column_step = operation.stride * reads["X_ROW"], operation.stride * reads["X_PIXEL"]
        row_ranges, rows = sides(height, kh, operation.stride, operation.padding, source.shape[1])
        column_ranges, across = sides(width, kw, operation.stride, operation.padding, source.shape[2])
        height, width = height // pool * pool, width // pool * pool
        if height == width == pool == 1:  # the images of a batch are the rows
            height, images, row_step, rows = self.images, 1, reads["X_IMAGE"], [0] * self.images
            writes["OUT_ROW"] = writes["OUT_IMAGE"]
        chunk = self._chunk(height // pool, groups * images) * pool
        chunks = -(-height // chunk)
        columns = reads | writes | {
            "X": reads["X"] - operation.padding * (reads["X_ROW"] + reads["X_PIXEL"]),
            "IMAGES": images, "ROWS": height, "COLUMNS": width, "CHUNK": chunk, "CHUNKS": chunks,
            "GROUPS": groups,
            "TASKS": groups * images * chunks, "CHANNELS": o, "STEP_Y": row_step, "STEP_X": column_step,
            "W": laid.array.ctypes.data, "W_GROUP": laid.group_bytes, "KERNEL_ROWS": kh, "RUN": laid.run,
            "POOL": pool,
        }  # fmt: skip
        if form == "words":
            offset = offsets(operation.weights, source.bits, row_ranges, column_ranges)
            kind, factor = (k.BITS if operation.weights.bits else k.TERNARY), 2
            pairs = self._pairs(reads["X_PLANE"], source.bits, laid)
        else:
            kind, factor, offset, pairs = k.SHORTS, 1, np.zeros((1, o), np.int64), np.zeros((1, 3), np.int64)
            rows, across = [0] * len(rows), [0] * len(across)
        columns |= {"KIND": kind, "PAIRS": self._keep(pairs), "PAIR_COUNT": len(pairs)}
        return columns, offset, factor, rows, across

    def _pairs(self, x_plane: int, bits: int, laid: Laid) -> npt.NDArray[np.int64]:
        """Plane pairs by falling weight 2^(i + j): bytes to both, and the shift of the sums before each."""
        order = sorted(((i + j, i, j) for i in range(bits) for j in range(laid.planes)), reverse=True)
        before = [order[0][0], *(e for e, _, _ in order)]
        last = order[-1][0]
        assert last == 0
        return np.array(
            [
                [i * x_plane, j * laid.plane_bytes, old - e]
                for (e, i, j), old in zip(order, before, strict=False)
            ],
            np.int64,
        )

    def _chunk(self, units: int, others: int) -> int:
        """Rows (or pooled rows) of one task, so that every thread has some tasks."""
        if self.threads == 1:
            return units
        wanted = -(-TASKS_PER_THREAD * self.threads // others)
        return max(1, -(-units // wanted))

    def _sum(self, fused: Fused, operation: SumPool) -> tuple[dict[str, int], npt.NDArray[np.int64], int]:
        program = self.lowered.program
        source = program.values[operation.source]
        groups = groups_for(source.shape[0])
        columns = self._reads(operation.source, "words", source.shape) | self._writes(fused.made, fused.form)
        turned = np.zeros(source.shape[0], np.uint8) if operation.turned is None else operation.turned
        columns["W"] = self._keep(pack(turned, 1)[0])
        columns |= {"KIND": k.SUM_BITS, "GROUPS": groups, "TASKS": groups * self.images, "POOL": 1}
        places = source.shape[1] * source.shape[2]
        return columns, np.full((1, source.shape[0]), -source.bound * places, np.int64), 2

    def _ending(
        self, fused: Fused, offset: npt.NDArray[np.int64], factor: int, outputs: int
    ) -> dict[str, int]:
        ending = None if fused.ending is None else self.lowered.program.operations[fused.ending]
        if isinstance(ending, Threshold):
            found = bounds(ending.table, offset, factor)
            return {"ENDING": k.TO_BITS, "T": self._keep(found), "LEVEL_COUNT": ending.table.shape[1]}
        columns = {"T": self._keep(lanes_of(offset)), "FACTOR": factor}
        if isinstance(ending, Affine):
            return columns | {"ENDING": k.TO_FLOATS} | self._scales(ending)
        if fused.form == "shorts":
            return columns | {"ENDING": k.TO_SHORTS}
        ones, zeros = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
        return columns | {"ENDING": k.TO_FLOATS, "SCALE": self._keep(ones), "SHIFT": self._keep(zeros)}

    def _size(self, index: int) -> int:
        operation = self.lowered.program.operations[index]
        assert isinstance(operation, MaxPool)
        return operation.size
