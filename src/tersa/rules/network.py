"""The networks that rules teach: a line of layers over a stack of runs.

A learning rule needs to take a network apart: what enters a layer, what leaves it, what is sent back. So the
networks here are not modules but lines of `Layer`s, and their weights are tensors with a leading axis R,
one slice per run; a single run is R = 1. For layer i

    z_i = gain_i (W_i u_i + b_i),   h_i = pool(relu(z_i)),   u_{i+1} = h_i (flattened before a dense layer)

and the last layer has neither relu nor pool: h_n = z_n are the logits. `gain` is 1 unless `Signals` says
otherwise (an analogue amplifier behind a crossbar). Hidden outputs and gradients can be given few bits.

`affine` sends errors back through the weights, or through other, fixed weights (feedback alignment).

Axes: R runs, N batch, I inputs, O outputs, C channels, K classes. Inputs of the first layer have no axis R
while all runs share a batch, and become one matrix product for the whole stack.

Example:
    >>> network = network_of("mlp:4", (1, 8, 8), 10)
    >>> weights = network.initial([1, 2, 3])
    >>> network.logits(weights, torch.zeros(5, 1, 8, 8)).shape
    torch.Size([3, 5, 10])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersa.errors import UsageError
from tersa.models.elman import Elman
from tersa.models.family import Shape
from tersa.models.zoo import build
from tersa.rules.products import product
from tersa.rules.recurrent import elman


@dataclass(frozen=True)
class Pair:
    """Weight and bias of one layer, for a stack of runs.

    Attributes:
        weight: (R, O, I), or (R, O, C, k, k) of a convolution.
        bias: (R, O).
    """

    weight: Tensor
    bias: Tensor


Weights = Sequence[Pair]
"""One `Pair` per layer, first to last."""


@dataclass(frozen=True)
class Layer:
    """What a layer is; its numbers are in a `Pair`.

    Attributes:
        name: of the module it came from (`fc1`, `conv2`).
        inputs: I, or C of a convolution.
        outputs: O.
        kernel: side of a convolution's kernel; 0 for a dense layer.
        padding: zeros around its input.
        stride: of a convolution.
        relu: its output goes through ReLU.
        pool: side of the max pooling behind it; 1 for none.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 0
    padding: int = 0
    stride: int = 1
    relu: bool = True
    pool: int = 1

    @property
    def fan_in(self) -> int:
        """Values that enter one output."""
        return self.inputs * max(self.kernel, 1) ** 2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of one run: (O, I), or (O, C, k, k)."""
        return (self.outputs, self.inputs, *((self.kernel, self.kernel) if self.kernel else ()))


@dataclass(frozen=True)
class Signals:
    """What happens to the values between layers; the default is nothing.

    Attributes:
        gain: (R, L) factors of each layer's output, or None for 1.
        hidden: called on each hidden output h (R, N, ...), to quantise it; it passes gradients through.
        backward: called on each gradient of a layer's z, on its way back.
        read: called as read(i, z, u) on each layer's output before the gain: noise of reading a crossbar.
    """

    gain: Tensor | None = None
    hidden: Callable[[Tensor], Tensor] | None = None
    backward: Callable[[Tensor], Tensor] | None = None
    read: Callable[[int, Tensor, Tensor], Tensor] | None = None


class _Dense(torch.autograd.Function):
    """z = u W^T + b for a stack; the error goes back through `feedback` where it is given, else through W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, weight: Tensor, bias: Tensor, feedback: Tensor | None) -> Tensor:
        if u.dim() == 2:  # one batch for all runs: one product
            runs, outputs, inputs = weight.shape
            z = product(u, weight.reshape(-1, inputs), bias.reshape(-1))  # (N, R*O)
            return z.view(len(u), runs, outputs).transpose(0, 1)  # (R, N, O)
        return torch.baddbmm(bias.unsqueeze(1), u, weight.mT)  # (R, N, O)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        u, weight, _, feedback = inputs
        ctx.save_for_backward(u, weight if feedback is None else feedback)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (g,) = grads  # (R, N, O)
        u, back = ctx.saved_tensors
        to_u = to_weight = to_bias = None
        shared = u.dim() == 2
        if ctx.needs_input_grad[1]:
            if shared:
                runs, count, outputs = g.shape
                wide = g.transpose(1, 2).reshape(runs * outputs, count)  # (R*O, N)
                to_weight = product(wide, u.T).view(runs, outputs, -1)
            else:
                to_weight = g.mT @ u  # (R, O, I)
        if ctx.needs_input_grad[2]:
            to_bias = g.sum(1)  # (R, O)
        if ctx.needs_input_grad[0]:
            to_u = (g @ back).sum(0) if shared else g @ back  # (R, N, I)
        return to_u, to_weight, to_bias, None


