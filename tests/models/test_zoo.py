"""The zoo: shapes, sizes known from the papers, determinism, gradients, export, and the grammar of specs."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from tersa.errors import UsageError
from tersa.models import build, default_spec, known, parameters
from tersa.models.zoo import FAMILIES, bits_of, parse

GREY, COLOUR = (1, 28, 28), (3, 32, 32)

CASES = [
    ("mlp", GREY),
    ("mlp:7", (1, 1, 13)),
    ("mlp:20x20x20", (3, 5, 4)),
    ("lenet", (1, 8, 8)),
    ("lenet:8-16-64", GREY),
    ("lenet:2-3-4", (3, 9, 14)),
    ("lenet5", GREY),
    ("lenet5:4-5-6", (3, 16, 17)),
    ("vgg:11", COLOUR),
    ("vgg-small", (3, 8, 8)),
    ("vgg-small", (1, 28, 28)),
    ("cnv", COLOUR),
    ("alexnet", COLOUR),
    ("alexnet", (3, 64, 64)),
    ("mobilenet:0.25", (1, 8, 8)),
    ("mobilenet:1.0", COLOUR),
    ("mobilenet:0.5", (3, 96, 65)),
    ("resnet:20", (1, 8, 8)),
    ("resnet:32", (3, 17, 17)),
    ("resnet18", COLOUR),
    ("resnet18", (3, 65, 65)),
    ("densenet:22", (1, 9, 9)),
    ("densenet:40", COLOUR),
    ("elman", GREY),
    ("elman:5", (3, 9, 4)),
    ("vit:2x16", GREY),
    ("vit:1x128", (3, 64, 48)),
]


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_logits_have_one_column_per_class(spec: str, shape: tuple[int, int, int]) -> None:
    model = build(spec, shape, 7)
    logits = model(torch.zeros(2, *shape))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert model.training


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["vgg:16", "vgg:19", "alexnet", "mobilenet:1.0", "resnet18", "resnet:20"])
def test_large_images(spec: str) -> None:
    assert build(spec, (3, 224, 224), 10).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 10)


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        # 784 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10: document 000, 2 x 100
        ("mlp:100x100", GREY, 89_610),
        ("mlp:20x20x20x20x20x20", GREY, 18_010),
        ("mlp:4", GREY, 3_190),
        ("elman", GREY, 64 * (28 + 64 + 2) + 64 * 10 + 10),
        # weights of document 002, table 3.1, and one bias per output
        ("lenet", GREY, 800 + 32 + 51_200 + 64 + 3_211_264 + 1_024 + 10_240 + 10),
        ("lenet5", GREY, 431_080),  # Caffe's
        (
            "vgg:11",
            COLOUR,
            9_228_362,
        ),  # 9,225,600 weights, 2 values per normalised channel, 5,130 in the output
        ("vgg:16", COLOUR, 14_724_042),
        ("vgg:11x0.5", COLOUR, 864 + 18_432 + 73_728 + 147_456 + 294_912 + 3 * 589_824 + 2 * 1_376 + 2_570),
        ("alexnet", (3, 224, 224), 57_044_810),  # 61,100,840 of the 1000-class form, less 990 outputs
        ("alexnet:0.25", COLOUR, 5_824 + 19_248 + 41_568 + 55_360 + 36_928 + 263_168 + 1_049_600 + 10_250),
        ("mobilenet:1.0", (3, 224, 224), 3_217_226),  # 4,231,976 of the 1000-class form, less 990 outputs
        ("resnet:20", COLOUR, 269_722 + 2_752),  # the paper's, and its projections with their normalisation
        ("resnet:56", COLOUR, 853_018 + 2_752),
        ("resnet:110", COLOUR, 1_727_962 + 2_752),
        ("resnet18", (3, 224, 224), 11_689_512 - 990 * 513),
        ("densenet:40", COLOUR, 1_019_722),
        ("cnv", COLOUR, 1_144_512 + 1_792 + 393_216 + 2_048 + 5_130),
    ],
)
def test_parameters_are_the_published_ones(spec: str, shape: tuple[int, int, int], expected: int) -> None:
    assert parameters(build(spec, shape, 10)) == expected


def test_vgg11_weights_by_hand() -> None:
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    weights = sum(9 * a * b for a, b in pairwise(channels))
    assert parameters(build("vgg:11", COLOUR, 10)) == weights + 2 * sum(channels[1:]) + 512 * 10 + 10


def test_lenet_has_the_weights_and_names_of_document_002() -> None:
    model = build("lenet", GREY, 10)
    found = {
        name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }
    assert found == {"conv1": 800, "conv2": 51_200, "fc1": 3_211_264, "fc2": 10_240}


def test_the_only_layers_are_plain_ones() -> None:
    plain = (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear, nn.ReLU, nn.Identity, nn.Dropout)
    transformers = (nn.LayerNorm, nn.GELU)
    pools = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    for spec in (name for name in FAMILIES if bits_of(name) is None):
        for module in build(spec, COLOUR, 10).modules():
            if not list(module.children()):
                assert isinstance(module, plain + pools + transformers), (spec, type(module))


@pytest.mark.parametrize("spec", list(FAMILIES))
def test_equal_seeds_give_equal_weights_and_leave_the_global_state(spec: str) -> None:
    torch.manual_seed(5)
    first = build(spec, COLOUR, 10, seed=3).state_dict()
    after = torch.rand(1)
    torch.manual_seed(6)
    second = build(spec, COLOUR, 10, seed=3).state_dict()
    other = build(spec, COLOUR, 10, seed=4).state_dict()
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("spec", list(FAMILIES))
def test_backward_reaches_every_parameter(spec: str, images: Callable[..., torch.Tensor]) -> None:
    model = build(spec, COLOUR, 4)
    nn.functional.cross_entropy(model(images(COLOUR)), torch.tensor([0, 1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "spec", ["lenet", "vgg:11", "cnv", "mobilenet:0.25", "resnet:20", "densenet:22", "alexnet", "elman"]
)
def test_export_with_a_free_batch(spec: str) -> None:
    model = build(spec, COLOUR, 10).eval()
    program = torch.export.export(
        model, (torch.zeros(2, *COLOUR),), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},)
    )
    x = torch.ones(5, *COLOUR)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("spec", ["lenet", "vgg-small", "vgg:11", "alexnet"])
def test_channels_can_be_sliced_away_without_touching_forward(spec: str) -> None:
    """Keep one unit fewer in the last hidden fully connected layer or convolution; the network still runs."""
    model = build(spec, COLOUR, 10).eval()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    last, before = layers[-1], layers[-2]
    step = last.weight.shape[1] // before.weight.shape[0]
    before.weight = nn.Parameter(before.weight[:-1])
    if before.bias is not None:
        before.bias = nn.Parameter(before.bias[:-1])
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)][-1:]:
        norm.weight, norm.bias = nn.Parameter(norm.weight[:-1]), nn.Parameter(norm.bias[:-1])
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean, norm.running_var = norm.running_mean[:-1], norm.running_var[:-1]
    last.weight = nn.Parameter(last.weight[:, :-step])
    assert model(torch.zeros(2, *COLOUR)).shape == (2, 10)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("lenett", GREY, r"unknown model 'lenett'; did you mean 'lenet'\? known: alexnet, bresnet18"),
        ("", GREY, r"unknown model ''; known: "),
        ("mlp:", GREY, r"model 'mlp:': nothing follows the colon; write mlp:100x100"),
        ("mlp:100x", GREY, r"model 'mlp:100x': '' is not a width from 1 to 65536; write mlp:100x100"),
        ("mlp:0", GREY, r"'0' is not a width"),
        ("mlp:" + "x".join("4" * 101), GREY, r"101 hidden layers, at most 100"),
        ("lenet:8-16", GREY, r"model 'lenet:8-16': 2 widths, 3 are needed; write lenet:32-64-1024"),
        ("lenet:8x16x64", GREY, r"'8x16x64' is not a width"),
        ("vgg:12", COLOUR, r"model 'vgg:12': depth '12' is not offered; write vgg:11\|16\|19"),
        ("vgg:11x9", COLOUR, r"model 'vgg:11x9': width multiplier 9.0 is outside 0.05..4; write vgg:11"),
        ("vgg:11x", COLOUR, r"'' is not a width multiplier"),
        ("resnet18:3", COLOUR, r"'resnet18' takes no argument; write resnet18"),
        ("mobilenet:9", COLOUR, r"width multiplier 9.0 is outside 0.05..4"),
        ("mobilenet:wide", COLOUR, r"'wide' is not a width multiplier"),
        ("alexnet:0", COLOUR, r"width multiplier 0.0 is outside 0.05..4; write alexnet:1.0"),
        ("lenet5", (1, 8, 8), r"model 'lenet5' takes images from 16x16 to 224x224, the data have 8x8"),
        ("vgg:16", GREY, r"model 'vgg:16' takes images from 32x32 to 224x224, the data have 28x28"),
        ("cnv", (3, 31, 32), r"from 32x32 to 64x64, the data have 31x32"),
        ("resnet:20", (1, 1, 64), r"the data have 1x64; 'mlp:100x100' takes any size"),
        ("alexnet", (3, 256, 256), r"from 32x32 to 224x224"),
        ("mlp:65536x65536", GREY, r"would have 4,3\d\d,\d{3},\d{3} parameters, at most 500,000,000"),
        ("lenet:65536-65536-65536", GREY, r"at most 500,000,000 are built; choose smaller widths"),
        ("lenet", (0, 28, 28), r"images of shape 0x28x28 have no pixels"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    spec: str, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build(spec, shape, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("classes", "seed"), [(0, 0), (-1, 0), (10, -1), (10, 2**64)])
def test_numbers_out_of_range(classes: int, seed: int) -> None:
    with pytest.raises(UsageError):
        build("lenet", GREY, classes, seed=seed)


words = st.sampled_from([*FAMILIES, "LENET", "vgg:", "resnet::20", "é", "mobilenet:1e3", "mlp:٣"])
arguments = st.text(alphabet="0123456789x-.:+eE ", max_size=12) | st.text(max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=12) | words | st.builds("{}:{}".format, words, arguments))
@example("mlp:1x-1")
@example("mobilenet:1.")
@example("mobilenet:nan")
@example("lenet:999999999-1-1")
@example("vgg:+16")
def test_a_spec_is_built_or_refused_and_never_anything_else(spec: str) -> None:
    with torch.device("meta"):  # the grammar is under test, not the memory
        try:
            family, argument = parse(spec)
            model = family.build(argument, COLOUR, 10)
        except UsageError:
            return
    assert isinstance(model, nn.Module)


def test_every_default_is_buildable_and_every_grammar_starts_with_the_name() -> None:
    assert len(known()) == len(FAMILIES)
    for family in FAMILIES.values():
        assert family.grammar.startswith(family.name)
        assert family.takes_argument == bool(family.default)
        family.build(family.default, COLOUR, 10)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 8, 8), "lenet"),
        ((1, 28, 28), "lenet"),
        ((3, 32, 32), "vgg-small"),
        ((3, 8, 8), "vgg-small"),
        ((1, 64, 64), "vgg-small"),
        ((1, 1, 30), "mlp:64x64"),
        ((3, 4, 4), "mlp:64x64"),
        ((3, 96, 96), "mobilenet:1.0"),
        ((3, 224, 224), "mobilenet:1.0"),
    ],
)
def test_the_default_model_fits_its_data(shape: tuple[int, int, int], expected: str) -> None:
    assert default_spec(shape, 10) == expected
    with torch.device("meta"):
        build(expected, shape, 10)


def test_building_is_quick() -> None:
    build("lenet", GREY, 10)
    start = time.perf_counter()
    build("lenet", GREY, 10)
    assert time.perf_counter() - start < 1.0  # about 15 ms; a second means that something is wrong
