"""OpenVINO on the CPU: fp32 and INT8 (QDQ) files. Optional: `pip install "tersa[runtimes]"`."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Pixels, Session, described, require_precision

INSTALL = 'pip install "openvino>=2025.0"'


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU device with the latency hint.

    Attributes:
        threads: of one inference.
    """

    threads: int = 1
    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")

    def describe(self) -> str:
        """`openvino@threads=N`."""
        return described(self.name, self.threads)

    def prepare(self, artefact: Artefact, model: str) -> Session:
        """Compile the file for batches of any size.

        `INFERENCE_PRECISION_HINT` is set because OpenVINO computes fp32 files in bfloat16 where the processor
        can, which would be another precision than the one asked for.
        """
        require_precision(self, artefact)
        if importlib.util.find_spec("openvino") is None:
            raise TargetError(f"openvino is not installed; {INSTALL}")
        openvino = _load()
        if not artefact.path.is_file():
            raise ModelError(f"no file {artefact.path}")
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            compiled = openvino.Core().compile_model(artefact.path, "CPU", settings)
        except RuntimeError as error:
            detail = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"{artefact.path} is not an ONNX file that openvino can load: {detail}"
            ) from None
        request = compiled.create_infer_request()

        def run(pixels: Pixels) -> Pixels:
            return np.array(request.infer([pixels], share_inputs=True)[0])

        runtime = f"openvino {openvino.__version__.split('-')[0]}"
        return Session(model, self.describe(), artefact.header.precision, self.threads, runtime, run)


def _load() -> ModuleType:
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
