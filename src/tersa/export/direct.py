"""An artefact's graph run on arrays: each layer one matrix product, FP32, and INT8 products for a QDQ file.

A convolution gathers its windows, as many images at a time as `ROOM` holds; a group is one product. INT8
layers multiply uint8 by int8 and add exactly: as floats, whose products and sums of such integers are whole
numbers below 2^24 (float32) or 2^53 (float64). Sums are scaled in float, and everything between layers is
float, as in `c_direct`, of which this is the twin without a compiler. Nothing is fused or tuned: it is the
slow path of a target that is made for something else.

Example:
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from tersa.export.artefact import Header
    >>> from tersa.export.graph import read_graph
    >>> from tersa.export.onnx import export_onnx
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> header = Header(("dark", "bright"), (1, 2, 2), (0.5,), (0.25,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     direct = Direct(read_graph(export_onnx(network, header, Path(folder) / "tiny.onnx").path))
    >>> direct(np.zeros((3, 1, 2, 2), np.float32)).shape, dict(direct.layers)
    ((3, 2), {'fp32': 1})
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view

from tersa.errors import TargetError
from tersa.export.graph import (
    Array,
    Graph,
    Node,
    channel_values,
    outputs_first,
    read_linear,
    require_kinds,
    windows,
)

ROOM = 1 << 24
"""Most values of the windows that are gathered at once."""
WHOLE = {np.dtype(np.float32): 1 << 24, np.dtype(np.float64): 1 << 53}
"""Whole numbers up to here are exact."""
SAME = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
NAME = "packed"
"""The target that this is the slow path of, in refusals."""

Floats = npt.NDArray[np.float32]
Values = dict[str, Array]
Step = Callable[[Values], Array]


class Direct:
    """A network that can be called.

    Args:
        graph: of an artefact.

    Attributes:
        layers: convolutions and matrix products by precision.

    Raises:
        TargetError: an operator, or a form of one, that is not there.
    """

    def __init__(self, graph: Graph) -> None:
        require_kinds(graph, (*MAKERS, *SAME), NAME)
        self.graph = graph
        self.layers: Counter[str] = Counter()
        self.steps: list[tuple[Node, Step, tuple[str, ...]]] = []
        last = {name: place for place, node in enumerate(graph.nodes) for name in self._read(node)}
        for place, node in enumerate(graph.nodes):
            maker = MAKERS.get(node.kind, _same)
            done = tuple(name for name, at in last.items() if at == place and name != graph.output)
            self.steps.append((node, maker(self, node), done))

    def __call__(self, pixels: Floats) -> Floats:
        """Pixels (N, C, H, W) float32 in 0..1 to logits (N, K)."""
        values: Values = {self.graph.input: pixels}
        for node, step, done in self.steps:
            values[node.output] = step(values)
            for name in done:
                values.pop(name, None)
        return np.ascontiguousarray(values[self.graph.output], np.float32)

    def _read(self, node: Node) -> list[str]:
        """Tensors that a node reads, integers behind a layer's input among them."""
        forms = (self.graph.quantised.get(name) for name in node.inputs)
        return [*node.inputs, *(form.name for form in forms if form is not None)]

    def value(self, name: str) -> Callable[[Values], Array]:
        """A tensor when the time comes: stored, or computed before."""
        if name in self.graph.constants:
            stored = self.graph.constants[name]
            return lambda values: stored
        return lambda values: values[name]


def _same(net: Direct, node: Node) -> Step:
    shape = tuple(net.graph.shapes[node.output])
    return lambda values: values[node.inputs[0]].reshape(-1, *shape)


