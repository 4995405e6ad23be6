"""Groups: a pruned network equals the masked one, whatever ties its channels together."""

import pytest
import torch
from tests.prune.networks import Chain, Dense, Depthwise, Fixed, Grouped, Odd, Residual, fill
from torch import nn

from tersa.errors import ModelError
from tersa.models.zoo import build
from tersa.prune.groups import find_groups
from tersa.prune.surgery import mask_, remove_, resize_, verify

SHAPE = (3, 8, 8)
ROUNDING = 1e-5
"""Sums of a few hundred products of order 1, in another order."""

NETWORKS = {kind.__name__: kind for kind in (Chain, Residual, Depthwise, Grouped, Dense)}
ZOO = [
    ("lenet:8-16-32", (1, 28, 28)),
    ("lenet5:6-10-40", (1, 28, 28)),
    ("mlp:20x10", (1, 8, 8)),
    ("vgg:11", (3, 32, 32)),
    ("vgg-small", (3, 32, 32)),
    ("cnv", (3, 32, 32)),
    ("alexnet", (3, 64, 64)),
    ("mobilenet:0.25", (3, 32, 32)),
    ("resnet:20", (3, 32, 32)),
    ("resnet18", (3, 32, 32)),
    ("densenet:40", (3, 32, 32)),
]


def every_other(groups: object) -> torch.Tensor:
    """Half of the units of each group, never all."""
    return torch.cat([g.units[::2][: max(1, len(g.units) // 2)] for g in groups.groups if len(g.units) > 1])


def images(shape: tuple[int, ...], count: int = 3) -> torch.Tensor:
    size = count * torch.Size(shape).numel()
    return torch.sin(torch.arange(size, dtype=torch.float32)).view(count, *shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_equals_masked(name: str) -> None:
    model = fill(NETWORKS[name]())
    groups = find_groups(model, SHAPE)
    units = every_other(groups)
    x = images(SHAPE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert verify(model, groups, units, x) <= ROUNDING
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    masked = NETWORKS[name]()
    masked.load_state_dict(before)
    mask_(masked.eval(), groups, units)
    assert not torch.allclose(masked(x), model(x)), "removing half of the channels must change the outputs"
    remove_(model, groups, units)
    torch.testing.assert_close(model(x), masked(x), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(("spec", "shape"), ZOO)
def test_zoo_pruned_equals_masked(spec: str, shape: tuple[int, int, int]) -> None:
    model = build(spec, shape, 10, seed=1)
    groups = find_groups(model, shape)
    verify(model, groups, every_other(groups), images(shape, 2))
    assert list(groups.kept.values()) == ["it gives the output"]
    total = sum(p.numel() for p in model.parameters())
    remove_(model, groups, every_other(groups))
    assert sum(p.numel() for p in model.parameters()) < 0.5 * total


@pytest.mark.parametrize("name", NETWORKS)
def test_removing_twice_equals_removing_once(name: str) -> None:
    once, twice = fill(NETWORKS[name]()), fill(NETWORKS[name]())
    groups = find_groups(once, SHAPE)
    units = every_other(groups)
    remove_(once, groups, units)
    left = remove_(twice, groups, units[: len(units) // 2])
    left = remove_(twice, left, units[len(units) // 2 :])
    torch.testing.assert_close(once(images(SHAPE)), twice(images(SHAPE)), rtol=0, atol=0)
    assert left.widths() == {
        g.name: len(g.units) - int(torch.isin(g.units, units).sum()) for g in groups.groups
    }


def test_residual_addition_ties_its_operands() -> None:
    groups = find_groups(fill(Residual()), SHAPE)
    assert groups.widths() == {"stem+outer": 6, "inner": 5}


def test_flatten_repeats_a_channel_over_its_positions() -> None:
    groups = find_groups(fill(Chain()), SHAPE)
    slot = next(s for s in groups.slots if s.name == "fc1.weight" and s.incoming)
    assert slot.units.tolist() == [unit for unit in groups.groups[0].units.tolist() for _ in range(16)]


def test_depthwise_outputs_follow_their_channel() -> None:
    model = fill(Depthwise())
    groups = find_groups(model, SHAPE)
    assert groups.widths() == {"a+b": 6, "c": 5}
    remove_(model, groups, groups.groups[0].units[:2])
    assert (model.b.in_channels, model.b.out_channels, model.b.groups) == (4, 8, 4)


def test_concatenation_keeps_pixels() -> None:
    groups = find_groups(fill(Dense()), SHAPE)
    slot = next(s for s in groups.slots if s.name == "b.weight" and s.incoming)
    assert slot.units[:3].tolist() == [0, 0, 0]
    assert (slot.units[3:] > 0).all()


def test_unknown_operation_keeps_its_channels_and_is_named() -> None:
    groups = find_groups(fill(Odd()), SHAPE)
    assert groups.widths() == {}
    assert "softmax" in groups.kept["a"]
    assert "layer_norm" in groups.kept["b"]
    assert groups.kept["fc"] == "it gives the output"


def test_layers_asked_to_stay() -> None:
    groups = find_groups(fill(Residual()), SHAPE, keep=["inn*"])
    assert groups.widths() == {"stem+outer": 6}
    assert groups.kept["inner"] == "asked to stay"


def test_fixed_number_of_channels_is_refused_with_the_mend() -> None:
    model = fill(Fixed())
    groups = find_groups(model, SHAPE)
    with pytest.raises(ModelError, match="fixes a number of channels"):
        verify(model, groups, groups.units[:1], images(SHAPE))


def test_emptying_a_group_is_refused() -> None:
    model = fill(Chain())
    groups = find_groups(model, SHAPE)
    with pytest.raises(ModelError, match="nothing would be left of conv1"):
        remove_(model, groups, groups.groups[0].units)
    with pytest.raises(ModelError, match="not prunable"):
        remove_(model, groups, torch.tensor([0]))


def test_untraceable_network_is_one_line() -> None:
    class Loop(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ModelError, match=r"^cannot trace the network with torch\.export: [^\n]+$"):
        find_groups(Loop(), SHAPE)


def test_tracing_leaves_modes_alone() -> None:
    model = fill(Chain())
    model.train()
    model.bn.eval()
    find_groups(model, SHAPE)
    assert model.training
    assert not model.bn.training


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_sizes_are_restored(name: str) -> None:
    model = fill(NETWORKS[name]())
    groups = find_groups(model, SHAPE)
    remove_(model, groups, every_other(groups))
    fresh = NETWORKS[name]()
    resize_(fresh, model.state_dict())
    torch.testing.assert_close(fresh.eval()(images(SHAPE)), model(images(SHAPE)), rtol=0, atol=0)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match=r"missing .*'fc1\.bias'"):
        resize_(Chain(), Residual().state_dict())


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 5)
            self.b = nn.Linear(5, 5)
            self.b.weight = self.a.weight
            self.out = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.b(torch.relu(self.a(x)))))

    model = fill(Tied())
    groups = find_groups(model, (5,))
    assert groups.widths() == {}, "its inputs are pixels, so tied weights keep all their rows"
    assert model.a.weight is model.b.weight
