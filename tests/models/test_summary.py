"""Parameters and multiply-accumulates against two independent counts: a closed formula and torchinfo."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
import torchinfo
from torch import Tensor, nn

from tersa.errors import ModelError
from tersa.models import build, macs, parameters, summary

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
ZOO = [
    ("mlp", GREY),
    ("lenet", GREY),
    ("lenet5", GREY),
    ("vgg:11", COLOUR),
    ("vgg-small", (3, 8, 8)),
    ("cnv", COLOUR),
    ("alexnet", (3, 64, 64)),
    ("mobilenet:0.5", COLOUR),
    ("resnet:20", COLOUR),
    ("resnet18", (3, 65, 65)),
    ("densenet:22", COLOUR),
]


def formula(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """c_out h w (c_in / groups) k^2 per convolution and inputs x outputs per fully connected layer."""
    found = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal found
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            found += output[0].numel() * module.in_channels // module.groups * kernel
        elif isinstance(module, nn.Linear):
            found += module.in_features * module.out_features

    probe = copy.deepcopy(model).eval()
    for module in probe.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        probe(torch.zeros(1, *shape))
    return found


@pytest.mark.parametrize(("spec", "shape"), ZOO)
def test_counts_agree_with_formula_and_torchinfo(spec: str, shape: tuple[int, int, int]) -> None:
    model = build(spec, shape, 10)
    found = summary(model, shape)
    assert found.macs == macs(model, shape) == formula(model, shape)
    independent = torchinfo.summary(model, (1, *shape), verbose=0, device="cpu")
    assert found.parameters == parameters(model) == independent.total_params
    assert found.size_bytes == 4 * found.parameters


def test_lenet_layer_by_layer_as_in_document_002() -> None:
    rows = {row.name: row for row in summary(build("lenet", GREY, 10), GREY).rows}
    work = {name: row.macs for name, row in rows.items() if row.macs}
    assert work == {"conv1": 627_200, "conv2": 10_035_200, "fc1": 3_211_264, "fc2": 10_240}
    assert rows["conv2"].output == (64, 14, 14)
    assert rows["pool2"].output == (64, 7, 7)
    assert (rows["fc1"].kind, rows["fc1"].parameters) == ("Linear", 3_211_264 + 1_024)
    assert rows["fc2"].size_bytes == 4 * 10_250


def test_mobilenet_at_224_is_the_papers() -> None:
    model = build("mobilenet:1.0", (3, 224, 224), 1000)
    # Howard et al. (2017), table 4: 569 million multiply-adds, 4.2 million parameters.
    assert round(macs(model, (3, 224, 224)) / 1e6) == 569
    assert parameters(model) == 4_231_976


class Functional(nn.Module):
    """Work called as functions, a layer used twice, a tied weight, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 3, 3))
        self.twice = nn.Conv2d(4, 4, 1, bias=False)
        self.first = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, self.weight)  # (N, 4, 6, 6)
        x = self.twice(self.twice(x)).mean((2, 3))
        return self.tied(self.first(x)) @ torch.ones(4, 2)  # a plain tensor: no pass without storage


def test_functions_repeated_and_tied_layers_are_counted() -> None:
    model = Functional()
    found = summary(model, (1, 8, 8))
    rows = {row.name: row for row in found.rows}
    assert rows["(functions)"].macs == 4 * 36 * 9 + 4 * 2
    assert rows["(functions)"].parameters == 36
    assert rows["twice"].macs == 2 * 36 * 16
    assert (rows["first"].parameters, rows["tied"].parameters) == (16, 0)
    assert found.macs == macs(model, (1, 8, 8)) == 4 * 36 * 9 + 8 + 2 * 36 * 16 + 2 * 16
    assert found.parameters == parameters(model) == 36 + 16 + 16


@pytest.mark.parametrize("count", [macs, summary])
@pytest.mark.parametrize("spec", ["resnet:20", "alexnet"])
def test_counting_disturbs_nothing(spec: str, count: Callable[..., object]) -> None:
    model = build(spec, COLOUR, 10)
    model.eval()
    next(iter(model.children())).train()  # mixed modes must come back as they were
    modes = [m.training for m in model.modules()]
    model(torch.ones(2, *COLOUR)).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    count(model, COLOUR)
    assert torch.equal(torch.rand(1), expected)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_real_pass_keeps_running_statistics_too() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(1, momentum=0.5)

        def forward(self, x: Tensor) -> Tensor:
            self.bn.train()  # a user's forward may do this
            return self.bn(x + float(x.sum()))  # a value: no pass without storage

    model = Odd()
    assert macs(model, (1, 4, 4)) == 0
    assert model.bn.running_mean is not None
    assert torch.equal(model.bn.running_mean, torch.zeros(1))


def test_a_lone_layer_and_a_batch_size() -> None:
    found = summary(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2))
    assert [(row.name, row.output, row.macs) for row in found.rows] == [("0", (4,), 0), ("1", (3,), 12)]
    assert summary(nn.Conv2d(1, 2, 1), (1, 2, 2)).rows[0].name == "(model)"


def test_a_wrong_shape_is_said_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"does not take one image of shape \(3, 28, 28\)") as caught:
        macs(build("lenet", GREY, 10), (3, 28, 28))
    assert "\n" not in str(caught.value)


def test_macs_of_lenet_take_milliseconds() -> None:
    model = build("lenet", GREY, 10)
    seconds: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        macs(model, GREY)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05  # about 3 ms on an idle core; pruning asks after every step
