"""Weights and thresholds in the order in which the kernels read them.

    words     (group, plane, kh, kw * words(C), parts, 32) uint64    32 output channels side by side
    nibbles   (span, plane, kh, kw * 16 words(C), group, 32) uint8   channels 0, 16, 1, 17, ...
    shorts    (group, kh, pairs of (kw C), 32, 2) int16
    bytes     (group, kh, fours of (kw C), 32, 4) int8
    limits    (class, group, 32) uint16                              bounds of counts that were looked up
    bounds    (class, group, level, 32) int32

A padded place holds zero bits, which count as the lowest level -n and not as 0, so that too much has been
subtracted there: n times the weights that lie outside. It depends on the output channel and on which rows and
columns of the kernel lie outside, hence *classes* of output places, 9 of them for a 3x3 kernel, each with
bounds of its own; nothing is paid for it while running. With sums S = 2 A + offset, A what a tile adds up,

    S >= t  <=>  A >= ceil((t - offset) / 2)

Example:
    >>> sides(4, kernel=3, stride=1, padding=1)
    ([(1, 3), (0, 3), (0, 2)], [0, 1, 1, 2])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersa.binary.bitpack import WORD, largest, pack, unpack_flat, words_for
from tersa.binary.lookups import spans
from tersa.binary.program import FloatConvolution, Floats, Weights
from tersa.binary.thresholds import ALWAYS, NEVER
from tersa.errors import ModelError

GROUP = 32
"""Output channels of one tile."""
ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

MOST_BYTES = 1 << 28
"""Of one layer's weights or bounds as the kernels read them."""

Array = npt.NDArray[np.generic]


