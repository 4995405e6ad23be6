"""Time of every layer of a network on a runtime, from the runtime's own profiler.

    onnxruntime     its profiling file: kernel time of every node
    openvino        counters of the compiled graph (PERF_COUNT)
    torch           hooks around the modules that have no children
    packed          a clock between the steps of a packed program

Layers get the names of `tersa.targets.costs`. A runtime fuses, reorders and adds operators of its own: a
fused activation is part of its layer, and what belongs to no layer of the file keeps the runtime's name for
its kind. Profiling costs time itself, so that the sum of the layers is larger than the time of a call; their
shares count.

Other runtimes offer no times by layer here, which is an error that says so.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from tersa.binary.runtime import Runner, execute
from tersa.errors import TargetError
from tersa.export.artefact import NO_SPINNING, PACKED, Artefact
from tersa.export.bundle import read_bundle
from tersa.export.onnx import Deployed
from tersa.targets.base import Pixels, Target
from tersa.targets.costs import PRODUCTS, NodeCost
from tersa.targets.onnx_runtime import FLOAT_LAYERS, GRAPH_LEVELS, INTEGER_LAYERS, OnnxRuntime
from tersa.targets.openvino_cpu import OpenVino, load_openvino, settings
from tersa.targets.packed import Packed
from tersa.targets.packed_costs import program_costs
from tersa.targets.torch_eager import TorchEager, pinned, placed

LAYERS = (*FLOAT_LAYERS, *INTEGER_LAYERS)


@dataclass(frozen=True)
class LayerTime:
    """One layer, or all operators of one kind that belong to none.

    Attributes:
        name: of the layer; the runtime's kind for what belongs to none.
        kind: the runtime's operator.
        ms: median over the calls.
        cost: what it has to do; None where that is not known.
        moved_bytes: where the profiler says it and the file does not.
    """

    name: str
    kind: str
    ms: float
    cost: NodeCost | None = None
    moved_bytes: int = 0


@dataclass(frozen=True)
class Profile:
    """All layers in the order of their work, and where the times come from."""

    layers: list[LayerTime]
    how: str


def profile(
    target: Target,
    artefact: Artefact,
    precision: str,
    images: Pixels,
    costs: Sequence[NodeCost],
    *,
    calls: int = 30,
) -> Profile:
    """Time every layer.

    Args:
        target: runtime with its options.
        artefact: what to run.
        precision: to run it in.
        images: a batch.
        costs: of the artefact's nodes, for this batch.
        calls: that are profiled; medians are over them.

    Raises:
        TargetError: the runtime gives no times by layer.
    """
    if isinstance(target, Packed) and precision == PACKED:
        return _packed(target, artefact, images, costs, calls)
    if precision == PACKED:
        raise TargetError(f"{target.name} gives no times by layer of a packed program; packed does")
    if isinstance(target, OnnxRuntime):
        return _onnxruntime(target, artefact, images, costs, calls)
    if isinstance(target, OpenVino):
        return _openvino(target, artefact, precision, images, costs, calls)
    if isinstance(target, TorchEager):
        return _torch(target, artefact, precision, images, costs, calls)
    raise TargetError(f"{target.name} gives no times by layer; {KNOWN}")


KNOWN = "onnxruntime, openvino and torch do, and packed of packed programs"


def steps_of(path: Path, batch: int) -> list[NodeCost]:
    """The steps of a `.tersa` file for a batch, as the target `packed` runs them.

    Raises:
        TargetError: more images than go through the steps at once.
    """
    runner = Runner(read_bundle(path))
    if batch > runner.most:
        raise TargetError(f"packed gives times by layer for at most {runner.most} images of this network")
    return program_costs(runner.program, batch, runner.table(1).names)


def _packed(
    target: Packed, artefact: Artefact, images: Pixels, costs: Sequence[NodeCost], calls: int
) -> Profile:
    """All steps of a call in their order, each with its own two looks at the clock."""
    runner = Runner(read_bundle(artefact.path), target.threads)
    runner(images)
    table = runner.table(len(images))
    steps = table.steps
    times = np.empty((calls + calls // 3, len(steps)))
    for call in range(len(times)):
        for place, rows in enumerate(steps):
            start = time.perf_counter_ns()
            execute(rows, target.threads)
            times[call, place] = (time.perf_counter_ns() - start) / 1e6
    medians = np.median(times[-calls:], axis=0)
    layers = [
        LayerTime(cost.name, cost.kind, float(ms), cost) for cost, ms in zip(costs, medians, strict=True)
    ]
    return Profile(layers, "a clock between the steps; arithmetic in products of single bits")


def match(events: Sequence[tuple[str, tuple[int, ...]]], costs: Sequence[NodeCost]) -> list[NodeCost | None]:
    """Products that a runtime ran, in order, to the products of the file.

    A runtime may change the order of branches and pad channels, so that an event takes the first product left
    with its number of axes and its sizes other than channels, else the first one left.

    Args:
        events: name and output shape of each.
        costs: of the file's nodes.
    """
    left = [cost for cost in costs if cost.kind in PRODUCTS]
    found: list[NodeCost | None] = []
    for _, shape in events:
        fits = [one for one in left if _sizes(one.shape) == _sizes(shape)] or left
        found.append(fits[0] if fits else None)
        if fits:
            left.remove(fits[0])
    return found


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """All sizes but the channels."""
    return (len(shape), *shape[:1], *shape[2:])


def _onnxruntime(
    target: OnnxRuntime, artefact: Artefact, images: Pixels, costs: Sequence[NodeCost], calls: int
) -> Profile:
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = target.threads, 1
        options.add_session_config_entry(*NO_SPINNING)
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, GRAPH_LEVELS[target.graph]
        )
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(artefact.path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(calls + calls // 3):
            session.run(None, {name: images})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return Profile(from_onnxruntime(events, costs, calls), "ONNX Runtime's profiling file")


def from_onnxruntime(
    events: Sequence[dict[str, Any]], costs: Sequence[NodeCost], calls: int
) -> list[LayerTime]:
    """Layers from the events of a profiling file; the last `calls` of each node count."""
    times: dict[str, list[float]] = defaultdict(list)
    about: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            key = f"{event['name']} {event['args'].get('node_index', '')}"
            times[key].append(event["dur"] / 1e3)
            about.setdefault(key, event["args"])
    products = [key for key in times if about[key]["op_name"] in LAYERS]
    fitting = match([(key, _first_shape(about[key].get("output_type_shape", []))) for key in products], costs)
    owner = dict(zip(products, fitting, strict=True))
    found: list[LayerTime] = []
    others: dict[str, tuple[float, int]] = {}
    for key, values in times.items():
        ms, kind, cost = float(np.median(values[-calls:])), str(about[key]["op_name"]), owner.get(key)
        if cost is not None:
            found.append(LayerTime(cost.name, kind, ms, cost))
        else:
            moved = sum(int(about[key].get(part, 0)) for part in ("activation_size", "output_size"))
            before = others.get(kind, (0.0, 0))
            others[kind] = (before[0] + ms, before[1] + moved)
    return found + [LayerTime(kind, kind, ms, None, moved) for kind, (ms, moved) in others.items()]


def _first_shape(shapes: Sequence[dict[str, list[int]]]) -> tuple[int, ...]:
    for one in shapes:
        for sizes in one.values():
            return tuple(sizes)
    return ()


def _openvino(
    target: OpenVino,
    artefact: Artefact,
    precision: str,
    images: Pixels,
    costs: Sequence[NodeCost],
    calls: int,
) -> Profile:
    openvino = load_openvino()
    counted = {**settings(target.threads, target.hint, precision), "PERF_COUNT": True}
    request = openvino.Core().compile_model(artefact.path, "CPU", counted).create_infer_request()
    times: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for _ in range(calls + calls // 3):
        request.infer([images], share_inputs=True)
        for node in request.get_profiling_info():
            if str(node.status).endswith("EXECUTED") and node.real_time.total_seconds() > 0:
                times[node.node_name].append(1e3 * node.real_time.total_seconds())
                kinds[node.node_name] = node.node_type
    median = {name: (kinds[name], float(np.median(values[-calls:]))) for name, values in times.items()}
    return Profile(from_openvino(median, costs), "OpenVINO's performance counters")


def from_openvino(times: dict[str, tuple[str, float]], costs: Sequence[NodeCost]) -> list[LayerTime]:
    """Layers from (kind, milliseconds) by node name; nodes are named after the tensors of the file."""
    by_output = {cost.output: cost for cost in costs}
    found: list[LayerTime] = []
    others: dict[str, tuple[float, int]] = {}
    for name, (kind, ms) in times.items():
        cost = by_output.get(name) or by_output.get(name.partition("/")[0])
        if cost is not None and cost.kind in PRODUCTS and kind != "Reorder":
            found.append(LayerTime(cost.name, kind, ms, cost))
        else:
            before = others.get(kind, (0.0, 0))
            others[kind] = (before[0] + ms, before[1] + (cost.moved_bytes if cost else 0))
    return found + [LayerTime(kind, kind, ms, None, moved) for kind, (ms, moved) in others.items()]


def _torch(
    target: TorchEager,
    artefact: Artefact,
    precision: str,
    images: Pixels,
    costs: Sequence[NodeCost],
    calls: int,
) -> Profile:
    if target.device != "cpu":
        raise TargetError("torch gives times by layer on the CPU only here")
    module = placed(target.name, artefact, precision, target.device, target.layout)
    inner = next((part for part in module.modules() if isinstance(part, Deployed)), None)
    network = inner.network if inner is not None else module
    assert isinstance(network, nn.Module)
    clock = _Clock(network)
    with pinned(target.threads), torch.inference_mode(), clock:
        pixels = torch.from_numpy(images)
        for _ in range(calls + calls // 3):
            clock.begin()
            module(pixels)
    return Profile(clock.layers(costs, calls), "hooks around PyTorch's modules")


class _Clock:
    """Times the modules without children of a network, by hooks."""

    def __init__(self, network: nn.Module) -> None:
        self.parts = {
            name or "network": part for name, part in network.named_modules() if not list(part.children())
        }
        self.times: dict[str, list[float]] = {name: [] for name in self.parts}
        self.moved: dict[str, int] = {}
        self._start: dict[str, float] = {}
        self._handles: list[Any] = []

    def begin(self) -> None:
        """A new call: a module may run several times in one."""
        for values in self.times.values():
            values.append(0.0)
        self.moved.clear()

    def __enter__(self) -> _Clock:
        for name, part in self.parts.items():
            self._handles.append(part.register_forward_pre_hook(lambda _m, _i, name=name: self._before(name)))
            self._handles.append(
                part.register_forward_hook(lambda m, i, o, name=name: self._after(name, m, i, o))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, name: str) -> None:
        self._start[name] = time.perf_counter()

    def _after(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.times[name][-1] += 1e3 * (time.perf_counter() - self._start[name])
        tensors = [*inputs, output, *module.parameters(recurse=False)]
        size = sum(one.numel() * one.element_size() for one in tensors if isinstance(one, Tensor))
        self.moved[name] = self.moved.get(name, 0) + size

    def layers(self, costs: Sequence[NodeCost], calls: int) -> list[LayerTime]:
        """Layers with their costs; the others by kind."""
        by_name = {cost.name: cost for cost in costs if cost.kind in PRODUCTS}
        found: list[LayerTime] = []
        others: dict[str, tuple[float, int]] = {}
        for name, values in self.times.items():
            ms, kind = float(np.median(values[-calls:])), type(self.parts[name]).__name__
            if ms <= 0:
                continue
            if name in by_name:
                found.append(LayerTime(name, kind, ms, by_name[name]))
            else:
                before = others.get(kind, (0.0, 0))
                others[kind] = (before[0] + ms, before[1] + self.moved.get(name, 0))
        return found + [LayerTime(kind, kind, ms, None, moved) for kind, (ms, moved) in others.items()]
