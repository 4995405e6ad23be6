"""One small exported network, made once, and the session that a test makes up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tersa.export.artefact import Artefact, Header
from tersa.export.int8 import Calibration, quantise_onnx
from tersa.export.onnx import export_onnx
from tersa.targets.base import Pixels, Session


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """A small convolutional network, fp32."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 3))
    with torch.no_grad():
        for index, tensor in enumerate(network.parameters()):
            tensor.copy_(
                torch.sin(torch.arange(tensor.numel(), dtype=torch.float32) + index).view_as(tensor) / 3
            )
    header = Header(("a", "b", "c"), (1, 8, 8), (0.3,), (0.4,))
    return export_onnx(network, header, tmp_path_factory.mktemp("targets") / "net.onnx")


@pytest.fixture(scope="session")
def int8_artefact(artefact: Artefact) -> Artefact:
    """The same network in INT8."""
    images = np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32)
    return quantise_onnx(artefact, artefact.path.with_name("int8.onnx"), Calibration(images))


@pytest.fixture
def images() -> Pixels:
    """A batch of four images."""
    return np.random.default_rng(2).random((4, 1, 8, 8), dtype=np.float32)


class FakeClock:
    """Time that passes only when a session is called."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> int:
        return round(self.now)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def session(clock: FakeClock) -> Callable[..., Session]:
    """A session whose calls take the milliseconds that a function of the call's number gives."""

    def make(
        cost: Callable[[int], float], name: str = "net", log: list[str] | None = None, **more: object
    ) -> Session:
        calls = 0

        def run(pixels: Pixels) -> Pixels:
            nonlocal calls
            clock.now += cost(calls) * 1e6
            calls += 1
            if log is not None:
                log.append(name)
            return np.zeros((len(pixels), 3), np.float32)

        given = {
            "model": name,
            "target": "fake@threads=1",
            "precision": "fp32",
            "threads": 1,
            "runtime": "fake 1",
        }
        return Session(**{**given, **more}, run=run)  # pyright: ignore[reportArgumentType] - values of mixed type

    return make
