"""Sums of low-bit convolutions by another way: the same numbers and gradients, asked for where it can be."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tersa.quant.layers import QuantConv2d
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


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_sums_and_gradients_are_those_of_conv2d(stride: int, padding: int, way: Way) -> None:
    x, w = signs(3, 5, 8, 7), signs(6, 5, 3, 3, seed=1)
    found: list[tuple[Tensor, ...]] = []
    for function in (convolve, lambda *a: F.conv2d(a[0], a[1], None, a[2], a[3])):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        sums = function(a, b, stride, padding)
        weights = torch.linspace(-1, 1, sums.numel()).view_as(sums)
        found.append((sums.detach(), *torch.autograd.grad((sums * weights).sum(), (a, b))))
    assert way.asked == 1
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_that_are_needed(needed: tuple[bool, bool], way: Way) -> None:
    x, w = signs(2, 3, 4, 4).requires_grad_(needed[0]), signs(4, 3, 3, 3).requires_grad_(needed[1])
    convolve(x, w, 1, 1).sum().backward()
    assert ((x.grad is not None), (w.grad is not None)) == needed


def test_second_gradients(way: Way) -> None:
    x, w = signs(1, 2, 4, 4).requires_grad_(), signs(2, 2, 3, 3).requires_grad_()
    (first,) = torch.autograd.grad(convolve(x, w, 1, 1).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    (plain,) = torch.autograd.grad(F.conv2d(x, w, None, 1, 1).square().sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(plain.sum(), w)[0])


def test_a_way_that_declines() -> None:
    x, w = torch.rand(1, 2, 4, 4), torch.rand(3, 2, 3, 3)
    with by(Way(declines=True)) as _:
        assert torch.equal(convolve(x, w, 1, 0), F.conv2d(x, w))


def test_the_way_is_that_of_the_innermost_block_and_ends_with_it() -> None:
    outer, inner = Way(), Way()
    x, w = signs(1, 2, 3, 3), signs(1, 2, 3, 3)
    with by(outer):
        with by(inner):
            convolve(x, w, 1, 0)
        convolve(x, w, 1, 0)
    convolve(x, w, 1, 0)
    assert (outer.asked, inner.asked) == (1, 1)


def test_no_way_is_asked_where_it_would_be_in_the_way(way: Way) -> None:
    x, w = signs(2, 2, 4, 4), signs(3, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolve(x, w, 1, 0)
    convolve(x.double(), w.double(), 1, 0)
    convolve(x.to(memory_format=torch.channels_last), w, 1, 0)
    mapped = torch.func.vmap(lambda each: convolve(x, each, 1, 0))(torch.stack([w, -w]))
    torch.testing.assert_close(mapped[1], -F.conv2d(x, w))
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
