"""Phases, divergence and saved states: nothing of one phase or run stays behind in another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tersa.data import load
from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.rules import registry
from tersa.rules.backprop import BackPropagation
from tersa.rules.base import Phase, Recipe
from tersa.rules.network import Network
from tersa.study import memory
from tersa.study.cell import Cell
from tersa.study.measure import Workload
from tersa.study.stacked import train_stack
from tersa.study.update import Moment, Settings


class Two(BackPropagation):
    """Backpropagation in two phases, the first of which brings an optimiser with weight decay."""

    def phases(self, network: Network) -> tuple[Phase, ...]:
        (phase,) = BackPropagation().phases(network)
        return replace(phase, recipe=Recipe("sgd", 0.1, weight_decay=0.5)), replace(phase, name="later")


@pytest.fixture(scope="module")
def task() -> Task:
    return load("digits")


def test_weight_decay_ends_with_its_phase(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RULES, "two", Two("two"))
    met: list[float] = []

    def watch(state: Any, grads: Any, settings: Settings, moment: Moment) -> None:
        met.append(float(settings.decay[0]))

    monkeypatch.setattr("tersa.study.stacked.update_", watch)
    cell = Cell(data="digits", model="mlp:4", rule="two", epochs=1, batch=800, weight_decay=0.25)
    train_stack([cell], task)
    assert met == [0.5] * (len(met) // 2) + [0.25] * (len(met) // 2)


def test_a_diverged_run_has_no_epochs_that_it_did_not_train(task: Task) -> None:
    cells = [
        Cell(data="digits", model="mlp:8", epochs=4, optimizer="sgd", learning_rate=rate)
        for rate in (0.1, 1e30)
    ]
    good, bad = train_stack(cells, task)
    assert [row.epoch for row in good.epochs] == [1, 2, 3, 4]
    assert [(row.epoch, row.train_loss) for row in bad.epochs] == [(1, None)]
    assert bad.test_accuracy == bad.epochs[0].test_accuracy


@pytest.mark.parametrize("storage", ["inplace", "latent", "after"])
def test_weights_that_end_without_a_number_are_a_divergence(storage: Any, task: Task) -> None:
    """The loss of the last update was still finite; with `after` the other runs must survive the snap."""
    base = Cell(data="digits", model="mlp:8", epochs=1, batch=2000, optimizer="sgd", learning_rate=0.1)
    wild = {"quant": "symmetric", "storage": storage, "learning_rate": 3e38, "weight_decay": 1e9}
    tame = {"quant": "symmetric", "storage": storage}
    bad, good = train_stack([base.model_copy(update=wild), base.model_copy(update=tame)], task)
    assert bad.epochs[0].train_loss is not None
    assert (bad.status, good.status) == ("diverged", "done")
    assert "a weight was not finite in epoch 1" in bad.message


@pytest.mark.parametrize("rule", ["dtp", "ff"])
def test_a_saved_run_goes_on_with_its_own_random_numbers(rule: str, task: Task, tmp_path: Path) -> None:
    cell = Cell(
        data="digits", model="mlp:20x20", rule=rule, quant="symmetric", bits=4, range="global", batch=32,
        rounding="stochastic", optimizer="sgd", learning_rate=0.5,
    )  # fmt: skip
    whole, broken, fresh = (Workload([cell], task) for _ in range(3))
    whole(6)
    broken(3)
    memory.save(broken.stack, 0, tmp_path / "state")
    memory.restore_(fresh.stack, 0, tmp_path / "state")
    fresh.done = 3
    fresh(3)
    for ours, theirs in zip(fresh.stack.state.values, whole.stack.state.values, strict=True):
        assert torch.equal(ours, theirs)


def test_the_noise_of_an_array_is_not_saved_as_codes(task: Task, tmp_path: Path) -> None:
    cell = Cell(
        data="digits",
        model="mlp:8",
        quant="symmetric",
        bits=3,
        range="global",
        optimizer="sgd",
        read_noise=0.1,
    )
    with pytest.raises(UsageError, match="state of its devices"):
        memory.save(Workload([cell], task).stack, 0, tmp_path / "x")
