"""A low-bit network without its training: levels as constants, normalisation and activation as one step.

What the exporters write. The latent weights, their estimators and the normalisation's statistics are gone:

    Pixels       q = round(pixel (2^b - 1)), value 2 q - (2^b - 1); pixels in 0..1 instead of normalised ones
    Conv2d, Linear           weights are levels (odd integers, or -1, 0, 1)
    Affine       x factor ... + shift, rounded after each step
    Levels       1 bit: 1 where x >= 0, else -1;  k bits: 2 m + 1 with m = x rounded, within k signed bits

A layer whose sums are integers, its normalisation and its activation keep nothing but the sums at which the
level changes (`binary.thresholds`). For one bit the layer gets the bias 1/2 - e, where e is the smallest sum
that gives +1 (and negated weights where that was the largest): sums of integers and halves, which no runtime
rounds. For k bits it is one multiplication and one addition (`lines.py`). So a runtime that fuses, reorders
or contracts float operations still gives the network's levels, each of them.

Example:
    >>> from tersa.models.zoo import build
    >>> frozen = freeze(build("tfc", (1, 2, 2), 2).eval())
    >>> [type(layer).__name__ for layer in frozen][:5], sorted(set(frozen[2].weight.flatten().tolist()))
    (['Pixels', 'Flatten', 'Linear', 'Levels', 'Linear'], [-1.0, 1.0])
"""

from __future__ import annotations

import copy
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.binary.program import Floats
from tersa.binary.thresholds import ALWAYS, NEVER, half_lines
from tersa.errors import ModelError, UsageError
from tersa.export.artefact import Header
from tersa.export.lines import line
from tersa.models.bresnet import BinaryBlock
from tersa.models.lowbit import LowBitNetwork
from tersa.quant.layers import (
    FLOAT,
    IntegerBatchNorm1d,
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    SumPool2d,
    WeightBits,
)
from tersa.quant.steps import EXACT, steps, thresholds
from tersa.quant.subsidiary import without_masked
from tersa.quant.xnor import Xnor

Layer = QuantConv2d | QuantLinear
Norm = IntegerBatchNorm1d | IntegerBatchNorm2d


class Pixels(nn.Module):
    """Pixels in 0..1 to odd integers of b bits.

    Args:
        bits: b, 1 to 8.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Levels shaped like x."""
        if self.bits == 1:
            return torch.where(x >= 0.5, 1.0, -1.0)
        n = steps(self.bits)
        return 2 * torch.clamp(torch.round(x * n), 0, n) - n  # at one half, even is up


class Affine(nn.Module):
    """x factor ... + shift per channel, one float32 operation after the other.

    Args:
        factors: (C,) each.
        shift: (C,).
        flat: for (N, C), not (N, C, H, W).
    """

    shift: Tensor

    def __init__(self, factors: list[Floats], shift: Floats, *, flat: bool) -> None:
        super().__init__()
        shape = (1, -1) if flat else (1, -1, 1, 1)
        self.count = len(factors)
        for place, factor in enumerate(factors):
            self.register_buffer(f"factor{place}", torch.from_numpy(factor).view(shape))
        self.register_buffer("shift", torch.from_numpy(shift).view(shape))

    def factors(self) -> list[Tensor]:
        """In the order in which they are multiplied."""
        return [self.get_buffer(f"factor{place}") for place in range(self.count)]

    def forward(self, x: Tensor) -> Tensor:
        """Shaped like x."""
        for factor in self.factors():
            x = x * factor
        return x + self.shift


class Levels(nn.Module):
    """Odd integers of k bits; see the head of this file.

    Args:
        bits: k.
        half_even: round to the nearest integer, where the sums keep away from ties; else down.
    """

    def __init__(self, bits: int, *, half_even: bool) -> None:
        super().__init__()
        self.bits, self.half_even = bits, half_even

    def forward(self, x: Tensor) -> Tensor:
        """Levels shaped like x."""
        if self.bits == 1:
            return torch.where(x >= 0, 1.0, -1.0)
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        x = torch.clamp(x, low, high)
        return 2 * (torch.round(x) if self.half_even else torch.floor(x)) + 1


class Conv2d(nn.Conv2d):
    """A convolution by levels; `bits` of its weights, `FLOAT` for float ones."""

    bits: WeightBits = FLOAT


class Linear(nn.Linear):
    """A fully connected layer by levels; `bits` of its weights, `FLOAT` for float ones."""

    bits: WeightBits = FLOAT


def is_low_bit(module: nn.Module) -> bool:
    """Whether the network has a low-bit layer."""
    return any(isinstance(part, QuantConv2d | QuantLinear) for part in module.modules())


def reads_pixels(frozen: nn.Sequential) -> bool:
    """Whether it takes pixels in 0..1; else normalised ones."""
    return isinstance(frozen[0], Pixels)


