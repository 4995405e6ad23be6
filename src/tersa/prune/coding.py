"""Entropy coding: sequences of small whole numbers as few bytes, and back, exactly.

With n symbols of which n_k are k, no code that knows the counts alone needs less on average than

    n H = sum over k of n_k log2(n / n_k)    bits        (`entropy_bits`)

    raw        every symbol takes ceil(log2 A) bits
    huffman    canonical, code lengths stored: n H to n (H + 1) bits (`huffman.py`)
    static     range coder, counts stored: n H bits and at most two bytes (`arithmetic.py`)
    adaptive   range coder, counts learnt on the way, nothing stored
    runs       lengths of zeros, and the other symbols by one of the above: where nearly everything is zero

`pack` tries those that are asked for and writes the name of the shortest in the first byte. A decoder ends
within its `count` symbols whatever the bytes are; bytes that end too soon or a table that is none are
refused. Damage that still decodes only a checksum can tell, and that is the file's affair
(`export/coded.py`). There is no context: a symbol's neighbours say nothing about it.

Example:
    >>> symbols = np.array([0, 1, 0, 0, 2, 0, 0, 1] * 20)
    >>> data = pack(symbols, alphabet=3)
    >>> name_of(data), len(data), round(entropy_bits(symbols) / 8)
    ('static', 29, 26)
    >>> bool((unpack(data, 0, count=160, alphabet=3)[0] == symbols).all())
    True

References:
    Han, Mao & Dally, Deep Compression (ICLR 2016), section 4 and figure 2 (runs of zeros with a filler).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tersa.errors import DataError, unknown
from tersa.prune import arithmetic, huffman
from tersa.prune.symbols import Symbols, checked, read_varint, truncated, varint

LONGEST_RUNS = (15, 255)
"""Lengths of zeros that one symbol can say; both are tried."""


def entropy_bits(symbols: npt.ArrayLike) -> float:
    """n H of a sequence, in bits: what its counts alone allow.

    >>> entropy_bits([0, 1, 0, 1])
    4.0
    """
    counts = np.unique(np.asarray(symbols), return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum()) if counts.size else 0.0


def pack(symbols: npt.ArrayLike, alphabet: int, coder: str = "auto", *, zeros: bool = False) -> bytes:
    """The shortest coding of a sequence among those that `coder` allows, its name in the first byte.

    Args:
        symbols: whole numbers in 0 .. alphabet - 1, any number of them.
        alphabet: A, 1 .. 65,536.
        coder: `auto` (all), `huffman`, `arithmetic` (static and adaptive) or `raw`.
        zeros: try run lengths of symbol 0 too.

    Raises:
        UsageError: an unknown coder, symbols outside the alphabet, too many of them.
    """
    if coder not in CHOICES:
        raise unknown("coder", coder, CHOICES)
    values = checked(symbols, alphabet)
    packed = [bytes([_NUMBERS[name]]) + CODERS[name].encode(values, alphabet) for name in CHOICES[coder]]
    if zeros and alphabet > 1:
        packed += [_pack_runs(values, alphabet, coder, longest) for longest in LONGEST_RUNS]
    return min(packed, key=len)


def unpack(data: bytes, at: int, count: int, alphabet: int, *, zeros: bool = True) -> tuple[Symbols, int]:
    """The sequence that was packed, and where its bytes end.

    Args:
        data: bytes, with others before and behind.
        at: where the sequence begins.
        count: symbols in it.
        alphabet: A of `pack`.
        zeros: accept run lengths.

    Raises:
        DataError: an unknown coder, bytes that end too soon, or a table that is none.
    """
    if not 0 <= at < len(data):
        raise DataError(f"coded data end at byte {len(data)}, a sequence should begin at byte {at}")
    number = data[at]
    if number == _RUNS and zeros:
        return _unpack_runs(data, at + 1, count, alphabet)
    if number >= _RUNS:
        raise DataError(f"coded data name coder {number} at byte {at}; known: 0 to {_RUNS}")
    return tuple(CODERS.values())[number].decode(data, at + 1, count, alphabet)


def name_of(packed: bytes) -> str:
    """The coder that `pack` chose: `raw`, `huffman`, `static`, `adaptive`, or `runs`."""
    return (*CODERS, "runs")[packed[0]]


def _encode_raw(symbols: Symbols, alphabet: int) -> bytes:
    width = (alphabet - 1).bit_length()
    bits = np.empty((len(symbols), width), np.uint8)
    for place in range(width):
        bits[:, place] = symbols >> (width - 1 - place) & 1
    return np.packbits(bits).tobytes()


def _decode_raw(data: bytes, at: int, count: int, alphabet: int) -> tuple[Symbols, int]:
    width = (alphabet - 1).bit_length()
    end = at + -(-count * width // 8)
    if end > len(data):
        raise truncated(data)
    bits = np.unpackbits(np.frombuffer(data[at:end], np.uint8))[: count * width].reshape(count, width)
    symbols = np.zeros(count, np.int32)
    for place in range(width):
        symbols = symbols << 1 | bits[:, place]
    if symbols.max(initial=0) >= alphabet:
        raise DataError(f"coded symbol {symbols.max()} is outside an alphabet of {alphabet}")
    return symbols, end


@dataclass(frozen=True)
class Runs:
    """A sequence that is mostly zero.

    Attributes:
        gaps: zeros before each other symbol; `longest` means that many zeros and no symbol yet.
        values: the other symbols, less one.
    """

    gaps: Symbols
    values: Symbols


def to_runs(symbols: Symbols, longest: int) -> Runs:
    """Lengths of zeros, and what is not zero; zeros at the end are not said.

    >>> runs = to_runs(np.array([0, 0, 3, 0, 0, 0, 0, 1, 0]), longest=3)
    >>> runs.gaps.tolist(), runs.values.tolist()
    ([2, 3, 1], [2, 0])
    """
    at = np.flatnonzero(symbols)
    gaps = np.diff(at, prepend=-1) - 1
    fillers = gaps // longest
    spread = np.full(int(fillers.sum()) + len(gaps), longest, np.int32)
    spread[np.cumsum(fillers + 1) - 1] = gaps % longest
    return Runs(spread, (symbols[at] - 1).astype(np.int32))


def from_runs(runs: Runs, longest: int, count: int) -> Symbols:
    """The sequence of `count` symbols.

    Raises:
        DataError: the runs are longer than that, or do not belong to the values.
    """
    steps = np.where(runs.gaps == longest, longest, runs.gaps + 1)
    places = (np.cumsum(steps, dtype=np.int64) - 1)[runs.gaps < longest]
    if int(steps.sum(dtype=np.int64)) > count or len(places) != len(runs.values):
        raise DataError(f"runs of zeros do not fit {count} symbols; the data are damaged")
    symbols = np.zeros(count, np.int32)
    symbols[places] = runs.values + 1
    return symbols


def _pack_runs(symbols: Symbols, alphabet: int, coder: str, longest: int) -> bytes:
    runs = to_runs(symbols, longest)
    head = bytes([_RUNS, longest]) + varint(len(runs.gaps))
    return head + pack(runs.gaps, longest + 1, coder) + pack(runs.values, alphabet - 1, coder)


def _unpack_runs(data: bytes, at: int, count: int, alphabet: int) -> tuple[Symbols, int]:
    longest = data[at] if at < len(data) else 0
    number, at = read_varint(data, at + 1)
    if longest == 0 or number > count or alphabet < 2:
        raise DataError(f"{number} runs of zeros up to {longest} do not fit {count} symbols of {alphabet}")
    gaps, at = unpack(data, at, number, longest + 1, zeros=False)
    values, at = unpack(data, at, int((gaps < longest).sum()), alphabet - 1, zeros=False)
    return from_runs(Runs(gaps, values), longest, count), at


@dataclass(frozen=True)
class Coder:
    """One way to write a sequence.

    Attributes:
        encode: (symbols, alphabet) to bytes.
        decode: (bytes, begin, count, alphabet) to symbols and the end of their bytes.
    """

    encode: Callable[[Symbols, int], bytes]
    decode: Callable[[bytes, int, int, int], tuple[Symbols, int]]


CODERS: dict[str, Coder] = {
    "raw": Coder(_encode_raw, _decode_raw),
    "huffman": Coder(huffman.encode, huffman.decode),
    "static": Coder(partial(arithmetic.encode, stored=True), partial(arithmetic.decode, stored=True)),
    "adaptive": Coder(partial(arithmetic.encode, stored=False), partial(arithmetic.decode, stored=False)),
}
"""By name; the place of a coder is its number on disk, so that new ones go to the end."""

CHOICES: dict[str, tuple[str, ...]] = {
    "auto": tuple(CODERS),
    "huffman": ("huffman",),
    "arithmetic": ("static", "adaptive"),
    "raw": ("raw",),
}
"""What a user may ask for, and the coders that are then tried."""

_NUMBERS = {name: number for number, name in enumerate(CODERS)}
_RUNS = len(CODERS)
