"""A network as a `.tflite` file: FP32, and INT8 for a QDQ file, written from the artefact's ONNX graph.

No converter is needed: LiteRT's own schema (`ai_edge_litert.schema_py_generated`) writes the flatbuffer.
Images come in as (N, C, H, W) and are turned to (N, H, W, C) once; padding is `SAME` where that means the
same taps, else an operator of its own. N is free: the runtime resizes the input.

INT8 takes the integers of the QDQ file as they are: int8 weights with a scale for each channel, int32 biases
with the scale of the products, and activations moved from uint8 to int8 (integer and zero point less 128, the
same value). An operator runs in integers when the QDQ file gives its inputs and its output as integers. The
last layer gives float logits there, which LiteRT has no integer kernel for: it runs in float.

References: TensorFlow Lite 8-bit quantization specification (https://ai.google.dev/edge/litert/models).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tersa.errors import TargetError
from tersa.export.c_direct import SAME
from tersa.export.graph import (
    Array,
    Graph,
    Node,
    Quantised,
    Shape,
    channel_values,
    read_graph,
    require_kinds,
    windows,
)

FLOAT, INT32, INT8 = 0, 2, 9
"""Types of a tensor in the schema."""

TYPES: dict[Any, int] = {np.dtype(np.float32): FLOAT, np.dtype(np.int32): INT32, np.dtype(np.int8): INT8}

VERSION = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12, "RESHAPE": 1}
"""Version of an operator that per-channel INT8 needs; the others have INT8 from version 2 on."""


@dataclass(frozen=True)
class TfliteProgram:
    """What `tflite` writes.

    Attributes:
        model: the bytes of the file.
        layers: convolutions and matrix products by precision.
    """

    model: bytes
    layers: Counter[str]


def tflite(path: Path) -> TfliteProgram:
    """The LiteRT file of an artefact.

    Raises:
        ModelError: not an ONNX file.
        TargetError: an operator, or a form of one, that this writer does not have.
    """
    graph = read_graph(path)
    require_kinds(graph, (*WRITERS, *SAME, "QuantizeLinear", "DequantizeLinear"), "litert")
    writer = _Writer(graph)
    pixels = writer.tensor(FLOAT, (1, *graph.shapes[graph.input]), graph.input, free=True)
    writer.inputs = [pixels]
    writer.floats[graph.input] = writer.to_last(pixels, FLOAT, graph.shapes[graph.input], None)
    for node in graph.nodes:
        writer.write(node)
    return writer.finish()


@dataclass
class _Writer:
    """Collects tensors and operators; images are channels-last inside."""

    graph: Graph
    floats: dict[str, int] = field(default_factory=dict)
    integers: dict[str, int] = field(default_factory=dict)
    layers: Counter[str] = field(default_factory=Counter)
    inputs: list[int] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.schema: Any = schema()
        self.buffers.append(self.schema.BufferT())  # the first buffer is empty by convention

    # --- pieces of the file ---------------------------------------------------------------------

    def tensor(
        self, kind: int, shape: Sequence[int], name: str = "", form: tuple[Array, Array, int] | None = None,
        free: bool = False,
    ) -> int:  # fmt: skip
        """A tensor without values; `form` is (scale, zero point, axis)."""
        one = self.schema.TensorT()
        one.name, one.type, one.shape, one.buffer = name or f"t{len(self.tensors)}", kind, list(shape), 0
        if free:
            one.shapeSignature = [-1, *shape[1:]]
        if form is not None:
            one.quantization = self.schema.QuantizationParametersT()
            one.quantization.scale = np.asarray(form[0], np.float32).reshape(-1)
            one.quantization.zeroPoint = np.asarray(form[1], np.int64).reshape(-1)
            one.quantization.quantizedDimension = form[2]
        self.tensors.append(one)
        return len(self.tensors) - 1

    def constant(self, values: Array, form: tuple[Array, Array, int] | None = None) -> int:
        """A stored tensor."""
        index = self.tensor(TYPES[values.dtype], values.shape, form=form)
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.tensors[index].buffer = len(self.buffers)
        self.buffers.append(buffer)
        return index

    def emit(self, code: str, inputs: Sequence[int], output: int, options: str = "", **given: Any) -> int:
        """One operator; returns its output."""
        if code not in self.codes:
            self.codes.append(code)
        one = self.schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = self.codes.index(code), list(inputs), [output]
        if options:
            one.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            one.builtinOptions = getattr(self.schema, f"{options}T")()
            for name, value in given.items():
                setattr(one.builtinOptions, name, value)
        self.operators.append(one)
        return output

    def finish(self) -> TfliteProgram:
        import flatbuffers  # comes with LiteRT

        sub = self.schema.SubGraphT()
        sub.tensors, sub.operators, sub.inputs = self.tensors, self.operators, self.inputs
        sub.outputs = [self.float(self.graph.output)]
        model = self.schema.ModelT()
        model.version, model.description, model.subgraphs, model.buffers = 3, "tersa", [sub], self.buffers
        model.operatorCodes = []
        for name in self.codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), VERSION.get(name, 2)
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return TfliteProgram(bytes(builder.Output()), self.layers)

    # --- values ----------------------------------------------------------------------------------

    def last(self, shape: Shape) -> Shape:
        """(1, ...) with the channels last."""
        return (1, *shape[1:], shape[0])

    def to_last(self, source: int, kind: int, shape: Shape, form: Any) -> int:
        if len(shape) != 3:
            return source
        order = self.constant(np.array([0, 2, 3, 1], np.int32))
        return self.emit(
            "TRANSPOSE", [source, order], self.tensor(kind, self.last(shape), form=form), "TransposeOptions"
        )

    def float(self, name: str) -> int:
        """The float tensor of an ONNX name, dequantised where only its integers are there."""
        if name not in self.floats:
            if name in self.graph.constants:
                raise TargetError(f"litert: a stored tensor as an image is not supported ('{name}')")
            source = self.integers[self.graph.quantised[name].name]
            target = self.tensor(FLOAT, self.tensors[source].shape)
            self.floats[name] = self.emit("DEQUANTIZE", [source], target)
        return self.floats[name]

    def form(self, value: Quantised) -> tuple[Array, Array, int]:
        """Scale and int8 zero point of an activation."""
        return value.scale, value.zero - 128, 0

    def quantised_output(self, node: Node) -> Quantised | None:
        """How the output is quantised, when that is all that becomes of it and the inputs are integers."""
        readers = self.graph.readers(node.output)
        if node.output == self.graph.output or len(readers) != 1 or readers[0].kind != "QuantizeLinear":
            return None
        data = node.inputs[:1] if node.kind in ("Conv", "Gemm", "MatMul") else node.inputs
        forms = [self.graph.quantised.get(name) for name in data]
        if any(form is None or form.name not in self.integers or form.scale.size != 1 for form in forms):
            return None
        return self.quantiser(readers[0])

    def quantiser(self, node: Node) -> Quantised:
        scale = self.graph.constant(node.inputs[1]).astype(np.float32).reshape(-1)
        zero = self.graph.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
        if scale.size != 1 or zero.dtype != np.uint8:
            raise TargetError(f"litert: activations must have one scale and be uint8, not {zero.dtype}")
        return Quantised(node.output, scale, zero.astype(np.int64).reshape(-1), zero.dtype)

    def integer_inputs(self, node: Node) -> list[int]:
        return [self.integers[self.graph.quantised[name].name] for name in node.inputs]

    def result(self, node: Node, form: Quantised | None) -> int:
        """The tensor that a node's operator writes."""
        shape = self.last(self.graph.shapes[node.output])
        if form is None:
            index = self.floats[node.output] = self.tensor(FLOAT, shape, node.output)
            return index
        index = self.integers[form.name] = self.tensor(INT8, shape, form=self.form(form))
        self.done.add(form.name)
        return index

    def write(self, node: Node) -> None:
        if node.kind == "DequantizeLinear":
            return
        if node.kind == "QuantizeLinear":
            if node.output not in self.done:
                form = self.quantiser(node)
                source = self.float(node.inputs[0])
                self.emit("QUANTIZE", [source], self.result(node, form))
            return
        form = self.quantised_output(node)
        if node.kind in SAME:
            _reshape(self, node, form)
        else:
            WRITERS[node.kind](self, node, form)

    def activation(self, node: Node) -> tuple[int, Node]:
        """The activation that can be fused into a float layer, and the node whose output it then makes."""
        kinds = self.schema.ActivationFunctionType
        readers = self.graph.readers(node.output)
        if len(readers) == 1 and node.output != self.graph.output:
            after = readers[0]
            if after.kind == "Relu":
                return kinds.RELU, after
            if after.kind == "Clip" and _bounds(self, after) == (0.0, 6.0):
                return kinds.RELU6, after
        return kinds.NONE, node

    def like(self, source: int, shape: Sequence[int]) -> int:
        """A tensor of another shape with the type and scale of a first one."""
        given = self.tensors[source]
        form = given.quantization
        kept = None if form is None else (form.scale, form.zeroPoint, 0)
        return self.tensor(given.type, shape, form=kept)

    def padded(self, source: int, pads: list[int], value: float | None = None) -> int:
        """The tensor with explicit padding: zeros, or `value`."""
        top, left, bottom, right = pads
        n, h, w, c = self.tensors[source].shape
        target = self.like(source, (n, h + top + bottom, w + left + right, c))
        sizes = self.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        if value is None:
            return self.emit("PAD", [source, sizes], target, "PadOptions")
        if self.tensors[source].type == INT8:
            form = self.tensors[source].quantization
            filler = self.constant(np.array([-128], np.int8), (form.scale, form.zeroPoint, 0))
        else:
            filler = self.constant(np.array([value], np.float32))
        return self.emit("PADV2", [source, sizes, filler], target, "PadV2Options")


