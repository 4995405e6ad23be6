"""A task of 120 small images that a few updates learn, and a network with everything that holds state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tersa.data.task import Provenance, Split, Task

SIDE, CLASSES = 6, 3


def _split(count: int, offset: int) -> Split:
    """Class k is a bright band at rows 2k and 2k + 1, over a texture that differs from image to image."""
    labels = torch.arange(count) % CLASSES
    texture = torch.sin(torch.arange(offset, offset + count * SIDE * SIDE) * 12.9898) * 60 + 70
    images = texture.reshape(count, 1, SIDE, SIDE)
    rows = torch.arange(SIDE).view(1, 1, SIDE, 1) // 2 == labels.view(-1, 1, 1, 1)
    return Split((images + 60 * rows).to(torch.uint8), labels)


def fill_(module: nn.Module) -> nn.Module:
    """Deterministic weights that are neither zero nor equal."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            wave = torch.sin(torch.arange(parameter.numel()) * 0.7 + number)
            parameter.copy_(0.3 * wave.reshape(parameter.shape) + (1.0 if parameter.ndim == 1 else 0.0))
    return module


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        "bands",
        _split(120, 0),
        _split(45, 10_000),
        _split(60, 20_000),
        ("low", "middle", "high"),
        (0.35,),
        (0.2,),
        Provenance("made", "tests", {}),
    )


@pytest.fixture
def network() -> Callable[[], nn.Module]:
    """Builds the same network each time: convolution, batch normalisation, dropout, fully connected."""

    def build() -> nn.Module:
        return fill_(
            nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Flatten(),
                nn.Linear(4 * SIDE * SIDE, CLASSES),
            )
        )

    return build


@pytest.fixture
def linear() -> Callable[[], nn.Module]:
    """Builds the same network each time, without batch normalisation or dropout."""

    def build() -> nn.Module:
        return fill_(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES)))

    return build
