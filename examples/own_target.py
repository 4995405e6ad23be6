"""A target of your own: any runtime for ONNX files, here the reference evaluator of the onnx package.

python own_target.py bench model.onnx --data digits --targets onnxruntime,onnx-reference
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
from onnx.reference import ReferenceEvaluator

from tersa.cli.main import run
from tersa.export.artefact import Artefact
from tersa.targets.base import Session, described, require_precision
from tersa.targets.registry import KINDS, Kind


@dataclass(frozen=True)
class OnnxReference:
    """The evaluator that defines what ONNX means: right, and slow."""

    threads: int = 1
    name: ClassVar[str] = "onnx-reference"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def describe(self) -> str:
        """As in tables: name and options."""
        return described(self.name, self.threads)

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Load the file; what is returned maps pixels (N, C, H, W) in 0..1 to logits (N, K)."""
        asked = require_precision(self, artefact, precision)
        network = onnx.load(artefact.path)
        evaluator: Any = ReferenceEvaluator(network)
        feed = network.graph.input[0].name
        return Session(
            model,
            self.describe(),
            asked,
            self.threads,
            f"onnx {onnx.__version__}",
            run=lambda pixels: evaluator.run(None, {feed: pixels})[0],
        )


KINDS["onnx-reference"] = Kind("onnx", "pip install onnx", OnnxReference, most_threads=1)

if __name__ == "__main__":
    run()  # the whole command line, with this target in it
