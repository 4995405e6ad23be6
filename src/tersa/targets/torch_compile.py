"""`torch.compile`: the whole network as one compiled graph (TorchInductor); FP32, BF16 and FP16.

Every batch size is compiled for itself, at its first run, which takes seconds. The graph must be whole
(`fullgraph=True`): a network that would fall back to eager PyTorch in part is refused with the reason. On the
CPU it needs a C++ compiler on the path.
"""

from __future__ import annotations

import os
import shutil
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Pixels, Session, described, executed, require_precision
from tersa.targets.torch_eager import count_layers, device_name, pinned, placed, runner

OPTIONS = {
    "mode": ("default", "reduce-overhead", "max-autotune"),
    "device": ("cpu", "cuda"),
    "layout": ("contiguous", "channels_last"),
}


@dataclass(frozen=True)
class TorchCompile:
    """A network compiled by TorchInductor.

    Attributes:
        threads: of one operator; compiled into the code.
        mode: of `torch.compile`.
        device: `cpu` or `cuda`.
        layout: of images in memory, `contiguous` (NCHW) or `channels_last` (NHWC).
    """

    threads: int = 1
    mode: str = "default"
    device: str = "cpu"
    layout: str = "contiguous"
    name: ClassVar[str] = "torch-compile"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")

    def describe(self) -> str:
        """`torch-compile@threads=N`, with every option that is not its default."""
        return described(
            self.name,
            self.threads,
            mode=(self.mode, "default"),
            device=(self.device, "cpu"),
            layout=(self.layout, "contiguous"),
        )

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """The artefact's module, compiled at the first run of each batch size."""
        asked = require_precision(self, artefact, precision)
        if self.device == "cpu" and not cpp_compiler():
            raise TargetError(f"{self.name} needs a C++ compiler; apt-get install g++ (or set CXX)")
        module = placed(self.name, artefact, asked, self.device, self.layout)
        with pinned(self.threads):
            layers = count_layers(self.name, module, artefact, self.device)
        programs: dict[int, Callable[[Pixels], Pixels]] = {}

        def run(pixels: Pixels) -> Pixels:
            program = programs.get(len(pixels))
            if program is None:
                program = programs[len(pixels)] = self._compile(module)
                with pinned(self.threads), warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of what the compiler itself uses
                    try:
                        return program(pixels)
                    except TorchDynamoException as error:
                        raise TargetError(
                            f"{self.name} cannot compile the network: {_reason(error)}"
                        ) from None
            return program(pixels)

        return Session(
            *(model, self.describe(), asked, self.threads, f"torch {torch.__version__} inductor", run),
            pinned=lambda: pinned(self.threads),
            device=device_name(self.device),
            executed=executed(self.name, asked, layers),
        )

    def _compile(self, module: nn.Module) -> Callable[[Pixels], Pixels]:
        mode = None if self.mode == "default" else self.mode
        call: Any = torch.compile(_fresh(module), fullgraph=True, dynamic=False, mode=mode)
        return runner(call, self.device, self.layout)


def _fresh(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function of its own for one program.

    `torch.compile` counts programs by code object and gives up after eight; every copy has its own count.
    """

    def call(images: Tensor) -> Tensor:
        return module(images)

    code = call.__code__.replace()
    return types.FunctionType(code, call.__globals__, call.__name__, None, call.__closure__)


def _reason(error: TorchDynamoException) -> str:
    """What went wrong in one line: the compiler's message begins with the name of its stage."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def cpp_compiler() -> str:
    """The C++ compiler that TorchInductor will find, or an empty text."""
    named = os.environ.get("CXX", "")
    return next(
        (found for name in ((named,) if named else ("g++", "clang++")) if (found := shutil.which(name))), ""
    )


def features() -> str:
    """The C++ compiler that it will use."""
    found = cpp_compiler()
    return f"compiles with {found.rpartition('/')[2]}" if found else "no C++ compiler: apt-get install g++"
