"""ONNX Runtime on the CPU: FP32 and INT8 (QDQ) files.

BF16 and FP16 are not offered: on x86 its CPU provider has no kernels for them and puts casts to FP32 around
every operator, so that a converted file would be measured as something that it is not.

INT8 is looked at after the runtime's own optimisation: a pattern that it does not recognise runs in float.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime

from tersa.export.artefact import Artefact, open_session
from tersa.targets.base import Pixels, Session, described, executed, require_precision

GRAPH_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""Values of `graph`: how far the runtime rewrites the graph before it runs."""

OPTIONS = {"graph": tuple(reversed(GRAPH_LEVELS))}

FLOAT_LAYERS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
INTEGER_LAYERS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
                  "ConvInteger", "DynamicQuantizeMatMul")  # fmt: skip
"""Names of ONNX Runtime's operators for layers, by the arithmetic inside."""


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime's CPU execution provider, operators one after the other.

    Attributes:
        threads: within one operator.
        graph: a key of `GRAPH_LEVELS`.
    """

    threads: int = 1
    graph: str = "all"
    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")

    def describe(self) -> str:
        """`onnxruntime@threads=N`, with `graph` when it is not `all`."""
        return described(self.name, self.threads, graph=(self.graph, "all"))

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Load the file."""
        asked = require_precision(self, artefact, precision)
        start = time.perf_counter()
        loaded = open_session(artefact.path, self.threads, GRAPH_LEVELS[self.graph])
        load_ms = 1e3 * (time.perf_counter() - start)
        pixels_name = loaded.get_inputs()[0].name

        def run(pixels: Pixels) -> Pixels:
            return np.asarray(loaded.run(None, {pixels_name: pixels})[0])

        return Session(
            *(model, self.describe(), asked, self.threads, f"onnxruntime {onnxruntime.__version__}", run),
            executed=executed(self.describe(), asked, layers(artefact.path, GRAPH_LEVELS[self.graph])),
            load_ms=load_ms,
        )


def layers(path: Path, graph: str) -> Counter[str]:
    """Convolutions and matrix products by precision, in the graph as the runtime rewrites it to run it."""
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, graph)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return layers_of(onnx.load(Path(folder) / "optimised.onnx", load_external_data=False))


def layers_of(model: onnx.ModelProto) -> Counter[str]:
    """Convolutions and matrix products by precision, in a graph that the runtime has rewritten."""
    kinds = [node.op_type for node in model.graph.node]
    return Counter(
        "int8" if kind in INTEGER_LAYERS else "fp32"
        for kind in kinds
        if kind in (*FLOAT_LAYERS, *INTEGER_LAYERS)
    )


def features() -> str:
    """What ONNX Runtime was built with for this machine; only its CPU provider is used."""
    return "CPU provider" if "CPUExecutionProvider" in onnxruntime.get_available_providers() else ""
