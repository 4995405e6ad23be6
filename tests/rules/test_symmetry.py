"""Sign-symmetry against its formula."""

import torch
from tests.rules.teaching import begin, gradients, sine_batch, sine_weights

from tersa.rules.base import Extras
from tersa.rules.network import Pair, network_of
from tersa.rules.symmetry import RANDOM, SignSymmetry

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""


def test_uniform_feedback_has_one_magnitude_per_layer_and_run() -> None:
    network = network_of("lenet:2-3-5", (1, 8, 8), 3)
    weights = sine_weights(network, 2)
    first, *rest = SignSymmetry().feedback(weights, Extras())
    assert first is None
    for pair, back in zip(weights[1:], rest, strict=True):
        for run in range(2):
            size = pair.weight[run].square().mean().sqrt()
            torch.testing.assert_close(back[run].abs(), size.expand(back[run].shape))
            assert torch.equal(back[run].sign(), pair.weight[run].sign())


def test_zero_counts_as_positive() -> None:
    network = network_of("mlp:2", (1, 1, 2), 2)
    zero = [Pair(torch.zeros_like(p.weight), p.bias) for p in sine_weights(network)]
    zero[1].weight[0, 0, 0] = -2.0
    back = SignSymmetry().feedback(zero, Extras())[1]
    assert torch.equal(back, torch.tensor([[[-1.0, 1.0], [1.0, 1.0]]]))


def test_random_feedback_keeps_its_magnitudes_when_signs_turn() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    weights, extras, _ = begin(RANDOM, network, (1, 2))
    turned = [Pair(-3.0 * p.weight.detach(), p.bias) for p in weights]
    before, after = RANDOM.feedback(weights, extras), RANDOM.feedback(turned, extras)
    for a, b, size in zip(before[1:], after[1:], extras.fixed, strict=True):
        torch.testing.assert_close(a, -b, rtol=0, atol=0)
        torch.testing.assert_close(a.abs(), size, rtol=0, atol=0)


def test_gradient_is_the_formula() -> None:
    network = network_of("mlp:7", (1, 4, 4), 3)
    for rule in (SignSymmetry(), RANDOM):
        weights, extras, draw = begin(rule, network, (1, 2))
        batch = sine_batch(network)
        found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
        hidden, logits = (h.detach() for h in network.run(weights, batch.inputs))
        e = (logits.softmax(-1) - torch.eye(3)[batch.labels]) / 6
        back = rule.feedback(weights, extras)[1]
        delta = (e @ back) * (hidden > 0)
        torch.testing.assert_close(found[0], delta.mT @ batch.inputs.flatten(1), rtol=ROUNDING, atol=1e-7)
        torch.testing.assert_close(found[2], e.mT @ hidden, rtol=ROUNDING, atol=1e-7)
