"""Legal but odd networks: what cannot be removed safely stays, with its reason; the rest prunes as ever."""

import copy

import pytest
import torch
from tests.prune import odd_networks as odd
from tests.prune.networks import fill
from tests.prune.test_groups import ROUNDING, every_other, images
from torch import nn

from tersa.data.task import Provenance, Split, Task
from tersa.prune.criteria import collect
from tersa.prune.groups import PINNED, find_groups
from tersa.prune.protocol import choose, layer_widths
from tersa.prune.surgery import mask_, remove_, resize_, verify
from tersa.prune.trace import ELSEWHERE, NOT_HELD, RESHAPED

IMAGE, VECTOR = (3, 8, 8), (1, 1, 6)
OUTPUT = "it gives the output"

CASES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, int]]] = {
    "raw": (odd.Raw, IMAGE, {"conv": 6}),
    "raw norm": (odd.RawNormPlain, IMAGE, {"conv": 6}),
    "borrowed": (odd.Borrowed, IMAGE, {"b": 5}),
    "subclasses": (odd.Subclasses, IMAGE, {"a": 6, "fc": 4}),
    "transposed": (odd.Transposed, IMAGE, {"b": 7}),
    "computed": (odd.Computed, IMAGE, {"c": 7}),
    "tied": (odd.Tied, VECTOR, {"hidden": 8, "a+b": 7}),
    "two names": (odd.TwoNames, IMAGE, {"stem+block.0": 8}),
    "two depthwise": (odd.TwoDepthwise, IMAGE, {"stem+deep": 8}),
    "autoencoder": (odd.AutoEncoder, VECTOR, {}),
    "constant": (odd.Constant, IMAGE, {"c": 7}),
    "unsaved": (odd.Unsaved, VECTOR, {"b": 7}),
    "instance norm": (odd.Instance, IMAGE, {"a": 6}),
    "partial": (odd.Partial, IMAGE, {"narrow+whole+rest": 6}),
    "attention": (odd.Attention, IMAGE, {"a": 7}),
}
"""Name -> class, shape of one input, units of each group that can still be pruned."""

PRUNABLE = [name for name, (_, _, widths) in CASES.items() if widths]


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_pruned(name: str) -> None:
    kind, shape, widths = CASES[name]
    groups = find_groups(fill(kind()), shape)
    assert {"+".join(sorted(key.split("+"))): n for key, n in groups.widths().items()} == {
        "+".join(sorted(key.split("+"))): n for key, n in widths.items()
    }