class _Conv(torch.autograd.Function):
    """z = conv(u, W) + b for a stack, one convolution per run; the error goes back as in `_Dense`."""

    generate_vmap_rule = False  # runs are looped over: grouped convolutions are slower on a CPU

    @staticmethod
    def forward(
        u: Tensor, weight: Tensor, bias: Tensor, feedback: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        each = u if u.dim() == 5 else u.expand(len(weight), *u.shape)
        rows = [F.conv2d(x, w, b, stride, padding) for x, w, b in zip(each, weight, bias, strict=True)]
        return torch.stack(rows) if len(rows) > 1 else rows[0].unsqueeze(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u, weight, _, feedback, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(u, weight, weight if feedback is None else feedback)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        u, weight, back = ctx.saved_tensors
        shared = u.dim() == 4
        found: list[tuple[Tensor | None, Tensor | None, Tensor | None]] = []
        for run in range(len(weight)):
            x = u if shared else u[run]
            found.append(
                torch.ops.aten.convolution_backward(
                    g[run].contiguous(), x, back[run], [len(g[run][0])], [ctx.stride] * 2,
                    [ctx.padding] * 2, [1, 1], False, [0, 0], 1, list(ctx.needs_input_grad[:3]),
                )
            )  # fmt: skip
        columns = [_stacked(column) for column in zip(*found, strict=True)]
        to_u = columns[0]
        if shared and to_u is not None:
            to_u = to_u.sum(0)
        return to_u, columns[1], columns[2], None, None, None


def _stacked(column: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [entry for entry in column if entry is not None]
    return torch.stack(present) if present else None


class _Backward(torch.autograd.Function):
    """The identity whose gradient goes through a function."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grads[0]), None


def affine(layer: Layer, pair: Pair, u: Tensor, feedback: Tensor | None = None) -> Tensor:
    """z = W u + b of one layer, without its gain.

    Args:
        layer: what it is.
        pair: its numbers.
        u: (N, ...) shared by all runs, or (R, N, ...); images are flattened for a dense layer.
        feedback: shaped like the weight: the error goes back through it, not through the weight.

    Returns:
        (R, N, O), or (R, N, O, H, W).
    """
    if layer.kernel:
        found = _Conv.apply(u, pair.weight, pair.bias, feedback, layer.stride, layer.padding)
    else:
        flat = u.flatten(-3) if u.dim() > 3 else u
        found = _Dense.apply(flat, pair.weight, pair.bias, feedback)
    assert isinstance(found, Tensor)
    return found


@dataclass(frozen=True)
class Network:
    """A line of layers.

    Attributes:
        spec: its name in the zoo (`mlp:100x100`).
        layers: first to last; the last one gives the logits.
        shape: (C, H, W) of one image.
        classes: K.
        signals: what happens between layers.
        recurrent: not a line: the three layers of Elman's network over the rows of an image
            (`tersa.rules.recurrent`); it has logits, but no layer-by-layer `run`.
    """

    spec: str
    layers: tuple[Layer, ...]
    shape: Shape
    classes: int
    signals: Signals = field(default=Signals(), compare=False)
    recurrent: bool = False

    @property
    def dense(self) -> bool:
        """Every layer is fully connected."""
        return not any(layer.kernel for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Weights and biases of one run."""
        return sum(math.prod(layer.weight_shape) + layer.outputs for layer in self.layers)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one image's h_i: (C, H, W) behind a convolution and its pooling, (O,) behind a dense layer."""
        _, rows, columns = self.shape
        found: list[tuple[int, ...]] = []
        for layer in self.layers:
            if layer.kernel:
                rows, columns = (
                    ((side + 2 * layer.padding - layer.kernel) // layer.stride + 1) // layer.pool
                    for side in (rows, columns)
                )
            found.append((layer.outputs, rows, columns) if layer.kernel else (layer.outputs,))
        return tuple(found)

    def with_signals(self, signals: Signals) -> Network:
        """The same line with other values between its layers."""
        return replace(self, signals=signals)

    def initial(self, seeds: Sequence[int]) -> list[Pair]:
        """Weights of one run per seed, equal to those of `tersa.models.zoo.build` with that seed."""
        modules = [build(self.spec, self.shape, self.classes, seed=seed) for seed in seeds]
        return [
            Pair(
                torch.stack([module.get_parameter(f"{layer.name}.weight").detach() for module in modules]),
                torch.stack([module.get_parameter(f"{layer.name}.bias").detach() for module in modules]),
            )
            for layer in self.layers
        ]

    def enter(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) or (R, N, C, H, W) as the first layer takes them."""
        return x if self.layers[0].kernel else x.flatten(-3)

    def linear(self, i: int, pair: Pair, u: Tensor, feedback: Tensor | None = None) -> Tensor:
        """z_i of layer i: affine map, reading noise, gain."""
        z = affine(self.layers[i], pair, u, feedback)
        signals = self.signals
        if signals.read is not None:
            z = signals.read(i, z, u)
        if signals.gain is not None:
            z = z * signals.gain[:, i].reshape(-1, *[1] * (z.dim() - 1))
        if signals.backward is not None and z.requires_grad:
            z = _Backward.apply(z, signals.backward)
            assert isinstance(z, Tensor)
        return z

    def act(self, i: int, z: Tensor) -> Tensor:
        """h_i from z_i: ReLU, pooling, quantisation of hidden values; nothing for the last layer's logits."""
        layer = self.layers[i]
        h = z.relu() if layer.relu else z
        if layer.pool > 1:
            runs, count = h.shape[:2]
            h = F.max_pool2d(h.flatten(0, 1), layer.pool).unflatten(0, (runs, count))
        if self.signals.hidden is not None and i < len(self.layers) - 1:
            h = self.signals.hidden(h)
        return h

    def layer(self, i: int, pair: Pair, u: Tensor, feedback: Tensor | None = None) -> Tensor:
        """h_i of an input u_i."""
        return self.act(i, self.linear(i, pair, u, feedback))

    def run(
        self, weights: Weights, x: Tensor, feedback: Sequence[Tensor | None] | None = None
    ) -> list[Tensor]:
        """Outputs h_1 .. h_n of all layers, the logits (R, N, K) last.

        Args:
            weights: one pair per layer.
            x: images, (N, C, H, W) or (R, N, C, H, W).
            feedback: for each layer the tensor that its error goes back through, or None for its weight.
        """
        assert not self.recurrent, "line_only keeps recurrent networks from rules that run layer by layer"
        h = self.enter(x)
        found: list[Tensor] = []
        for i, pair in enumerate(weights):
            h = self.layer(i, pair, h, None if feedback is None else feedback[i])
            found.append(h)
        return found

    def apart(self, weights: Weights, x: Tensor) -> list[Tensor]:
        """As `run`, but no gradient passes from one layer to another: each layer's input is detached."""
        h = self.enter(x)
        found: list[Tensor] = []
        for i, pair in enumerate(weights):
            h = self.layer(i, pair, h.detach())
            found.append(h)
        return found

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits (R, N, K)."""
        if self.recurrent:
            return elman(lambda i, u: self.linear(i, weights[i], u), x, self.signals.hidden)
        return self.run(weights, x)[-1]


def network_of(spec: str, shape: Shape, classes: int) -> Network:
    """The line of layers of a zoo network.

    Raises:
        UsageError: a network that is not a line of convolutions, poolings and dense layers with ReLU.

    >>> [layer.name for layer in network_of("lenet", (1, 28, 28), 10).layers]
    ['conv1', 'conv2', 'fc1', 'fc2']
    """
    with torch.device("meta"):
        module = build(spec, shape, classes)
    layers: list[Layer] = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            layers.append(Layer(name, child.in_features, child.out_features, relu=False))
        elif isinstance(child, nn.Conv2d):
            if child.groups != 1 or child.bias is None or child.dilation != (1, 1):
                raise _not_a_line(spec, f"{name} is a grouped, dilated or bias-free convolution")
            side, padding = child.kernel_size[0], child.padding[0]
            assert isinstance(padding, int)
            layers.append(
                Layer(name, child.in_channels, child.out_channels, side, padding, child.stride[0], relu=False)
            )
        elif isinstance(child, nn.ReLU):
            layers[-1] = replace(layers[-1], relu=True)
        elif isinstance(child, nn.MaxPool2d):
            assert isinstance(child.kernel_size, int)
            layers[-1] = replace(layers[-1], pool=child.kernel_size)
        elif child is not module and not isinstance(child, (nn.Flatten, nn.Identity)):
            raise _not_a_line(spec, f"{name} is {type(child).__name__}")
    return Network(spec, tuple(layers), shape, classes, recurrent=isinstance(module, Elman))


def line_only(rule: str, network: Network) -> None:
    """Refuse a recurrent network, for rules that take a network apart layer by layer.

    Raises:
        UsageError: the network is recurrent.
    """
    if network.recurrent:
        raise UsageError(
            f"rule '{rule}' teaches layer by layer, model '{network.spec}' is recurrent; "
            "choose --rule bp, or a line of layers such as mlp:100x100"
        )


def dense_line(rule: str, network: Network) -> None:
    """Refuse recurrent networks and convolutions, for rules whose formulas are about dense layers.

    Raises:
        UsageError: the network is recurrent or has a convolution.
    """
    line_only(rule, network)
    if not network.dense:
        raise UsageError(
            f"rule '{rule}' takes fully connected networks, model '{network.spec}' has convolutions; "
            "choose a network such as mlp:100x100, or --rule bp"
        )


def _not_a_line(spec: str, why: str) -> UsageError:
    return UsageError(
        f"model '{spec}': {why}; learning rules take mlp, lenet, lenet5 and elman, other networks train with "
        "`tersa train` without --rule"
    )
