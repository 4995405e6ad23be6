"""Elman's recurrent network: `elman:64` reads an image row by row into 64 units.

    h_0 = 0,  h_t = tanh(W x_t + b + U h_{t-1} + c),  logits = V h_T + d

x_t is row t of the image, top to bottom, its channels side by side. The layers are `input` (W, b),
`recurrent` (U, c) and `output` (V, d); two biases meet in one sum, as in `torch.nn.RNN`. Weights start
uniform in +-1/sqrt(inputs). No gates, no layers above each other, no reading in both directions.

Example:
    >>> sum(p.numel() for p in build("64", (1, 28, 28), 10).parameters())
    6666

References:
    Elman, Finding structure in time (Cognitive Science, 1990).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, whole_number

GRAMMAR = "elman:64 (hidden units)"


class Elman(nn.Module):
    """One recurrent layer of tanh units over the rows of an image, and a linear layer on its last state.

    Args:
        shape: (C, H, W) of one image.
        hidden: units.
        classes: K, outputs.
    """

    def __init__(self, shape: Shape, hidden: int, classes: int) -> None:
        super().__init__()
        channels, _, width = shape
        self.input = nn.Linear(channels * width, hidden)
        self.recurrent = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        driven = self.input(x.transpose(1, 2).flatten(2))  # (N, H, hidden)
        state = torch.zeros_like(driven[:, 0])
        for row in driven.unbind(1):
            state = torch.tanh(row + self.recurrent(state))
        return self.output(state)


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `elman:ARGUMENT`."""
    return Elman(shape, whole_number(argument, GRAMMAR), classes)


FAMILY = Family(
    name="elman",
    grammar=GRAMMAR,
    default="64",
    smallest=1,
    build=build,
    about="recurrent layer that reads the rows of an image",
)
