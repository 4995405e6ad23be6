"""Pruning that goes on from saved weights: bookkeeping alone gives the same groups and the same network."""

import pytest
import torch
from tests.prune import odd_networks as odd
from tests.prune.networks import Chain, Dense, Depthwise, Grouped, Residual, fill
from tests.prune.test_groups import SHAPE, every_other, images
from torch import Tensor, nn

from tersa.errors import ModelError
from tersa.models.zoo import build
from tersa.prune.groups import Groups, find_groups
from tersa.prune.protocol import layer_widths
from tersa.prune.surgery import after, remove_, replay, resize_

NETWORKS = {k.__name__: k for k in (Chain, Residual, Depthwise, Grouped, Dense, odd.TwoNames)}


def same(one: Groups, two: Groups) -> bool:
    """Equal in every field; tensors element by element."""
    parts = [(one.slots, two.slots), (one.gates, two.gates), (one.groups, two.groups)]
    for left, right in parts:
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            first, second = dict(vars(a)), dict(vars(b))
            if not torch.equal(first.pop("units"), second.pop("units")) or first != second:
                return False
    return (one.kept, one.depthwise, one.shape) == (two.kept, two.depthwise, two.shape)


def saved(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def down_to_one(groups: Groups, index: int) -> Tensor:
    return groups.groups[index].units[1:]


def sizes(model: nn.Module) -> dict[str, str]:
    """What modules remember of their sizes, as they print them."""
    return {name: repr(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("name", NETWORKS)
def test_bookkeeping_equals_removal(name: str) -> None:
    model = fill(NETWORKS[name]())
    groups = find_groups(model, SHAPE)
    units = every_other(groups)
    alone = after(groups, units)
    before = saved(model)
    assert same(replay(model, groups, []), groups)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not same(alone, groups)
    assert same(remove_(model, groups, units), alone)
    assert same(replay(model, groups, [units[:2], units[2:]]), alone)


def test_bookkeeping_refuses_what_removal_refuses() -> None:
    groups = find_groups(fill(Chain()), SHAPE)
    with pytest.raises(ModelError, match="nothing would be left of conv1"):
        after(groups, groups.groups[0].units)
    with pytest.raises(ModelError, match="not prunable"):
        after(after(groups, groups.units[:1]), groups.units[:1])


def test_nothing_removed_is_a_step_too() -> None:
    groups = find_groups(fill(Chain()), SHAPE)
    assert same(after(groups, torch.tensor([], dtype=torch.long)), groups)


def test_replay_refuses_weights_of_another_step() -> None:
    model = fill(Chain())
    groups = find_groups(model, SHAPE)
    with pytest.raises(ModelError, match=r"do not belong together: conv1\.weight has size 6 .*leave 4"):
        replay(model, groups, [groups.units[:2]])


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("name", ["Depthwise", "Grouped", "Residual", "Chain"])
def test_pruning_goes_on_from_saved_weights(name: str, group: int) -> None:
    """One group down to a unit; then, with and without a stop in between, the others too."""
    kind = NETWORKS[name]
    model = fill(kind())
    fresh_groups = find_groups(model, SHAPE)
    steps = [down_to_one(fresh_groups, group)]
    left = remove_(model, fresh_groups, steps[0])
    stopped = kind().eval()
    resize_(stopped, saved(model))
    assert sizes(stopped) == sizes(model)
    replayed = replay(stopped, fresh_groups, steps)
    assert same(replayed, left)
    rest = [down_to_one(left, i) for i, g in enumerate(left.groups) if len(g.units) > 1]
    for units in rest:
        left = remove_(model, left, units)
        replayed = remove_(stopped, replayed, units)
    assert same(replayed, left)
    assert sizes(stopped) == sizes(model)
    torch.testing.assert_close(stopped(images(SHAPE)), model(images(SHAPE)), rtol=0, atol=0)
    assert set(left.widths().values()) == {1}


def test_grouped_convolutions_stay_grouped_once_narrow() -> None:
    """One channel left per group is not depthwise: b and gate still keep one width per group."""
    model = fill(Grouped())
    groups = find_groups(model, SHAPE)
    left = remove_(model, groups, down_to_one(groups, 0))
    assert left.widths() == {"a": 1, "b+gate": 4, "c": 5}
    assert (model.b.in_channels, model.b.groups, model.b.out_channels) == (4, 4, 16)
    assert find_groups(model, SHAPE).widths() == left.widths()
    assert find_groups(model, SHAPE).depthwise == frozenset()
    left = remove_(model, left, down_to_one(left, 1))
    assert (model.b.in_channels, model.b.groups, model.b.out_channels) == (4, 4, 4)
    assert model(images(SHAPE)).shape == (3, 4)


def test_depthwise_convolutions_of_one_channel_are_rebuilt() -> None:
    shape = (3, 32, 32)
    model = fill(build("mobilenet:0.25", shape, 10))
    groups = find_groups(model, shape)
    steps = [down_to_one(groups, 0), down_to_one(groups, 3)]
    left = groups
    for units in steps:
        left = remove_(model, left, units)
    stopped = build("mobilenet:0.25", shape, 10).eval()
    resize_(stopped, saved(model))
    assert sizes(stopped) == sizes(model)
    narrow = [
        m for m in stopped.modules() if isinstance(m, nn.Conv2d) and m.in_channels == m.out_channels == 1
    ]
    assert narrow
    assert all(m.groups == 1 for m in narrow)
    replayed = replay(stopped, groups, steps)
    assert same(replayed, left)
    units = every_other(left)
    assert same(remove_(model, left, units), remove_(stopped, replayed, units))
    assert sizes(stopped) == sizes(model)
    torch.testing.assert_close(stopped(images(shape)), model(images(shape)), rtol=0, atol=0)
    widths = layer_widths(stopped, groups)
    assert widths == layer_widths(stopped, left)
    assert all(len(stopped.get_submodule(name).weight) == width for name, width in widths.items())


@pytest.mark.parametrize("name", ["Grouped", "Depthwise"])
def test_a_network_pruned_in_two_runs_is_read_from_its_weights(name: str) -> None:
    """Each run starts from a fresh network with saved weights, and finds the groups of that."""
    kind = NETWORKS[name]
    model = fill(kind())
    groups = find_groups(model, SHAPE)
    remove_(model, groups, down_to_one(groups, 0))
    second = kind().eval()
    resize_(second, saved(model))
    found = find_groups(second, SHAPE)
    for index, width in enumerate(found.widths().values()):
        if width > 1:
            found = remove_(second, found, found.groups[index].units[:1])
    third = kind().eval()
    resize_(third, saved(second))
    assert sizes(third) == sizes(second)
    torch.testing.assert_close(third(images(SHAPE)), second(images(SHAPE)), rtol=0, atol=0)
