"""The published data sets, where they are on this machine (`$TERSA_DATA`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tersa.data import SOURCES, Task, load
from tersa.data.source import Found

# The fixture `cache_home` hides the variable from every test, so it is read here.
ROOT = os.environ.get("TERSA_DATA", "")

STATISTICS = 5e-4
"""The documented constants of MNIST are rounded to four digits and are of all 60,000 train images."""


def place(name: str) -> Path | None:
    """The folder that holds a data set, or None."""
    if not ROOT:
        return None
    found = [
        SOURCES[name].find(folder) if folder.is_dir() else Found()
        for folder in (Path(ROOT) / name, Path(ROOT))
    ]
    return Path(ROOT) if any(one.complete for one in found) else None


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(place(name) is None, reason=f"no {name} in $TERSA_DATA")


def check(task: Task, shape: tuple[int, int, int], train: int) -> None:
    assert task.shape == shape
    assert (len(task.train), len(task.validation), len(task.test)) == (train, 5000, 10_000)
    assert torch.bincount(task.validation.labels).min() > 0
    assert task.train.images.dtype == torch.uint8
    assert int(task.train.images.max()) == 255


@pytest.mark.real
@real("mnist")
def test_mnist() -> None:
    task = load("mnist", data_dir=place("mnist"), download=False)
    check(task, (1, 28, 28), 55_000)
    assert task.provenance.note == ""
    assert task.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    values = torch.cat((task.train.images, task.validation.images)).double() / 255
    assert float(values.mean()) == pytest.approx(task.mean[0], abs=STATISTICS)
    assert float(values.std()) == pytest.approx(task.std[0], abs=STATISTICS)


@pytest.mark.real
@real("fashion-mnist")
def test_fashion_mnist() -> None:
    task = load("fashion-mnist", data_dir=place("fashion-mnist"), download=False)
    check(task, (1, 28, 28), 55_000)
    assert task.provenance.note == ""
    assert [task.classes[label] for label in task.test.labels[:3]] == ["Ankle boot", "Pullover", "Trouser"]
    assert torch.bincount(task.validation.labels).tolist() == [500] * 10


@pytest.mark.real
@real("mnist")
@real("fashion-mnist")
def test_one_is_never_taken_for_the_other() -> None:
    folder = Path(ROOT) / "mnist"
    if SOURCES["mnist"].find(folder).complete:
        assert SOURCES["fashion-mnist"].find(folder).files == ()


@pytest.mark.real
@pytest.mark.slow
@real("cifar-10")
def test_cifar_10() -> None:
    task = load("cifar-10", data_dir=place("cifar-10"), download=False)
    check(task, (3, 32, 32), 45_000)
    assert torch.bincount(task.test.labels).tolist() == [1000] * 10
    assert task.classes[0] == "airplane"
    assert task.mean == pytest.approx(
        (0.4914, 0.4822, 0.4465), abs=0.002
    )  # published of all 50,000, uncompressed
