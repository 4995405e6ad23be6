"""Tasks: the bundled digits, normalisation, and the name of what can be learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tersa.data import Provenance, Split, Task, fingerprint, load, pixels

FLOAT32 = 1e-5
"""Mean and spread of 1e5 float32 values near 0 and 1."""


def test_digits_need_nothing_and_are_always_the_same(cache_home: Path) -> None:
    task = load("digits", download=False)
    assert task.shape == (1, 8, 8)
    assert (len(task.train), len(task.validation), len(task.test)) == (1150, 287, 360)
    assert task.train.images.dtype == torch.float32
    assert sorted(set((task.train.images * 16).flatten().tolist())) == [float(v) for v in range(17)]
    assert task.classes == tuple("0123456789")
    assert task.provenance.location == "scikit-learn"
    assert task.provenance.sha256 == {
        "digits": "299fede3c43672f9d258c779fab74eb22d3e4083830c6e3feedb7f67bed07514"
    }
    assert not cache_home.exists()


def test_the_test_split_of_digits_does_not_follow_the_seed() -> None:
    one, two = load("digits", seed=0), load("digits", seed=1)
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.validation.images, two.validation.images)
    assert torch.bincount(one.test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]


def test_no_image_is_in_two_splits() -> None:
    marked = torch.arange(200, dtype=torch.float32).view(200, 1, 1, 1)
    from tersa.data.source import Decoded
    from tersa.data.sources import task_of

    decoded = Decoded(marked.numpy(), (torch.arange(200) % 4).numpy(), (150, 50, 0), tuple("abcd"))
    task = task_of("t", decoded, Provenance("s", "", {}), validation=30)
    parts = [set(split.images.flatten().tolist()) for split in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [120, 30, 50]
    assert set.union(*parts) == set(range(200))


def test_normalised_training_pixels_have_mean_0_and_spread_1() -> None:
    task = load("digits")
    values = task.normalise(task.train.images)
    assert abs(float(values.mean())) < FLOAT32
    assert abs(float(values.std()) - 1) < FLOAT32


def test_bytes_become_pixels() -> None:
    assert pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert pixels(torch.tensor([3.5])).tolist() == [3.5]


def test_a_part_of_a_split_that_is_sorted_by_class_has_every_class() -> None:
    sorted_split = Split(torch.arange(50.0).view(50, 1, 1, 1), torch.arange(50) // 10)
    some = sorted_split.spread(10)
    assert torch.bincount(some.labels).tolist() == [2] * 5
    assert torch.equal(some.images.flatten().long() // 10, some.labels)
    assert sorted_split.spread(None) is sorted_split
    for more in (50, 70):
        assert torch.equal(sorted_split.spread(more).labels, sorted_split.labels)


def test_fingerprints_are_equal_for_equal_tasks_only() -> None:
    task = load("digits")
    name = fingerprint(task)
    assert len(name) == 16
    assert fingerprint(load("digits")) == name
    assert fingerprint(replace(task, name="another name")) == name
    others = [
        load("digits", seed=1),
        load("digits", validation=100),
        replace(task, mean=(0.5,)),
        replace(task, std=(0.5,)),
        replace(task, classes=tuple("abcdefghij")),
        replace(task, provenance=replace(task.provenance, sha256={"digits": "00"})),
        replace(task, validation=Split(task.validation.images.flip(3), task.validation.labels)),
        replace(task, train=Split(task.train.images, task.train.labels.flip(0))),
    ]
    names = {fingerprint(other) for other in others}
    assert len(names) == len(others)
    assert name not in names


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_task_made_by_hand_is_hashed_whole(split: str) -> None:
    images = torch.sin(torch.arange(96.0)).view(6, 1, 4, 4)
    part = Split(images, torch.arange(6) % 2)
    task = Task("t", part, part, part, ("a", "b"), (0.0,), (1.0,), Provenance("hand", "", {}))
    changed = images.clone()
    changed[5, 0, 3, 3] += 1
    assert fingerprint(replace(task, **{split: Split(changed, part.labels)})) != fingerprint(task)


def test_a_fingerprint_does_not_follow_the_place(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    write_idx(tmp_path / "a")
    write_idx(tmp_path / "b" / "mnist")
    one = load("mnist", data_dir=tmp_path / "a", download=False)
    two = load("mnist", data_dir=tmp_path / "b", download=False)
    assert one.provenance.location != two.provenance.location
    assert fingerprint(one) == fingerprint(two)
