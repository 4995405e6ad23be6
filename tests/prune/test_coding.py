"""Entropy coding is exact, near its bound, and ends on any bytes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.errors import DataError, UsageError
from tersa.prune import arithmetic, coding, huffman, symbols
from tersa.prune.coding import CHOICES, CODERS, entropy_bits, from_runs, name_of, pack, to_runs, unpack
from tersa.prune.symbols import Symbols, read_varint, varint

ENDING_BITS = 16
"""The two bytes that end a range coder's number; the counts that are taken down cost at most n H before."""

NATURAL = 1e-6
"""Bits that rounding of the interval may cost a symbol: total / 2^40 at most."""


def waves(count: int, alphabet: int) -> Symbols:
    """Symbols around the middle of the alphabet, as weights are."""
    x = np.sin(np.arange(count) * 12.9898) * np.sin(np.arange(count) * 4.1414) ** 2
    return np.clip((x + 1) / 2 * alphabet, 0, alphabet - 1).astype(np.int32)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Symbols, int]:
    alphabet = draw(st.integers(1, 300))
    size = draw(st.integers(1, alphabet))  # some alphabets are hardly used
    values = draw(st.lists(st.integers(0, size - 1), max_size=120))
    return np.array(values, np.int32), alphabet


@settings(deadline=None, derandomize=True, max_examples=60)
@given(sequences())
def test_every_coder_gives_back_what_it_got(given_: tuple[Symbols, int]) -> None:
    values, alphabet = given_
    for coder in CODERS.values():
        data = coder.encode(values, alphabet)
        for after in (b"", b"\xff" * 8, b"\x00" * 8):  # another sequence may follow
            found, end = coder.decode(b"\x5a" + data + after, 1, len(values), alphabet)
            assert found.tolist() == values.tolist()
            assert end == 1 + len(data)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(sequences())
def test_the_range_coder_is_within_two_bytes_of_the_entropy(given_: tuple[Symbols, int]) -> None:
    """Counts first (each one of 0 .. what is left), then n H bits, then two bytes at most."""
    values, alphabet = given_
    counts = np.bincount(values, minlength=alphabet)
    left = len(values) - np.concatenate([[0], np.cumsum(counts)[:-1]])
    table = float(np.log2(left[:-1] + 1.0).sum()) if len(values) else 0.0
    bits = 8 * len(arithmetic.encode(values, alphabet, stored=True))
    assert bits <= table + entropy_bits(values) + ENDING_BITS + NATURAL * (len(values) + alphabet)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(sequences())
def test_the_learnt_model_costs_what_the_krichevsky_trofimov_estimator_says(
    given_: tuple[Symbols, int],
) -> None:
    values, alphabet = given_
    seen, bits = np.zeros(alphabet), 0.0
    for symbol in values:
        bits -= math.log2((seen[symbol] + 0.5) / (seen.sum() + alphabet / 2))
        seen[symbol] += 1
    found = 8 * len(arithmetic.encode(values, alphabet, stored=False))
    assert found <= bits + ENDING_BITS + NATURAL * len(values)
    assert found >= bits - NATURAL * len(values)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(sequences())
def test_huffman_lies_between_the_entropy_and_a_bit_more(given_: tuple[Symbols, int]) -> None:
    values, alphabet = given_
    counts = np.bincount(values, minlength=alphabet)
    if np.count_nonzero(counts) > 1:
        lengths = huffman.code_lengths(counts.tolist())
        bits, bound = int((counts * lengths).sum()), entropy_bits(values)
        assert bound - NATURAL <= bits < bound + len(values)
        assert sum(2.0**-length for length in lengths if length) == 1.0


def test_huffman_codes_by_hand() -> None:
    """Counts 5, 0, 2, 1: lengths 1, 0, 2, 2; width 2 is `010`, the table `01 00 10 10`, codes 0, 10, 11."""
    values = np.array([0, 2, 3, 0], np.int32)
    assert huffman.code_lengths([5, 0, 2, 1]) == [1, 0, 2, 2]
    assert huffman.encode(values, 4) == bytes([0b01001001, 0b01001011, 0b0_0000000])


def test_entropy_by_hand() -> None:
    assert entropy_bits([]) == entropy_bits([7, 7, 7]) == 0.0
    assert entropy_bits([0, 1, 2, 3] * 5) == 40.0
    assert entropy_bits([0, 0, 0, 1]) == pytest.approx(3 * math.log2(4 / 3) + 2)


@pytest.mark.parametrize("name", CODERS)
def test_compiled_loops_do_what_the_plain_ones_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = waves(3000, 17)
    plain = CODERS[name].encode(values, 17)
    monkeypatch.setattr(symbols, "COMPILED_FROM", 1)
    assert CODERS[name].encode(values, 17) == plain
    found, end = CODERS[name].decode(plain, 0, 3000, 17)
    assert found.tolist() == values.tolist()
    assert end == len(plain)


@pytest.mark.parametrize("alphabet", [2, 16, 65536])
def test_large_sequences(alphabet: int) -> None:
    values = waves(4000, alphabet)
    for coder in CHOICES:
        found, end = unpack(pack(values, alphabet, coder), 0, 4000, alphabet)
        assert (found == values).all()
        assert end == len(pack(values, alphabet, coder))


