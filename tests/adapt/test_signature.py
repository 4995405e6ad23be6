"""Layers as signatures: their channels at any widths are those of the network that was really narrowed."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from tersa.adapt.anatomy import Anatomy
from tersa.adapt.resource import Counter, Macs, Parameters, estimate
from tersa.adapt.signature import layers_of
from tersa.adapt.weights import Trainable, weights_of
from tersa.errors import ModelError
from tersa.models.summary import macs, parameters
from tersa.models.zoo import build
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import remove_

MODELS = {
    "lenet:6-8-20": (1, 16, 16),
    "mobilenet:0.1": (3, 8, 8),
    "resnet:20": (3, 8, 8),
    "mlp:9x7": (1, 8, 8),
    "vit:2x8": (1, 8, 8),
    "lenet:6-8-20+shift": (1, 16, 16),
}
UNEVEN = "resnet:20+fire@layer1*"


def narrowed(model: nn.Module, groups: Groups, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A copy with some units of every group gone, at least one left."""
    chance = random.Random(seed)
    widths = tuple(chance.randint(1, len(group.units)) for group in groups.groups)
    gone = [group.units[width:] for group, width in zip(groups.groups, widths, strict=True)]
    less = copy.deepcopy(model)
    remove_(less, groups, torch.cat(gone))
    return less, widths


@pytest.mark.parametrize("name", MODELS)
def test_macs_at_any_widths_are_those_of_the_narrowed_network(name: str) -> None:
    """Every convolution, product and coupling: counted from signatures, and by torch's counter."""
    shape = MODELS[name]
    model = build(name, shape, 10)
    groups = find_groups(model, shape)
    anatomy = layers_of(model, shape, groups)
    assert estimate(anatomy, Macs()).value == macs(model, shape)
    for seed in range(3):
        less, widths = narrowed(model, groups, seed)
        assert estimate(anatomy, Macs(), widths).value == macs(less, shape)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_at_any_widths_are_those_of_the_narrowed_network(name: str) -> None:
    """Norms, biases, tokens' positions and the fixed kernels of a shift, which are no parameters."""
    shape = MODELS[name]
    model = build(name, shape, 10)
    groups = find_groups(model, shape)
    counter = Counter(weights_of(model, groups), Trainable())
    for seed in range(3):
        less, widths = narrowed(model, groups, seed)
        assert counter.total(widths) == parameters(less)


def test_tokens_are_counted_one_by_one() -> None:
    model = build("vit:2x8", (1, 8, 8), 10)
    anatomy = layers_of(model, (1, 8, 8), find_groups(model, (1, 8, 8)), batch=3)
    texts = [layer.family.text() for layer in anatomy.layers]
    assert "linear on 64x1, gelu" in texts
    assert "product on 1x64" in texts
    assert texts[-1] == "linear"
    assert estimate(anatomy, Macs()).value == macs(model, (1, 8, 8))


def test_a_group_whose_units_go_to_different_layers_is_refused() -> None:
    """Both halves of a fire module behind a residual addition; one of them kept leaves an even group."""
    model = build(UNEVEN, (1, 8, 8), 10)
    with pytest.raises(ModelError, match=r"widths do not say what is left of each; keep") as caught:
        layers_of(model, (1, 8, 8), find_groups(model, (1, 8, 8)))
    keep = str(caught.value).partition("--keep ")[2].partition(")")[0].split(",")
    groups = find_groups(model, (1, 8, 8), keep)
    anatomy = layers_of(model, (1, 8, 8), groups)
    less, widths = narrowed(model, groups, 0)
    assert estimate(anatomy, Macs(), widths).value == macs(less, (1, 8, 8))


class Upwards(nn.Module):
    """A transposed convolution, which no family stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.ConvTranspose2d(1, 4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(x).mean((2, 3)))


def test_products_that_no_layer_accounts_for_are_refused() -> None:
    model = Upwards()
    with pytest.raises(
        ModelError, match=r"make 8 of the network's \d+ multiply-acc.*without a family: convolution\)"
    ):
        layers_of(model, (1, 4, 4), find_groups(model, (1, 4, 4)))


class Stepped(nn.Module):
    """Code that takes another way when it is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 8, 1), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head((x + x if x.shape[1] < 4 else x).mean((2, 3)))


