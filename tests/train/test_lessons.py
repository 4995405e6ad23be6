"""Lessons: the teacher's answers to fixed views equal what it would say when asked about each batch."""

import pytest
import torch
from torch import nn

from tersa.data.augment import shifted
from tersa.data.task import Provenance, Split, Task, pixels
from tersa.errors import ModelError, UsageError
from tersa.train.config import TrainConfig
from tersa.train.lessons import prepare
from tersa.train.loop import train

ROUNDING = 1e-5
"""A matrix product in batches of another size."""


@pytest.fixture
def task() -> Task:
    images = (torch.sin(torch.arange(30 * 2 * 6 * 5, dtype=torch.float32)) * 127 + 128).view(30, 2, 6, 5)
    split = Split(images.to(torch.uint8), torch.arange(30) % 3)
    return Task("t", split, split, split, tuple("abc"), (0.4, 0.6), (0.2, 0.3), Provenance("made", "", {}))


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize(("flip", "pad"), [(False, 0), (True, 0), (False, 2), (True, 1)])
def test_answers_belong_to_the_views(task: Task, flip: bool, pad: int) -> None:
    teacher = network()
    lessons = prepare(teacher, task, flip=flip, pad=pad, views=4, seed=3)
    assert lessons.augmentation == (flip, pad)
    assert lessons.logits.shape == (4 if flip or pad else 1, 30, 3)
    index = torch.tensor([7, 2, 7, 29])
    shifts, logits = lessons.pick(index, torch.Generator().manual_seed(1))
    views = task.normalise(shifted(pixels(task.train.images[index]), shifts))
    with torch.inference_mode():
        torch.testing.assert_close(logits, teacher.eval()(views), rtol=ROUNDING, atol=ROUNDING)


def test_every_view_is_picked_and_views_differ(task: Task) -> None:
    lessons = prepare(network(), task, flip=True, pad=2, views=3, seed=0)
    index, generator = torch.zeros(200, dtype=torch.long), torch.Generator().manual_seed(0)
    _, logits = lessons.pick(index, generator)
    assert len(torch.unique(logits, dim=0)) == 3


def test_one_view_teaches_what_the_network_teaches(task: Task) -> None:
    """Without augmentation, lessons and the network itself lead to the same weights."""
    config = TrainConfig(
        optimizer="sgd", epochs=3, batch=10, distillation="temperature", distillation_temperature=2.0
    )
    asked, taught = network(1), network(1)
    teacher = network(2)
    train(asked, task, config, teacher=teacher)
    lessons = prepare(teacher, task, flip=False, pad=0, views=1, seed=0)
    train(taught, task, config, teacher=lessons)
    for one, other in zip(asked.parameters(), taught.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_same_seed_same_lessons(task: Task) -> None:
    first, again, other = (prepare(network(), task, flip=True, pad=2, views=2, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.logits, other.logits)


def test_teacher_keeps_its_mode(task: Task) -> None:
    teacher = network().train()
    prepare(teacher, task, flip=False, pad=0, views=1, seed=0)
    assert teacher.training


def test_other_augmentation_is_refused(task: Task) -> None:
    lessons = prepare(network(), task, flip=False, pad=1, views=2, seed=0)
    config = TrainConfig(epochs=1, distillation="temperature")
    with pytest.raises(UsageError, match="draw them with the config's"):
        train(network(1), task, config, teacher=lessons)


def test_teacher_of_other_classes_is_refused(task: Task) -> None:
    with pytest.raises(ModelError, match="one number per image and class"):
        prepare(nn.Sequential(nn.Flatten(), nn.Linear(60, 4)), task, flip=False, pad=0, views=1, seed=0)