def test_pack_takes_the_shortest_and_says_which() -> None:
    values = waves(2000, 16)
    sizes = {coder: len(pack(values, 16, coder)) for coder in CHOICES}
    assert sizes["auto"] == min(sizes.values())
    assert name_of(pack(values, 16, "raw")) == "raw"
    assert name_of(pack(values, 16, "arithmetic")) in ("static", "adaptive")
    assert sizes["arithmetic"] < sizes["huffman"] < sizes["raw"] == 1001
    assert sizes["auto"] < entropy_bits(values) / 8 + 30


@pytest.mark.parametrize("longest", [1, 3, 15, 255])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97, 1.0])
def test_runs_give_back_the_sequence(longest: int, share: float) -> None:
    noise = np.modf(np.sin(np.arange(1500) * 12.9898) * 43758.5453)[0]
    values = np.where(np.abs(noise) < share, 0, 1 + np.arange(1500) % 7).astype(np.int32)
    assert (from_runs(to_runs(values, longest), longest, 1500) == values).all()


@pytest.mark.parametrize("coder", CHOICES)
def test_sparse_sequences_pack_by_runs_where_that_is_shorter(coder: str) -> None:
    values = np.where(np.arange(5000) % 61 == 0, 1 + np.arange(5000) % 5, 0)
    short, plain = pack(values, 8, coder, zeros=True), pack(values, 8, coder)
    assert len(short) <= len(plain)
    assert unpack(short, 0, 5000, 8)[0].tolist() == values.tolist()
    if coder == "huffman":  # whose shortest code is a whole bit
        assert name_of(short) == "runs"
        assert len(short) < len(plain) / 3


@pytest.mark.parametrize("count", [0, 1, 5])
def test_one_symbol_needs_no_bytes(count: int) -> None:
    assert len(pack(np.zeros(count, np.int64), 1)) == 1
    assert unpack(pack(np.zeros(count, np.int64), 1), 0, count, 1)[0].tolist() == [0] * count


def test_a_symbol_alone_in_a_large_alphabet_is_cheap() -> None:
    assert len(pack(np.full(100_000, 3), 16, "huffman")) < 10
    assert len(pack(np.full(40_000, 3), 16)) < 20


@pytest.mark.parametrize(
    ("values", "alphabet", "text"),
    [
        ([0, 4], 4, "symbols from 0 to 4; allowed: 0 to 3"),
        ([-1], 4, "symbols from -1 to -1"),
        ([0], 0, "alphabet of 0 symbols; allowed: 1 to 65,536"),
        ([0], 65_537, "alphabet of 65537"),
    ],
)
def test_what_cannot_be_coded_is_refused(values: list[int], alphabet: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pack(values, alphabet)


def test_unknown_coder() -> None:
    with pytest.raises(UsageError, match="unknown coder 'hufman'; did you mean 'huffman'"):
        pack([0], 2, "hufman")


@pytest.mark.parametrize("name", CODERS)
def test_data_that_end_are_told(name: str) -> None:
    values = waves(300, 16)
    data = CODERS[name].encode(values, 16)
    with pytest.raises(DataError, match="cut off"):
        CODERS[name].decode(data[: len(data) // 2], 0, 300, 16)
    with pytest.raises(DataError, match="cut off"):
        CODERS[name].decode(b"", 0, 300, 16)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 400), st.integers(1, 200))
def test_any_bytes_end_in_symbols_or_one_error(data: bytes, count: int, alphabet: int) -> None:
    try:
        found, end = unpack(data, 0, count, alphabet)
    except DataError:
        return
    assert len(found) == count
    assert not count or 0 <= found.min() <= found.max() < alphabet
    assert end <= len(data)


def test_counts_that_no_bytes_can_hold_are_refused_at_once() -> None:
    """No memory is taken for symbols that the data cannot hold."""
    for name in ("raw", "huffman"):
        with pytest.raises(DataError):
            CODERS[name].decode(huffman.encode(waves(50, 4), 4), 0, 2**40, 4)


def test_huffman_tables_that_are_no_code() -> None:
    crowded = np.packbits([0, 0, 1, 1, 1, 1, 0]).tobytes()  # three codes of one bit
    with pytest.raises(DataError, match="no complete code"):
        huffman.decode(crowded + b"\0\0", 0, 4, 4)
    with pytest.raises(DataError, match="no complete code"):
        huffman.decode(b"\0\0", 0, 4, 4)  # no code at all


def test_runs_that_do_not_fit_are_refused() -> None:
    runs = to_runs(np.array([0, 0, 1, 0, 2], np.int32), 3)
    with pytest.raises(DataError, match="do not fit 4 symbols"):
        from_runs(runs, 3, 4)
    with pytest.raises(DataError, match="do not fit"):
        from_runs(coding.Runs(runs.gaps, runs.values[:1]), 3, 5)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**40, 2**63 - 1])
def test_whole_numbers(value: int) -> None:
    assert read_varint(b"\x00" + varint(value) + b"\x7f", 1) == (value, 1 + len(varint(value)))


def test_whole_numbers_that_are_none() -> None:
    with pytest.raises(DataError, match="cut off"):
        read_varint(b"\x80\x80", 0)
    with pytest.raises(DataError, match="63 bits"):
        read_varint(b"\x80" * 20, 0)
