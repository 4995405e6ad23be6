"""ONNX Runtime on the CPU: fp32 and INT8 (QDQ) files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnxruntime

from tersa.export.artefact import Artefact, open_session
from tersa.targets.base import Pixels, Session, described, require_precision

GRAPH_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""Values of `graph`: how far the runtime rewrites the graph before it runs."""


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

    def prepare(self, artefact: Artefact, model: str) -> Session:
        """Load the file."""
        require_precision(self, artefact)
        loaded = open_session(artefact.path, self.threads, GRAPH_LEVELS[self.graph])
        pixels_name = loaded.get_inputs()[0].name

        def run(pixels: Pixels) -> Pixels:
            return np.asarray(loaded.run(None, {pixels_name: pixels})[0])

        runtime = f"onnxruntime {onnxruntime.__version__}"
        return Session(model, self.describe(), artefact.header.precision, self.threads, runtime, run)
