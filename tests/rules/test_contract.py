"""What every rule of the registry promises.

A rule that is added to `tersa.rules.registry.RULES` is tested here without a line of its own.
"""

import dataclasses

import pytest
import torch
from tests.rules.teaching import begin, gradients, moved, only_moved, sine_batch, teach
from torch import Tensor

from tersa import data
from tersa.errors import UsageError
from tersa.rules.base import Batch, Draw, Extras, Phase, Rule, Turn
from tersa.rules.network import Network, Pair, Weights, network_of
from tersa.rules.registry import RULES, rule

ALIKE = 2e-4
"""A stack multiplies larger matrices and sums in another order; relative to a tensor's largest gradient."""
SHAPE = (1, 8, 8)
SPECS = ("mlp:12x9", "lenet:2-3-8", "elman:7")
SEEDS = (11, 12, 13)

LEAST_ON_DIGITS = 80.0
"""Percent of the test images of `digits` after a few epochs; chance is 10."""
EPOCHS = 6
BELOW = {"hebbian": 70.0, "delta": 70.0, "hsic-document": 0.0, "dni-document": 0.0}
"""Rules whose hidden layers see no error at all; and document 000's settings that collapse, as there."""


def refusal(a_rule: Rule, network: Network) -> str:
    """What the rule says against the network; empty where it takes it."""
    try:
        a_rule.check(network)
    except UsageError as error:
        return str(error)
    return ""


PAIRS = [
    pytest.param(name, spec, id=f"{name}-{spec}")
    for name, a_rule in RULES.items()
    for spec in SPECS
    if not refusal(a_rule, network_of(spec, SHAPE, 3))
]
every_rule = pytest.mark.parametrize("name", RULES)
every_pair = pytest.mark.parametrize(("name", "spec"), PAIRS)


def turns(phases: tuple[Phase, ...]) -> list[Turn]:
    return [turn for phase in phases for turn in phase.turns]


@every_rule
def test_its_name_is_its_place_and_its_options_are_frozen(name: str) -> None:
    found = rule(name)
    assert found.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_name_gets_the_closest() -> None:
    with pytest.raises(UsageError, match=r"unknown rule 'dfaa'; did you mean 'dfa'\?"):
        rule("dfaa")


@every_rule
def test_a_refusal_is_one_line_that_names_rule_and_model(name: str) -> None:
    said = {spec: refusal(RULES[name], network_of(spec, SHAPE, 3)) for spec in SPECS}
    assert "" in said.values()
    for spec, words in said.items():
        assert not words or (name in words and spec in words and "\n" not in words)


@every_pair
def test_turns_name_what_there_is(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    weights, extras, _ = begin(RULES[name], network, SEEDS)
    phases = RULES[name].phases(network)
    assert all(phase.turns for phase in phases)
    assert len({phase.name for phase in phases}) == len(phases)
    for turn in turns(phases):
        assert moved(turn, weights, extras)
        assert set(turn.layers) <= set(range(len(network.layers)))
        assert set(turn.extras) <= set(range(len(extras.trained)))
    named = {extra for turn in turns(phases) for extra in turn.extras}
    assert named == set(range(len(extras.trained)))


@every_pair
def test_losses_have_one_number_per_run_and_move_all_that_is_named(name: str, spec: str) -> None:
    network, batch = network_of(spec, SHAPE, 3), sine_batch(network_of(spec, SHAPE, 3), 12)
    weights, extras, draw = begin(RULES[name], network, SEEDS)
    for turn in turns(RULES[name].phases(network)):
        loss = RULES[name].loss(turn, network, *only_moved(turn, weights, extras), batch, draw)
        assert loss.shape == (3,)
        assert loss.isfinite().all()
        for gradient in torch.autograd.grad(loss.sum(), moved(turn, weights, extras)):
            assert gradient.isfinite().all()
    for e in extras.fixed:
        assert not e.requires_grad


def update(
    name: str, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
) -> list[Tensor]:
    """Gradients of all turns, in order."""
    found: list[Tensor] = []
    for turn in turns(RULES[name].phases(network)):
        found += gradients(RULES[name], turn, network, weights, extras, batch, draw)
    return found


@every_pair
def test_a_run_is_the_same_in_a_stack_and_alone(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    batch = sine_batch(network, 12)
    together = begin(RULES[name], network, SEEDS)
    stack = update(name, network, *together[:2], batch, together[2])
    answers = RULES[name].predict(network, *together[:2], batch.inputs)
    for run, seed in enumerate(SEEDS):
        weights, extras, draw = begin(RULES[name], network, (seed,))
        for mine, ours in zip(extras.fixed, together[1].fixed, strict=True):
            torch.testing.assert_close(mine[0], ours[run], rtol=1e-5, atol=1e-6)
        alone = update(name, network, weights, extras, batch, draw)
        for mine, ours in zip(alone, stack, strict=True):
            largest = ours[run].abs().max().item()
            torch.testing.assert_close(mine[0], ours[run], rtol=0, atol=ALIKE * largest + 1e-8)
        answer = RULES[name].predict(network, weights, extras, batch.inputs)
        torch.testing.assert_close(answer[0], answers[run], rtol=ALIKE, atol=ALIKE)


@every_pair
def test_runs_do_not_mix(name: str, spec: str) -> None:
    """Another first run leaves the second run's gradients as they are."""
    network = network_of(spec, SHAPE, 3)
    batch = sine_batch(network, 12)
    found: list[list[Tensor]] = []
    for first in (5, 6):
        weights, extras, draw = begin(RULES[name], network, (first, 9))
        found.append(update(name, network, weights, extras, batch, draw))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a[1], b[1], rtol=0, atol=ALIKE * a[1].abs().max().item() + 1e-8)
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(*found, strict=True))


