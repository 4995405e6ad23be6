"""Codes as bits: where each bit goes, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersa.errors import UsageError
from tersa.quant.packing import pack, packed_bytes, unpack
from tersa.quant.quantiser import lowest_code, quantise
from tersa.quant.spec import QuantSpec


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7, 8, 11, 16])
def test_bit_order_is_little_endian(bits: int) -> None:
    """One bit of one code, among zeros: bit b of code i is bit (i n + b) mod 8 of byte (i n + b) div 8."""
    count = 7
    for place in range(count * bits):
        codes = torch.zeros(count, dtype=torch.int64)
        codes[place // bits] = 1 << (place % bits)
        expected = torch.zeros(packed_bytes(count, bits), dtype=torch.uint8)
        expected[place // 8] = 1 << (place % 8)
        assert torch.equal(pack(codes, bits), expected)


@given(
    st.integers(1, 16).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 2**n - 1), max_size=40))
    )
)
def test_there_and_back(case: tuple[int, list[int]]) -> None:
    """unpack(pack(codes)) = codes, in ceil(N b / 8) bytes."""
    bits, entries = case
    packed = pack(torch.tensor(entries, dtype=torch.int64), bits)
    assert len(packed) == -(-len(entries) * bits // 8)
    assert unpack(packed, bits, len(entries)).tolist() == entries


def test_a_layer_comes_back_from_its_bits_and_levels() -> None:
    x, spec = torch.sin(torch.arange(1000.0)).view(10, 100), QuantSpec(kind="symmetric", bits=3)
    found = quantise(x, spec)
    packed = pack(found.codes - lowest_code(spec), spec.bits)
    assert packed.numel() == 375
    values = found.levels[unpack(packed, spec.bits, 1000).long()].view(10, 100)
    assert torch.equal(values, found.values)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pack(torch.tensor([-1, 3]), 2), r"lie in -1 \.\. 3; 2 bits hold 0 \.\. 3"),
        (lambda: pack(torch.tensor([4]), 2), "subtract lowest_code"),
        (lambda: pack(torch.tensor([1.0]), 2), "convert them to an integer"),
        (lambda: pack(torch.tensor([1]), 17), "a packed code has 1 to 16"),
        (lambda: unpack(torch.zeros(2, dtype=torch.uint8), 3, 9), "are 4 bytes"),
        (lambda: unpack(torch.zeros(4), 3, 9), "of torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(call, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()
