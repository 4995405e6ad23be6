"""Convolutions of signs for a training: equal to conv2d bit for bit, or declined."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from tersa.binary import program, sign_sums
from tersa.binary.sign_sums import Patient, convolve
from tersa.data.task import Provenance, Split, Task
from tersa.models.load import load
from tersa.quant.sums import Array, by
from tersa.recipes.setting import Setting
from tersa.recipes.train import run_training
from tersa.recipes.train_request import TrainRequest
from tersa.train.config import TrainConfig
from tersa.train.loop import train

SHAPES = [
    # images, channels, rows, columns, outputs, kernel, stride, padding
    (2, 33, 8, 8, 31, (3, 3), 1, 1),
    (3, 64, 6, 5, 40, (1, 1), 1, 0),
    (5, 65, 9, 4, 64, (5, 5), 1, 2),
    (4, 96, 7, 7, 33, (3, 3), 2, 1),
    (4, 100, 9, 8, 20, (2, 3), 1, 1),
    (9, 128, 4, 4, 130, (3, 3), 1, 1),
    (6, 130, 1, 1, 65, (1, 1), 1, 0),
    (7, 200, 3, 3, 100, (3, 3), 1, 0),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of every size are taken."""
    for name in ("FEWEST_PRODUCTS", "FEWEST_PLACES", "FEWEST_CHANNELS"):
        monkeypatch.setattr(sign_sums, name, 0)


def signs(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    return rng.choice(np.array([-1, 1], np.float32), shape)


def expected(
    x: npt.NDArray[np.float32], w: npt.NDArray[np.float32], stride: int, padding: int
) -> npt.NDArray[np.float32]:
    return (
        F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(w).double(), None, stride, padding)
        .float()
        .numpy()
    )


