"""A range coder: a sequence becomes one number in an interval that each symbol narrows to its share.

The interval is [low, low + span) of 48-bit numbers with span kept at 2^40 or above; with count c_k of symbol
k, C_k of those below it and T of all,

    unit = span // T,    low += unit C_k,    span = unit c_k    (the last symbol takes what rounding leaves)

and a byte leaves at the top whenever span falls below 2^40. Rounding costs less than T / 2^40 of a symbol's
share, so that n symbols of entropy H take n H bits and at most two bytes.

    stored      counts first, each as one of 0 .. what is left; then they are taken down as symbols are used,
                which costs log2 of the multinomial coefficient, at most n H
    learnt      nothing first: P(k) = (n_k + 1/2) / (n + A / 2) from the n symbols so far, (A - 1) / 2 log2 n
                bits more than the best fixed counts

Counts lie in a Fenwick tree, so that any alphabet costs log2 A steps a symbol. The decoder gives `count`
symbols of the alphabet whatever the bytes are; only bytes that end too soon can be told.

Example:
    >>> symbols = np.array([0] * 90 + [1] * 10, np.int32)
    >>> data = encode(symbols, alphabet=2, stored=True)
    >>> len(data), bool((decode(data, 0, count=100, alphabet=2, stored=True)[0] == symbols).all())
    (8, True)

References:
    Martin, Range encoding: an algorithm for removing redundancy from a digitised message (1979).
    Krichevsky & Trofimov, The Performance of Universal Encoding (1981): the 1/2.
    Fenwick, A New Data Structure for Cumulative Frequency Tables (1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from tersa.prune.symbols import Symbols, trivial, truncated, twin

TOP, BOTTOM = 2**48, 2**40
"""The interval's numbers lie below TOP; its span is kept at BOTTOM or above."""

HALF, WHOLE = 1, 2
"""Half an observation and a whole one, in the counts that are learnt."""


@register_jitable
def _carry(out: Any, end: int) -> None:
    """Add one to the number that is written so far."""
    place = end - 1
    while out[place] == 255:
        out[place] = 0
        place -= 1
    out[place] += 1


@register_jitable
def _narrow(low: int, span: int, end: int, out: Any, start: int, width: int, total: int) -> Any:
    """Narrow the interval to [start, start + width) of total, and write the bytes that are settled."""
    unit = span // total
    low += unit * start
    span = unit * width if start + width < total else span - unit * start
    if low >= TOP:
        low -= TOP
        _carry(out, end)
    while span < BOTTOM:
        out[end] = low >> 40
        end += 1
        low = (low & (BOTTOM - 1)) << 8
        span <<= 8
    return low, span, end


@register_jitable
def _settle(code: int, span: int, at: int, data: Any, start: int, width: int, total: int) -> Any:
    """The reader's side of `_narrow`; `code` is where the number lies in the interval."""
    unit = span // total
    code -= unit * start
    span = unit * width if start + width < total else span - unit * start
    while span < BOTTOM:
        code <<= 8
        if at < len(data):
            code |= data[at]
        at += 1
        span <<= 8
    return code, span, at


@register_jitable
def _before(tree: Any, symbol: int) -> int:
    """Count of all symbols below this one (a Fenwick tree: node i holds the i & -i counts that end at i)."""
    total = 0
    while symbol > 0:
        total += tree[symbol]
        symbol &= symbol - 1
    return total


@register_jitable
def _count(tree: Any, symbol: int, step: int) -> None:
    """Add to one symbol's count."""
    node = symbol + 1
    while node < len(tree):
        tree[node] += step
        node += node & -node


def _walk_in(symbols: Any, tree: Any, total: int, step: int, out: Any, low: int, span: int, end: int) -> Any:
    """Encode symbols under the tree's counts, which change by `step` at each."""
    for symbol in symbols:
        start = _before(tree, symbol)
        low, span, end = _narrow(low, span, end, out, start, _before(tree, symbol + 1) - start, total)
        _count(tree, symbol, step)
        total += step
    return low, span, end


