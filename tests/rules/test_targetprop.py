"""Difference target propagation: targets and local gradients by hand, and digits are learnt."""

from __future__ import annotations

import pytest
import torch
from tests.rules.teaching import begin, gradients, moved, teach
from torch import Tensor

from tersa.data import digits
from tersa.errors import UsageError
from tersa.rules.backprop import BackPropagation
from tersa.rules.base import Batch, Draw, Turn
from tersa.rules.network import Network, Pair, network_of
from tersa.rules.targetprop import DTP, FIXED, decode, paired, targets

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Sums of some dozen float32 products in another order."""
LEARNT = 85.0
"""Percent on digits after four epochs; a network that guesses has 10."""


def wave(*shape: int, pace: float = 0.7) -> Tensor:
    return torch.sin(pace * torch.arange(1.0, 1.0 + torch.Size(shape).numel())).reshape(shape)


def setting(rule: DTP) -> tuple[Network, list[Pair], list[Tensor], Batch]:
    network = network_of("mlp:6x5x4", (1, 2, 4), 3)
    weights, extras, _ = begin(rule, network, (1, 2))
    return (
        network,
        weights,
        list(extras.trained or extras.fixed),
        Batch(wave(7, 1, 2, 4), torch.arange(7) % 3),
    )


def test_targets_follow_the_formula_image_by_image() -> None:
    hidden = [wave(1, 2, 4), wave(1, 2, 3, pace=1.1), wave(1, 2, 2, pace=0.3)]
    decoders = [Pair(wave(1, 4, 3), wave(1, 4)), Pair(wave(1, 3, 2), wave(1, 3, pace=2.0))]
    slope = wave(1, 2, 2, pace=1.9)
    found = targets(hidden, slope, decoders, 0.5)
    for n in range(2):
        t3 = hidden[2][0, n] - 0.5 * slope[0, n]

        def g(i: int, h: Tensor) -> Tensor:
            return torch.tanh(decoders[i].weight[0] @ h + decoders[i].bias[0])

        t2 = hidden[1][0, n] + g(1, t3) - g(1, hidden[2][0, n])
        t1 = hidden[0][0, n] + g(0, t2) - g(0, hidden[1][0, n])
        for target, by_hand in zip(found, (t1, t2, t3), strict=True):
            torch.testing.assert_close(target[0, n], by_hand, **CLOSE)


def test_a_perfect_layer_keeps_its_target() -> None:
    hidden = [wave(2, 3, 4), wave(2, 3, 2)]
    decoders = [Pair(wave(2, 4, 2), wave(2, 4))]
    for target, h in zip(targets(hidden, torch.zeros(2, 3, 2), decoders, 1.0), hidden, strict=True):
        assert torch.equal(target, h)


@pytest.mark.parametrize("rule", [DTP(), FIXED], ids=lambda rule: rule.name)
def test_layers_move_by_their_local_gradients(rule: DTP) -> None:
    network, weights, flat, batch = setting(rule)
    turn = Turn("layers", tuple(range(4)))
    _, extras, draw = begin(rule, network, (1, 2))
    found = gradients(rule, turn, network, weights, extras, batch, draw)
    outputs = [h.detach() for h in network.run(weights, batch.inputs)]
    inputs = [batch.inputs.flatten(1).expand(2, 7, 8), *outputs[:-1]]
    delta = outputs[-1].softmax(-1) - torch.nn.functional.one_hot(batch.labels, 3)  # (R, N, K), one image's
    goals = targets(outputs[:-1], delta @ weights[-1].weight.detach(), paired(flat), rule.step)
    for i, goal in enumerate(goals):
        error = (outputs[i] - goal) / rule.step * (outputs[i] > 0) / 7  # relu' and the mean over 7 images
        torch.testing.assert_close(found[2 * i], error.mT @ inputs[i], **CLOSE)
        torch.testing.assert_close(found[2 * i + 1], error.sum(1), **CLOSE)
    torch.testing.assert_close(found[-2], delta.mT @ inputs[-1] / 7, **CLOSE)


def test_decoders_move_down_their_reconstruction_error() -> None:
    rule = DTP(noise=0.3)
    network, weights, flat, batch = setting(rule)
    turn = rule.phases(network)[0].turns[0]
    _, extras, _ = begin(rule, network, (1, 2))
    found = gradients(rule, turn, network, weights, extras, batch, Draw((5, 6)))
    draw, hidden = Draw((5, 6)), network.run(weights, batch.inputs)
    for i, decoder in enumerate(paired(flat), start=1):
        disturbed = hidden[i - 1] + 0.3 * draw.normal(*hidden[i - 1].shape[1:])
        above = network.layer(i, weights[i], disturbed).detach()
        back = decode(decoder, above)
        error = 2 * (back - disturbed) * (1 - back**2) / 7  # d tanh
        torch.testing.assert_close(found[2 * i - 2], (error.mT @ above).detach(), **CLOSE)
        torch.testing.assert_close(found[2 * i - 1], error.sum(1).detach(), **CLOSE)


def test_the_decoders_turn_moves_only_decoders_and_comes_first() -> None:
    network = network_of("mlp:6x5x4", (1, 2, 4), 3)
    first, second = DTP().phases(network)[0].turns
    assert (first.layers, first.extras) == ((), (0, 1, 2, 3))
    assert (second.layers, second.extras) == ((0, 1, 2, 3), ())
    weights, extras, _ = begin(DTP(), network, (1,))
    assert [tuple(e.shape) for e in moved(first, weights, extras)] == [(1, 6, 5), (1, 6), (1, 5, 4), (1, 5)]


def test_one_hidden_layer_learns_as_by_backpropagation() -> None:
    network = network_of("mlp:6", (1, 2, 4), 3)
    batch = Batch(wave(7, 1, 2, 4), torch.arange(7) % 3)
    (turn,) = DTP().phases(network)[0].turns
    weights, extras, draw = begin(DTP(), network, (1, 2))
    here = gradients(DTP(step=0.25), turn, network, weights, extras, batch, draw)
    there = gradients(BackPropagation(), turn, network, weights, extras, batch, draw)
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_stack_gives_each_run_what_it_has_alone() -> None:
    network = network_of("mlp:6x5x4", (1, 2, 4), 3)
    batch = Batch(wave(7, 1, 2, 4), torch.arange(7) % 3)
    for turn in DTP().phases(network)[0].turns:
        weights, extras, draw = begin(DTP(), network, (1, 2))
        stacked = gradients(DTP(), turn, network, weights, extras, batch, draw)
        weights, extras, draw = begin(DTP(), network, (2,))
        alone = gradients(DTP(), turn, network, weights, extras, batch, draw)
        for both, one in zip(stacked, alone, strict=True):
            torch.testing.assert_close(both[1:], one, **CLOSE)


@pytest.mark.parametrize("rule", [DTP(), FIXED], ids=lambda rule: rule.name)
@pytest.mark.parametrize(("spec", "why"), [("lenet", "has convolutions"), ("elman:4", "is recurrent")])
def test_other_networks_are_refused(rule: DTP, spec: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"rule '{rule.name}'.*model '{spec}' {why}.*mlp:100x100"):
        rule.check(network_of(spec, (1, 8, 8), 10))


@pytest.mark.parametrize("rule", [DTP(), FIXED], ids=lambda rule: rule.name)
def test_digits_are_learnt(rule: DTP) -> None:
    decoded = digits.read(())
    images, labels = torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)
    taught = teach(
        rule, network_of("mlp:40x40", (1, 8, 8), 10), images[:1437], labels[:1437], epochs=4, batch=32
    )
    assert taught.accuracy(images[1437:], labels[1437:]).min() > LEARNT
