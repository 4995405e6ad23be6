"""Optimisers that follow a removal, and channels that come back: held against networks of the old size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.prune.networks import Chain, Dense, Depthwise, Grouped, Residual, fill
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer

from tersa.data.task import Provenance, Split, Task
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import remove_, resize_, restore_
from tersa.train.config import TrainConfig
from tersa.train.continued import begin, learn_, optimiser_state
from tersa.train.continued import restore_ as recall_

SHAPE = (3, 8, 8)
NETWORKS = {kind.__name__: kind for kind in (Chain, Residual, Depthwise, Grouped, Dense)}
ROUNDING = 1e-7
"""float64 sums in another order; adaptive steps divide gradients that are nothing but rounding (a bias before
a batch norm) by 1e-10 or 1e-8."""

Make = Callable[[nn.Module], Optimizer]
OPTIMISERS: dict[str, Make] = {
    "sgd": lambda model: SGD(model.parameters(), lr=0.02),
    "momentum": lambda model: SGD(model.parameters(), lr=0.02, momentum=0.9),
    "nesterov": lambda model: SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adagrad": lambda model: Adagrad(model.parameters(), lr=0.02),
    "adadelta": lambda model: Adadelta(model.parameters(), lr=0.5),
    "adam": lambda model: Adam(model.parameters(), lr=0.01, weight_decay=0.1),
    "amsgrad": lambda model: Adam(model.parameters(), lr=0.01, amsgrad=True),
    "adamw": lambda model: AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
}
IMAGES = torch.sin(torch.arange(5 * 3 * 8 * 8, dtype=torch.float64)).view(5, *SHAPE)
LABELS = torch.arange(5) % 4


def made(kind: type[nn.Module]) -> tuple[nn.Module, Groups, Tensor]:
    """A network in float64, its groups, and the first third of each group's units."""
    model = fill(kind())
    groups = find_groups(model, SHAPE)
    units = torch.cat([group.units[: max(1, len(group.units) // 3)] for group in groups.groups])
    return model.double(), groups, units


def update_(model: nn.Module, optimizer: Optimizer, count: int = 1) -> None:
    model.train()
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    model.eval()


def dead(model: nn.Module, groups: Groups, units: Tensor) -> dict[str, Tensor]:
    """Which values of each parameter carry one of the units."""
    found = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for slot in groups.slots:
        if slot.name in found:
            found[slot.name].index_fill_(slot.dim, torch.isin(slot.units, units).nonzero().reshape(-1), True)
    return found


def sliced(value: Tensor, name: str, groups: Groups, units: Tensor) -> Tensor:
    """What is left of a full-size tensor, by hand."""
    for slot in groups.slots:
        if slot.name == name:
            value = value.index_select(slot.dim, (~torch.isin(slot.units, units)).nonzero().reshape(-1))
    return value


def zeroed_(model: nn.Module, gone: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter[gone[name]] = 0.0


# The optimiser goes on with the smaller network


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_next_updates_are_those_of_the_masked_network(network: str, optimiser: str) -> None:
    """Full size, with everything of the removed units held at zero: the slow twin."""
    small, groups, units = made(NETWORKS[network])
    large, _, _ = made(NETWORKS[network])
    follow, twin = OPTIMISERS[optimiser](small), OPTIMISERS[optimiser](large)
    update_(small, follow, 3)
    update_(large, twin, 3)
    remove_(small, groups, units, follow)
    gone = dead(large, groups, units)
    for _ in range(3):
        zeroed_(large, gone)
        update_(large, twin)
        update_(small, follow)
    wanted = dict(large.named_parameters())
    for name, found in small.named_parameters():
        expected = sliced(wanted[name], name, groups, units)
        torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)
    assert any(gone[name].any() for name in gone)


@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_the_state_is_the_sliced_state(optimiser: str) -> None:
    model, groups, units = made(Chain)
    optimizer = OPTIMISERS[optimiser](model)
    update_(model, optimizer, 2)
    before = {
        name: {key: torch.as_tensor(value).clone() for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
    }
    remove_(model, groups, units, optimizer)
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}
    for name, parameter in model.named_parameters():
        for key, value in before[name].items():
            expected = value if value.dim() == 0 else sliced(value, name, groups, units)
            assert torch.equal(torch.as_tensor(optimizer.state[parameter][key]), expected)


def test_without_an_optimiser_that_follows_the_next_updates_are_others() -> None:
    """The comparison above would notice a state that is lost."""
    follow, fresh = made(Chain), made(Chain)
    optimizers = [OPTIMISERS["momentum"](each[0]) for each in (follow, fresh)]
    for (model, groups, units), optimizer in zip((follow, fresh), optimizers, strict=True):
        update_(model, optimizer, 3)
        remove_(model, groups, units, optimizer if model is follow[0] else None)
    update_(follow[0], optimizers[0])
    update_(fresh[0], OPTIMISERS["momentum"](fresh[0]))
    assert not torch.allclose(follow[0].fc2.weight, fresh[0].fc2.weight, atol=1e-4)


def test_parameters_stay_in_their_groups_and_frozen_ones_stay_frozen() -> None:
    model, groups, units = made(Chain)
    model.conv1.bias.requires_grad_(False)
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1 and p.requires_grad]
    optimizer = SGD([{"params": weights, "weight_decay": 0.1}, {"params": others}], lr=0.1, momentum=0.9)
    update_(model, optimizer)
    remove_(model, groups, units, optimizer)
    heavy, light = ([id(p) for p in group["params"]] for group in optimizer.param_groups)
    assert heavy == [id(p) for p in model.parameters() if p.dim() > 1]
    assert light == [id(p) for p in model.parameters() if p.dim() == 1 and p.requires_grad]
    assert not model.conv1.bias.requires_grad
    assert model.conv1.bias not in optimizer.state


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.stem, self.last = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(torch.relu(self.stem(x)))))))