def drawn_task() -> Task:
    """Colour images in two classes, drawn."""
    rng = np.random.default_rng(0)

    def split(size: int) -> Split:
        images = torch.from_numpy(rng.random((size, 3, 32, 32), np.float32))
        return Split(images, torch.from_numpy(rng.integers(0, 2, size)))

    half = (0.5, 0.5, 0.5)
    made = Provenance("made", "", {})
    return Task("drawn", split(48), split(16), split(16), ("a", "b"), half, half, made)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums(
    shape: tuple[int, int, int, int, int, tuple[int, int], int, int],
    threads: int,
    last: bool,
    small: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, c, h, w, o, kernel, stride, padding = shape
    rng = np.random.default_rng(n)
    inputs, weights = signs(rng, n, c, h, w), signs(rng, o, c, *kernel)
    wanted = expected(inputs, weights, stride, padding)
    if last:
        inputs, weights = (
            np.ascontiguousarray(each.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
            for each in (inputs, weights)
        )
    for images in (n, 2, 1):  # at once: all, some, so that the last part is not full, and one
        monkeypatch.setattr(sign_sums, "SUMS_AT_ONCE", images * wanted[0].size // threads)
        found = convolve(inputs, weights, stride, padding, threads)
        assert found is not None
        np.testing.assert_array_equal(found, wanted)
        assert (
            np.argsort(found.strides).tolist() == np.argsort(inputs.strides).tolist() or found.size == n * o
        )


@pytest.mark.parametrize("value", [0.0, 0.5, -2.0, np.nan, np.inf])
@pytest.mark.parametrize("of", ["inputs", "weights"])
def test_other_values_are_declined(value: float, of: str, small: None) -> None:
    rng = np.random.default_rng(0)
    inputs, weights = signs(rng, 4, 64, 6, 6), signs(rng, 64, 64, 3, 3)
    assert convolve(inputs, weights, 1, 1) is not None
    (inputs if of == "inputs" else weights).reshape(-1)[-1] = value
    assert convolve(inputs, weights, 1, 1) is None


def test_small_layers_are_declined() -> None:
    rng = np.random.default_rng(0)
    assert convolve(signs(rng, 64, 64, 8, 8), signs(rng, 64, 64, 3, 3), 1, 1) is not None
    assert convolve(signs(rng, 64, 31, 8, 8), signs(rng, 64, 31, 3, 3), 1, 1) is None
    assert convolve(signs(rng, 8, 64, 8, 8), signs(rng, 64, 64, 3, 3), 1, 1) is None
    assert convolve(signs(rng, 400, 64, 1, 1), signs(rng, 4096, 64, 1, 1), 1, 0) is None


def test_what_no_program_may_be_is_declined(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    assert convolve(signs(rng, 64, 64, 8, 8), signs(rng, 64, 64, 1, 1), 1, 1) is None  # padding, no kernel
    assert convolve(signs(rng, 1, 64, 3, 3), signs(rng, 64, 32, 3, 3), 1, 1) is None  # other channels
    assert convolve(signs(rng, 64, 3, 3), signs(rng, 64, 64, 3, 3), 1, 1) is None  # no batch
    assert convolve(signs(rng, 1, 64, 2, 2), signs(rng, 64, 64, 3, 3), 1, 0) is None  # no place
    monkeypatch.setattr(program, "MOST_VALUES", 64)
    assert convolve(signs(rng, 9, 64, 3, 3), signs(rng, 64, 64, 3, 3), 1, 1) is None  # too large


def test_patience(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are loaded after as much work as that takes; where they are there, they are used at once."""
    rng = np.random.default_rng(0)
    x, w = signs(rng, 2, 64, 4, 4), signs(rng, 64, 64, 3, 3)
    products = 2 * 16 * w.size
    monkeypatch.setattr(sign_sums, "PATIENCE", 2 * products)
    monkeypatch.setattr(sign_sums, "kernels", SimpleNamespace(alone=SimpleNamespace(signatures=[])))
    way = Patient()
    assert [way(x, w, 1, 1) is None for _ in range(4)] == [True, True, False, False]
    assert way.products == 2 * products
    monkeypatch.setattr(sign_sums, "kernels", SimpleNamespace(alone=SimpleNamespace(signatures=[()])))
    assert Patient()(x, w, 1, 1) is not None


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_training_is_the_same_to_the_last_bit(channels_last: bool, small: None) -> None:
    tiny, spec = drawn_task(), "vgg:11x0.25+w1a1:scale=channel"
    found: list[dict[str, torch.Tensor]] = []
    taken = {"training": 0, "evaluation": 0}

    def counted(
        inputs: Array, weights: Array, stride: int, padding: int, threads: int
    ) -> npt.NDArray[np.float32] | None:
        sums = convolve(inputs, weights, stride, padding, threads)
        taken["training" if len(inputs) == 48 else "evaluation"] += sums is not None
        return sums

    config = TrainConfig(
        epochs=3, batch=48, optimizer="adam", learning_rate=0.01, channels_last=channels_last
    )
    for way in (None, counted):
        network = load(spec, tiny.shape, len(tiny.classes), seed=3).module
        with by(way):
            train(network, tiny, config, device="cpu")
        found.append(network.state_dict())
    assert min(taken.values()) >= 7
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


def test_verbs_train_on_bits(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tersa train` asks, with the settings that it chooses."""
    found = {"taken": 0}

    def counted(*arguments: Any) -> npt.NDArray[np.float32] | None:
        sums = convolve(*arguments)
        found["taken"] += sums is not None
        return sums

    monkeypatch.setattr(sign_sums, "PATIENCE", 0)
    monkeypatch.setattr(sign_sums, "convolve", counted)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "drawn.npz",
        images=rng.integers(0, 256, (60, 32, 32, 3), np.uint8),
        labels=np.arange(60) % 2,
    )
    request = TrainRequest(
        data=str(tmp_path / "drawn.npz"), model="cnv+w1a1", settings={"epochs": 1, "precision": "fp32"}
    )
    run_training(request, tmp_path / "run", setting=Setting(threads=1))
    assert found["taken"] > 5
