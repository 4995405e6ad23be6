"""A descent lands on its bounds, removes what brings them nearer, and does not keep a network that died."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from tersa.data import load as load_task
from tersa.data.augment import DEFAULTS
from tersa.data.task import Task
from tersa.errors import Diverged
from tersa.models.summary import macs, parameters
from tersa.models.zoo import build
from tersa.recipes import retraining
from tersa.recipes.goals import Bound, Goals
from tersa.recipes.job import Job
from tersa.recipes.pruning import STRONG, Protocol
from tersa.recipes.request import ShrinkSpec
from tersa.recipes.retraining import go_on_, retrain_, settings, start_
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import shrink
from tersa.recipes.trajectory import Trajectory
from tersa.train.checkpoint import weights_digest as digest
from tersa.train.config import TrainConfig
from tersa.train.loop import TrainResult

UNIT = 64 + 1 + 10
"""Parameters of one of the 16 neurons: its inputs, its bias, its outputs."""


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits", validation=100)


def spec(model: str, goals: Goals, step: str) -> ShrinkSpec:
    protocol: dict[str, int | float | str] = {
        **STRONG,
        "teacher_weight": 0.0,
        "optimiser": "follow",
        "step": step,
        "retrain": 3,
        "tune": 3,
        "criterion_samples": 60,
    }
    return ShrinkSpec(
        verb="prune", model=model, goals=goals, precision="fp32", epochs=1, validation=100, protocol=protocol
    )


def share(value: float) -> Bound:
    return Bound(value=value, relative=True)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0.5, 0.8])
def test_the_last_step_removes_no_more_than_asked(asked: float, tmp_path: Path) -> None:
    setting = Setting(seconds=0.02, cache=tmp_path / "cache", threads=1)
    goals = Goals(parameters=share(asked))
    result = shrink(spec("mlp:16", goals, "70%left"), tmp_path / "run", setting=setting)
    limit = asked * result.baseline.parameters
    assert limit - UNIT < result.result.parameters <= limit


@pytest.mark.slow
def test_where_parameters_are_few_enough_only_what_saves_macs_goes(tmp_path: Path) -> None:
    setting = Setting(seconds=0.02, cache=tmp_path / "cache", threads=1)
    goals = Goals(parameters=share(0.95), macs=share(0.35))
    result = shrink(spec("lenet:6-8-12", goals, "1"), tmp_path / "run", setting=setting)
    limit = 0.95 * result.baseline.parameters
    rows = Trajectory(tmp_path / "run").rows("steps")
    after = [row.widths["fc1"] for row in rows if row.parameters <= limit]
    assert len(after) > 3
    assert len(set(after)) == 1
    assert result.result.macs <= 0.35 * result.baseline.macs


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [(0.4, 0.5), (0.7, 0.2)])
def test_nothing_goes_in_the_last_step_that_both_bounds_would_have_let_stay(
    bounds: tuple[float, float], task: Task, tmp_path: Path
) -> None:
    setting = Setting(seconds=0.02, cache=tmp_path / "cache", threads=1)
    goals = Goals(parameters=share(bounds[0]), macs=share(bounds[1]))
    result = shrink(spec("lenet:6-8-12", goals, "60%left"), tmp_path / "run", setting=setting)
    before, last = (row.widths for row in Trajectory(tmp_path / "run").rows("steps")[-2:])
    first = Trajectory(tmp_path / "run").rows("steps")[0]
    limits = [bounds[0] * first.parameters, bounds[1] * first.macs]
    assert costs(last, task) == (result.result.parameters, result.result.macs)
    assert all(cost <= limit for cost, limit in zip(costs(last, task), limits, strict=True))
    lost = [layer for layer in last if last[layer] < before[layer]]
    assert lost
    for layer in lost:
        more = costs({**last, layer: last[layer] + 1}, task)
        assert any(cost > limit for cost, limit in zip(more, limits, strict=True)), layer


def costs(widths: dict[str, int], task: Task) -> tuple[int, int]:
    """Parameters and MACs of a LeNet of some widths."""
    sizes = "-".join(str(widths[layer]) for layer in ("conv1", "conv2", "fc1"))
    model = build(f"lenet:{sizes}", task.shape, len(task.classes))
    return parameters(model), macs(model, task.shape)


def job(task: Task, **changes: object) -> Job:
    protocol = Protocol.model_validate({**STRONG, "teacher_weight": 0.0, "retrain": 4, "tune": 4, **changes})
    return cast("Job", SimpleNamespace(task=task, protocol=protocol, device="cpu", seed=0, lessons=None))


def test_a_network_that_dies_is_trained_again_at_a_quarter_of_the_rate(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("mlp:12", task.shape, len(task.classes), seed=1)
    retrain_(job(task, learning_rate=0.05), model, 150, seed=0)  # it answers well now
    real, rates = retraining.train, list[float]()

    def dying(network: nn.Module, data: Task, config: TrainConfig, **others: Any) -> TrainResult:
        rates.append(config.learning_rate)
        found = real(network, data, config, **others)
        if len(rates) < 3:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.zero_()
        return found

    monkeypatch.setattr(retraining, "train", dying)
    retrain_(job(task), model, 100, seed=0)
    assert rates == [0.1, 0.025, 0.00625]
    assert any(bool(parameter.any()) for parameter in model.parameters())


@pytest.mark.parametrize("diverges", [False, True])
def test_a_retraining_in_two_parts_ends_with_the_same_bytes(
    diverges: bool, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first learning rate proves too high after the pause, and a lower one is tried."""
    real, asked = retraining.train, job(task, learning_rate=0.05)

    def dying(network: nn.Module, data: Task, config: TrainConfig, **others: Any) -> TrainResult:
        found = real(network, data, config, **others)
        late = diverges and config.learning_rate == 0.05 and found.status == "done"
        return replace(found, status="diverged") if late else found

    monkeypatch.setattr(retraining, "train", dying)
    first = build("lenet:4-6-12", task.shape, len(task.classes), seed=1)
    whole, parted = copy.deepcopy(first), copy.deepcopy(first)
    retrain_(asked, whole, 12, seed=3)
    paused = start_(asked, parted, 12, until=5, seed=3)
    assert paused.attempt == 0
    assert digest(parted) not in (digest(whole), digest(first))
    go_on_(asked, parted, paused)
    assert digest(parted) == digest(whole)


