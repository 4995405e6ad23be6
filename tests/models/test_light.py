"""Light modules: what they cost, that they fit where a convolution was, and every way to ask for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from tersa.errors import UsageError
from tersa.export.artefact import Header
from tersa.export.check import classify
from tersa.export.onnx import export_onnx
from tersa.models import build, load, macs, parameters
from tersa.models.light import (
    ConvSettings,
    Fire,
    SeparableConv,
    Shift,
    ShiftConv,
    closest_separable,
    draw_,
    one_hot_kernels,
)
from tersa.models.light_costs import conv_macs, fire_macs, separable_gain, separable_macs, shift_macs
from tersa.models.lighten import KINDS, Lightening, lighten_, split
from tersa.models.load import kind_of
from tersa.models.summary import summary
from tersa.models.zoo import parse
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_, resize_, verify
from tersa.recipes.subjects import find_subject
from tersa.recipes.train import run_training
from tersa.recipes.train_request import TrainRequest

Fill = Callable[[nn.Module], nn.Module]
SHAPE = (1, 12, 12)
SPEC = "lenet:8-9-10"
ROUNDING = 1e-5
"""float32 sums of some hundred terms of order 1, in another order."""
SPREAD = 0.03
"""Four standard errors of the standard deviation of 10,000 draws."""
ONNX_ROUNDING = 1e-4
"""The same, through a runtime that fuses layers."""

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 5},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 5, "padding": 1, "stride": 3},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 3},
    {"kernel_size": 2},
    {"kernel_size": (1, 4), "padding": (0, 2)},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
]


@pytest.fixture
def fill_(wave_: Fill) -> Fill:
    """Sines in every weight, shifts as they were."""

    def fill(model: nn.Module) -> nn.Module:
        wave_(model)
        for module in model.modules():
            if isinstance(module, Shift):
                kernel: Any = module.kernel_size
                module.weight.copy_(one_hot_kernels(module.in_channels, kernel))
        return model

    return fill


def waves(*shape: int) -> Tensor:
    count = int(np.prod(shape))
    return torch.sin(0.37 * torch.arange(count, dtype=torch.float32) + 0.1).reshape(shape)


def made(kind: str, conv: nn.Conv2d, squeeze: float = 0.25) -> nn.Module:
    return KINDS[kind](ConvSettings.of(conv), squeeze)


# ---- costs


def test_the_documents_numbers_for_lenets_second_convolution() -> None:
    assert conv_macs((5, 5), 32, 64, (14, 14)) == 10_035_200  # table 3.1
    assert separable_macs((5, 5), 32, 64, (14, 14)) == 25 * 32 * 196 + 64 * 32 * 196
    assert fire_macs((5, 5), 32, 64, 8, (14, 14)) == (32 * 8 + 8 * 32 + 25 * 8 * 32) * 196
    assert shift_macs(32, 64, (14, 14)) == 64 * 32 * 196


side, width = st.integers(1, 7), st.integers(1, 40)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(side, side, width, width, width, width)
def test_the_gain_is_the_ratio_of_the_costs(kh: int, kw: int, d: int, out: int, h: int, w: int) -> None:
    dense = conv_macs((kh, kw), d, out, (h, w))
    assert separable_macs((kh, kw), d, out, (h, w)) / dense == pytest.approx(separable_gain((kh, kw), out))
    assert separable_macs((kh, kw), d, out, (h, w)) == shift_macs(d, out, (h, w)) + kh * kw * d * h * w


@pytest.mark.parametrize("outputs", [6, 7])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_formulas_are_what_the_modules_execute(geometry: dict[str, Any], outputs: int) -> None:
    conv = nn.Conv2d(4, outputs, **geometry)
    kernel: Any = conv.kernel_size
    size = tuple(conv(torch.zeros(1, 4, 11, 13)).shape[2:])
    images = (4, 11, 13)
    assert macs(conv, images) == conv_macs(kernel, 4, outputs, size)
    assert macs(made("separable", conv), images) == separable_macs(kernel, 4, outputs, size)
    assert macs(made("fire", conv, 0.5), images) == fire_macs(
        kernel, 4, outputs, round(outputs / 2), size, (11, 13)
    )
    shift = summary(made("shift", conv), images)
    assert shift.macs == separable_macs(kernel, 4, outputs, size)
    assert {row.name: row.macs for row in shift.rows}["pointwise"] == shift_macs(4, outputs, size)


# ---- modules


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
)
def test_a_light_module_gives_an_output_of_the_convolutions_size(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    bias: bool,
) -> None:
    assume(all(d * (k - 1) < 9 + 2 * p for k, p, d in zip(kernel, padding, dilation, strict=True)))
    conv = nn.Conv2d(4, 5, kernel, stride, padding, dilation, bias=bias)
    x = waves(2, 4, 9, 9)
    for kind in KINDS:
        assert made(kind, conv)(x).shape == conv(x).shape, kind


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_separable_convolution_is_a_dense_one_of_rank_one(geometry: dict[str, Any], fill_: Fill) -> None:
    conv = nn.Conv2d(4, 6, **geometry)
    light = fill_(SeparableConv(ConvSettings.of(conv)))
    assert isinstance(light, SeparableConv)
    with torch.no_grad():  # w[o, i] = p[o, i] d[i]
        conv.weight.copy_(light.pointwise.weight * light.depthwise.weight.transpose(0, 1))
        assert conv.bias is not None
        assert light.pointwise.bias is not None
        conv.bias.copy_(light.pointwise.bias)
    x = waves(2, 4, 9, 9)
    torch.testing.assert_close(light(x), conv(x), atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_both_halves_of_fire_look_at_the_same_place(geometry: dict[str, Any], wave_: Fill) -> None:
    """A large expansion whose kernels are zero but at their centre gives what the small one gives."""
    zeros: dict[str, Any] = {**geometry, "padding_mode": "zeros"}
    conv = nn.Conv2d(4, 6, **zeros)
    fire = wave_(Fire(ConvSettings.of(conv), 0.5))
    assert isinstance(fire, Fire)
    rows, columns = fire.expand_large.kernel_size
    assert fire.expand_large.bias is not None
    assert fire.expand_small.bias is not None
    with torch.no_grad():
        fire.expand_large.weight.zero_()
        centre = fire.expand_large.weight[:, :, (rows - 1) // 2, (columns - 1) // 2]
        centre.copy_(fire.expand_small.weight[:, :, 0, 0])
        fire.expand_large.bias.copy_(fire.expand_small.bias)
    small, large = fire(waves(2, 4, 9, 9)).split(3, dim=1)
    torch.testing.assert_close(small, large, atol=ROUNDING, rtol=ROUNDING)


def test_fire_squeezes_with_relu_and_gives_the_odd_output_to_the_small_half(wave_: Fill) -> None:
    fire = wave_(Fire(ConvSettings(4, 7, (3, 3), padding=(1, 1)), 0.3))
    assert isinstance(fire, Fire)
    x = waves(2, 4, 5, 5)
    squeezed = F.relu(F.conv2d(x, fire.squeeze.weight, fire.squeeze.bias))
    assert squeezed.shape[1] == 2  # round(0.3 * 7)
    halves = (fire.expand_small(squeezed), fire.expand_large(squeezed))
    assert [half.shape[1] for half in halves] == [4, 3]
    assert torch.equal(fire(x), torch.cat(halves, 1))
    assert Fire(ConvSettings(4, 2, (3, 3)), 0.01).squeeze.out_channels == 1


def test_a_shift_moves_channels_and_has_nothing_to_train() -> None:
    shift = Shift(ConvSettings(20, 20, (3, 3), padding=(1, 1)))
    x = waves(2, 20, 6, 7)
    padded = F.pad(x, (1, 1, 1, 1))
    for channel in range(18):  # two channels to each of nine taps, row by row
        row, column = divmod(channel // 2, 3)
        assert torch.equal(shift(x)[:, channel], padded[:, channel, row : row + 6, column : column + 7])
    assert torch.equal(shift(x)[:, 18], x[:, 18])  # the first of the rest stays where it is
    assert torch.equal(shift(x)[:, 19, 1:], x[:, 19, :-1])  # the second moves down by one
    assert list(shift.parameters()) == []
    assert list(shift.state_dict()) == ["weight"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), side, side)
def test_every_step_is_taken_about_as_often(channels: int, rows: int, columns: int) -> None:
    kernels = one_hot_kernels(channels, (rows, columns))
    assert kernels.shape == (channels, 1, rows, columns)
    assert torch.equal(kernels.flatten(1).sum(1), torch.ones(channels))
    assert torch.equal(kernels.flatten(1).amax(1), torch.ones(channels))
    often = kernels.sum(0)
    assert float(often.max() - often.min()) <= 1
    assert often[0, (rows - 1) // 2, (columns - 1) // 2] == often.max()


def test_drawn_weights_have_the_spread_that_was_said() -> None:
    light = SeparableConv(ConvSettings(400, 100, (5, 5)))
    draw_(light, torch.Generator().manual_seed(1))
    depth, point = light.depthwise.weight.detach(), light.pointwise.weight.detach()
    assert float(depth.std()) == pytest.approx((1 / 25) ** 0.5, rel=SPREAD)
    assert float(point.std()) == pytest.approx((2 / 400) ** 0.5, rel=SPREAD)
    assert light.pointwise.bias is not None
    assert not light.pointwise.bias.any()


# ---- from trained weights


def test_weights_of_rank_one_are_found_exactly() -> None:
    depth, point = waves(3, 1, 5, 2), torch.cos(waves(7, 3, 1, 1) * 9)
    weight = point * depth.transpose(0, 1)
    found_depth, found_point = closest_separable(weight)
    assert found_depth.shape == depth.shape
    assert found_point.shape == point.shape
    torch.testing.assert_close(found_point * found_depth.transpose(0, 1), weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(7, 3, 3, 3), (2, 5, 5, 5), (9, 1, 1, 4)])
def test_what_is_lost_are_the_other_singular_values(shape: tuple[int, ...]) -> None:
    weight = torch.sin(waves(*shape) * 17)
    depth, point = closest_separable(weight)
    lost = (weight - point * depth.transpose(0, 1)).square().sum()
    matrices = weight.transpose(0, 1).flatten(2)
    torch.testing.assert_close(
        lost, torch.linalg.svdvals(matrices)[:, 1:].square().sum(), rtol=1e-4, atol=1e-6
    )
    peaks = depth.flatten(1).gather(1, depth.flatten(1).abs().argmax(1, keepdim=True))
    assert (peaks > 0).all()


def test_a_network_of_rank_one_is_lightened_without_a_trace() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2))
    with torch.no_grad():
        for conv in (net[0], net[2]):
            assert isinstance(conv, nn.Conv2d)
            out, inputs = conv.weight.shape[:2]
            conv.weight.copy_(waves(out, inputs, 1, 1) * torch.cos(waves(1, inputs, 3, 3) * 5))
    x = waves(2, 4, 9, 9)
    expected = net(x)
    assert lighten_(net, "separable", start="weights") == ["0", "2"]
    torch.testing.assert_close(net(x), expected, atol=ROUNDING, rtol=ROUNDING)


# ---- replacing


def test_what_is_replaced_unasked() -> None:
    net = nn.ModuleDict(
        {
            "pixels": nn.Conv2d(3, 8, 3),
            "dense": nn.Conv2d(8, 8, 3),
            "line": nn.Conv2d(8, 8, (1, 3)),
            "point": nn.Conv2d(8, 8, 1),
            "groups": nn.Conv2d(8, 8, 3, groups=2),
            "turned": nn.ConvTranspose2d(8, 8, 3),
            "head": nn.Linear(8, 2),
        }
    )
    assert lighten_(copy.deepcopy(net), "shift") == ["dense", "line"]
    assert lighten_(copy.deepcopy(net), "shift", ["line", "pixels"]) == ["pixels", "line"]
    assert lighten_(copy.deepcopy(net), "shift", ["d*", "dense", "*"]) == ["dense", "line"]
    assert lighten_(net, "fire") == ["dense", "line"]
    assert isinstance(net["dense"], Fire)
    with pytest.raises(
        UsageError, match=r"'dense.expand_large' cannot become shift: it is part of a light mod"
    ):
        lighten_(net, "shift", ["dense.expand_large"])


def test_a_replaced_layer_keeps_place_mode_type_and_device() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    net = nn.Sequential(shared, nn.ReLU(), shared).double()
    shared.eval()
    assert lighten_(net, "separable") == ["0"]
    light = net[0]
    assert isinstance(light, SeparableConv)
    assert light is net[2]
    assert not light.training
    assert light.pointwise.bias is None
    assert light.depthwise.weight.dtype == torch.float64
    with torch.device("meta"):
        for kind in KINDS:
            blank = build(f"{SPEC}+{kind}", SHAPE, 10)
            assert all(t.is_meta for t in blank.state_dict().values()), kind
            assert blank(torch.zeros(2, *SHAPE)).shape == (2, 10)


@pytest.mark.parametrize("kind", list(KINDS))
def test_equal_seeds_give_equal_weights_and_leave_the_global_state(kind: str) -> None:
    spec = f"vgg-small+{kind}@features.3,features.7" if kind == "fire" else f"{SPEC}+{kind}"
    shape = (3, 8, 8)
    torch.manual_seed(5)
    first = build(spec, shape, 10, seed=3).state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    second, other = build(spec, shape, 10, seed=3).state_dict(), build(spec, shape, 10, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    drawn = [key for key in first if first[key].dim() == 4 and "shift" not in key]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)
    loaded = load(spec, shape, 10, seed=3).module.state_dict()
    assert all(torch.equal(first[key], loaded[key]) for key in first)


def test_a_layers_weights_do_not_depend_on_which_others_are_replaced() -> None:
    few = build("resnet:20+separable@layer2.0.conv1", (3, 8, 8), 10).state_dict()
    many = build("resnet:20+separable", (3, 8, 8), 10).state_dict()
    key = "layer2.0.conv1.pointwise.weight"
    assert torch.equal(few[key], many[key])
    assert not torch.equal(many[key], many["layer2.1.conv1.pointwise.weight"][:, :16])


@pytest.mark.parametrize(
    ("layers", "more", "message"),
    [
        (["*"], {"kind": "sep"}, "unknown light module 'sep'; did you mean 'separable'"),
        (["conv3"], {}, "unknown layer 'conv3'; did you mean 'conv2'"),
        (["fc1"], {}, "layer 'fc1' cannot become fire: it is a Linear, not a plain 2-D convolution"),
        (
            ["conv1*"],
            {},
            "no layer that matches 'conv1\\*' can become fire: conv1: with 1 input channels it is",
        ),
        (["conv2", "x*"], {}, "no convolution matches 'x\\*', nothing becomes fire; known: conv1, conv2"),
        (["*"], {"squeeze": 0.0}, "squeeze ratio 0 is outside 0..1"),
        (["*"], {"start": "weights"}, "only separable convolutions can be derived from weights, not fire"),
    ],
)
def test_a_request_that_replaces_nothing_is_one_line(
    layers: list[str], more: dict[str, Any], message: str
) -> None:
    model = build(SPEC, SHAPE, 10)
    before = {name: type(module) for name, module in model.named_modules()}
    asked: dict[str, Any] = {"kind": "fire", "layers": layers, **more}
    with pytest.raises(UsageError, match=message) as caught:
        lighten_(model, **asked)
    assert "\n" not in str(caught.value)
    assert {name: type(module) for name, module in model.named_modules()} == before


# ---- specs


@pytest.mark.parametrize(
    ("spec", "base", "expected"),
    [
        ("lenet", "lenet", ()),
        (" lenet+shift ", "lenet", (Lightening("shift"),)),
        ("resnet:20+fire:0.5@layer1*, conv1", "resnet:20", (Lightening("fire", ("layer1*", "conv1"), 0.5),)),
        (
            "vgg:11+shift@features.4+fire",
            "vgg:11",
            (Lightening("shift", ("features.4",)), Lightening("fire")),
        ),
        ("a+b/net.py:build+shift", "a+b/net.py:build", (Lightening("shift"),)),
        ("a+b/net.py", "a+b/net.py", ()),
        ("net.py+fire", "net.py", (Lightening("fire"),)),
        ("a+b.pt2+separable", "a+b.pt2", (Lightening("separable"),)),
        ("a+b/net.onnx", "a+b/net.onnx", ()),
        ("a+b/net", "a+b/net", ()),
    ],
)
def test_specs_are_taken_apart(spec: str, base: str, expected: tuple[Lightening, ...]) -> None:
    assert split(spec) == (base, expected)


def test_the_zoo_and_the_loader_read_the_same_grammar() -> None:
    assert parse("resnet:32+fire@layer1*") == parse("resnet:32")
    assert kind_of("a+b/net.py:build+shift") == "builder"
    assert kind_of("m.pt2+shift") == "export"
    assert kind_of("lenet+shift") == "zoo"
    model = build("vgg-small+shift@features.3+fire@features.1*", (3, 8, 8), 10)
    found = {
        name: type(m) for name, m in model.named_modules() if isinstance(m, SeparableConv | Fire | ShiftConv)
    }
    assert found == {"features.3": ShiftConv, "features.10": Fire, "features.14": Fire, "features.17": Fire}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lenet+", "model 'lenet\\+': nothing follows the plus; write \\+separable"),
        ("lenet+shfit", "unknown light module 'shfit'; did you mean 'shift'"),
        ("lenet+shift:2", "model 'lenet\\+shift:2': 'shift' takes no argument"),
        ("lenet+fire:", "'' is not a squeeze ratio"),
        ("lenet+fire:1.5", "'1.5' is not a squeeze ratio above 0 and at most 1"),
        ("lenet+fire:nan", "'nan' is not a squeeze ratio"),
        ("lenet+fire@", "a layer's name is missing after the @"),
        ("lenet+fire@conv2,,conv1", "a layer's name is missing"),
        ("lenett+fire", "unknown model 'lenett'; did you mean 'lenet'"),
        ("mlp:8+fire", "nothing can become fire: the network has no convolution"),
        ("mobilenet:0.25+fire", "no layer that matches '\\*' can become fire: stem: .* and 23 more$"),
        ("resnet:20+shift@layer1", "it is a Sequential, .*; for the layers below it write layer1\\.\\*"),
        ("lenet+fire+shift", "'\\*' can become shift: .*conv2.squeeze: it is part of a light module"),
    ],
)
def test_a_malformed_spec_is_one_line(spec: str, message: str) -> None:
    for make in (build, load):
        with pytest.raises(UsageError, match=message) as caught:
            make(spec, (1, 28, 28), 10)
        assert "\n" not in str(caught.value)


def test_a_users_network_and_its_checkpoint(tmp_path: Path, fill_: Fill) -> None:
    (tmp_path / "a+b").mkdir()
    (tmp_path / "a+b" / "net.py").write_text(
        "from torch import nn\ndef make(classes):\n    convs = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 5)\n"
        "    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(144, classes))\n"
    )
    spec = f"{tmp_path}/a+b/net.py:make+shift"
    found = load(spec, SHAPE, 5, seed=2)
    assert (found.kind, found.trained, found.spec) == ("builder", False, spec)
    torch.save(fill_(found.module).state_dict(), tmp_path / "w.pt")
    again = load(spec, SHAPE, 5, checkpoint=tmp_path / "w.pt")
    assert again.trained
    x = waves(2, *SHAPE)
    assert torch.equal(found.module.eval()(x), again.module.eval()(x))


def test_an_exported_programs_weights_give_the_start(
    fill_: Fill,
    export: Callable[..., ExportedProgram],
    save_program: Callable[[ExportedProgram], Path],
) -> None:
    source = fill_(build(SPEC, SHAPE, 10)).eval()
    path = save_program(export(source, SHAPE))
    found = load(f"{path}+separable", SHAPE, 10)
    assert (found.kind, found.trained) == ("export", False)
    light = found.module.get_submodule("conv2")
    assert isinstance(light, SeparableConv)
    depth, _ = closest_separable(source.get_parameter("conv2.weight"))
    torch.testing.assert_close(light.depthwise.weight, depth)
    lighten_(source, "separable", start="weights")
    x = waves(2, *SHAPE)
    torch.testing.assert_close(found.module.eval()(x), source(x))


# ---- the rest of the line: pruning, export, training


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(("spec", "shape"), [(SPEC, SHAPE), ("resnet:20", (3, 8, 8))])
def test_a_pruned_light_network_is_rebuilt_from_its_spec_and_weights(
    spec: str, shape: tuple[int, int, int], kind: str, fill_: Fill
) -> None:
    model = fill_(build(f"{spec}+{kind}", shape, 10)).eval()
    groups = find_groups(model, shape)
    units = torch.cat([group.units[1::3] for group in groups.groups])
    x = waves(2, *shape)
    verify(model, groups, units, x)
    remove_(model, groups, units)
    again = build(f"{spec}+{kind}", shape, 10, seed=9).eval()
    resize_(again, {name: value.clone() for name, value in model.state_dict().items()})
    assert torch.equal(again(x), model(x))
    assert parameters(again) < parameters(build(f"{spec}+{kind}", shape, 10))
    assert len(find_groups(again, shape).units) == len(groups.units) - len(units)


@pytest.mark.parametrize("kind", ["fire", "shift"])
def test_an_exported_light_network_computes_the_same(kind: str, fill_: Fill, tmp_path: Path) -> None:
    """Unpadded convolutions: fire's small half is cropped, which ONNX writes as a negative pad."""
    shape = (1, 16, 16)
    model = fill_(build(f"lenet5:6-7-8+{kind}", shape, 4)).eval()
    pixels = waves(5, *shape).square()
    artefact = export_onnx(model, Header(tuple("abcd"), shape, (0.5,), (0.25,)), tmp_path / "m.onnx")
    with torch.no_grad():
        expected = model((pixels - 0.5) / 0.25).numpy()
    np.testing.assert_allclose(
        classify(artefact.path, pixels), expected, atol=ONNX_ROUNDING, rtol=ONNX_ROUNDING
    )


def test_a_light_network_learns_from_the_original_and_its_folder_gives_it_again(tmp_path: Path) -> None:
    short: dict[str, Any] = {"settings": {"iterations": 60}, "data": "digits"}
    first = run_training(TrainRequest(model="lenet:4-8-16", **short), tmp_path / "teacher")
    assert first.status == "done"
    short["settings"]["distillation"] = "temperature"
    pupil = run_training(
        TrainRequest(
            model="lenet:4-8-16+separable",
            teacher="lenet:4-8-16",
            teacher_checkpoint=str(tmp_path / "teacher" / "model.safetensors"),
            **short,
        ),
        tmp_path / "pupil",
    )
    assert (pupil.status, pupil.model) == ("done", "lenet:4-8-16+separable")
    assert pupil.macs < first.macs
    assert pupil.test_accuracy > 30.0  # chance is 10
    found = find_subject(str(tmp_path / "pupil"), None)
    assert found.module is not None
    assert isinstance(found.module.get_submodule("conv2"), SeparableConv)
