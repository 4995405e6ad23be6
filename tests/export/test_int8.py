"""INT8 files: near the float network, small, truly integer where it counts, and nothing left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tersa.errors import ModelError, UsageError
from tersa.export.artefact import Artefact, read_artefact
from tersa.export.check import classify
from tersa.export.int8 import Calibration, float_operations, quantise_onnx

Exported = Callable[..., Artefact]
Pixels = Callable[..., npt.NDArray[np.float32]]

NEAR = 0.06
"""Largest error of a logit relative to the spread of all: each layer rounds to 1/255 of its range."""


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_every_calibration_is_near_the_float_network(
    method: str, exported: Exported, pixels: Pixels, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = exported("lenet")
    found = quantise_onnx(source, tmp_path / "int8.onnx", Calibration(pixels(), method))
    assert capfd.readouterr() == ("", "")
    expected = classify(source.path, pixels())
    assert np.abs(classify(found.path, pixels()) - expected).max() < NEAR * np.ptp(expected)


@pytest.mark.parametrize(
    "name", ["residual", "depthwise", "dense", "forked", "mlp", "mlp-without-bias", "lenet"]
)
def test_every_kind_of_network(name: str, exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    source = exported(name, 3)
    found = quantise_onnx(source, tmp_path / "int8.onnx", Calibration(pixels(3)))
    expected = classify(source.path, pixels(3))
    assert np.abs(classify(found.path, pixels(3)) - expected).max() < NEAR * np.ptp(expected)
    assert not set(float_operations(found.path)) & {"Conv", "FusedConv", "Gemm", "MatMul", "Add", "FusedGemm"}


def test_float_operations_are_named(exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    padded = quantise_onnx(exported("residual"), tmp_path / "a.onnx", Calibration(pixels()))
    assert float_operations(padded.path) == {"Sub": 1}
    plain = quantise_onnx(exported("lenet"), tmp_path / "b.onnx", Calibration(pixels()))
    assert float_operations(plain.path) == {}
    assert sum(float_operations(exported("lenet").path).values()) >= 3


def test_weights_are_int8_biases_int32_and_the_rest_is_small(
    exported: Exported, pixels: Pixels, tmp_path: Path
) -> None:
    source = exported("mlp", 3)
    found = quantise_onnx(source, tmp_path / "int8.onnx", Calibration(pixels(3), reduce_range=False))
    stored = {tensor.name: tensor for tensor in onnx.load(found.path).graph.initializer}
    assert stored["1.weight"].data_type == TensorProto.INT8
    assert stored["1.bias"].data_type == TensorProto.INT32
    assert np.abs(numpy_helper.to_array(stored["1.weight"]).astype(int)).max() == 127
    assert found.size_bytes < 0.36 * source.size_bytes


def test_logits_are_not_rounded(exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    found = quantise_onnx(exported("lenet"), tmp_path / "int8.onnx", Calibration(pixels()))
    assert onnx.load(found.path).graph.node[-1].op_type == "Gemm"
    logits = classify(found.path, pixels(count=200))
    assert len(np.unique(logits)) > 256


def test_reduced_range_uses_seven_bits(exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    source = exported("mlp")
    found = quantise_onnx(source, tmp_path / "int8.onnx", Calibration(pixels(), reduce_range=True))
    stored = {tensor.name: tensor for tensor in onnx.load(found.path).graph.initializer}
    assert np.abs(numpy_helper.to_array(stored["1.weight"]).astype(int)).max() in (63, 64)


def test_equal_input_gives_equal_bytes_and_nothing_is_left_behind(
    exported: Exported, pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported("residual")
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(work)
    before = source.path.read_bytes()
    first = quantise_onnx(source, tmp_path / "out" / "1.onnx", Calibration(pixels()))
    second = quantise_onnx(source, tmp_path / "out" / "2.onnx", Calibration(pixels()))
    float_operations(first.path)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert source.path.read_bytes() == before
    assert not list(temporary.iterdir())
    assert not list(work.iterdir())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1.onnx", "2.onnx"}


def test_the_header_is_kept_with_its_precision(exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    source = exported("lenet")
    header = read_artefact(quantise_onnx(source, tmp_path / "int8.onnx", Calibration(pixels())).path).header
    assert header.precision == "int8"
    assert (header.classes, header.shape, header.mean) == (
        source.header.classes,
        source.header.shape,
        source.header.mean,
    )


def test_an_int8_file_is_not_quantised_again(exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    once = quantise_onnx(exported("lenet"), tmp_path / "int8.onnx", Calibration(pixels()))
    with pytest.raises(UsageError, match="is int8 already"):
        quantise_onnx(once, tmp_path / "again.onnx", Calibration(pixels()))


def test_images_of_another_shape_are_refused(exported: Exported, pixels: Pixels, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"calibration images are \(3, 12, 12\), the network takes \(1, 12, 12\)"
    ):
        quantise_onnx(exported("lenet"), tmp_path / "int8.onnx", Calibration(pixels(3)))


def test_calibration_is_checked(pixels: Pixels) -> None:
    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        Calibration(pixels(), "entropie")
    with pytest.raises(UsageError, match="look like bytes; divide by 255"):
        Calibration(np.round(pixels() * 255))
    with pytest.raises(UsageError, match="finite"):
        Calibration(pixels() * np.float32(np.inf))
    with pytest.raises(UsageError, match="at least one"):
        Calibration(pixels()[:0])
