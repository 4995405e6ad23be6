"""Packed programs on this processor: the `.tersa` file of a low-bit network, in tersa's own compiled kernels.

Weights and activations are bits in words; see `tersa.binary`. Takes floats in 0..1, which go to the nearest
byte, and bytes 0..255 as they are. The kernels are compiled by numba when they are first used on a machine,
which takes some seconds, and are kept in its cache.

What it does not run: ONNX files. A float network has no packed form.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

from tersa.binary.runtime import Runner
from tersa.export.artefact import PACKED, Artefact
from tersa.export.bundle import read_bundle
from tersa.targets.base import Session, described, require_precision

INSTALL = "pip install numba"


@dataclass(frozen=True)
class Packed:
    """Packed integers: XNOR and popcount.

    Attributes:
        threads: that share each layer; one leaves numba's threads alone.
    """

    threads: int = 1
    name: ClassVar[str] = "packed"
    precisions: ClassVar[tuple[str, ...]] = (PACKED,)

    def describe(self) -> str:
        """`packed@threads=N`."""
        return described(self.name, self.threads)

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Map the file and lay out its weights for the kernels."""
        asked = require_precision(self, artefact, precision)
        start = time.perf_counter()
        program = read_bundle(artefact.path)
        runner = Runner(program, self.threads)
        load_ms = 1e3 * (time.perf_counter() - start)
        return Session(
            model,
            self.describe(),
            asked,
            self.threads,
            f"tersa packed, numba {version('numba')}",
            runner,
            executed=program.precision,
            load_ms=load_ms,
        )
