"""Training that goes on between removals: the stream, the optimiser's memory, what may learn, faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tersa.data.task import Split, Task
from tersa.errors import DataError, Diverged, UsageError
from tersa.train import continued
from tersa.train.config import Extent, TrainConfig
from tersa.train.continued import Continued, begin, learn_, learning, optimiser_state, restore_
from tersa.train.lessons import Lessons, prepare
from tersa.train.schedules import factor

Build = Callable[[], nn.Module]
OPTIMISERS = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "adam", "adamw")
PER_EPOCH = 3


def config(**changes: object) -> TrainConfig:
    """120 images in three batches of 40."""
    settings = {"optimizer": "adam", "batch": 40, "schedule": "constant", "learning_rate": 0.01, "seed": 3}
    return TrainConfig.model_validate({**settings, **changes})


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# The stream


def test_two_calls_are_one_longer_call(task: Task, linear: Build) -> None:
    whole, halves = (begin(linear(), task, config()) for _ in range(2))
    learn_(whole, 11)
    learn_(halves, 4)
    learn_(halves, 7)
    assert whole.iteration == halves.iteration == 11
    assert equal(weights(whole.model), weights(halves.model))


def test_nothing_asked_changes_nothing(task: Task, network: Build) -> None:
    run = begin(network(), task, config())
    before = weights(run.model)
    learn_(run, 0)
    assert run.iteration == 0
    assert equal(before, weights(run.model))
    learn_(run, 1)
    assert moved(before, weights(run.model))


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(
    task: Task, linear: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []
    real = continued.inputs

    def spy(data: object, index: Tensor, *rest: object) -> Tensor:
        shown.append(index)
        return real(data, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(continued, "inputs", spy)
    run = begin(linear(), task, config())
    learn_(run, 2)  # calls need not end where epochs do
    learn_(run, 4)
    first, second = torch.cat(shown[:PER_EPOCH]), torch.cat(shown[PER_EPOCH:])
    everything = list(range(len(task.train)))
    assert sorted(first.tolist()) == sorted(second.tolist()) == everything
    assert not torch.equal(first, second)
    assert first.tolist() != everything


def test_each_call_is_one_cycle_of_the_schedule(
    task: Task, linear: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    real = continued.set_rate_

    def spy(optimizer: torch.optim.Optimizer, rate: float) -> None:
        rates.append(rate)
        real(optimizer, rate)

    monkeypatch.setattr(continued, "set_rate_", spy)
    asked = config(schedule="one-cycle", warmup=0.5)
    run = begin(linear(), task, asked)
    learn_(run, 6)
    learn_(run, 4)

    def cycle(count: int) -> list[float]:
        length = Extent(PER_EPOCH, count, -(-count // PER_EPOCH))
        return [0.01 * factor(asked, i, length) for i in range(count)]

    assert rates == cycle(6) + cycle(4)


def test_seeds_decide_and_the_global_generator_is_left_alone(task: Task, network: Build) -> None:
    """Dropout and augmentation included: equal seeds give equal weights whatever torch was seeded with."""

    def after(seed: int, noise: int) -> dict[str, Tensor]:
        run = begin(network(), task, config(seed=seed, pad=1))
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        learn_(run, 4)
        assert torch.equal(torch.get_rng_state(), state)
        return weights(run.model)

    assert equal(after(3, noise=0), after(3, noise=1))
    assert not equal(after(3, noise=0), after(4, noise=0))


def test_the_model_learns_in_train_mode_and_ends_in_eval_mode(task: Task, network: Build) -> None:
    run = begin(network().eval(), task, config())
    before = weights(run.model)
    learn_(run, 2)
    assert "1.running_mean" in moved(before, weights(run.model))
    assert not any(module.training for module in run.model.modules())


# What the optimiser remembers


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_resumed_is_uninterrupted(optimizer: str, task: Task, network: Build, tmp_path: Path) -> None:
    """Through files, with batch norm, dropout, augmentation and channels that come last in memory."""
    settings = config(optimizer=optimizer, weight_decay=0.01, pad=1, channels_last=True)
    whole = begin(network(), task, settings)
    learn_(whole, 4)
    save_file(optimiser_state(whole), tmp_path / "memory.safetensors")
    save_file({n: v.contiguous() for n, v in weights(whole.model).items()}, tmp_path / "model.safetensors")
    learn_(whole, 5)

    model = network()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    resumed = begin(model, task, settings)
    restore_(resumed, load_file(tmp_path / "memory.safetensors"), 4)
    learn_(resumed, 5)
    assert equal(weights(whole.model), weights(resumed.model))
    assert equal(optimiser_state(whole), optimiser_state(resumed))
    assert bool(optimiser_state(whole)) == (optimizer != "sgd")


def test_a_state_taken_is_a_copy(task: Task, network: Build) -> None:
    """Later updates must not change it: a retraining that diverges goes back to it."""
    run = begin(network(), task, config())
    learn_(run, 2)
    taken = optimiser_state(run)
    copies = {name: value.clone() for name, value in taken.items()}
    learn_(run, 2)
    assert equal(taken, copies)
    assert not equal(taken, optimiser_state(run))


def test_going_back_to_the_start_forgets_what_came_after(task: Task, linear: Build) -> None:
    run = begin(linear(), task, config())
    before = weights(run.model)
    learn_(run, 3)
    once = weights(run.model)
    run.model.load_state_dict(before)
    restore_(run, {}, 0)
    assert run.iteration == 0
    learn_(run, 3)
    assert equal(once, weights(run.model))


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"9.weight/exp_avg": torch.ones(3, 36)}, "9.weight"),
        ({"1.weight/exp_avg": torch.ones(3, 2)}, "1.weight"),
    ],
)
def test_state_of_another_network_is_refused(
    state: dict[str, Tensor], name: str, task: Task, linear: Build
) -> None:
    with pytest.raises(DataError, match=f"state of '{name}' does not fit"):
        restore_(begin(linear(), task, config()), state, 1)


# What may learn


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_only_what_is_named_changes(optimizer: str, task: Task, network: Build) -> None:
    """Neither weight decay nor a momentum from before moves the others."""
    run = begin(network(), task, config(optimizer=optimizer, weight_decay=0.1))
    learn_(run, 2)
    before = weights(run.model)
    learn_(run, 2, only={"5.weight", "5.bias"})
    buffers = {name for name, _ in run.model.named_buffers()}
    assert moved(before, weights(run.model)) - buffers == {"5.weight", "5.bias"}
    assert all(parameter.requires_grad for parameter in run.model.parameters())
    before = weights(run.model)
    learn_(run, 2)
    assert moved(before, weights(run.model)) >= {"0.weight", "1.weight", "5.weight"}


def test_what_was_frozen_before_stays_so(network: Build) -> None:
    model = network()
    model.get_parameter("0.bias").requires_grad_(False)
    with learning(model, {"0.weight"}):
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {"0.weight"}
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"0.bias"}


# Faults


def test_divergence_is_told_and_leaves_everything_learnable(task: Task, linear: Build) -> None:
    run = begin(linear(), task, config(optimizer="sgd", learning_rate=1e38))
    with pytest.raises(Diverged, match="NaN or infinite within 4 updates"):
        learn_(run, 4, only={"1.weight"})
    assert not run.model.training
    assert all(parameter.requires_grad for parameter in run.model.parameters())


def lessons(task: Task, linear: Build) -> Lessons:
    return prepare(linear(), task, flip=False, pad=1, views=2, seed=0)


@pytest.mark.parametrize(
    ("changes", "taught", "words"),
    [
        ({"optimizer": "lbfgs", "learning_rate": 1.0}, False, "lbfgs remembers whole gradients"),
        ({}, True, "a teacher and distillation go together"),
        ({"distillation": "temperature"}, False, "a teacher and distillation go together"),
        ({"distillation": "temperature", "pad": 2}, True, r"\(flip, pad\) = \(False, 1\), the config has"),
    ],
)
def test_what_cannot_go_on_is_refused(
    changes: dict[str, object], taught: bool, words: str, task: Task, linear: Build
) -> None:
    teacher = lessons(task, linear) if taught else None
    with pytest.raises(UsageError, match=words):
        begin(linear(), task, config(**changes), teacher=teacher)


def test_a_teacher_alone_is_followed_whatever_the_labels_say(task: Task, linear: Build) -> None:
    """With all weight on the teacher's term, labels do not count and the teacher's answers do."""
    settings = config(
        pad=1, distillation="temperature", distillation_weight=1.0, distillation_temperature=2.0
    )
    wrong = replace(task, train=Split(task.train.images, (task.train.labels + 1) % 3))
    told = lessons(task, linear)

    def after(data: Task, teacher: Lessons) -> dict[str, Tensor]:
        run: Continued = begin(linear(), data, settings, teacher=teacher)
        learn_(run, 3)
        return weights(run.model)

    assert equal(after(task, told), after(wrong, told))
    assert not equal(after(task, told), after(task, replace(told, logits=-told.logits)))
