"""Training on a crossbar: ideal equals plain, noise stays where it belongs, faults hold."""

import pytest
import torch

from tersa.data import load
from tersa.data.task import Task
from tersa.study.cell import Cell
from tersa.study.measure import Workload
from tersa.study.stacked import train_stack

BASE = Cell(data="digits", model="mlp:20x20", batch=32, quant="symmetric", bits=3, rounding="stochastic")


@pytest.fixture(scope="module")
def task() -> Task:
    return load("digits")


def after(cells: list[Cell], task: Task, updates: int = 5) -> Workload:
    work = Workload(cells, task)
    work(updates)
    return work


def noisy(**changes: object) -> Cell:
    return BASE.model_copy(update=changes)


@pytest.mark.parametrize("where", ["layer", "global", "channel"])
def test_an_ideal_array_is_the_plain_run_bit_for_bit(where: str, task: Task) -> None:
    """A run without noise beside a noisy one goes through the array, and equals a run without."""
    clean = noisy(range=where)
    plain = after([clean, clean], task).stack
    beside = after([clean, noisy(range=where, program_noise=0.1, stuck=0.1, read_noise=0.1)], task).stack
    assert plain.array is None
    assert beside.array is not None
    for ours, level, effective in zip(
        plain.state.values, beside.state.values, beside.array.effective, strict=True
    ):
        assert torch.equal(ours[0], level[0])
        assert torch.equal(level[0], effective[0])
        assert not torch.equal(effective[1], level[1])


def test_levels_stay_levels_and_noise_has_the_asked_size(task: Task) -> None:
    stack = after([noisy(range="global", program_noise=0.05)], task, 20).stack
    assert stack.array is not None
    level, effective = stack.state.values[0], stack.array.effective[0]
    assert len(level.unique()) <= 7
    error = effective - level
    inside = level.abs() < 0.9
    assert float(error[inside].std()) == pytest.approx(0.05, rel=0.1)
    assert abs(float(error[inside].mean())) < 0.01


def test_stuck_devices_keep_their_conductance(task: Task) -> None:
    cell = noisy(range="global", stuck=0.3)
    work = after([cell], task, 1)
    assert work.stack.array is not None
    faults = work.stack.array.faults[0]
    assert faults is not None
    positive, negative = faults.dense(work.stack.state.values[0][0].numel())
    both = (~positive.isnan() & ~negative.isnan())[0]
    before = work.stack.array.effective[0].flatten()[both].clone()
    work(20)
    assert torch.equal(work.stack.array.effective[0].flatten()[both], before)
    torch.testing.assert_close(before, (positive - negative)[0][both])
    share = float((~positive.isnan()).float().mean())
    assert share == pytest.approx(0.3, abs=0.05)


def test_a_noisy_run_is_the_same_stacked_or_alone(task: Task) -> None:
    cells = [noisy(seed=s, program_noise=0.05 * s, stuck=0.01, read_noise=0.02) for s in (1, 2)]
    together = after(cells, task, 3).stack
    for run, cell in enumerate(cells):
        alone = after([cell], task, 3).stack
        assert alone.array is not None
        assert together.array is not None
        for ours, theirs in zip(together.array.effective, alone.array.effective, strict=True):
            close = (ours[run] - theirs[0]).abs() < 1e-5  # a rounding may tip a stochastic choice by a level
            assert float(close.float().mean()) > 0.99


def test_noise_costs_accuracy_and_a_little_of_it_is_survived(task: Task) -> None:
    cells = [
        noisy(epochs=6, storage="latent", bits=4, program_noise=noise, stuck=stuck)
        for noise, stuck in ((0.0, 0.0), (0.02, 0.01), (1.0, 0.3))
    ]
    clean, little, much = (result.test_accuracy for result in train_stack(cells, task))
    assert clean is not None
    assert little is not None
    assert much is not None
    assert little > clean - 10
    assert much < clean - 5