def _same(size: Sequence[int], kernel: list[int], strides: list[int], dilation: list[int]) -> list[int]:
    """The padding that `SAME` means (top, left, bottom, right) for an input (H, W)."""
    found = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(size, kernel, strides, dilation, strict=True)
    ]
    return [found[0] // 2, found[1] // 2, found[0] - found[0] // 2, found[1] - found[1] // 2]


def _padding(
    self: _Writer, node: Node, source: int, given: tuple[list[int], ...], value: float | None = None
) -> tuple[int, int]:
    """The input of a windowed operator and its kind of padding."""
    kernel, strides, pads, dilation = given
    kinds = self.schema.Padding
    if not any(pads):
        return source, kinds.VALID
    if pads == _same(self.graph.shapes[node.inputs[0]][1:], kernel, strides, dilation):
        return source, kinds.SAME
    return self.padded(source, pads, value), kinds.VALID


def _conv(self: _Writer, node: Node, form: Quantised | None) -> None:
    weight = self.graph.constant(node.inputs[1])
    given = windows(node, weight)
    _, strides, _, dilation = given
    group, channels = int(node.attributes.get("group", 1)), self.graph.shapes[node.inputs[0]][0]
    depthwise = group > 1 and group == channels
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    source, kernel, bias, target, fused = _layer(self, node, form, order, 3 if depthwise else 0)
    source, padding = _padding(self, node, source, given)
    options: dict[str, Any] = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": fused,
    }
    if depthwise:
        options["depthMultiplier"] = weight.shape[0] // channels
        self.emit("DEPTHWISE_CONV_2D", [source, kernel, bias], target, "DepthwiseConv2DOptions", **options)
    else:
        self.emit("CONV_2D", [source, kernel, bias], target, "Conv2DOptions", **options)


