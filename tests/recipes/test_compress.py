"""Compression: what the record says is what is on disk and in the decoded network."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import Diverged, ModelError, UsageError
from tersa.export.coded import read_coded
from tersa.models.zoo import build
from tersa.prune.surgery import resize_
from tersa.recipes.compress import TRADES, compress
from tersa.recipes.compress_result import Compressed, Compression, Tried
from tersa.records.base import read_record, write_record
from tersa.train.config import TrainConfig
from tersa.train.evaluation import evaluate, predict
from tersa.train.lessons import prepare
from tersa.train.loop import train

SPEC = "mlp:24"

BRIEF = 150
"""Updates that bring 2-bit centroids most of the way back on this small network."""


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits")


@pytest.fixture(scope="module")
def teacher(task: Task) -> nn.Module:
    model = build(SPEC, task.shape, 10)
    train(model, task, TrainConfig(optimizer="adamw", learning_rate=1e-2, batch=64, iterations=250))
    return model.eval()


@pytest.fixture(scope="module")
def pruned(task: Task, teacher: nn.Module) -> nn.Module:
    """Half the hidden units are gone."""
    model = build(SPEC, task.shape, 10)
    (first, weight), (second, bias), (third, last), (fourth, kept) = teacher.state_dict().items()
    resize_(model, {first: weight[::2], second: bias[::2], third: last[:, ::2], fourth: kept})
    train(model, task, TrainConfig(optimizer="adamw", learning_rate=1e-2, batch=64, iterations=100))
    return model.eval()


def squeeze(
    task: Task, network: nn.Module, teacher: nn.Module | None, path: Path, how: Compression
) -> Compressed:
    return compress(task, network, SPEC, teacher, how, path=path)[0]


def test_the_record_says_what_is_on_disk(
    task: Task, pruned: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    path = tmp_path / "m.coded"
    done = squeeze(task, pruned, teacher, path, Compression(bits=3, iterations=BRIEF))
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())
    parts = done.header_bytes + done.codebook_bytes + done.code_bytes + done.bias_bytes
    assert done.size_bytes == parts == path.stat().st_size
    assert done.original_bytes == 4 * (64 * 24 + 24 + 240 + 10)
    assert done.parameters == 64 * 12 + 12 + 120 + 10
    assert done.ratio == done.original_bytes / done.size_bytes > 10
    assert [layer.shape for layer in done.layers] == [(12, 64), (10, 12)]
    assert all(layer.values <= 8 and layer.zeros == 0 and layer.entropy_bits <= 3 for layer in done.layers)
    bits = sum(layer.entropy_bits * layer.shape[0] * layer.shape[1] for layer in done.layers)
    assert done.entropy_bytes == pytest.approx(bits / 8)
    assert done.bits == 3
    only = Tried(bits=3, trade=0.0, size_bytes=done.size_bytes, accuracy=done.validation_accuracy)
    assert done.tried == (only,)
    assert done.size_met
    assert done.floor is None
    assert done.floor_met
    module, header = read_coded(path)
    assert evaluate(module, task.validation, task).accuracy == done.validation_accuracy
    assert evaluate(pruned, task.validation, task).accuracy == done.accuracy_before
    assert header.classes == task.classes
    write_record(tmp_path / "result.json", done)
    assert read_record(tmp_path / "result.json", Compressed) == done


def test_training_brings_accuracy_back(
    task: Task, pruned: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "m.coded"
    found = {
        reassign: squeeze(
            task,
            pruned,
            teacher,
            path,
            Compression(bits=1, iterations=BRIEF, reassign=reassign, learning_rate=5e-3),
        )
        for reassign in (True, False)
    }
    for done in found.values():
        assert done.validation_accuracy > done.accuracy_clustered + 2
    assert found[True].validation_accuracy >= found[False].validation_accuracy


def test_the_same_seed_gives_the_same_file(
    task: Task, pruned: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    how = Compression(bits=2, iterations=30)
    for name in ("a", "b"):
        squeeze(task, pruned, teacher, tmp_path / name, how)
    squeeze(task, pruned, teacher, tmp_path / "c", how.model_copy(update={"seed": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_auto_takes_the_fewest_bits_that_keep_the_floor(
    task: Task, pruned: nn.Module, tmp_path: Path
) -> None:
    how = Compression(iterations=0, floor=evaluate(pruned, task.validation, task).accuracy - 1.0)
    done = squeeze(task, pruned, None, tmp_path / "m.coded", how)
    assert done.floor_met
    assert done.floor is not None
    assert done.validation_accuracy >= done.floor
    assert [one.bits for one in done.tried] == list(range(2, done.bits + 1))
    assert all(one.accuracy < done.floor for one in done.tried[:-1])
    assert done.bits > 2, "k-means alone loses more than a point at 2 bits"


def test_a_floor_that_no_width_keeps_is_said(task: Task, pruned: nn.Module, tmp_path: Path) -> None:
    done = squeeze(task, pruned, None, tmp_path / "m.coded", Compression(iterations=0, floor=100.0))
    assert not done.floor_met
    assert [one.bits for one in done.tried] == [2, 3, 4, 5, 6, 7, 8]
    assert done.validation_accuracy == max(one.accuracy for one in done.tried)


def test_a_floor_is_kept_with_fewer_bytes_by_trading(task: Task, pruned: nn.Module, tmp_path: Path) -> None:
    floor = evaluate(pruned, task.validation, task).accuracy - 1.5
    how = Compression(bits=4, iterations=BRIEF, floor=floor, learning_rate=3e-3)
    done = squeeze(task, pruned, None, tmp_path / "m.coded", how)
    assert done.floor_met
    assert done.validation_accuracy >= floor
    plain, *traded = done.tried
    assert plain.trade == 0
    assert [one.trade for one in traded] == list(TRADES[: len(traded)])
    kept = [one for one in done.tried if one.accuracy >= floor]
    assert done.size_bytes == min(one.size_bytes for one in kept) < 0.95 * plain.size_bytes
    assert done.trade > 0


def test_a_limit_in_bytes_is_kept(task: Task, pruned: nn.Module, tmp_path: Path) -> None:
    free = squeeze(task, pruned, None, tmp_path / "a", Compression(bits=4, iterations=BRIEF))
    limit = round(0.8 * free.size_bytes)
    how = Compression(bits=4, iterations=2 * BRIEF, most_bytes=limit, learning_rate=3e-3)
    done = squeeze(task, pruned, None, tmp_path / "b", how)
    assert done.size_met
    assert 0.9 * limit < done.size_bytes <= limit
    assert done.trade > 0
    tight = squeeze(task, pruned, None, tmp_path / "c", how.model_copy(update={"most_bytes": 60}))
    assert not tight.size_met
    assert tight.size_bytes < done.size_bytes
    wide = how.model_copy(update={"most_bytes": 9000, "iterations": 3, "learning_rate": 0.3})
    spoilt = squeeze(task, pruned, None, tmp_path / "e", wide)
    assert spoilt.validation_accuracy >= spoilt.accuracy_clustered, "k-means fits, training did harm"
    narrow = wide.model_copy(update={"most_bytes": limit})
    rounded = squeeze(task, pruned, None, tmp_path / "f", narrow)
    assert rounded.size_met, "weights as they are, at the trade that fits"
    assert 0.97 * limit < rounded.size_bytes
    assert rounded.validation_accuracy > spoilt.accuracy_clustered - 10
    with pytest.raises(UsageError, match="a limit in bytes is reached by training"):
        squeeze(task, pruned, None, tmp_path / "d", how.model_copy(update={"iterations": 0}))


def test_a_limit_that_leaves_bytes_is_tried_with_more_values(
    task: Task, pruned: nn.Module, tmp_path: Path
) -> None:
    how = Compression(iterations=10, most_bytes=9000, floor=100.0)
    done = squeeze(task, pruned, None, tmp_path / "roomy", how)
    assert [one.bits for one in done.tried] == [5, 6, 7, 8], "none keeps a floor of 100 %"
    assert done.size_met
    assert done.validation_accuracy == max(one.accuracy for one in done.tried)
    kept = squeeze(task, pruned, None, tmp_path / "kept", how.model_copy(update={"floor": 50.0}))
    assert [one.bits for one in kept.tried] == [5], "nothing is left to gain"
    limit = round(0.7 * done.size_bytes)
    full = how.model_copy(update={"most_bytes": limit, "iterations": BRIEF})
    tried = squeeze(task, pruned, None, tmp_path / "full", full).tried
    assert all(one.size_bytes <= 0.95 * limit for one in tried[:-1])


def test_codebooks_and_coders(task: Task, pruned: nn.Module, tmp_path: Path) -> None:
    def size(how: Compression) -> Compressed:
        return squeeze(task, pruned, None, tmp_path / "m.coded", how)

    base = Compression(bits=4, iterations=0)
    layer, network, auto = (
        size(base.model_copy(update={"codebook": kind})) for kind in ("layer", "network", "auto")
    )
    assert network.codebook_bytes < layer.codebook_bytes
    assert auto == network.model_copy(update={"seconds": auto.seconds}), "which is smaller by more than 2 %"
    raw, huffman, arithmetic = (
        size(base.model_copy(update={"coder": coder})) for coder in ("raw", "huffman", "arithmetic")
    )
    assert arithmetic.size_bytes < huffman.size_bytes < raw.size_bytes
    assert raw.validation_accuracy == huffman.validation_accuracy == arithmetic.validation_accuracy


def test_lessons_teach_as_well(task: Task, pruned: nn.Module, teacher: nn.Module, tmp_path: Path) -> None:
    lessons = prepare(teacher, task, flip=False, pad=0, views=1, seed=0)
    how = Compression(bits=2, iterations=20)
    compress(task, pruned, SPEC, lessons, how, path=tmp_path / "a")
    compress(task, pruned, SPEC, teacher, how, path=tmp_path / "b")
    pixels = [predict(read_coded(tmp_path / name)[0], task.validation, task) for name in ("a", "b")]
    assert (pixels[0].argmax(1) == pixels[1].argmax(1)).float().mean() > 0.97  # answers in other batches


def test_zeros_stay_zero(task: Task, teacher: nn.Module, tmp_path: Path) -> None:
    model = build(SPEC, task.shape, 10)
    model.load_state_dict(teacher.state_dict())
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight[weight.abs() < weight.abs().median()] = 0
    done = squeeze(task, model, teacher, tmp_path / "m.coded", Compression(bits=2, iterations=20))
    assert done.layers[0].zeros == int((weight == 0).sum())
    again = read_coded(tmp_path / "m.coded")[0].get_parameter(name)
    assert torch.equal(again == 0, weight == 0)


def test_progress_is_shown(task: Task, pruned: nn.Module, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    compress(
        task,
        pruned,
        SPEC,
        None,
        Compression(bits=2, iterations=5),
        path=tmp_path / "m",
        say=lambda what, share, _: seen.append((what, share)),
    )
    assert seen[-1] == ("train 4 shared values", 1.0)


def test_what_cannot_be_asked(task: Task, pruned: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "m.coded"
    with pytest.raises(UsageError, match="9 bits for shared values; allowed: 1 to 8, or auto"):
        squeeze(task, pruned, None, path, Compression(bits=9))
    with pytest.raises(ModelError, match="not the spec's"):
        compress(task, pruned, "mlp:24x8", None, Compression(bits=2, iterations=0), path=path)
    with pytest.raises(Diverged, match="diverged 3 times"):
        squeeze(task, pruned, None, path, Compression(bits=2, iterations=30, learning_rate=1e30))
    assert not path.exists()
