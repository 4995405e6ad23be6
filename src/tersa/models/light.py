"""Light modules: three stand-ins for a k x k convolution, each of them taking its place as it is.

    SeparableConv   k x k on each channel alone, then 1x1                         MobileNet
    Fire            1x1 to b channels, ReLU, then 1x1 and k x k side by side      SqueezeNet
    ShiftConv       each channel moved by a fixed step, then 1x1                  ShiftNet

Each has the stride, padding, dilation and bias of the convolution that it replaces, and gives an output of
the same size; normalisation and ReLU behind it are the network's own. What they cost is in `light_costs.py`,
putting them into a network in `lighten.py`. Convolutions with groups are not replaced.

Differs from the papers: MobileNet and ShiftNet have batch normalisation and ReLU between their two steps.
Without them the pair is linear, a convolution of low rank, and can be derived from trained weights
(`closest_separable`).

Example:
    >>> conv = nn.Conv2d(32, 64, 5, padding=2)
    >>> for kind in (SeparableConv, Fire, ShiftConv):
    ...     light = kind(ConvSettings.of(conv))
    ...     print(sum(p.numel() for p in light.parameters()), tuple(light(torch.zeros(1, 32, 14, 14)).shape))
    2912 (1, 64, 14, 14)
    6984 (1, 64, 14, 14)
    2112 (1, 64, 14, 14)

References:
    Howard et al., MobileNets (2017), section 3.1.
    Iandola et al., SqueezeNet (2016), section 3.
    Wu et al., Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions (2018), section 3.
    Document 002, section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.models.light_costs import Pair

SQUEEZE = 0.125
"""Channels between squeeze and expand, as a share of the outputs: SqueezeNet's squeeze ratio."""