def require_pixels(module: nn.Module, header: Header) -> None:
    """Refuse a network whose first layer was settled for another normalisation than the header's.

    Raises:
        ModelError: its mean or deviation is another.
    """
    for part in module.modules():
        if isinstance(part, PixelInput) and part.bits != FLOAT:
            own = (part.mean.tolist(), part.std.tolist())
            if not all(np.allclose(a, b) for a, b in zip(own, (header.mean, header.std), strict=True)):
                raise ModelError(
                    f"the network takes pixels normalised by {own[0]}, {own[1]}, the data by "
                    f"{list(header.mean)}, {list(header.std)}; train it on these data"
                )


def freeze(module: nn.Module) -> nn.Sequential:
    """The frozen form of a low-bit network in evaluation mode, layer after layer.

    A `BinaryBlock` and an `Xnor` stay one, with frozen parts. Masked channels are removed where that changes
    no output, else their masks stay. Layers that are no low-bit ones are copied.

    Raises:
        ModelError: the network has no low-bit layer, or has some inside a module that is not known.
    """
    if not is_low_bit(module):
        raise ModelError("the network has only float layers: there are no low-bit weights to freeze")
    with suppress(UsageError):
        module = without_masked(module)
    with torch.no_grad():
        return nn.Sequential(*_frozen(_flat(module))).eval().requires_grad_(False)


def _flat(module: nn.Module) -> list[nn.Module]:
    """Layers in the order in which they run."""
    if isinstance(module, LowBitNetwork):
        features = _flat(module.features)
        ends_flat = any(isinstance(layer, nn.Flatten | SumPool2d) for layer in features)
        return [*features, *([] if ends_flat else [nn.Flatten()]), *_flat(module.classifier)]
    if type(module) is nn.Sequential:
        return [layer for part in module for layer in _flat(part)]
    return [module]


def _frozen(layers: list[nn.Module], *, integer: bool = False) -> list[nn.Module]:
    """Frozen layers.

    Args:
        layers: in order.
        integer: whether integers come in.
    """
    done: list[nn.Module] = []
    while layers:
        layer, used = layers[0], 1
        match layer:
            case PixelInput():
                integer = layer.bits != FLOAT
                done += [Pixels(layer.bits)] if integer else []
            case QuantConv2d() | QuantLinear() | SumPool2d():
                made, used, integer = _summed(layers, integer)
                done += made
            case IntegerBatchNorm1d() | IntegerBatchNorm2d():
                done.append(_affine(layer, None))
                integer = False
            case QuantActivation():
                done += _levels(layer)
                integer = layer.bits != FLOAT
            case BinaryBlock():
                done.append(_block(layer))
                integer = False
            case Xnor():
                done.append(_magnified(layer))
                integer = False
            case nn.Identity() | nn.Dropout():
                pass
            case _ if is_low_bit(layer):
                raise ModelError(
                    f"{type(layer).__name__} holds low-bit layers in an order that is not known; put them "
                    "into an nn.Sequential, a BinaryBlock or an Xnor"
                )
            case _:
                done.append(copy.deepcopy(layer))
        layers = layers[used:]
    return done


def _summed(layers: list[nn.Module], integer: bool) -> tuple[list[nn.Module], int, bool]:
    """A layer that sums, with the normalisation and activation behind it where they become one step.

    Returns:
        Frozen layers, how many layers they stand for, and whether integers come out.
    """
    layer = layers[0]
    assert isinstance(layer, QuantConv2d | QuantLinear | SumPool2d)
    norm, activation = (layers[place] if len(layers) > place else None for place in (1, 2))
    alpha = None
    if isinstance(layer, SumPool2d):
        bound = EXACT  # sums over a map stay far below
    else:
        bound = layer.largest_sum
        factor = layer.alpha()
        alpha = None if factor is None else _array(factor)
    bound = bound if integer else 0
    if not isinstance(norm, Norm):
        scaled = (
            []
            if alpha is None
            else [Affine([alpha], np.zeros_like(alpha), flat=isinstance(layer, QuantLinear))]
        )
        return [_product(layer), *scaled], 1, bool(bound) and alpha is None
    if isinstance(activation, QuantActivation) and activation.bits != FLOAT and 0 < bound <= EXACT:
        scale, shift = (_array(each) for each in norm.scale_shift())
        made = _step(layer, norm, (scale, shift, alpha), bound, activation.bits)
        if made is not None:
            return made, 3, True
    return [_product(layer), _affine(norm, alpha)], 2, False


