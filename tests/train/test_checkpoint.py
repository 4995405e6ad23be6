"""Checkpoints: a run goes on bit for bit, another run's or a damaged one is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tersa.data.task import Split, Task
from tersa.errors import DataError, UsageError
from tersa.records.results import Epoch
from tersa.train.checkpoint import Pace, pack, unpack, weights_digest
from tersa.train.config import TrainConfig
from tersa.train.loop import TrainResult, train

Build = Callable[[], nn.Module]


class Killed(Exception):
    """What a test raises in place of a power cut."""


def config(**settings: object) -> TrainConfig:
    return TrainConfig.model_validate({"batch": 32, "epochs": 4, "flip": True, "pad": 1, **settings})


def kill_after(epochs: int) -> Callable[[Epoch], None]:
    """Dies when the given epoch has been evaluated, before its checkpoint is written."""

    def die(row: Epoch) -> None:
        if row.epoch > epochs:
            raise Killed

    return die


def assert_same(first: tuple[nn.Module, TrainResult], second: tuple[nn.Module, TrainResult]) -> None:
    a, b = first[0].state_dict(), second[0].state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [[row.model_copy(update={"seconds": 0.0}) for row in each[1].history] for each in (first, second)]
    assert rows[0] == rows[1]
    assert (first[1].status, first[1].best_epoch) == (second[1].status, second[1].best_epoch)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "keep": "last"},
        {"optimizer": "momentum", "clip_norm": 1.0, "channels_last": True},
        {"optimizer": "nesterov", "weight_decay": 1e-3, "precision": "bf16"},
        {"optimizer": "adagrad"},
        {"optimizer": "adadelta"},
        {"optimizer": "adam", "schedule": "exponential", "gamma": 0.7},
        {"optimizer": "adamw", "weight_decay": 0.1, "iterations": 14},
        {"optimizer": "adamw", "channels_last": True, "learning_rate": 1e-2},
        {"optimizer": "lbfgs", "batch": 60, "keep": "last"},
        {"optimizer": "momentum", "distillation": "temperature", "distillation_temperature": 2.0},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
@pytest.mark.parametrize("done", [1, 2])
def test_a_resumed_run_equals_one_that_was_never_interrupted(
    settings: dict[str, object], done: int, network: Build, linear: Build, task: Task, tmp_path: Path
) -> None:
    chosen = config(**settings)
    teacher = linear() if chosen.distillation != "none" else None
    whole = network()
    wanted = train(whole, task, chosen, teacher=teacher)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        train(network(), task, chosen, teacher=teacher, checkpoint=path, on_epoch=kill_after(done))
    model, replayed = network(), []
    torch.manual_seed(99)  # what the new process did before must not matter
    found = train(
        model, task, chosen, teacher=teacher, checkpoint=path, resume=True, on_epoch=replayed.append
    )
    assert_same((whole, wanted), (model, found))
    assert replayed == found.history
    assert found.history[done - 1].seconds != wanted.history[done - 1].seconds  # it was not run again


def test_a_finished_run_is_taken_up_without_work(network: Build, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    first, second = network(), network()
    wanted = train(first, task, config(), checkpoint=path)
    updates: list[int] = []
    second.register_forward_hook(lambda m, _, __: updates.append(1) if m.training else None)
    found = train(second, task, config(), checkpoint=path, resume=True)
    assert_same((first, wanted), (second, found))
    assert not updates


def test_an_early_stopped_run_stays_stopped(linear: Build, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    frozen = config(optimizer="sgd", learning_rate=1e-30, early_stop=1, epochs=20)
    assert train(linear(), task, frozen, checkpoint=path).status == "stopped-early"
    again = train(linear(), task, frozen, checkpoint=path, resume=True)
    assert (again.status, len(again.history)) == ("stopped-early", 2)


def test_seconds_add_up_over_attempts(linear: Build, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    first = train(linear(), task, config(), checkpoint=path)
    second = train(linear(), task, config(), checkpoint=path, resume=True)
    assert second.seconds >= sum(row.seconds for row in first.history)


def test_without_resume_an_old_checkpoint_is_replaced(linear: Build, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    train(linear(), task, config(seed=1), checkpoint=path)
    train(linear(), task, config(seed=2), checkpoint=path)
    with pytest.raises(UsageError, match="seed was 2, now 1"):
        train(linear(), task, config(seed=1), checkpoint=path, resume=True)


def test_resume_without_a_checkpoint_begins(linear: Build, task: Task, tmp_path: Path) -> None:
    a, b = linear(), linear()
    first = train(a, task, config())
    second = train(b, task, config(), checkpoint=tmp_path / "deep" / "c.safetensors", resume=True)
    assert_same((a, first), (b, second))


def differing(task: Task, network: Build, linear: Build) -> dict[str, Callable[[Path], object]]:
    """What is said, and the attempt that must be told so."""
    data = replace(task, train=Split(255 - task.train.images, task.train.labels))
    wider = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False))
    taught = config(distillation="document")

    def go(model: nn.Module, task: Task, settings: TrainConfig, **more: object) -> Callable[[Path], object]:
        return lambda path: train(model, task, settings, checkpoint=path, resume=True, **more)  # type: ignore[arg-type]

    return {
        "learning_rate was 0.05, now 0.5": go(linear(), task, config(learning_rate=0.5)),
        "epochs was 4, now 5": go(linear(), task, config(epochs=5)),
        "the data were [0-9a-f]{16}, now [0-9a-f]{16}": go(linear(), data, config()),
        "the model's 1.bias was float32 [(]3,[)], now not there": go(wider, task, config()),
        "the model's 0.weight was not there, now float32 [(]4, 1, 3, 3[)]": go(network(), task, config()),
        "distillation was none, now document": go(linear(), task, taught, teacher=network()),
        "evaluate_every was 1, now 2": go(linear(), task, config(), evaluate_every=2),
    }


@pytest.mark.parametrize("number", range(7))
def test_a_checkpoint_of_another_run_is_refused_by_its_difference(
    number: int, task: Task, network: Build, linear: Build, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    train(linear(), task, config(), checkpoint=path)
    said, attempt = list(differing(task, network, linear).items())[number]
    with pytest.raises(UsageError, match=f"is of another run: {said}; start again") as caught:
        attempt(path)
    assert "\n" not in str(caught.value)


def test_another_teacher_is_another_run(task: Task, network: Build, linear: Build, tmp_path: Path) -> None:
    path, taught = tmp_path / "c.safetensors", config(distillation="document", epochs=1)
    train(linear(), task, taught, teacher=network(), checkpoint=path)
    with pytest.raises(UsageError, match=r"the teacher was [0-9a-f]{16}, now [0-9a-f]{16}"):
        train(linear(), task, taught, teacher=linear(), checkpoint=path, resume=True)


@pytest.mark.parametrize("damage", ["empty", "half", "short", "tensor", "text", "noise"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    damage: str, linear: Build, task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    train(linear(), task, config(epochs=1), checkpoint=path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    if damage == "tensor":
        flipped[-5] ^= 1
    content = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "short": whole[:-1],
        "tensor": bytes(flipped),
        "text": whole.replace(b'\\"iteration\\":4', b'\\"iteration\\":3'),
        "noise": b"\xff" * 300,
    }[damage]
    assert content != whole
    path.write_bytes(content)
    model = linear()
    before = weights_digest(model)
    with pytest.raises(DataError, match="is truncated or damaged; remove it and start again") as caught:
        train(model, task, config(epochs=1), checkpoint=path, resume=True)
    assert "\n" not in str(caught.value)
    assert weights_digest(model) == before


def test_other_safetensors_files_are_refused(linear: Build, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(DataError, match="is not a checkpoint of a run"):
        train(linear(), task, config(), checkpoint=path, resume=True)


def test_a_checkpoint_of_a_newer_version_is_refused(
    linear: Build, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    monkeypatch.setattr("tersa.train.checkpoint.SCHEMA", 99)
    train(linear(), task, config(epochs=1), checkpoint=path)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has schema 99"):
        train(linear(), task, config(epochs=1), checkpoint=path, resume=True)


def test_leftovers_of_a_killed_write_are_removed_and_never_read(
    linear: Build, task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    leftover, other = tmp_path / ".c.safetensors.abc.part", tmp_path / ".d.safetensors.abc.part"
    leftover.mkdir()
    (leftover / ".tmp3Fv8fv").write_bytes(b"half of a file that safetensors was writing")
    for file in (tmp_path / ".c.safetensors.old.part", other):
        file.write_bytes(b"half a file")
    assert train(linear(), task, config(epochs=1), checkpoint=path, resume=True).status == "done"
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, path.name]


def test_a_full_disk_leaves_the_last_checkpoint(
    linear: Build, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    train(linear(), task, config(epochs=2), checkpoint=path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tersa.train.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(linear(), task, config(epochs=2, seed=5), checkpoint=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_diverged_runs_diverge_again_alike(linear: Build, task: Task, tmp_path: Path) -> None:
    wild = config(optimizer="sgd", learning_rate=3e38, schedule="constant", epochs=30, keep="last")
    path = tmp_path / "c.safetensors"
    runs = [train(linear(), task, wild, checkpoint=path, resume=resume) for resume in (False, True)]
    assert [run.status for run in runs] == ["diverged", "diverged"]
    assert len(runs[0].history) == len(runs[1].history)


def test_pack_keeps_types_and_nesting() -> None:
    tree = {0: {"step": torch.tensor(3), "al": [None, 1.5]}, "betas": (0.9, True), "e": {}, "l": [], "s": "x"}
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(tree, tensors))
    back = unpack(json.loads(text), tensors)
    assert back == tree
    assert [type(key) for key in back] == [int, str, str, str, str]
    assert type(back["betas"]) is tuple


def test_pack_keeps_the_last_bit_of_floats_and_nan() -> None:
    tree = [0.1 + 0.2, 1e-310, float("inf"), float("-inf")]
    assert unpack(json.loads(json.dumps(pack(tree, {}))), {}) == tree


def test_pack_refuses_what_is_no_data() -> None:
    with pytest.raises(TypeError, match="cannot hold object"):
        pack({"a": object()}, {})


def test_shared_and_strided_tensors_are_written_apart(task: Task, tmp_path: Path) -> None:
    """Tied weights and views would be refused by safetensors as they stand."""
    tied = nn.Linear(36, 36)
    model = nn.Sequential(nn.Flatten(), tied, tied, nn.Linear(36, 3))
    path = tmp_path / "c.safetensors"
    train(model, task, config(epochs=1), checkpoint=path)
    assert train(model, task, config(epochs=1), checkpoint=path, resume=True).status == "done"


def test_a_state_that_is_quick_to_write_is_written_after_every_epoch() -> None:
    pace = Pace()
    assert pace.due(0.0)
    pace.wrote(5.0, 5.2)
    assert pace.due(5.2)


def test_a_slow_one_takes_a_twentieth_of_the_time() -> None:
    pace = Pace()
    pace.wrote(100.0, 103.0)
    assert not pace.due(162.9)
    assert pace.due(163.0)
