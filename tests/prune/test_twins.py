"""Low-bit networks lose channels: what is left computes what the masked network does, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tersa.binary.convert import convert
from tersa.binary.reference import run as reference
from tersa.errors import ModelError
from tersa.models.zoo import build
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_, verify
from tersa.prune.twins import is_low_bit, levels_, plain_twin
from tersa.quant.layers import QuantLinear

SHAPES = {"tfc": (1, 8, 8), "bresnet20": (3, 8, 8), "vgg-small+w2a2:first=8/8,last=8/8": (3, 8, 8)}


def network(spec: str, shape: tuple[int, int, int]) -> nn.Module:
    """With statistics that make both signs frequent."""
    model = build(spec, shape, 10).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            place = torch.arange(float(len(module.running_mean)))
            module.running_mean.copy_(3 * torch.sin(place))
            module.running_var.copy_(20 + 10 * torch.cos(place))
    return model


def pixels(shape: tuple[int, int, int]) -> Tensor:
    count = 3 * shape[0] * shape[1] * shape[2]
    return (torch.arange(count) * 37 % 256).float().div(255).view(3, *shape)


@pytest.mark.parametrize("spec", SHAPES)
def test_removing_equals_masking(spec: str) -> None:
    shape = SHAPES[spec]
    model = network(spec, shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = find_groups(model, shape)
    units = torch.cat([group.units[: len(group.units) // 3] for group in groups.groups])
    assert len(units)
    assert verify(model, groups, units, pixels(shape)) == 0.0
    assert not torch.equal(model(pixels(shape)), model(pixels(shape).flip(0)))  # the answers are no constant
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_pruned_network_packs() -> None:
    model = network("tfc", (1, 8, 8))
    groups = find_groups(model, (1, 8, 8))
    remove_(model, groups, torch.cat([group.units[::3] for group in groups.groups]))
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    assert [layer.out_features for layer in layers] == [42, 42, 42, 10]
    program = convert(model, tuple("0123456789"), (1, 8, 8), (0.0,), (1.0,))
    images = torch.arange(3 * 64).mul(37).remainder(256).to(torch.uint8).view(3, 1, 8, 8)
    found = torch.from_numpy(reference(program, images.numpy()))
    assert torch.equal(found, model(images.float() / 255))


def test_the_plain_twin_shares_every_weight() -> None:
    model = network("tfc", (1, 8, 8))
    twin = plain_twin(model)
    assert not is_low_bit(twin)
    assert is_low_bit(model)
    held = dict(model.named_parameters())
    assert {name: id(p) for name, p in twin.named_parameters()} == {n: id(p) for n, p in held.items()}
    plain = build("mlp:4", (1, 8, 8), 10)
    assert plain_twin(plain) is plain


def test_levels_as_weights_give_the_same_outputs() -> None:
    model = network("bresnet20", (3, 8, 8))
    twin = copy.deepcopy(model)
    levels_(twin)
    assert torch.equal(twin(pixels((3, 8, 8))), model(pixels((3, 8, 8))))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tfc+w1a1:scale=channel", "scale=channel"),
        ("tfc+w1a1:scale=lab", "scale=lab"),
        ("tfc+w1a1:shape=standardise", "shaping=standardise"),
        ("tfc+wta1", "bits=ternary"),
        ("tfc+w1a1:mask=subsidiary", "FilterMask"),
    ],
)
def test_levels_that_would_change_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        find_groups(build(spec, (1, 8, 8), 10), (1, 8, 8))