def aligned(shape: tuple[int, ...], dtype: npt.DTypeLike, slack: int = ALIGNMENT) -> Array:
    """Zeros whose first byte is aligned, with some bytes to spare behind the last."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = np.zeros(size + slack + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(kind).reshape(shape)


def _bounded(what: str, *factors: int) -> None:
    """Refuse what would take too much memory, before it does.

    Raises:
        ModelError: too large.
    """
    if math.prod(factors) > MOST_BYTES:
        raise ModelError(f"{what} would take {math.prod(factors):,} bytes unpacked; at most {MOST_BYTES:,}")


def groups_for(channels: int) -> int:
    """Groups of 32 output channels."""
    return -(-channels // GROUP)


def by_lanes(rows: Array) -> Array:
    """(O, ...) as (group, ..., 32), with zeros for missing channels."""
    groups = groups_for(len(rows))
    full = np.zeros((groups * GROUP, *rows.shape[1:]), rows.dtype)
    full[: len(rows)] = rows
    return np.moveaxis(full.reshape(groups, GROUP, *rows.shape[1:]), 1, -1)


@dataclass(frozen=True, eq=False)
class Laid:
    """Weights for a kernel.

    Attributes:
        array: see the head of this file.
        run: steps along one row of the kernel.
        plane_bytes: from one plane to the next.
        planes: of the weights; 1 for ternary, whose sign and mask lie side by side.
    """

    array: Array
    run: int
    plane_bytes: int
    planes: int

    @property
    def group_bytes(self) -> int:
        """From one group of channels to the next."""
        return self.array.nbytes // len(self.array)


def words_layout(weights: Weights) -> Laid:
    """For `BITS` and `TERNARY`."""
    o, kh, kw, c = weights.shape
    run = kw * words_for(c)
    _bounded(f"weights {weights.shape}", groups_for(o), GROUP, weights.bits or 2, kh, run, 8)
    if weights.bits and c % WORD == 0:  # stored as they are read
        planes = (
            weights.planes.view("<u8").astype(np.uint64).reshape(weights.bits, 1, o, kh, kw, words_for(c))
        )
    elif weights.bits:
        planes = pack(unpack_flat(weights.planes, weights.shape), weights.bits)[:, None]
    else:
        integers = weights.integers()
        planes = np.stack(
            [pack((integers > 0).astype(np.uint8), 1), pack((integers != 0).astype(np.uint8), 1)], axis=1
        )  # (1, 2, O, kh, kw, words)
    count, parts = planes.shape[:2]
    rows = np.moveaxis(
        planes.reshape(count, parts, o, kh, run), (2, 1), (0, -1)
    )  # (O, planes, kh, run, parts)
    lanes = by_lanes(rows)  # (groups, planes, kh, run, parts, 32)
    array = aligned(lanes.shape, np.uint64)
    array[...] = lanes
    return Laid(array, run, kh * run * parts * GROUP * 8, count)


def nibbles_layout(weights: Weights) -> Laid:
    """For `LOOKED_UP`: the words of `words_layout` in parts of four bits; ternary weights have none."""
    words = words_layout(weights)
    groups, planes, kh, run, _, lanes = words.array.shape
    _bounded(f"weights {weights.shape}", groups, lanes, planes, kh, run, 16)
    raw = np.ascontiguousarray(words.array[..., 0, :]).view(np.uint8)
    raw = raw.reshape(groups, planes, kh, run, lanes, 8).swapaxes(-1, -2)  # (groups, planes, kh, run, 8, 32)
    apart = np.empty((groups, planes, kh, 16 * run, lanes), np.uint8)
    for half, found in enumerate((raw & 15, raw >> 4)):
        part = found.reshape(groups, planes, kh, 8 * run, lanes)
        apart[..., half::2, 0::2] = part[..., : lanes // 2]
        apart[..., half::2, 1::2] = part[..., lanes // 2 :]
    array = aligned((groups, apart[0].size), np.uint8)
    first = 0
    for span in spans(groups):
        together = np.moveaxis(apart[first : first + span], 0, -2)  # (planes, kh, 16 run, span, 32)
        array[first : first + span] = together.reshape(span, -1)
        first += span
    return Laid(array, 16 * run, apart[0, 0].nbytes, planes)


def shorts_layout(weights: Weights) -> Laid:
    """For `SHORTS`."""
    o, kh, kw, c = weights.shape
    run = -(-kw * c // 2)
    _bounded(f"weights {weights.shape}", groups_for(o), GROUP, kh, run, 4)
    integers = weights.integers()
    taps = np.zeros((o, kh, 2 * run), np.int16)
    taps[:, :, : kw * c] = integers.reshape(o, kh, kw * c)
    lanes = np.moveaxis(by_lanes(taps.reshape(o, kh, run, 2)), -1, -2)  # (groups, kh, run, 32, 2)
    array = aligned(lanes.shape, np.int16)
    array[...] = lanes
    return Laid(array, run, 0, 1)


def bytes_layout(weights: Weights) -> Laid:
    """For `BYTES`: as `shorts_layout`, four to a step."""
    o, kh, kw, c = weights.shape
    run = -(-kw * c // 4)
    _bounded(f"weights {weights.shape}", groups_for(o), GROUP, kh, run, 4)
    taps = np.zeros((o, kh, 4 * run), np.int8)
    taps[:, :, : kw * c] = weights.integers().reshape(o, kh, kw * c)
    lanes = np.moveaxis(by_lanes(taps.reshape(o, kh, run, 4)), -1, -2)  # (groups, kh, run, 32, 4)
    array = aligned(lanes.shape, np.int8)
    array[...] = lanes
    return Laid(array, run, 0, 1)


def floats_layout(layer: FloatConvolution) -> Floats:
    """For `CONVOLVE_FLOATS`: (kh, kw, C, O), each weight a float."""
    if isinstance(layer.weights, Weights):
        _bounded(f"weights {layer.weights.shape}", *layer.weights.shape, 4)
    return np.ascontiguousarray(np.moveaxis(layer.taps, 0, -1))


def sides(
    outputs: int, kernel: int, stride: int, padding: int, inputs: int | None = None
) -> tuple[list[tuple[int, int]], list[int]]:
    """Which taps lie inside the map along one side: the different ranges, and each output's range.

    Args:
        outputs: places along the side of the output.
        kernel: taps.
        stride: of the kernel.
        padding: places before the map.
        inputs: places along the side of the input; by default as many as outputs.
    """
    length = outputs if inputs is None else inputs
    ranges: list[tuple[int, int]] = []
    index: list[int] = []
    for place in range(outputs):
        start = place * stride - padding
        inside = (max(0, -start), min(kernel, length - start))
        if inside not in ranges:
            ranges.append(inside)
        index.append(ranges.index(inside))
    return ranges, index


def offsets(
    weights: Weights,
    bits: int,
    rows: list[tuple[int, int]],
    columns: list[tuple[int, int]],
    *,
    plain: bool = False,
    skipped: bool = False,
) -> npt.NDArray[np.int64]:
    """What makes a sum of a tile's A: S = 2 A + offset, (classes, O), for codes of so many bits.

    Args:
        weights: integers.
        bits: of the codes.
        rows: ranges of taps inside the map, one for each class of rows.
        columns: the same of columns.
        plain: A adds up codes times weights, as bytes do, and not minus the counts of words.
        skipped: rows of the kernel that lie outside the map have no part in A; not of ternary weights.
    """
    integers = weights.integers()
    top = largest(bits)
    if plain:
        whole = np.zeros(len(integers), np.int64)
    elif weights.bits:
        whole = np.full(len(integers), top * largest(weights.bits) * integers[0].size)
    else:
        whole = top * np.abs(integers).sum((1, 2, 3), dtype=np.int64)
    _bounded("offsets of places at the border", len(rows), len(columns), len(integers), 8)
    sums = np.zeros((integers.shape[0], integers.shape[1] + 1, integers.shape[2] + 1), np.int64)
    sums[:, 1:, 1:] = integers.sum(3, dtype=np.int64).cumsum(1).cumsum(2)  # of all taps above and to the left
    (top_row, bottom), (left, right) = (np.array(ranges).T for ranges in (rows, columns))
    inside = (
        sums[:, bottom][:, :, right] - sums[:, top_row][:, :, right]
        - sums[:, bottom][:, :, left] + sums[:, top_row][:, :, left]
    )  # fmt: skip
    total = 0 if plain else sums[:, -1, -1, None, None]
    most = whole[:, None, None]
    if skipped:
        assert weights.bits
        total = (sums[:, bottom, -1] - sums[:, top_row, -1])[:, :, None]
        most = most // integers.shape[1] * (bottom - top_row)[None, :, None]
    found = most + top * (total - inside)
    return np.ascontiguousarray(found.reshape(len(integers), -1).T)


def bounds(table: npt.NDArray[np.int32], offset: npt.NDArray[np.int64], factor: int) -> Array:
    """Thresholds (O, levels) of S = factor A + offset as bounds of A, (classes, groups, levels, 32)."""
    _bounded(f"thresholds {table.shape}", len(offset), groups_for(len(table)), GROUP, table.shape[1], 8)
    wanted = table.astype(np.int64)[None]  # (1, O, levels)
    exact = -((offset[:, :, None] - wanted) // factor)  # the smallest A with factor A + offset >= t
    found = np.clip(exact, ALWAYS + 1, NEVER - 1)
    found = np.where(wanted == NEVER, NEVER, np.where(wanted == ALWAYS, ALWAYS, found)).astype(np.int32)
    groups = groups_for(table.shape[0])
    array = aligned((len(offset), groups, table.shape[1], GROUP), np.int32)
    array[...] = NEVER
    flat = np.full((len(offset), groups * GROUP, table.shape[1]), NEVER, np.int32)
    flat[:, : table.shape[0]] = found
    array[...] = np.moveaxis(flat.reshape(len(offset), groups, GROUP, -1), 2, 3)
    return array


def limits(found: Array) -> Array:
    """Bounds of one level as limits of counts, (classes, groups, 32) uint16.

    -count >= bound  <=>  count < limit
    """
    array = aligned((*found.shape[:2], GROUP), np.uint16)
    array[...] = np.clip(1 - found[:, :, 0].astype(np.int64), 0, 65535)
    return array


def lanes_of(values: npt.NDArray[np.int64]) -> Array:
    """Offsets (classes, O) as (classes, groups, 1, 32) int32."""
    array = aligned((len(values), groups_for(values.shape[1]), 1, GROUP), np.int32)
    array[:, :, 0] = np.stack([by_lanes(row) for row in values])
    return array
