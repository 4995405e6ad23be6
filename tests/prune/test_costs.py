"""The cost of a unit is what disappears when it is removed."""

import copy

import pytest
import torch
from torch import Tensor, nn

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
        assert float(costs[first]) == pytest.approx(saved)
        first += len(group.units)


class Shared(nn.Module):
    """One convolution called twice, one weight in two layers, a convolution within its own group."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.one, self.other = nn.Linear(4, 6), nn.Linear(4, 6)
        self.other.weight = self.one.weight
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.a(x)))))).mean((2, 3))
        return self.fc(torch.relu(self.one(x)) + torch.sigmoid(self.other(x)))


def test_a_layer_that_is_used_twice_is_counted_as_it_costs() -> None:
    model, shape = Shared(), (1, 6, 6)
    groups = find_groups(model, shape)
    assert groups.widths() == {"a+twice": 4, "one+other": 6}
    count = sum(p.numel() for p in model.parameters())
    for place, unit in enumerate(groups.units.tolist()):
        smaller = copy.deepcopy(model)
        remove_(smaller, groups, torch.tensor([unit]))
        gone = count - sum(p.numel() for p in smaller.parameters())
        assert float(unit_parameters(model, groups)[place]) == pytest.approx(gone)
        assert float(unit_macs(model, groups, shape)[place]) == pytest.approx(
            macs(model, shape) - macs(smaller, shape)
        )


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
