"""One layer alone, as a tiny artefact that any target can run: what latency tables are measured on.

The file has one input of the layer's shape and one output; weights are small random numbers, the same each
time. A fully connected layer over T vectors takes them as one channel of T rows; a product of two activations
is one with weights. Runtimes that take modules (`torch`) get the same layer as a module, with its batch norm
where the network has one. An *empty call* is an activation of one value: what a call costs before any work is
done. A *chain* is a few depthwise convolutions in a row: what is paid at its ends, and not between layers, is
what the times of a short and a long one have in common (`measuring.py`).

Example:
    >>> import tempfile
    >>> from tersa.adapt.signature import Family
    >>> layer = Family("conv", (3, 3), padding=(1, 1), size=(8, 8), after="relu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = lone_layer(layer, 4, 6, Path(folder) / "layer.onnx")
    ...     made.artefact.size_bytes > 4 * 4 * 6 * 9, made.pixels.shape
    (True, (1, 4, 8, 8))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tersa.adapt.signature import ONE, Family
from tersa.errors import UsageError
from tersa.export.artefact import INPUT, OUTPUT, Artefact, Header
from tersa.targets.base import Pixels

OPSET, IR = 18, 10

ONNX_NAMES = {
    "relu": "Relu", "hardtanh": "Clip", "clamp": "Clip", "clamp_min": "Relu", "silu": "", "gelu": "",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "elu": "Elu", "leaky_relu": "LeakyRelu",
    "hardswish": "HardSwish", "hardsigmoid": "HardSigmoid",
}  # fmt: skip
"""ONNX operators of activations; those without one are written out."""

MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "hardtanh": nn.ReLU6, "clamp": nn.ReLU6, "clamp_min": nn.ReLU, "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
}  # fmt: skip

EMPTY = Family("activation", after="relu", bias=False)
"""The family of the empty call, at one channel."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lone:
    """A layer ready to be measured.

    Attributes:
        artefact: the file and its module twin.
        pixels: what it is called with.
    """

    artefact: Artefact
    pixels: Pixels


def lone_layer(family: Family, inputs: int, outputs: int, path: Path) -> Lone:
    """Write one layer as a file.

    Args:
        family: what it does.
        inputs: channels.
        outputs: channels; those of the input where the family is square.
        path: of the file.

    Raises:
        UsageError: a width of numbers that no single layer is written in.
    """
    _require_float(family)
    shape, made = _shapes(family, inputs, outputs)
    values = np.random.default_rng(0)
    weights = _weights(family, inputs, outputs, values)
    _write(family, weights, (family.batch, *shape), (family.batch, *made), path)
    pixels = values.random((family.batch, *shape), dtype=np.float32)
    return Lone(Artefact(path, _header(shape, made), _module(family, weights, inputs)), pixels)


def chain(family: Family, channels: int, path: Path, *, links: int) -> Lone:
    """Write depthwise 3x3 convolutions with ReLU in a row as a file; what they make has the shape they take.

    Args:
        family: a handover (`Family.handovers`): image size and batch.
        channels: of each.
        path: of the file.
        links: how many.

    Raises:
        UsageError: a width of numbers that no single layer is written in.
    """
    _require_float(family)
    layer = replace(family, operation="depthwise", kernel=(3, 3), padding=(1, 1), after="relu")
    values, shape = np.random.default_rng(0), (channels, *family.size)
    weights = _weights(layer, channels, channels, values)
    nodes: list[onnx.NodeProto] = []
    for link in range(links):
        source, made = f"x{link}" if link else INPUT, f"x{link + 1}" if link + 1 < links else OUTPUT
        nodes += _nodes(layer, [source, "w0", "w1"], f"made{link}", channels)
        nodes.append(helper.make_node("Relu", [f"made{link}"], [made]))
    _save(nodes, weights, (family.batch, *shape), (family.batch, *shape), path)
    module = nn.Sequential(*(_module(layer, weights, channels) for _ in range(links))).eval()
    pixels = values.random((family.batch, *shape), dtype=np.float32)
    return Lone(Artefact(path, _header(shape, shape), module), pixels)


