"""Low-bit networks: the suffix of a spec, what layers it gives, and that eval mode computes with integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tersa.errors import TersaError, UsageError
from tersa.models import build, load
from tersa.models.bresnet import BinaryBlock
from tersa.models.zoo import LOW_BIT, bits_of
from tersa.quant.layers import PixelInput, QuantActivation, QuantConv2d, QuantLinear, SumPool2d

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
SIGNS, PLAIN = {-1.0, 1.0}, "1/1 (W/A), input 8, first 1/8, last 1/1"


def shape_of(name: str) -> tuple[int, int, int]:
    return GREY if name in ("tfc", "sfc", "lfc") else COLOUR


def watched(model: nn.Module, images: Tensor) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Name -> (layer, its input, its output) of every low-bit layer, for one batch."""
    found: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (QuantConv2d, QuantLinear)):
            module.register_forward_hook(lambda m, i, o, name=name: found.update({name: (m, i[0], o)}))
    with torch.no_grad():
        model(images)
    return found


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("bvgg16", PLAIN),
        ("cnv+w1a1", PLAIN),
        ("sfc+w1a1:in=1", "1/1 (W/A), input 1, first 1/1, last 1/1"),
        ("sfc+w1a1:first=1/1", "1/1 (W/A), input 1, first 1/1, last 1/1"),
        ("vgg:11+w2a3", "2/3 (W/A), input 8, first 2/8, last 2/3"),
        ("cnv+wta2", "t/2 (W/A), input 8, first t/8, last t/2"),
        ("bvgg16+w1a1:first=8/8,last=8/8", "1/1 (W/A), input 8, first 8/8, last 8/8"),
        ("bresnet18+w1a1:first=float,last=float", "1/1 (W/A), input 32, first 32/32, last 32/32"),
        ("cnv+w1a1:by=tanh,scale=channel,shape=recu", f"{PLAIN}, by=tanh, scale=channel, shape=recu"),
        ("vgg-small+w1a1:scale=xnor", f"{PLAIN}, scale=xnor"),
        ("cnv+w1a32:draw=stochastic", "1/32 (W/A), input 8, first 1/8, last 1/32, draw=stochastic"),
    ],
)
def test_a_spec_says_its_bits(spec: str, expected: str) -> None:
    bits = bits_of(spec)
    assert bits is not None
    assert bits.describe() == expected
    build(spec, shape_of(spec.partition("+")[0]), 10)


