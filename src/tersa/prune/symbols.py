"""Sequences of small whole numbers, as every coder takes them; numbers of their own; loops and their twins.

A sequence is int32 values in 0 .. A - 1 for an alphabet of A symbols. A loop that runs once a symbol is plain
Python that numba can compile as it is: `twin` gives the plain one where compiling (seconds, once a process
and then kept) would take longer than running it.

Example:
    >>> checked([2, 0, 1], alphabet=3)
    array([2, 0, 1], dtype=int32)
    >>> read_varint(varint(300), 0)
    (300, 2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from tersa.errors import DataError, UsageError

Symbols = npt.NDArray[np.int32]

LARGEST_ALPHABET = 2**16
LARGEST_COUNT = 2**28
"""Symbols of one sequence: their counts leave the range coder 11 of its 40 bits for accuracy."""

COMPILED_FROM = 50_000
"""Symbols from which compiling a loop is faster than running it as Python."""

MOST_VARINT_BYTES = 9
"""63 bits: what an int64 holds."""


def checked(symbols: npt.ArrayLike, alphabet: int) -> Symbols:
    """A sequence as coders take it, (n,).

    Raises:
        UsageError: symbols outside the alphabet, or more of either than can be coded.
    """
    values = np.asarray(symbols).reshape(-1)
    if not 1 <= alphabet <= LARGEST_ALPHABET:
        raise UsageError(f"alphabet of {alphabet} symbols; allowed: 1 to {LARGEST_ALPHABET:,}")
    if len(values) > LARGEST_COUNT:
        raise UsageError(f"{len(values):,} symbols; at most {LARGEST_COUNT:,} fit one sequence; cut it")
    if len(values) and not (values.min() >= 0 and values.max() < alphabet):
        raise UsageError(f"symbols from {values.min()} to {values.max()}; allowed: 0 to {alphabet - 1}")
    return values.astype(np.int32)


def trivial(count: int, alphabet: int) -> bool:
    """A sequence that follows from its length: nothing has to be written."""
    return count == 0 or alphabet == 1


def truncated(data: bytes) -> DataError:
    """The error for bytes that end too soon."""
    return DataError(f"coded data are cut off: {len(data):,} bytes do not hold the symbols they should")


def varint(value: int) -> bytes:
    """A whole number of 0 or more, seven bits a byte, the lowest first; the last byte is below 128.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it.

    Raises:
        DataError: the data end within it, or it has more than 63 bits.
    """
    value = 0
    for place in range(MOST_VARINT_BYTES):
        if at >= len(data):
            raise truncated(data)
        value |= (data[at] & 127) << (7 * place)
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise DataError(f"a number at byte {at - MOST_VARINT_BYTES} has more than 63 bits; the data are damaged")


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def twin(loop: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The loop itself, or its compiled twin where there are enough symbols.

    Args:
        loop: plain Python on lists that numba can compile for arrays.
        count: symbols that it will run over.
    """
    if count < COMPILED_FROM:
        return loop
    if loop not in _compiled:
        _compiled[loop] = njit(loop, cache=True, error_model="numpy")
    return _compiled[loop]
