"""Evaluation: exact on a network whose answers are known, and without a trace on the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from tersa.data.task import Split, Task
from tersa.errors import DataError, ModelError
from tersa.train.evaluation import evaluate

SUMMED = 1e-6
"""Batches of another size sum in another order; float32."""


def test_known_answers(task: Task) -> None:
    images = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2]]).view(4, 1, 1, 3)
    split = Split(images, torch.tensor([0, 1, 2, 2]))
    plain = replace(task, train=split, mean=(0.0,), std=(1.0,))
    found = evaluate(nn.Flatten(), split, plain)
    assert found.accuracy == 75.0
    assert found.correct.tolist() == [True, True, False, True]
    log_sum = math.log(math.exp(2) + 2)
    assert found.loss == pytest.approx(log_sum - 6 / 4, abs=SUMMED)
    assert torch.equal(found.logits, images.view(4, 3))
    assert torch.equal(found.labels, split.labels)


def test_batches_change_nothing_but_rounding(network: Callable[[], nn.Module], task: Task) -> None:
    model = network()
    whole, parts = evaluate(model, task.test, task), evaluate(model, task.test, task, batch=7)
    torch.testing.assert_close(whole.logits, parts.logits, rtol=0, atol=1e-5)
    assert torch.equal(whole.correct, parts.correct)


def test_modes_weights_and_gradients_are_left_as_they_were(
    network: Callable[[], nn.Module], task: Task
) -> None:
    model = network().train()
    model[1].eval()
    modes = [part.training for part in model.modules()]
    state = {name: t.clone() for name, t in model.state_dict().items()}
    torch.manual_seed(3)
    random = torch.get_rng_state()
    found = evaluate(model, task.test, task)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)  # dropout drew nothing
    assert not found.logits.is_inference()


def test_modes_are_put_back_after_an_error(task: Task) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3)).train()
    with pytest.raises(RuntimeError):
        evaluate(model, task.test, task)
    assert all(part.training for part in model.modules())


def test_an_empty_split_is_refused(network: Callable[[], nn.Module], task: Task) -> None:
    with pytest.raises(DataError, match="has no images"):
        evaluate(network(), task.test.take(slice(0)), task)


def test_an_output_that_is_not_one_row_per_image_is_refused(task: Task) -> None:
    with pytest.raises(ModelError, match="one number per image and class"):
        evaluate(nn.Identity(), task.test, task)
