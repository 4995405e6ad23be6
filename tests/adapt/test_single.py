"""A layer alone is a file that runtimes run, of the shape that its signature says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tersa.adapt.anatomy import ONE, Family
from tersa.adapt.single import EMPTY, MODULES, ONNX_NAMES, lone_layer
from tersa.errors import UsageError
from tersa.export.artefact import open_session
from tersa.targets.c_build import installed_compiler
from tersa.targets.registry import parse

IMAGE = {"size": (6, 8)}
FAMILIES = [
    (Family("conv", (3, 3), (2, 2), (1, 1), after="relu", **IMAGE), 4, 6),
    (Family("conv", (3, 3), dilation=(2, 2), padding=(2, 2), groups=2, bias=False, **IMAGE), 4, 6),
    (Family("conv", (1, 1), norm=True, after="hardtanh", **IMAGE), 3, 5),
    (Family("depthwise", (3, 3), padding=(1, 1), after="hardswish", **IMAGE), 5, 5),
    (Family("linear", after="relu"), 7, 3),
    (Family("linear", bias=False), 7, 3),
    (Family("linear", size=(9, 1), after="gelu"), 7, 3),
    (Family("linear", size=(9, 1), bias=False), 7, 3),
    (Family("product", size=(2, 9), bias=False), 7, 3),
    (Family("add", size=(9, 1), bias=False), 4, 4),
    (Family("max-pool", (3, 3), (2, 2), (1, 1), bias=False, **IMAGE), 4, 4),
    (Family("average-pool", (2, 2), (2, 2), bias=False, **IMAGE), 4, 4),
    (Family("mean", bias=False, **IMAGE), 4, 4),
    (Family("add", bias=False, **IMAGE), 4, 4),
    (Family("multiply", bias=False, **IMAGE), 4, 4),
    (Family("concatenate", bias=False, **IMAGE), 4, 4),
    (Family("norm", bias=False, **IMAGE), 4, 4),
    (EMPTY, 1, 1),
]


@pytest.mark.parametrize(("family", "inputs", "outputs"), FAMILIES, ids=lambda value: str(value)[:40])
def test_file_and_module_give_the_signatures_shape(
    family: Family, inputs: int, outputs: int, tmp_path: Path
) -> None:
    lone = lone_layer(family, inputs, outputs, tmp_path / "layer.onnx")
    session = open_session(lone.artefact.path)
    (found,) = session.run(None, {session.get_inputs()[0].name: lone.pixels})
    rows = {"linear": (1, *family.size[:1]), "product": family.size}.get(family.operation)
    size = () if family.operation == "linear" and family.size == ONE else family.out_size()
    if family.company:  # one value of each channel is left
        size = (1, 1)
    assert found.shape == (1, outputs, *size) if rows is None or not size else (1, *rows, outputs)
    assert found.size == len(lone.artefact.header.classes)
    assert lone.artefact.module is not None
    with torch.inference_mode():
        assert lone.artefact.module(torch.from_numpy(lone.pixels)).shape == found.shape


@pytest.mark.parametrize("name", sorted(ONNX_NAMES))
def test_every_activation_is_written_as_torch_computes_it(name: str, tmp_path: Path) -> None:
    lone = lone_layer(Family("activation", after=name, bias=False), 64, 64, tmp_path / "layer.onnx")
    assert lone.pixels.shape == (1, 64, 1, 1), "a vector is activated alone"
    pixels = 8 * lone.pixels - 4
    session = open_session(lone.artefact.path)
    (found,) = session.run(None, {"pixels": pixels})
    with torch.inference_mode():
        wanted = MODULES[name]()(torch.from_numpy(pixels))
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=2e-6, rtol=2e-6)


def test_a_layer_of_images_stands_between_two_others(tmp_path: Path) -> None:
    """And the company without it is the same file less the layer, whatever its channels are."""
    family, path = (
        Family("conv", (3, 3), padding=(1, 1), size=(6, 8), after="hardswish"),
        tmp_path / "layer.onnx",
    )
    assert family.company is not None
    files = {
        each.operation: onnx.load(lone_layer(each, 4, outputs, path).artefact.path).graph
        for each, outputs in ((family, 6), (family.company, 4))
    }
    assert [node.op_type for node in files["company"].node] == ["Conv", "Relu", "MaxPool"]
    assert [node.op_type for node in files["conv"].node] == ["Conv", "Relu", "Conv", "HardSwish", "MaxPool"]
    for graph in files.values():  # a chain: every node takes what the one before it makes
        made = ["pixels", *(node.output[0] for node in graph.node)]
        assert [node.input[0] for node in graph.node] == made[:-1]
        assert made[-1] == "logits"
    assert family.key().endswith("in company 32bit batch1"), "other times than of the layer alone"
    for other in (Family("linear"), replace(family, size=ONE), Family("add", size=(9, 1))):
        assert other.company is None


def test_the_same_file_every_time(tmp_path: Path) -> None:
    family = Family("conv", (3, 3), size=(5, 5))
    files = [lone_layer(family, 3, 4, tmp_path / f"{i}.onnx").artefact.path.read_bytes() for i in range(2)]
    assert files[0] == files[1]


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_targets_take_it(target: str, tmp_path: Path) -> None:
    for number, (family, inputs, outputs) in enumerate(FAMILIES):
        lone = lone_layer(family, inputs, outputs, tmp_path / f"{number}.onnx")
        made = parse(target).prepare(lone.artefact, "layer").run(lone.pixels)
        assert made.size == len(lone.artefact.header.classes)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            "c@opt=O0", marks=pytest.mark.skipif(not installed_compiler(), reason="no C compiler here")
        ),
        "packed",
    ],
)
@pytest.mark.parametrize("name", ["relu", "hardtanh"])
def test_activations_are_the_same_everywhere(target: str, name: str, tmp_path: Path) -> None:
    """ReLU6 is a clip between numbers that the file writes out."""
    family = Family("depthwise", (3, 3), (2, 2), (1, 1), after=name, **IMAGE)
    lone = lone_layer(family, 5, 5, tmp_path / "layer.onnx")
    (wanted,) = open_session(lone.artefact.path).run(None, {"pixels": lone.pixels})
    session = parse(target).prepare(lone.artefact, "layer")
    np.testing.assert_allclose(session.run(lone.pixels).ravel(), wanted.ravel(), rtol=1e-5, atol=1e-6)
    session.close()


@pytest.mark.skipif(not installed_compiler(), reason="no C compiler here")
@pytest.mark.parametrize(
    ("family", "inputs", "outputs"),
    [(Family("linear", after="relu"), 7, 64), (Family("conv", (3, 3), (2, 2), (1, 1), **IMAGE), 4, 6)],
    ids=["linear", "conv"],
)
def test_plain_c_gives_all_outputs(family: Family, inputs: int, outputs: int, tmp_path: Path) -> None:
    """More of them than a header names classes: the buffer is as large as what the program writes."""
    lone = lone_layer(family, inputs, outputs, tmp_path / "layer.onnx")
    artefact = replace(lone.artefact, header=replace(lone.artefact.header, classes=("a", "b")))
    session = parse("c@opt=O0").prepare(artefact, "layer")
    (wanted,) = open_session(lone.artefact.path).run(None, {"pixels": lone.pixels})
    np.testing.assert_allclose(session.run(lone.pixels), wanted, rtol=1e-5, atol=1e-6)
    session.close()


def test_other_widths_of_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in fp32, not with 8 bits"):
        lone_layer(Family("linear", bits=8), 2, 2, tmp_path / "layer.onnx")
