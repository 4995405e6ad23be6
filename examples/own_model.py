"""A user's own network: any module whose forward code takes its sizes from its input.

tersa shrink --data digits --model examples/own_model.py:build --max-loss 2
"""

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions with a shortcut, a global mean, a classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 32, 3, padding=1)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Called with the task's image shape (C, H, W) and number of classes."""
    return Small(shape[0], classes)
