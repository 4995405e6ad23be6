"""How many units go, which ones may, and which are next."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.prune.networks import Chain, Dense, Grouped, Odd, Residual, fill
from torch import nn

from tersa.errors import UsageError
from tersa.prune.groups import Groups, find_groups
from tersa.prune.protocol import Stride, choose, layer_widths, regular, stride, within
from tersa.prune.surgery import after, remove_

SHAPE = (3, 8, 8)


def groups_of(kind: type[nn.Module], keep: tuple[str, ...] = ()) -> Groups:
    return find_groups(fill(kind()), SHAPE, keep)


# How many


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", Stride(1, "units")),
        (" 12 ", Stride(12, "units")),
        ("2%", Stride(2, "start")),
        ("0.5 %", Stride(0.5, "start")),
        ("12%left", Stride(12, "left")),
        (".5% left", Stride(0.5, "left")),
    ],
)
def test_steps_are_read(text: str, expected: Stride) -> None:
    assert stride(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "0", "0%", "100%", "1.5", "-1", "12left", "left", "% left", "2%start", "1e2", "two", "2%%", "nan"],
)
def test_what_is_no_step_is_told_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood") as caught:
        stride(text)
    assert f"'{text}'" in str(caught.value)
    assert all(form in str(caught.value) for form in ("(1)", "(2%)", "(12%left)"))


@pytest.mark.parametrize(
    ("text", "start", "left", "expected"),
    [
        ("3", 1000, 10, 3),
        ("2%", 1120, 500, 22),
        ("2%", 1120, 5, 22),
        ("2%left", 1120, 500, 10),
        ("2%left", 1120, 5, 1),
        ("1%", 20, 20, 1),
    ],
)
def test_units_of_a_step(text: str, start: int, left: int, expected: int) -> None:
    assert stride(text).count(start, left) == expected


# Which ones may


def test_a_scope_is_names_and_prefixes() -> None:
    groups = groups_of(Chain)
    sizes = {group.name: len(group.units) for group in groups.groups}
    assert sizes == {"conv1": 6, "fc1": 7}
    assert within(groups, ["conv1"]).tolist() == [True] * 6 + [False] * 7
    assert within(groups, ["f*"]).tolist() == [False] * 6 + [True] * 7
    assert within(groups, ["fc1", "conv*"]).all()


@pytest.mark.parametrize("scope", [[], ["network"], ["global"]])
def test_no_scope_is_the_whole_network(scope: list[str]) -> None:
    assert within(groups_of(Chain), scope).tolist() == [True] * 13


def test_a_layer_brings_those_that_it_is_tied_to() -> None:
    groups = groups_of(Residual)
    assert [group.name for group in groups.groups] == ["stem+outer", "inner"]
    assert within(groups, ["outer"]).tolist() == within(groups, ["stem"]).tolist() == [True] * 6 + [False] * 5


def test_a_scope_is_of_what_is_left() -> None:
    groups = groups_of(Chain)
    left = after(groups, groups.groups[0].units[:4])
    assert within(left, ["conv1"]).tolist() == [True] * 2 + [False] * 7


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (["conv2"], "unknown prunable layer 'conv2'; did you mean 'conv1'\\? known: conv1, fc1"),
        (["conv1", "head*"], "unknown prunable layer 'head\\*'"),
        (["fc2"], "the channels of layer 'fc2' stay: it gives the output"),
    ],
)
def test_a_name_that_matches_nothing_is_told(scope: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        within(groups_of(Chain), scope)


def test_a_layer_without_a_rule_says_why_it_stays() -> None:
    with pytest.raises(UsageError, match=r"the channels of layer 'a' stay: .*softmax"):
        within(groups_of(Odd), ["a"])


def test_a_layer_that_was_kept_says_so() -> None:
    with pytest.raises(UsageError, match="the channels of layer 'fc1' stay: asked to stay"):
        within(groups_of(Chain, keep=("fc1",)), ["fc1"])


# Which are next


def scores_of(groups: Groups) -> torch.Tensor:
    return torch.sin(1.3 * torch.arange(len(groups.units)))


def test_the_lowest_go_first_and_are_given_in_order() -> None:
    groups = groups_of(Chain)
    scores = scores_of(groups)
    for count in range(6):  # no layer could be emptied yet
        found = choose(scores, groups, count=count)
        lowest = groups.units[torch.argsort(scores)[:count]]
        assert found.tolist() == sorted(lowest.tolist())


def test_of_equal_scores_the_first_go() -> None:
    groups = groups_of(Chain)
    assert choose(torch.zeros(13), groups, count=3).tolist() == groups.units[:3].tolist()


@pytest.mark.parametrize("least", [1, 2, 5])
def test_every_group_keeps_its_least(least: int) -> None:
    groups = groups_of(Chain)
    found = choose(scores_of(groups), groups, count=100, least=least)
    left = after(groups, found)
    assert list(left.widths().values()) == [least, least]


def test_only_what_is_allowed_goes() -> None:
    groups = groups_of(Chain)
    allowed = within(groups, ["conv1"])
    found = choose(scores_of(groups), groups, count=100, allowed=allowed)
    assert len(found) == 5
    assert set(found.tolist()) < set(groups.groups[0].units.tolist())
    assert not len(choose(scores_of(groups), groups, count=3, allowed=torch.zeros(13, dtype=torch.bool)))


def test_units_that_must_stay_count_for_the_least() -> None:
    """A group may lose all that is allowed where another unit of it stays."""
    groups = groups_of(Chain)
    allowed = torch.arange(13) < 5
    assert choose(scores_of(groups), groups, count=100, allowed=allowed).tolist() == groups.units[:5].tolist()


@pytest.mark.parametrize("count", [1, 3, 6])
def test_no_other_choice_is_less_important(count: int) -> None:
    """By trying them all: the sum of scores is the smallest that leaves every group a unit."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = find_groups(net, (3,))
    scores = torch.cos(2.1 * torch.arange(8.0))
    place = {int(unit): index for index, unit in enumerate(groups.units)}
    first, second = (set(group.units.tolist()) for group in groups.groups)
    sums = [
        sum(float(scores[place[unit]]) for unit in taken)
        for taken in itertools.combinations(place, count)
        if not first <= set(taken) and not second <= set(taken)
    ]
    found = choose(scores, groups, count=count)
    assert sum(float(scores[place[int(unit)]]) for unit in found) == pytest.approx(min(sums))


