"""Where bits, thresholds and classes of places lie."""

import numpy as np
import pytest

from tersa.binary.layout import (
    aligned,
    bounds,
    by_lanes,
    bytes_layout,
    limits,
    nibbles_layout,
    offsets,
    shorts_layout,
    sides,
    words_layout,
)
from tersa.binary.program import Weights
from tersa.binary.thresholds import ALWAYS, NEVER
from tersa.errors import ModelError


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (33, 1, 2, 65), (39, 2, 2, 69), (5, 0, 1, 63)])
def test_one_weight_is_one_bit_of_one_lane(place: tuple[int, int, int, int]) -> None:
    integers = np.full((40, 3, 3, 70), -1)
    integers[place] = 1
    laid = words_layout(Weights.of(integers, 1))
    o, y, x, c = place
    assert laid.array.shape == (2, 1, 3, 6, 1, 32)
    assert np.bitwise_count(laid.array).sum() == 1
    assert int(laid.array[o // 32, 0, y, 2 * x + c // 64, 0, o % 32]) == 1 << c % 64


def test_ternary_weights_are_a_sign_and_a_mask() -> None:
    integers = np.zeros((1, 1, 1, 3), np.int64)
    integers[0, 0, 0] = (1, 0, -1)
    laid = words_layout(Weights.of(integers, 0))
    assert laid.array[0, 0, 0, 0, :, 0].tolist() == [0b001, 0b101]


@pytest.mark.parametrize(
    "place", [(0, 0, 0, 0), (33, 1, 2, 65), (39, 2, 2, 69), (5, 0, 1, 63), (16, 0, 0, 6)]
)
def test_four_weights_are_one_byte_of_one_lane(place: tuple[int, int, int, int]) -> None:
    integers = np.full((40, 3, 3, 70), -1)
    integers[place] = 1
    laid = nibbles_layout(Weights.of(integers, 1))
    o, y, x, c = place
    assert laid.array.shape == (2, 3 * 96 * 32)
    assert (laid.run, laid.plane_bytes) == (96, 3 * 96 * 32)
    lane = 2 * (o % 16) + (o % 32) // 16
    together = laid.array.reshape(1, 3, 6 * 16, 2, 32)  # both groups are one span
    assert together[0, y, 32 * x + c // 4, o // 32, lane] == 1 << c % 4
    assert np.bitwise_count(laid.array).sum() == 1


def test_groups_that_are_counted_together_lie_side_by_side() -> None:
    """Seven groups: four, two and one."""
    integers = 2 * np.random.default_rng(0).integers(0, 2, (200, 1, 3, 64)) - 1
    laid = nibbles_layout(Weights.of(integers, 1)).array
    first = 0
    for span in (4, 2, 1):
        together = laid[first : first + span].reshape(48, span, 32)
        for group in range(span):
            o = 32 * (first + group)
            bits = (integers[o : o + 32, 0].reshape(-1, 48, 4) > 0) @ (1 << np.arange(4))
            found = together[:, group, :].reshape(48, 16, 2).swapaxes(1, 2).reshape(48, 32)
            assert np.array_equal(found[:, : len(bits)], bits.T)
            assert not found[:, len(bits) :].any()
        first += span


def test_short_weights_lie_in_pairs() -> None:
    integers = 2 * np.arange(27).reshape(1, 3, 3, 3) - 27
    integers[0, 0, 0, 0] = -255
    laid = shorts_layout(Weights.of(integers, 8))
    assert laid.array.shape == (1, 3, 5, 32, 2)
    assert laid.array[0, 1, :, 0].reshape(-1).tolist() == [*integers[0, 1].reshape(-1).tolist(), 0]
    assert not laid.array[0, :, :, 1:].any()


def test_lanes_and_alignment() -> None:
    assert by_lanes(np.arange(33)).tolist()[1] == [32, *[0] * 31]
    for size in (1, 7, 64):
        assert aligned((size,), np.int16).ctypes.data % 64 == 0


def test_classes_of_places_with_a_stride() -> None:
    assert sides(3, 5, 2, 2, 5) == ([(2, 5), (0, 5), (0, 3)], [0, 1, 2])
    assert sides(2, 3, 1, 0, 4) == ([(0, 3)], [0, 0])


def test_offsets_count_what_lies_outside() -> None:
    """A corner of a 3x3 kernel of ones has 5 of 9 taps outside, which hold -1 in zero bits."""
    ones = Weights.of(np.ones((1, 3, 3, 2), np.int64), 1)
    ranges, _ = sides(3, 3, 1, 1)
    found = offsets(ones, 1, ranges, ranges)[:, 0].reshape(3, 3)
    assert found.tolist() == [[28, 24, 28], [24, 18, 24], [28, 24, 28]]


def test_offsets_leave_out_rows_that_are_skipped() -> None:
    """Only columns outside have been counted, within the rows inside."""
    integers = 2 * np.random.default_rng(0).integers(0, 2, (5, 3, 3, 2)) - 1
    ranges, _ = sides(3, 3, 1, 1)
    found = offsets(Weights.of(integers, 1), 1, ranges, ranges, skipped=True)
    for row, (top, bottom) in enumerate(ranges):
        for column, (left, right) in enumerate(ranges):
            rows = integers[:, top:bottom]
            outside = rows.sum((1, 2, 3)) - rows[:, :, left:right].sum((1, 2, 3))
            assert found[3 * row + column].tolist() == (rows[0].size + outside).tolist()


def test_offsets_of_bytes_take_the_middle_of_the_codes_off() -> None:
    """S = 2 A - 255 sum of the weights inside: 18 ones, 8 of them inside at a corner."""
    ones = Weights.of(np.ones((1, 3, 3, 2), np.int64), 1)
    ranges, _ = sides(3, 3, 1, 1)
    found = offsets(ones, 8, ranges, ranges, plain=True)[:, 0].reshape(3, 3)
    assert (found // -255).tolist() == [[8, 12, 8], [12, 18, 12], [8, 12, 8]]


def test_four_short_weights_are_one_step() -> None:
    integers = np.arange(-13, 14).reshape(1, 3, 3, 3)
    laid = bytes_layout(Weights.of(2 * integers + 1, 5))
    assert laid.array.shape == (1, 3, 3, 32, 4)
    expected = [*(2 * integers + 1)[0, 1].reshape(-1).tolist(), 0, 0, 0]
    assert laid.array[0, 1, :, 0].reshape(-1).tolist() == expected
    assert not laid.array[0, :, :, 1:].any()


def test_limits_are_bounds_of_counts() -> None:
    found = np.array([-5, 0, 1, -70000, NEVER, ALWAYS], np.int32)
    bound = np.full((1, 1, 1, 32), NEVER, np.int32)
    bound[0, 0, 0, :6] = found
    limit = limits(bound)[0, 0]
    for count in (0, 4, 5, 6, 65534):
        assert (count < limit[:6]).tolist() == (-count >= found.astype(np.int64)).tolist()
    assert not limit[6:].any()


def test_bounds_round_up_and_keep_the_constant_ones() -> None:
    table = np.array([[3], [4], [NEVER], [ALWAYS], [NEVER - 1]], np.int32)
    found = bounds(table, np.full((1, 5), -10), 2)[0, 0, 0]
    assert found[:5].tolist() == [7, 7, NEVER, ALWAYS, (NEVER - 1 + 10 + 1) // 2]
    assert (found[5:] == NEVER).all()


def test_what_would_not_fit_is_refused_before_it_is_made() -> None:
    weights = Weights((1, 1 << 13, 1 << 13, 1), 1, np.zeros((1, 1 << 23), np.uint8))
    with pytest.raises(ModelError, match="bytes unpacked; at most"):
        shorts_layout(weights)
    with pytest.raises(ModelError, match="bytes unpacked; at most"):
        bounds(np.zeros((4096, 255), np.int32), np.zeros((961, 4096), np.int64), 2)
