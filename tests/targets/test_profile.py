"""Layers from recorded profiles, and from the runtimes that are here."""

from __future__ import annotations

import numpy as np
import pytest

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.targets.costs import NodeCost, file_costs
from tersa.targets.profile import from_onnxruntime, from_openvino, match, profile
from tersa.targets.registry import KINDS, installed, parse

HERE = {one.name for one in installed() if one.version}


def cost(name: str, output: str, shape: tuple[int, ...], kind: str = "Conv") -> NodeCost:
    return NodeCost(name, kind, output, shape, 100, 10, 50)


COSTS = [
    cost("conv1", "2", (1, 30, 8, 8)),
    cost("relu 3", "3", (1, 30, 8, 8), "Relu"),
    cost("fc", "logits", (1, 10), "Gemm"),
]


def event(name: str, kind: str, dur: int, shape: list[int], index: int) -> dict[str, object]:
    args = {
        "op_name": kind,
        "node_index": str(index),
        "output_type_shape": [{"float": shape}],
        "activation_size": "100",
        "output_size": "20",
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": args}


def test_onnxruntime_events_become_layers() -> None:
    events: list[dict[str, object]] = [{"cat": "Session", "name": "model_run", "dur": 9}]
    for call in range(5):
        slow = 1000 if call == 0 else 0  # the first calls warm up and do not count
        events += [
            event("3_nchwc", "Conv", 40 + slow, [1, 32, 8, 8], 7),
            event("ReorderOutput", "ReorderOutput", 5, [1, 30, 8, 8], 8),
            event("r2", "ReorderOutput", 3, [1, 30, 8, 8], 9),
            event("", "Gemm", 20, [1, 10], 10),
        ]
    found = from_onnxruntime(events, COSTS, calls=4)
    assert [(one.name, one.kind, one.ms) for one in found] == [
        ("conv1", "Conv", 0.04),
        ("fc", "Gemm", 0.02),
        ("ReorderOutput", "ReorderOutput", pytest.approx(0.008)),
    ]
    assert found[2].moved_bytes == 240
    assert found[0].cost is COSTS[0]


def test_padded_channels_and_another_order_still_match() -> None:
    costs = [cost("a", "1", (1, 10, 8, 8)), cost("b", "2", (1, 20, 4, 4)), cost("c", "3", (1, 10, 8, 8))]
    events = [("x", (1, 32, 4, 4)), ("y", (1, 16, 8, 8)), ("z", (1, 16, 8, 8)), ("w", (1, 1, 1, 1))]
    assert [one.name if one else None for one in match(events, costs)] == ["b", "a", "c", None]


def test_openvino_nodes_become_layers() -> None:
    times = {
        "2/WithoutBiases": ("Convolution", 0.3),
        "2_abcd_acdb": ("Reorder", 0.02),
        "logits": ("FullyConnected", 0.1),
        "3": ("Relu", 0.05),
    }
    found = {one.name: one for one in from_openvino(times, COSTS)}
    assert set(found) == {"conv1", "fc", "Reorder", "Relu"}
    assert (found["conv1"].ms, found["Relu"].moved_bytes, found["Reorder"].moved_bytes) == (0.3, 50, 0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name != "openvino" else [pytest.mark.runtime]) for name in
     ("onnxruntime", "torch", "openvino") if name in HERE],
)  # fmt: skip
def test_every_layer_is_found_on_a_real_runtime(name: str, artefact: Artefact) -> None:
    images = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    costs = file_costs(artefact.path, 2, "fp32")
    found = profile(parse(name), artefact, "fp32", images, costs, calls=5)
    assert {one.name for one in found.layers if one.cost} == {"0", "4"}
    assert all(one.ms >= 0 for one in found.layers)
    assert found.how


def test_a_runtime_without_a_profiler_says_so(artefact: Artefact) -> None:
    target = KINDS["c"].make()
    with pytest.raises(TargetError, match="c gives no times by layer; onnxruntime, openvino and torch do"):
        profile(target, artefact, "fp32", np.zeros((1, 1, 8, 8), np.float32), [])