def test_a_network_in_floating_point_has_no_bits() -> None:
    assert bits_of("cnv") is None
    assert bits_of("lenet+shift") is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lenet+w1a1", "'lenet' has no low-bit form; these have: bvgg16, vgg"),
        ("cnv+w9a1", "'9' bits of weights; allowed: 1 to 8, t for ternary, 32 for float"),
        ("cnv+w1at", "'t' bits of activations; allowed: 1 to 8, 32"),
        ("cnv+w1a1:in=0", "'0' bits of pixels"),
        ("cnv+w1a1:", "'' is not key=value"),
        ("cnv+w1a1:inn=1", "unknown low-bit setting 'inn'; did you mean 'in'"),
        ("cnv+w1a1:in=1,in=1", "in is given twice"),
        ("cnv+w1a1:in=1,first=8/8", "in=1 and first=8/8 disagree"),
        ("cnv+w1a1:last=8", "'8' is neither W/A, as in 8/8, nor float"),
        ("cnv+w1a1:by=step", "unknown by 'step'; did you mean 'ste'"),
        ("cnv+w2a2:by=approx", "by=approx is for 1 bit, and nothing has 1 bit"),
        ("cnv+w2a1:draw=stochastic", "draw=stochastic is for weights of 1 bit"),
        ("cnv+w32a1:scale=channel", "float weights take no scale"),
        ("cnv+w1a2:scale=xnor", "scale=xnor is for w1a1"),
        ("cnv+w1a1:by=ste/step", "unknown by 'step'; did you mean 'ste'"),
        ("cnv+w1a1:by=ste/ste/ste", "names more than two estimators"),
        ("cnv+w1a2:by=ste/approx", "is for 1 bit of weights and of activations; give one"),
        ("cnv+w1a1:pool=maps", "unknown pool 'maps'; known: signs, sums"),
        ("bresnet20+w1a1:pool=sums", "pool=sums is for networks with poolings"),
        ("sfc+w1a1:pool=sums", "pool=sums is for networks with poolings"),
        ("cnv+w1a1:draw=stochastic,by=tanh", "draw=stochastic is estimated by ste, not tanh"),
        ("cnv+w1a1+separable", "not a plain 2-D convolution"),
        ("cnv+w1a1+w2a2", "unknown light module 'w2a2'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(spec, COLOUR, 10)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOW_BIT)
def test_every_family_is_fully_binary_at_one_bit(name: str, images: Callable[..., Tensor]) -> None:
    """Each layer reads signs (the first pixels, a residual network's last sums of signs), adds exactly."""
    shape = shape_of(name)
    spec = f"{name}:11" if name == "vgg" else name
    model = build(f"{spec}+w1a1", shape, 10).eval()
    layers = watched(model, images(shape, 2))
    for place, (layer, inputs, sums) in enumerate(layers.values()):
        assert isinstance(layer, (QuantConv2d, QuantLinear))
        assert set(layer.integer_weight().unique().tolist()) == SIGNS
        if place == 0:
            assert inputs.remainder(2).eq(1).all()
            assert inputs.abs().max() <= 255
        elif getattr(layer, "places", 1) == 1:
            assert set(inputs.unique().tolist()) <= SIGNS
        assert torch.equal(sums, sums.round())
        assert sums.abs().max() <= layer.largest_sum


@pytest.mark.parametrize(
    ("spec", "activation", "weight"),
    [("cnv+w2a3", 7, {-3.0, -1.0, 1.0, 3.0}), ("cnv+wta2", 3, {-1.0, 0.0, 1.0})],
)
def test_more_bits_are_odd_integers(
    spec: str, activation: int, weight: set[float], images: Callable[..., Tensor]
) -> None:
    layers = list(watched(build(spec, COLOUR, 10).eval(), images(COLOUR, 2)).values())
    for layer, inputs, sums in layers[1:]:
        assert inputs.remainder(2).eq(1).all()
        assert inputs.abs().max() <= activation
        assert set(layer.integer_weight().unique().tolist()) == weight
        assert torch.equal(sums, sums.round())


def test_first_and_last_layers_have_bits_of_their_own(images: Callable[..., Tensor]) -> None:
    layers = list(
        watched(build("bvgg16+w1a1:first=8/8,last=8/8", COLOUR, 10).eval(), images(COLOUR)).values()
    )
    assert [layer.form.bits for layer, _, _ in layers] == [8, *[1] * 13, 8]
    assert [layer.input_bits for layer, _, _ in layers] == [8, *[1] * 13, 8]
    assert layers[-1][1].abs().max() > 3


def test_bvgg16_is_the_documents() -> None:
    model = build("bvgg16", COLOUR, 10)
    convolutions = [m.out_channels for m in model.modules() if isinstance(m, QuantConv2d)]
    assert convolutions == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, QuantLinear)] == [
        (512, 1024),
        (1024, 10),
    ]
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 3
    assert sum(isinstance(m, SumPool2d) for m in model.modules()) == 1


def test_the_vote_is_the_sum_of_a_channels_signs(images: Callable[..., Tensor]) -> None:
    model = build("bvgg16", COLOUR, 10).eval()
    at = next(i for i, m in enumerate(model.features) if isinstance(m, SumPool2d))
    maps = model.features[:at](images(COLOUR))
    assert maps.shape[1:] == (512, 4, 4)
    assert torch.equal(model.features[at](maps), 2 * (maps > 0).sum((2, 3)).float() - 16)