@pytest.mark.parametrize("name", PRUNABLE)
def test_pruned_equals_masked(name: str) -> None:
    kind, shape, _ = CASES[name]
    model = fill(kind())
    groups = find_groups(model, shape)
    units = every_other(groups)
    x = images(shape)
    assert verify(model, groups, units, x) <= ROUNDING
    masked = copy.deepcopy(model)
    mask_(masked, groups, units)
    assert not torch.allclose(masked(x), model(x)), "removing half of the channels must change the outputs"
    remove_(model, groups, units)
    torch.testing.assert_close(model(x), masked(x), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", PRUNABLE)
def test_saved_sizes_are_restored(name: str) -> None:
    kind, shape, _ = CASES[name]
    model = fill(kind())
    groups = find_groups(model, shape)
    remove_(model, groups, every_other(groups))
    fresh = kind().eval()
    resize_(fresh, {key: value.clone() for key, value in model.state_dict().items()})
    if isinstance(fresh, odd.Unsaved):
        assert not torch.equal(fresh.scale, model.scale), "what is not saved is as the constructor made it"
        fresh.scale = model.scale
    torch.testing.assert_close(fresh(images(shape)), model(images(shape)), rtol=0, atol=0)


@pytest.mark.parametrize("name", PRUNABLE)
def test_every_unit_shows_at_a_gate_and_gets_a_score(name: str) -> None:
    kind, shape, _ = CASES[name]
    model = fill(kind())
    groups = find_groups(model, shape)
    assert torch.isin(groups.units, torch.cat([gate.units for gate in groups.gates])).all()
    split = Split(images(shape, 8), torch.arange(8) % 4)
    mean, deviation = (0.0,) * shape[0], (1.0,) * shape[0]
    task = Task("t", split, split, split, tuple("abcd"), mean, deviation, Provenance("made", "", {}))
    assert (collect(model, groups, task, split) > 0).any()
    layers = {layer for group in groups.groups for layer in group.layers}
    assert layer_widths(model, groups).keys() == layers


def test_weights_without_a_layer_are_kept_and_named() -> None:
    groups = find_groups(fill(odd.Raw()), IMAGE)
    assert groups.kept == {"w": NOT_HELD, "v": NOT_HELD, "fc": OUTPUT}
    assert [gate.module for gate in groups.gates] == ["conv", "fc"]
    assert layer_widths(odd.Raw(), groups) == {"conv": 6}


def test_a_batch_norm_without_a_module_is_sliced_but_shows_nothing() -> None:
    model = fill(odd.RawNormPlain())
    groups = find_groups(model, IMAGE)
    assert [gate.module for gate in groups.gates] == ["conv", "fc"]
    remove_(model, groups, groups.units[:2])
    assert [len(t) for t in (model.weight, model.bias, model.mean, model.var)] == [4, 4, 4, 4]


def test_batch_norm_on_computed_statistics_is_kept() -> None:
    groups = find_groups(fill(odd.RawNorm()), IMAGE)
    assert groups.widths() == {}
    assert "batch_norm" in groups.kept["conv"]


def test_weights_used_by_hand_are_kept() -> None:
    assert find_groups(fill(odd.Borrowed()), IMAGE).kept == {"a": ELSEWHERE, "fc": OUTPUT}


def test_a_layer_that_returns_another_shape_is_kept() -> None:
    groups = find_groups(fill(odd.Subclasses()), IMAGE)
    assert groups.kept == {"b": RESHAPED, "out": OUTPUT}


def test_transposed_convolutions_have_no_rule() -> None:
    kept = find_groups(fill(odd.Transposed()), IMAGE).kept
    assert kept.keys() == {"a", "up", "fc"}
    assert "conv_transpose2d" in kept["a"]
    assert "conv_transpose2d" in kept["up"]


def test_weights_used_once_more_by_a_constant_are_kept() -> None:
    kept = find_groups(fill(odd.AutoEncoder()), VECTOR).kept
    assert kept.keys() == {"a", "encode", "out"}
    assert "encode.weight is also used by" in kept["a"]


def test_a_fixed_number_of_values_keeps_its_channels() -> None:
    kept = find_groups(fill(odd.Constant()), IMAGE).kept
    assert kept.keys() == {"a", "b", "fc"}
    assert all("fixed number of values" in kept[name] for name in "ab")


def test_a_buffer_that_is_not_saved_keeps_its_channels() -> None:
    kept = find_groups(fill(odd.Unsaved()), VECTOR).kept
    assert kept == {
        "a": "the buffer scale runs along them and is not saved (persistent=False)",
        "out": OUTPUT,
    }


def test_instance_norm() -> None:
    model = fill(odd.Instance())
    groups = find_groups(model, IMAGE)
    assert "instance_norm" in groups.kept["b"]
    remove_(model, groups, groups.units[:2])
    assert model.affine.num_features == 4


def test_attention_projections_are_kept() -> None:
    kept = find_groups(fill(odd.Attention()), IMAGE).kept
    assert {"b", "attention.in_proj_weight", "attention.out_proj", "fc"} <= kept.keys()


def test_ties_stay_ties() -> None:
    model = fill(odd.Tied())
    groups = find_groups(model, VECTOR)
    remove_(model, groups, every_other(groups))
    fresh = odd.Tied()
    resize_(fresh, {key: value.clone() for key, value in model.state_dict().items()})
    for net in (model, fresh):
        assert net.a.weight is net.b.weight
        assert net.a.weight.shape == (4, 4)
        for layer in (net.a, net.b):
            assert (layer.in_features, layer.out_features, len(layer.bias)) == (4, 4, 4)
    assert layer_widths(model, groups) == {"hidden": 4, "a": 4, "b": 4}


@pytest.mark.parametrize("kind", [odd.TwoNames, odd.TwoDepthwise])
def test_a_module_under_two_names_stays_one(kind: type[nn.Module]) -> None:
    model = fill(kind())
    names = list(model.state_dict())
    groups = find_groups(model, IMAGE)
    assert len({gate.module for gate in groups.gates}) == len(groups.gates)
    remove_(model, groups, every_other(groups))
    fresh = kind()
    resize_(fresh, {key: value.clone() for key, value in model.state_dict().items()})
    for net in (model, fresh):
        assert list(net.state_dict()) == names
        if isinstance(net, odd.TwoNames):
            assert net.again is net.block
            assert (net.block[0].in_channels, net.block[0].out_channels) == (4, 4)
            assert (net.block[1].num_features, len(net.block[1].running_mean)) == (4, 4)
        else:
            assert isinstance(net, odd.TwoDepthwise)
            assert net.alias[0] is net.deep
            assert (net.deep.in_channels, net.deep.out_channels, net.deep.groups) == (4, 4, 4)


def test_masking_finds_the_second_name() -> None:
    """Under whichever name a slot goes, the weights that both names share are zeroed."""
    model = fill(odd.Tied())
    groups = find_groups(model, VECTOR)
    mask_(model, groups, groups.groups[0].units[:3])
    assert not model.b.weight[:, :3].any()
    assert model.b.weight[:, 3:].all()


@pytest.mark.parametrize("rule", ["block.0", "again.0", "again*"])
def test_layers_asked_to_stay_by_any_name(rule: str) -> None:
    groups = find_groups(fill(odd.TwoNames()), IMAGE, keep=[rule])
    assert groups.widths() == {}
    assert groups.kept["block.0"] == "asked to stay"


def test_a_layer_with_a_part_of_its_group_never_runs_empty() -> None:
    model = fill(odd.Partial())
    groups = find_groups(model, IMAGE)
    assert groups.kept["narrow"] == groups.kept["rest"] == PINNED
    remove_(model, groups, choose(torch.arange(6.0), groups, count=99))
    assert layer_widths(model, groups) == {"narrow": 1, "rest": 2, "whole": 3}
    assert model(images(IMAGE)).shape == (3, 4)


def test_nothing_to_choose_from() -> None:
    groups = find_groups(fill(odd.AutoEncoder()), VECTOR)
    assert choose(torch.empty(0), groups, count=3).tolist() == []
