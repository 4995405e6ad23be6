"""One layer as a tiny artefact that any target can run: what latency tables are measured on.

A layer of images stands in company: after a depthwise 3x3 convolution, and before a pool that leaves a value
of each channel. The file of the company without the layer (`Family.company`) is measured, too. Alone, a
convolution would be handed its channels in the order that files have, bring them into that of its runtime and
what it makes back, which a network does at its ends; for a small layer that is most of its time. In company
the way in is the same with the layer and without, and a value is nothing to bring back. Layers of vectors are
alone.

The file has one input of the layer's shape and one output; weights are small random numbers, the same each
time. A fully connected layer over T vectors takes them as one channel of T rows; a product of two activations
is one with weights. Runtimes that take modules (`torch`) get the same layer as a module, with its batch norm
where the network has one. An *empty call* is an activation of one value: what a call costs before any work is
done.

Example:
    >>> import tempfile
    >>> from tersa.adapt.anatomy import Family
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

from tersa.adapt.anatomy import COMPANY, ONE, Family
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
    if family.bits != 32:
        raise UsageError(f"single layers are measured in fp32, not with {family.bits} bits")
    shape, made = _shapes(family, inputs, outputs)
    values = np.random.default_rng(0)
    weights = _weights(family, inputs, outputs, values)
    if family.operation == COMPANY or family.company:
        return _in_company(family, weights, shape, made, path)
    nodes = _layer(family, [f"w{i}" for i in range(len(weights))], INPUT, OUTPUT, shape[0])
    return _lone(family, nodes, weights, _module(family, weights, inputs), (shape, made), path)


def _in_company(
    family: Family, weights: list[Array], shape: tuple[int, int, int], made: Sequence[int], path: Path
) -> Lone:
    """A layer after `BEFORE`, and the largest of a few values of each channel of what it makes: of one value
    alone a runtime might compute nothing else."""
    channels, (height, width) = shape[0], family.out_size()
    before = replace(BEFORE, size=family.size, batch=family.batch)
    after = Family("max-pool", (min(2, height), min(2, width)), (height, width))
    first = _weights(before, channels, channels, np.random.default_rng(1))
    nodes = _layer(before, ["w0", "w1"], INPUT, "given", channels)
    parts = [_module(before, first, channels)]
    if family.operation != COMPANY:
        nodes += _layer(family, [f"w{2 + i}" for i in range(len(weights))], "given", "made", channels)
        parts.append(_module(family, weights, channels))
    nodes += _layer(after, [], nodes[-1].output[0], OUTPUT, made[0])
    module = nn.Sequential(*parts, _module(after, [], made[0])).eval()
    return _lone(family, nodes, [*first, *weights], module, (shape, (made[0], 1, 1)), path)


def _lone(
    family: Family,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[Array],
    module: nn.Module,
    shapes: tuple[tuple[int, int, int], Sequence[int]],
    path: Path,
) -> Lone:
    """The file and what goes with it; weights are w0, w1, ... of the nodes."""
    shape, made = shapes
    if family.operation == "linear" and family.size != ONE:  # exporters write x W + b, the matrix turned
        weights = [np.ascontiguousarray(weights[0].T), *weights[1:]]
    graph = helper.make_graph(
        list(nodes),
        "layer",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [family.batch, *shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [family.batch, *made])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    path.write_bytes(model.SerializeToString())
    header = Header(("",) * math.prod(made), shape, (0.0,) * shape[0], (1.0,) * shape[0])
    pixels = np.random.default_rng(2).random((family.batch, *shape), dtype=np.float32)
    return Lone(Artefact(path, header, module), pixels)


def _shapes(family: Family, inputs: int, outputs: int) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Of the input and the output for one image."""
    if family.operation == "product":
        return (family.size[0], family.size[1], inputs), (*family.size, outputs)
    if family.operation == "linear":
        rows, _ = family.size
        return ((inputs, 1, 1), (outputs,)) if rows == 1 else ((1, rows, inputs), (1, rows, outputs))
    taken = family.taken(inputs)
    made = 2 * taken if family.operation == "concatenate" else outputs
    return (taken, *family.size), (made, *family.out_size())


BEFORE = Family("depthwise", (3, 3), padding=(1, 1), after="relu")
"""What a layer of images comes after."""


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


def _layer(
    family: Family, weights: Sequence[str], source: str, result: str, channels: int
) -> list[onnx.NodeProto]:
    """The nodes of a layer, from one tensor to another."""
    active = family.after if family.operation != "activation" else ""
    middle = "made " + result if active else result
    bare = family.operation == "activation"
    nodes = [] if bare else _nodes(family, [source, *weights], middle, channels)
    if family.after:
        nodes += _activation(family.after, source if bare else middle, result)
    return nodes or [helper.make_node("Identity", [source], [result])]


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
        flat = helper.make_node("Flatten", names[:1], ["flat"])
        return [flat, helper.make_node("Gemm", ["flat", *names[1:]], [out], transB=1)]
    if family.operation in ("max-pool", "average-pool"):
        kind = "MaxPool" if family.operation == "max-pool" else "AveragePool"
        return [helper.make_node(kind, names, [out], **window)]
    if family.operation == "concatenate":
        return [helper.make_node("Concat", names * 2, [out], axis=1)]
    if family.operation in ("add", "multiply"):
        return [helper.make_node("Add" if family.operation == "add" else "Mul", names * 2, [out])]
    kind = {"mean": "GlobalAveragePool", "norm": "BatchNormalization"}[family.operation]
    return [helper.make_node(kind, names, [out])]


def _activation(name: str, source: str, result: str) -> list[onnx.NodeProto]:
    kind = ONNX_NAMES[name]
    if kind == "Clip":
        limits = [
            helper.make_node("Constant", [], [side], value_float=value)
            for side, value in (("low", 0.0), ("high", 6.0))
        ]
        return [*limits, helper.make_node("Clip", [source, "low", "high"], [result])]
    if name == "silu":
        gate = helper.make_node("Sigmoid", [source], ["gate"])
        return [gate, helper.make_node("Mul", [source, "gate"], [result])]
    if name == "gelu":  # x/2 (1 + erf(x / sqrt 2)), as exporters write it
        half = helper.make_node("Constant", [], ["half"], value_float=0.5)
        root = helper.make_node("Constant", [], ["root"], value_float=2.0**-0.5)
        one = helper.make_node("Constant", [], ["one"], value_float=1.0)
        steps = [("Mul", [source, "root"], "a"), ("Erf", ["a"], "b"), ("Add", ["b", "one"], "c")]
        steps += [("Mul", [source, "half"], "d"), ("Mul", ["c", "d"], result)]
        return [half, root, one, *(helper.make_node(op, ins, [out]) for op, ins, out in steps)]
    options: dict[str, Any] = {"alpha": 1.0 / 6.0} if name == "hardsigmoid" else {}  # ONNX's default is 0.2
    return [helper.make_node(kind, [source], [result], **options)]


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