def _require_float(family: Family) -> None:
    if family.bits != 32:
        raise UsageError(f"single layers are measured in fp32, not with {family.bits} bits")


def _header(shape: tuple[int, int, int], made: Sequence[int]) -> Header:
    return Header(("",) * math.prod(made), shape, (0.0,) * shape[0], (1.0,) * shape[0])


def _shapes(family: Family, inputs: int, outputs: int) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Of the input and the output for one image."""
    if family.operation == "product":
        return (family.size[0], family.size[1], inputs), (*family.size, outputs)
    if family.operation == "linear":
        rows, _ = family.size
        return ((inputs, 1, 1), (outputs,)) if rows == 1 else ((1, rows, inputs), (1, rows, outputs))
    taken = -(-inputs // 2) if family.operation == "concatenate" else inputs
    made = 2 * taken if family.operation == "concatenate" else outputs
    return (taken, *family.size), (made, *family.out_size())


def _weights(family: Family, inputs: int, outputs: int, values: np.random.Generator) -> list[Array]:
    if family.operation == "linear":
        shape: tuple[int, ...] = (outputs, inputs)
    elif family.operation == "product":
        shape = (family.size[0], inputs, outputs)
    elif family.operation == "conv":
        shape = (outputs, inputs // family.groups, *family.kernel)
    elif family.operation == "depthwise":
        shape = (inputs, 1, *family.kernel)
    elif family.operation == "norm":
        return [values.random(inputs, dtype=np.float32) + 0.5 for _ in range(4)]
    else:
        return []
    weight = values.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
    return [weight, np.full(shape[0], 0.1, np.float32)] if family.bias else [weight]


def _write(
    family: Family, weights: Sequence[Array], shape: Sequence[int], made: Sequence[int], path: Path
) -> None:
    over_rows = family.operation == "linear" and family.size != ONE
    if over_rows:  # exporters write x W + b, and the matrix turned
        weights = [np.ascontiguousarray(weights[0].T), *weights[1:]]
    names = [INPUT, *(f"w{i}" for i in range(len(weights)))]
    active = family.after if family.operation != "activation" else ""
    middle = "made" if active else OUTPUT
    nodes = [] if family.operation == "activation" else _nodes(family, names, middle, shape[1])
    if family.after:
        nodes += _activation(family.after, INPUT if not nodes else middle)
    if not nodes:
        nodes = [helper.make_node("Identity", [INPUT], [OUTPUT])]
    _save(nodes, weights, shape, made, path)


def _save(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[Array],
    shape: Sequence[int],
    made: Sequence[int],
    path: Path,
) -> None:
    """A graph of nodes whose weights are w0, w1, ..."""
    kept = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, list(made))],
        kept,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    path.write_bytes(model.SerializeToString())


def _nodes(family: Family, names: list[str], out: str, inputs: int) -> list[onnx.NodeProto]:
    pads = [*family.padding, *family.padding]
    window: dict[str, Any] = {
        "kernel_shape": list(family.kernel),
        "strides": list(family.stride),
        "pads": pads,
    }
    if family.operation in ("conv", "depthwise"):
        groups = family.groups if family.operation == "conv" else inputs
        dilations = list(family.dilation)
        return [helper.make_node("Conv", names, [out], **window, dilations=dilations, group=groups)]
    if family.operation == "product":
        return [helper.make_node("MatMul", names, [out])]
    if family.operation == "linear" and family.size != ONE:
        if not family.bias:
            return [helper.make_node("MatMul", names, [out])]
        product = helper.make_node("MatMul", names[:2], ["product"])
        return [product, helper.make_node("Add", ["product", names[2]], [out])]
    if family.operation == "linear":
        flat = helper.make_node("Flatten", [INPUT], ["flat"])
        return [flat, helper.make_node("Gemm", ["flat", *names[1:]], [out], transB=1)]
    if family.operation in ("max-pool", "average-pool"):
        kind = "MaxPool" if family.operation == "max-pool" else "AveragePool"
        return [helper.make_node(kind, [INPUT], [out], **window)]
    if family.operation == "concatenate":
        return [helper.make_node("Concat", [INPUT, INPUT], [out], axis=1)]
    if family.operation in ("add", "multiply"):
        return [helper.make_node("Add" if family.operation == "add" else "Mul", [INPUT, INPUT], [out])]
    kind = {"mean": "GlobalAveragePool", "norm": "BatchNormalization"}[family.operation]
    return [helper.make_node(kind, names, [out])]


def _activation(name: str, source: str) -> list[onnx.NodeProto]:
    kind = ONNX_NAMES[name]
    if kind == "Clip":
        limits = [
            helper.make_node("Constant", [], [side], value_float=value)
            for side, value in (("low", 0.0), ("high", 6.0))
        ]
        return [*limits, helper.make_node("Clip", [source, "low", "high"], [OUTPUT])]
    if name == "silu":
        gate = helper.make_node("Sigmoid", [source], ["gate"])
        return [gate, helper.make_node("Mul", [source, "gate"], [OUTPUT])]
    if name == "gelu":  # x/2 (1 + erf(x / sqrt 2)), as exporters write it
        half = helper.make_node("Constant", [], ["half"], value_float=0.5)
        root = helper.make_node("Constant", [], ["root"], value_float=2.0**-0.5)
        one = helper.make_node("Constant", [], ["one"], value_float=1.0)
        steps = [("Mul", [source, "root"], "a"), ("Erf", ["a"], "b"), ("Add", ["b", "one"], "c")]
        steps += [("Mul", [source, "half"], "d"), ("Mul", ["c", "d"], OUTPUT)]
        return [half, root, one, *(helper.make_node(op, ins, [out]) for op, ins, out in steps)]
    options: dict[str, Any] = {"alpha": 1.0 / 6.0} if name == "hardsigmoid" else {}  # ONNX's default is 0.2
    return [helper.make_node(kind, [source], [OUTPUT], **options)]


class _Twice(nn.Module):
    """An operation of two inputs, given the same one twice."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        if self.operation == "concatenate":
            return torch.cat((x, x), dim=1)
        return x + x if self.operation == "add" else x * x


