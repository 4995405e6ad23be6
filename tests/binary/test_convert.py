"""Networks as programs: the logits of torch in eval mode, bit for bit; unknown layers are refused by name."""

import numpy as np
import pytest
import torch
from tests.binary.programs import CLASSES, MEAN, STD, images, network, normalised
from torch import nn

from tersa.binary.convert import convert, describe
from tersa.binary.program import FloatConvolution, Levels, Program, Threshold, Weights
from tersa.binary.runtime import Runner
from tersa.errors import ModelError
from tersa.export.bundle import encode
from tersa.models import zoo
from tersa.prune.surgery import resize_
from tersa.quant.layers import IntegerBatchNorm2d, PixelInput, QuantActivation, QuantConv2d, QuantLinear

RGB, GREY = (3, 32, 32), (1, 28, 28)
SMALL = (3, 16, 16)

EXACT = [
    ("tfc", GREY),
    ("sfc+w1a1:in=1", GREY),
    ("tfc+w2a3:in=4,scale=channel", GREY),
    ("cnv+w1a1", RGB),
    ("cnv+wta2:first=8/8,last=8/8", RGB),
    ("cnv+w3a2:in=4", RGB),
    ("bvgg16", SMALL),
    ("vgg-small+w1a1:scale=channel", SMALL),
    ("bresnet20", SMALL),
    ("bresnet20+wta2", SMALL),
]
FLOAT = [("cnv+w32a1", RGB), ("cnv+w1a32", RGB), ("bresnet20+w1a1:first=float,last=float", SMALL)]
TOLERANCE = 1e-4
"""Of the largest logit: sums of floats in another order. A sign that flips on the way would give far more."""


def converted(model: nn.Module, shape: tuple[int, int, int]) -> Program:
    return convert(model, CLASSES, shape, MEAN[: shape[0]], STD[: shape[0]])