def test_channels_that_do_not_follow_from_widths_are_refused() -> None:
    model = Stepped()
    with pytest.raises(ModelError, match=r"do not follow from the widths: with one channel per group"):
        layers_of(model, (1, 4, 4), find_groups(model, (1, 4, 4)))


def test_lenet_layer_by_layer() -> None:
    model = build("lenet", (1, 28, 28), 10)
    anatomy = layers_of(model, (1, 28, 28), find_groups(model, (1, 28, 28)))
    assert [layer.family.text() for layer in anatomy.layers] == [
        "conv 5x5 on 28x28, relu",
        "max-pool 2x2 stride 2 on 28x28",
        "conv 5x5 on 14x14, relu",
        "max-pool 2x2 stride 2 on 14x14",
        "linear, relu",
        "linear",
    ]
    assert [layer.inputs.at([5, 7, 11]) for layer in anatomy.layers] == [1, 5, 5, 7, 7 * 49, 11]
    assert [layer.outputs.at([5, 7, 11]) for layer in anatomy.layers] == [5, 5, 7, 7, 11, 10]
    assert anatomy.unknown == ()


def test_batch_norm_is_folded_and_parameters_count_what_is_deployed() -> None:
    model = build("resnet:20", (3, 8, 8), 10)
    anatomy = layers_of(model, (3, 8, 8), find_groups(model, (3, 8, 8)))
    kinds = {layer.family.operation for layer in anatomy.layers}
    assert "norm" not in kinds
    assert "add" in kinds
    folded = sum(m.weight.numel() + m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Conv2d))
    head = sum(p.numel() for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters())
    assert estimate(anatomy, Parameters()).value == folded + head


def test_the_network_is_left_alone() -> None:
    model = build("resnet:20", (3, 8, 8), 10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers_of(model, (3, 8, 8), find_groups(model, (3, 8, 8)))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


class Joined(nn.Module):
    """Two convolutions side by side, a product of channels, and a head over their flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.deep = nn.Conv2d(4, 4, 3, groups=4, padding=1)
        self.head = nn.Linear(9 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat((torch.relu(self.deep(self.left(x))), torch.relu(self.right(x))), dim=1)
        return self.head(torch.flatten(nn.functional.max_pool2d(both, 2), 1))


def test_concatenated_flattened_and_depthwise_channels() -> None:
    model = Joined()
    groups = find_groups(model, (3, 8, 8))
    anatomy = layers_of(model, (3, 8, 8), groups)
    for seed in range(4):
        less, widths = narrowed(model, groups, seed)
        assert estimate(anatomy, Macs(), widths).value == macs(less, (3, 8, 8))


@pytest.mark.parametrize("width", [2, 3])
def test_a_depthwise_layer_that_is_down_to_one_channel(width: int) -> None:
    """Torch runs it as a dense one; it stays the same layer, with one channel."""
    model = nn.Sequential(
        nn.Conv2d(1, width, 1), nn.Conv2d(width, width, 3, groups=width), nn.ReLU(), nn.Conv2d(width, 4, 1)
    )
    groups = find_groups(model, (1, 8, 8))
    anatomy = layers_of(model, (1, 8, 8), groups)
    assert anatomy.layers[1].family.text() == "depthwise 3x3 on 8x8, relu"
    less = copy.deepcopy(model)
    remove_(less, groups, torch.cat([group.units[1:] for group in groups.groups]))
    assert estimate(anatomy, Macs(), [1] * len(groups.groups)).value == macs(less, (1, 8, 8))


class Sine(nn.Module):
    """An operation that no family stands for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def test_what_no_family_stands_for_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), Sine(), nn.Linear(3, 2))
    anatomy = layers_of(model, (1, 2, 2), find_groups(model, (1, 2, 2)))
    assert anatomy.unknown == ("sin",)


def test_a_network_that_does_not_run_is_an_error_of_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = find_groups(model, (1, 2, 2))
    with pytest.raises(ModelError, match="cannot be listed") as caught:
        layers_of(model, (1, 3, 3), groups)
    assert "\n" not in str(caught.value)


def test_batch_and_bits_are_part_of_the_family() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    groups = find_groups(model, (1, 2, 2))
    keys: list[Anatomy] = [layers_of(model, (1, 2, 2), groups, batch=b) for b in (1, 4)]
    assert keys[0].layers[0].family.key() != keys[1].layers[0].family.key()
