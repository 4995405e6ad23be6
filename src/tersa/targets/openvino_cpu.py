"""OpenVINO on the CPU: FP32, BF16, FP16 and INT8 (QDQ) files. Optional: `pip install "tersa[runtimes]"`.

OpenVINO computes in bfloat16 where the processor can, whatever the file says, and takes `f16` without a word
on processors that have none. So the precision is set with `INFERENCE_PRECISION_HINT`, and what the compiled
graph will execute is read back, layer by layer.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Pixels, Session, described, executed, first_line, require_precision

INSTALL = 'pip install "openvino>=2025.0"'

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""For INT8 files the hint is of the layers that stay float."""

LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "BinaryConvolution")

NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "I8": "int8"}

OPTIONS = {"hint": ("latency", "throughput")}


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU device, one stream.

    Attributes:
        threads: of one inference.
        hint: `latency` or `throughput`, OpenVINO's performance hint.
    """

    threads: int = 1
    hint: str = "latency"
    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8")

    def describe(self) -> str:
        """`openvino@threads=N`, with `hint` when it is not `latency`."""
        return described(self.name, self.threads, hint=(self.hint, "latency"))

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Compile the file for batches of any size."""
        asked = require_precision(self, artefact, precision)
        if importlib.util.find_spec("openvino") is None:
            raise TargetError(f"openvino is not installed; {INSTALL}")
        openvino = load_openvino()
        if not artefact.path.is_file():
            raise ModelError(f"no file {artefact.path}")
        start = time.perf_counter()
        try:
            compiled = openvino.Core().compile_model(
                artefact.path, "CPU", settings(self.threads, self.hint, asked)
            )
        except RuntimeError as error:
            detail = first_line(error, last=True)
            raise ModelError(
                f"{artefact.path} is not an ONNX file that openvino can load: {detail}"
            ) from None
        load_ms = 1e3 * (time.perf_counter() - start)
        request = compiled.create_infer_request()

        def run(pixels: Pixels) -> Pixels:
            return np.array(request.infer([pixels], share_inputs=True)[0])

        runtime = f"openvino {openvino.__version__.split('-')[0]}"
        return Session(
            *(model, self.describe(), asked, self.threads, runtime, run),
            executed=executed(self.name, asked, layers(compiled)),
            load_ms=load_ms,
        )


def settings(threads: int, hint: str, precision: str) -> dict[str, int | str | bool]:
    """What a network is compiled with; `ssh_runner.openvino_settings` says the same."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "ENABLE_CPU_PINNING": False,  # bound to a core that others use, every call waits for its turn
    }


def layers(compiled: Any) -> Counter[str]:
    """Convolutions and matrix products by precision, from the execution graph of a compiled model."""
    found: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        about = operation.get_rt_info()
        if "layerType" in about and about["layerType"].astype(str) in LAYERS:
            kind = str(about["runtimePrecision"].astype(str))
            found[NAMES.get(kind, kind)] += 1
    return found


def load_openvino() -> ModuleType:
    """Import openvino without its telemetry, which writes an identifier to the home folder on import.

    With the telemetry package out of sight openvino uses its own empty stand-in.
    """
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # pyright: ignore[reportArgumentType] - blocks the import
    try:
        import openvino  # optional dependency  # pyright: ignore[reportMissingImports] - an optional runtime
    finally:
        if hidden:
            del sys.modules[telemetry]
    return openvino


def features() -> str:
    """What OpenVINO computes in on this processor, in its own words (`BF16, FP32, INT8, BIN`)."""
    found: list[str] = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ", ".join(name for name in found if name in ("FP32", "BF16", "FP16", "INT8", "BIN"))
