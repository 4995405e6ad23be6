"""Masks: which weights go, against plain greedy loops; blocks of N:M; regrowth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tersa.errors import Diverged, ModelError, UsageError
from tersa.prune.blocks import NM, best, fits, from_rows, parse_nm, parts, rows, whole
from tersa.prune.masks import choose_masks, gone, parse_granularity, regrow
from tersa.prune.normalise import l2
from tersa.prune.schedules import cubic

profile = settings(max_examples=60, derandomize=True, deadline=None)

ROUNDING = 1e-12
"""A few float64 operations on shares of at most 1."""

SHAPES = {"conv": (4, 3, 3, 3), "point": (5, 4, 1, 1), "deep": (6, 1, 3, 3), "fc": (3, 7)}

TOTAL = 4 * 3 * 9 + 5 * 4 + 6 * 9 + 3 * 7


def sines(shapes: dict[str, tuple[int, ...]], pace: float = 0.7) -> dict[str, Tensor]:
    """Distinct, deterministic values, one tensor per name."""
    return {
        name: torch.sin(pace * torch.arange(math.prod(shape)) + 0.3 * index).view(shape)
        for index, (name, shape) in enumerate(shapes.items())
    }


def full(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()}


def alive(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def greedy(
    scores: dict[str, Tensor], masks: dict[str, Tensor], count: int, least: int, kernels: bool
) -> dict[str, Tensor]:
    """The readable twin: again and again the lowest unit of all layers that may still lose one."""
    left = {name: mask.clone() for name, mask in masks.items()}

    def units(name: str) -> list[tuple[int, ...]]:
        shape = left[name].shape[:2] if kernels else left[name].shape
        places = [tuple(p) for p in torch.ones(shape).nonzero().tolist()]
        return [place for place in places if left[name][place].any()]

    for _ in range(count):
        lowest = None
        for name in left:
            mine = units(name)
            for place in mine if len(mine) > least else []:
                score = float((scores[name][place].double() * left[name][place]).sum())
                if lowest is None or score < lowest[0]:
                    lowest = (score, name, place)
        if lowest is None:
            break
        left[lowest[1]][lowest[2]] = False
    return left


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Granularity


@pytest.mark.parametrize(
    ("text", "expected"),
    [("map", "map"), ("kernel", "kernel"), (" Weight ", "weight"), ("2:4", NM(2, 4)), ("1:16", NM(1, 16))],
)
def test_granularities_are_read(text: str, expected: object) -> None:
    assert parse_granularity(text) == expected
    assert str(parse_granularity(str(expected))) == str(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kernal", "did you mean 'kernel'"),
        ("2;4", "unknown granularity"),
        ("4:4", "1 <= N < M"),
        ("0:4", "1 <= N < M"),
        ("1:256", "M <= 255"),
        ("٢:٤", "unknown granularity"),
    ],
)
def test_what_is_no_granularity_is_told(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_granularity(text)


def test_a_name_is_no_pattern() -> None:
    assert parse_nm("kernel") is None


# Choosing


@pytest.mark.parametrize("granularity", ["weight", "kernel"])
@pytest.mark.parametrize(("count", "least"), [(0, 1), (1, 1), (9, 1), (30, 2), (10_000, 3)])
def test_choice_is_the_greedy_one(granularity: str, count: int, least: int) -> None:
    scores = sines(SHAPES)
    found = choose_masks(scores, full(scores), parse_granularity(granularity), count=count, least=least)
    assert same(found, greedy(scores, full(scores), count, least, granularity == "kernel"))


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=7), min_size=1, max_size=4),
    st.integers(0, 20),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
@profile
def test_choice_is_greedy_with_ties_and_dead_weights(
    layers: list[list[int]], count: int, least: int, draw: random.Random
) -> None:
    """Equal scores, layers of one weight, weights that are dead already."""
    scores = {str(i): torch.tensor([layer], dtype=torch.float32) for i, layer in enumerate(layers)}
    masks = {name: torch.tensor([[draw.random() < 0.7 for _ in s[0]]]) for name, s in scores.items()}
    for mask in masks.values():
        mask[0, 0] = True
    found = choose_masks(scores, masks, "weight", count=count, least=least)
    assert same(found, greedy(scores, masks, count, least, kernels=False))


def test_a_kernel_that_is_partly_dead_counts_its_living_weights() -> None:
    scores = {"c": torch.tensor([[[[1.0, 5.0]], [[2.0, 2.0]], [[9.0, 9.0]]]])}
    masks = {"c": torch.tensor([[[[True, False]], [[True, True]], [[True, True]]]])}
    found = choose_masks(scores, masks, "kernel", count=1)["c"]
    assert found.flatten().tolist() == [False, False, True, True, True, True]


def test_kernels_of_size_one_are_weights() -> None:
    scores = sines({"point": (5, 4, 1, 1), "fc": (3, 7)})
    one, other = (choose_masks(scores, full(scores), g, count=11) for g in ("kernel", "weight"))
    assert same(one, other)


@pytest.mark.parametrize("granularity", ["weight", "kernel"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.777])
def test_a_share_is_reached_with_the_fewest_removals(granularity: str, share: float) -> None:
    scores = sines(SHAPES)
    masks = full(scores)
    found = choose_masks(scores, masks, parse_granularity(granularity), share=share)
    assert gone(found) >= share - ROUNDING
    counted = [
        alive(choose_masks(scores, masks, parse_granularity(granularity), count=c)) for c in range(300)
    ]
    total = alive(masks)
    assert alive(found) == max(left for left in counted if 1 - left / total >= share - ROUNDING)


def test_a_share_of_a_round_number_is_not_an_ulp_more() -> None:
    scores = {"fc": torch.arange(1000.0).view(10, 100)}
    for percent in range(100):
        found = choose_masks(scores, full(scores), "weight", share=percent / 100)
        assert alive(found) == 1000 - 10 * percent


def test_masks_only_shrink_along_a_schedule() -> None:
    masks = full(sines(SHAPES))
    for step in range(1, 9):
        scores = sines(SHAPES, pace=0.2 * step)
        after = choose_masks(scores, masks, "weight", share=cubic(step, 8, 0.9))
        assert all(bool((masks[name] | ~after[name]).all()) for name in masks)
        masks = after
    assert alive(masks) == TOTAL - math.ceil(0.9 * TOTAL)


def test_a_share_that_is_gone_already_removes_nothing() -> None:
    scores = sines(SHAPES)
    masks = choose_masks(scores, full(scores), "weight", share=0.5)
    assert same(choose_masks(scores, masks, "weight", share=0.4), masks)


def test_normalisation_decides_between_layers() -> None:
    """A layer with small scores is emptied first without l2, and not with it."""
    scores = {"small": torch.tensor([[1e-3, 3e-3, 2e-3]]), "large": torch.tensor([[1.0, 30.0, 20.0]])}
    plain = choose_masks(scores, full(scores), "weight", count=2)
    fair = choose_masks(scores, full(scores), "weight", count=2, how=l2)
    assert [alive({"": plain[name]}) for name in scores] == [1, 3]
    assert [fair[name].tolist() for name in scores] == [[[False, True, True]], [[False, True, True]]]


def test_inputs_are_left_alone_and_order_of_memory_does_not_matter() -> None:
    scores = sines(SHAPES)
    masks = full(scores)
    strided = {n: s.flip(0).flip(0).transpose(0, 1).contiguous().transpose(0, 1) for n, s in scores.items()}
    odd = {n: m.transpose(0, 1).contiguous().transpose(0, 1) for n, m in masks.items()}
    for granularity in ("weight", "kernel"):
        found = choose_masks(strided, odd, granularity, count=20)
        assert same(found, choose_masks(scores, masks, granularity, count=20))
    assert all(bool(mask.all()) for mask in (*masks.values(), *odd.values()))


EMPTY = {"e": torch.ones(0, 2)}
GOOD = {"fc": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
HALF = {"fc": torch.tensor([[True, False], [True, True]])}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: choose_masks(GOOD, HALF, "weight"), "one of count and share"),
        (lambda: choose_masks(GOOD, HALF, "weight", count=1, share=0.1), "one of count and share"),
        (lambda: choose_masks(GOOD, HALF, "weight", count=-1), "count is -1"),
        (lambda: choose_masks(GOOD, HALF, "weight", share=1.0), "share is 1.0"),
        (lambda: choose_masks(GOOD, HALF, "weight", share=math.nan), "share is nan"),
        (lambda: choose_masks(GOOD, HALF, "weight", count=1, least=0), "least is 0"),
        (lambda: choose_masks(GOOD, HALF, "map", count=1), "surgery"),
        (lambda: choose_masks(GOOD, HALF, NM(1, 2), count=1), "neither count nor share"),
        (lambda: choose_masks({}, HALF, "weight", count=1), "a mask and no scores"),
        (lambda: choose_masks(GOOD, {}, "weight", count=1), "no masks were given"),
        (lambda: choose_masks({"fc": torch.ones(4)}, HALF, "weight", count=1), "one per weight"),
        (lambda: choose_masks(GOOD, {"fc": torch.ones(2, 2)}, "weight", count=1), "must be bool"),
        (lambda: choose_masks(EMPTY, {"e": EMPTY["e"].bool()}, "weight", count=1), "not empty"),
        (lambda: regrow(HALF, GOOD), "one of count and share"),
        (lambda: regrow(HALF, GOOD, count=1, share=0.1), "one of count and share"),
        (lambda: regrow(HALF, GOOD, count=-1), "count is -1"),
        (lambda: regrow(HALF, GOOD, share=1.5), "of the dead"),
        (lambda: regrow(HALF, GOOD, NM(2, 4), count=1), "does not regrow"),
        (lambda: regrow(HALF, GOOD, "map", count=1), "surgery"),
        (lambda: regrow(HALF, {}, count=1), "a mask and no gradients"),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense_are_told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_share_out_of_reach_says_what_is_in_reach() -> None:
    with pytest.raises(ModelError, match=r"0\.9 cannot be removed: 0\.75 is the most"):
        choose_masks(GOOD, HALF, "weight", share=0.9)


def test_an_empty_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="fc has no weight left"):
        choose_masks(GOOD, {"fc": torch.zeros(2, 2, dtype=torch.bool)}, "weight", count=1)


def test_all_but_one_can_go() -> None:
    found = choose_masks(GOOD, HALF, "weight", share=0.75)
    assert found["fc"].tolist() == [[False, False], [False, True]]
    assert same(choose_masks(GOOD, found, "kernel", count=5), found)


@pytest.mark.parametrize("granularity", ["weight", "kernel", "2:4"])
def test_scores_that_are_not_finite_stop_it_where_they_count(granularity: str) -> None:
    scores = {"fc": torch.tensor([[1.0, math.nan, 2.0]])}
    living = {"fc": torch.tensor([[True, True, True]])}
    count = None if ":" in granularity else 1
    with pytest.raises(Diverged, match="NaN"):
        choose_masks(scores, living, parse_granularity(granularity), count=count)
    dead = {"fc": torch.tensor([[True, False, True]])}
    assert alive(choose_masks(scores, dead, "weight", count=1)) == 1


# N of M


@given(
    st.integers(1, 3), st.integers(1, 11), st.integers(1, 2), st.integers(1, 5), st.integers(1, 4), st.data()
)
@profile
def test_blocks_keep_the_best(
    out: int, width: int, area: int, n: int, extra: int, data: st.DataObject
) -> None:
    """Per row and block: min(N, length) kept, none below one that goes; the last may be short."""
    pattern = NM(n, n + extra)
    count = out * width * area
    drawn = data.draw(st.lists(st.integers(-4, 4), min_size=count, max_size=count))
    scores = torch.tensor(drawn, dtype=torch.float32).view(out, width, area)
    kept = best(scores, pattern)
    for o in range(out):
        for a in range(area):
            for start in range(0, width, pattern.m):
                block = scores[o, start : start + pattern.m, a]
                chosen = kept[o, start : start + pattern.m, a]
                assert int(chosen.sum()) == min(n, len(block))
                if not bool(chosen.all()):
                    assert block[chosen].min() >= block[~chosen].max()
    assert fits(torch.where(kept, 1.0, 0.0), pattern)


def test_rows_run_along_inputs_and_come_back() -> None:
    weight = torch.arange(2.0 * 3 * 2 * 2).view(2, 3, 2, 2)
    matrix = rows(weight)
    assert matrix[0].tolist() == weight[0, :, 0, 0].tolist()
    assert matrix[-1].tolist() == weight[1, :, 1, 1].tolist()
    assert torch.equal(from_rows(matrix, weight.shape), weight)


def test_parts_cut_the_last_block_short() -> None:
    found = [(tuple(block.shape), keep) for block, keep in parts(torch.zeros(3, 10), NM(2, 4))]
    assert found == [((6, 4), 2), ((3, 2), 2)]
    assert [keep for _, keep in parts(torch.zeros(3, 3), NM(2, 4))] == [2]


def test_two_of_four_masks_halve_what_divides() -> None:
    scores = sines({"fc": (5, 8), "conv": (4, 12, 3, 3), "odd": (2, 9)})
    masks = choose_masks(scores, full(scores), NM(2, 4))
    assert [int(masks[n].sum()) for n in masks] == [20, 216, 10]
    assert all(fits(scores[n] * masks[n], NM(2, 4)) for n in masks)
    assert not fits(scores["fc"], NM(2, 4))
    assert not fits(torch.zeros(5), NM(2, 4))


def test_blocks_prefer_the_living_and_only_shrink() -> None:
    scores = {"fc": torch.tensor([[9.0, 8.0, 1.0, 2.0]])}
    masks = {"fc": torch.tensor([[False, True, True, False]])}
    assert choose_masks(scores, masks, NM(2, 4))["fc"].tolist() == [[False, True, True, False]]
    assert choose_masks(scores, masks, NM(1, 4))["fc"].tolist() == [[False, True, False, False]]


def test_depthwise_layers_are_left_whole_and_named() -> None:
    scores = sines(SHAPES)
    masks = choose_masks(scores, full(scores), NM(2, 4))
    assert whole(scores, NM(2, 4)) == ("deep",)
    assert bool(masks["deep"].all())
    alone = {"deep": scores["deep"]}
    with pytest.raises(ModelError, match="2:4 removes nothing"):
        choose_masks(alone, full(alone), NM(2, 4))


# Regrowth


def test_the_strongest_gradients_come_back() -> None:
    gradients = {"a": torch.tensor([[0.1, -5.0, 9.0]]), "b": torch.tensor([[2.0, -3.0, 1.0]])}
    masks = {"a": torch.tensor([[False, False, True]]), "b": torch.tensor([[False, False, False]])}
    found = regrow(masks, gradients, count=2)
    assert [found[n].tolist() for n in found] == [[[False, True, True]], [[False, True, False]]]
    assert same(regrow(masks, gradients, share=0.4), found)
    assert alive(regrow(masks, gradients, count=99)) == 6
    assert same(regrow(masks, gradients, count=0), masks)


def test_whole_kernels_come_back() -> None:
    gradients = {"c": torch.tensor([[[[1.0, -1.0]], [[3.0, 0.0]], [[9.0, 9.0]]]])}
    masks = {"c": torch.tensor([[[[False, False]], [[False, False]], [[True, False]]]])}
    assert regrow(masks, gradients, "kernel", count=1)["c"].flatten().tolist() == [
        False, False, True, True, True, False,
    ]  # fmt: skip


def test_normalised_regrowth() -> None:
    gradients = {"a": torch.tensor([[10.0, 10.0]]), "b": torch.tensor([[1.0, 1e-3]])}
    masks = {name: torch.zeros(1, 2, dtype=torch.bool) for name in gradients}
    assert regrow(masks, gradients, count=1, how=l2)["b"].tolist() == [[True, False]]


def test_a_gradient_that_is_not_finite_stops_regrowth() -> None:
    with pytest.raises(Diverged):
        regrow(HALF, {"fc": torch.full((2, 2), math.inf)}, count=1)


@given(st.floats(0, 0.98), st.integers(0, 40))
@profile
def test_pruning_and_regrowing_are_inverse_counts(share: float, count: int) -> None:
    scores = sines(SHAPES)
    masks = choose_masks(scores, full(scores), "weight", share=min(share, 0.97))
    more = regrow(masks, sines(SHAPES, 1.3), count=count)
    assert alive(more) == min(alive(masks) + count, TOTAL)
    assert all(bool((more[name] | ~masks[name]).all()) for name in masks)
