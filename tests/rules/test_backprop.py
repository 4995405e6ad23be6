"""Backpropagation against finite differences."""

import pytest
import torch
from tests.rules.teaching import sine_batch, sine_weights

from tersa.rules.backprop import BackPropagation
from tersa.rules.base import Batch, Draw, Extras
from tersa.rules.network import Pair, network_of

STEP = 1e-5
SLOPE = 1e-7
"""Error of a central difference of this step in float64."""


@pytest.mark.parametrize("spec", ["mlp:5x4", "lenet:2-3-4"])
def test_gradient_is_the_finite_difference(spec: str) -> None:
    network = network_of(spec, (1, 8, 8), 3)
    batch = sine_batch(network, 4)
    batch = Batch(batch.inputs.double(), batch.labels)
    weights = [Pair(p.weight.double().requires_grad_(), p.bias.double()) for p in sine_weights(network)]
    rule = BackPropagation()
    turn = rule.phases(network)[0].turns[0]

    def loss() -> torch.Tensor:
        return rule.loss(turn, network, weights, Extras(), batch, Draw([1])).sum()

    gradients = torch.autograd.grad(loss(), [pair.weight for pair in weights])
    for pair, gradient in zip(weights, gradients, strict=True):
        flat = pair.weight.detach().view(-1)
        for place in (0, flat.numel() // 2, flat.numel() - 1):
            here = flat[place].item()
            flat[place] = here + STEP
            above = loss().item()
            flat[place] = here - STEP
            below = loss().item()
            flat[place] = here
            assert (above - below) / (2 * STEP) == pytest.approx(gradient.view(-1)[place].item(), abs=SLOPE)