@dataclass(frozen=True)
class ConvSettings:
    """The convolution that a light module stands in for.

    Attributes:
        inputs: D, channels read.
        outputs: D', channels made.
        kernel: (kh, kw).
        stride: (rows, columns).
        padding: (rows, columns) at each side, or `same`.
        dilation: (rows, columns) between taps.
        padding_mode: what stands outside the image, as `nn.Conv2d` names it.
        bias: one value per output is added.
    """

    inputs: int
    outputs: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    padding_mode: str = "zeros"
    bias: bool = True

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvSettings:
        """The settings of a layer."""
        padding = conv.padding
        if isinstance(padding, str):
            padding = "same" if padding == "same" else (0, 0)
        return cls(
            conv.in_channels,
            conv.out_channels,
            cast("Pair", conv.kernel_size),
            cast("Pair", conv.stride),
            cast("Pair | str", padding),
            cast("Pair", conv.dilation),
            conv.padding_mode,
            conv.bias is not None,
        )

    @property
    def geometry(self) -> dict[str, Any]:
        """What a k x k convolution inside a light module has in common with the one it replaces."""
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "padding_mode": self.padding_mode,
        }

    @property
    def margins(self) -> tuple[Pair, Pair]:
        """What the kernel's centre never visits: (before, after) of the rows, and of the columns.

        Negative where padding lets the centre step outside the image.
        """
        if self.padding == "same":
            return (0, 0), (0, 0)
        found: list[Pair] = []
        for side, pad, step in zip(self.kernel, cast("Pair", self.padding), self.dilation, strict=True):
            before = step * ((side - 1) // 2) - pad
            found.append((before, step * (side - 1) - 2 * pad - before))
        return found[0], found[1]


class SeparableConv(nn.Module):
    """A convolution of each channel alone, then one that mixes channels at each position.

        y[o] = sum over i of p[o, i] (d[i] * x[i]) + c[o]

    Args:
        conv: what it stands in for.
    """

    def __init__(self, conv: ConvSettings) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(conv.inputs, conv.inputs, groups=conv.inputs, bias=False, **conv.geometry)
        self.pointwise = nn.Conv2d(conv.inputs, conv.outputs, 1, bias=conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D', H', W') of (N, D, H, W)."""
        return self.pointwise(self.depthwise(x))


class Fire(nn.Module):
    """Few channels between a 1x1 convolution, and a 1x1 and a k x k convolution side by side.

        y = [ 1x1(s), kxk(s) ],  s = relu(1x1(x))

    The 1x1 expansion reads where the centre of the k x k kernel does, so that both halves see the same place
    also without padding. It makes the larger half of an odd number of outputs.

    Args:
        conv: what it stands in for; at least 2 outputs.
        squeeze: b as a share of the outputs; b is rounded and at least 1.
    """

    def __init__(self, conv: ConvSettings, squeeze: float = SQUEEZE) -> None:
        super().__init__()
        between = max(1, round(squeeze * conv.outputs))
        large = conv.outputs // 2
        self.squeeze = nn.Conv2d(conv.inputs, between, 1, bias=conv.bias)
        self.relu = nn.ReLU()
        self.expand_small = nn.Conv2d(between, conv.outputs - large, 1, stride=conv.stride, bias=conv.bias)
        self.expand_large = nn.Conv2d(between, large, bias=conv.bias, **conv.geometry)
        (top, bottom), (left, right) = conv.margins
        self.crop = (-left, -right, -top, -bottom)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D', H', W') of (N, D, H, W)."""
        x = self.relu(self.squeeze(x))  # (N, b, H, W)
        centre = F.pad(x, self.crop) if any(self.crop) else x
        return torch.cat([self.expand_small(centre), self.expand_large(x)], dim=1)


class Shift(nn.Conv2d):
    """Each channel moved by one of the k x k steps: a depthwise convolution with fixed one-hot kernels.

    The kernels are a buffer: nothing is trained, nothing counts as a parameter, and each channel carries its
    own step, so that those that are left after pruning still move as they did and a saved network needs no
    list of steps. Slices of a padded tensor would be without multiplications, but which channels move where
    would then be a constant of the forward code, wrong as soon as a channel is removed; and on ONNX Runtime a
    pad, k x k slices and a concatenation were slower than the depthwise convolution.

    Args:
        conv: gives the input channels and the geometry.
    """

    def __init__(self, conv: ConvSettings) -> None:
        super().__init__(conv.inputs, conv.inputs, groups=conv.inputs, bias=False, **conv.geometry)
        del self.weight  # a parameter; its place is taken by a buffer
        self.register_buffer("weight", one_hot_kernels(conv.inputs, conv.kernel))

    def reset_parameters(self) -> None:
        """Nothing: there is none."""


class ShiftConv(nn.Module):
    """Channels moved in the k x k directions, then mixed at each position.

        y[o] = sum over i of p[o, i] x[i] moved by step(i) + c[o]

    Args:
        conv: what it stands in for.
    """

    def __init__(self, conv: ConvSettings) -> None:
        super().__init__()
        self.shift = Shift(conv)
        self.pointwise = nn.Conv2d(conv.inputs, conv.outputs, 1, bias=conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D', H', W') of (N, D, H, W)."""
        return self.pointwise(self.shift(x))


LIGHT = (SeparableConv, Fire, ShiftConv)


def one_hot_kernels(channels: int, kernel: Pair) -> Tensor:
    """Kernels that move each channel by one step.

    Every tap gets as many channels as divide evenly, in a row; the rest go one each to the taps nearest the
    centre. Differs from the paper: it leaves the rest at the centre, which for fewer channels than taps is no
    shift at all.

    Args:
        channels: D.
        kernel: (kh, kw).

    Returns:
        (D, 1, kh, kw), a single 1 in each.
    """
    rows, columns = kernel
    middle = (rows - 1) // 2, (columns - 1) // 2
    taps = [(row, column) for row in range(rows) for column in range(columns)]
    share, rest = divmod(channels, len(taps))
    near = sorted(taps, key=lambda tap: (tap[0] - middle[0]) ** 2 + (tap[1] - middle[1]) ** 2)
    chosen = torch.tensor([tap for tap in taps for _ in range(share)] + near[:rest])
    kernels = torch.zeros(channels, 1, rows, columns)
    kernels[torch.arange(channels), 0, chosen[:, 0], chosen[:, 1]] = 1.0
    return kernels


def closest_separable(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The separable convolution that is closest to a dense one, in closed form.

        minimise over p, d  sum over o, i of || w[o, i] - p[o, i] d[i] ||^2

    Each input channel is a problem of its own: the best approximation of rank one of the (D', kh kw) matrix
    w[:, i], which is its first singular triple (Eckart and Young). The singular value is shared evenly
    between p and d, and the largest entry of d is positive.

    Args:
        weight: w, (D', D, kh, kw).

    Returns:
        d (D, 1, kh, kw) and p (D', D, 1, 1).
    """
    outputs, inputs, rows, columns = weight.shape
    matrices = weight.detach().transpose(0, 1).reshape(inputs, outputs, rows * columns)
    u, s, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    point, depth = u[:, :, 0], vh[:, 0]  # (D, D'), (D, kh kw)
    sign = depth.gather(1, depth.abs().argmax(dim=1, keepdim=True)).sign()  # (D, 1)
    root = s[:, :1].sqrt() * sign
    depthwise = (depth * root).reshape(inputs, 1, rows, columns)
    pointwise = (point * root).T.reshape(outputs, inputs, 1, 1)
    return depthwise.to(weight.dtype), pointwise.to(weight.dtype)


def draw_(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights for a light module, zero biases; shifts stay as they are.

        w ~ N(0, g / fan in),  g = 1 for a depthwise convolution, which no ReLU follows, else 2

    Args:
        module: one of `LIGHT`.
        generator: on the CPU; the numbers do not depend on the module's device.

    References:
        He et al., Delving Deep into Rectifiers (2015), section 2.2.
    """
    with torch.no_grad():
        for layer in module.modules():
            if not isinstance(layer, nn.Conv2d) or isinstance(layer, Shift):
                continue
            gain = 1.0 if layer.groups > 1 else 2.0
            values = torch.randn(layer.weight.shape, generator=generator, device="cpu")
            layer.weight.copy_(values * (gain / layer.weight[0].numel()) ** 0.5)
            if layer.bias is not None:
                layer.bias.zero_()
