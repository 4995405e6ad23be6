"""Baselines: trained once, verified when read, resumed when interrupted, safe with two processes at once."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tersa.data.task import Provenance, Split, Task
from tersa.errors import Diverged
from tersa.models.load import load
from tersa.train import baseline as module
from tersa.train.baseline import BaselineRecord, baseline, default_config, save_weights
from tersa.train.config import TrainConfig
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress

SPEC = "mlp:8"
CONFIG = TrainConfig(optimizer="adam", learning_rate=0.02, batch=32, epochs=5)


def folder_of(cache: Path) -> Path:
    (folder,) = (cache / "baselines").iterdir()
    return folder


def test_it_is_trained_once_and_read_back_alike(task: Task, tmp_path: Path) -> None:
    first = baseline(task, SPEC, CONFIG, cache=tmp_path)
    updates: list[Progress] = []
    second = baseline(task, SPEC, CONFIG, cache=tmp_path, progress=updates.append)
    assert (first.cached, second.cached) == (False, True)
    assert not updates
    assert (first.key, first.history, first.validation_accuracy) == (
        second.key,
        second.history,
        second.validation_accuracy,
    )
    a, b = first.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert evaluate(second.module, task.validation, task).accuracy == second.validation_accuracy > 90
    assert not first.module.training
    assert not second.module.training


def test_its_folder_holds_weights_and_record_and_no_more(task: Task, tmp_path: Path) -> None:
    made = baseline(task, SPEC, CONFIG, cache=tmp_path)
    folder = tmp_path / "baselines" / made.key
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "model.safetensors", "record.json"]
    record = BaselineRecord.model_validate_json((folder / "record.json").read_text())
    assert (record.config, record.spec, record.task, record.key) == (CONFIG, SPEC, "bands", made.key)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_its_accuracy_is_that_of_the_weights_kept(keep: str, task: Task, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"keep": keep, "learning_rate": 0.3})
    made = baseline(task, SPEC, config, cache=tmp_path)
    assert evaluate(made.module, task.validation, task).accuracy == made.validation_accuracy


def test_whatever_made_it_is_in_its_key(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(task: Task = task, spec: str = SPEC, config: TrainConfig = CONFIG) -> str:
        return module._key(task, load(spec, task.shape, 3), config)

    builder = tmp_path / "net.py"
    builder.write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))\n"
    )
    own = key(spec=f"{builder}:build")
    builder.write_text(builder.read_text() + "# changed\n")
    keys = [
        key(),
        key(spec="mlp:9"),
        key(config=CONFIG.model_copy(update={"seed": 1})),
        key(task=replace(task, train=Split(255 - task.train.images, task.train.labels))),
        own,
        key(spec=f"{builder}:build"),
    ]
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    keys.append(key())
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "record", "foreign"])
def test_a_damaged_entry_is_trained_again(
    damage: str, task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = baseline(task, SPEC, CONFIG, cache=tmp_path)
    folder = folder_of(tmp_path)
    weights, record = folder / "model.safetensors", folder / "record.json"
    content = bytearray(weights.read_bytes())
    match damage:
        case "flip":
            content[-1] ^= 1
            weights.write_bytes(content)
        case "truncate":
            weights.write_bytes(content[:-7])
        case "missing":
            weights.unlink()
        case "record":
            record.write_text(record.read_text()[:-30])
        case _:
            save_weights(torch.nn.Linear(2, 2), weights)
            old = BaselineRecord.model_validate_json(record.read_text())
            digest = module.sha256_of(weights)
            record.write_text(old.model_copy(update={"weights_sha256": digest}).model_dump_json())
    with caplog.at_level(logging.WARNING):
        found = baseline(task, SPEC, CONFIG, cache=tmp_path)
    assert "cached baseline discarded" in caplog.text
    assert not found.cached
    a, b = wanted.module.state_dict(), found.module.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert baseline(task, SPEC, CONFIG, cache=tmp_path).cached


def test_weights_without_a_record_are_not_trusted(task: Task, tmp_path: Path) -> None:
    baseline(task, SPEC, CONFIG, cache=tmp_path)
    (folder_of(tmp_path) / "record.json").unlink()
    assert not baseline(task, SPEC, CONFIG, cache=tmp_path).cached


class Killed(Exception):
    """Stands for a kill."""


def test_an_interrupted_training_goes_on(task: Task, tmp_path: Path) -> None:
    wanted = baseline(task, SPEC, CONFIG, cache=tmp_path / "calm")

    def die(at: Progress) -> None:
        if at.epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        baseline(task, SPEC, CONFIG, cache=tmp_path, progress=die)
    assert (folder_of(tmp_path) / "checkpoint.safetensors").exists()
    seen: list[Progress] = []
    found = baseline(task, SPEC, CONFIG, cache=tmp_path, progress=seen.append)
    assert min(at.epoch for at in seen) == 4
    a, b = wanted.module.state_dict(), found.module.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_damaged_checkpoint_starts_over(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = baseline(task, SPEC, CONFIG, cache=tmp_path / "other").key
    folder = tmp_path / "baselines" / key
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"half of one")
    with caplog.at_level(logging.WARNING):
        assert len(baseline(task, SPEC, CONFIG, cache=tmp_path).history) == 5
    assert "training from the beginning" in caplog.text


def test_a_trained_model_is_only_evaluated(task: Task, tmp_path: Path) -> None:
    trained = baseline(task, SPEC, CONFIG, cache=tmp_path)
    file = tmp_path / "mine.safetensors"
    save_weights(trained.module, file)
    given = baseline(task, SPEC, CONFIG, checkpoint_file=file, cache=tmp_path / "none")
    assert (given.history, given.cached) == ([], False)
    assert given.validation_accuracy == trained.validation_accuracy
    assert given.key != trained.key
    assert not (tmp_path / "none").exists()


def test_divergence_is_an_error_and_leaves_nothing_to_trust(task: Task, tmp_path: Path) -> None:
    wild = TrainConfig(optimizer="sgd", learning_rate=3e38, batch=32, epochs=30)
    with pytest.raises(Diverged, match=r"ended in NaN or infinity .* lower learning_rate"):
        baseline(task, SPEC, wild, cache=tmp_path)
    assert [p.name for p in folder_of(tmp_path).iterdir()] == ["lock"]


def test_the_users_cache_is_the_default(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path))
    assert baseline(task, SPEC, CONFIG.model_copy(update={"epochs": 1})).key == folder_of(tmp_path).name


TWO = """
import sys, torch
from pathlib import Path
from tersa.data.task import Provenance, Split, Task
from tersa.train.baseline import baseline
from tersa.train.config import TrainConfig
torch.set_num_threads(1)
wave = torch.sin(torch.arange(600 * 36) * 12.9898).reshape(600, 1, 6, 6)
split = Split((wave * 100 + 120).to(torch.uint8), torch.arange(600) % 3)
task = Task("wave", split, split, split, ("a", "b", "c"), (0.5,), (0.3,), Provenance("made", "", {}))
print("ready", flush=True)
sys.stdin.readline()
made = baseline(task, "mlp:64", TrainConfig(batch=8, epochs=8), cache=Path(sys.argv[1]))
print(made.cached, float(sum(p.double().sum() for p in made.module.state_dict().values())))
"""


def test_two_processes_at_once_make_one_baseline(tmp_path: Path) -> None:
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert sorted(words[0] for words in said) == ["False", "True"]
    assert said[0][1] == said[1][1]


def _task(count: int, shape: tuple[int, int, int], source: str) -> Task:
    split = Split(torch.zeros(count, *shape, dtype=torch.uint8), torch.arange(count) % 2)
    mean = (0.5,) * shape[0]
    return Task("t", split, split, split, ("a", "b"), mean, mean, Provenance(source, "", {}))


def test_a_gpu_gets_bfloat16_and_low_bits_get_steps() -> None:
    """What a GPU chooses by itself, on the CPU too: the forward pass in bfloat16, channels last."""
    task = _task(6000, (3, 32, 32), "cifar-10")
    for spec in ("resnet:20", "cnv+w1a1", "bvgg16"):
        here, there = default_config(task, spec), default_config(task, spec, device="cuda:0")
        assert there == here.model_copy(update={"precision": "bf16"})
        assert there.channels_last
        assert there.augments
    low = default_config(task, "cnv+w2a2:in=4")
    assert (low.optimizer, low.weight_decay, low.schedule) == ("adam", 0.0, "cosine")
    assert default_config(task, "cnv").optimizer == module.CIFAR.optimizer


@pytest.mark.parametrize(
    ("shape", "count", "source", "spec", "preset", "flip", "pad"),
    [
        ((1, 28, 28), 6000, "mnist", "lenet", module.MNIST, False, 2),
        ((1, 28, 28), 6000, "fashion-mnist", "lenet", module.MNIST, True, 2),
        ((1, 28, 28), 6000, "mnist", "mlp:100x100", module.MNIST, False, 0),
        ((1, 8, 8), 1000, "digits", "lenet", module.DIGITS, False, 0),
        ((1, 28, 28), 500, "folder", "lenet", module.DIGITS, False, 0),
        ((3, 32, 32), 6000, "cifar-10", "resnet:20", module.CIFAR, True, 4),
        ((3, 64, 64), 10, "folder", "resnet18", module.PHOTOS, False, 0),
    ],
)
def test_default_settings_suit_the_data(
    shape: tuple[int, int, int], count: int, source: str, spec: str, preset: TrainConfig, flip: bool, pad: int
) -> None:
    found = default_config(_task(count, shape, source), spec)
    augmented = {"flip": flip, "pad": pad, "channels_last": not spec.startswith("mlp")}
    assert found == preset.model_copy(update=augmented)
