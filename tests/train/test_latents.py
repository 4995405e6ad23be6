"""Training low-bit networks: latents stay in -1..1, pixels settle, estimators sharpen, LAB follows Adam."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.models.binary_mlp import build_hidden
from tersa.models.bvgg import dense, stack
from tersa.models.lowbit import BINARY, Builder, LowBitNetwork, LowBits
from tersa.quant.layers import (
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    SignPool2d,
    WeightForm,
)
from tersa.quant.subsidiary import START, masks_of
from tersa.train.config import TrainConfig
from tersa.train.evaluation import evaluate, predict
from tersa.train.latents import SMALLEST_SCALE, Latents, loss_aware_factor
from tersa.train.loop import train

ADAM = TrainConfig(optimizer="adam", learning_rate=0.05, batch=40, epochs=3, schedule="cosine", keep="last")


def small(bits: LowBits = BINARY, seed: int = 2) -> nn.Module:
    """Two convolutions and a fully connected layer for the 6x6 bands of this folder's task."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = Builder(bits, 1)
        features = nn.Sequential(*stack(layers, 1, (8, 8), padding=1, before_last=True))
        return LowBitNetwork(features, dense(layers, 8 * 36, (), 3))


def latent(model: nn.Module) -> list[Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, (QuantConv2d, QuantLinear))]


@pytest.mark.parametrize(
    "bits",
    [
        LowBits(),
        LowBits(by="approx"),
        LowBits(by="swish"),
        LowBits(by="tanh"),
        LowBits(by="dsq"),
        LowBits(scale="channel"),
        LowBits(scale="lab"),
        LowBits(xnor=True, scale="channel"),
        LowBits(shaping="recu"),
        LowBits(masked=True),
        LowBits(activations=32, last_input=32, draw="stochastic"),
        LowBits(2, 2, 8, 2, 2, 2),
        LowBits("ternary", 2, 8, "ternary", "ternary", 2),
    ],
    ids=LowBits.describe,
)
def test_every_kind_of_network_learns(bits: LowBits, task: Task) -> None:
    model = small(bits)
    before = evaluate(model, task.validation, task).accuracy
    result = train(model, task, ADAM.model_copy(update={"epochs": 12}))
    assert result.status == "done"
    assert evaluate(model, task.validation, task).accuracy > max(before, 60.0)  # chance is 33


def test_latents_stay_within_one_and_reach_it(task: Task) -> None:
    model = small()
    train(model, task, ADAM.model_copy(update={"learning_rate": 0.5}))
    assert all(w.abs().max() == 1 for w in latent(model))


def test_scales_of_normalisations_that_pool_stay_above_nothing(task: Task) -> None:
    model = nn.Sequential(
        PixelInput(8, 1),
        QuantConv2d(1, 4, 3, padding=1, input_bits=8),
        IntegerBatchNorm2d(4, pool=2),
        QuantActivation(),
        SignPool2d(2),
        nn.Flatten(),
        QuantLinear(36, 3),
    )
    nn.init.constant_(model[2].weight, -1.0)
    train(model, task, ADAM.model_copy(update={"learning_rate": 0.5}))
    assert bool((model[2].weight >= SMALLEST_SCALE).all())
    assert bool((model[2].weight > SMALLEST_SCALE).any())


def test_float_weights_are_left_alone() -> None:
    layer = QuantLinear(2, 1, form=WeightForm(32))
    nn.init.constant_(layer.weight, 3.0)
    Latents.of(layer).clip_()
    assert layer.weight.tolist() == [[3.0, 3.0]]


def test_pixels_take_over_the_tasks_normalisation(task: Task) -> None:
    model = small()
    train(model, task, ADAM.model_copy(update={"epochs": 1}))
    pixels = next(m for m in model.modules() if isinstance(m, PixelInput))
    codes = pixels(task.normalise(task.test.images))
    assert torch.equal(codes, 2.0 * task.test.images - 255)


def test_estimators_hear_how_far_the_run_has_come(task: Task) -> None:
    model = small(LowBits(by="tanh"))
    heard: list[float] = []
    activation = next(m for m in model.modules() if isinstance(m, QuantActivation))
    activation.register_forward_pre_hook(lambda m, _: heard.append(m.progress) if m.training else None)
    train(model, task, ADAM.model_copy(update={"epochs": 2}))
    assert heard == pytest.approx([i / 6 for i in range(6)])


