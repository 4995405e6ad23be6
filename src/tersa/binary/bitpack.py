"""Levels of few bits as words of 64 bits, and dot products of them.

A k-bit level is an odd integer v = 2 q - (2^k - 1) with a code q in 0 .. 2^k - 1. Bit i of all codes is plane
i; with the signs s_i = 2 bit_i - 1 it is v = sum over i of 2^i s_i. Along the last axis, value j goes to bit
j mod 64 of word j // 64, and the bits that are left over in the last word are 0. Then for two planes of K
values, whose left-over bits are equal and count nothing,

    sum over j of s_j t_j = K - 2 popcount(s ^ t)

Example:
    >>> x, w = np.array([1, -1, -1]), np.array([1, 1, -1])
    >>> int(dot(pack(codes(x, 1), 1)[0], pack(codes(w, 1), 1)[0], 3)), int(x @ w)
    (1, 1)
    >>> pack(np.array([0, 1, 0, 0]), 1).tolist()
    [[2]]

References:
    Courbariaux et al., Binarized Neural Networks (2016), section 2.3.
    Zhou et al., DoReFa-Net (2016), section 2.1: dot products by bit planes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WORD = 64
"""Bits of a word."""

Integers = npt.NDArray[np.integer]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


def words_for(values: int) -> int:
    """Words that hold so many bits.

    >>> words_for(64), words_for(65)
    (1, 2)
    """
    return -(-values // WORD)


def largest(bits: int) -> int:
    """2^k - 1: the largest level, the largest code, and the number of thresholds."""
    return (1 << bits) - 1


def codes(levels: Integers, bits: int) -> npt.NDArray[np.uint8]:
    """q of odd integers v = 2 q - (2^k - 1), shaped like them."""
    return ((levels.astype(np.int64) + largest(bits)) >> 1).astype(np.uint8)


def levels(code: Integers, bits: int) -> npt.NDArray[np.int32]:
    """v = 2 q - (2^k - 1) of codes, shaped like them.

    >>> levels(np.arange(4), 2).tolist()
    [-3, -1, 1, 3]
    """
    return 2 * code.astype(np.int32) - largest(bits)


def pack(code: Integers, bits: int) -> Words:
    """Planes of codes (..., K), words along the last axis: (k, ..., ceil(K / 64))."""
    planes = (
        code[None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8).reshape(-1, *[1] * code.ndim)
    ) & 1
    room = words_for(code.shape[-1]) * WORD - code.shape[-1]
    padded = np.pad(planes, [(0, 0)] * code.ndim + [(0, room)])
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def unpack(words: Words, values: int) -> npt.NDArray[np.uint8]:
    """Codes (..., K) of planes (k, ..., words): the inverse of `pack`."""
    raw = np.ascontiguousarray(words).astype("<u8").view(np.uint8)
    planes = np.unpackbits(raw, axis=-1, count=values, bitorder="little")
    weights = (1 << np.arange(len(words), dtype=np.uint8)).reshape(-1, *[1] * (words.ndim - 1))
    return (planes * weights).sum(0, dtype=np.uint8)


def dot(x: Words, w: Words, values: int) -> npt.NDArray[np.int64]:
    """Sums of sign products over the last axis, K - 2 popcount(x ^ w)."""
    return values - 2 * np.bitwise_count(x ^ w).sum(-1, dtype=np.int64)


def pack_flat(code: Integers, bits: int) -> Bytes:
    """Planes of codes without gaps, as they are stored: (k, ceil(size / 8)) bytes, lowest bit first.

    >>> pack_flat(np.array([1, 0, 3]), 2).tolist()
    [[5], [4]]
    """
    flat = code.reshape(-1).astype(np.uint8)
    return np.stack([np.packbits(flat >> i & 1, bitorder="little") for i in range(bits)])


def unpack_flat(planes: Bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Codes of this shape: the inverse of `pack_flat`."""
    size = int(np.prod(shape))
    found = np.zeros(size, np.uint8)
    for i, plane in enumerate(planes):
        found |= np.unpackbits(plane, count=size, bitorder="little") << i
    return found.reshape(shape)
