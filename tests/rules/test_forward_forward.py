"""Forward-forward: losses and gradients by hand, wrong labels, answers, and digits are learnt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.rules.teaching import begin, gradients, teach
from torch import Tensor

from tersa.data import digits
from tersa.errors import UsageError
from tersa.rules.base import Batch, Draw, Extras
from tersa.rules.forward_forward import (
    HINTON,
    ForwardForward,
    activities,
    goodness,
    labelled,
    unit,
    wrong_labels,
)
from tersa.rules.network import Network, Pair, network_of

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
"""Sums of some dozen float32 products in another order."""
LEARNT = 85.0
"""Percent on digits after five epochs; a network that guesses has 10."""
BOTH = pytest.mark.parametrize("rule", [ForwardForward(), HINTON], ids=lambda rule: rule.name)


def wave(*shape: int, pace: float = 0.7) -> Tensor:
    return torch.sin(pace * torch.arange(1.0, 1.0 + torch.Size(shape).numel())).reshape(shape)


def setting(seeds: tuple[int, ...] = (1, 2)) -> tuple[Network, list[Pair], Extras, Draw, Batch]:
    network = network_of("mlp:6x5", (1, 2, 4), 3)
    return network, *begin(ForwardForward(), network, seeds), Batch(wave(7, 1, 2, 4), torch.arange(7) % 3)


def test_the_label_takes_the_first_pixels() -> None:
    network = network_of("mlp:6", (1, 2, 4), 3)
    x = wave(2, 1, 2, 4)
    found = labelled(network, x, torch.tensor([2, 0]), 3.0)
    assert torch.equal(found[:, :3], torch.tensor([[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]]))
    assert torch.equal(found[:, 3:], x.flatten(1)[:, 3:])
    assert torch.equal(labelled(network, x, None, 3.0)[:, :3], torch.ones(2, 3))


def test_each_run_can_have_its_own_labels_and_images() -> None:
    network = network_of("mlp:6", (1, 2, 4), 3)
    labels = torch.tensor([[0, 1], [2, 1], [1, 0]])
    own = wave(3, 2, 1, 2, 4)
    assert labelled(network, own[0], labels, 3.0).shape == (3, 2, 8)
    for run in range(3):
        alone = labelled(network, own[run], labels[run], 3.0)
        assert torch.equal(labelled(network, own, labels, 3.0)[run], alone)


def test_wrong_labels_are_never_right_and_follow_the_odds() -> None:
    count = 20_000
    right = torch.arange(count).remainder(4).expand(2, -1)
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0]).expand(2, count, 4)
    wrong = wrong_labels(right, logits, Draw((1, 2)))
    assert not (wrong == right).any()
    for label in range(4):
        odds = logits[0, 0].softmax(0).clone()
        odds[label] = 0
        drawn = torch.bincount(wrong[right == label], minlength=4) / (right == label).sum()
        torch.testing.assert_close(
            drawn, odds / odds.sum(), rtol=0, atol=0.02
        )  # 4 deviations of 10,000 draws


@pytest.mark.parametrize("level", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_the_draw_give_a_wrong_label(level: float) -> None:
    class End(Draw):
        def uniform(self, *shape: int) -> Tensor:
            return torch.full((1, *shape), level)

    right = torch.tensor([[0, 1, 2]])
    logits = torch.tensor([0.0, -30.0, 30.0]).expand(1, 3, 3)
    wrong = wrong_labels(right, logits, End((1,)))
    assert not (wrong == right).any()
    assert ((wrong >= 0) & (wrong < 3)).all()


@BOTH
def test_hidden_layers_move_by_their_own_goodness(rule: ForwardForward) -> None:
    rule = replace(rule, sharpness=2.0, hard=False)
    network, weights, extras, _, batch = setting()
    turn = rule.phases(network)[0].turns[0]
    found = gradients(rule, turn, network, weights, extras, batch, Draw((5, 6)))
    right = batch.labels_of(2)
    wrong = wrong_labels(right, torch.zeros(2, 7, 3), Draw((5, 6)))
    u = [labelled(network, batch.inputs, labels, 3.0) for labels in (right, wrong)]
    for i in range(2):
        h = [network.layer(i, weights[i], v).detach() for v in u]  # (R, N, O): right, wrong
        good = [v.square().mean(-1) for v in h]
        if rule.loss_kind == "contrast":
            pull = torch.sigmoid(2.0 * (good[1] - good[0])) * 2.0
            share = [-pull, pull]
        else:
            share = [-2.0 * torch.sigmoid(2.0 * (1 - good[0])), 2.0 * torch.sigmoid(2.0 * (good[1] - 1))]
        errors = [s.unsqueeze(-1) * 2 * v / v.shape[-1] / 7 for s, v in zip(share, h, strict=True)]
        by_hand = sum(e.mT @ v for e, v in zip(errors, u, strict=True))
        torch.testing.assert_close(found[2 * i], by_hand, **CLOSE)
        torch.testing.assert_close(found[2 * i + 1], sum(e.sum(1) for e in errors), **CLOSE)
        u = [unit(v) for v in h]


@BOTH
def test_the_last_layer_is_a_softmax_of_normalised_activities(rule: ForwardForward) -> None:
    network, weights, extras, draw, batch = setting()
    found = gradients(rule, rule.phases(network)[0].turns[0], network, weights, extras, batch, draw)
    top = unit(activities(network, weights, labelled(network, batch.inputs, None, 3.0))[-1]).detach()
    torch.testing.assert_close(top.square().mean(-1), torch.ones(2, 7), rtol=0, atol=1e-2)
    logits = top @ weights[-1].weight.detach().mT + weights[-1].bias.detach().unsqueeze(1)
    delta = (logits.softmax(-1) - torch.nn.functional.one_hot(batch.labels, 3)) / 7
    torch.testing.assert_close(found[-2], delta.mT @ top, **CLOSE)
    quick = replace(rule, readout="softmax").predict(network, weights, extras, batch.inputs)
    torch.testing.assert_close(quick.detach(), logits, **CLOSE)


def test_no_gradient_passes_to_the_layer_below() -> None:
    rule = ForwardForward(hard=False)
    network, weights, extras, _, batch = setting()
    turn = rule.phases(network)[0].turns[0]
    before = gradients(rule, turn, network, weights, extras, batch, Draw((5, 6)))
    with torch.no_grad():
        weights[1].weight.mul_(-3.0)
        weights[2].weight.add_(1.0)
    after = gradients(rule, turn, network, weights, extras, batch, Draw((5, 6)))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def test_the_answer_sums_goodness_over_layers() -> None:
    network, weights, extras, _, batch = setting()
    scores = ForwardForward().predict(network, weights, extras, batch.inputs)
    assert scores.shape == (2, 7, 3)
    for run in range(2):
        alone = [Pair(pair.weight[run : run + 1], pair.bias[run : run + 1]) for pair in weights]
        for n, label in ((0, 0), (3, 2), (6, 1)):
            u = labelled(network, batch.inputs[n : n + 1], torch.tensor([label]), 3.0)
            first = network.layer(0, alone[0], u)
            second = network.layer(1, alone[1], unit(first))
            torch.testing.assert_close(
                scores[run, n, label], (goodness(first) + goodness(second))[0, 0], **CLOSE
            )


def test_a_stack_gives_each_run_what_it_has_alone() -> None:
    rule = ForwardForward()
    network, weights, extras, draw, batch = setting((1, 2))
    turn = rule.phases(network)[0].turns[0]
    stacked = gradients(rule, turn, network, weights, extras, batch, draw)
    network, weights, extras, draw, batch = setting((2,))
    alone = gradients(rule, turn, network, weights, extras, batch, draw)
    for both, one in zip(stacked, alone, strict=True):
        torch.testing.assert_close(both[1:], one, **CLOSE)


def test_a_layer_of_zeros_stays_one() -> None:
    assert torch.equal(unit(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))


@pytest.mark.parametrize(("spec", "why"), [("lenet", "has convolutions"), ("elman:4", "is recurrent")])
def test_other_networks_are_refused(spec: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"rule 'ff'.*model '{spec}' {why}.*mlp:100x100"):
        ForwardForward().check(network_of(spec, (1, 8, 8), 10))


def test_images_smaller_than_the_label_are_refused() -> None:
    with pytest.raises(UsageError, match=r"first 10 pixels, the images have 9; it needs at least 11"):
        ForwardForward().check(network_of("mlp:4", (1, 3, 3), 10))


@BOTH
def test_digits_are_learnt(rule: ForwardForward) -> None:
    decoded = digits.read(())
    images, labels = torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)
    scaled = (images - 0.305) / 0.376  # mean and deviation of the pixels
    network = network_of("mlp:60x60", (1, 8, 8), 10)
    taught = teach(rule, network, scaled[:1437], labels[:1437], epochs=5, batch=16)
    assert taught.accuracy(scaled[1437:], labels[1437:]).min() > LEARNT