@pytest.mark.parametrize("bits", [LowBits(by="tanh"), LowBits(scale="lab")], ids=LowBits.describe)
def test_an_interrupted_run_ends_as_one_that_was_not(bits: LowBits, task: Task, tmp_path: Path) -> None:
    whole, halted = small(bits), small(bits)
    train(whole, task, ADAM)
    seen: list[int] = []

    class Stop(Exception):
        pass

    def stop(row: object) -> None:
        seen.append(1)
        if len(seen) == 3:  # the checkpoint of epoch 2 is on disk
            raise Stop

    with pytest.raises(Stop):
        train(halted, task, ADAM, checkpoint=tmp_path / "c", on_epoch=stop)
    again = small(bits, seed=5)
    train(again, task, ADAM, checkpoint=tmp_path / "c", resume=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_labs_factor_is_the_weighted_mean_of_magnitudes() -> None:
    w = torch.tensor([[0.5, -0.25, 0.75], [1.0, -1.0, 0.5]])
    v = torch.tensor([[4.0, 16.0, 1.0], [0.0, 0.0, 0.0]])
    first = (2 * 0.5 + 4 * 0.25 + 1 * 0.75) / 7
    torch.testing.assert_close(loss_aware_factor(w, v), torch.tensor([first, 2.5 / 3]))


def test_labs_factor_follows_adam_and_stays_with_the_weights(task: Task) -> None:
    model = small(LowBits(scale="lab"))
    layer = next(m for m in model.modules() if isinstance(m, QuantConv2d))
    assert layer.factor is not None
    start = layer.factor.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    latents = Latents.of(model)
    nn.functional.cross_entropy(model(task.normalise(task.train.images)), task.train.labels).backward()
    optimizer.step()
    latents.after_(optimizer)
    v = optimizer.state[layer.weight]["exp_avg_sq"]
    assert torch.equal(layer.factor, loss_aware_factor(layer.weight.detach(), v))
    assert not torch.equal(layer.factor, start)
    assert "features.1.factor" in model.state_dict()


def test_lab_without_second_moments_is_refused(task: Task) -> None:
    sgd = ADAM.model_copy(update={"optimizer": "momentum", "learning_rate": 0.1})
    with pytest.raises(UsageError, match="scale=lab follows Adam's second moments; choose"):
        train(small(LowBits(scale="lab")), task, sgd)


def test_bfloat16_trains_and_evaluates_in_integers(task: Task) -> None:
    model = small()
    train(model, task, ADAM.model_copy(update={"precision": "bf16", "channels_last": True, "epochs": 6}))
    last = model.get_submodule("classifier.0")
    sums: list[Tensor] = []
    last.register_forward_hook(lambda m, i, o: sums.append(o))
    assert evaluate(model, task.test, task).accuracy > 60
    assert all(s.dtype == torch.float32 and torch.equal(s, s.round()) for s in sums)


def test_an_apprentice_follows_its_float_teacher(task: Task) -> None:
    """Apprentice, scheme A: a low-bit student beside a teacher in floating point."""
    teacher = small(LowBits(32, 32, 32, 32, 32, 32))
    train(teacher, task, ADAM.model_copy(update={"epochs": 8, "learning_rate": 0.01}))
    config = ADAM.model_copy(update={"epochs": 12, "distillation": "temperature", "distillation_weight": 1.0})
    student = small()
    train(student, task, config, teacher=teacher)
    agree = (
        predict(student, task.test, task).argmax(1) == predict(teacher, task.test, task).argmax(1)
    ).float()
    assert agree.mean() > 0.6


def test_two_stages_end_binary(task: Task) -> None:
    first = small(LowBits(32, 1, 8, 32, 32, 1))
    train(first, task, ADAM.model_copy(update={"learning_rate": 0.01}))
    second = small()
    second.load_state_dict(first.state_dict())
    train(second, task, ADAM)
    signs = [m.integer_weight() for m in second.modules() if isinstance(m, (QuantConv2d, QuantLinear))]
    assert all(set(w.unique().tolist()) == {-1.0, 1.0} for w in signs)


def test_a_subsidiary_network_takes_its_turn(task: Task) -> None:
    """Thirds of six updates: the main network, its masks one after another, the main network."""
    model = small(LowBits(masked=True))
    masks = masks_of(model)
    latents, main, learning = Latents.of(model), model.get_submodule("features.1").weight, []
    for progress in (0.0, 0.33, 0.34, 0.49, 0.51, 0.66, 0.67, 0.99):
        latents.before_(progress)
        learning.append([p.requires_grad for p in (main, *(mask.latent for mask in masks))])
    first, second, third = [True, False, False], [False, True, False], [False, False, True]
    assert learning == [first, first, second, second, third, third, first, first]
    latents.release_()
    train(model, task, ADAM.model_copy(update={"epochs": 9}))
    assert all(p.requires_grad for p in model.parameters())
    assert all(not mask.latent.eq(START).all() and mask.kept for mask in masks)


def test_a_binary_mlp_reads_any_images(task: Task) -> None:
    model = build_hidden((16,), task.shape, 3, LowBits(pixels=1))
    train(model, task, ADAM)
    assert predict(model, task.test, task).shape == (60, 3)
