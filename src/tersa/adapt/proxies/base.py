"""A training-free score of a network: what every entry of the registry is.

A score is a pure function of a network and some images: higher is better, the network is afterwards as it
was. What it needs says what may be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Probe:
    """What a score may look at.

    Attributes:
        images: (N, C, H, W), normalised; 32 to 128 are usual.
        labels: (N,), int64.
        seed: of everything random in a score.
    """

    images: Tensor
    labels: Tensor
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A fresh one from the seed, so that equal networks score equally."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Proxy:
    """One entry of the registry.

    Attributes:
        name: on the command line.
        score: of a network; higher is better.
        about: the formula in a line.
        gradients: it sends something back through the network.
        images: it looks at the images; else at their shape alone, and their number changes nothing.
    """

    name: str
    score: Callable[[nn.Module, Probe], float]
    about: str
    gradients: bool = True
    images: bool = True
