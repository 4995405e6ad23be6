"""The training loop: it learns, repeats itself, stops, survives divergence and leaves the world as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersa.data.task import Split, Task
from tersa.errors import ModelError, UsageError
from tersa.records.results import Epoch
from tersa.train import loop
from tersa.train.config import CHOICES, TrainConfig
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress, best_row, train

Build = Callable[[], nn.Module]

MIXED = {"batch": 32, "epochs": 3, "flip": True, "pad": 1, "label_smoothing": 0.1}


def config(**settings: object) -> TrainConfig:
    return TrainConfig.model_validate({"batch": 32, "epochs": 3, **settings})


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(history: list[Epoch]) -> list[Epoch]:
    return [row.model_copy(update={"seconds": 0.0}) for row in history]


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_every_optimiser_learns(optimizer: str, linear: Build, task: Task) -> None:
    rate = {"adam": 0.01, "adamw": 0.01, "adagrad": 0.05}.get(optimizer)
    full = {"batch": 0, "epochs": 2} if optimizer == "lbfgs" else {"epochs": 8}
    result = train(linear(), task, config(optimizer=optimizer, learning_rate=rate, **full))
    assert result.status == "done"
    assert result.history[-1].validation_accuracy > 90
    assert result.history[-1].train_loss < result.history[0].train_loss


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "momentum"},
        {"optimizer": "adam", "clip_norm": 1.0, "precision": "bf16"},
        {"optimizer": "nesterov", "channels_last": True, "weight_decay": 1e-3},
        {"optimizer": "lbfgs", "batch": 60},
    ],
)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    settings: dict[str, object], network: Build, task: Task
) -> None:
    runs = [(network(), {**MIXED, **settings, "seed": seed}) for seed in (3, 3, 4)]
    results = []
    for index, (model, chosen) in enumerate(runs):
        torch.manual_seed(index)  # what the caller did with the global generator must not matter
        results.append(train(model, task, TrainConfig.model_validate(chosen)))
    assert same_weights(runs[0][0], runs[1][0])
    assert without_seconds(results[0].history) == without_seconds(results[1].history)
    assert not same_weights(runs[0][0], runs[2][0])


def test_the_global_random_state_is_left_alone(network: Build, task: Task) -> None:
    model = network()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(model, task, config())
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_draws_new_masks_each_update(network: Build, task: Task) -> None:
    model = network()
    masks: list[Tensor] = []
    model[3].register_forward_hook(lambda m, _, out: masks.append(out.detach() == 0) if m.training else None)
    train(model, task, config(batch=60, epochs=1))
    assert len(masks) == 2
    assert not torch.equal(masks[0], masks[1])


def test_an_epoch_sees_every_image_once_in_equal_parts(linear: Build, task: Task) -> None:
    numbered = Split(
        torch.arange(50).view(50, 1, 1, 1).expand(50, 1, 6, 6).to(torch.uint8), torch.arange(50) % 3
    )
    model = linear()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda m, x: seen.append((x[0][:, 0, 0, 0] * 0.2 + 0.35) * 255) if m.training else None
    )
    train(model, replace(task, train=numbered), config(batch=16, epochs=2))
    assert [len(part) for part in seen] == [13, 13, 12, 12] * 2
    first, second = torch.cat(seen[:4]).round(), torch.cat(seen[4:]).round()
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()


def test_iterations_may_end_inside_an_epoch(linear: Build, task: Task) -> None:
    model = linear()
    updates: list[int] = []
    model.register_forward_hook(lambda m, _, __: updates.append(1) if m.training else None)
    result = train(model, task, config(iterations=6))  # 4 updates per epoch
    assert len(updates) == 6
    assert [row.epoch for row in result.history] == [1, 2]


def test_keep_best_returns_the_best_epoch_and_keep_last_the_last(linear: Build, task: Task) -> None:
    kept: dict[str, float] = {}
    updates: list[int] = []

    def spoil(module: nn.Module, _: object) -> None:
        """Turn the weights round in the first update of the last of three epochs."""
        updates.append(int(module.training))
        if module.training and sum(updates) == 9:
            with torch.no_grad():
                module.weight.neg_()

    for keep in ("best", "last"):
        model = linear()
        updates.clear()
        model[1].register_forward_pre_hook(spoil)
        result = train(model, task, config(keep=keep))
        kept[keep] = evaluate(model, task.validation, task).accuracy
        best = max(row.validation_accuracy for row in result.history)
        assert result.history[result.best_epoch - 1].validation_accuracy == best
        assert kept[keep] == (best if keep == "best" else result.history[-1].validation_accuracy)
    assert kept["best"] > kept["last"]  # or the test would show nothing


def row(epoch: int, accuracy: float, loss: float) -> Epoch:
    return Epoch(
        epoch=epoch,
        train_loss=1,
        train_accuracy=1,
        validation_loss=loss,
        validation_accuracy=accuracy,
        learning_rate=1,
        seconds=1,
    )


def test_best_row_prefers_accuracy_then_low_loss_then_the_first() -> None:
    rows = [row(1, 90, 0.5), row(2, 95, 0.9), row(3, 95, 0.4), row(4, 95, 0.4), row(5, 94, 0.1)]
    assert best_row(rows) is rows[2]
    assert best_row([]) is None


def test_early_stop_ends_after_patience_epochs_without_a_better_one(linear: Build, task: Task) -> None:
    frozen = {"optimizer": "sgd", "learning_rate": 1e-30, "schedule": "constant", "epochs": 50}
    result = train(linear(), task, config(early_stop=3, **frozen))
    assert result.status == "stopped-early"
    assert (result.best_epoch, len(result.history)) == (1, 4)


def test_divergence_keeps_the_history_and_the_last_good_weights(linear: Build, task: Task) -> None:
    wild = {"optimizer": "sgd", "schedule": "exponential", "gamma": 1.0, "epochs": 30, "keep": "last"}
    model, start = linear(), linear()
    result = train(model, task, config(learning_rate=3e38, **wild))
    assert result.status == "diverged"
    assert all(math.isfinite(row.train_loss) for row in result.history)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    if not result.history:
        assert same_weights(model, start)


def test_divergence_after_a_good_epoch_returns_to_it(linear: Build, task: Task) -> None:
    model = linear()

    updates: list[int] = []

    def poison(module: nn.Module, _: object) -> None:
        updates.append(1)
        if module.training and len(updates) > 20:
            with torch.no_grad():
                next(module.parameters()).fill_(float("nan"))

    model[1].register_forward_pre_hook(poison)
    result = train(model, task, config(epochs=9, keep="last"))
    assert result.status == "diverged"
    assert 0 < len(result.history) < 9
    found, last = evaluate(model, task.validation, task), result.history[-1]
    assert (found.loss, found.accuracy) == (last.validation_loss, last.validation_accuracy)


def test_a_nan_in_the_first_loss_ends_the_run_at_once(linear: Build, task: Task) -> None:
    model = linear()
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("inf")
    updates: list[int] = []
    model.register_forward_hook(lambda m, _, __: updates.append(1) if m.training else None)
    result = train(model, task, config(batch=1, epochs=100))
    assert (result.status, result.history, result.best_epoch) == ("diverged", [], 0)
    assert len(updates) == loop.CHECK_EVERY


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (0, [5])])
def test_evaluate_every(every: int, epochs: list[int], linear: Build, task: Task) -> None:
    result = train(linear(), task, config(epochs=5), evaluate_every=every)
    assert [row.epoch for row in result.history] == epochs


def test_evaluating_less_often_changes_no_weight(network: Build, task: Task) -> None:
    often, seldom = network(), network()
    train(often, task, config(keep="last"))
    train(seldom, task, config(keep="last"), evaluate_every=0)
    assert same_weights(often, seldom)


@pytest.mark.parametrize("until", [1, 3, 6, 10])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_paused_run_goes_on_to_the_same_bytes(
    until: int, shifted: bool, network: Build, task: Task
) -> None:
    """Paused within an epoch of 6 updates, at its end, and in the second one; twice from one state."""
    asked = config(
        optimizer="adamw", iterations=14, batch=20, schedule="one-cycle", keep="last", channels_last=True,
        pad=int(shifted), flip=shifted,
    )  # fmt: skip
    whole, parted, again = network(), network(), network()
    assert train(whole, task, asked, evaluate_every=None).history == []
    paused = train(parted, task, asked, evaluate_every=None, until=until)
    assert paused.status == "paused"
    assert not same_weights(whole, parted)
    for model in (parted, again):  # the state alone is what it takes
        done = train(model, task, asked, evaluate_every=None, start=paused.state)
        assert (done.status, done.state) == ("done", None)
        assert same_weights(whole, model)


def test_a_pause_beyond_the_end_is_none(linear: Build, task: Task) -> None:
    asked = config(epochs=2, batch=20)
    assert train(linear(), task, asked, until=99).status == "done"
    found = train(linear(), task, asked, until=8)
    assert (found.status, [row.epoch for row in found.history]) == ("paused", [1]), "half an epoch has no row"


def test_history_holds_what_evaluate_says_and_the_rate_in_use(linear: Build, task: Task) -> None:
    model = linear()
    result = train(model, task, config(keep="last", schedule="constant", learning_rate=0.07))
    last, found = result.history[-1], evaluate(model, task.validation, task)
    assert (last.validation_accuracy, last.validation_loss) == (found.accuracy, found.loss)
    assert last.learning_rate == 0.07
    assert 0 < last.seconds <= result.seconds


@pytest.mark.parametrize("form", ["document", "temperature"])
def test_a_student_follows_its_teacher(form: str, linear: Build, network: Build, task: Task) -> None:
    teacher = network()
    train(teacher, task, config(epochs=6))
    teacher.train()
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    student = linear()
    wrong = replace(task, train=Split(task.train.images, (task.train.labels + 1) % 3))
    settings = {"distillation": form, "distillation_weight": 50.0 if form == "document" else 1.0, "epochs": 8}
    train(student, wrong, config(keep="last", **settings), teacher=teacher)
    assert evaluate(student, task.validation, task).accuracy > 90  # the teacher's answers, not the labels
    assert all(part.training for part in teacher.modules())
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())


def test_progress_counts_up_to_the_end(linear: Build, task: Task) -> None:
    seen: list[Progress] = []
    rows: list[Epoch] = []
    result = train(linear(), task, config(), progress=seen.append, on_epoch=rows.append)
    assert rows == result.history
    assert [p.iteration for p in seen] == sorted(p.iteration for p in seen)
    last = seen[-1]
    assert (last.epoch, last.epochs, last.iteration, last.iterations) == (3, 3, 12, 12)
    assert last.validation_accuracy == result.history[-1].validation_accuracy
    assert last.eta_seconds == 0
    assert math.isfinite(last.loss)


def test_the_model_ends_in_eval_mode_and_contiguous(network: Build, task: Task) -> None:
    model = network()
    train(model, task, config(channels_last=True))
    assert not any(part.training for part in model.modules())
    assert all(p.is_contiguous() for p in model.parameters())


def test_channels_last_and_short_runs_change_the_layout_not_the_answer(network: Build, task: Task) -> None:
    """Sums run in another order: near, not equal."""
    plain, last = network(), network()
    for model in (plain, last):
        model[3].p = 0.0  # masks are drawn in the order of memory
    train(plain, task, config(iterations=3))
    train(last, task, config(iterations=3, channels_last=True))
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_stored_and_converted_images_train_alike(
    network: Build, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in ({}, {"flip": True, "pad": 1}):
        large, small = network(), network()
        train(large, task, config(**settings))
        monkeypatch.setattr("tersa.train.batches.RESIDENT_BYTES", 0)
        train(small, task, config(**settings))
        monkeypatch.undo()
        assert same_weights(large, small)


def test_the_test_split_is_never_read(linear: Build, task: Task) -> None:
    broken = replace(task, test=Split(task.test.images[:0], task.test.labels[:0]))
    assert train(linear(), broken, config(epochs=1)).status == "done"


@pytest.fixture
def faults(linear: Build, task: Task) -> dict[str, Callable[[], object]]:
    model = linear()
    following = config(distillation="document")
    return {
        "needs a teacher": lambda: train(model, task, following),
        "a teacher was given but distillation=none": lambda: train(model, task, config(), teacher=linear()),
        "the teacher is the model itself": lambda: train(model, task, following, teacher=model),
        "evaluate_every is -1": lambda: train(model, task, config(), evaluate_every=-1),
        "unknown device 'gpu'": lambda: train(model, task, config(), device="gpu"),
        "keep=best needs evaluations": lambda: train(model, task, config(), evaluate_every=None),
        "leave out start and until": lambda: train(model, task, config(), checkpoint=Path("x"), until=3),
    }


@pytest.mark.parametrize("number", range(7))
def test_requests_that_cannot_be_are_refused(faults: dict[str, Callable[[], object]], number: int) -> None:
    said, attempt = list(faults.items())[number]
    with pytest.raises(UsageError, match=said):
        attempt()


def test_a_model_of_another_number_of_classes_is_refused(task: Task) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    with pytest.raises(ModelError, match=r"the model gives \(2, 5\) for 2 images .* it must give \(2, 3\)"):
        train(model, task, config())
