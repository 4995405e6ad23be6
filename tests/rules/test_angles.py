"""Angles between a rule's update and backpropagation's."""

import torch
from tests.rules.teaching import begin, sine_batch, teach

from tersa import data
from tersa.rules.angles import alignment, degrees
from tersa.rules.backprop import BackPropagation
from tersa.rules.base import Batch, Draw, Extras
from tersa.rules.delta import DeltaRule
from tersa.rules.feedback import FeedbackAlignment
from tersa.rules.network import network_of

EXACT = 1e-3
"""Degrees that float32 gradients, divided and multiplied again, are off by."""


def test_backpropagation_agrees_with_itself() -> None:
    network = network_of("lenet:2-3-5", (1, 8, 8), 3)
    weights, extras, draw = begin(BackPropagation(), network, (1, 2))
    found = alignment(BackPropagation(), network, weights, extras, sine_batch(network), draw)
    torch.testing.assert_close(found, torch.zeros(2, 4), rtol=0, atol=EXACT)


def test_feedback_turned_round_points_the_other_way() -> None:
    """B = -W: the first layer's update is backpropagation's, negated; the last one's is the same."""
    network = network_of("mlp:7", (1, 4, 4), 3)
    weights = network.initial([1, 2])
    turned = Extras(fixed=(-weights[1].weight,))
    found = alignment(FeedbackAlignment(), network, weights, turned, sine_batch(network), Draw([1, 2]))
    torch.testing.assert_close(found, torch.tensor([[180.0, 0.0], [180.0, 0.0]]), rtol=0, atol=EXACT)


def test_a_layer_that_does_not_move_has_no_angle() -> None:
    network = network_of("mlp:7x6", (1, 4, 4), 3)
    weights, extras, draw = begin(DeltaRule(), network, (1,))
    found = alignment(DeltaRule(), network, weights, extras, sine_batch(network), draw)
    assert found.isnan().tolist() == [[True, True, False]]
    assert found[0, 2].item() < EXACT


def test_feedback_alignment_aligns() -> None:
    """The paper's claim: the first layer's angle starts near 90 degrees and falls."""
    task = data.load("digits")
    images, labels = task.normalise(task.train.images), task.train.labels
    network, rule = network_of("mlp:30", task.shape, 10), FeedbackAlignment()
    weights, extras, draw = begin(rule, network, range(4))
    batch = Batch(images[:256], labels[:256])
    before = alignment(rule, network, weights, extras, batch, draw)[:, 0]
    after = teach(rule, network, images, labels, epochs=4, seeds=range(4))
    angle = alignment(rule, network, after.weights, after.extras, batch, draw)[:, 0]
    assert 75 < before.mean().item() < 105
    assert (angle < before - 15).all()


def test_degrees_of_known_angles() -> None:
    for angle in (0.0, 1e-3, 30.0, 90.0, 150.0, 179.999, 180.0):
        turned = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
        a, b = torch.tensor([[2.0, 0.0]]), 5 * torch.stack([turned.cos(), turned.sin()]).unsqueeze(0)
        torch.testing.assert_close(degrees(a, b), torch.tensor([angle]), rtol=1e-6, atol=1e-6)
