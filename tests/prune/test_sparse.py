"""Sparse storage: closed forms of the sizes, bytes of those sizes, and back; damaged bytes are told."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prune.networks import Depthwise, fill
from torch import Tensor

from tersa.errors import DataError, UsageError
from tersa.prune.blocks import NM, best
from tersa.prune.forms import FORMS, Reader
from tersa.prune.holding import apply_, full_masks, maskable
from tersa.prune.masks import choose_masks
from tersa.prune.sparse import KINDS, Storage, decode, encode, storage

profile = settings(max_examples=80, derandomize=True, deadline=None)

HEAD = {1: 10, 2: 14, 3: 18, 4: 22}
"""Bytes of the header by dimensions: 6 and 4 for each size."""

FLAT = [(7,), (1, 1), (3, 5), (1, 300), (300, 1)]
DEEP = [(4, 3, 3), (4, 3, 3, 3), (6, 1, 3, 3), (5, 9, 1, 1), (2, 3, 2, 1, 2)]


def sparse(shape: tuple[int, ...], every: int) -> Tensor:
    """A sine with all but every n-th value at zero."""
    flat = torch.sin(0.7 * torch.arange(1.0, math.prod(shape) + 1))
    flat[torch.arange(len(flat)) % every != every // 2] = 0
    return flat.view(shape)


def exact(one: Tensor, other: Tensor) -> bool:
    """Equal in shape, type and every bit."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and one.numpy().tobytes() == other.numpy().tobytes()


def written(tensor: Tensor, form: str) -> bytes:
    """What is written, after checking that it is what `storage` counts and comes back."""
    data = encode(tensor, form)
    pattern = form if ":" in form else "2:4"
    assert len(data) == storage({"w": tensor}, pattern=pattern).layers[0].sizes_bytes[form]
    assert exact(decode(data), tensor)
    return data


# There and back


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [*FLAT, *DEEP])
@pytest.mark.parametrize("every", [1, 2, 7, 10_000])
def test_every_form_takes_every_shape(form: str, shape: tuple[int, ...], every: int) -> None:
    """Dense, half, few, and (where the shape has fewer values) none."""
    written(sparse(shape, every), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_type(form: str, kind: torch.dtype) -> None:
    written((sparse((5, 6), 3) * 100).to(kind), form)


@pytest.mark.parametrize("form", FORMS)
def test_a_scalar_and_one_weight_among_zeros(form: str) -> None:
    written(torch.tensor(3, dtype=torch.int64), form)
    for place in (0, 2, 69_999):
        weight = torch.zeros(2, 35_000)
        weight.view(-1)[place] = -0.25
        written(weight, form)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([*FORMS, "1:2", "2:4", "3:7"]),
    st.data(),
)
@profile
def test_there_and_back(shape: list[int], form: str, data: st.DataObject) -> None:
    """decode(encode(x)) = x, in as many bytes as storage says."""
    count = math.prod(shape)
    drawn = data.draw(
        st.lists(st.just(0.0) | st.floats(width=32, allow_nan=False), min_size=count, max_size=count)
    )
    tensor = torch.tensor(drawn).view(shape)
    tensor[tensor == 0] = 0.0  # no minus zero
    if ":" in form:
        if len(shape) < 2:
            with pytest.raises(UsageError, match="there are no blocks"):
                encode(tensor, form)
            return
        n, m = map(int, form.split(":"))
        tensor = torch.where(best(tensor.abs(), NM(n, m)), tensor, 0.0)
    written(tensor, form)


def test_values_come_back_bit_for_bit() -> None:
    odd = torch.tensor([[math.nan, math.inf, -math.inf, 1e-45, 0.0, -1.0, 3.0, 0.0]])
    for form in FORMS:
        written(odd, form)


def test_minus_zero_survives_only_dense() -> None:
    tensor = torch.tensor([[-0.0, 1.0, -0.0, -2.0]])
    for form in (*FORMS, "2:4"):
        found = decode(encode(tensor, form))
        assert torch.equal(found, tensor)
        assert bool(torch.signbit(found[0, 0])) == (form == "dense")


def test_memory_order_and_gradients_do_not_matter() -> None:
    plain = sparse((4, 3, 3, 3), 5)
    other = plain.to(memory_format=torch.channels_last).requires_grad_()
    for form in FORMS:
        assert encode(other, form) == encode(plain, form)


