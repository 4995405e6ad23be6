"""QONNX: a low-bit network as an ONNX file whose quantisers are nodes, for FINN, hls4ml and others.

    pixels      bytes 0..255, annotated UINT8; q = round(pixel (2^b - 1) / 255), value 2 q - (2^b - 1)
    weights     BipolarQuant (1 bit), Quant (ternary; k bits), straight into Conv or MatMul
    thresholds  Add (1 bit), Mul and Add (k bits), as `frozen` has them
    activation  BipolarQuant (1 bit), or Quant, Mul 2, Add 1 (k bits)
    logits      float32: the last sums, Mul, Add

What flows between the layers of these networks are odd integers, -3, -1, 1, 3 for 2 bits (`quant.steps`).
QONNX counts -2, -1, 0, 1 instead, and FINN and hls4ml take no zero point but 0. So an activation is a signed
k-bit `Quant` of scale 1 followed by v = 2 m + 1, which FINN moves behind the next product and into the
thresholds there; weights of k bits, which are constants, are written as they are, odd integers in a narrow
`Quant` of k + 1 bits. One bit needs none of this: -1 and 1 are both what the network and what QONNX mean.

The network is the frozen one (`frozen.py`): behind integer sums no value lies at a tie of `Quant`, so that
every reader has the network's levels, however it orders its float operations. Behind real values (a residual
network's shortcut), and behind sums in the millions, `Quant` rounds down, which QONNX can and FINN cannot
express:

    floor(x n / 2), n = 2^k - 1,  is the number of thresholds that x reaches, less 2^(k-1)

for every float32 x, but for a single one at 5 bits, next to a threshold. Float layers stay float.

FINN wants a static batch, MatMul in place of Gemm, no bias, weights that need no transposing, every attribute
of a convolution, and no float parameters but scalars and one per channel; the file has all of these. A padded
convolution behind k-bit activations, or behind the pixels, keeps its v = 2 m + 1 before it (the padded zeros
are zeros of v), which FINN cannot move.

Example:
    >>> from tersa.models.zoo import build
    >>> header = Header(("a", "b"), (1, 2, 2), (0.0,), (1.0,))
    >>> model = build_qonnx(build("tfc", (1, 2, 2), 2).eval(), header)
    >>> [node.op_type for node in model.graph.node][:8]
    ['Mul', 'Add', 'Flatten', 'BipolarQuant', 'MatMul', 'Add', 'BipolarQuant', 'BipolarQuant']

References:
    Pappalardo et al., QONNX: Representing Arbitrary-Precision Quantized Neural Networks (2022), section V.
    Umuroglu & Jahre, Streamlined Deployment for Quantized Neural Networks (2017), for what FINN does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, StringStringEntryProto, TensorAnnotation, helper, numpy_helper
from torch import nn

from tersa.data.task import Task
from tersa.errors import ModelError
from tersa.export.artefact import INPUT, OUTPUT, Artefact, Header
from tersa.export.frozen import (
    Affine,
    Block,
    Conv2d,
    Levels,
    Linear,
    Pixels,
    Scale,
    freeze,
    is_low_bit,
    reads_pixels,
    require_pixels,
)
from tersa.export.onnx import Deployed, evaluation_copy
from tersa.files import write_atomic
from tersa.quant.layers import FLOAT, SumPool2d
from tersa.quant.steps import steps
from tersa.quant.xnor import Xnor

OPSET = 13
"""The first that has per-channel QuantizeLinear and 8-bit Clip, which qonnx's conversion to QCDQ makes."""
IR_VERSION = 8
DOMAIN = "qonnx.custom_op.general"
BYTE = 255


def export_qonnx(network: nn.Module, task: Task | Header, path: Path) -> Artefact:
    """Write a low-bit network as a QONNX file for one image at a time.

    Args:
        network: a low-bit network (`models.lowbit`). It is not changed.
        task: what it was trained on, or the header to write.
        path: of the file; replaced whole when the export has succeeded.

    Returns:
        The artefact; its file takes bytes 0..255 as float32, its module pixels in 0..1.

    Raises:
        ModelError: not a low-bit network, or a layer that QONNX cannot express.
    """
    header = task if isinstance(task, Header) else Header.of(task)
    module = evaluation_copy(network)
    write_atomic(path, build_qonnx(module, header).SerializeToString(deterministic=True))
    return Artefact(path, header, Deployed(module, header))


