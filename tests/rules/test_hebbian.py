"""Competitive Hebbian learning against its formula, and what it finds."""

import torch
from tests.rules.teaching import begin, gradients, sine_batch, teach

from tersa.rules.base import Batch, Recipe
from tersa.rules.hebbian import Hebbian
from tersa.rules.network import network_of

ROUNDING = 1e-5
"""Sums of some hundred float32 products in another order."""


def test_gradient_is_the_formula() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = Hebbian()
    weights, extras, draw = begin(rule, network, (1, 2))
    batch = sine_batch(network)
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    h1, h2, logits = (h.detach() for h in network.run(weights, batch.inputs))
    u = batch.inputs.flatten(1).expand(2, -1, -1)
    for i, below in enumerate((u, h1)):
        w, b = weights[i].weight.detach(), weights[i].bias.detach()
        z = below @ w.mT + b.unsqueeze(1)
        for run in range(2):
            share = (z[run] / (0.2 * z[run].std(correction=0))).softmax(-1)  # (N, O)
            lead = share - share.mean(0)
            decay = (lead * z[run]).mean(0).clamp_min(0)
            expected = -(lead.T @ below[run]) / 6 + decay[:, None] * w[run]
            torch.testing.assert_close(found[2 * i][run], expected, rtol=1e-4, atol=1e-6)
            conscience = -(1 / share.shape[1] - share.mean(0))
            torch.testing.assert_close(found[2 * i + 1][run], conscience, rtol=1e-4, atol=1e-6)
    e = (logits.softmax(-1) - torch.eye(3)[batch.labels]) / 6
    torch.testing.assert_close(found[4], e.mT @ h2, rtol=ROUNDING, atol=1e-7)


def test_positions_of_a_convolution_are_observations() -> None:
    network = network_of("lenet:2-3-5", (1, 8, 8), 3)
    rule = Hebbian()
    pair = begin(rule, network, (1,))[0][0]
    images = torch.sin(torch.arange(2 * 64.0)).view(2, 1, 8, 8)
    z = torch.nn.functional.conv2d(images, pair.weight[0], pair.bias[0].detach(), padding=2)
    (ours,) = torch.autograd.grad(rule.competition(pair, z.unsqueeze(0)).sum(), pair.weight)
    patches = torch.nn.functional.unfold(images, 5, padding=2).movedim(1, 2).flatten(0, 1)  # (N H W, 25)
    flat = z.detach().movedim(1, -1).flatten(0, 2)  # (N H W, O)
    share = (flat / (0.2 * flat.std(correction=0))).softmax(-1)
    lead = share - share.mean(0)
    decay = (lead * flat).mean(0).clamp_min(0)
    expected = -(lead.T @ patches) / len(flat) + decay[:, None] * pair.weight.detach()[0].flatten(1)
    torch.testing.assert_close(ours[0].flatten(1), expected, rtol=1e-4, atol=1e-6)


def test_hidden_layers_see_no_label() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    rule = Hebbian()
    weights, extras, draw = begin(rule, network, (1,))
    batch = sine_batch(network)
    turn = rule.phases(network)[0].turns[0]
    other = Batch(batch.inputs, (batch.labels + 1) % 3)
    one, two = (gradients(rule, turn, network, weights, extras, b, draw) for b in (batch, other))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [True] * 4 + [False] * 2


def test_two_units_find_two_clusters() -> None:
    """Two directions with noise: each unit's weights end along one of them."""
    network = network_of("mlp:2", (1, 1, 3), 2)
    labels = torch.arange(200) % 2
    centres = torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    images = centres[labels] + 0.2 * torch.sin(torch.arange(600.0)).view(200, 3)
    found = teach(
        Hebbian(), network, images.view(200, 1, 1, 3), labels, epochs=30, recipe=Recipe("sgd", 0.1), batch=50
    )
    first, second = found.weights[0].weight[0].detach()
    difference = torch.nn.functional.normalize(centres[0] - centres[1], dim=0)
    cosines = sorted(
        torch.nn.functional.cosine_similarity(w, difference, dim=0).item() for w in (first, second)
    )
    assert cosines[0] < -0.95
    assert cosines[1] > 0.95
