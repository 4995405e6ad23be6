"""The start of a stack: everything that a cell asks for is there, or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tersa.data import load
from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.study.cell import Cell
from tersa.study.special import check
from tersa.study.stack import Stack, network_for, start
from tersa.study.stacked import train_stack

BASE = Cell(data="digits", model="mlp:20x15")


@pytest.fixture(scope="module")
def task() -> Task:
    return load("digits")


def begun(task: Task, **changes: Any) -> Stack:
    return start([Cell.model_validate({**BASE.model_dump(exclude={"bits"}), **changes})], task)


def hidden_of(stack: Stack, task: Task) -> Tensor:
    return stack.network.run(stack.weights, task.normalise(task.test.images[:50]))[0]


def test_hidden_outputs_get_their_bits(task: Task) -> None:
    assert len(hidden_of(begun(task), task).unique()) > 100
    few = hidden_of(begun(task, activation_bits=2), task)
    assert 1 < len(few.unique()) <= 4
    mixed = start([BASE, BASE.model_copy(update={"activation_bits": 1})], task)
    real, coarse = hidden_of(mixed, task)
    assert len(real.unique()) > 100
    assert len(coarse.unique()) == 2


def test_states_of_a_recurrent_network_keep_their_signs(task: Task) -> None:
    """tanh gives both signs, which the quantiser of ReLU outputs would cut off."""
    stack = begun(task, model="elman:12", activation_bits=3)
    assert stack.network.signals.hidden is not None
    states = stack.network.signals.hidden(torch.tanh(torch.linspace(-2, 2, 60)).view(1, 5, 12))
    assert states.min() < 0 < states.max()
    assert len(states.unique()) == 7


def test_gradients_get_their_bits(task: Task) -> None:
    errors = begun(task, gradient_bits=3).network.signals.backward
    assert errors is not None
    assert len(errors(torch.sin(torch.arange(100.0)).view(1, 10, 10)).unique()) == 7


@pytest.mark.parametrize(
    "how",
    [
        {"quant": "symmetric", "range": "layer"},
        {"quant": "symmetric", "range": "percentile"},
        {"quant": "symmetric", "range": "learned"},
        {"quant": "symmetric", "range": "calibrated"},
        {"quant": "power-of-two"},
        {"quant": "clusters"},
    ],
)
@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_fixed_feedback_lies_on_levels_in_its_own_range(how: dict[str, str], rule: str, task: Task) -> None:
    """Of every quantiser, also of those that the compiled update does not hold."""
    real = begun(task, rule=rule).extras.fixed
    few = begun(task, rule=rule, bits=3, storage="latent", **how).extras.fixed
    for exact, coarse in zip(real, few, strict=True):
        assert 4 <= len(coarse.unique()) <= 8
        assert 0.5 < float(coarse.abs().max() / exact.abs().max()) < 1.5  # LSQ starts beyond the end


def test_extra_bits_need_even_levels_in_every_run_of_a_stack(task: Task) -> None:
    odd = {"quant": "symmetric", "range": "percentile", "storage": "accumulate", "extra_bits": 3}
    with pytest.raises(UsageError, match="evenly spaced"):
        start([BASE, BASE.model_copy(update=odd)], task)
    with pytest.raises(UsageError, match="evenly spaced"):
        check(BASE.model_copy(update=odd).spec)


def test_a_search_is_for_one_run(task: Task) -> None:
    cells = [Cell(data="digits", model="mlp:4", optimizer="lbfgs", seed=seed) for seed in (1, 2)]
    with pytest.raises(UsageError, match="one by one"):
        start(cells, task)


def test_bits_are_checked_before_any_work(task: Task) -> None:
    with pytest.raises(UsageError, match="recurrent"):
        network_for(Cell(data="digits", model="elman:4", activation_bits=1), task)


@pytest.mark.parametrize("optimizer", ["cg", "lbfgs", "newton", "levenberg-marquardt"])
def test_searches_take_an_order_of_their_own(optimizer: Any, task: Task) -> None:
    cell = Cell(data="digits", model="mlp:2", optimizer=optimizer, shuffle="per-run", batch=1000, epochs=1)
    assert train_stack([cell], task)[0].status == "done"


def test_a_rule_with_its_own_optimiser_takes_no_other(task: Task) -> None:
    cell = Cell(data="digits", model="mlp:8", rule="hsic-document", optimizer="sgd", learning_rate=0.1)
    with pytest.raises(
        UsageError, match="brings its own optimiser and rates; leave out optimizer, learning_rate"
    ):
        network_for(cell, task)
    network_for(cell.model_copy(update={"optimizer": "adadelta", "learning_rate": 1.0}), task)
