"""The table of a lowered program for one batch size: buffers, and a row for each thing that the kernels do.

A step is what `lowering.Lowered.steps` says: one row, or several where it is done by images. Before a
convolution that looks its products up, a row writes the tables of some images; all layers' tables lie in the
same place, one after another.

Every buffer is allocated here, with room for all taps of all output places that kernels read; those only
follow addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tersa.binary import columns as k
from tersa.binary.bitpack import levels, pack
from tersa.binary.layout import Array, Laid, aligned, bounds, groups_for, lanes_of, limits, offsets, sides
from tersa.binary.lookups import WORD, answers, spans
from tersa.binary.lowering import STORED, Form, Fused, Lowered, form_read, laid_shape, looked_up, tables_of
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
    Relu,
    Repeat,
    Shape,
    SumPool,
    Threshold,
    Value,
    sources,
)
from tersa.binary.reference import normalised, pixel_codes

FORK = 15_000
"""Nanoseconds that a step must take before other threads are woken for it: about as long as that takes."""
TASKS_PER_THREAD = 4


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
        shape = laid_shape(form, value, padding)
        array = aligned((images, *shape), STORED[form])
        image, plane, row, pixel, _ = array.strides
        at = array.ctypes.data + padding * (row + pixel)
        return Buffer(array, at, image, plane, row, pixel, shape[0])


@dataclass
class Table:
    """A lowered program with room for a batch.

    Attributes:
        lowered: the program.
        images: of the batch.
        threads: that share the steps.
        rows: the table.
        names: the operations of each step, for measurements; a step has one row, or several.
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
        self._ends: list[int] = []
        sizes = [each.images_at_once(self.images, self.threads) * each.image for each in self.lowered.tables]
        self._arena = aligned((max(sizes, default=0),), np.uint8)
        self._answers = self._keep(_aligned_copy(answers())) if sizes else 0
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

    def buffer(self, index: int, form: Form) -> Array:
        """Where a form of a value lies, padding included: (N, planes, rows, columns, words or channels)."""
        return self._buffers[index, form].array

    # one row ----------------------------------------------------------------------------------------------

    def _keep(self, array: Array) -> int:
        self._kept.append(array)
        return array.ctypes.data

    @property
    def steps(self) -> list[npt.NDArray[np.int64]]:
        """The rows of each step: that of a convolution, those that write its tables before it."""
        starts = [0, *self._ends[:-1]]
        return [self.rows[start:end].copy() for start, end in zip(starts, self._ends, strict=True)]

    def _row(self, **columns: int) -> None:
        row = np.zeros(k.WIDTH, np.int64)
        for name, value in columns.items():
            row[getattr(k, name)] = value
        row[k.SMALL] = _nanoseconds(row) < FORK
        self._rows.append(row)

    def _add(self, names: Iterable[int], **columns: int) -> None:
        self._row(**columns)
        self._step(names)

    def _step(self, names: Iterable[int]) -> None:
        """The rows since the last step are one."""
        self._ends.append(len(self._rows))
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
                kind = {"words": k.PIXEL_WORDS, "bytes": k.PIXEL_BYTES}.get(form, k.PIXEL_SHORTS)
                found = levels(code, operation.bits).astype(np.int16) if form == "shorts" else code
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
        counts = columns["KIND"] == k.LOOKED_UP and columns["POOL"] <= 2
        columns |= self._ending(fused, offset, factor, shape[0], counts=counts)
        lanes = 64 if columns["ENDING"] == k.TO_BITS_BELOW else 128
        columns["T_GROUP"] = max(1, columns.get("LEVEL_COUNT", 1)) * lanes
        stride, different = groups_for(shape[0]) * columns["T_GROUP"], max(across) + 1
        columns["T_ROWS"] = self._keep(np.array(rows, np.int64) * different * stride)
        columns["T_COLUMNS"] = self._keep(np.array(across, np.int64) * stride)
        names = [one for one in (fused.index, fused.ending, fused.pool) if one is not None]
        if columns["KIND"] == k.LOOKED_UP:
            self._by_tables(fused.index, names, columns)
        else:
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
            "POOL": pool, "PADDING": operation.padding,
        }  # fmt: skip
        if form == "words":
            kind, factor, plane = (k.BITS if operation.weights.bits else k.TERNARY), 2, reads["X_PLANE"]
            if looked_up(program, fused.index):
                kind, plane = k.LOOKED_UP, tables_of(program, fused.index).plane
            offset = offsets(
                operation.weights, source.bits, row_ranges, column_ranges, skipped=kind == k.LOOKED_UP
            )
            pairs = self._pairs(plane, source.bits, laid)
        elif form == "bytes":
            offset = offsets(operation.weights, source.bits, row_ranges, column_ranges, plain=True)
            kind, factor, pairs = k.BYTES, 2, np.zeros((1, 3), np.int64)
        else:
            kind, factor, offset, pairs = k.SHORTS, 1, np.zeros((1, o), np.int64), np.zeros((1, 3), np.int64)
            rows, across = [0] * len(rows), [0] * len(across)
        columns |= {"KIND": kind, "PLANES": self._keep(pairs), "PLANE_COUNT": len(pairs)}
        return columns, offset, factor, rows, across

    def _by_tables(self, index: int, names: list[int], columns: dict[str, int]) -> None:
        """The rows of a convolution that looks up: the tables of some images, then their outputs."""
        shape = tables_of(self.lowered.program, index)
        there = {"ROW": shape.row, "PIXEL": shape.pixel, "PLANE": shape.plane, "IMAGE": shape.image}
        block = shape.images_at_once(self.images, self.threads)
        tables, above = self._arena.ctypes.data, columns["PADDING"]
        writing = {
            "KIND": k.TABULATE, "ROWS": shape.rows, "COLUMNS": shape.columns, "W": self._answers,
            "RUN": shape.pixel // WORD, "X_PLANES": shape.image // shape.plane, "OUT": tables,
        }  # fmt: skip
        writing |= {name: columns[name] for name in ("X_IMAGE", "X_PLANE", "X_ROW", "X_PIXEL")}
        writing |= {f"OUT_{name}": value for name, value in there.items()}
        reading = {f"X_{name}": value for name, value in there.items()}
        reading |= {"X": tables - above * shape.row, "STEP_Y": shape.row, "STEP_X": shape.pixel}
        sizes = np.array(spans(columns["GROUPS"]))
        parts = len(sizes)
        columns["PARTS"] = self._keep(np.stack([sizes.cumsum() - sizes, sizes], 1).astype(np.int64))
        for first in range(0, self.images, block):
            images = min(block, self.images - first)
            x = first * columns["X_IMAGE"] + above * columns["X_ROW"]  # rows outside the map have no tables
            out = first * columns["OUT_IMAGE"]
            self._row(**writing | {"X": columns["X"] + x, "TASKS": images * shape.rows})
            chunk = self._chunk(columns["ROWS"] // columns["POOL"], parts * images) * columns["POOL"]
            chunks = -(-columns["ROWS"] // chunk)
            shares = {"IMAGES": images, "CHUNK": chunk, "CHUNKS": chunks, "TASKS": parts * images * chunks}
            self._row(**columns | reading | shares | {"OUT": columns["OUT"] + out})
        self._step(names)

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
        self, fused: Fused, offset: npt.NDArray[np.int64], factor: int, outputs: int, *, counts: bool
    ) -> dict[str, int]:
        """What becomes of the sums; counts: they may be compared as counts of 16 bits."""
        ending = None if fused.ending is None else self.lowered.program.operations[fused.ending]
        if isinstance(ending, Threshold):
            found = bounds(ending.table, offset, factor)
            if counts and ending.table.shape[1] == 1:
                return {"ENDING": k.TO_BITS_BELOW, "T": self._keep(limits(found)), "LEVEL_COUNT": 1}
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


def _nanoseconds(row: npt.NDArray[np.int64]) -> float:
    """What a step takes on one thread, very roughly: measured on one processor, for a few shapes."""
    kind = row[k.KIND]
    if kind == k.TABULATE:
        return float(row[k.TASKS] * row[k.X_PLANES] * row[k.COLUMNS] * row[k.RUN] * 6)
    if k.BITS <= kind <= k.LOOKED_UP:
        tiles = row[k.IMAGES] * row[k.ROWS] * row[k.COLUMNS] * row[k.GROUPS] * row[k.KERNEL_ROWS]
        return float(tiles * row[k.RUN] * row[k.PLANE_COUNT] * (2 if kind != k.LOOKED_UP else 0.2))
    planes = max(row[k.X_PLANES], row[k.OUT_PLANES], 1)
    if kind == k.SUM_BITS:
        return float(row[k.TASKS] * row[k.INPUT_ROWS] * row[k.INPUT_COLUMNS] * planes * 16)
    values = row[k.TASKS] * row[k.COLUMNS] * row[k.CHANNELS]
    if kind == k.CONVOLVE_FLOATS:
        return float(values * row[k.KERNEL_ROWS] * row[k.KERNEL_COLUMNS] * row[k.INPUT_CHANNELS] * 0.1)
    window = min(row[k.SIZE], row[k.INPUT_ROWS]) * min(row[k.SIZE], row[k.INPUT_COLUMNS])
    return float(values * max(window, row[k.LEVEL_COUNT], 1) * planes)


def _aligned_copy(array: Array) -> Array:
    found = aligned(array.shape, array.dtype)
    found[...] = array
    return found