def test_pixels_come_first_and_signs_before_the_maximum() -> None:
    features = build("cnv+w1a1", COLOUR, 10).features
    kinds = [type(m).__name__ for m in features]
    assert isinstance(features[0], PixelInput)
    block = ["QuantConv2d", "IntegerBatchNorm2d", "QuantActivation"]
    assert kinds[1:8] == [*block, *block, "MaxPool2d"]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_adds_its_convolution_to_the_real_values(stride: int, images: Callable[..., Tensor]) -> None:
    model = build("bresnet20", COLOUR, 10).eval()
    block = next(m for m in model if isinstance(m, BinaryBlock) and m.conv.stride[0] == stride)
    x = images((block.conv.in_channels, 8, 8)) - 0.4
    shortcut = x
    if stride == 2:
        mean = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
        shortcut = torch.cat([mean, mean], 1)
    signs = QuantActivation()(x)
    torch.testing.assert_close(block(x), shortcut + block.norm(block.conv(signs)))


def test_odd_sides_halve_alike_in_both_paths(images: Callable[..., Tensor]) -> None:
    assert build("bresnet20", (3, 13, 9), 10)(images((3, 13, 9))).shape == (3, 10)


def test_weights_come_back_from_a_checkpoint_with_equal_logits(
    tmp_path: Path, images: Callable[..., Tensor]
) -> None:
    spec = "cnv+w1a1:by=approx,scale=lab,last=8/8"
    model = build(spec, COLOUR, 10, seed=3)
    model(images(COLOUR))  # running statistics move
    model.features[0].settle_((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    again = load(spec, COLOUR, 10, seed=9, checkpoint=tmp_path / "w.safetensors").module.eval()
    assert torch.equal(model.eval()(images(COLOUR)), again(images(COLOUR)))


def test_weights_and_activations_may_have_estimators_of_their_own() -> None:
    model = build("cnv+w1a1:by=ste/approx", COLOUR, 10)
    assert {m.form.by for m in model.modules() if isinstance(m, (QuantConv2d, QuantLinear))} == {"ste"}
    assert {m.by for m in model.modules() if isinstance(m, QuantActivation)} == {"approx"}
    assert bits_of("cnv+w1a1:by=ste/approx").describe().endswith(", by=ste/approx")


@pytest.mark.parametrize("name", ["cnv+w1a1", "bvgg16+w1a1", "vgg-small+w2a2", "cnv+w1a1:scale=xnor"])
def test_what_poolings_choose_from_in_training_does_not_change_the_network(
    name: str, images: Callable[..., Tensor]
) -> None:
    plain = build(name, COLOUR, 10, seed=3).eval()
    spec = name + (",pool=sums" if ":" in name else ":pool=sums")
    pooled = build(spec, COLOUR, 10, seed=4)
    assert pooled(images(COLOUR)).shape == (len(images(COLOUR)), 10)
    pooled.load_state_dict(plain.state_dict())
    assert torch.equal(pooled.eval()(images(COLOUR)), plain(images(COLOUR)))
    assert bits_of(spec).describe() == bits_of(name).describe() + ", pool=sums"


def test_stages_share_their_weights_by_name(tmp_path: Path) -> None:
    """Two-stage training: float weights with binary activations, or all in float, then 1/1."""
    first = build("cnv+w32a1", COLOUR, 10).state_dict()
    save_file(first, tmp_path / "w.safetensors")
    second = load("cnv+w1a1", COLOUR, 10, checkpoint=tmp_path / "w.safetensors").module
    assert all(torch.equal(value, first[key]) for key, value in second.state_dict().items())
    with pytest.raises(TersaError, match="does not fit"):
        load("sfc+w1a1", GREY, 10, checkpoint=tmp_path / "w.safetensors")


def test_xnor_puts_the_inputs_magnitude_back(images: Callable[..., Tensor]) -> None:
    model = build("vgg-small+w1a1:scale=xnor", COLOUR, 10).eval()
    layer = model.features[4]
    x = images((128, 6, 6)) - 0.3
    k = nn.functional.avg_pool2d(x.abs().mean(1, keepdim=True), 3, stride=1, padding=1)
    w = layer.layer.weight
    alpha = w.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
    plain = nn.functional.conv2d(torch.where(x < 0, -1.0, 1.0), torch.where(w < 0, -1.0, 1.0), padding=1)
    torch.testing.assert_close(layer(x), plain * alpha * k)