def _gemm(self: _Writer, node: Node, form: Quantised | None) -> None:
    given = node.attributes
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        raise TargetError(f"litert: a {node.kind} with alpha, beta or transA is not supported: {given}")
    if len(self.graph.shapes[node.inputs[0]]) != 1 or self.graph.constant(node.inputs[1]).ndim != 2:
        raise TargetError(f"litert: a {node.kind} needs one row for each image and stored weights")
    order = (0, 1) if given.get("transB", 0) else (1, 0)
    source, kernel, bias, target, fused = _layer(self, node, form, order, 0)
    options = {"fusedActivationFunction": fused, "keepNumDims": False}
    self.emit("FULLY_CONNECTED", [source, kernel, bias], target, "FullyConnectedOptions", **options)


def _layer(
    self: _Writer, node: Node, form: Quantised | None, order: tuple[int, ...], axis: int
) -> tuple[int, int, int, int, int]:
    """Input, weights (transposed by `order`), bias, output and activation of a layer."""
    weight = self.graph.constant(node.inputs[1])
    outputs = weight.transpose(order).shape[axis]
    bias = np.zeros(outputs, np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = bias + self.graph.constant(node.inputs[2]).astype(np.float32).reshape(-1)
    stored = self.graph.quantised.get(node.inputs[1])
    if form is None or stored is None or stored.dtype != np.int8 or stored.zero.any():
        self.layers["fp32"] += 1
        fused, last = (0, node) if form is not None else self.activation(node)
        kernel = self.constant(weight.astype(np.float32).transpose(order))
        source, shift = self.float(node.inputs[0]), self.constant(bias)
        if last is not node:
            self.done.add(last.output)
        return source, kernel, shift, self.result(last, None), fused
    self.layers["int8"] += 1
    data = self.graph.quantised[node.inputs[0]]
    scale = np.broadcast_to(stored.scale, (outputs,))
    steps = scale * data.scale[0]
    zeros = np.zeros(outputs, np.int64)
    integers = self.graph.constants[stored.name].transpose(order)
    kernel = self.constant(np.ascontiguousarray(integers), (scale, zeros, axis))
    shift = self.constant(np.rint(bias / steps).astype(np.int32), (steps, zeros, 0))
    return self.integers[data.name], kernel, shift, self.result(node, form), 0


def _bounds(self: _Writer, node: Node) -> tuple[float | None, float | None]:
    given = [self.graph.constant(name) if name else None for name in [*node.inputs[1:], "", ""][:2]]
    low, high = (None if one is None else float(one.reshape(-1)[0]) for one in given)
    return low, high


def _clip(self: _Writer, node: Node, form: Quantised | None) -> None:
    del form
    if node.output in self.done:
        return
    low, high = (0.0, None) if node.kind == "Relu" else _bounds(self, node)
    source = self.float(node.inputs[0])
    if (low, high) in ((0.0, None), (0.0, 6.0)):
        self.emit("RELU" if high is None else "RELU6", [source], self.result(node, None))
        return
    shape = self.last(self.graph.shapes[node.output])
    for code, bound in (("MAXIMUM", low), ("MINIMUM", high)):
        if bound is not None:
            value = self.constant(np.array([bound], np.float32))
            source = self.emit(code, [source, value], self.tensor(FLOAT, shape), "MaximumMinimumOptions")
    self.floats[node.output] = source


def _pool(self: _Writer, node: Node, form: Quantised | None) -> None:
    given = windows(node)
    kernel, strides, pads, dilation = given
    if dilation != [1, 1]:
        raise TargetError(f"litert: a {node.kind} with dilation is not supported: {dilation}")
    most = node.kind == "MaxPool"
    source = self.float(node.inputs[0]) if form is None else self.integer_inputs(node)[0]
    include = bool(node.attributes.get("count_include_pad", 0))
    if most:
        source, padding = _padding(self, node, source, given, value=float(np.finfo(np.float32).min))
    elif any(pads) and include:
        source, padding = self.padded(source, pads), self.schema.Padding.VALID
    else:
        source, padding = _padding(self, node, source, given)
        if any(pads) and padding == self.schema.Padding.VALID:
            raise TargetError(f"litert: an AveragePool that leaves out this padding is not supported: {pads}")
    options = {
        "padding": padding, "strideH": strides[0], "strideW": strides[1],
        "filterHeight": kernel[0], "filterWidth": kernel[1],
    }  # fmt: skip
    code = "MAX_POOL_2D" if most else "AVERAGE_POOL_2D"
    shape = self.last(self.graph.shapes[node.output])
    _keeping_scale(
        self,
        node,
        form,
        source,
        shape,
        lambda out: self.emit(code, [source], out, "Pool2DOptions", **options),
    )


def _keeping_scale(
    self: _Writer,
    node: Node,
    form: Quantised | None,
    source: int,
    shape: Sequence[int],
    emit: Callable[[int], int],
) -> None:
    """An operator whose integer output has its input's scale; another scale is an operator of its own."""
    if form is None:
        emit(self.result(node, None))
        return
    between = self.tensors[source].quantization
    wanted = self.form(form)
    if np.array_equal(between.scale, wanted[0]) and np.array_equal(between.zeroPoint, wanted[1]):
        emit(self.result(node, form))
        return
    self.emit("QUANTIZE", [emit(self.like(source, shape))], self.result(node, form))


def _mean(self: _Writer, node: Node, form: Quantised | None) -> None:
    shape = self.graph.shapes[node.inputs[0]]
    axes = node.attributes.get("axes")
    if node.kind == "ReduceMean" and len(node.inputs) > 1:
        axes = self.graph.constant(node.inputs[1]).tolist()
    if len(shape) != 3 or (
        node.kind == "ReduceMean" and (axes is None or sorted(a % 4 for a in axes) != [2, 3])
    ):
        raise TargetError(f"litert: a {node.kind} must be over height and width, not {axes}")
    keep = node.kind == "GlobalAveragePool" or bool(node.attributes.get("keepdims", 1))
    whole = self.constant(np.array([1, 2], np.int32))
    source = (
        self.float(node.inputs[0])
        if form is None
        else self.integers[self.graph.quantised[node.inputs[0]].name]
    )
    self.emit("MEAN", [source, whole], self.result(node, form), "ReducerOptions", keepDims=keep)


def _arithmetic(self: _Writer, node: Node, form: Quantised | None) -> None:
    code = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}[node.kind]
    options = f"{node.kind}Options"
    constants = [name for name in node.inputs if name in self.graph.constants]
    if form is not None and node.kind == "Add" and not constants:
        self.emit(code, self.integer_inputs(node), self.result(node, form), options)
        return
    channels, dimensions = self.graph.shapes[node.output][0], len(self.graph.shapes[node.output])
    inputs: list[int] = []
    for name in node.inputs:
        if name in self.graph.constants:
            values = channel_values(self.graph.constants[name].astype(np.float32), channels, dimensions)
            inputs.append(self.constant(np.ascontiguousarray(values)))
        else:
            inputs.append(self.float(name))
    fused, last = self.activation(node)
    if last is not node:
        self.done.add(last.output)
    self.emit(code, inputs, self.result(last, None), options, fusedActivationFunction=fused)


