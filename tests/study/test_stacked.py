"""The engine: a stack learns, equals its runs one by one, and survives what diverges."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tersa.data import load
from tersa.data.task import Task
from tersa.errors import DataError, UsageError
from tersa.rules.base import Extras
from tersa.rules.network import Weights
from tersa.study import memory
from tersa.study.cell import Cell, CellResult
from tersa.study.measure import Workload
from tersa.study.stacked import capacity, cost, train_stack

FIRST_STEP = 1e-6
"""After one step a stack and its runs differ by the rounding of matrix products alone."""
LATER = 2e-3
"""After 200 steps of full-precision networks those roundings have grown."""


@pytest.fixture(scope="module")
def task() -> Task:
    return load("digits")


def weights_after(cells: list[Cell], task: Task, updates: int) -> list[torch.Tensor]:
    work = Workload(cells, task)
    work(updates)
    return [value.clone() for value in work.stack.state.values]


def test_learns_the_digits(task: Task) -> None:
    cells = [Cell(data="digits", model="mlp:32", epochs=8, batch=32, seed=s) for s in (1, 2)]
    for result in train_stack(cells, task):
        assert result.status == "done"
        assert result.test_accuracy is not None
        assert result.test_accuracy > 90
        assert [row.epoch for row in result.epochs] == list(range(1, 9))
        assert result.epochs[0].learning_rate == 1.0
        assert result.epochs[1].learning_rate == pytest.approx(0.7)
        assert result.stacked == 2
        assert {row.layer for row in result.layers} == {"fc1", "fc2"}


MIXED = [
    Cell(data="digits", model="mlp:20x20", batch=32, seed=1),
    Cell(data="digits", model="mlp:20x20", batch=32, seed=2, learning_rate=0.5),
    Cell(data="digits", model="mlp:20x20", batch=32, seed=3, gain=1.7),
    Cell(data="digits", model="mlp:20x20", batch=32, seed=4, weight_decay=0.01),
]
DIGITS = Cell(data="digits", model="mlp:20x20", batch=32)
QUANTISED = [
    DIGITS.model_copy(update={"seed": seed, **settings})
    for seed, settings in enumerate(
        (
            {"quant": "symmetric", "bits": 3, "rounding": "stochastic"},
            {"quant": "asymmetric", "bits": 4, "range": "global"},
            {"quant": "binary", "bits": 1, "storage": "latent"},
            {"quant": "ternary", "bits": 2, "range": "channel", "storage": "latent"},
            {"quant": "power-of-two", "bits": 4},
            {"quant": "symmetric", "bits": 3, "storage": "latent", "range": "learned"},
            {
                "quant": "symmetric",
                "bits": 2,
                "range": "global",
                "storage": "accumulate",
                "extra_bits": 4,
                "rounding": "stochastic",
            },
        ),
        start=1,
    )
]


@pytest.mark.parametrize("cells", [MIXED, QUANTISED], ids=["mixed", "quantised"])
def test_one_step_is_the_same_stacked_or_alone(cells: list[Cell], task: Task) -> None:
    together = weights_after(cells, task, 1)
    for run, cell in enumerate(cells):
        alone = weights_after([cell], task, 1)
        for stacked, single in zip(together, alone, strict=True):
            torch.testing.assert_close(stacked[run], single[0], rtol=0, atol=FIRST_STEP)


def test_two_hundred_steps_are_the_same_stacked_or_alone(task: Task) -> None:
    together = weights_after(MIXED, task, 200)
    for run, cell in enumerate(MIXED):
        alone = weights_after([cell], task, 200)
        for stacked, single in zip(together, alone, strict=True):
            torch.testing.assert_close(stacked[run], single[0], rtol=0, atol=LATER)


def test_each_run_has_its_own_order_when_asked(task: Task) -> None:
    cells = [Cell(data="digits", model="mlp:8", batch=32, seed=s, shuffle="per-run") for s in (1, 2)]
    together = weights_after(cells, task, 5)
    for run, cell in enumerate(cells):
        alone = weights_after([cell], task, 5)
        torch.testing.assert_close(together[0][run], alone[0][0], rtol=0, atol=1e-5)
    shared = weights_after([cell.model_copy(update={"shuffle": "shared"}) for cell in cells], task, 5)
    assert not torch.allclose(shared[0][1], together[0][1], atol=1e-4)


def test_a_run_that_diverges_is_masked(task: Task) -> None:
    cells = [
        Cell(data="digits", model="mlp:16", epochs=3, batch=32, optimizer="sgd", learning_rate=rate)
        for rate in (0.1, 1e30)
    ]
    good, bad = train_stack(cells, task)
    alone = train_stack(cells[:1], task)[0]
    assert (good.status, bad.status) == ("done", "diverged")
    assert "not finite in epoch 1" in bad.message
    assert good.test_accuracy == pytest.approx(alone.test_accuracy, abs=1.0)
    assert bad.model_dump_json()


def test_weights_lie_on_their_levels(task: Task) -> None:
    cells = [
        Cell(
            data="digits",
            model="mlp:16",
            epochs=1,
            quant="symmetric",
            bits=bits,
            range=where,
            storage=storage,
        )
        for bits in (2, 3)
        for where in ("global", "layer", "percentile")
        for storage in ("inplace", "latent", "after")
    ]
    kept: dict[int, list[int]] = {}

    def keep(index: int, weights: Weights, extras: Extras) -> None:
        kept[index] = [len(pair.weight.unique()) for pair in weights]

    results = train_stack(cells, task, keep=keep)
    for index, cell in enumerate(cells):
        assert max(kept[index]) <= 2**cell.bits - 1
    after = [r for r in results if r.cell.storage == "after"]
    assert [r.epochs[-1].phase for r in after] == ["snapped"] * len(after)


def test_calibrated_range_is_that_of_the_full_precision_run(task: Task) -> None:
    real = Cell(data="digits", model="mlp:16", epochs=2, batch=32)
    cell = real.model_copy(
        update={"quant": "asymmetric", "bits": 8, "range": "calibrated", "percentile": 100.0}
    )
    full, fixed = train_stack([real], task)[0], train_stack([cell], task)[0]
    last = [row for row in full.layers if row.epoch == 2 and row.tensor == "weight"]
    ours = [row for row in fixed.layers if row.epoch == 2 and row.tensor == "weight"]
    for mine, reference in zip(ours, last, strict=True):
        assert reference.low - 1e-6 <= mine.low
        assert mine.high <= reference.high + 1e-6


@pytest.mark.parametrize("extra", [0, 4])
def test_between_updates_there_are_only_codes(extra: int, task: Task, tmp_path: Path) -> None:
    """The state goes to a file of b + e bits a weight, and the run continues from it bit for bit."""
    cell = Cell(
        data="digits", model="mlp:20x20", batch=32, quant="symmetric", bits=3, range="global", gain=1.7,
        rounding="stochastic", storage="accumulate" if extra else "inplace", extra_bits=extra,
        optimizer="sgd", learning_rate=3.0,
    )  # fmt: skip
    path = tmp_path / "state.safetensors"
    whole, broken = Workload([cell], task), Workload([cell], task)
    whole(6)
    broken(3)
    count = broken.stack.network.parameters
    assert memory.save(broken.stack, 0, path) == count * (3 + extra)
    assert path.stat().st_size < count * (3 + extra) / 8 + 1000  # names and shapes besides
    fresh = Workload([cell], task)
    memory.restore_(fresh.stack, 0, path)
    for ours, theirs in zip(fresh.stack.state.masters, broken.stack.state.masters, strict=True):
        assert torch.equal(ours, theirs)
    assert not fresh.stack.state.firsts
    fresh.done = 3
    fresh(3)
    for ours, theirs in zip(fresh.stack.state.values, whole.stack.state.values, strict=True):
        assert torch.equal(ours, theirs)
    assert fresh.stack.step == whole.stack.step == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"storage": "latent"},
        {"optimizer": "momentum"},
        {"range": "layer"},
        {"quant": "clusters", "range": "layer"},
    ],
)
def test_runs_that_keep_more_than_codes_are_not_saved(
    changes: dict[str, object], task: Task, tmp_path: Path
) -> None:
    base: dict[str, object] = {
        "data": "digits",
        "model": "mlp:8",
        "quant": "symmetric",
        "bits": 3,
        "range": "global",
    }
    cell = Cell.model_validate({**base, "optimizer": "sgd", **changes})
    with pytest.raises(UsageError, match="choose"):
        memory.save(Workload([cell], task).stack, 0, tmp_path / "x")


def test_a_state_of_another_run_is_refused(task: Task, tmp_path: Path) -> None:
    cell = Cell(data="digits", model="mlp:8", quant="symmetric", bits=3, range="global", optimizer="sgd")
    memory.save(Workload([cell], task).stack, 0, tmp_path / "x")
    with pytest.raises(DataError, match="seed 1"):
        memory.restore_(Workload([cell.model_copy(update={"seed": 2})], task).stack, 0, tmp_path / "x")


def test_cells_that_cannot_share_a_stack(task: Task) -> None:
    with pytest.raises(UsageError, match="no stack"):
        train_stack([Cell(data="digits"), Cell(data="digits", batch=32)], task)


def test_capacity_and_cost() -> None:
    assert capacity(Cell(model="mlp:4")) > capacity(Cell(model="mlp:100x100x100")) >= 1
    assert capacity(Cell(model="lenet")) == 1
    assert cost(Cell(model="mlp:100x100")) > cost(Cell(model="mlp:4"))


def test_results_are_the_same_with_two_threads(task: Task) -> None:
    def run(threads: int) -> CellResult:
        return train_stack(QUANTISED[:2], task, threads=threads)[0]

    cells = [cell.model_copy(update={"epochs": 1}) for cell in QUANTISED[:2]]
    one, two = train_stack(cells, task, threads=1), train_stack(cells, task, threads=2)
    for a, b in zip(one, two, strict=True):
        assert np.isclose(a.epochs[0].test_accuracy, b.epochs[0].test_accuracy, atol=1.0)
