"""Multi-layer perceptrons: `mlp:100x100` has two hidden layers of 100 units with ReLU.

    h_0 = flatten(x),  h_i = relu(W_i h_{i-1} + b_i),  logits = W_n h_{n-1} + b_n

Layers are named `fc1`, `relu1`, `fc2`, ... Any input shape, any number of hidden layers. No normalisation and
no dropout: these are the fully connected networks of quantised-training studies, where every parameter
counts.

Example:
    >>> sum(p.numel() for p in build("100x100", (1, 28, 28), 10).parameters())
    89610
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tersa.models.family import Family, Shape, malformed, widths

GRAMMAR = "mlp:100x100 (any number of hidden widths)"
DEEPEST = 100


class MLP(nn.Module):
    """Fully connected layers with ReLU between them.

    Args:
        features: inputs of the first layer, C x H x W.
        hidden: width of each hidden layer.
        classes: K, outputs.
    """

    def __init__(self, features: int, hidden: tuple[int, ...], classes: int) -> None:
        super().__init__()
        sizes = (features, *hidden)
        for i, (inputs, outputs) in enumerate(zip(sizes, hidden, strict=False), start=1):
            self.add_module(f"fc{i}", nn.Linear(inputs, outputs))
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module(f"fc{len(sizes)}", nn.Linear(sizes[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        x = torch.flatten(x, 1)  # (N, C*H*W)
        for layer in self.children():
            x = layer(x)
        return x


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `mlp:ARGUMENT`."""
    hidden = widths(argument, "x", GRAMMAR)
    if len(hidden) > DEEPEST:
        raise malformed(GRAMMAR, argument, f"{len(hidden)} hidden layers, at most {DEEPEST}")
    return MLP(math.prod(shape), hidden, classes)


FAMILY = Family(
    name="mlp",
    grammar=GRAMMAR,
    default="100x100",
    smallest=1,
    largest=1_000_000,  # any shape: features are (1, 1, F)
    build=build,
    about="fully connected layers with ReLU",
)
