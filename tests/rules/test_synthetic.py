"""Synthetic gradients: targets, errors and updates by hand, and why document 000's collapsed."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from tests.rules.teaching import begin, gradients, sine_batch, teach
from torch import Tensor

from tersa import data
from tersa.errors import UsageError
from tersa.rules.backprop import BackPropagation
from tersa.rules.base import Batch, Draw, Extras, Turn, cross_entropy
from tersa.rules.kernels import standardised
from tersa.rules.network import Network, Pair, network_of
from tersa.rules.synthetic import DOCUMENT, FLOOR, LABELS, TENSORS, SyntheticGradients

CLOSE = 1e-4
"""Relative, with 1e-6 absolute: sums of some dozen float32 products in another order."""
SEEDS = (3, 4)

same = partial(torch.testing.assert_close, rtol=CLOSE, atol=1e-6)
RULES = [
    SyntheticGradients(),
    LABELS,
    DOCUMENT,
    SyntheticGradients(labels=True, bootstrap=1.0),
    SyntheticGradients(bootstrap=0.3, standardise=False, most_hidden=2),
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))


def wave(*shape: int, pace: float = 0.7) -> Tensor:
    return torch.sin(pace * torch.arange(1.0, 1.0 + torch.Size(shape).numel())).reshape(shape)


def setting(
    rule: SyntheticGradients, spec: str = "mlp:6x5x4"
) -> tuple[Network, list[Pair], Extras, Batch, Turn]:
    """A network whose synthesisers already say something."""
    network = network_of(spec, (1, 4, 4), 3)
    weights, extras, _ = begin(rule, network, SEEDS)
    spoken = [
        (e.detach() + 0.5 * wave(*e.shape, pace=0.3 + 0.1 * i)).requires_grad_()
        for i, e in enumerate(extras.trained)
    ]
    (phase,) = rule.phases(network)
    return network, weights, Extras((), tuple(spoken)), sine_batch(network, 7), phase.turns[0]


@dataclasses.dataclass(frozen=True)
class ByHand:
    """One run, formula by formula; lists have one entry per layer, `s` and `t` one per hidden layer."""

    u: list[Tensor]
    z: list[Tensor]
    s: list[Tensor]
    t: list[Tensor]
    loss: Tensor


def by_hand(rule: SyntheticGradients, weights: list[Pair], extras: Extras, batch: Batch, run: int) -> ByHand:
    labels = torch.eye(3)[batch.labels]
    count = len(labels)
    u, z, s = [batch.inputs.flatten(1)], list[Tensor](), list[Tensor]()
    for i, pair in enumerate(weights):
        z.append(u[i] @ pair.weight[run].detach().T + pair.bias[run].detach())
        if i == len(weights) - 1:
            break
        h = z[i].relu()
        u.append(h)
        x = (h - h.mean(0)) / (h.std(0, correction=0) + FLOOR) if rule.standardise else h
        x = torch.cat([x, labels], 1) if rule.labels else x
        a, a0, c, c0 = (e[run].detach() for e in extras.trained[TENSORS * i : TENSORS * (i + 1)])
        s.append((x @ a.T + a0).relu() @ c.T + c0)
    share = count if rule.per_image else 1
    logits = z[-1]
    t = [(logits.softmax(1) - labels) @ weights[-1].weight[run].detach() * share / count]
    for i in range(len(weights) - 2, 0, -1):
        sent = rule.bootstrap * s[i] + (1 - rule.bootstrap) * t[0]
        t.insert(0, (sent * (z[i] > 0)) @ weights[i].weight[run].detach())
    loss = -torch.log_softmax(logits, 1)[torch.arange(count), batch.labels].mean()
    for guess, target in zip(s, t, strict=True):
        square = (guess - target).square()
        loss = loss + (square.sum() / count if rule.per_image else square.mean())
    return ByHand(u, z, s, t, loss)


@each_rule
def test_the_loss_is_cross_entropy_plus_the_synthesisers_errors(rule: SyntheticGradients) -> None:
    network, weights, extras, batch, turn = setting(rule)
    found = rule.loss(turn, network, weights, extras, batch, Draw(SEEDS))
    for run in range(2):
        same(found[run].detach(), by_hand(rule, weights, extras, batch, run).loss)


@each_rule
def test_hidden_layers_move_by_the_prediction_and_the_last_by_the_loss(rule: SyntheticGradients) -> None:
    network, weights, extras, batch, turn = setting(rule)
    found = gradients(rule, turn, network, weights, extras, batch, Draw(SEEDS))
    share = 7 if rule.per_image else 1
    for run in range(2):
        hand = by_hand(rule, weights, extras, batch, run)
        for i, s in enumerate(hand.s):
            delta = s * (hand.z[i] > 0) / share
            same(found[2 * i][run], delta.T @ hand.u[i])
            same(found[2 * i + 1][run], delta.sum(0))
        delta = (hand.z[-1].softmax(1) - torch.eye(3)[batch.labels]) / 7
        same(found[6][run], delta.T @ hand.u[-1])


@each_rule
def test_synthesisers_move_by_their_squared_error_alone(rule: SyntheticGradients) -> None:
    network, weights, extras, batch, turn = setting(rule)
    found = gradients(rule, turn, network, weights, extras, batch, Draw(SEEDS))[2 * len(weights) :]
    for run in range(2):
        hand = by_hand(rule, weights, extras, batch, run)
        for i, (s, t) in enumerate(zip(hand.s, hand.t, strict=True)):
            slope = 2 * (s - t) / (7 if rule.per_image else s.numel())
            same(found[TENSORS * i + 3][run], slope.sum(0))
            first, bias, last, _ = extras.trained[TENSORS * i : TENSORS * (i + 1)]
            x = hand.u[i + 1]
            x = standardised(x[None], FLOOR)[0] if rule.standardise else x
            x = torch.cat([x, torch.eye(3)[batch.labels]], 1) if rule.labels else x
            inner = x @ first[run].detach().T + bias[run].detach()
            same(found[TENSORS * i + 2][run], slope.T @ inner.relu())
            back = (slope @ last[run].detach()) * (inner > 0)
            same(found[TENSORS * i][run], back.T @ x)
            same(found[TENSORS * i + 1][run], back.sum(0))


def test_without_bootstrapping_targets_are_backpropagations_gradients() -> None:
    network, weights, extras, batch, _ = setting(LABELS)
    outputs = network.run(weights, batch.inputs)
    true = torch.autograd.grad(cross_entropy(outputs[-1], batch).sum(), outputs[:-1])
    for run in range(2):
        for target, slope in zip(by_hand(LABELS, weights, extras, batch, run).t, true, strict=True):
            same(target, 7 * slope[run])


@each_rule
def test_at_the_start_only_the_last_layer_moves_and_as_under_backpropagation(
    rule: SyntheticGradients,
) -> None:
    network = network_of("mlp:6x5x4", (1, 4, 4), 3)
    weights, extras, draw = begin(rule, network, SEEDS)
    (phase,) = rule.phases(network)
    found = gradients(rule, phase.turns[0], network, weights, extras, sine_batch(network, 7), draw)
    assert all(slope.abs().max() == 0 for slope in found[:6])
    plain = BackPropagation()
    theirs = gradients(
        plain, plain.phases(network)[0].turns[0], network, weights, Extras(), sine_batch(network, 7), draw
    )
    for mine, other in zip(found[6:8], theirs[6:8], strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("labels", [False, True])
def test_labels_enter_only_where_asked(labels: bool) -> None:
    rule = SyntheticGradients(labels=labels)
    _, _, extras, batch, _ = setting(rule)
    h = wave(2, 7, 6).relu()
    other = Batch(batch.inputs, (batch.labels + 1) % 3)
    equal = torch.equal(rule.synthesise(extras, 0, h, batch, 3), rule.synthesise(extras, 0, h, other, 3))
    assert equal is not labels


def test_standardised_units_have_mean_zero_and_deviation_one() -> None:
    x = 5 + 3 * wave(2, 9, 4)
    found = standardised(x, FLOOR)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(2, 4), rtol=2e-3, atol=0)


@pytest.mark.parametrize("count", [1, 4])
def test_a_unit_that_never_changes_says_nothing(count: int) -> None:
    assert torch.equal(standardised(torch.full((2, count, 3), 4.0), FLOOR), torch.zeros(2, count, 3))


def test_scaled_weights_start_with_variance_one_over_fan_in() -> None:
    network = network_of("mlp:300x200", (1, 8, 8), 10)
    for layer, pair in zip(
        network.layers, LABELS.start(network, network.initial([1]), Draw([1])), strict=True
    ):
        assert pair.bias.abs().max() == 0
        assert pair.weight.var().item() * layer.fan_in == pytest.approx(1, rel=0.1)  # thousands of draws
    given = network.initial([1])
    assert DOCUMENT.start(network, given, Draw([1])) is given


def test_synthesisers_are_as_wide_as_asked_also_behind_convolutions() -> None:
    network = network_of("lenet:2-3-8", (1, 8, 8), 3)
    rule = SyntheticGradients(labels=True, most_hidden=11)
    extras = rule.extras(network, network.initial(SEEDS), Draw(SEEDS))
    for i, shape in enumerate(network.shapes[:-1]):
        width = torch.Size(shape).numel()
        first, bias, last, last_bias = extras.trained[TENSORS * i : TENSORS * (i + 1)]
        hidden = min(width, 11)
        assert first.shape == (2, hidden, width + 3)
        assert bias.shape == (2, hidden)
        assert last.shape == (2, width, hidden)
        assert last_bias.shape == (2, width)
        assert first.abs().max() <= (width + 3) ** -0.5


def test_a_recurrent_network_is_refused() -> None:
    with pytest.raises(UsageError, match="rule 'dni-labels' teaches layer by layer"):
        LABELS.check(network_of("elman:7", (1, 8, 8), 3))


def test_the_documents_synthesisers_learn_nothing_and_ours_do() -> None:
    """The cause of the collapse: targets of 1e-3 in a mean error, slopes far below Adadelta's epsilon."""
    task = data.load("digits")
    network = network_of("mlp:32x32", task.shape, 10)
    grown: dict[str, float] = {}
    for rule in (DOCUMENT, LABELS):
        taught = teach(
            rule, network, task.normalise(task.train.images), task.train.labels, epochs=4, seeds=(1, 2)
        )
        grown[rule.name] = max(taught.extras.trained[TENSORS * i + 2].abs().max().item() for i in range(2))
        if rule is LABELS:
            assert taught.accuracy(task.normalise(task.test.images), task.test.labels).min() > 70
    assert grown["dni-document"] < 1e-3 < 3e-2 < grown["dni-labels"]
