"""An artefact's ONNX graph as plain values, for the writers of other formats (C, TFLite).

Shapes are of one image: the batch dimension is left out. Constants are numpy arrays. A tensor that
`DequantizeLinear` makes from a stored or a quantised one is known by its `Quantised` form, so that a writer
can take the integers instead.

Example:
    >>> import tempfile, torch
    >>> from tersa.export.artefact import Header
    >>> from tersa.export.onnx import export_onnx
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> header = Header(("dark", "bright"), (1, 2, 2), (0.5,), (0.25,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     graph = read_graph(export_onnx(network, header, Path(folder) / "tiny.onnx").path)
    >>> [(node.kind, graph.shapes[node.output]) for node in graph.nodes]
    [('Reshape', (4,)), ('Gemm', (2,))]

What this does not do: run or change anything, control flow, or shapes that depend on values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tersa.errors import ModelError, TargetError

Array = npt.NDArray[Any]
Shape = Sequence[int]


@dataclass(frozen=True)
class Node:
    """One operator with one output.

    Attributes:
        kind: the ONNX operator.
        inputs: names of tensors; an optional one that is left out is an empty text.
        output: name of the tensor it makes.
        attributes: as ONNX has them (numbers, lists of numbers, texts).
    """

    kind: str
    inputs: Sequence[str]
    output: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Quantised:
    """Integers behind a dequantised tensor: value = scale * (integer - zero).

    Attributes:
        name: of the integer tensor.
        scale: one value, or one for each channel.
        zero: one integer, or one for each channel.
        dtype: of the integers.
        axis: of the channels, where there is more than one scale; below 0 it counts from the last.
    """

    name: str
    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.int64]
    dtype: np.dtype[Any]
    axis: int = 0


@dataclass(frozen=True)
class Graph:
    """The operators of one network in the order in which they run.

    Attributes:
        nodes: without those that only dequantise constants.
        constants: stored tensors by name (dequantised ones under both names).
        shapes: of every tensor that a node makes, without the batch.
        quantised: integer form of tensors by the name of the dequantised one.
        input: name of the pixels.
        output: name of the logits.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    shapes: dict[str, Shape]
    quantised: dict[str, Quantised]
    input: str
    output: str

    def constant(self, name: str) -> Array:
        """A stored tensor.

        Raises:
            TargetError: the tensor is computed.
        """
        if name not in self.constants:
            raise TargetError(f"tensor '{name}' is computed where only a stored one is supported")
        return self.constants[name]

    def integer(self, node: Node) -> tuple[Quantised, Quantised] | None:
        """The integer forms of a layer's input and weights, when both are there as bytes.

        The weights have one scale, or one for each output.
        """
        data, weight = (self.quantised.get(name) for name in list(node.inputs)[:2])
        if data is None or weight is None or data.dtype != np.uint8 or weight.dtype != np.int8:
            return None
        if data.scale.size != 1 or weight.zero.any() or weight.name not in self.constants:
            return None
        sides = self.constants[weight.name].ndim
        if weight.scale.size > 1 and weight.axis % sides != outputs_axis(node):
            return None  # a scale for each input stands inside the sum
        return data, weight

    def readers(self, name: str) -> list[Node]:
        """The nodes that take a tensor."""
        return [node for node in self.nodes if name in node.inputs]


def read_linear(graph: Graph, node: Node, name: str) -> Array:
    """The stored weights of a matrix product, (O, I).

    Args:
        graph: of the node.
        node: a Gemm or MatMul.
        name: of the writer, for its refusal.

    Raises:
        TargetError: factors, a turned input, or weights that are computed.
    """
    given = node.attributes
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        raise TargetError(f"{name}: a {node.kind} with alpha, beta or transA is not supported: {given}")
    weight = graph.constant(node.inputs[1])
    if len(graph.shapes[node.inputs[0]]) != 1 or weight.ndim != 2:
        raise TargetError(f"{name}: a {node.kind} needs one row for each image and stored weights")
    return outputs_first(node, weight)


def outputs_axis(node: Node) -> int:
    """Axis of the outputs in a layer's stored weights: 1 where a matrix product has (I, O), else 0."""
    return int(node.kind in ("Gemm", "MatMul") and not node.attributes.get("transB", 0))


def outputs_first(node: Node, stored: Array) -> Array:
    """The stored weights of a layer, or the integers behind them, as (O, I) or (O, I, kh, kw)."""
    return stored.T if outputs_axis(node) else stored


def channel_values(value: Array, channels: int, dimensions: int) -> Array:
    """One value for each channel of a tensor that broadcasts over (N, C, ...).

    Raises:
        TargetError: the values differ within a channel.
    """
    missing = dimensions + 1 - value.ndim
    full = value.reshape((1,) * missing + value.shape) if missing > 0 else value
    if full.ndim != dimensions + 1 or full.size != full.shape[1] or full.size not in (1, channels):
        raise TargetError(
            f"a stored tensor of shape {value.shape} is not one value for each of {channels} channels"
        )
    return np.broadcast_to(full.reshape(-1), (channels,))


