"""Layers from recorded profiles, and from the runtimes that are here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tersa.binary.lowering import WORD_COST
from tersa.data.sources import load as load_task
from tersa.errors import TargetError
from tersa.export.artefact import Artefact, read_artefact
from tersa.export.bundle import write_bundle
from tersa.quant.layers import (
    IntegerBatchNorm1d,
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLinear,
)
from tersa.recipes.deploy import pack
from tersa.targets import popcount
from tersa.targets.costs import NodeCost, file_costs
from tersa.targets.profile import from_onnxruntime, from_openvino, match, profile, steps_of
from tersa.targets.registry import KINDS, installed, parse
from tersa.train.latents import settle_pixels_

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


@pytest.fixture
def packed(tmp_path: Path) -> Artefact:
    """Two convolutions of bits with a pooling, two fully connected layers; drawn weights."""
    task = load_task("digits")
    network = nn.Sequential(
        PixelInput(8),
        *(QuantConv2d(1, 70, 3, padding=1, input_bits=8), IntegerBatchNorm2d(70), QuantActivation()),
        *(QuantConv2d(70, 5, 3, padding=1), IntegerBatchNorm2d(5), QuantActivation(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(QuantLinear(80, 7), IntegerBatchNorm1d(7), QuantActivation(), QuantLinear(7, 10)),
        IntegerBatchNorm1d(10),
    )
    settle_pixels_(network, task)
    write_bundle(tmp_path / "net.tersa", pack(network.eval(), task))
    return read_artefact(tmp_path / "net.tersa")


def test_steps_of_a_packed_program_have_times_and_products(packed: Artefact) -> None:
    costs = steps_of(packed.path, 3)
    bits = WORD_COST <= 5  # of 5 and 7 channels; without AVX-512 these are numbers
    products = [(one.name, one.macs, one.work) for one in costs if one.macs]
    assert products == [
        ("conv1", 3 * 70 * 9 * 64, 0),  # one channel of 8 bits: as numbers
        ("conv2", 3 * 5 * 630 * 64, 3 * 5 * 630 * 64),
        ("fc3", 3 * 7 * 80, bits * 3 * 7 * 80),
        ("fc4", 3 * 10 * 7, bits * 3 * 10 * 7),
    ]
    second = next(one for one in costs if one.name == "conv2")
    assert second.kind == "Conv+Threshold+MaxPool"
    assert second.moved_bytes - second.weight_bytes == 3 * 8 * (2 * 64 + 16)  # 70 channels are two words
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    found = profile(parse("packed"), packed, "packed", images, costs, calls=5)
    assert [one.cost for one in found.layers] == costs
    assert all(one.ms > 0 for one in found.layers)
    with pytest.raises(TargetError, match="c gives no times by layer of a packed program; packed does"):
        profile(KINDS["c"].make(), packed, "packed", images, costs)
    with pytest.raises(TargetError, match="for at most 64 images of this network"):
        steps_of(packed.path, 65)


def test_the_limit_of_the_processor_is_measured_once() -> None:
    limit = popcount.limit()
    assert 1e9 < limit < 1e15
    assert popcount.limit() == limit
