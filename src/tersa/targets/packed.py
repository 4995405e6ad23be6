"""Packed programs on this processor: the `.tersa` file of a low-bit network, in tersa's own compiled kernels.

Weights and activations are bits in words; see `tersa.binary`. Takes floats in 0..1, which go to the nearest
byte, and bytes 0..255 as they are. The kernels are compiled by numba when they are first used on a machine,
which takes some seconds, and are kept in its cache.

A network in FP32 or INT8 has no packed form. It is run all the same, from its ONNX file, by plain matrix
products (`tersa.export.direct`): a slow path, which the runtime's name says, so that a matrix of targets has
its row. Nothing is packed there, and nothing falls back to it: it takes ONNX files alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import ClassVar

from tersa.binary.runtime import Runner
from tersa.errors import ModelError
from tersa.export.artefact import PACKED, Artefact
from tersa.export.bundle import read_bundle
from tersa.export.direct import Direct
from tersa.export.graph import read_graph
from tersa.targets.base import Pixels, Session, described, executed, require_precision
from tersa.targets.torch_eager import pinned

INSTALL = "pip install numba"
SLOW = "slow path"


@dataclass(frozen=True)
class Packed:
    """Packed integers: XNOR and popcount; networks in FP32 and INT8 on a slow path.

    Attributes:
        threads: that share each layer; one leaves numba's threads alone.
    """

    threads: int = 1
    name: ClassVar[str] = "packed"
    precisions: ClassVar[tuple[str, ...]] = (PACKED, "fp32", "int8")

    def describe(self) -> str:
        """`packed@threads=N`."""
        return described(self.name, self.threads)

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Map the file and lay out its weights for the kernels; or read an ONNX file for the slow path."""
        asked = require_precision(self, artefact, precision)
        return self._packed(artefact, model) if asked == PACKED else self._slow(artefact, model, asked)

    def _packed(self, artefact: Artefact, model: str) -> Session:
        start = time.perf_counter()
        program = read_bundle(artefact.path)
        runner = Runner(program, self.threads)
        load_ms = 1e3 * (time.perf_counter() - start)
        return Session(
            model,
            self.describe(),
            PACKED,
            self.threads,
            f"tersa packed, numba {version('numba')}",
            runner,
            executed=program.precision,
            load_ms=load_ms,
        )

    def _slow(self, artefact: Artefact, model: str, precision: str) -> Session:
        start = time.perf_counter()
        direct = Direct(read_graph(artefact.path))
        load_ms = 1e3 * (time.perf_counter() - start)
        shape = artefact.header.shape

        def run(pixels: Pixels) -> Pixels:
            if pixels.shape[1:] != shape or pixels.dtype != "float32":
                raise ModelError(
                    f"packed takes float32 images {shape}, got {pixels.dtype} {pixels.shape[1:]}"
                )
            return direct(pixels)

        return Session(
            model,
            self.describe(),
            precision,
            self.threads,
            f"tersa {SLOW}, torch {version('torch')}",
            run,
            partial(pinned, self.threads),
            executed=f"{executed(self.name, precision, direct.layers)}, {SLOW}",
            load_ms=load_ms,
            size_bytes=artefact.size_bytes,
        )