def _normalise(self: _Writer, node: Node, form: Quantised | None) -> None:
    del form
    gamma, beta, mean, variance = (self.graph.constant(name).astype(np.float32) for name in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
    between = self.tensor(FLOAT, self.last(self.graph.shapes[node.output]))
    self.emit("MUL", [self.float(node.inputs[0]), self.constant(scale)], between, "MulOptions")
    fused, last = self.activation(node)
    if last is not node:
        self.done.add(last.output)
    shift = self.constant(beta - mean * scale)
    self.emit("ADD", [between, shift], self.result(last, None), "AddOptions", fusedActivationFunction=fused)


def _concat(self: _Writer, node: Node, form: Quantised | None) -> None:
    dimensions = len(self.graph.shapes[node.output])
    if node.attributes["axis"] not in (1, -dimensions):
        raise TargetError(f"litert: a Concat must be along the channels, not axis {node.attributes['axis']}")
    if form is None:
        inputs = [self.float(name) for name in node.inputs]
    else:
        inputs = []
        for source in self.integer_inputs(node):
            target = self.tensor(INT8, self.tensors[source].shape, form=self.form(form))
            inputs.append(self.emit("QUANTIZE", [source], target))
    self.emit("CONCATENATION", inputs, self.result(node, form), "ConcatenationOptions", axis=dimensions)


def _reshape(self: _Writer, node: Node, form: Quantised | None) -> None:
    before, after = self.graph.shapes[node.inputs[0]], self.graph.shapes[node.output]
    source = (
        self.float(node.inputs[0])
        if form is None
        else self.integers[self.graph.quantised[node.inputs[0]].name]
    )
    if before == after:
        _keeping_scale(self, node, form, source, self.last(after), lambda out: _copy(self, source, out))
        return
    if len(after) != 1:
        raise TargetError(
            f"litert: a {node.kind} of {before} to {after} is not supported, only to one row an image"
        )
    if len(before) == 3 and before[0] > 1 and before[1] * before[2] > 1:
        order = self.constant(np.array([0, 3, 1, 2], np.int32))
        source = self.emit("TRANSPOSE", [source, order], self.like(source, (1, *before)), "TransposeOptions")
    sizes = self.constant(np.array([-1, after[0]], np.int32))
    rows = source
    _keeping_scale(
        self,
        node,
        form,
        source,
        (1, *after),
        lambda out: self.emit("RESHAPE", [rows, sizes], out, "ReshapeOptions"),
    )


def _copy(self: _Writer, source: int, target: int) -> int:
    sizes = self.constant(np.array([-1, *self.tensors[source].shape[1:]], np.int32))
    return self.emit("RESHAPE", [source, sizes], target, "ReshapeOptions")


def schema() -> Any:
    """LiteRT's schema of its files.

    Raises:
        TargetError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated  # pyright: ignore - an optional runtime
    except ImportError:
        raise TargetError('litert is not installed; pip install "ai-edge-litert>=1.3"') from None
    return schema_py_generated


WRITERS: dict[str, Callable[[_Writer, Node, Quantised | None], None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Relu": _clip,
    "Clip": _clip,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
    "BatchNormalization": _normalise,
    "Concat": _concat,
}
"""What writes each ONNX operator."""