# Closed forms


def test_sizes_of_a_small_layer() -> None:
    """(3, 5) with 4 values: counted by hand."""
    weight = torch.zeros(3, 5)
    weight[0, 0], weight[0, 4], weight[2, 1], weight[2, 2] = 1.0, 2.0, 3.0, 4.0
    layer = storage({"fc": weight}).layers[0]
    assert (layer.values, layer.kept, layer.dense_bytes) == (15, 4, 60)
    assert layer.sizes_bytes == {
        "dense": 14 + 60,
        "bitmap": 14 + 2 + 16,
        "csr": 14 + 4 + 4 + 4 + 16,
        "relative": 14 + 5 + 2 + 16,  # gaps 0 3 6 0: 3 bits each
        "kernels": 14 + 4 + 4 + 16,
        "2:4": 14 + 2 + 3 + 9 * 4,  # per row a block of 2 slots and a last one of 1: 9 slots, 18 bits
    }
    assert layer.relative_bits == 3
    assert (layer.smallest, layer.smallest_bytes) == ("bitmap", 32)


def test_relative_index_with_fillers() -> None:
    """Deep Compression's figure 2: places 1, 4 and 15 at 3 bits need one filler; 4 bits are cheaper."""
    weight = torch.zeros(16)
    weight[[1, 4, 15]] = torch.tensor([3.4, 0.9, 1.7])
    data = written(weight, "relative")
    assert data[10:15] == bytes([4, 3, 0, 0, 0])  # gaps 1, 2, 10 need 4 bits and no filler
    assert data[15:17] == bytes([1 | 2 << 4, 10])
    by_hand = data[:10] + bytes([3, 4, 0, 0, 0]) + bytes([1 | 2 << 3 | (7 << 6) & 255, 7 >> 2 | 2 << 1])
    by_hand += struct.pack("<4f", 3.4, 0.9, 0.0, 1.7)
    read = FORMS["relative"].read(Reader(by_hand[10:]), (16,), np.dtype("<f4"))
    assert read.tolist() == weight.tolist()
    with pytest.raises(DataError, match="not what tersa writes"):
        decode(by_hand)  # one tensor has one encoding, of the cheapest width


@pytest.mark.parametrize("run", [0, 3, 254, 255, 256, 257, 511, 512, 513, 1500])
def test_runs_of_zeros_around_the_longest_index(run: int) -> None:
    weight = torch.zeros(1, run + 2)
    weight[0, 0], weight[0, run + 1] = 0.5, -0.5
    data = written(weight, "relative")
    bits, entries = data[14], int.from_bytes(data[15:19], "little")
    assert entries == 2 + (run >> bits)
    assert len(data) == 14 + 5 + math.ceil(entries * bits / 8) + 4 * entries


def test_bitmap_bits_are_lowest_first() -> None:
    for place in range(11):
        weight = torch.zeros(11)
        weight[place] = 1.0
        data = encode(weight, "bitmap")
        expected = [0, 0]
        expected[place // 8] = 1 << place % 8
        assert list(data[10:12]) == expected


@pytest.mark.parametrize(
    ("width", "index"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)]
)  # columns of one byte, two, four
def test_csr_takes_the_smallest_index(width: int, index: int) -> None:
    weight = torch.zeros(2, width)
    weight[1, width - 1] = 1.5
    assert len(written(weight, "csr")) == 14 + 4 + 3 + index + 4
    assert len(written(weight[1:], "kernels")) == 14 + 4 + index + 4


def test_csr_pointers_grow_with_what_is_kept() -> None:
    assert len(written(sparse((3, 85), 1), "csr")) == 14 + 4 + 4 * 1 + 255 * 5
    assert len(written(sparse((4, 64), 1), "csr")) == 14 + 4 + 5 * 2 + 256 * 5


def test_kernels_share_an_index() -> None:
    weight = sparse((4, 3, 3, 3), 1)
    weight[torch.ones(4, 3).bool() ^ torch.eye(4, 3).bool()] = 0
    assert len(written(weight, "kernels")) == 22 + 4 + 3 * (1 + 9 * 4)


