"""The cost of a unit is what disappears when it is removed."""

import copy

import pytest
import torch

from tersa.models.summary import macs
from tersa.models.zoo import build
from tersa.prune.costs import cost_aware, unit_macs
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