def test_a_network_that_always_dies_is_given_up(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mlp:12", task.shape, len(task.classes), seed=1)
    retrain_(job(task, learning_rate=0.05), model, 150, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def dead(network: nn.Module, data: Task, config: TrainConfig, **others: Any) -> TrainResult:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        return TrainResult("done", [], 0, 0.0)

    monkeypatch.setattr(retraining, "train", dead)
    with pytest.raises(Diverged, match="diverged 3 times"):
        retrain_(job(task), model, 100, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("pad", [None, 0, 1])
def test_shifts_are_the_datas_unless_asked(pad: int | None) -> None:
    source = next(iter(DEFAULTS))
    known = cast("Task", SimpleNamespace(shape=(1, 28, 28), provenance=SimpleNamespace(source=source)))
    usual = DEFAULTS[source].pad
    assert usual > 1
    assert retraining.shifts_of(job(known, pad=pad), spatial=True)[1] == (usual if pad is None else pad)
    assert retraining.shifts_of(job(known, pad=pad), spatial=False)[1] == (pad or 0)


def test_labels_alone_teach_without_a_teacher() -> None:
    alone = settings(
        Protocol(retrain=1, tune=1, teacher_weight=0.0), 500, seed=0, spatial=False, shifts=(False, 0)
    )
    followed = settings(
        Protocol(retrain=1, tune=1, teacher_weight=0.5), 500, seed=0, spatial=False, shifts=(False, 0)
    )
    assert (alone.distillation, followed.distillation) == ("none", "temperature")