def _step(
    layer: Layer | SumPool2d, norm: Norm, affine: tuple[Floats, Floats, Floats | None], bound: int, bits: int
) -> list[nn.Module] | None:
    """Sums, and their levels; None where float32 has no numbers that give those."""
    flat = isinstance(norm, IntegerBatchNorm1d)
    if bits == 1:
        ends, falls = half_lines(*affine, bound, thresholds(1).numpy())
        edge = np.where(ends == ALWAYS, -bound, np.where(ends == NEVER, bound + 1, ends))[:, 0]
        sign, bias = np.where(falls, -1, 1).astype(np.float32), (0.5 - edge).astype(np.float32)
        if isinstance(layer, SumPool2d):
            return [_product(layer), Affine([sign], bias, flat=flat), Levels(1, half_even=False)]
        if bound < EXACT // 2:  # halves are exact up to there
            return [_product(layer, sign, bias), Levels(1, half_even=False)]
        return None
    found = line(*affine, bound, bits=bits)
    if found is None:
        return None
    return [_product(layer), Affine([found[0]], found[1], flat=flat), Levels(bits, half_even=True)]


def _product(layer: Layer | SumPool2d, sign: Floats | None = None, bias: Floats | None = None) -> nn.Module:
    """The layer with its levels as weights, times a sign per output, and a bias."""
    if isinstance(layer, SumPool2d):
        return SumPool2d()
    levels = layer.integer_weight().detach().cpu().float()
    if sign is not None:
        levels = levels * torch.from_numpy(sign).view(-1, *[1] * (levels.dim() - 1))
    if isinstance(layer, QuantLinear):
        made: Conv2d | Linear = Linear(layer.in_features, layer.out_features, bias=bias is not None)
    else:
        size = (layer.kernel_size[0], layer.kernel_size[1])
        how = {"stride": layer.stride, "padding": layer.padding, "bias": bias is not None}
        made = Conv2d(layer.in_channels, layer.out_channels, size, **how)  # pyright: ignore[reportArgumentType]
    made.weight.copy_(levels)
    made.bits = layer.form.bits
    if bias is not None:
        assert made.bias is not None
        made.bias.copy_(torch.from_numpy(bias))
    return made


def _affine(norm: Norm, alpha: Floats | None) -> Affine:
    scale, shift = (_array(each) for each in norm.scale_shift())
    factors = [scale] if alpha is None else [alpha, scale]
    return Affine(factors, shift, flat=isinstance(norm, IntegerBatchNorm1d))


def _levels(layer: QuantActivation) -> list[nn.Module]:
    """Levels of real values: floor(x n / 2) is the number of thresholds that x reaches, less 2^(k-1)."""
    if layer.bits == FLOAT:
        return [nn.ReLU()]
    if layer.bits == 1:
        return [Levels(1, half_even=False)]
    return [Scale(steps(layer.bits) / 2), Levels(layer.bits, half_even=False)]


class Scale(nn.Module):
    """x times one number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Shaped like x."""
        return x * self.factor


class Block(nn.Module):
    """A frozen `BinaryBlock`: shortcut + main(x).

    Args:
        main: levels, convolution and normalisation.
        pool: window of the shortcut's mean, 1 for none.
        copies: how often the shortcut's channels are repeated.
    """

    def __init__(self, main: nn.Sequential, pool: int, copies: int) -> None:
        super().__init__()
        self.main, self.pool, self.copies = main, pool, copies

    def forward(self, x: Tensor) -> Tensor:
        """Real values, as the `BinaryBlock` gives them."""
        shortcut = x
        if self.pool > 1:
            shortcut = F.avg_pool2d(x, self.pool, ceil_mode=True, count_include_pad=False)
        if self.copies > 1:
            shortcut = torch.cat([shortcut] * self.copies, 1)
        return shortcut + self.main(x)


class Magnified(nn.Module):
    """A frozen `Xnor`: main(x) K, with K the inputs' mean magnitude.

    Args:
        main: levels, product and alpha.
        layer: whose inputs K is of.
    """

    area: Tensor | None

    def __init__(self, main: nn.Sequential, layer: Layer) -> None:
        super().__init__()
        self.main = main
        area, self.stride, self.padding = None, (1, 1), (0, 0)
        if isinstance(layer, QuantConv2d):
            height, width = layer.kernel_size
            area = torch.full((1, 1, height, width), 1.0 / (height * width))
            self.stride, self.padding = layer.stride, layer.padding
        self.register_buffer("area", area)

    def forward(self, x: Tensor) -> Tensor:
        """Real values, as the `Xnor` gives them."""
        size = x.abs().mean(1, keepdim=True)
        if self.area is not None:
            size = F.conv2d(size, self.area, None, self.stride, self.padding)
        return self.main(x) * size


def _magnified(layer: Xnor) -> Magnified:
    return Magnified(nn.Sequential(*_frozen([layer.activation, layer.layer])), layer.layer)


def _block(block: BinaryBlock) -> Block:
    main = nn.Sequential(*_frozen([block.activation, block.conv, block.norm]))
    size = block.pool.kernel_size if isinstance(block.pool, nn.AvgPool2d) else 1
    return Block(main, size if isinstance(size, int) else size[0], block.copies)


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().float().numpy(), np.float32)
