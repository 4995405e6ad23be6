"""The cost of a unit is what disappears when it is removed."""

import copy

import pytest
import torch
from torch import nn

from tersa.models.summary import macs
from tersa.models.zoo import build
from tersa.prune.costs import cost_aware, unit_macs, unit_parameters, useful
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("lenet:4-6-10", (1, 12, 12)),
        ("mobilenet:0.25", (3, 32, 32)),
        ("resnet:20", (3, 16, 16)),
        ("mlp:9x7", (1, 4, 4)),
    ],
)
def test_cost_is_what_removal_saves(spec: str, shape: tuple[int, int, int]) -> None:
    model = build(spec, shape, 10)
    groups = find_groups(model, shape)
    costs = unit_macs(model, groups, shape)
    whole = macs(model, shape)
    first = 0
    for group in groups.groups:
        smaller = copy.deepcopy(model)
        remove_(smaller, groups, group.units[:1])
        saved = whole - macs(smaller, shape)
        # A convolution between two channels of one group is counted from both sides.
        assert float(costs[first]) == pytest.approx(saved, rel=0.15)
        first += len(group.units)


def test_the_dearer_of_two_equals_goes_first() -> None:
    scores = torch.tensor([0.5, 0.5, 0.1])
    found = cost_aware(scores, torch.tensor([10.0, 90.0, 0.0]), total=100.0, weight=0.5)
    torch.testing.assert_close(found, torch.tensor([0.45, 0.05, 0.1]))
    assert cost_aware(scores, torch.ones(3), 3.0, 0.0).tolist() == scores.tolist()


def test_the_parameters_of_a_unit_are_those_that_go_with_it() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 2)
    )
    groups = find_groups(net, (1, 5, 5))
    for place, unit in enumerate(groups.units.tolist()):
        smaller = copy.deepcopy(net)
        remove_(smaller, groups, torch.tensor([unit]))
        gone = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in smaller.parameters())
        assert unit_parameters(net, groups)[place] == gone


def test_only_units_that_help_are_useful() -> None:
    macs, count = torch.tensor([10.0, 10.0, 0.1]), torch.tensor([1.0, 0.01, 1.0])
    assert useful([macs], 0.1).tolist() == [True, True, False]
    assert useful([count], 0.1).tolist() == [True, False, True]
    assert useful([macs, count], 0.1).tolist() == [True, True, True]