@every_pair
def test_runs_may_have_batches_of_their_own(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    shared = sine_batch(network, 12)
    own = Batch(shared.inputs.expand(2, *shared.inputs.shape), shared.labels.expand(2, -1))
    found: list[list[Tensor]] = []
    for batch in (shared, own):
        weights, extras, draw = begin(RULES[name], network, (5, 9))
        found.append(update(name, network, weights, extras, batch, draw))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=ALIKE * a.abs().max().item() + 1e-8)


@every_pair
def test_equal_seeds_give_equal_numbers(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    batch = sine_batch(network, 12)
    found: list[list[Tensor]] = []
    for _ in range(2):
        torch.manual_seed(len(found))  # of no consequence: no rule draws from the global generator
        weights, extras, draw = begin(RULES[name], network, (5,))
        found.append(update(name, network, weights, extras, batch, draw))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@every_pair
def test_nothing_that_is_given_is_changed(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    batch = sine_batch(network, 12)
    weights, extras, draw = begin(RULES[name], network, (5,))
    given = [t for pair in weights for t in (pair.weight, pair.bias)]
    given += [*extras.fixed, *extras.trained, batch.inputs, batch.labels]
    before = [tensor.detach().clone() for tensor in given]
    update(name, network, weights, extras, batch, draw)
    RULES[name].predict(network, weights, extras, batch.inputs)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@every_pair
def test_the_start_is_shaped_like_the_network(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    for layer, pair in zip(
        network.layers, RULES[name].start(network, network.initial(SEEDS), Draw(SEEDS)), strict=True
    ):
        assert isinstance(pair, Pair)
        assert pair.weight.shape == (3, *layer.weight_shape)
        assert pair.bias.shape == (3, layer.outputs)


@every_pair
def test_answers_have_one_score_per_class(name: str, spec: str) -> None:
    network = network_of(spec, SHAPE, 3)
    weights, extras, _ = begin(RULES[name], network, SEEDS)
    scores = RULES[name].predict(network, weights, extras, sine_batch(network, 5).inputs)
    assert scores.shape == (3, 5, 3)
    assert scores.isfinite().all()


@every_rule
def test_it_learns_handwritten_digits(name: str) -> None:
    task = data.load("digits")
    network = network_of("mlp:64", task.shape, 10)
    taught = teach(
        RULES[name],
        network,
        task.normalise(task.train.images),
        task.train.labels,
        epochs=EPOCHS,
        seeds=(1, 2),
        batch=32,
    )
    accuracy = taught.accuracy(task.normalise(task.test.images), task.test.labels)
    assert accuracy.min().item() > BELOW.get(name, LEAST_ON_DIGITS)
