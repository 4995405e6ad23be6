"""Feedback alignment against its formula, and what its feedback weights are."""

import math

import pytest
import torch
from tests.rules.teaching import begin, gradients, sine_batch

from tersa.rules.base import Draw, Extras
from tersa.rules.feedback import DOCUMENT, FeedbackAlignment, orthogonal, xavier
from tersa.rules.network import Layer, network_of

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""


def test_gradient_is_the_formula() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = FeedbackAlignment()
    weights, extras, draw = begin(rule, network, (1, 2))
    batch = sine_batch(network)
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    h1, h2, logits = (h.detach() for h in network.run(weights, batch.inputs))
    u = batch.inputs.flatten(1)
    delta = (logits.softmax(-1) - torch.eye(3)[batch.labels]) / 6
    expected = [delta.mT @ h2, delta.sum(1)]
    for h, below, back in ((h2, h1, extras.fixed[1]), (h1, u.expand(2, -1, -1), extras.fixed[0])):
        delta = (delta @ back) * (h > 0)
        expected = [delta.mT @ below, delta.sum(1), *expected]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=ROUNDING, atol=1e-7)


def test_feedback_equal_to_the_weights_is_backpropagation() -> None:
    network = network_of("lenet:2-3-5", (1, 8, 8), 3)
    rule = FeedbackAlignment()
    weights, _, draw = begin(rule, network, (1,))
    same = Extras(fixed=tuple(pair.weight.detach() for pair in weights[1:]))
    batch = sine_batch(network)
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, same, batch, draw)
    loss = torch.nn.functional.cross_entropy(network.logits(weights, batch.inputs)[0], batch.labels)
    leaves = [tensor for pair in weights for tensor in (pair.weight, pair.bias)]
    for ours, theirs in zip(found, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=ROUNDING, atol=1e-7)


@pytest.mark.parametrize("layer", [Layer("a", 9, 4), Layer("b", 4, 9), Layer("c", 2, 5, kernel=3)])
def test_orthogonal_keeps_the_length_of_errors(layer: Layer) -> None:
    matrix = orthogonal(layer, Draw([1, 2])).flatten(2)
    small = min(layer.outputs, layer.fan_in)
    singular = torch.linalg.svdvals(matrix)
    size = math.sqrt(layer.outputs / small)
    torch.testing.assert_close(singular, torch.full((2, small), size), rtol=ROUNDING, atol=0)
    assert matrix.square().sum().item() == pytest.approx(2 * layer.outputs, rel=ROUNDING)


def test_xavier_is_uniform_within_its_bound() -> None:
    layer = Layer("conv", 3, 40, kernel=5)
    bound = math.sqrt(6 / (75 + 1000))
    drawn = xavier(layer, Draw([1]))
    assert drawn.shape == (1, 40, 3, 5, 5)
    assert 0.99 * bound < drawn.abs().max().item() <= bound
    assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_the_documents_feedback_is_xavier_unscaled() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    drawn = DOCUMENT.extras(network, network.initial([5]), Draw([5])).fixed
    again = Draw([5])
    for layer, ours in zip(network.layers[1:], drawn, strict=True):
        torch.testing.assert_close(ours, xavier(layer, again), rtol=0, atol=0)
