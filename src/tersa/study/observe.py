"""What is known of a stack after an epoch: accuracies, the numbers of each tensor, angles to backpropagation.

Example:
    >>> from tersa.data import load
    >>> from tersa.study.cell import Cell
    >>> from tersa.study.stack import load_data, start
    >>> stack = start([Cell(data="digits", model="mlp:16")], load("digits"))
    >>> data = load_data(stack.cells[0], load("digits"))
    >>> 0 <= accuracy(stack, data.test_inputs, data.test_labels).item() <= 100
    True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tersa.rules.angles import alignment
from tersa.rules.base import Batch, Draw, Phase
from tersa.study.cell import CellEpoch, LayerState
from tersa.study.stack import Data, Stack

EVALUATED = 1000
"""Images of one evaluation batch."""
ANGLE_IMAGES = 256
"""Images on which the alignment with backpropagation is measured."""


@torch.no_grad()
def accuracy(stack: Stack, inputs: Tensor, labels: Tensor) -> Tensor:
    """Right answers of each run in percent, (R,) float64.

    Args:
        stack: as it is now.
        inputs: (N, C, H, W), normalised.
        labels: (N,).
    """
    weights, extras = stack.weights, stack.trained
    right = torch.zeros(len(stack.cells), dtype=torch.int64, device=labels.device)
    for x, y in zip(inputs.split(EVALUATED), labels.split(EVALUATED), strict=True):
        right += (stack.rule.predict(stack.network, weights, extras, x).argmax(-1) == y).sum(-1)
    return 100.0 * right.double() / len(labels)


def record(
    stack: Stack,
    phase: Phase,
    data: Data,
    epoch: int,
    losses: Tensor,
    rate: npt.NDArray[np.float32],
    trained: npt.NDArray[np.bool_],
) -> None:
    """What is known after an epoch, for every run that trained in it, whether or not it has just diverged."""
    test = accuracy(stack, data.test_inputs, data.test_labels)
    sample = slice(0, len(data.test_labels))
    train = accuracy(stack, data.inputs[sample], data.labels[sample])
    for run, rows in enumerate(stack.epochs):
        if trained[run]:
            rows.append(
                CellEpoch(
                    epoch=epoch,
                    phase=phase.name,
                    train_loss=finite_or_none(float(losses[run])),
                    train_accuracy=float(train[run]),
                    test_accuracy=float(test[run]),
                    learning_rate=float(rate[run]),
                )
            )
    record_layers(stack, epoch, angles=_angles(stack, phase, data))


def _angles(stack: Stack, phase: Phase, data: Data) -> list[list[float | None]] | None:
    """Degrees between the rule's update and backpropagation's, (R, L); None for backpropagation itself."""
    if stack.rule.name == "bp" or not any(turn.layers for turn in phase.turns):
        return None
    batch = Batch(data.inputs[:ANGLE_IMAGES], data.labels[:ANGLE_IMAGES])
    draw = Draw([cell.seed for cell in stack.cells], str(data.labels.device))
    found = alignment(stack.rule, stack.network, stack.weights, stack.trained, batch, draw, phase)
    return [[finite_or_none(value) for value in row] for row in found.tolist()]


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def record_layers(
    stack: Stack,
    epoch: int,
    runs: Sequence[int] | None = None,
    angles: list[list[float | None]] | None = None,
) -> None:
    """Extremes, mean and variance of every tensor of the network."""
    for place, (layer, pair) in enumerate(zip(stack.network.layers, stack.weights, strict=True)):
        named: list[tuple[Literal["weight", "bias"], Tensor]] = [("weight", pair.weight), ("bias", pair.bias)]
        for name, tensor in named:
            flat = tensor.flatten(1)
            low, high, mean = flat.amin(1).tolist(), flat.amax(1).tolist(), flat.mean(1).tolist()
            variance = flat.var(1, correction=0).tolist()
            for run, rows in enumerate(stack.layers):
                if stack.active[run] and (runs is None or run in runs):
                    rows.append(
                        LayerState(
                            epoch=epoch,
                            layer=layer.name,
                            tensor=name,
                            low=low[run],
                            high=high[run],
                            mean=mean[run],
                            variance=variance[run],
                            angle=angles[run][place] if angles and name == "weight" else None,
                        )
                    )
