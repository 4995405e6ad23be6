"""Words and bits: the order of bits by one-hot vectors, and dot products against integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.binary.bitpack import codes, dot, largest, levels, pack, pack_flat, unpack, unpack_flat, words_for


@pytest.mark.parametrize("place", [0, 1, 31, 32, 63, 64, 100, 127, 128])
def test_value_j_is_bit_j_mod_64_of_word_j_div_64(place: int) -> None:
    hot = np.zeros(129, np.uint8)
    hot[place] = 1
    words = pack(hot, 1)[0]
    assert words.shape == (3,)
    assert [int(word) for word in words] == [1 << place % 64 if place // 64 == i else 0 for i in range(3)]


@pytest.mark.parametrize("place", [0, 7, 8, 20])
def test_flat_planes_have_the_first_value_in_the_lowest_bit(place: int) -> None:
    hot = np.zeros(21, np.uint8)
    hot[place] = 2
    planes = pack_flat(hot, 2)
    assert planes.shape == (2, 3)
    assert not planes[0].any()
    assert planes[1].tolist() == [1 << place % 8 if place // 8 == i else 0 for i in range(3)]


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_level_of_every_width_comes_back(bits: int) -> None:
    every = np.arange(2**bits)
    assert levels(every, bits).tolist() == list(range(-largest(bits), largest(bits) + 1, 2))
    assert np.array_equal(codes(levels(every, bits), bits), every)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 4), st.integers(0, 9))
def test_packing_is_undone_and_leaves_spare_bits_zero(count: int, bits: int, seed: int) -> None:
    q = np.random.default_rng(seed).integers(0, 2**bits, (2, count)).astype(np.uint8)
    words = pack(q, bits)
    assert words.shape == (bits, 2, words_for(count))
    assert np.array_equal(unpack(words, count), q)
    assert np.array_equal(unpack_flat(pack_flat(q, bits), q.shape), q)
    assert np.bitwise_count(words).sum() == sum(int(v).bit_count() for v in q.reshape(-1))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 9))
def test_dot_products_of_signs(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = (2 * rng.integers(0, 2, (3, count)) - 1 for _ in range(2))
    found = dot(pack(codes(x, 1), 1)[0], pack(codes(w, 1), 1)[0], count)
    assert np.array_equal(found, (x * w).sum(1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 130), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_dot_products_by_bit_planes(count: int, k: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = (levels(rng.integers(0, 2**bits, count), bits).astype(np.int64) for bits in (k, m))
    xs, ws = pack(codes(x, k), k), pack(codes(w, m), m)
    planes = [[int(dot(xs[i], ws[j], count)) << (i + j) for j in range(m)] for i in range(k)]
    assert sum(map(sum, planes)) == int(x @ w)
