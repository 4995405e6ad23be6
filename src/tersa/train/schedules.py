"""Learning rate over a run: pure functions of how far the run has come, and nothing else.

With i the index of an update (from 0), n the number of updates, e = i // updates per epoch, and
w = warm-up share x n, the factor on the peak learning rate is (i + 1) / (w + 1) while i < w, and then

    constant     1
    cosine       (1 + cos(pi p)) / 2,  p = (i - w) / (n - w)
    one-cycle    the same as cosine; the warm-up is part of it (a quarter of the run unless given)
    step         gamma ** (e // step_epochs)
    exponential  gamma ** e

The factor is set before every update. The cosine ends just above 0, so that no update is lost.

Differs from the paper: one-cycle does not cycle the momentum, and ends in a cosine, not in a line.

References:
    Smith & Topin, Super-Convergence (2019), section 2: the one-cycle policy.
    Loshchilov & Hutter, SGDR (2017), equation 5: cosine annealing.

Example:
    >>> config, length = TrainConfig(schedule="cosine"), Extent(per_epoch=2, iterations=4, epochs=2)
    >>> [round(factor(config, i, length), 3) for i in range(4)]
    [1.0, 0.854, 0.5, 0.146]
"""

from __future__ import annotations

import math

from tersa.train.config import Extent, TrainConfig


def warm_up(iteration: int, updates: float) -> float:
    """Linear climb: (i + 1) / (w + 1) before update `updates`, then 1."""
    return (iteration + 1) / (updates + 1) if iteration < updates else 1.0


def cosine(share: float) -> float:
    """Half a cosine from 1 (share 0) to 0 (share 1)."""
    return (1.0 + math.cos(math.pi * share)) / 2.0


def step(epoch: int, step_epochs: int, gamma: float) -> float:
    """gamma for every `step_epochs` whole epochs gone."""
    return gamma ** (epoch // step_epochs)


def exponential(epoch: int, gamma: float) -> float:
    """gamma for every whole epoch gone."""
    return gamma**epoch


def factor(config: TrainConfig, iteration: int, length: Extent) -> float:
    """What the peak learning rate is multiplied by in update `iteration` (from 0).

    Args:
        config: its schedule, warm-up, gamma and step_epochs.
        iteration: 0 .. length.iterations - 1.
        length: of the run.
    """
    climb = config.warmup_share * length.iterations
    if iteration < climb:
        return warm_up(iteration, climb)
    epoch = iteration // length.per_epoch
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine" | "one-cycle":
            return cosine((iteration - climb) / (length.iterations - climb))
        case "step":
            return step(epoch, config.step_epochs, config.gamma)
        case "exponential":
            return exponential(epoch, config.gamma)
