"""Small networks of every kind that the export has to carry, with deterministic weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.export.artefact import Artefact, Header
from tersa.export.onnx import export_onnx

SIZE = 12
CLASSES = tuple("abcde")
MEAN, STD = (0.13, 0.4, 0.45), (0.31, 0.2, 0.27)


class Residual(nn.Module):
    """Padded convolutions with batch normalisation and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(x + self.norm2(self.conv2(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Module):
    """A first convolution without padding, a depthwise one, a mean over the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.fc = nn.Linear(12, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.depthwise(F.relu6(self.stem(x)))))
        return self.fc(F.relu6(self.pointwise(x)).mean((2, 3)))


class Dense(nn.Module):
    """Concatenation and batch normalisation before its convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.fc = nn.Linear(8 * (SIZE // 2) ** 2, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = torch.cat([x, self.conv2(F.relu(self.norm(x)))], 1)
        return self.fc(F.max_pool2d(F.relu(x), 2).flatten(1))


class Forked(nn.Module):
    """Pixels that are read by a padded convolution, an unpadded one, a depthwise one, and by arithmetic."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.padded = nn.Conv2d(channels, 4, 3, padding=1)
        self.valid = nn.Conv2d(channels, 4, 3)
        self.each = nn.Conv2d(channels, 2 * channels, 3, groups=channels)
        self.fc = nn.Linear(8 + 3 * channels, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.padded(x), self.valid(x), self.each(x), torch.tanh(x)]
        return self.fc(torch.cat([each.relu().mean((2, 3)) for each in maps], 1))


def mlp(channels: int, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * SIZE * SIZE, 16, bias=bias),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, len(CLASSES)),
    )


def lenet(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 16, 24),
        nn.ReLU(),
        nn.Linear(24, len(CLASSES)),
    )


BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "dense": Dense,
    "forked": Forked,
    "mlp": mlp,
    "mlp-without-bias": lambda channels: nn.Sequential(
        nn.Flatten(), nn.Linear(channels * SIZE * SIZE, len(CLASSES), bias=False)
    ),
    "lenet": lenet,
}


def built(name: str, channels: int) -> nn.Module:
    """A network by name, in train mode, with weights that are sines."""
    network = BUILDERS[name](channels)
    with torch.no_grad():
        for index, (key, tensor) in enumerate(network.state_dict().items()):
            if tensor.is_floating_point():
                wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float32) * 0.7 + index)
                scale = (2.0 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
                shift = 1.0 if "var" in key or (tensor.ndim == 1 and "weight" in key) else 0.0
                tensor.copy_((shift + scale * wave).view_as(tensor))
    return network


def header_of(channels: int) -> Header:
    return Header(CLASSES, (channels, SIZE, SIZE), MEAN[:channels], STD[:channels])


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """A network by name and number of channels."""
    return lambda name, channels=1: built(name, channels)


@pytest.fixture
def header() -> Callable[..., Header]:
    """The header of 12x12 images in a number of channels."""
    return lambda channels=1: header_of(channels)


@pytest.fixture
def pixels() -> Callable[..., npt.NDArray[np.float32]]:
    """(count, channels, 12, 12) pixels in 0..1."""

    def make(channels: int = 1, count: int = 40) -> npt.NDArray[np.float32]:
        return np.random.default_rng(1).random((count, channels, SIZE, SIZE), dtype=np.float32)

    return make


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Artefact]:
    """Exports made once for all tests (each takes most of a second)."""
    folder = tmp_path_factory.mktemp("exports")
    known: dict[tuple[str, int], Artefact] = {}

    def make(name: str, channels: int) -> Artefact:
        if (name, channels) not in known:
            path = folder / f"{name}-{channels}.onnx"
            known[name, channels] = export_onnx(built(name, channels), header_of(channels), path)
        return known[name, channels]

    return make


@pytest.fixture
def exported(kept: Callable[[str, int], Artefact], tmp_path: Path) -> Callable[..., Artefact]:
    """An exported network by name, in a file of the test's own."""

    def make(name: str = "lenet", channels: int = 1) -> Artefact:
        artefact = kept(name, channels)
        shutil.copyfile(artefact.path, tmp_path / f"{name}.onnx")
        return replace(artefact, path=tmp_path / f"{name}.onnx")

    return make
