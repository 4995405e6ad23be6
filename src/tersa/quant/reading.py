"""Read noise: every read of an array finds every conductance a little off, anew.

A layer reads its cells once per image. With noise of deviation sigma h on each weight and sigma h_b on each
bias, independent over cells and reads, an output is off by a normal number, independent over outputs and
images:

    z_o = sum_i (w_oi + sigma h n_oi) u_i + b_o + sigma h_b n_o
        = W u + b + sigma sqrt(h^2 ||u||^2 + h_b^2) N(0, 1)

which is exact, and costs one number per output instead of one per cell (28 runs of 784-100-100-10 with 64
images: 0.4 million instead of 160 million). A convolution reads its kernel once per place: ||u|| is that of
the patch under it. The noise passes no gradient: errors travel back through a read of their own, without
noise here.

`Reading` is called as read(i, z, u) on each layer's output (`tersa.rules.network.Signals.read`).

Example:
    >>> cells = [(torch.ones(1, 1), torch.ones(1, 1))]
    >>> read = Reading(torch.tensor([0.0]), cells, [DENSE], [generator(1, READS)])
    >>> read(0, torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1.0, 2.0, 3.0]])).tolist()
    [[[3.0, 4.0]]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tersa.quant.chance import READS, generator

__all__ = ["DENSE", "READS", "Reading", "Window", "generator", "input_norm"]


@dataclass(frozen=True)
class Window:
    """What one output of a layer sees of its input.

    Attributes:
        kernel: side of a convolution's kernel; 0 for a dense layer, which sees all of it.
        stride: of a convolution.
        padding: zeros around its input.
    """

    kernel: int = 0
    stride: int = 1
    padding: int = 0


DENSE = Window()
"""Of a fully connected layer."""


def input_norm(u: Tensor, window: Window, weight: Tensor, bias: Tensor) -> Tensor:
    """sqrt(weight^2 ||u||^2 + bias^2) of what each output sees.

    Args:
        u: a layer's input: dense (N, ...) or (R, N, ...), images (N, C, H, W) or (R, N, C, H, W).
        window: of the layer.
        weight: half widths of its weights' range, (R, 1) or (R, O).
        bias: half widths of its biases' range, (R, 1) or (R, O).

    Returns:
        (R, N, 1 or O), or (R, N, 1 or O, H, W) of a convolution.
    """
    if window.kernel:
        power = u.square().sum(-3)  # (N, H, W) or (R, N, H, W)
        patch = torch.ones(1, 1, window.kernel, window.kernel, dtype=u.dtype, device=u.device)
        flat = power.reshape(-1, 1, *power.shape[-2:])
        seen = F.conv2d(flat, patch, None, window.stride, window.padding)
        total = seen.reshape(-1, u.shape[-4], 1, *seen.shape[-2:])  # (1 or R, N, 1, H, W)
    else:
        rows = u.flatten(-3) if u.dim() > 3 else u
        total = rows.square().sum(-1, keepdim=True)  # (N, 1) or (R, N, 1)
        total = total.reshape(-1, *total.shape[-2:])  # (1 or R, N, 1)
    tail = (1,) * (total.dim() - 3)
    wide = weight.square().reshape(len(weight), 1, -1, *tail)
    return (wide * total + bias.square().reshape(len(bias), 1, -1, *tail)).sqrt()


@dataclass(frozen=True)
class Reading:
    """Adds the noise of reading to a layer's outputs.

    Attributes:
        deviation: sigma of each run, as a share of the half width, (R,).
        halves: per layer, half widths of the weights' and the biases' range, (R, 1) or (R, O) each. The
            tensors are read at each call: those of `tersa.quant.programming.Cells` follow the training.
        windows: per layer.
        generators: one per run, from `generator(seed, READS)`; they are the reads' only state. A run without
            noise draws nothing.
    """

    deviation: Tensor
    halves: Sequence[tuple[Tensor, Tensor]]
    windows: Sequence[Window]
    generators: Sequence[torch.Generator]

    def __call__(self, i: int, z: Tensor, u: Tensor) -> Tensor:
        """z of layer i, (R, N, O) or (R, N, O, H, W), with the noise of one read per image."""
        with torch.no_grad():
            noise = torch.zeros(z.shape, dtype=z.dtype)
            for row, sigma, source in zip(noise, self.deviation.tolist(), self.generators, strict=True):
                if sigma:
                    row.normal_(0.0, sigma, generator=source)
            noise = noise.to(z.device).mul_(input_norm(u, self.windows[i], *self.halves[i]))
        return z + noise