@pytest.mark.parametrize(
    ("shape", "pattern", "slots", "bits"),
    [
        ((4, 8), "2:4", 16, 2),
        ((4, 8), "1:4", 8, 2),
        ((2, 8, 3, 3), "4:8", 72, 3),
        ((3, 10), "2:4", 18, 2),  # 10 = 4 + 4 + 2
        ((3, 9), "2:4", 15, 2),  # a last block of one weight keeps it
        ((3, 3), "2:4", 6, 2),  # nothing but a short block
        ((6, 1, 3, 3), "2:4", 54, 2),  # depthwise: whole
        ((2, 20), "3:17", 12, 5),
    ],
)
def test_blocks_take_slots(shape: tuple[int, ...], pattern: str, slots: int, bits: int) -> None:
    n, m = map(int, pattern.split(":"))
    weight = sparse(shape, 1)
    weight = torch.where(best(weight.abs(), NM(n, m)), weight, 0.0)
    size = HEAD[len(shape)] + 2 + math.ceil(slots * bits / 8) + slots * 4
    assert len(written(weight, pattern)) == size
    assert len(written(weight * 0 + 0.0, pattern)) == size  # spare slots cost the same


def test_a_tensor_that_is_not_in_blocks_is_told_and_not_counted() -> None:
    weight = sparse((3, 8), 1)
    with pytest.raises(UsageError, match="is not 2:4"):
        encode(weight, "2:4")
    assert "2:4" not in storage({"w": weight}).layers[0].sizes_bytes


# A network


def counted(share: float) -> tuple[Storage, dict[str, Tensor]]:
    model = fill(Depthwise())
    names = maskable(model)
    scores = {name: model.get_parameter(name).detach().abs() for name in names}
    masks = choose_masks(scores, full_masks(model, names), "weight", share=share)
    apply_(model, masks)
    return storage(model.state_dict()), dict(model.state_dict())


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_network_is_the_sum_of_its_bytes(share: float) -> None:
    found, state = counted(share)
    assert [layer.name for layer in found.layers] == list(state)
    for form in FORMS:
        assert found.total_bytes(form) == sum(len(encode(value, form)) for value in state.values())
    assert found.smallest_bytes == sum(
        len(encode(state[layer.name], layer.smallest)) for layer in found.layers
    )
    assert found.dense_bytes == 4 * found.values == 4 * sum(value.numel() for value in state.values())
    assert found.kept == sum(int((value != 0).sum()) for value in state.values())
    assert found.smallest_bytes <= min(found.total_bytes(form) for form in FORMS)


def test_few_weights_take_few_bytes_and_dense_ones_are_not_made_smaller() -> None:
    assert counted(0.9)[0].smallest_bytes < counted(0.5)[0].smallest_bytes < counted(0.0)[0].dense_bytes
    weight = sparse((40, 50), 1)
    assert storage({"w": weight}).layers[0].smallest == "dense"


def test_masks_count_as_zeros() -> None:
    weight = sparse((6, 9), 1)
    mask = torch.arange(54).view(6, 9) % 4 == 0
    assert storage({"w": weight}, {"w": mask}) == storage({"w": torch.where(mask, weight, 0.0)})
    assert bool((weight != 0).all())


def test_biases_have_no_blocks_and_count_dense_there() -> None:
    state = {
        "fc.weight": torch.where(best(sparse((2, 8), 1), NM(2, 4)), 1.0, 0.0),
        "fc.bias": sparse((2,), 1),
    }
    assert storage(state).total_bytes("2:4") == (14 + 2 + 2 + 8 * 4) + (10 + 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: storage({}), "no tensors"),
        (lambda: storage({"w": torch.ones(2, 0)}), r"w: a tensor of shape \(2, 0\) is empty"),
        (lambda: storage({"w": torch.ones(2)}, {"v": torch.ones(2).bool()}), "did you mean|unknown mask"),
        (lambda: storage({"w": torch.ones(2)}, {"w": torch.ones(3).bool()}), "the mask of w"),
        (lambda: storage({"w": torch.ones(2)}, pattern="half"), "is not N:M"),
        (lambda: storage({"w": torch.ones(2)}, pattern="4:2"), "1 <= N < M"),
        (lambda: storage({"w": torch.ones(2)}).total_bytes("2:4"), "unknown form '2:4'"),
        (lambda: encode(torch.ones(2), "crs"), "did you mean 'csr'"),
        (lambda: encode(torch.ones(2, dtype=torch.bfloat16), "csr"), "torch.bfloat16 cannot be stored"),
        (lambda: encode(torch.ones([1] * 9), "csr"), "9 dimensions"),
    ],
)
def test_requests_that_make_no_sense_are_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# Damaged and hostile bytes


