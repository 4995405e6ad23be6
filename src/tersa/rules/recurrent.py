"""Elman's recurrent network for a stack of runs, under backpropagation through time.

    h_0 = 0,   h_t = tanh(z_input(x_t) + z_recurrent(h_{t-1})),   logits = z_output(h_T)

with z_i = gain_i (W_i u + b_i) of `tersa.rules.network`, so that gains, reading noise and quantised gradients
act on it as on any network; each state h_t but h_0 is a hidden output and can be given few bits. x_t is row t
of the image, its channels side by side. `tersa.models.elman` holds the same network as a module.

Autograd goes back through all rows (no truncation). Rules that take a network apart layer by layer have no
meaning here and refuse it (`tersa.rules.network.line_only`).

References:
    Elman, Finding structure in time (Cognitive Science, 1990).
    Werbos, Backpropagation through time: what it does and how to do it (Proceedings of the IEEE, 1990).

Example:
    >>> from tersa.rules.network import network_of
    >>> network = network_of("elman:5", (1, 4, 3), 2)
    >>> [(layer.name, layer.weight_shape) for layer in network.layers]
    [('input', (5, 3)), ('recurrent', (5, 5)), ('output', (2, 5))]
    >>> network.logits(network.initial([1, 2]), torch.zeros(7, 1, 4, 3)).shape
    torch.Size([2, 7, 2])
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

INPUT, RECURRENT, OUTPUT = 0, 1, 2
"""Places of the three layers."""


def elman(
    linear: Callable[[int, Tensor], Tensor], x: Tensor, hidden: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Logits (R, N, K) of images.

    Args:
        linear: z of a layer, from its place and its input, (N, I) or (R, N, I), to (R, N, O).
        x: (N, C, H, W) shared by all runs, or (R, N, C, H, W).
        hidden: called on each state (R, N, units), to quantise it.
    """
    rows = x.transpose(-3, -2).flatten(-2)  # (N, T, C*W) or (R, N, T, C*W)
    count, steps = rows.shape[-3:-1]
    driven = linear(INPUT, rows.flatten(-3, -2)).unflatten(1, (count, steps))  # (R, N, T, units)
    state = torch.zeros_like(driven[:, :, 0])
    for row in driven.unbind(2):
        state = torch.tanh(row + linear(RECURRENT, state))
        if hidden is not None:
            state = hidden(state)
    return linear(OUTPUT, state)