class _Product(nn.Module):
    """A product of matrices with fixed ones."""

    def __init__(self, matrices: Tensor) -> None:
        super().__init__()
        self.matrices = nn.Buffer(matrices)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrices


def _module(family: Family, weights: Sequence[Array], inputs: int) -> nn.Module:
    """The same layer for runtimes that take modules."""
    parts: list[nn.Module] = []
    if family.operation == "linear":
        outputs = weights[0].shape[0]
        parts += [nn.Flatten()] if family.size == ONE else []
        parts.append(nn.Linear(inputs, outputs, bias=family.bias))
    elif family.operation == "product":
        parts.append(_Product(torch.from_numpy(weights[0])))
    elif family.operation in ("conv", "depthwise"):
        outputs = weights[0].shape[0]
        groups = inputs if family.operation == "depthwise" else family.groups
        bias = family.bias and not family.norm
        parts.append(
            nn.Conv2d(
                inputs, outputs, family.kernel, family.stride, family.padding, family.dilation, groups, bias
            )
        )
        parts += [nn.BatchNorm2d(outputs)] if family.norm else []
    elif family.operation == "max-pool":
        parts.append(nn.MaxPool2d(family.kernel, family.stride, family.padding))
    elif family.operation == "average-pool":
        parts.append(nn.AvgPool2d(family.kernel, family.stride))
    elif family.operation == "mean":
        parts.append(nn.AdaptiveAvgPool2d(1))
    elif family.operation == "norm":
        parts.append(nn.BatchNorm2d(inputs))
    elif family.operation != "activation":
        parts.append(_Twice(family.operation))
    parts += [MODULES[family.after]()] if family.after else []
    return nn.Sequential(*parts).eval()
