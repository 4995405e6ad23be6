"""Runtimes that this machine lacks: what they say, and TensorRT's sequence of calls on a recorded engine."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact
from tersa.targets.executorch import ExecuTorch
from tersa.targets.litert import LiteRt, converter_python
from tersa.targets.registry import package_version
from tersa.targets.tensorrt import LARGEST_BATCH, TensorRt, build_engine, read_layers

ENGINE = """{"Layers": [
  {"Name": "reformat", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Float"}]},
  {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Half NHWC8 (C,H,W)"}]},
  {"Name": "conv2", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8 NC/32HW32"}]},
  {"Name": "pool", "LayerType": "CaskPooling", "Inputs": [{"Format/Datatype": "Half"}]},
  {"Name": "fc", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Float"}]},
  {"Name": "fc2", "LayerType": "MatrixMultiply", "Inputs": [{"Format/Datatype": "Float[1,36]"}]}
]}"""
"""What an engine inspector writes (TensorRT developer guide, Engine Inspector), shortened."""


@pytest.mark.skipif(bool(package_version("tensorrt")), reason="TensorRT is installed")
def test_tensorrt_is_not_here(artefact: Artefact) -> None:
    with pytest.raises(TargetError, match=r'tensorrt is not installed; pip install "tensorrt>=10"'):
        TensorRt().prepare(artefact, "m")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_tensorrt_without_a_gpu(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tensorrt")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(TargetError, match=r"tensorrt needs an NVIDIA GPU; PyTorch .* sees none"):
        TensorRt().prepare(artefact, "m")


def test_the_layers_of_a_recorded_engine() -> None:
    assert dict(read_layers(ENGINE)) == {"fp16": 1, "int8": 1, "fp32": 1}


class Recorded:
    """Stands for the builder's objects: records what is set and asked."""

    def __init__(self, log: list[str], errors: int = 0) -> None:
        self.log, self.num_errors = log, errors

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: object) -> Any:
            self.log.append(f"{name}{given}" if name in ("set_flag", "clear_flag", "set_shape") else name)
            if name == "parse":
                return not self.num_errors
            if name == "build_serialized_network":
                return b"plan"
            return types.SimpleNamespace(desc=lambda: "no such operator") if name == "get_error" else self

        return call


def module(log: list[str], errors: int = 0) -> Any:
    names = types.SimpleNamespace(FP16="FP16", BF16="BF16", INT8="INT8", TF32="TF32")
    one = Recorded(log, errors)

    def make(*_: object) -> Recorded:
        return one

    make.ERROR = 0  # pyright: ignore[reportFunctionMemberAccess] - stands for `Logger.ERROR`
    return types.SimpleNamespace(
        Builder=make, Logger=make, OnnxParser=make, BuilderFlag=names,
        ProfilingVerbosity=types.SimpleNamespace(DETAILED=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", []), ("bf16", ["BF16"]), ("fp16", ["FP16"]), ("int8", ["INT8"])]
)
def test_an_engine_is_built_in_the_precision(precision: str, flags: list[str], artefact: Artefact) -> None:
    log: list[str] = []
    assert build_engine(module(log), artefact, precision, 3) == b"plan"
    assert [line for line in log if line.startswith("set_flag")] == [f"set_flag('{flag}',)" for flag in flags]
    assert "clear_flag('TF32',)" in log, "TF32 is not FP32"
    assert f"set_shape('pixels', (1, 1, 8, 8), (8, 1, 8, 8), ({LARGEST_BATCH}, 1, 8, 8))" in log


def test_a_file_that_tensorrt_cannot_read(artefact: Artefact) -> None:
    with pytest.raises(ModelError, match="is not an ONNX file that tensorrt can load: no such operator"):
        build_engine(module([], errors=1), artefact, "fp32", 3)


@pytest.mark.skipif(bool(package_version("executorch")), reason="ExecuTorch is installed")
def test_executorch_is_not_here(artefact: Artefact) -> None:
    with pytest.raises(TargetError, match=r'executorch is not installed; pip install "executorch>=1\.0"'):
        ExecuTorch().prepare(artefact, "m")


def test_the_official_converter_lives_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, artefact: Artefact, int8_artefact: Artefact
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERSA_LITERT_PYTHON", raising=False)
    with pytest.raises(TargetError, match=r"no environment \.litert here; python -m venv \.litert && "):
        converter_python()
    monkeypatch.setenv("TERSA_LITERT_PYTHON", "/no/such/python")
    with pytest.raises(TargetError, match="TERSA_LITERT_PYTHON names /no/such/python, which is no file"):
        converter_python()
    found = tmp_path / ".litert" / "bin" / "python"
    found.parent.mkdir(parents=True)
    found.write_text("")
    monkeypatch.delenv("TERSA_LITERT_PYTHON")
    assert converter_python() == Path(".litert/bin/python")


@pytest.mark.runtime
@pytest.mark.skipif(not package_version("ai-edge-litert"), reason="LiteRT is not installed")
def test_the_official_converter_fails_and_succeeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, artefact: Artefact, int8_artefact: Artefact
) -> None:
    from tersa.export.tflite import tflite

    target = LiteRt(converter="litert-torch")
    with pytest.raises(TargetError, match="does not offer int8; it has fp32"):
        target.prepare(int8_artefact, "m")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named litert_torch' >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("TERSA_LITERT_PYTHON", str(python))
    with pytest.raises(
        TargetError, match="litert-torch cannot convert the network: no module named litert_torch"
    ):
        target.prepare(artefact, "m")
    (tmp_path / "kept.tflite").write_bytes(tflite(artefact.path).model)
    python.write_text(f'#!/bin/sh\ncp {tmp_path / "kept.tflite"} "$4"\n')
    session = target.prepare(artefact, "m")
    assert session.target == "litert@threads=1,converter=litert-torch"
    images = np.random.default_rng(1).random((2, 1, 8, 8), dtype=np.float32)
    assert session.run(images).shape == (2, 3)
