"""Layer-local losses: each layer learns from its own classifier alone."""

import torch
import torch.nn.functional as F
from tests.rules.teaching import begin, gradients, sine_batch

from tersa.rules.base import Extras
from tersa.rules.local import LocalLosses
from tersa.rules.network import network_of

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""


def test_gradients_are_those_of_each_layers_own_classifier() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = LocalLosses()
    weights, extras, draw = begin(rule, network, (1, 2))
    batch = sine_batch(network)
    turn = rule.phases(network)[0].turns[0]
    found = gradients(rule, turn, network, weights, extras, batch, draw)
    outputs = [h.detach() for h in network.run(weights, batch.inputs)]
    inputs = [batch.inputs.flatten(1).expand(2, -1, -1), *outputs[:2]]
    for i in range(2):
        for run in range(2):
            leaves = [
                tensor[run].detach().requires_grad_()
                for tensor in (weights[i].weight, weights[i].bias, *extras.trained[2 * i : 2 * i + 2])
            ]
            w, b, v, c = leaves
            loss = F.cross_entropy((inputs[i][run] @ w.T + b).relu() @ v.T + c, batch.labels)
            expected = torch.autograd.grad(loss, leaves)
            ours = (*found[2 * i : 2 * i + 2], *found[6 + 2 * i : 8 + 2 * i])
            for mine, theirs in zip(ours, expected, strict=True):
                torch.testing.assert_close(mine[run], theirs, rtol=ROUNDING, atol=1e-7)


def test_the_loss_is_the_sum_of_all_classifiers() -> None:
    network = network_of("mlp:7", (1, 4, 4), 3)
    rule = LocalLosses()
    weights, extras, draw = begin(rule, network, (1,))
    batch = sine_batch(network)
    hidden, logits = network.run(weights, batch.inputs)
    local = hidden[0] @ extras.trained[0][0].T + extras.trained[1][0]
    expected = F.cross_entropy(logits[0], batch.labels) + F.cross_entropy(local, batch.labels)
    loss = rule.loss(rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    torch.testing.assert_close(loss[0], expected)


def test_classifiers_see_averages_behind_a_convolution() -> None:
    network = network_of("lenet:2-3-5", (1, 12, 16), 3)
    rule = LocalLosses(cells=2)
    weights, extras, _ = begin(rule, network, (1,))
    assert [tuple(v.shape[1:]) for v in extras.trained[::2]] == [(3, 8), (3, 12), (3, 5)]
    h = network.run(weights, sine_batch(network).inputs)[0]  # (1, 6, 2, 6, 8)
    seen = rule._features(h)
    torch.testing.assert_close(seen[0, :, 0], h[0, :, 0, :3, :4].mean((1, 2)))
    torch.testing.assert_close(seen[0, :, 7], h[0, :, 1, 3:, 4:].mean((1, 2)))


def test_extras_do_not_change_what_the_network_answers() -> None:
    network = network_of("mlp:7", (1, 4, 4), 3)
    rule = LocalLosses()
    weights, extras, _ = begin(rule, network, (1,))
    x = sine_batch(network).inputs
    assert torch.equal(rule.predict(network, weights, extras, x), rule.predict(network, weights, Extras(), x))
