"""Direct feedback alignment against its formula."""

import torch
from tests.rules.teaching import begin, gradients, sine_batch

from tersa.rules.direct import DirectFeedbackAlignment
from tersa.rules.network import network_of

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""


def test_gradient_of_a_dense_network_is_the_formula() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = DirectFeedbackAlignment()
    weights, extras, draw = begin(rule, network, (1, 2))
    batch = sine_batch(network)
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    h1, h2, logits = (h.detach() for h in network.run(weights, batch.inputs))
    u = batch.inputs.flatten(1).expand(2, -1, -1)
    e = (logits.softmax(-1) - torch.eye(3)[batch.labels]) / 6
    first, second = (e @ extras.fixed[0]) * (h1 > 0), (e @ extras.fixed[1]) * (h2 > 0)
    expected = [
        first.mT @ u, first.sum(1), second.mT @ h1, second.sum(1), e.mT @ h2, e.sum(1)
    ]  # fmt: skip
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=ROUNDING, atol=1e-7)


def test_the_error_goes_back_through_pooling_and_relu() -> None:
    network = network_of("lenet:2-3-5", (1, 8, 8), 3)
    rule = DirectFeedbackAlignment()
    weights, extras, draw = begin(rule, network, (1,))
    batch = sine_batch(network)
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    logits = network.logits(weights, batch.inputs)[0].detach()
    e = (logits.softmax(-1) - torch.eye(3)[batch.labels]) / 6
    pair = weights[0]
    z = torch.nn.functional.conv2d(batch.inputs, pair.weight[0], pair.bias[0], padding=2)
    h = torch.nn.functional.max_pool2d(z.relu(), 2)
    expected = torch.autograd.grad(h, [pair.weight, pair.bias], (e @ extras.fixed[0][0]).view_as(h))
    torch.testing.assert_close(found[0], expected[0], rtol=ROUNDING, atol=1e-7)
    torch.testing.assert_close(found[1], expected[1], rtol=ROUNDING, atol=1e-7)


def test_the_loss_has_the_value_of_the_cross_entropy() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = DirectFeedbackAlignment()
    weights, extras, draw = begin(rule, network, (1,))
    batch = sine_batch(network)
    loss = rule.loss(rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    expected = torch.nn.functional.cross_entropy(network.logits(weights, batch.inputs)[0], batch.labels)
    torch.testing.assert_close(loss[0], expected)
