"""The delta rule against its formula."""

import pytest
import torch
from tests.rules.teaching import begin, gradients, sine_batch, teach

from tersa.rules.delta import DeltaRule
from tersa.rules.network import network_of

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""


@pytest.mark.parametrize("output", ["softmax", "linear"])
def test_gradient_is_the_error_times_the_input(output: str) -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = DeltaRule(output=output)
    weights, extras, draw = begin(rule, network, (1, 2))
    batch = sine_batch(network)
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    _, u, z = (h.detach() for h in network.run(weights, batch.inputs))
    answer = z.softmax(-1) if output == "softmax" else z
    error = (answer - torch.eye(3)[batch.labels]) / 6
    torch.testing.assert_close(found[0], error.mT @ u, rtol=ROUNDING, atol=1e-7)
    torch.testing.assert_close(found[1], error.sum(1), rtol=ROUNDING, atol=1e-7)


def test_hidden_layers_stay_as_they_are() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    batch = sine_batch(network)
    before = network.initial([3])
    after = teach(DeltaRule(), network, batch.inputs, batch.labels, epochs=2, seeds=(3,), batch=3).weights
    assert [torch.equal(a.weight, b.weight) for a, b in zip(before, after, strict=True)] == [
        True,
        True,
        False,
    ]