def test_tied_weights_are_followed_once() -> None:
    model = fill(Tied())
    groups = find_groups(model, (4,))
    optimizer = Adam(model.parameters(), lr=0.01)
    x = torch.sin(torch.arange(20.0)).view(5, 4)
    F.cross_entropy(model(x), LABELS).backward()
    optimizer.step()
    remove_(model, groups, groups.groups[0].units[:2], optimizer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    assert model.first.weight is model.second.weight
    assert optimizer.state[model.first.weight]["exp_avg"].shape == model.first.weight.shape == (4, 4)


def test_channels_last_stays_so() -> None:
    model, groups, units = made(Residual)
    model.to(memory_format=torch.channels_last)
    earlier = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = OPTIMISERS["adam"](model)
    update_(model, optimizer)
    left = remove_(model, groups, units, optimizer)

    def check() -> None:
        for parameter in (model.inner.weight, model.outer.weight):
            moment = optimizer.state[parameter]["exp_avg"]
            for value in (parameter, moment):
                assert value.is_contiguous(memory_format=torch.channels_last)
                assert not value.is_contiguous()

    check()
    restore_(model, left, groups, earlier, optimizer)
    check()


def test_strides_of_a_single_channel_are_those_of_a_network_read_from_disk() -> None:
    """They decide the order of sums in a convolution, though the bytes are the same either way."""
    model, groups, units = made(Residual)
    model.to(memory_format=torch.channels_last)
    left = remove_(model, groups, units)
    remove_(model, left, left.groups[1].units[1:])
    again = Residual().double()
    resize_(again, {name: value.contiguous() for name, value in model.state_dict().items()})
    again.to(memory_format=torch.channels_last)
    assert model.outer.weight.shape[1] == 1
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert one.stride() == other.stride()


# Channels come back


@pytest.mark.parametrize("network", NETWORKS)
def test_removed_and_brought_back_is_the_network_it_was(network: str) -> None:
    model, groups, units = made(NETWORKS[network])
    with torch.no_grad():
        before = model(IMAGES)
    earlier = {name: value.clone() for name, value in model.state_dict().items()}
    restore_(model, remove_(model, groups, units), groups, earlier)
    assert all(torch.equal(value, earlier[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(IMAGES), before)
    remove_(model, groups, units)  # sizes that modules remember are mended: it can be cut again


@pytest.mark.parametrize("network", NETWORKS)
def test_survivors_keep_what_they_have_learnt(network: str) -> None:
    model, groups, units = made(NETWORKS[network])
    earlier = {name: value.clone() for name, value in model.state_dict().items()}
    left = remove_(model, groups, units)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    learnt = {name: value.clone() for name, value in model.named_parameters()}
    restore_(model, left, groups, earlier)
    gone = dead(model, groups, units)
    for name, value in model.named_parameters():
        assert torch.equal(value[gone[name]], earlier[name][gone[name]])
        assert torch.equal(sliced(value, name, groups, units), learnt[name])


def test_what_comes_back_has_no_memory_and_the_rest_keeps_it() -> None:
    model, groups, units = made(Chain)
    earlier = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = OPTIMISERS["adam"](model)
    update_(model, optimizer, 2)
    left = remove_(model, groups, units, optimizer)
    update_(model, optimizer)
    learnt = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    restore_(model, left, groups, earlier, optimizer)
    gone = dead(model, groups, units)
    for name, parameter in model.named_parameters():
        moment = optimizer.state[parameter]["exp_avg"]
        assert moment.shape == parameter.shape
        assert not moment[gone[name]].any()
        assert torch.equal(sliced(moment, name, groups, units), learnt[name])
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    before = model.conv1.weight.detach().clone()
    update_(model, optimizer)
    assert not torch.equal(model.conv1.weight[gone["conv1.weight"]], before[gone["conv1.weight"]])


# Through files


def test_resumed_after_a_removal_is_uninterrupted(tmp_path: Path) -> None:
    """The weights, the optimiser's state and the number of updates are all that a killed run needs."""
    labels = torch.arange(40) % 4
    images = torch.sin(torch.arange(40.0 * 3 * 8 * 8)).view(40, *SHAPE).abs()
    split = Split(images, labels)
    shown = Provenance("made", "tests", {})
    task = Task("t", split, split, split, ("a", "b", "c", "d"), (0.6,) * 3, (0.3,) * 3, shown)
    config = TrainConfig(optimizer="adamw", batch=16, learning_rate=0.01, channels_last=True, pad=1)
    whole = begin(fill(Chain()), task, config)
    groups = find_groups(fill(Chain()), SHAPE)
    units = torch.cat([group.units[1:3] for group in groups.groups])
    learn_(whole, 4)
    left = remove_(whole.model, groups, units, whole.optimizer)
    learn_(whole, 2)
    state = {name: value.contiguous() for name, value in whole.model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    save_file(optimiser_state(whole), tmp_path / "memory.safetensors")

    model = Chain()
    resize_(model, load_file(tmp_path / "model.safetensors"))
    resumed = begin(model, task, config)
    recall_(resumed, load_file(tmp_path / "memory.safetensors"), 6)
    for run in (whole, resumed):
        learn_(run, 3)
        remove_(run.model, left, left.groups[0].units[:1], run.optimizer)
        learn_(run, 3)
    found = resumed.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.model.state_dict().items())
