"""Plain ONNX files of low-bit networks: levels as weights, the network's logits on every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.export.low_bit import BITS, FLOAT_ENDS, HEADER, logits, pixels, plain, residual, settled
from torch import nn

from tersa.export.artefact import Artefact
from tersa.export.check import classify
from tersa.export.int8 import Calibration, quantise_onnx
from tersa.export.onnx import as_pixels, export_onnx
from tersa.models.lowbit import LowBits
from tersa.targets.registry import parse

IMAGES = pixels(40)

NETWORKS = {"binary": lambda: plain(BITS["binary"]), "residual 2/2": lambda: residual(BITS["2/2"])}
LEVELS = {"binary": {-1.0, 1.0}, "residual 2/2": {-3.0, -1.0, 1.0, 3.0}}

SAME = 2e-6
"""Normalisation fused into the last layer, or float layers summed in another order; logits of size 1 to 4."""

XNOR_SAME = 1e-4
"""Relative to the largest logit: magnitudes are sums of floats, in another order on every runtime."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Artefact]]:
    """Networks and their files, made once."""
    folder = tmp_path_factory.mktemp("low-bit")
    made = {name: settled(build()) for name, build in NETWORKS.items()}
    return {
        name: (net, export_onnx(net, HEADER, folder / f"{name.translate(str.maketrans('/ ', '--'))}.onnx"))
        for name, net in made.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_the_networks_logits(
    name: str, exported: dict[str, tuple[nn.Module, Artefact]]
) -> None:
    network, artefact = exported[name]
    wanted = logits(network, IMAGES)
    found = classify(artefact.path, IMAGES)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=SAME)
    assert (found == wanted).mean() > 0.5  # only the last normalisation may differ, by its rounding
    np.testing.assert_allclose(classify(artefact.path, IMAGES[:1]), wanted[:1], rtol=0, atol=SAME)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_stored_as_levels(name: str, exported: dict[str, tuple[nn.Module, Artefact]]) -> None:
    model = onnx.load(exported[name][1].path)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert len(layers) > 3
    for node in layers:
        assert set(np.unique(stored[node.input[1]])) <= LEVELS[name]
    assert "Sign" not in {node.op_type for node in model.graph.node}


def test_the_header_keeps_the_normalisation_of_the_task(
    exported: dict[str, tuple[nn.Module, Artefact]],
) -> None:
    model = onnx.load(exported["binary"][1].path)
    assert {entry.key: entry.value for entry in model.metadata_props}["mean"] == "[0.48, 0.45, 0.4]"
    assert [node.op_type for node in model.graph.node][:2] == ["Mul", "Round"]  # bytes again, nothing else


@pytest.mark.slow
def test_xnor_layers_are_exported(tmp_path: Path) -> None:
    network = settled(plain(LowBits(xnor=True, scale="channel")))
    artefact = export_onnx(network, HEADER, tmp_path / "xnor.onnx")
    wanted = logits(network, IMAGES)
    found = classify(artefact.path, IMAGES)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=XNOR_SAME * np.abs(wanted).max())
    assert (found.argmax(1) == wanted.argmax(1)).all()


def test_float_ends_are_normalised(tmp_path: Path) -> None:
    network = settled(plain(FLOAT_ENDS))
    artefact = export_onnx(network, HEADER, tmp_path / "net.onnx")
    np.testing.assert_allclose(classify(artefact.path, IMAGES), logits(network, IMAGES), rtol=0, atol=1e-5)


def test_int8_keeps_the_classes_of_most_images(
    exported: dict[str, tuple[nn.Module, Artefact]], tmp_path: Path
) -> None:
    network, artefact = exported["binary"]
    int8 = quantise_onnx(artefact, tmp_path / "int8.onnx", Calibration(as_pixels(pixels(64))))
    same = classify(int8.path, IMAGES).argmax(1) == logits(network, IMAGES).argmax(1)
    assert same.mean() >= 0.8  # 8-bit sums cross a sign's threshold now and then


@pytest.mark.runtime
@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_gives_the_networks_logits(
    name: str, exported: dict[str, tuple[nn.Module, Artefact]]
) -> None:
    pytest.importorskip("openvino")
    network, artefact = exported[name]
    session = parse("openvino").prepare(artefact, "low-bit")
    np.testing.assert_allclose(session.run(as_pixels(IMAGES)), logits(network, IMAGES), rtol=0, atol=1e-5)