def _walk_out(
    data: Any, tree: Any, total: int, step: int, symbols: Symbols, code: int, span: int, at: int
) -> Any:
    """Decode symbols; the twin of `_walk_in`."""
    for index in range(len(symbols)):
        value = min(code // (span // total), total - 1)
        symbol, start, node = 0, 0, len(tree) - 1
        while node > 0:
            if symbol + node < len(tree) and start + tree[symbol + node] <= value:
                symbol += node
                start += tree[symbol]
            node >>= 1
        code, span, at = _settle(code, span, at, data, start, _before(tree, symbol + 1) - start, total)
        _count(tree, symbol, step)
        total += step
        symbols[index] = symbol
    return code, span, at


def _tree(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """The Fenwick tree of counts, its size a power of two so that a search can halve it."""
    size = 1 << (len(counts) - 1).bit_length()
    tree = np.zeros(size + 1, np.int64)
    tree[1 : len(counts) + 1] = counts
    for node in range(1, size):
        tree[node + (node & -node)] += tree[node]
    return tree


def encode(symbols: Symbols, alphabet: int, *, stored: bool) -> bytes:
    """The bytes of a sequence.

    Args:
        symbols: (n,), see `symbols.checked`.
        alphabet: A.
        stored: write the counts first; else they are learnt on the way.
    """
    if trivial(len(symbols), alphabet):
        return b""
    count = len(symbols)
    out = np.zeros(4 * (count + alphabet) + 8, np.uint8)  # one symbol of 2^29 takes less than 4 bytes
    low, span, end = 0, TOP, 0
    counts, total, step = [HALF] * alphabet, HALF * alphabet, WHOLE
    if stored:  # each count is one of 0 .. what is left; the last one is what is left
        counts, total, step = np.bincount(symbols, minlength=alphabet).tolist(), count, -1
        left = count
        for number in counts[:-1]:
            low, span, end = _narrow(low, span, end, out, number, 1, left + 1)
            left -= number
    walk = twin(_walk_in, count)
    tree = _tree(counts)
    given = (symbols, tree) if walk is not _walk_in else (symbols.tolist(), tree.tolist())
    low, span, end = walk(*given, total, step, out, low, span, end)
    # The least multiple of 2^32 from `low` on: whatever bytes follow it, they stay inside, as span >= 2^40.
    last = -(-low // 2**32)
    if last >= 2**16:
        _carry(out, end)
    return out[:end].tobytes() + (last % 2**16).to_bytes(2, "big")


def decode(data: bytes, at: int, count: int, alphabet: int, *, stored: bool) -> tuple[Symbols, int]:
    """The sequence, and where its bytes end.

    Args:
        data: bytes, with others before and behind.
        at: where they begin.
        count: n.
        alphabet: A.
        stored: as it was encoded.

    Raises:
        DataError: bytes that end too soon.
    """
    if trivial(count, alphabet):
        return np.zeros(count, np.int32), at
    code, span = int.from_bytes(data[at : at + 6].ljust(6, b"\0"), "big"), TOP
    place = at + 6
    counts, total, step = [HALF] * alphabet, HALF * alphabet, WHOLE
    if stored:
        left, counts, total, step = count, [], count, -1
        for _ in range(alphabet - 1):
            number = min(code // (span // (left + 1)), left)
            code, span, place = _settle(code, span, place, data, number, 1, left + 1)
            counts.append(number)
            left -= number
        counts.append(left)
    symbols = np.zeros(count, np.int32)
    walk = twin(_walk_out, count)
    tree = _tree(counts)
    given = (np.frombuffer(data, np.uint8), tree) if walk is not _walk_out else (data, tree.tolist())
    code, span, place = walk(*given, total, step, symbols, code, span, place)
    end = place - 4  # 6 bytes were read ahead, 2 of them written at the end
    if end > len(data):
        raise truncated(data)
    return symbols, end