WEIGHT = torch.where(best(sparse((6, 10), 1), NM(1, 4)), sparse((6, 10), 1), 0.0)
ALL = (*FORMS, "1:4")


@pytest.mark.parametrize("form", ALL)
def test_truncated_or_longer_bytes_are_told(form: str) -> None:
    data = encode(WEIGHT, form)
    for length in range(len(data)):
        with pytest.raises(DataError) as caught:
            decode(data[:length])
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="1 bytes too many"):
        decode(data + b"\0")


@pytest.mark.parametrize("form", ALL)
def test_any_changed_byte_is_told_or_is_another_tensor(form: str) -> None:
    """Every byte, several values: an error, or a tensor whose encoding these bytes are."""
    data = encode(WEIGHT, form)
    for place in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            try:
                found = decode(bytes(changed), most=10_000)
            except DataError:
                continue
            assert not exact(found, WEIGHT)


@given(st.sampled_from(range(len(ALL))), st.lists(st.integers(0, 12), max_size=3), st.binary(max_size=60))
@profile
def test_noise_is_told_or_is_a_tensor(form: int, shape: list[int], tail: bytes) -> None:
    data = b"tw1" + struct.pack(f"<3B{len(shape)}I", form, 0, len(shape), *shape) + tail
    try:
        found = decode(data)
    except DataError:
        return
    assert found.shape == tuple(shape)
    assert any(encode(found, name) == data for name in FORMS) or form == len(FORMS)


def head(form: int, *shape: int, kind: int = 0) -> bytes:
    return b"tw1" + struct.pack(f"<3B{len(shape)}I", form, kind, len(shape), *shape)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "end too early"),
        (b"PK\3\4abc", "do not begin with tw1"),
        (head(9, 2), "forms 0 to 5"),
        (head(0, 2, kind=99), "types 0 to 7"),
        (b"tw1" + bytes([0, 0, 200]), "up to 8 dimensions"),
        (head(0, 2, 0), "claim the shape"),
        (head(4, *[2**32 - 1] * 8) + bytes(4), "values are allowed"),
        (head(3, 2**28 + 1) + bytes([2]) + bytes(4), "values are allowed"),
        (head(2, 2, 3) + bytes([1, 0, 0, 0]) + bytes([0, 2, 1, 0]) + bytes(4), "row pointers fall"),
        (head(2, 2, 3) + bytes([2, 0, 0, 0]) + bytes([0, 1, 1, 0, 0]) + bytes(8), "do not run from 0 to 2"),
        (head(2, 1, 3) + bytes([1, 0, 0, 0]) + bytes([0, 1, 3]) + bytes(4), "a column is not below 3"),
        (head(2, 1, 3) + bytes([2, 0, 0, 0, 0, 2, 1, 0]) + b"\1\0\0\0" * 2, "not what tersa writes"),
        (head(3, 4) + bytes([1]) + bytes(4), "indices of 1 bits"),
        (head(3, 4) + bytes([2, 2, 0, 0, 0]) + bytes([0b1010]) + bytes(8), "an index is not below 4"),
        (head(3, 4) + bytes([2, 255, 255, 255, 255]), "end too early"),
        (head(4, 3) + bytes([1, 0, 0, 0, 3]) + bytes(4), "index is not below 3"),
        (head(5, 1, 3) + bytes([1, 3, 3]) + bytes(4), "outside of its block"),
        (head(5, 3) + bytes([1, 3, 0]) + bytes(4), "has no blocks"),
        (head(5, 1, 4) + bytes([4, 4, 0]) + bytes(16), "4 of every 4"),
        (head(5, 1, 4) + bytes([0, 0]), "0 of every 0"),
        (head(1, 3) + bytes([0b1001]) + struct.pack("<f", 1.0), "not what tersa writes"),
        (head(1, 3) + bytes([1]) + bytes(4), "not what tersa writes"),
    ],
)  # fmt: skip
def test_hostile_bytes_are_told(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_the_largest_tensor_can_be_set() -> None:
    data = encode(torch.ones(3, 4), "dense")
    with pytest.raises(DataError, match="1 to 11 values"):
        decode(data, most=11)
    assert decode(data, most=12).shape == (3, 4)