def build_qonnx(module: nn.Module, header: Header, batch: int = 1) -> onnx.ModelProto:
    """The QONNX model of a low-bit network in evaluation mode.

    Args:
        module: see `export_qonnx`.
        header: its classes, shape and normalisation.
        batch: images that one call takes; a static number, as FINN wants it.

    Raises:
        ModelError: not a low-bit network, or a layer that QONNX cannot express.
    """
    if not is_low_bit(module):
        raise ModelError(
            "QONNX is for low-bit networks (cnv+w1a1, sfc, bvgg16, ...), this one has only float layers; "
            "export it as onnx"
        )
    if any(isinstance(part, Xnor) for part in module.modules()):
        raise ModelError(
            "QONNX files hold no factor that follows from the inputs, and scale=xnor has one; "
            "export it with --format onnx, or train it with scale=channel"
        )
    require_pixels(module, header)
    frozen = freeze(module)
    writer = _Writer(header)
    if not reads_pixels(frozen):
        mean, std = np.asarray(header.mean), np.asarray(header.std)
        writer.affine([1 / (BYTE * std)], -mean / std)
    with torch.no_grad():
        for layer in frozen:
            _write(writer, layer)
    return writer.model(batch)


@dataclass
class _Writer:
    """A graph that grows at its end.

    Attributes:
        header: of the network.
        at: the tensor that the next node reads.
        flat: whether (N, F) is there, and not (N, C, H, W).
    """

    header: Header
    at: str = INPUT
    flat: bool = False
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    stored: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])
    annotations: list[TensorAnnotation] = field(default_factory=list[TensorAnnotation])

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node that reads `at` and stored tensors; returns, and goes on from, its output."""
        self.at = self.apart(kind, self.at, *inputs, name=name, **attributes)
        return self.at

    def apart(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node beside the line; returns its output."""
        count = sum(node.op_type == kind for node in self.nodes)
        name = name or f"{kind}_{count}"
        domain = {"domain": DOMAIN} if kind in ("Quant", "BipolarQuant") else {}
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **domain, **attributes))
        return f"{name}_out"

    def constant(self, name: str, value: npt.ArrayLike, datatype: str = "") -> str:
        """Store a float32 tensor under a name, and say which integers it holds."""
        taken = {tensor.name for tensor in self.stored}
        while name in taken:
            name += "_"
        self.stored.append(numpy_helper.from_array(np.array(value, np.float32), name))
        if datatype:
            self.annotate(name, datatype)
        return name

    def places(self) -> str:
        """Rows and columns, as axes."""
        self.stored.append(numpy_helper.from_array(np.array([2, 3], np.int64), "rows_and_columns"))
        return "rows_and_columns"

    def annotate(self, tensor: str, datatype: str) -> None:
        """Note a QONNX data type at a tensor."""
        entry = StringStringEntryProto(key="finn_datatype", value=datatype)
        self.annotations.append(TensorAnnotation(tensor_name=tensor, quant_parameter_tensor_names=[entry]))

    def quant(self, tensor: str, bits: int, *, narrow: bool, rounding: str = "ROUND", name: str = "") -> str:
        """Signed integers of so many bits, at scale 1; one bit is -1 and 1."""
        scale = self.constant(f"{name or 'unit'}_scale", 1.0)
        if bits == 1:
            return self.apart("BipolarQuant", tensor, scale, name=name)
        zero = self.constant(f"{name or 'unit'}_zero", 0.0)
        width = self.constant(f"{name or 'unit'}_bits", float(bits))
        return self.apart(
            *("Quant", tensor, scale, zero, width),
            name=name,
            signed=1,
            narrow=int(narrow),
            rounding_mode=rounding,
        )

    def odd(self, bits: int, rounding: str = "ROUND") -> None:
        """A quantiser, and v = 2 m + 1."""
        self.at = self.quant(self.at, bits, narrow=False, rounding=rounding)
        if bits > 1:
            self.node("Mul", self.constant("two", 2.0, "UINT2"))
            self.node("Add", self.constant("one", 1.0, "UINT1"))

    def affine(self, factors: Sequence[npt.ArrayLike], shift: npt.ArrayLike) -> None:
        """x factor ... + shift per channel, one node for each step that changes anything."""
        shape = (1, -1) if self.flat else (1, -1, 1, 1)
        for factor in factors:
            if not np.all(np.asarray(factor) == 1):
                self.node("Mul", self.constant("scale", np.reshape(factor, shape)))
        self.node("Add", self.constant("shift", np.reshape(shift, shape)))

    def model(self, batch: int) -> onnx.ModelProto:
        """All of it, checked."""
        self.nodes[-1].output[0] = OUTPUT
        self.annotate(INPUT, "UINT8")
        graph = helper.make_graph(
            self.nodes,
            "tersa",
            [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [batch, *self.header.shape])],
            [
                helper.make_tensor_value_info(
                    OUTPUT, onnx.TensorProto.FLOAT, [batch, len(self.header.classes)]
                )
            ],
            self.stored,
        )
        graph.quantization_annotation.extend(self.annotations)
        model = helper.make_model(
            graph,
            producer_name="tersa",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        )
        helper.set_model_props(model, self.header.properties() | {"input_values": "bytes 0..255"})
        onnx.checker.check_model(model)
        return model


