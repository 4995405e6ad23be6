"""Low-bit layers: integers in, exact sums out, closed forms of weights, factors and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.errors import UsageError
from tersa.quant.layers import (
    IntegerBatchNorm1d,
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    SignPool2d,
    SumPool2d,
    WeightForm,
    shaped,
)
from tersa.quant.steps import EXACT, planes, steps, thresholds, to_odd, to_ternary

BITS = (1, 2, 3, 4, 8)


def wave(*shape: int) -> Tensor:
    """Values between -1 and 1 that are all different."""
    count = int(np.prod(shape))
    return torch.sin(1.7 * torch.arange(count, dtype=torch.float64)).float().view(shape)


def odd(bits: int, *shape: int) -> Tensor:
    return to_odd(wave(*shape), bits)


@pytest.mark.parametrize("bits", BITS)
def test_a_level_is_the_number_of_thresholds_reached(bits: int) -> None:
    t = thresholds(bits)
    edges = torch.cat([t, torch.nextafter(t, torch.tensor(-9.0)), torch.tensor([-7.0, 7.0, -0.0])])
    reached = (edges[:, None] >= t).sum(1)
    assert torch.equal(to_odd(edges, bits), (2 * reached - steps(bits)).float())


@pytest.mark.parametrize("bits", BITS)
def test_planes_put_levels_together_again(bits: int) -> None:
    levels = torch.arange(-steps(bits), steps(bits) + 1, 2).float()
    signs = planes(levels, bits)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(sum(2.0**i * s for i, s in enumerate(signs)), levels)


@pytest.mark.parametrize("bits", BITS)
def test_levels_keep_the_layout_of_images(bits: int) -> None:
    x = wave(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    y = to_odd(x, bits)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, to_odd(x.contiguous(), bits))
    assert torch.equal(to_odd(x.bfloat16(), bits).float(), to_odd(x.bfloat16().float(), bits))


def test_ternary_is_zero_up_to_the_papers_threshold() -> None:
    w = torch.tensor([-1.0, -0.35, 0.34, 0.36, 0.45])  # 0.7 mean |w| = 0.35
    assert to_ternary(w).tolist() == [-1.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_pixels_come_back_from_their_normalisation(bits: int) -> None:
    stored = torch.arange(256).view(1, 1, 16, 16)
    layer = PixelInput(bits, 1)
    layer.settle_((0.1307,), (0.3081,))
    normalised = (stored.float() / 255 - 0.1307) / 0.3081
    n = steps(bits)
    expected = 2 * torch.floor(stored * n / 255 + 0.5) - n
    assert torch.equal(layer(normalised), expected.float())


def test_pixels_have_a_straight_through_gradient_in_their_units() -> None:
    layer = PixelInput(8, 2)
    layer.settle_((0.2, 0.4), (0.5, 0.25))
    x = wave(1, 2, 2, 2).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([255.0, 127.5]).view(1, 2, 1, 1).expand(1, 2, 2, 2))


@pytest.mark.parametrize("weight_bits", [1, 2, 3, 8, "ternary"])
@pytest.mark.parametrize("input_bits", [1, 4, 8])
def test_convolutions_sum_integers_exactly(weight_bits: int | str, input_bits: int) -> None:
    layer = QuantConv2d(
        13, 5, 3, stride=2, padding=1, form=WeightForm(weight_bits), input_bits=input_bits
    ).eval()
    x = odd(input_bits, 2, 13, 7, 6)
    exact = F.conv2d(x.double(), layer.integer_weight().double(), stride=2, padding=1)
    assert torch.equal(layer(x).double(), exact)
    assert exact.abs().max() <= layer.largest_sum


def test_sums_beyond_float32_are_rounded_once() -> None:
    layer = QuantLinear(700, 3, form=WeightForm(8), input_bits=8).eval()
    assert layer.largest_sum == 700 * 255 * 255 > EXACT
    nn.init.constant_(layer.weight, 1.0)
    x = torch.full((1, 700), 255.0)
    x[0, 0] = 253.0
    assert layer(x)[0, 0].item() == float(np.float32(255 * (699 * 255 + 253)))


def test_a_padded_place_adds_nothing() -> None:
    layer = QuantConv2d(1, 1, 3, padding=1)
    nn.init.ones_(layer.weight)
    assert layer(torch.ones(1, 1, 3, 3))[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


def test_alpha_is_the_mean_magnitude_and_passes_the_gradient() -> None:
    layer = QuantLinear(3, 2, form=WeightForm(scale="channel"))
    w = torch.tensor([[0.5, -0.25, 0.0], [-1.0, 0.5, 0.75]])
    layer.weight.data.copy_(w)
    x = torch.tensor([[1.0, 1.0, -1.0]])
    y = layer(x)
    alpha = torch.tensor([0.25, 0.75])
    assert torch.equal(y, torch.tensor([[-1.0, -1.0]]) * alpha)
    y.sum().backward()
    # XNOR-Net, equation 11: dC/dW_i = dC/dW~_i alpha 1(|W_i| <= 1) + sign(W_i) / n sum_j dC/dW~_j sign(W_j)
    through = x * alpha[:, None] + torch.sign(w) / 3 * torch.tensor([[-1.0], [-1.0]])
    torch.testing.assert_close(layer.weight.grad, through)


def test_standardised_weights_have_mean_0_and_deviation_1_per_output() -> None:
    w = wave(4, 3, 3, 3) * 0.3 + 0.2
    rows = shaped(w, "standardise").flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(1, correction=0), torch.ones(4))


def test_recu_clamps_to_the_quantiles_and_keeps_the_gradient_inside_alone() -> None:
    w = wave(1, 101).requires_grad_()
    rows = shaped(w, "recu", 0.0)
    plain = shaped(w.detach(), "standardise")
    low, high = torch.quantile(plain, torch.tensor([0.15, 0.85]), dim=1)
    torch.testing.assert_close(rows, plain.clamp(low, high))


def test_stochastic_weights_follow_the_hard_sigmoid_while_training_alone() -> None:
    layer = QuantLinear(20_000, 1, form=WeightForm(draw="stochastic"))
    nn.init.constant_(layer.weight, 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = layer.integer_weight()
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)  # 3 standard errors
    assert torch.equal(layer.eval().integer_weight(), torch.ones(1, 20_000))


@pytest.mark.parametrize(
    ("norm", "shape"), [(IntegerBatchNorm2d(3), (2, 3, 4, 4)), (IntegerBatchNorm1d(3), (5, 3))]
)
def test_normalisation_in_eval_is_numpys_multiplication_and_addition(
    norm: nn.Module, shape: tuple[int, ...]
) -> None:
    norm.running_mean.copy_(torch.tensor([0.3, -7.1, 2e3]))
    norm.running_var.copy_(torch.tensor([0.11, 5e4, 3.3]))
    norm.weight.data.copy_(torch.tensor([1.3, -0.7, 0.0]))
    norm.bias.data.copy_(torch.tensor([0.2, 0.1, -0.3]))
    x = 300 * wave(*shape)
    mean, var, weight, bias = (
        t.detach().numpy() for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = weight / np.sqrt(var + np.float32(norm.eps))
    shift = bias - mean * scale
    rest = (1, 3, *[1] * (len(shape) - 2))
    expected = x.numpy() * scale.reshape(rest) + shift.reshape(rest)
    found = norm.eval()(x)
    assert np.array_equal(found.detach().numpy(), expected)
    plain = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-3)


def test_normalisation_in_training_is_pytorchs() -> None:
    ours, theirs = IntegerBatchNorm2d(3), nn.BatchNorm2d(3)
    x = wave(2, 3, 4, 4)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_sums_over_a_map_are_exact() -> None:
    assert SumPool2d()(torch.ones(1, 2, 5, 5)).tolist() == [[25.0, 25.0]]


def test_an_or_of_signs_is_their_maximum() -> None:
    signs = QuantActivation(1)(torch.tensor([[[[-1.0, -0.0], [-2.0, -3.0]]]]))
    assert nn.MaxPool2d(2)(signs).item() == 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PixelInput(9), "pixels of 9 bits"),
        (lambda: QuantActivation(0), "activations of 0 bits"),
        (lambda: QuantLinear(2, 2, form=WeightForm(bits=9)), "weights of 9 bits"),
        (lambda: QuantLinear(2, 2, form=WeightForm(bits=2, draw="stochastic")), "draw=stochastic needs"),
        (lambda: QuantLinear(2, 2, form=WeightForm(bits=32, scale="channel")), "float weights take no scale"),
        (lambda: QuantLinear(2, 2, form=WeightForm(by="stee")), "did you mean 'ste'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_signs_of_maxima_are_maxima_of_signs_where_scales_are_positive() -> None:
    norm, sign, pool = IntegerBatchNorm2d(5, pool=2), QuantActivation(), SignPool2d(2)
    with torch.no_grad():
        norm.weight.copy_(wave(5).abs())
        norm.bias.copy_(wave(5))
        norm.running_mean.copy_(3 * wave(5))
        norm.running_var.copy_(9 * wave(5).abs() + 0.1)
    block, sums = nn.Sequential(norm, sign, pool).eval(), (7 * wave(4, 5, 7, 6)).round()
    assert torch.equal(block(sums), sign(norm(F.max_pool2d(sums, 2))))


def test_a_normalisation_that_pools_learns_the_mean_of_maxima() -> None:
    norm, sums = IntegerBatchNorm2d(2, pool=2), (7 * wave(8, 2, 4, 4)).round()
    norm.momentum = 1.0
    block = nn.Sequential(norm, QuantActivation(), SignPool2d(2))
    assert block(sums).shape == (8, 2, 2, 2)
    torch.testing.assert_close(norm.running_mean, F.max_pool2d(sums, 2).mean((0, 2, 3)))
    assert block.eval()(sums).shape == (8, 2, 2, 2)


def test_a_normalisation_that_pools_sends_the_gradient_to_the_largest_sum() -> None:
    sums = wave(6, 1, 2, 2).requires_grad_()
    block = nn.Sequential(IntegerBatchNorm2d(1, pool=2), QuantActivation(), SignPool2d(2))
    (block(sums).flatten() * torch.tensor([1.0, 0.0, 3.0, 0.0, -2.0, 5.0])).sum().backward()
    assert sums.grad is not None
    moved = sums.grad.flatten(1) != 0
    largest = sums.detach().flatten(1).argmax(1)
    assert moved.any()
    assert not moved.scatter(1, largest[:, None], False).any()
