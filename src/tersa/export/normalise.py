"""Put the normalisation `(pixels - mean) / std` into an exported graph at the least cost.

For a convolution or a fully connected layer with weights W and bias b that reads the pixels x,

    W ((x - m) / s) + b  =  (W / s) x + (b - (W / s) m)

so the division always disappears into the weights: exactly, up to the rounding of float32. The subtraction
does too, except where a convolution pads: its border is 0 after the normalisation, which is m before it.
There one `Sub` stays (0.3 us for a 28x28 image in ONNX Runtime 1.31, the same as `BatchNormalization`; `Mul`
and `Add`, or `Sub` and `Div`, cost twice that). Where something else reads the pixels, one
`BatchNormalization` does all of it.

What this does not do: look through more than one flattening layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from tersa.export.artefact import INPUT, Header

Array = npt.NDArray[np.float64]


def normalise_(model: onnx.ModelProto, header: Header) -> None:
    """Make a graph that takes normalised input take pixels in 0..1, in place.

    Args:
        model: input `pixels` (N, C, H, W), which the network behind it expects normalised.
        header: its shape, mean and standard deviation.
    """
    graph = _Graph(model)
    mean, std = np.asarray(header.mean), np.asarray(header.std)
    shifted: list[tuple[NodeProto, int]] = []
    whole: list[tuple[NodeProto, int]] = []
    for node, slot in graph.readers(INPUT):
        if _is_layer(graph, node, slot, "Conv"):
            if not _fold_convolution(graph, node, mean, std):
                shifted.append((node, slot))
        elif not _fold_flattened(graph, node, header, mean, std):
            whole.append((node, slot))
    if shifted and np.any(mean):
        offset = graph.add("pixel_mean", mean.reshape(-1, 1, 1))
        graph.prepend(helper.make_node("Sub", [INPUT, offset], ["centred"], "normalise"), shifted)
    if whole and (np.any(mean) or np.any(std != 1.0)):
        graph.prepend(_batch_normalisation(graph, mean, std), whole)


@dataclass(frozen=True)
class _Graph:
    """The few questions that folding asks of a model."""

    model: onnx.ModelProto

    def readers(self, name: str) -> list[tuple[NodeProto, int]]:
        """Every (node, input slot) that reads the tensor `name`."""
        return [
            (node, slot)
            for node in self.model.graph.node
            for slot, read in enumerate(node.input)
            if read == name
        ]

    def constant(self, name: str) -> Array | None:
        """A stored tensor in float64, or None when `name` is computed."""
        for stored in self.model.graph.initializer:
            if stored.name == name:
                return numpy_helper.to_array(stored).astype(np.float64)
        return None

    def add(self, name: str, value: Array) -> str:
        """Store a float32 tensor under `name`, or under a free name that begins with it."""
        taken = {stored.name for stored in self.model.graph.initializer}
        while name in taken:
            name += "_"
        self.model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def replace(self, node: NodeProto, slot: int, value: Array) -> None:
        """Give one node another stored tensor; other readers of the old one keep it."""
        old = node.input[slot] if slot < len(node.input) else f"{node.input[1]}_bias"
        shared = len(self.readers(old)) != 1
        if not shared:
            stored = next(tensor for tensor in self.model.graph.initializer if tensor.name == old)
            self.model.graph.initializer.remove(stored)
        name = self.add(old, value)
        if slot < len(node.input):
            node.input[slot] = name
        else:
            node.input.append(name)

    def prepend(self, first: NodeProto, readers: list[tuple[NodeProto, int]]) -> None:
        """Put a node at the front and let `readers` read it instead of the input."""
        for node, slot in readers:
            node.input[slot] = first.output[0]
        self.model.graph.node.insert(0, first)


def _attribute(node: NodeProto, name: str, default: object) -> object:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _fold_convolution(graph: _Graph, node: NodeProto, mean: Array, std: Array) -> bool:
    """Fold the division, and the subtraction where nothing is padded. Returns whether both are folded."""
    weight = graph.constant(node.input[1])
    assert weight is not None
    groups = _attribute(node, "group", 1)
    assert isinstance(groups, int)
    outputs, inputs = weight.shape[:2]
    group_of = np.arange(outputs) // (outputs // groups)
    channel = group_of[:, None] * inputs + np.arange(
        inputs
    )  # (O, C / groups): the channel that a weight reads
    scaled = weight / std[channel][:, :, None, None]
    padded = _attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    pads = _attribute(node, "pads", [0])
    if padded or (isinstance(pads, list | tuple) and any(pads)):
        graph.replace(node, 1, scaled)
        return not np.any(mean)
    bias = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(outputs)
    assert bias is not None
    graph.replace(node, 1, scaled)
    shift = (scaled.sum(axis=(2, 3)) * mean[channel]).sum(axis=1)
    if np.any(mean):
        graph.replace(node, 2, bias - shift)
    return True


def _fold_flattened(graph: _Graph, flatten: NodeProto, header: Header, mean: Array, std: Array) -> bool:
    """Fold all of it into the fully connected layers behind one flattening. Returns whether it is folded."""
    c, h, w = header.shape
    if not _flattens(graph, flatten, c * h * w):
        return False
    layers = graph.readers(flatten.output[0])
    if not layers or not all(_is_layer(graph, node, slot, "Gemm", "MatMul") for node, slot in layers):
        return False
    std_of, mean_of = np.repeat(std, h * w), np.repeat(mean, h * w)  # (C H W): of each flat pixel
    for node, _ in layers:
        weight = graph.constant(node.input[1])
        assert weight is not None
        rows_are_outputs = node.op_type == "Gemm" and _attribute(node, "transB", 0) == 1
        scaled = weight / std_of if rows_are_outputs else weight / std_of[:, None]
        graph.replace(node, 1, scaled)
        if not np.any(mean):
            continue
        shift = scaled @ mean_of if rows_are_outputs else mean_of @ scaled
        bias = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(len(shift))
        assert bias is not None
        graph.replace(node, 2, bias - shift)
        node.op_type = "Gemm"
    return True


def _flattens(graph: _Graph, node: NodeProto, size: int) -> bool:
    if node.op_type == "Flatten":
        return _attribute(node, "axis", 1) == 1
    if node.op_type != "Reshape":
        return False
    target = graph.constant(node.input[1])
    return (
        target is not None
        and target.shape == (2,)
        and int(target[0]) in (-1, 0)
        and int(target[1]) in (-1, size)
    )


def _is_layer(graph: _Graph, node: NodeProto, slot: int, *kinds: str) -> bool:
    """Whether the node only multiplies its first input by stored weights and adds a stored bias, or none."""
    plain = (
        _attribute(node, "alpha", 1.0) == 1.0
        and _attribute(node, "beta", 1.0) == 1.0
        and _attribute(node, "transA", 0) == 0
    )
    stored = all(graph.constant(name) is not None for name in node.input[1:])
    return node.op_type in kinds and slot == 0 and plain and stored


def _batch_normalisation(graph: _Graph, mean: Array, std: Array) -> NodeProto:
    """`1 / std (x - mean) / sqrt(1 + 0) + 0`."""
    names = [
        graph.add("pixel_scale", 1.0 / std),
        graph.add("pixel_shift", np.zeros_like(mean)),
        graph.add("pixel_mean", mean),
        graph.add("pixel_variance", np.ones_like(std)),
    ]
    return helper.make_node("BatchNormalization", [INPUT, *names], ["normalised"], "normalise", epsilon=0.0)