def _write(writer: _Writer, layer: nn.Module) -> None:
    match layer:
        case Pixels():
            _pixels(writer, layer.bits)
        case Conv2d() | Linear():
            _product(writer, layer)
        case Affine():
            writer.affine([factor.numpy() for factor in layer.factors()], layer.shift.numpy())
        case Scale():
            writer.node("Mul", writer.constant("half_steps", layer.factor))
        case Levels():
            writer.odd(layer.bits, "ROUND" if layer.half_even else "FLOOR")
        case SumPool2d():
            writer.node("ReduceSum", writer.places(), keepdims=0)
            writer.flat = True
        case nn.MaxPool2d():
            kernel = _pair(layer.kernel_size)
            writer.node("MaxPool", kernel_shape=kernel, strides=_pair(layer.stride))
        case nn.Flatten():
            writer.node("Flatten", axis=1)
            writer.flat = True
        case nn.ReLU():
            writer.node("Relu")
        case Block():
            _block(writer, layer)
        case _:
            raise ModelError(
                f"QONNX export knows no {type(layer).__name__}; it takes what `models.lowbit` builds"
            )


def _pixels(writer: _Writer, bits: int) -> None:
    """Bytes as they are stored, and the levels that the network makes of them."""
    if bits == 8:
        writer.node("Mul", writer.constant("two", 2.0, "UINT2"))
        writer.node("Add", writer.constant("black", -BYTE, "INT9"))
        return
    if bits > 1:
        writer.node("Mul", writer.constant("per_byte", steps(bits) / BYTE))
    middle = BYTE / 2 if bits == 1 else 1 << (bits - 1)
    writer.node("Add", writer.constant("middle", -middle))
    writer.odd(bits)


def _product(writer: _Writer, layer: Conv2d | Linear) -> None:
    """Weights through their quantiser, the product with them, and the bias as a node of its own."""
    count = sum(node.op_type in ("Conv", "MatMul") for node in writer.nodes)
    levels = layer.weight.numpy()
    if isinstance(layer, Linear):
        levels = np.ascontiguousarray(levels.T)  # (I, O), as MatMul reads it
    weight = writer.constant(f"weight_{count}", levels)
    if layer.bits != FLOAT:
        width = 2 if layer.bits == "ternary" else layer.bits if layer.bits == 1 else layer.bits + 1
        weight = writer.quant(weight, width, narrow=True, name=f"weight_{count}_quant")
    if isinstance(layer, Linear):
        writer.node("MatMul", weight)
    else:
        (top, left), stride, kernel = _pair(layer.padding), _pair(layer.stride), _pair(layer.kernel_size)
        where: dict[str, Any] = {"pads": [top, left, top, left], "dilations": [1, 1], "group": 1}
        writer.node("Conv", weight, kernel_shape=kernel, strides=stride, **where)
    if layer.bias is not None:
        writer.affine([], layer.bias.numpy())


def _block(writer: _Writer, block: Block) -> None:
    start = writer.at
    for layer in block.main:
        _write(writer, layer)
    main, writer.at = writer.at, start
    if block.pool > 1:
        size = _pair(block.pool)
        writer.node("AveragePool", kernel_shape=size, strides=size, ceil_mode=1, count_include_pad=0)
    if block.copies > 1:
        writer.at = writer.apart("Concat", *[writer.at] * block.copies, axis=1)
    writer.node("Add", main)


def _pair(size: int | tuple[int, ...] | str) -> list[int]:
    assert not isinstance(size, str), "low-bit convolutions give their padding in numbers"
    return [size, size] if isinstance(size, int) else list(size)
