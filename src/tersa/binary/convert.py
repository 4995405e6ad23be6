"""A trained low-bit network as a packed program.

The modules are walked in the order in which they compute: nested `nn.Sequential`s, `LowBitNetwork` (features,
flattening, classifier) and `BinaryBlock`. Normalisation and activation behind a layer of integers become
integer thresholds (`thresholds.half_lines`), so do a sum over the map's; behind anything else they stay what
they are, in float32. What is not known is refused with its name: nothing is approximated.

    QuantConv2d, QuantLinear     Convolution, or FloatConvolution where weights or inputs are floats
    IntegerBatchNorm, alpha      folded into Threshold, or Affine
    QuantActivation              Threshold or Levels; 32 bits: Relu
    MaxPool2d, SumPool2d         MaxPool, SumPool
    BinaryBlock                  Levels, Convolution, Affine, AveragePool, Repeat, Add

Example:
    >>> from torch import nn
    >>> from tersa.quant.layers import IntegerBatchNorm1d, PixelInput, QuantLinear
    >>> network = nn.Sequential(PixelInput(8, 1), nn.Flatten(), QuantLinear(4, 3, input_bits=8))
    >>> program = convert(network.eval(), ("a", "b", "c"), (1, 2, 2), (0.0,), (1.0,))
    >>> [type(one).__name__ for one in program.operations], program.precision
    (['Pixels', 'Convolution', 'Affine'], '1/8 (W/A), input 8')
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from tersa.binary.program import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    FloatConvolution,
    FloatPixels,
    Floats,
    Levels,
    MaxPool,
    Operation,
    Pixels,
    Program,
    Relu,
    Repeat,
    Shape,
    SumPool,
    Threshold,
    Value,
    Weights,
)
from tersa.binary.thresholds import half_lines
from tersa.errors import ModelError, UsageError
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
)
from tersa.quant.steps import thresholds
from tersa.quant.subsidiary import without_masked

KNOWN = (
    "PixelInput, QuantConv2d, QuantLinear, IntegerBatchNorm1d and 2d, QuantActivation, SumPool2d, MaxPool2d, "
    "Flatten, Identity, BinaryBlock"
)
NORM = IntegerBatchNorm1d | IntegerBatchNorm2d
LAYER = QuantConv2d | QuantLinear
Named = tuple[str, nn.Module]


def is_low_bit(network: nn.Module) -> bool:
    """Whether a network has layers that a packed program is for."""
    return any(isinstance(module, LAYER | PixelInput) for module in network.modules())


def convert(
    network: nn.Module,
    classes: tuple[str, ...],
    shape: Shape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Program:
    """The program of a network.

    Args:
        network: takes images that are normalised by `mean` and `std`; read as in eval mode.
        classes: names, in the order of the logits.
        shape: (C, H, W) of one image.
        mean: per channel of pixels in 0..1.
        std: per channel.

    Raises:
        ModelError: a layer that has no place in a program, by name; a value that is not finite; masks that
            cannot be removed.
    """
    if not is_low_bit(network):
        raise ModelError(
            "a packed program needs low-bit layers and the network has none; "
            "train one that has, such as bvgg16 or cnv+w1a1"
        )
    try:
        network = without_masked(network)
    except UsageError as error:
        raise ModelError(f"a packed program holds no masks: {error}") from None
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            builder = _Builder(classes, shape, mean, std)
            modules = list(_in_order(network, ""))
            while modules:
                modules = builder.take(modules)
            return Program(classes, shape, tuple(builder.operations), describe(network))
    finally:
        network.train(training)


def describe(network: nn.Module) -> str:
    """Bits of weights and activations in words: `1/1 (W/A), input 8, first 1/8, last 1/1`."""
    layers = [module for module in network.modules() if isinstance(module, LAYER)]
    words = [f"{'t' if one.form.bits == 'ternary' else one.form.bits}/{one.input_bits}" for one in layers]
    pixels = [str(module.bits) for module in network.modules() if isinstance(module, PixelInput)]
    inner = list(dict.fromkeys(words[1:-1] or words[:1]))
    text = f"{' and '.join(inner)} (W/A), input {', '.join(pixels) or FLOAT}"
    return text if len(words) < 2 else f"{text}, first {words[0]}, last {words[-1]}"


def _in_order(module: nn.Module, name: str) -> Iterator[Named]:
    """Modules that compute, in the order in which they do."""
    if isinstance(module, nn.Sequential):
        for key, child in module.named_children():
            yield from _in_order(child, f"{name}.{key}" if name else key)
    elif isinstance(module, LowBitNetwork):
        yield from _in_order(module.features, "features")
        yield "flatten", nn.Flatten()
        yield from _in_order(module.classifier, "classifier")
    else:
        yield name, module


class _Builder:
    """Operations so far; the last one's value is what the next module reads."""

    def __init__(
        self, classes: tuple[str, ...], shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.classes, self.shape = classes, shape
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.operations: list[Operation] = []
        self.values: list[Value] = []
        self.current = -1

    def add(self, operation: Operation, value: Value) -> int:
        """Append an operation; its value becomes the current one."""
        self.operations.append(operation)
        self.values.append(value)
        self.current = len(self.operations) - 1
        return self.current

    @property
    def value(self) -> Value:
        """What the next module reads."""
        return self.values[self.current]

    def take(self, modules: list[Named]) -> list[Named]:
        """Convert the first module, with those behind it that it takes in; the rest is returned."""
        (name, module), rest = modules[0], modules[1:]
        if not self.operations and not isinstance(module, PixelInput):
            raise ModelError(f"layer '{name}' ({_kind(module)}) comes before PixelInput, which must be first")
        match module:
            case PixelInput():
                return self._pixels(module, name, rest)
            case QuantConv2d() | QuantLinear():
                return self._layer(module, name, rest)
            case SumPool2d():
                c, h, w = self.value.shape
                whole = self.value.kind == "codes"
                self.add(
                    SumPool(self.current),
                    Value("integers" if whole else "floats", (c, 1, 1), bound=self.value.bound * h * w),
                )
                return self._finish(rest, None) if whole else rest
            case IntegerBatchNorm1d() | IntegerBatchNorm2d():
                self._floats(name)
                self._affine(*_scale_shift(module), None)
            case QuantActivation():
                self._floats(name)
                if module.bits == FLOAT:
                    self.add(Relu(self.current), self.value)
                else:
                    self._levels(module.bits)
            case nn.MaxPool2d():
                self._max_pool(module, name)
            case BinaryBlock():
                self._block(module, name)
            case nn.Flatten() | nn.Identity() | nn.Dropout():
                pass
            case _:
                raise ModelError(
                    f"layer '{name}' ({_kind(module)}) has no place in a packed program; known: {KNOWN}"
                )
        return rest

    def _pixels(self, module: PixelInput, name: str, rest: list[Named]) -> list[Named]:
        if self.operations:
            raise ModelError(f"layer '{name}' is a second PixelInput; a program reads its pixels once")
        if module.bits == FLOAT:
            self.add(FloatPixels(self.shape, self.mean, self.std), Value("floats", self.shape))
            return rest
        if not (_same(module.mean, self.mean) and _same(module.std, self.std)):
            raise ModelError(
                f"layer '{name}' takes pixels normalised by {module.mean.tolist()}, {module.std.tolist()}, "
                f"the data by {self.mean.tolist()}, {self.std.tolist()}; train the network on these data"
            )
        shape = self.shape
        if rest and isinstance(rest[0][1], nn.Flatten):
            shape, rest = (math.prod(shape), 1, 1), rest[1:]
        self.add(Pixels(module.bits, shape), Value("codes", shape, module.bits, (1 << module.bits) - 1))
        return rest

    def _layer(self, module: LAYER, name: str, rest: list[Named]) -> list[Named]:
        weights = module.integer_weight().detach().float()  # (O, C, kh, kw) or (O, F)
        c, h, w = self.value.shape
        stride, padding = 1, 0
        if isinstance(module, QuantLinear):
            if module.in_features != c * h * w:
                raise ModelError(f"layer '{name}' takes {module.in_features} values, {c * h * w} come in")
            weights = weights.reshape(-1, c, h, w)
        else:
            stride, padding = _square(module, name)
        taps = np.ascontiguousarray(weights.permute(0, 2, 3, 1).numpy())  # (O, kh, kw, C)
        alpha = None if (found := module.alpha()) is None else _numbers(found)
        outputs, kh, kw, _ = taps.shape
        sides = ((side + 2 * padding - kernel) // stride + 1 for side, kernel in ((h, kh), (w, kw)))
        shape = (outputs, *sides)
        packed = _packed(taps, module.form.bits)
        if packed is None or self.value.kind == "floats":
            kept = taps if packed is None else packed
            self.add(FloatConvolution(self.current, kept, stride, padding), Value("floats", shape))
        else:
            bound = taps[0].size * packed.largest * self.value.bound
            self.add(Convolution(self.current, packed, stride, padding), Value("sums", shape, bound=bound))
        return self._finish(rest, alpha)

    def _finish(self, rest: list[Named], alpha: Floats | None) -> list[Named]:
        """Normalisation and activation behind sums, as far as they are there."""
        norm = rest[0][1] if rest and isinstance(rest[0][1], NORM) else None
        rest = rest[1:] if norm is not None else rest
        summed = self.value.kind in ("sums", "integers")
        activation = rest[0][1] if rest and isinstance(rest[0][1], QuantActivation) else None
        if summed and activation is not None and activation.bits != FLOAT:
            scale, shift = _scale_shift(norm) if norm is not None else self._neutral()
            self._threshold(scale, shift, alpha, activation.bits)
            return rest[1:]
        if norm is None and alpha is None and self.value.kind != "sums":
            return rest
        self._affine(*(_scale_shift(norm) if norm is not None else self._neutral()), alpha)
        return rest

    def _neutral(self) -> tuple[Floats, Floats]:
        c = self.value.shape[0]
        return np.ones(c, np.float32), np.zeros(c, np.float32)

    def _affine(self, scale: Floats, shift: Floats, alpha: Floats | None) -> None:
        self.add(Affine(self.current, scale, shift, alpha), Value("floats", self.value.shape))

    def _threshold(self, scale: Floats, shift: Floats, alpha: Floats | None, bits: int) -> None:
        """A Threshold; channels whose line falls are turned round in the layer before."""
        ends, falls = half_lines(scale, shift, alpha, self.value.bound, _numbers(thresholds(bits)))
        layer = self.operations[self.current]
        made = Value("codes", self.value.shape, bits, (1 << bits) - 1)
        if falls.any() and isinstance(layer, Convolution):
            turned = layer.weights.integers() * np.where(falls, -1, 1)[:, None, None, None]
            weights = Weights.of(turned, layer.weights.bits)
            self.operations[self.current] = Convolution(layer.source, weights, layer.stride, layer.padding)
        elif falls.any():
            assert isinstance(layer, SumPool)
            self.operations[self.current] = SumPool(layer.source, falls.astype(np.uint8))
        self.add(Threshold(self.current, ends), made)

    def _levels(self, bits: int) -> None:
        made = Value("codes", self.value.shape, bits, (1 << bits) - 1)
        self.add(Levels(self.current, _numbers(thresholds(bits))), made)

    def _max_pool(self, module: nn.MaxPool2d, name: str) -> None:
        size, stride = _one(module.kernel_size), _one(module.stride)
        plain = _one(module.padding) == 0 and _one(module.dilation) == 1 and not module.ceil_mode
        if size is None or stride is None or not plain or self.value.kind not in ("codes", "floats"):
            raise ModelError(
                f"layer '{name}' ({module}) must pool square windows of activations without padding"
            )
        c, h, w = self.value.shape
        shape = (c, (h - size) // stride + 1, (w - size) // stride + 1)
        made = Value(self.value.kind, shape, self.value.bits, self.value.bound)
        self.add(MaxPool(self.current, size, stride), made)

    def _block(self, block: BinaryBlock, name: str) -> None:
        self._floats(name)
        start, before = self.current, self.value
        modules: list[Named] = [
            (f"{name}.activation", block.activation),
            (f"{name}.conv", block.conv),
            (f"{name}.norm", block.norm),
        ]
        while modules:
            modules = self.take(modules)
        convolved, self.current = self.current, start
        c, h, w = before.shape
        if isinstance(block.pool, nn.AvgPool2d):
            size = _one(block.pool.kernel_size)
            whole = size is not None and h % size == 0 and w % size == 0
            if (
                size is None
                or _one(block.pool.stride) != size
                or _one(block.pool.padding) != 0
                or not (block.pool.ceil_mode or whole)
                or block.pool.divisor_override is not None
            ):
                raise ModelError(f"layer '{name}.pool' ({block.pool}) must average windows side by side")
            self.add(AveragePool(start, size), Value("floats", (c, -(-h // size), -(-w // size))))
        elif not isinstance(block.pool, nn.Identity):
            raise ModelError(f"layer '{name}.pool' ({_kind(block.pool)}) is neither AvgPool2d nor Identity")
        if block.copies > 1:
            c, h, w = self.value.shape
            self.add(Repeat(self.current, block.copies), Value("floats", (c * block.copies, h, w)))
        self.add(Add(self.current, convolved), self.values[convolved])

    def _floats(self, name: str) -> None:
        if self.value.kind == "floats":
            return
        if self.value.kind == "integers":
            self._affine(*self._neutral(), None)
            return
        raise ModelError(f"layer '{name}' reads {self.value.kind} where a packed program has floats")


def _packed(taps: Floats, bits: int | str) -> Weights | None:
    """Integer weights in planes of bits, or None where the weights are floats."""
    if bits == FLOAT:
        return None
    return Weights.of(taps.astype(np.int32), 0 if isinstance(bits, str) else bits)


def _scale_shift(norm: NORM) -> tuple[Floats, Floats]:
    scale, shift = norm.scale_shift()
    return _numbers(scale), _numbers(shift)


def _numbers(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _same(tensor: Tensor, wanted: Floats) -> bool:
    return bool(np.array_equal(_numbers(tensor), wanted))


def _square(module: QuantConv2d, name: str) -> tuple[int, int]:
    stride, padding = _one(module.stride), _one(module.padding)
    plain = module.groups == 1 and _one(module.dilation) == 1 and module.padding_mode == "zeros"
    if stride is None or padding is None or not plain or module.bias is not None:
        raise ModelError(
            f"layer '{name}' ({module}) must be a plain convolution: one group, no bias, the same stride and "
            "padding both ways"
        )
    return stride, padding


def _one(size: object) -> int | None:
    """A size that holds both ways, or None."""
    if isinstance(size, int):
        return size
    if isinstance(size, tuple) and len(set(size)) == 1 and isinstance(size[0], int):
        return size[0]
    return None


def _kind(module: nn.Module) -> str:
    return type(module).__name__