def logits(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(normalised(pixels)).numpy()


@pytest.mark.parametrize(("spec", "shape"), EXACT)
def test_logits_are_the_networks_bit_for_bit(spec: str, shape: tuple[int, int, int]) -> None:
    model = network(spec, shape)
    program = converted(model, shape)
    pixels = images(shape, 9, seed=5)
    wanted = logits(model, pixels)
    assert program.exact
    if "bresnet" not in spec:  # whose shortcuts are real
        assert not any(isinstance(one, Levels) for one in program.operations)
    assert np.array_equal(Runner(program)(pixels), wanted)
    assert len(np.unique(wanted)) > len(CLASSES)
    bits = zoo.bits_of(spec)
    assert bits is not None
    assert program.precision.split(", scale")[0] == bits.describe().split(", scale")[0]


@pytest.mark.parametrize(("spec", "shape"), FLOAT)
def test_float_layers_agree_up_to_rounding(spec: str, shape: tuple[int, int, int]) -> None:
    model = network(spec, shape)
    program = converted(model, shape)
    pixels = images(shape, 6, seed=5)
    wanted = logits(model, pixels)
    found = Runner(program)(pixels)
    assert not program.exact
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    assert np.array_equal(found.argmax(1), wanted.argmax(1))


def test_weights_of_few_bits_stay_so_where_activations_are_floats() -> None:
    program = converted(network("cnv+w1a32", RGB), RGB)
    layers = [one for one in program.operations if isinstance(one, FloatConvolution)]
    assert len(layers) == 8  # the first layer reads bytes, in integers
    assert [type(one.weights) for one in layers] == [Weights] * 8
    assert 25 * len(encode(program)) < 4 * sum(np.prod(one.weights.shape) for one in layers)


def test_a_pruned_network_has_odd_widths_and_the_same_logits() -> None:
    model = network("vgg-small+w1a1", SMALL)
    state = model.state_dict()
    narrow = {name: value.clone() for name, value in state.items()}
    for name in narrow:  # the first two layers lose channels: 128 -> 71 -> 37
        layer = int(name.split(".")[1]) if name.startswith("features") else 99
        if layer in (1, 2):
            narrow[name] = narrow[name][:71] if narrow[name].dim() else narrow[name]
        elif layer in (4, 5):
            kept = narrow[name][:37] if narrow[name].dim() else narrow[name]
            narrow[name] = kept[:, :71] if kept.dim() == 4 else kept
        elif layer == 8:
            narrow[name] = narrow[name][:, :37]
    resize_(model, narrow)
    model.eval()
    pixels = images(SMALL, 5)
    program = converted(model, SMALL)
    assert [
        v.shape[0]
        for v, o in zip(program.values, program.operations, strict=True)
        if isinstance(o, Threshold)
    ][:2] == [71, 37]
    assert np.array_equal(Runner(program)(pixels), logits(model, pixels))


def test_every_byte_is_recovered_from_a_normalised_image() -> None:
    model = nn.Sequential(PixelInput(8, 1), nn.Flatten(), QuantLinear(256, 5, input_bits=8)).eval()
    model[0].settle_(MEAN[:1], STD[:1])
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(Runner(converted(model, (1, 16, 16)))(pixels), logits(model, pixels))


def test_training_mode_is_given_back_and_nothing_is_changed() -> None:
    model = network("tfc", GREY).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted(model, GREY)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_layers_are_refused_by_name() -> None:
    def around(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(PixelInput(8, 3), nn.Sequential(*layers))

    conv = QuantConv2d(3, 8, 3, input_bits=8)
    cases = [
        (around(nn.Conv2d(3, 8, 3)), r"layer '1\.0' \(Conv2d\) has no place in a packed program; known: "),
        (around(conv, nn.BatchNorm2d(8)), r"layer '1\.1' \(BatchNorm2d\) has no place"),
        (
            around(conv, IntegerBatchNorm2d(8), QuantActivation(1), nn.MaxPool2d(2, padding=1)),
            "must pool square",
        ),
        (around(PixelInput(8, 3)), r"'1\.0' is a second PixelInput"),
        (nn.Sequential(conv, PixelInput(8, 3)), r"'0' \(QuantConv2d\) comes before PixelInput"),
        (around(nn.Flatten(), QuantLinear(7, 5, input_bits=8)), "takes 7 values, 768 come in"),
    ]
    for model, message in cases:
        for module in model.modules():
            if isinstance(module, PixelInput):
                module.settle_(MEAN, STD)
        with pytest.raises(ModelError, match=message):
            converted(model, SMALL)
    with pytest.raises(ModelError, match="low-bit layers and the network has none"):
        converted(zoo.build("lenet", GREY, 5), GREY)


def test_grouped_and_biased_convolutions_are_refused() -> None:
    conv = QuantConv2d(3, 9, 3, input_bits=8)
    conv.dilation = (2, 2)
    model = nn.Sequential(PixelInput(8, 3), conv)
    model[0].settle_(MEAN, STD)
    with pytest.raises(ModelError, match=r"layer '1' .* must be a plain convolution"):
        converted(model, SMALL)


def test_pixels_of_other_data_are_refused() -> None:
    model = network("tfc", GREY)
    with pytest.raises(ModelError, match=r"takes pixels normalised by .* train the network on these data"):
        convert(model, CLASSES, GREY, (0.1,), (0.3,))


def test_the_words_for_bits() -> None:
    assert describe(network("cnv+w1a1:first=8/8", RGB)) == "1/1 (W/A), input 8, first 8/8, last 1/1"
    assert describe(network("tfc+wta2", GREY)) == "t/2 (W/A), input 8, first t/8, last t/2"


@pytest.mark.parametrize("bits", [0, 1, 2, 8])
def test_weights_come_back(bits: int) -> None:
    rng = np.random.default_rng(0)
    raw = (
        rng.integers(-1, 2, (5, 3, 3, 7))
        if bits == 0
        else 2 * rng.integers(0, 2**bits, (5, 3, 3, 7)) - 2**bits + 1
    )
    assert np.array_equal(Weights.of(raw, bits).integers(), raw)
