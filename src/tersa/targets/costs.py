"""What each layer of an ONNX file has to do: multiply-accumulates, and bytes from and to memory.

    convolution     macs = N C_out H W (C_in / groups) k^2,   bytes = input + weight + bias + output
    product         macs = N M K,                             likewise

Everything else has no multiply-accumulates here, and the bytes of its tensors. An element takes the bytes of
the precision that is executed: 4 for FP32, 2 for BF16 and FP16; in an INT8 file 1 where it stands between
QuantizeLinear and DequantizeLinear and 4 elsewhere; those two are part of the layers around them. Layers are
named by their weights (`conv1` of `conv1.weight`), else by the tensor that they make; a tensor that several
layers share (equal ones are stored once) names none.

Bytes are what a layer that keeps nothing would move; a runtime that fuses two layers moves less.

Example:
    >>> from onnx import TensorProto, helper
    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    >>> w = helper.make_tensor("fc.weight", TensorProto.FLOAT, [2, 3], [0.0] * 6)
    >>> node = helper.make_node("Gemm", ["x", "fc.weight"], ["y"], transB=1)
    >>> node_costs(helper.make_model(helper.make_graph([node], "g", [x], [y], [w])), batch=4)
    [NodeCost(name='fc', kind='Gemm', output='y', shape=(4, 2), macs=24, weight_bytes=24, moved_bytes=104)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import shape_inference

from tersa.errors import ModelError

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with multiply-accumulates."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 4}
"""Of an element outside QuantizeLinear and DequantizeLinear."""
SILENT = ("Constant", "QuantizeLinear", "DequantizeLinear", "Identity", "Shape")


@dataclass(frozen=True)
class NodeCost:
    """One node of the graph.

    Attributes:
        name: of the layer.
        kind: operator.
        output: tensor that it makes.
        shape: of that tensor; empty where it is not known.
        macs: multiply-accumulates of one call.
        weight_bytes: of its weights.
        moved_bytes: weights, inputs and output.
        work: what the arithmetic is counted in where that is not multiply-accumulates (products of bits).
    """

    name: str
    kind: str
    output: str
    shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    moved_bytes: int
    work: int = field(default=0, repr=False)


def file_costs(path: Path, batch: int, precision: str) -> list[NodeCost]:
    """The nodes of an ONNX file in their order.

    Raises:
        ModelError: not an ONNX file.
    """
    if path.suffix != ".onnx":
        raise ModelError(f"{path.name} is no ONNX file: the work of its layers is not known")
    return node_costs(onnx.load(path), batch=batch, precision=precision)


def node_costs(model: onnx.ModelProto, *, batch: int, precision: str = "fp32") -> list[NodeCost]:
    """The nodes of a model in their order; see the head of this file.

    Args:
        model: with one input (N, ...).
        batch: N.
        precision: that is executed.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    sized.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    del sized.graph.value_info[:]
    sized = shape_inference.infer_shapes(sized, data_prop=True)
    tensors = _Tensors(sized.graph, BYTES[precision])
    return [
        _cost(node, tensors) for node in sized.graph.node if node.op_type not in SILENT and node.output[0]
    ]


class _Tensors:
    """Shapes, element sizes and origins of the tensors of a graph."""

    def __init__(self, graph: onnx.GraphProto, width: int) -> None:
        self.width = width
        self.weights = {each.name: tuple(each.dims) for each in graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = dict(self.weights)
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = [one.dim_value for one in value.type.tensor_type.shape.dim]
            if all(size > 0 for size in dims):
                self.shapes[value.name] = tuple(dims)
        self.maker = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.quantised = {
            node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"
        }  # tensors that are stored in 8 bits

    def origin(self, name: str) -> str:
        """The tensor behind DequantizeLinear and QuantizeLinear."""
        node = self.maker.get(name)
        while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear", "Identity"):
            name = node.input[0]
            node = self.maker.get(name)
        return name

    def is_weight(self, name: str) -> bool:
        """A stored tensor, in floats or in 8 bits."""
        return self.origin(name) in self.weights

    def bytes(self, name: str) -> int:
        """Of a tensor; 0 where its shape is not known."""
        if name not in self.shapes and self.origin(name) not in self.shapes:
            return 0
        shape = self.shapes.get(name) or self.shapes[self.origin(name)]
        node = self.maker.get(name)
        eight = name in self.quantised or (node is not None and node.op_type == "DequantizeLinear")
        return math.prod(shape) * (1 if eight else self.width)


def _cost(node: onnx.NodeProto, tensors: _Tensors) -> NodeCost:
    output = node.output[0]
    shape = tensors.shapes.get(output, ())
    inputs = [name for name in node.input if name]
    weights = [name for name in inputs if tensors.is_weight(name)]
    weight_bytes = sum(tensors.bytes(name) for name in weights)
    moved = sum(tensors.bytes(name) for name in inputs) + tensors.bytes(output)
    return NodeCost(
        name=_name(node, tensors, weights),
        kind=node.op_type,
        output=output,
        shape=shape,
        macs=_macs(node, shape, tensors),
        weight_bytes=weight_bytes,
        moved_bytes=moved,
    )


def _name(node: onnx.NodeProto, tensors: _Tensors, weights: list[str]) -> str:
    """By the weight, else by the tensor."""
    names = [tensors.origin(name) for name in weights]
    if (
        node.op_type in PRODUCTS
    ):  # an exporter may transpose the weight under another name, and add the bias after
        after = [*tensors.users.get(node.output[0], [])]
        after += [
            user for one in after for user in tensors.users.get(one.output[0], []) if one.op_type in SILENT
        ]
        names += [name for one in after if one.op_type == "Add" for name in map(tensors.origin, one.input)]
    for name in names:
        for end in (".weight", ".bias"):
            if end in name and name in tensors.weights and len(tensors.users[name]) == 1:
                return name[: name.rindex(end)]
    return f"{node.op_type.lower()} {node.output[0]}"


def _macs(node: onnx.NodeProto, shape: tuple[int, ...], tensors: _Tensors) -> int:
    """Multiply-accumulates; 0 for what has none, or where a shape is not known."""
    if node.op_type not in PRODUCTS or not shape:
        return 0
    a, b = (
        tensors.shapes.get(name) or tensors.shapes.get(tensors.origin(name), ()) for name in node.input[:2]
    )
    if node.op_type == "Conv":
        return math.prod(shape) * math.prod(b[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(a) * math.prod(b[1:])
    flipped = any(each.name == "transA" and each.i for each in node.attribute)
    return math.prod(shape) * (a[0] if flipped else a[-1]) if a else 0