def widths_after(groups: Groups, units: torch.Tensor) -> list[int]:
    return [len(group.units) - int(torch.isin(group.units, units).sum()) for group in groups.groups]


def two_layers(first: int, second: int) -> Groups:
    net = nn.Sequential(
        nn.Linear(4, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 2)
    )
    return find_groups(net, (4,))


def test_blocks_leave_multiples_and_the_lowest_mean_goes_first() -> None:
    groups = two_layers(7, 8)
    first = torch.tensor([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0])  # 3 above a multiple: 1, 2, 3 go together
    second = torch.tensor([1.5, 1.5, 2.5, 2.5, 9.0, 9.0, 9.0, 9.0])
    scores = torch.cat([first, second])
    one = choose(scores, groups, count=1, round_to=4)
    assert one.tolist() == groups.units[[1, 3, 5]].tolist(), "a whole block, of mean 2"
    assert choose(scores, groups, count=6, round_to=4).tolist() == one.tolist(), "the next block has 4"
    both = choose(scores, groups, count=7, round_to=4)
    assert widths_after(groups, both) == [4, 4]
    assert both.tolist() == groups.units[[1, 3, 5, 7, 8, 9, 10]].tolist()


@pytest.mark.parametrize("round_to", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("count", [1, 5, 11, 99])
def test_what_loses_units_keeps_a_multiple(round_to: int, count: int) -> None:
    groups = two_layers(13, 8)
    scores = torch.sin(torch.arange(21.0) * 2.7)
    units = choose(scores, groups, count=count, round_to=round_to)
    for group, width in zip(groups.groups, widths_after(groups, units), strict=True):
        assert width == len(group.units) or width % round_to == 0
        assert width >= min(round_to, len(group.units))
    if count == 99:
        assert widths_after(groups, units) == [min(13, round_to), min(8, round_to)]


def test_a_block_that_is_too_large_is_not_passed_over_for_a_worse_one() -> None:
    groups = two_layers(16, 8)
    good, worse = [1.0] * 8 + [1.1] * 8, [9.0] * 4 + [10.0] * 4
    scores = torch.tensor(good + worse)
    assert widths_after(groups, choose(scores, groups, count=12, round_to=8)) == [8, 8]
    assert widths_after(groups, choose(scores, groups, count=12, round_to=4)) == [4, 8]


@pytest.mark.parametrize("width", range(9, 16))
def test_of_equal_scores_the_width_is_a_multiple_first(width: int) -> None:
    """A mean of eight equal numbers may be rounded below that of five."""
    groups = two_layers(width, 8)
    for seed in range(20):
        score = torch.rand((), generator=torch.Generator().manual_seed(seed))
        units = choose(score.repeat(width + 8), groups, count=1, round_to=8)
        assert widths_after(groups, units) == [8, 8]


def test_groups_whose_units_are_not_their_layers_channels_keep_them() -> None:
    for kind in (Dense, Grouped):
        groups = groups_of(kind)
        odd = [each for each in groups.groups if not regular(groups, each)]
        assert odd, kind
        units = choose(torch.zeros(len(groups.units)), groups, count=99, round_to=2)
        assert not any(bool(torch.isin(each.units, units).any()) for each in odd)
    assert all(regular(groups_of(Residual), each) for each in groups_of(Residual).groups)


def test_units_that_must_stay_do_not_fill_a_block() -> None:
    groups = two_layers(8, 8)
    allowed = torch.ones(16, dtype=torch.bool)
    allowed[:5] = False  # three of the first layer are too few for four
    units = choose(torch.arange(16.0), groups, count=99, allowed=allowed, round_to=4)
    assert widths_after(groups, units) == [8, 4]


def test_blocks_of_one_are_single_units() -> None:
    groups = two_layers(5, 6)
    scores = torch.cos(torch.arange(11.0))
    assert torch.equal(choose(scores, groups, count=4, round_to=1), choose(scores, groups, count=4))


def test_a_network_without_groups_has_nothing_to_give() -> None:
    groups = find_groups(nn.Linear(3, 2), (3,))
    assert choose(torch.zeros(0), groups, count=3).tolist() == []


def test_widths_are_those_of_the_layers() -> None:
    model = fill(Residual())
    groups = find_groups(model, SHAPE)
    left = remove_(model, groups, groups.units[[0, 1, 7]])
    assert layer_widths(model, left) == {"stem": 4, "outer": 4, "inner": 4}
    assert layer_widths(nn.Linear(2, 2), left) == {}
