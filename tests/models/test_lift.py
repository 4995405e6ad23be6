"""Exported graphs back as layers: equal outputs, equal names, training, pruning, odd operators."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tersa.errors import ModelError
from tersa.models import build, from_export, macs

Fill = Callable[[nn.Module], nn.Module]
Export = Callable[..., ExportedProgram]
Decompose = Callable[[ExportedProgram], ExportedProgram]
Images = Callable[..., Tensor]

CASES = [
    ("lenet:2-3-4", (1, 8, 8)),
    ("cnv", (3, 32, 32)),
    ("mobilenet:0.05", (3, 16, 16)),
    ("resnet:20", (3, 8, 8)),
    ("densenet:22", (3, 8, 8)),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("decomposed", "dynamic"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize(("spec", "shape"), CASES[:2])
def test_every_form_of_export_gives_the_network_back(
    spec: str,
    shape: tuple[int, int, int],
    decomposed: bool,
    dynamic: bool,
    training: bool,
    wave_: Fill,
    export: Export,
    decompose: Decompose,
    images: Images,
) -> None:
    model = wave_(build(spec, shape, 10)).train(training)
    program = export(model, shape, dynamic=dynamic)
    lifted = from_export(decompose(program) if decomposed else program)
    same(model, lifted, images(shape, batch=5))
    assert macs(lifted, shape) == macs(model, shape)


@pytest.mark.parametrize(("spec", "shape"), CASES[2:])
def test_families(
    spec: str, shape: tuple[int, int, int], wave_: Fill, export: Export, images: Images
) -> None:
    model = wave_(build(spec, shape, 10))
    same(model, from_export(export(model, shape)), images(shape, batch=5))


def same(model: nn.Module, lifted: nn.Module, x: Tensor) -> None:
    """Names, values, outputs in eval mode, outputs and running statistics in train mode."""
    assert model.state_dict().keys() == lifted.state_dict().keys()
    for mode in (False, True):
        model.train(mode)
        lifted.train(mode)
        assert torch.equal(lifted(x), model(x))
    for key, value in model.state_dict().items():
        assert torch.equal(lifted.state_dict()[key], value), key


def test_a_lifted_network_trains_and_is_its_own(wave_: Fill, export: Export, images: Images) -> None:
    model = wave_(build("cnv", (3, 32, 32), 4))
    before = copy.deepcopy(model.state_dict())
    lifted = from_export(export(model.eval(), (3, 32, 32)))
    assert lifted.training
    x, y = images((3, 32, 32), batch=8), torch.arange(8) % 4
    optimiser = torch.optim.SGD(lifted.parameters(), lr=0.05)
    losses: list[float] = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(lifted(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in lifted.parameters())
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_channels_can_be_removed_from_a_lifted_network(
    wave_: Fill, export: Export, decompose: Decompose, images: Images
) -> None:
    model = wave_(build("lenet:2-3-4", (1, 8, 8), 10)).eval()
    lifted = from_export(decompose(export(model, (1, 8, 8), dynamic=False))).eval()
    conv, dense = lifted.get_submodule("conv2"), lifted.get_submodule("fc1")
    for net in (model, lifted):  # silence the last channel, then remove it: nothing changes
        with torch.no_grad():
            net.get_submodule("conv2").weight[-1] = 0  # type: ignore[index, operator]
            net.get_submodule("conv2").bias[-1] = 0  # type: ignore[index, operator]
    conv.weight, conv.bias = nn.Parameter(conv.weight[:-1]), nn.Parameter(conv.bias[:-1])  # type: ignore[index]
    dense.weight = nn.Parameter(dense.weight[:, :8])  # type: ignore[index]
    torch.testing.assert_close(lifted(images((1, 8, 8))), model(images((1, 8, 8))))


def test_it_can_be_copied_and_exported_again(wave_: Fill, export: Export, images: Images) -> None:
    lifted = from_export(export(wave_(build("resnet:20", (1, 8, 8), 3)), (1, 8, 8))).eval()
    again = from_export(export(copy.deepcopy(lifted), (1, 8, 8))).eval()
    assert torch.equal(again(images((1, 8, 8))), lifted(images((1, 8, 8))))


class Odd(nn.Module):
    """What no layer owns: a bare weight, a buffer, a constant, a reused layer, views."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(4, 1, 3, 3))
        self.register_buffer("shift", torch.ones(4, 1, 1))
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.twice = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.drop = nn.Dropout2d(0.25)
        self.fc = nn.Linear(100, 10, bias=False)
        self.gain = nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, self.kernel) + self.shift * torch.tensor([2.0])
        x = nn.functional.conv2d(self.twice(self.twice(x)), self.twice.weight, stride=2, padding=1)
        x = self.drop(self.norm(self.up(x)))
        x = x.view(x.shape[0], 2, 2, *x.shape[2:]).transpose(1, 2)  # shuffle the channels
        x = x.reshape(x.shape[0], -1)
        return self.fc(x).relu_() * self.gain + (self.kernel.sum() - self.fc.weight.t().mean())


@pytest.mark.parametrize("decomposed", [True, False])
def test_what_has_no_layer_is_kept(
    decomposed: bool, wave_: Fill, export: Export, decompose: Decompose, images: Images
) -> None:
    model = wave_(Odd()).eval()
    program = export(model, (1, 8, 8), dynamic=not decomposed)
    lifted = from_export(decompose(program) if decomposed else program).eval()
    batch = images((1, 8, 8), batch=5)
    torch.testing.assert_close(lifted(batch), model(batch))
    names = {name for name, _ in lifted.named_parameters()}
    assert {"kernel", "up.weight", "twice.weight", "fc.weight", "gain"} <= names
    assert isinstance(lifted.get_submodule("twice"), nn.Conv2d)
    assert isinstance(lifted.get_submodule("norm"), nn.BatchNorm2d)
    lifted.train()
    lifted(batch).sum().backward()
    assert all(p.grad is not None for p in lifted.parameters())
    shared = lifted.get_submodule("twice").weight
    assert sum(p is shared for m in lifted.modules() for p in m.parameters(recurse=False)) >= 2


def test_dropout_follows_the_mode(export: Export) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3, bias=False)).eval()
    lifted = from_export(export(model, (1, 2, 2)))
    x = torch.ones(200, 1, 2, 2)
    assert torch.equal(lifted.eval()(x), model(x))
    spread = lifted.train()(x)
    assert len(spread.unique(dim=0)) > 1


class Two(nn.Module):
    """Two inputs or two outputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def forward(self, x: Tensor, y: Tensor | None = None) -> object:
        return x + y if y is not None else (x, x + 1)


def test_several_inputs_or_outputs_are_refused() -> None:
    x = torch.ones(2, 1, 2, 2)
    with pytest.raises(ModelError, match="has 2 inputs and 1 outputs"):
        from_export(torch.export.export(Two(2), (x, x)))
    with pytest.raises(ModelError, match="has 1 inputs and 2 outputs"):
        from_export(torch.export.export(Two(1), (x,)))
