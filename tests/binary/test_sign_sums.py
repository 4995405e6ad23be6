"""Convolutions of signs for a training: equal to conv2d bit for bit, or declined."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from tersa.binary import sign_sums
from tersa.binary.sign_sums import convolve
from tersa.data.task import Provenance, Split, Task
from tersa.models.load import load
from tersa.quant.sums import by
from tersa.train.config import TrainConfig
from tersa.train.loop import train

SHAPES = [
    # images, channels, rows, columns, outputs, kernel, stride, padding
    (1, 1, 3, 3, 1, 3, 1, 1),
    (7, 3, 5, 9, 2, 3, 1, 0),
    (2, 33, 8, 8, 31, 3, 1, 1),
    (3, 64, 6, 5, 40, 1, 1, 0),
    (5, 65, 9, 4, 64, 5, 1, 2),
    (4, 96, 7, 7, 33, 3, 2, 1),
    (9, 128, 4, 4, 130, 3, 1, 1),
    (6, 130, 1, 1, 65, 1, 1, 0),
    (2, 200, 3, 3, 100, 3, 1, 0),
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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums(shape: tuple[int, ...], threads: int, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    n, c, h, w, o, k, stride, padding = shape
    rng = np.random.default_rng(sum(shape))
    inputs, weights = signs(rng, n, c, h, w), signs(rng, o, c, k, k)
    wanted = expected(inputs, weights, stride, padding)
    taken = 0
    for at_once in (1 << 20, 1):  # all images at once, and one after the other
        monkeypatch.setattr(sign_sums, "SUMS_AT_ONCE", at_once)
        found = convolve(inputs, weights, stride, padding, threads)
        if found is not None:
            np.testing.assert_array_equal(found, wanted)
            taken += 1
    assert taken == 2 or c < 64, "declined, but words suit it"


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


def test_a_training_is_the_same_to_the_last_bit(small: None) -> None:
    tiny = drawn_task()
    spec = "vgg:11x0.5+w1a1:scale=channel"
    found: list[dict[str, torch.Tensor]] = []
    asked = 0

    def counted(*arguments: object) -> npt.NDArray[np.float32] | None:
        nonlocal asked
        sums = convolve(*arguments)  # pyright: ignore[reportArgumentType] - passed on
        asked += sums is not None
        return sums

    config = TrainConfig(epochs=2, batch=16, optimizer="adam", learning_rate=0.01)
    for ways in (0, 1):
        network = load(spec, tiny.shape, len(tiny.classes), seed=3).module
        if ways:
            with by(counted):
                train(network, tiny, config, device="cpu")
        else:
            train(network, tiny, config, device="cpu")
        found.append(network.state_dict())
    assert asked > 20
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