def read_graph(path: Path) -> Graph:
    """Read an artefact's file.

    Raises:
        ModelError: no such file, or not an ONNX file.
        TargetError: shapes that depend on values, or a node with several outputs.
    """
    if not path.is_file():
        raise ModelError(f"no file {path}")
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    except Exception as error:  # noqa: BLE001 - protobuf's own exception types
        raise ModelError(f"{path} is not an ONNX file: {str(error).splitlines()[0]}") from None
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ModelError(f"{path} is not an ONNX file with one input and one output")
    constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    quantised: dict[str, Quantised] = {}
    nodes: list[Node] = []
    for proto in graph.node:
        node = _node(proto)
        if node.kind == "Constant":
            constants[node.output] = _constant(proto, path)
            continue
        if node.kind == "DequantizeLinear":
            quantised[node.output] = form = _quantised(node, constants)
            if node.inputs[0] in constants:
                constants[node.output] = dequantise(constants[node.inputs[0]], form)
                continue
        nodes.append(node)
    shapes = {one.name: _shape(one) for one in (*graph.input, *graph.value_info, *graph.output)}
    missing = [node.output for node in nodes if node.output not in shapes]
    if missing:
        raise TargetError(f"{path.name}: the shape of tensor '{missing[0]}' depends on values")
    return Graph(tuple(nodes), constants, shapes, quantised, graph.input[0].name, graph.output[0].name)


def _constant(proto: onnx.NodeProto, path: Path) -> Array:
    """The value of a Constant: a tensor, or numbers that ONNX writes without one.

    Raises:
        TargetError: texts, or a sparse tensor.
    """
    (form,) = proto.attribute
    value = onnx.helper.get_attribute_value(form)
    if form.name == "value":
        return numpy_helper.to_array(value)
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if form.name not in types:
        raise TargetError(f"{path.name}: a Constant with '{form.name}', which is no tensor of numbers")
    return np.array(value, types[form.name])


def dequantise(stored: Array, form: Quantised) -> npt.NDArray[np.float32]:
    """Float values of stored integers."""
    width = tuple(-1 if axis == form.axis % stored.ndim else 1 for axis in range(stored.ndim))
    scale = form.scale.reshape(width) if form.scale.size > 1 else form.scale.reshape(())
    zero = form.zero.reshape(width) if form.zero.size > 1 else form.zero.reshape(())
    return ((stored.astype(np.int64) - zero).astype(np.float32) * scale).astype(np.float32)


def require_kinds(graph: Graph, known: Iterable[str], name: str) -> None:
    """Refuse a graph with operators that a writer does not have.

    Raises:
        TargetError: names them, and what the writer has.
    """
    have = sorted(known)
    missing = sorted({node.kind for node in graph.nodes} - set(have))
    if missing:
        raise TargetError(f"{name} has no operator {', '.join(missing)}; it has {', '.join(have)}")


def windows(node: Node, weight: Array | None = None) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, padding (top, left, bottom, right) and dilation of a two-dimensional operator.

    Raises:
        TargetError: another number of dimensions, automatic padding, or rounding up.
    """
    given = node.attributes
    kernel = list(given.get("kernel_shape", weight.shape[2:] if weight is not None else ()))
    if (
        len(kernel) != 2
        or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        or given.get("ceil_mode")
    ):
        raise TargetError(
            f"a {node.kind} must have two dimensions, explicit padding and no ceil_mode: {given}"
        )
    pads = list(given.get("pads", (0, 0, 0, 0)))
    return kernel, list(given.get("strides", (1, 1))), pads, list(given.get("dilations", (1, 1)))


def _node(proto: onnx.NodeProto) -> Node:
    outputs = [name for name in proto.output if name]
    if len(outputs) != 1:
        raise TargetError(f"a {proto.op_type} with {len(outputs)} outputs is not supported")
    attributes: dict[str, Any] = {}
    for one in proto.attribute:
        value = onnx.helper.get_attribute_value(one)
        attributes[one.name] = value.decode() if isinstance(value, bytes) else value
    return Node(proto.op_type, tuple(proto.input), outputs[0], attributes)


def _quantised(node: Node, constants: dict[str, Array]) -> Quantised:
    source, scale, *rest = node.inputs
    stored = constants.get(source)
    zero = constants[rest[0]] if rest and rest[0] else None
    dtype = stored.dtype if stored is not None else (zero.dtype if zero is not None else np.dtype(np.uint8))
    zeros = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64).reshape(-1)
    axis = int(node.attributes.get("axis", 1))
    return Quantised(source, constants[scale].astype(np.float32).reshape(-1), zeros, dtype, axis)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value for size in list(sizes)[1:])
