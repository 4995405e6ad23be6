"""Sums of low-bit convolutions by another way: the same numbers and gradients, asked for where it can be."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.utils.flop_counter
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from tersa.quant.layers import QuantConv2d, WeightBits, WeightForm
from tersa.quant.sums import Array, by, convolve


class Way:
    """A way that computes in float64, and counts how often it was asked."""

    def __init__(self, declines: bool = False) -> None:
        self.asked, self.declines = 0, declines

    def __call__(
        self, inputs: Array, weights: Array, stride: int, padding: int, threads: int
    ) -> Array | None:
        self.asked += 1
        if self.declines:
            return None
        x, w = torch.from_numpy(inputs).double(), torch.from_numpy(weights).double()
        return F.conv2d(x, w, None, stride, padding).float().numpy()


@pytest.fixture
def way() -> Generator[Way]:
    asked = Way()
    with by(asked):
        yield asked


def signs(*shape: int, seed: int = 0) -> Tensor:
    drawn = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), shape)
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_sums_and_gradients_are_those_of_conv2d(
    stride: int, padding: int, layout: torch.memory_format, way: Way
) -> None:
    x = signs(3, 5, 8, 7).contiguous(memory_format=layout)
    w = signs(6, 5, 3, 3, seed=1).contiguous(memory_format=layout)
    found: list[tuple[Tensor, ...]] = []
    for function in (convolve, lambda x, w, s, p: F.conv2d(x, w, None, s, p)):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        sums = function(a, b, (stride, stride), (padding, padding))
        weights = torch.linspace(-1, 1, sums.numel()).view(sums.shape).contiguous(memory_format=layout)
        found.append((sums.detach(), *torch.autograd.grad((sums * weights).sum(), (a, b))))
    assert way.asked == 1
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_that_are_needed(needed: tuple[bool, bool], way: Way) -> None:
    x, w = signs(2, 3, 4, 4).requires_grad_(needed[0]), signs(4, 3, 3, 3).requires_grad_(needed[1])
    convolve(x, w, (1, 1), (1, 1)).sum().backward()
    assert ((x.grad is not None), (w.grad is not None)) == needed


def test_second_gradients(way: Way) -> None:
    x, w = signs(1, 2, 4, 4).requires_grad_(), signs(2, 2, 3, 3).requires_grad_()
    (first,) = torch.autograd.grad(convolve(x, w, (1, 1), (1, 1)).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    (plain,) = torch.autograd.grad(F.conv2d(x, w, None, 1, 1).square().sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(plain.sum(), w)[0])


def test_a_way_that_declines() -> None:
    x, w = torch.rand(1, 2, 4, 4), torch.rand(3, 2, 3, 3)
    with by(Way(declines=True)) as _:
        assert torch.equal(convolve(x, w, (1, 1), (0, 0)), F.conv2d(x, w))


def test_the_way_is_that_of_the_innermost_block_and_ends_with_it() -> None:
    outer, inner = Way(), Way()
    x, w = signs(1, 2, 3, 3), signs(1, 2, 3, 3)
    with by(outer):
        with by(inner):
            convolve(x, w, (1, 1), (0, 0))
        convolve(x, w, (1, 1), (0, 0))
    convolve(x, w, (1, 1), (0, 0))
    assert (outer.asked, inner.asked) == (1, 1)


def test_no_way_is_asked_where_it_would_be_in_the_way(way: Way) -> None:
    x, w = signs(2, 2, 4, 4), signs(3, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolve(x, w, (1, 1), (0, 0))
    convolve(x.double(), w.double(), (1, 1), (0, 0))
    convolve(x.to(memory_format=torch.channels_last), w, (1, 1), (0, 0))  # the weights are not
    mapped = torch.func.vmap(lambda each: convolve(x, each, (1, 1), (0, 0)))(torch.stack([w, -w]))
    torch.testing.assert_close(mapped[1], -F.conv2d(x, w))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        convolve(x, w, (1, 1), (0, 0))
    assert counted.get_total_flops() > 0
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what PyTorch uses for it
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(convolve(dual, w, (1, 1), (0, 0))).tangent
    assert tangent is not None
    with by(None):
        convolve(x, w, (1, 1), (0, 0))
    assert convolve(x, w, (1, 2), (0, 0)).shape == (2, 3, 2, 1)
    assert convolve(x, w, (1, 1), (1, 0)).shape == (2, 3, 4, 2)
    assert convolve(x, w, (1, 1), "same").shape == (2, 3, 4, 4)
    assert convolve(x[0], w, (1, 1), (0, 0)).shape == (3, 2, 2)
    layer = QuantConv2d(2, 3, 3).eval()
    exported = torch.export.export(layer, (x,)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = cast(Any, torch.jit).trace(layer, x, check_trace=False)
    assert way.asked == 0
    for known in (exported, traced):
        torch.testing.assert_close(known(-x), layer(-x))


def test_a_layer_asks(way: Way) -> None:
    layer, x = QuantConv2d(2, 3, 3, padding=1, stride=2), signs(2, 2, 5, 5)
    expected = F.conv2d(x, layer.integer_weight(), None, 2, 1)
    for training in (True, False):
        layer.train(training)
        assert torch.equal(layer(x), expected)
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
    assert way.asked == 3


@pytest.mark.parametrize(("bits", "input_bits"), [(2, 1), ("ternary", 1), (1, 2), (1, 32), (32, 1)])
def test_a_layer_of_other_bits_does_not(bits: WeightBits, input_bits: int, way: Way) -> None:
    QuantConv2d(2, 3, 3, form=WeightForm(bits=bits), input_bits=input_bits)(signs(1, 2, 4, 4))
    assert way.asked == 0
