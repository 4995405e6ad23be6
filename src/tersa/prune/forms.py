"""Sparse forms: what is written for an array of N values of v bytes, K of them not zero.

    dense      every value                                                     N v
    bitmap     one bit per value, then the values that are not zero            ceil(N/8) + K v
    csr        K, row pointers, column indices, values                         4 + (rows + 1) p + K c + K v
    relative   b, entries E, zeros before each entry in b bits, values         5 + ceil(E b/8) + E v
    kernels    kernels L, index of each, all its values                        4 + L q + L k k v
    N:M        N, M, place in its block of each of S slots, their values       2 + ceil(S a/8) + S v

with p, c, q the bytes of the smallest unsigned integer (1, 2 or 4) that holds K, the last column, the last
kernel, and a = ceil(log2 M) bits, 2 for 2:4. Rows are outputs (an array of one dimension is one row), a
kernel is what lies between one input and one output channel (an array of one or two dimensions has kernels of
one value). More than 2^b - 1 zeros in a row need fillers: entries that say 2^b - 1 zeros and hold the value
0, so E >= K; b is 2 to 8, the smallest size wins. N:M has min(N, r) slots in each block of r inputs
(`blocks.py`), spare ones on zeros, and cannot hold arrays with fuller blocks.

Each form is a `Form`: the size without writing, a writer and a reader. The header (which form, which shape)
is in `sparse.py`. Numbers are little-endian; bits fill bytes from the lowest. Minus zero becomes zero but in
`dense`.

Example:
    >>> weights = np.array([[0, 0, 7], [0, 0, 0]], dtype="<f4")
    >>> {name: len(form.write(weights)) for name, form in FORMS.items()}
    {'dense': 24, 'bitmap': 5, 'csr': 12, 'relative': 10, 'kernels': 9}

References:
    Han, Mao & Dally, Deep Compression (ICLR 2016), section 2 and figure 2: relative indices.
    Saad, Iterative Methods for Sparse Linear Systems (2003), section 3.4: CSR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tersa.errors import DataError
from tersa.prune.blocks import NM, fits, from_rows, parts, rows
from tersa.quant.packing import pack, packed_bytes, unpack

Array = npt.NDArray[Any]
"""Values of a little-endian number type, C order."""

WIDTHS = range(2, 9)
"""Bits of a relative index that are tried."""


class Reader:
    """Bytes, read from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._place

    def take(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            DataError: fewer are left.
        """
        if count > self.left:
            raise DataError(f"sparse weights end too early: {count} more bytes expected, {self.left} found")
        self._place += count
        return self._data[self._place - count : self._place]

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def array(self, kind: np.dtype[Any], count: int) -> Array:
        """`count` values of a number type."""
        return np.frombuffer(self.take(count * kind.itemsize), dtype=kind)

    def codes(self, bits: int, count: int) -> Array:
        """`count` whole numbers of `bits` bits, int64."""
        packed = self.array(np.dtype("u1"), packed_bytes(count, bits)).copy()
        return unpack(torch.from_numpy(packed), bits, count).numpy().astype(np.int64)


@dataclass(frozen=True)
class Form:
    """One way to write an array.

    Attributes:
        size: bytes that `write` gives, without writing them; None for an array that the form cannot hold.
        write: array to bytes.
        read: bytes, shape and number type to the array; DataError where they are not what `write` gives.
    """

    size: Callable[[Array], int | None]
    write: Callable[[Array], bytes]
    read: Callable[[Reader, tuple[int, ...], np.dtype[Any]], Array]


def narrow(largest: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds `largest`.

    >>> narrow(255), narrow(256)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype("<u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<u4")


def _as_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def _as_kernels(shape: tuple[int, ...]) -> tuple[int, int]:
    """Kernels, and values of each."""
    return math.prod(shape[:2]), math.prod(shape[2:])


def _kept(values: Array) -> int:
    return int(np.count_nonzero(values))


def _need(right: bool, what: str) -> None:
    if not right:
        raise DataError(f"sparse weights are damaged: {what}")


def _dense_size(values: Array) -> int:
    return values.nbytes


def _dense_write(values: Array) -> bytes:
    return values.tobytes()


def _dense_read(reader: Reader, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    return reader.array(kind, math.prod(shape)).reshape(shape).copy()


def _bitmap_size(values: Array) -> int:
    return packed_bytes(values.size, 1) + _kept(values) * values.itemsize


def _bitmap_write(values: Array) -> bytes:
    alive = values != 0
    return np.packbits(alive, axis=None, bitorder="little").tobytes() + values[alive].tobytes()


def _bitmap_read(reader: Reader, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    count = math.prod(shape)
    bits = reader.array(np.dtype("u1"), packed_bytes(count, 1))
    alive = np.unpackbits(bits, count=count, bitorder="little").astype(bool)
    found = np.zeros(count, dtype=kind)
    found[alive] = reader.array(kind, int(alive.sum()))
    return found.reshape(shape)


def _csr_size(values: Array) -> int:
    (height, width), kept = _as_rows(values.shape), _kept(values)
    pointers = (height + 1) * narrow(kept).itemsize
    return 4 + pointers + kept * (narrow(width - 1).itemsize + values.itemsize)


def _csr_write(values: Array) -> bytes:
    matrix = values.reshape(_as_rows(values.shape))
    row, column = np.nonzero(matrix)
    ends = np.cumsum(np.bincount(row, minlength=len(matrix)))
    pointers = np.concatenate([[0], ends]).astype(narrow(len(row)))
    columns = column.astype(narrow(matrix.shape[1] - 1))
    return _u4(len(row)) + pointers.tobytes() + columns.tobytes() + matrix[row, column].tobytes()


def _csr_read(reader: Reader, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    height, width = _as_rows(shape)
    kept = reader.number(4)
    pointers = reader.array(narrow(kept), height + 1).astype(np.int64)
    lengths = np.diff(pointers)
    _need(bool((lengths >= 0).all()), "row pointers fall")
    _need(pointers[0] == 0 and pointers[-1] == kept, f"row pointers do not run from 0 to {kept}")
    columns = reader.array(narrow(width - 1), kept)
    _need(bool((columns < width).all()), f"a column is not below {width}")
    values = reader.array(kind, kept)
    found = np.zeros((height, width), dtype=kind)
    found[np.repeat(np.arange(height), lengths), columns] = values
    return found.reshape(shape)


def _gaps(values: Array) -> Array:
    """Zeros before each value that is not zero, since the last one, int64."""
    return np.diff(np.flatnonzero(values), prepend=-1) - 1


def _entries(gaps: Array, bits: int) -> int:
    """Values and fillers."""
    return len(gaps) + int((gaps >> bits).sum())


def _relative_bytes(gaps: Array, bits: int, itemsize: int) -> int:
    entries = _entries(gaps, bits)
    return 5 + packed_bytes(entries, bits) + entries * itemsize


def relative_bits(values: Array) -> int:
    """The width of index that `relative` chooses for an array; of equally good ones the smallest."""
    gaps = _gaps(values)
    return min(WIDTHS, key=lambda bits: _relative_bytes(gaps, bits, values.itemsize))


def _relative_size(values: Array) -> int:
    gaps = _gaps(values)
    return min(_relative_bytes(gaps, bits, values.itemsize) for bits in WIDTHS)


def _relative_write(values: Array) -> bytes:
    gaps, bits = _gaps(values), relative_bits(values)
    places = np.cumsum((gaps >> bits) + 1) - 1  # of the values among the fillers
    entries = _entries(gaps, bits)
    indices = np.full(entries, 2**bits - 1, dtype=np.int64)
    indices[places] = gaps & (2**bits - 1)
    held = np.zeros(entries, dtype=values.dtype)
    held[places] = values[values != 0]
    return bytes([bits]) + _u4(entries) + _packed(indices, bits) + held.tobytes()


def _relative_read(reader: Reader, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    bits, entries, count = reader.number(1), reader.number(4), math.prod(shape)
    _need(bits in WIDTHS, f"relative indices of {bits} bits, not {WIDTHS[0]} to {WIDTHS[-1]}")
    places = np.cumsum(reader.codes(bits, entries) + 1) - 1
    _need(not entries or int(places[-1]) < count, f"an index is not below {count}")
    held = reader.array(kind, entries)
    found = np.zeros(count, dtype=kind)
    found[places] = held
    return found.reshape(shape)


def _kernels_size(values: Array) -> int:
    count, area = _as_kernels(values.shape)
    kept = _kept((values.reshape(count, area) != 0).any(axis=1))
    return 4 + kept * (narrow(count - 1).itemsize + area * values.itemsize)


def _kernels_write(values: Array) -> bytes:
    kernels = values.reshape(_as_kernels(values.shape))
    kept = np.flatnonzero((kernels != 0).any(axis=1))
    plain = np.where(kernels[kept] == 0, values.dtype.type(0), kernels[kept])  # no minus zeros
    return _u4(len(kept)) + kept.astype(narrow(len(kernels) - 1)).tobytes() + plain.tobytes()


def _kernels_read(reader: Reader, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    count, area = _as_kernels(shape)
    kept = reader.number(4)
    indices = reader.array(narrow(count - 1), kept)
    _need(bool((indices < count).all()), f"a kernel's index is not below {count}")
    values = reader.array(kind, kept * area)
    found = np.zeros((count, area), dtype=kind)
    found[indices] = values.reshape(kept, area)
    return found.reshape(shape)


def block_form(pattern: NM) -> Form:
    """The form of N:M arrays."""
    head = bytes([pattern.n, pattern.m])
    bits = (pattern.m - 1).bit_length()

    def size(values: Array) -> int | None:
        if not fits(torch.from_numpy(values), pattern):
            return None
        slots = sum(len(block) * keep for block, keep in _parts(values.shape, pattern))
        return len(head) + packed_bytes(slots, bits) + slots * values.itemsize

    def write(values: Array) -> bytes:
        places: list[Tensor] = []
        held: list[Tensor] = []
        for block, keep in parts(rows(torch.from_numpy(values)), pattern):
            order = torch.argsort((block == 0).int(), dim=1, stable=True)  # values first, then zeros
            place = order[:, :keep].sort(dim=1).values
            places.append(place.flatten())
            held.append(block.gather(1, place).flatten())
        packed = pack(torch.cat(places), bits).numpy().tobytes()
        plain = torch.cat(held)
        return head + packed + plain.masked_fill(plain == 0, 0).numpy().tobytes()

    def read(reader: Reader, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
        _need(reader.take(2) == head, f"not in blocks of {pattern}")
        _need(len(shape) > 1, f"an array of shape {shape} has no blocks")
        cut = _parts(shape, pattern)
        slots = [len(block) * keep for block, keep in cut]
        places = torch.from_numpy(reader.codes(bits, sum(slots))).split(slots)
        values = reader.array(kind, sum(slots)).copy()
        filled: list[Tensor] = []
        for (block, keep), place, held in zip(
            cut, places, torch.from_numpy(values).split(slots), strict=True
        ):
            _need(bool((place < block.shape[1]).all()), f"a place is outside of its block of {pattern}")
            zeros = torch.zeros(block.shape, dtype=held.dtype)
            filled.append(zeros.scatter_(1, place.view(-1, keep), held.view(-1, keep)))
        matrix = torch.cat([part.view(math.prod((shape[0], *shape[2:])), -1) for part in filled], dim=1)
        return from_rows(matrix, torch.Size(shape)).numpy()

    return Form(size, write, read)


def _parts(shape: tuple[int, ...], pattern: NM) -> list[tuple[Tensor, int]]:
    """Blocks of an array of that shape, without memory for it."""
    return parts(torch.empty(math.prod((shape[0], *shape[2:])), shape[1], device="meta"), pattern)


def _u4(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _packed(codes: Array, bits: int) -> bytes:
    return pack(torch.from_numpy(codes), bits).numpy().tobytes()


FORMS: dict[str, Form] = {
    "dense": Form(_dense_size, _dense_write, _dense_read),
    "bitmap": Form(_bitmap_size, _bitmap_write, _bitmap_read),
    "csr": Form(_csr_size, _csr_write, _csr_read),
    "relative": Form(_relative_size, _relative_write, _relative_read),
    "kernels": Form(_kernels_size, _kernels_write, _kernels_read),
}
"""By name; patterns such as `2:4` come from `block_form`."""
