"""PyTorch eager: the network as it was trained, one operator after the other. fp32 only."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Pixels, Session, described, require_precision


@dataclass(frozen=True)
class TorchEager:
    """PyTorch eager on the CPU, in inference mode.

    Attributes:
        threads: of one operator; the process-wide number is set for every round and given back.
    """

    threads: int = 1
    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def describe(self) -> str:
        """`torch@threads=N`."""
        return described(self.name, self.threads)

    def prepare(self, artefact: Artefact, model: str) -> Session:
        """The artefact's module; a bare ONNX file has none."""
        require_precision(self, artefact)
        module = artefact.module
        if module is None:
            raise TargetError(f"torch cannot run {artefact.path}: an .onnx file has no PyTorch module")

        def run(pixels: Pixels) -> Pixels:
            with torch.inference_mode():
                return module(torch.from_numpy(pixels)).numpy()

        runtime = f"torch {torch.__version__}"
        return Session(model, self.describe(), "fp32", self.threads, runtime, run, self._pinned)

    @contextmanager
    def _pinned(self) -> Generator[None]:
        before = torch.get_num_threads()
        if before == self.threads:
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
