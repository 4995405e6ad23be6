"""A network as C99 source: direct loops, FP32, and INT8 products for the layers of a QDQ file.

The source is `direct.h` with one call for each operator; the weights are a second file, so that a large
network still compiles in a second. Memory for intermediate tensors comes from the caller, and tensors that
are not alive together share it.

    long tersa_arena_bytes(void);
    void tersa_run(const unsigned char *weights, unsigned char *arena,
                   const float *pixels, float *logits, long images);

INT8 layers multiply uint8 by int8 and add in int32; their sums are scaled in float, and everything between
layers (pooling, additions) is float. This is the plain baseline that other runtimes are held against, slow by
design: no tiling, no intrinsics, no threads.

Example:
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from tersa.export.artefact import Header
    >>> from tersa.export.onnx import export_onnx
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> header = Header(("dark", "bright"), (1, 2, 2), (0.5,), (0.25,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     program = c_direct(export_onnx(network, header, Path(folder) / "tiny.onnx").path)
    >>> len(program.weights), dict(program.layers)
    (96, {'fp32': 1})
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np

from tersa.errors import TargetError
from tersa.export.graph import (
    Array,
    Graph,
    Node,
    Shape,
    channel_values,
    outputs_first,
    read_graph,
    read_linear,
    require_kinds,
    windows,
)

ALIGN = 64
"""Bytes of a cache line: every tensor begins on one."""

SAME = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
"""Operators that only rename values, as long as the batch stays in front."""


@dataclass(frozen=True)
class CProgram:
    """What `c_direct` writes.

    Attributes:
        source: C99, complete.
        weights: stored tensors, little-endian, each at a multiple of `ALIGN`.
        layers: convolutions and matrix products by precision.
    """

    source: str
    weights: bytes
    layers: Counter[str]


def c_direct(path: Path) -> CProgram:
    """The C program of an artefact.

    Raises:
        ModelError: not an ONNX file.
        TargetError: an operator, or a form of one, that this writer does not have.
    """
    graph = read_graph(path)
    require_kinds(graph, (*WRITERS, *SAME), "c")
    writer = _Writer(graph)
    for index, node in enumerate(graph.nodes):
        writer.now = index
        writer.write(node)
    return writer.finish()


@dataclass
class _Writer:
    """Collects calls, stored tensors and places in the arena."""

    graph: Graph
    calls: list[str] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)
    layers: Counter[str] = field(default_factory=Counter)
    now: int = 0
    roots: dict[str, str] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    arena: int = 0

    def write(self, node: Node) -> None:
        if node.kind in SAME:
            self.roots[node.output] = self.root(node.inputs[0])
            self.require_live(node)
        else:
            WRITERS[node.kind](self, node)

    def require_live(self, node: Node) -> None:
        if self.graph.output == node.output:
            self.call(
                "memcpy", self.float(node.output), self.float(node.inputs[0]), f"{4 * self.size(node.output)}"
            )

    def finish(self) -> CProgram:
        body = "\n".join(f"    {line}" for line in self.calls)
        pixels, logits = self.size(self.graph.input), self.size(self.graph.output)
        text = (
            f"{files('tersa.export').joinpath('direct.h').read_text(encoding='utf-8')}\n"
            f"long tersa_arena_bytes(void) {{ return {max(self.arena, 1)}; }}\n\n"
            "void tersa_run(const unsigned char *weights, unsigned char *arena, const float *pixels, "
            "float *logits, long images) {\n"
            f"  for (long n = 0; n < images; n++, pixels += {pixels}, logits += {logits}) {{\n"
            f"{body}\n  }}\n}}\n"
        )
        return CProgram(text, bytes(self.weights), self.layers)

    def call(self, name: str, *arguments: str) -> None:
        self.calls.append(f"{name}({', '.join(arguments)});")

    def root(self, name: str) -> str:
        return self.roots.get(name, name)

    def shape(self, name: str) -> Shape:
        return self.graph.shapes[name]

    def size(self, name: str) -> int:
        return int(np.prod(self.shape(name)))

    def stored(self, values: Array, kind: str = "float") -> str:
        """A constant, written into the weights; the text of a pointer to it."""
        dtype = {"float": "<f4", "int8_t": "<i1"}[kind]
        self.weights.extend(b"\0" * (-len(self.weights) % ALIGN))
        start = len(self.weights)
        self.weights.extend(np.ascontiguousarray(values, dtype=dtype).tobytes())
        return f"(const {kind} *)(weights + {start})"

    def float(self, name: str) -> str:
        """The text of a pointer to a tensor of floats."""
        if name in self.graph.constants:
            return self.stored(self.graph.constants[name])
        root = self.root(name)
        if root == self.graph.input:
            return "pixels"
        if name == self.graph.output:
            return "logits"
        return f"(float *)(arena + {self.place(root, 4 * self.size(root))})"

    def bytes(self, name: str) -> str:
        """The text of a pointer to a tensor of bytes."""
        return f"(uint8_t *)(arena + {self.place(self.root(name), self.size(name))})"

    def place(self, root: str, size: int) -> int:
        """Where a tensor lies: the first gap between tensors that are still read."""
        if root in self.places:
            return self.places[root][0]
        alive = sorted(place for name, place in self.places.items() if self.last_read(name) >= self.now)
        start = 0
        for other, length in alive:
            if start + size <= other:
                break
            start = max(start, -(-(other + length) // ALIGN) * ALIGN)
        self.places[root] = (start, size)
        self.arena = max(self.arena, start + size)
        return start

    def last_read(self, root: str) -> int:
        """The last node that reads a tensor under any of its names."""
        names = {root}
        last = -1
        for index, node in enumerate(self.graph.nodes):
            if names.intersection(node.inputs) or self._integers(node) & names:
                last = index
                if node.kind in SAME:
                    names.add(node.output)
        return max(last, self.now if self.graph.nodes[self.now].output == root else -1)

    def _integers(self, node: Node) -> set[str]:
        forms = (self.graph.quantised.get(name) for name in node.inputs)
        return {form.name for form in forms if form is not None}

    def window(
        self, node: Node, kernel: list[int], strides: list[int], pads: list[int], dil: list[int]
    ) -> str:
        (c, h, w), (o, oh, ow) = self.shape(node.inputs[0]), self.shape(node.output)
        numbers = (
            c,
            h,
            w,
            o,
            oh,
            ow,
            *kernel,
            *strides,
            *pads[:2],
            *dil,
            int(node.attributes.get("group", 1)),
        )
        return f"(window){{{', '.join(str(number) for number in numbers)}}}"


def _conv(self: _Writer, node: Node) -> None:
    weight = self.graph.constant(node.inputs[1])
    _layer(self, node, "conv", weight.astype(np.float32), self.window(node, *windows(node, weight)))


def _gemm(self: _Writer, node: Node) -> None:
    turned = read_linear(self.graph, node, "c")
    sizes = ", ".join(str(size) for size in reversed(turned.shape))
    _layer(self, node, "linear", turned, sizes)


def _layer(self: _Writer, node: Node, name: str, weight: Array, rest: str) -> None:
    outputs = weight.shape[0]
    bias: Array = np.zeros(1, np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = np.broadcast_to(self.graph.constant(node.inputs[2]).astype(np.float32).reshape(-1), (outputs,))
    shift = "0" if not np.any(bias) else self.stored(bias)
    forms = self.graph.integer(node)
    if forms is None:
        self.layers["fp32"] += 1
        kept = self.stored(weight)
        self.call(f"{name}_f32", self.float(node.inputs[0]), kept, shift, self.float(node.output), rest)
        return
    self.layers["int8"] += 1
    data, form = forms
    integers = outputs_first(node, self.graph.constants[form.name])
    scale = np.broadcast_to(form.scale * data.scale[0], (outputs,))
    kept, factors = self.stored(integers, "int8_t"), self.stored(scale)
    given = [self.bytes(data.name), str(int(data.zero[0])), kept, factors, shift, self.float(node.output)]
    if name == "conv":
        width = self.shape(node.output)[2]
        given.append(f"(int32_t *)(arena + {self.place(f'{node.output} sums', 4 * width)})")
    self.call(f"{name}_i8", *given, rest)


def _clip(self: _Writer, node: Node) -> None:
    low, high = "0.0f", "INFINITY"
    if node.kind == "Clip":
        bounds = [self.graph.constant(name) if name else None for name in [*node.inputs[1:], "", ""][:2]]
        low, high = (
            other if bound is None else f"{float(bound.reshape(-1)[0])!r}f"
            for bound, other in zip(bounds, ("-INFINITY", "INFINITY"), strict=True)
        )
    self.call(
        "clip", self.float(node.inputs[0]), self.float(node.output), f"{self.size(node.output)}", low, high
    )


def _pool(self: _Writer, node: Node) -> None:
    shape = self.window(node, *windows(node))
    source, target = self.float(node.inputs[0]), self.float(node.output)
    if node.kind == "MaxPool":
        self.call("max_pool", source, target, shape)
    else:
        self.call("mean_pool", source, target, shape, str(int(node.attributes.get("count_include_pad", 0))))


def _mean(self: _Writer, node: Node) -> None:
    shape = self.shape(node.inputs[0])
    if node.kind == "ReduceMean":
        axes = node.attributes.get("axes")
        given = self.graph.constant(node.inputs[1]).tolist() if len(node.inputs) > 1 else axes
        if len(shape) != 3 or given is None or sorted(axis % 4 for axis in given) != [2, 3]:
            raise TargetError(f"c: a ReduceMean must be over height and width, not {given}")
    c, h, w = shape
    window = f"(window){{{c}, {h}, {w}, {c}, 1, 1, {h}, {w}, 1, 1, 0, 0, 1, 1, 1}}"
    self.call("mean_pool", self.float(node.inputs[0]), self.float(node.output), window, "0")


def _arithmetic(self: _Writer, node: Node) -> None:
    """Addition of two tensors, or one operation with a stored value for each channel."""
    constants = [name for name in node.inputs if name in self.graph.constants]
    if not constants:
        if node.kind != "Add" or self.shape(node.inputs[0]) != self.shape(node.inputs[1]):
            raise TargetError(
                f"c: {node.kind} of two computed tensors is not supported, only Add of equal shapes"
            )
        pair = (self.float(name) for name in node.inputs)
        self.call("add", *pair, self.float(node.output), f"{self.size(node.output)}")
        return
    value = self.graph.constants[constants[0]].astype(np.float32)
    first = node.inputs[0] == constants[0]
    if first and node.kind in ("Sub", "Div"):
        raise TargetError(f"c: {node.kind} from a stored tensor is not supported")
    channels = self.shape(node.output)[0]
    each = channel_values(value, channels, len(self.shape(node.output)))
    one, none = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    scale, shift = {
        "Add": (one, each),
        "Sub": (one, -each),
        "Mul": (each, none),
        "Div": (one / each, none),
    }[node.kind]
    _affine(self, node, node.inputs[1 if first else 0], scale, shift)


def _normalise(self: _Writer, node: Node) -> None:
    gamma, beta, mean, variance = (self.graph.constant(name).astype(np.float32) for name in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
    _affine(self, node, node.inputs[0], scale, beta - mean * scale)


def _affine(self: _Writer, node: Node, source: str, scale: Array, shift: Array) -> None:
    channels = self.shape(node.output)[0]
    area = self.size(node.output) // channels
    factors, shifts = self.stored(scale), self.stored(shift)
    self.call(
        "affine", self.float(source), factors, shifts, self.float(node.output), f"{channels}", f"{area}"
    )


def _concat(self: _Writer, node: Node) -> None:
    if node.attributes["axis"] not in (1, -len(self.shape(node.output))):
        raise TargetError(f"c: a Concat must be along the channels, not axis {node.attributes['axis']}")
    start, target = 0, self.float(node.output)
    for name in node.inputs:
        self.call("memcpy", f"{target} + {start}", self.float(name), f"{4 * self.size(name)}")
        start += self.size(name)


def _quantise(self: _Writer, node: Node) -> None:
    scale = self.graph.constant(node.inputs[1]).astype(np.float32)
    zero = self.graph.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
    if scale.size != 1 or zero.dtype != np.uint8:
        raise TargetError(f"c: a QuantizeLinear must be of one scale and uint8, not {zero.dtype}")
    factor = f"{float(scale.reshape(-1)[0]):.9e}f"
    size, offset = f"{self.size(node.output)}", str(int(zero.reshape(-1)[0]))
    self.call("quantise", self.float(node.inputs[0]), self.bytes(node.output), size, factor, offset)


def _dequantise(self: _Writer, node: Node) -> None:
    """Nothing where only integer layers read the tensor."""
    readers = self.graph.readers(node.output)
    layer = all(one.kind in ("Conv", "Gemm", "MatMul") and self.graph.integer(one) for one in readers)
    if readers and layer:
        return
    form = self.graph.quantised[node.output]
    scale, zero = f"{float(form.scale[0]):.9e}f", str(int(form.zero[0]))
    size = f"{self.size(node.output)}"
    self.call("dequantise", self.bytes(form.name), self.float(node.output), size, scale, zero)


WRITERS: dict[str, Callable[[_Writer, Node], None]] = {
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
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _dequantise,
}
"""What writes the call of each ONNX operator."""
