"""Make an ONNX graph small and its bytes repeatable, without changing what it computes.

torch writes a stack trace, a class hierarchy and the text of the traced node into every node, and the shape
of every intermediate tensor beside it: 12 kB for an eleven-node network whose own description needs 1 kB.

Example:
    >>> import onnx
    >>> from onnx import helper
    >>> x, y = (helper.make_tensor_value_info(name, 1, ["batch", 2]) for name in ("pixels", "logits"))
    >>> node = helper.make_node("Relu", ["pixels"], ["logits"], doc_string="found in a file far away")
    >>> model = helper.make_model(helper.make_graph([node], "main", [x], [y]))
    >>> lean_(model, {"schema": "1"})
    >>> model.graph.node[0].doc_string
    ''
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

NEUTRAL = {"pads": 0, "dilations": 1, "strides": 1}
"""Attributes whose default the schema tells in prose only: left out, they mean this value on every axis."""

WINDOWED = ("Conv", "MaxPool", "AveragePool")


def lean_(model: onnx.ModelProto, properties: dict[str, str]) -> None:
    """Strip a model of everything that does not change its output, and write its metadata, in place.

    Args:
        model: a checked model whose stored tensors are inside it.
        properties: become the model's only metadata.
    """
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    _average_globally(graph)
    _merge_equal_constants(graph)
    _drop_unread_constants(graph)
    for node in graph.node:
        _strip_node(node, opset)
    _rename(graph)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for name in ("doc_string", "metadata_props", "value_info"):
        graph.ClearField(name)
    for name in (
        "doc_string",
        "metadata_props",
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
    ):
        model.ClearField(name)
    graph.name = "tersa"
    model.producer_name = "tersa"
    helper.set_model_props(model, properties)


def _strip_node(node: NodeProto, opset: int) -> None:
    for name in ("doc_string", "metadata_props", "name"):
        node.ClearField(name)
    if node.domain:
        return
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    kept = [a for a in node.attribute if not _is_default(node, a, schema.attributes.get(a.name))]
    kept.sort(key=lambda attribute: attribute.name)
    for attribute in kept:
        attribute.ClearField("doc_string")
    copies = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
    node.ClearField("attribute")
    node.attribute.extend(copies)


def _is_default(
    node: NodeProto, given: onnx.AttributeProto, known: onnx.defs.OpSchema.Attribute | None
) -> bool:
    value = helper.get_attribute_value(given)
    if node.op_type in WINDOWED and given.name in NEUTRAL:
        return all(item == NEUTRAL[given.name] for item in value)
    if known is None or not known.default_value.name:
        return False
    return helper.get_attribute_value(known.default_value) == value


def _average_globally(graph: GraphProto) -> None:
    """The mean over rows and columns becomes `GlobalAveragePool`, which runtimes have in INT8."""
    axes = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT64}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input)}
    for node in list(graph.node):
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in axes:
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        over = sorted(int(axis) % 4 for axis in numpy_helper.to_array(axes[node.input[1]]).reshape(-1))
        if ranks.get(node.input[0]) != 4 or over != [2, 3]:
            continue
        node.op_type = "GlobalAveragePool"
        del node.input[1]
        node.ClearField("attribute")
        if not given.get("keepdims", 1):
            flatten = helper.make_node("Flatten", [f"{node.output[0]}.map"], [node.output[0]])
            node.output[0] = flatten.input[0]
            graph.node.insert(list(graph.node).index(node) + 1, flatten)


def _merge_equal_constants(graph: GraphProto) -> None:
    """Keep one of every group of equal small constants (scales, zero points, shapes)."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), value.tobytes())
        same[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def _drop_unread_constants(graph: GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    graph.ClearField("initializer")
    graph.initializer.extend(copies)


def _rename(graph: GraphProto) -> None:
    """Weights keep the name of their parameter; other tensors get the shortest name, in reading order."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    taken = set(names)
    for tensor in graph.initializer:
        own = tensor.name.removesuffix("_quantized").replace(".weight_bias", ".bias")
        if _is_parameter(tensor) and own not in taken:
            names[tensor.name] = own
            taken.add(own)
    count = 0
    for name in (name for node in graph.node for name in (*node.input, *node.output)):
        if not name or name in names:
            continue
        while (short := np.base_repr(count, 36).lower()) in taken:
            count += 1
        names[name] = short
        taken.add(short)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]


def _is_parameter(tensor: TensorProto) -> bool:
    return (
        "." in tensor.name
        and tensor.name.rsplit(".", 1)[1].split("_")[0] in ("weight", "bias")
        and ("_scale" not in tensor.name and "_zero_point" not in tensor.name)
    )