def _columns(
    x: Array, kernel: list[int], strides: list[int], pads: list[int], dilations: list[int], fill: float
) -> Array:
    """Windows of images (N, C, H, W) as a view, (N, C, OH, OW, kh, kw)."""
    top, left, bottom, right = pads
    if any(pads):
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    spread = tuple((size - 1) * gap + 1 for size, gap in zip(kernel, dilations, strict=True))
    seen = sliding_window_view(x, spread, axis=(2, 3))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return seen[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _conv(net: Direct, node: Node) -> Step:
    weight = net.graph.constant(node.inputs[1])
    shape = windows(node, weight)
    groups = int(node.attributes.get("group", 1))
    outputs, inside = weight.shape[0], int(np.prod(weight.shape[1:]))
    source, factors, finish = _product(net, node, weight.reshape(outputs, inside), outputs)
    grouped = factors.reshape(groups, outputs // groups, inside)
    factors = np.ascontiguousarray(grouped.transpose(0, 2, 1))  # (G, inside, O / G)

    def run(values: Values) -> Array:
        x = source(values)
        seen = _columns(x, *shape, 0.0)
        n, c, height, width = seen.shape[:4]
        made = np.empty((n, groups, height * width, outputs // groups), factors.dtype)
        each = max(1, ROOM // max(1, c * height * width * shape[0][0] * shape[0][1]))
        for start in range(0, n, each):
            part = seen[start : start + each]
            rows = part.reshape(len(part), groups, c // groups, height, width, *shape[0])
            rows = rows.transpose(0, 1, 3, 4, 2, 5, 6).reshape(len(part), groups, height * width, inside)
            made[start : start + each] = _times(rows, factors)
        logits = made.transpose(0, 1, 3, 2).reshape(n, outputs, height, width)
        return finish(logits, (1, outputs, 1, 1))

    return run


def _gemm(net: Direct, node: Node) -> Step:
    turned = read_linear(net.graph, node, NAME)
    source, factors, finish = _product(net, node, turned, turned.shape[0])
    across = np.ascontiguousarray(factors.T)
    return lambda values: finish(_times(source(values), across), (1, len(factors)))


def _times(a: Array, b: Array) -> Array:
    """Matrix product, by torch: its threads are those that a target sets."""
    return (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(b)).numpy()


def _product(
    net: Direct, node: Node, weight: Array, outputs: int
) -> tuple[Step, Array, Callable[[Array, tuple[int, ...]], Floats]]:
    """What a layer multiplies, by what (O, I), and what is done with the sums: in floats, or in integers."""
    shift = np.zeros(1, np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        given = net.graph.constant(node.inputs[2]).astype(np.float32).reshape(-1)
        shift = np.broadcast_to(given, (outputs,))
    forms = net.graph.integer(node)
    if forms is None:
        net.layers["fp32"] += 1
        read = net.value(node.inputs[0])
        return read, weight.astype(np.float32), lambda sums, wide: sums + _wide(shift, wide)
    net.layers["int8"] += 1
    data, form = forms
    integers = outputs_first(node, net.graph.constants[form.name]).reshape(outputs, -1)
    most = 255 * int(np.abs(integers.astype(np.int64)).sum(1).max(initial=0))
    exact = next(dtype for dtype, limit in WHOLE.items() if most < limit)
    zero = exact.type(int(data.zero[0]))
    scale = np.broadcast_to((form.scale * data.scale[0]).astype(np.float32), (outputs,))

    def read_integers(values: Values) -> Array:
        return values[data.name].astype(exact) - zero

    def scaled(sums: Array, wide: tuple[int, ...]) -> Floats:
        return sums.astype(np.float32) * _wide(scale, wide) + _wide(shift, wide)

    return read_integers, integers.astype(exact), scaled


def _wide(values: Floats, shape: tuple[int, ...]) -> Floats:
    return values if values.size == 1 else values.reshape(shape)


def _clip(net: Direct, node: Node) -> Step:
    bounds: list[Any] = [0.0, None]
    if node.kind == "Clip":
        names = [*node.inputs[1:], "", ""][:2]
        bounds = [float(net.graph.constant(name).reshape(-1)[0]) if name else None for name in names]
    read = net.value(node.inputs[0])
    return lambda values: np.clip(read(values), *bounds)


def _pool(net: Direct, node: Node) -> Step:
    shape, read = windows(node), net.value(node.inputs[0])
    if node.kind == "MaxPool":
        return lambda values: _columns(read(values), *shape, -np.inf).max(axis=(4, 5))
    whole = bool(node.attributes.get("count_include_pad", 0)) or not any(shape[2])

    def mean(values: Values) -> Array:
        x = read(values)
        sums = _columns(x, *shape, 0.0).sum(axis=(4, 5))
        count = shape[0][0] * shape[0][1]
        inside = count if whole else _columns(np.ones_like(x[:1, :1]), *shape, 0.0).sum(axis=(4, 5))
        return sums / np.float32(inside) if whole else sums / inside

    return mean


def _mean(net: Direct, node: Node) -> Step:
    shape = net.graph.shapes[node.inputs[0]]
    if node.kind == "ReduceMean":
        axes = node.attributes.get("axes")
        given = net.graph.constant(node.inputs[1]).tolist() if len(node.inputs) > 1 else axes
        if len(shape) != 3 or given is None or sorted(axis % 4 for axis in given) != [2, 3]:
            raise TargetError(f"{NAME}: a ReduceMean must be over height and width, not {given}")
    out, read = tuple(net.graph.shapes[node.output]), net.value(node.inputs[0])
    return lambda values: read(values).mean(axis=(2, 3)).reshape(-1, *out)


ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def _arithmetic(net: Direct, node: Node) -> Step:
    made = ARITHMETIC[node.kind]
    first, second = (net.value(name) for name in node.inputs)
    out = net.graph.shapes[node.output]
    for name in node.inputs:
        if name in net.graph.constants:
            channel_values(net.graph.constants[name].astype(np.float32), out[0], len(out))
    return lambda values: made(first(values), second(values)).astype(np.float32, copy=False)


def _normalise(net: Direct, node: Node) -> Step:
    gamma, beta, mean, variance = (net.graph.constant(name).astype(np.float32) for name in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
    wide = (1, -1) + (1,) * (len(net.graph.shapes[node.output]) - 1)
    factor, shift = scale.reshape(wide), (beta - mean * scale).reshape(wide)
    read = net.value(node.inputs[0])
    return lambda values: read(values) * factor + shift


def _concat(net: Direct, node: Node) -> Step:
    axis = int(node.attributes["axis"])
    if axis not in (1, -len(net.graph.shapes[node.output])):
        raise TargetError(f"{NAME}: a Concat must be along the channels, not axis {axis}")
    parts = [net.value(name) for name in node.inputs]
    return lambda values: np.concatenate([part(values) for part in parts], axis=1)


def _quantise(net: Direct, node: Node) -> Step:
    scale = net.graph.constant(node.inputs[1]).astype(np.float32)
    zero = net.graph.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
    if scale.size != 1 or zero.dtype != np.uint8:
        raise TargetError(f"{NAME}: a QuantizeLinear must be of one scale and uint8, not {zero.dtype}")
    factor, offset = np.float32(scale.reshape(-1)[0]), np.float32(zero.reshape(-1)[0])
    read = net.value(node.inputs[0])
    return lambda values: np.clip(np.rint(read(values) / factor) + offset, 0, 255).astype(np.uint8)


def _dequantise(net: Direct, node: Node) -> Step:
    form = net.graph.quantised[node.output]
    scale, zero = np.float32(form.scale[0]), np.float32(form.zero[0])
    return lambda values: (values[form.name].astype(np.float32) - zero) * scale


MAKERS: dict[str, Callable[[Direct, Node], Step]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Relu": _clip,
    "Clip": _clip,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    "BatchNormalization": _normalise,
    "Concat": _concat,
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _dequantise,
}
"""What makes the step of each ONNX operator."""
