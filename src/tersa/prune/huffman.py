"""Huffman coding, canonical: the lengths of the codes are stored, the codes follow from them.

Codes are counted up in order of (length, symbol): the next one is the last plus one, shifted left where it is
longer. With n symbols of entropy H each,

    n H <= bits of the codes < n (H + 1)

    width of a length (3 bits) | length of each symbol's code, 0 where it does not occur | codes

A symbol that is alone needs no codes behind the table.

Example:
    >>> symbols = np.array([0, 0, 0, 2, 2, 1], np.int32)
    >>> data = encode(symbols, alphabet=3)
    >>> len(data), decode(data, 0, count=6, alphabet=3)[0].tolist()
    (3, [0, 0, 0, 2, 2, 1])

References:
    Huffman, A Method for the Construction of Minimum-Redundancy Codes (1952).
    Schwartz & Kallick, Generating a Canonical Prefix Encoding (1964).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tersa.errors import DataError
from tersa.prune.symbols import Symbols, trivial, truncated, twin

Ints = npt.NDArray[np.int64]

WIDTH_BITS = 3
"""Of the number that says how many bits a code's length takes."""
MOST_BITS = 48
"""Of one code: length l needs Fibonacci(l) symbols, so that 2^28 of them make 41 at most."""


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Bits of each symbol's code, 0 for symbols that do not occur; 1 for one that is alone.

    >>> code_lengths([5, 0, 2, 1])
    [1, 0, 2, 2]
    """
    lengths = [0] * len(counts)
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (count, symbol, (symbol,)) for symbol, count in enumerate(counts) if count
    ]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        members = first[2] + second[2]
        for symbol in members:
            lengths[symbol] += 1
        heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), members))
    return lengths


def _canonical(lengths: Ints) -> tuple[Ints, Ints]:
    """Symbols by rising (length, symbol), and the code of each."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    codes, code, last = np.zeros(len(order), np.int64), -1, 0
    for place, length in enumerate(lengths[order].tolist()):
        code = (code + 1) << (length - last if place else 0)
        codes[place], last = code, length
    return order, codes


def encode(symbols: Symbols, alphabet: int) -> bytes:
    """The table and the codes of a sequence.

    Args:
        symbols: (n,), see `symbols.checked`.
        alphabet: A.
    """
    if trivial(len(symbols), alphabet):
        return b""
    lengths = np.array(code_lengths(np.bincount(symbols, minlength=alphabet).tolist()))
    width = int(lengths.max()).bit_length()
    head = width >> np.arange(WIDTH_BITS - 1, -1, -1) & 1
    table = (lengths[:, None] >> np.arange(width - 1, -1, -1) & 1).reshape(-1)
    codes = _code_bits(symbols, lengths) if np.count_nonzero(lengths) > 1 else np.zeros(0, np.uint8)
    return np.packbits(np.concatenate([head, table, codes]).astype(np.uint8)).tobytes()


def _code_bits(symbols: Symbols, lengths: Ints) -> npt.NDArray[np.uint8]:
    """The codes of all symbols, one behind the other, a bit in each byte."""
    order, codes = _canonical(lengths)
    code_of = np.zeros(len(lengths), np.int64)
    code_of[order] = codes
    length, code = lengths[symbols], code_of[symbols]
    start = np.cumsum(length) - length
    bits = np.zeros(int(length.sum()), np.uint8)
    for place in range(int(lengths.max())):
        there = length > place
        bits[start[there] + place] = code[there] >> (length[there] - 1 - place) & 1
    return bits


def decode(data: bytes, at: int, count: int, alphabet: int) -> tuple[Symbols, int]:
    """The sequence, and where its bytes end.

    Args:
        data: bytes, with others before and behind.
        at: where the table begins.
        count: n.
        alphabet: A.

    Raises:
        DataError: a table that is no complete code, or bytes that end too soon.
    """
    if trivial(count, alphabet):
        return np.zeros(count, np.int32), at
    bits = np.unpackbits(np.frombuffer(data[at : at + alphabet + MOST_BITS // 8 * count + 1], np.uint8))
    lengths, begin = _table(bits, alphabet, data)
    used = np.flatnonzero(lengths)
    if len(used) == 1:
        return np.full(count, used[0], np.int32), at + -(-begin // 8)
    if count > len(bits) - begin:
        raise truncated(data)
    order, codes = _canonical(lengths)
    steps = np.arange(int(lengths.max()) + 1)
    place = np.searchsorted(lengths[order], steps)  # the first code of each length
    members = np.bincount(lengths)
    members[0] = 0
    symbols = np.zeros(count, np.int32)
    walk, given = twin(_walk, count), (bits, codes[place], place, members, order)
    end = walk(*(given if walk is not _walk else (values.tolist() for values in given)), begin, symbols)
    if end < 0:
        raise truncated(data)
    return symbols, at + -(-end // 8)


def _table(bits: npt.NDArray[np.uint8], alphabet: int, data: bytes) -> tuple[Ints, int]:
    """The code lengths, checked, and the bit behind them."""
    width = int(bits[:WIDTH_BITS] @ (1 << np.arange(WIDTH_BITS - 1, -1, -1))) if len(bits) else 0
    begin = WIDTH_BITS + alphabet * width
    if begin > len(bits):
        raise truncated(data)
    table = bits[WIDTH_BITS:begin].reshape(alphabet, width).astype(np.int64)
    lengths = (table << np.arange(width - 1, -1, -1)).sum(1)
    used = lengths[lengths > 0].tolist()
    longest = max(used, default=0)
    complete = sum(1 << (longest - length) for length in used) == 1 << longest  # Kraft's sum is 1
    if not used or longest > MOST_BITS or not (complete or used == [1]):
        raise DataError("a Huffman table of code lengths is no complete code; the data are damaged")
    return lengths, begin


def _walk(bits: Any, first: Any, place: Any, members: Any, order: Any, at: int, symbols: Symbols) -> int:
    """Read codes bit by bit; the bit behind the last, or -1 where they end too soon."""
    for index in range(len(symbols)):
        code, length = 0, 0
        while True:
            if at >= len(bits):
                return -1
            code = code << 1 | bits[at]
            at += 1
            length += 1
            offset = code - first[length]
            if members[length] > 0 and 0 <= offset < members[length]:
                symbols[index] = order[place[length] + offset]
                break
    return at
