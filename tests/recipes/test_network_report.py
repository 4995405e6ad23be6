"""`portrait.json` and the page of a trained network: what they say is what the network does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tersa.data import load
from tersa.data.task import Task
from tersa.models.load import load as load_model
from tersa.models.operations import operations
from tersa.models.zoo import build
from tersa.recipes.network_report import view_of
from tersa.recipes.portrait import Portrait, portrait
from tersa.recipes.train import TrainedRun, history_of, run_training
from tersa.recipes.train_request import TrainRequest
from tersa.records.base import read_record
from tersa.train.config import TrainConfig
from tersa.train.evaluation import predict


@pytest.fixture(scope="module")
def task() -> Task:
    return load("digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedRun]:
    folder = tmp_path_factory.mktemp("net") / "run"
    made = run_training(TrainRequest(model="mlp:16", settings={"epochs": 3, "pad": 1, "flip": True}), folder)
    return folder, made


def test_it_shows_what_the_network_answers(run: tuple[Path, TrainedRun], task: Task) -> None:
    folder, made = run
    found = read_record(folder / "portrait.json", Portrait)
    model = load_model("mlp:16", task.shape, 10, checkpoint=folder / "model.safetensors").module
    said = predict(model, task.test, task).argmax(1)
    for k in range(10):
        for j in range(10):
            assert found.confusion[k][j] == int(((task.test.labels == k) & (said == j)).sum())
    right = sum(found.confusion[k][k] for k in range(10))
    assert 100 * right / len(task.test) == pytest.approx(made.test_accuracy)
    kinds = [each.chances[0].label == each.label for each in found.certainties]
    assert kinds == sorted(kinds, reverse=True)
    for each in found.certainties:
        assert sum(guess.probability for guess in each.chances) == pytest.approx(1.0)
    assert found.batch is not None
    assert found.looks is not None


def test_the_view_tells_it(run: tuple[Path, TrainedRun]) -> None:
    folder, made = run
    view = view_of(made, history_of(folder), read_record(folder / "portrait.json", Portrait))
    assert view.verdict == f"{made.test_accuracy:.2f} % of 360 test images are named rightly"
    assert view.epochs is not None
    assert [len(curve.values) for curve in view.epochs.curves] == [3, 3]
    assert ("pad", "1") in view.facts
    assert sum(row.share for row in view.costs) == pytest.approx(1.0)
    assert view.total is not None
    assert (view.total.binary, view.total.integer) == ("–", "–")


def test_nothing_augmented_nothing_shown(task: Task) -> None:
    found = portrait(build("mlp:8", task.shape, 10), task, TrainConfig())
    assert found.batch is None


def test_it_leaves_the_network_as_it_was(task: Task) -> None:
    model = build("cnv+w1a1" if min(task.shape[1:]) >= 32 else "sfc", task.shape, 10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    portrait(model, task, TrainConfig(pad=1))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("spec", "shape", "binary", "integer", "real"),
    [
        ("mlp:16", (1, 8, 8), 0, 0, 64 * 16 + 16 * 10),
        ("tfc", (1, 8, 8), 2 * 64 * 64 + 64 * 10, 64 * 64, 0),
        ("tfc+w1a1:in=1", (1, 8, 8), 3 * 64 * 64 + 64 * 10, 0, 0),
        ("tfc+w2a2", (1, 8, 8), 0, 3 * 64 * 64 + 64 * 10, 0),
        ("tfc+wta1:last=float", (1, 8, 8), 2 * 64 * 64, 64 * 64, 64 * 10),
    ],
)
def test_operations_by_kind(
    spec: str, shape: tuple[int, int, int], binary: int, integer: int, real: int
) -> None:
    total = operations(build(spec, shape, 10), shape, spec).total
    assert (total.binary, total.integer, total.real) == (binary, integer, real)


def test_packed_bytes() -> None:
    found = operations(build("tfc+w3a1:in=1,last=8/1", (1, 8, 8), 10), (1, 8, 8), "tfc+w3a1:in=1,last=8/1")
    assert [work.size_bytes for work in found.layers] == [64 * 64 * 3 // 8] * 3 + [640]
    assert found.description == "3/1 (W/A), input 1, first 3/1, last 8/1"
    assert found.low_bit
    assert not operations(build("mlp:4", (1, 8, 8), 10), (1, 8, 8)).low_bit
