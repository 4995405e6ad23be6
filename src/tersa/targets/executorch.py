"""ExecuTorch with its XNNPACK backend: the network lowered to a `.pte` program; FP32.

The module is exported with a batch of 1 to `LARGEST_BATCH`, lowered, and run by the Python binding of the
runtime that runs on phones and microcontrollers. Operators that XNNPACK does not take run on ExecuTorch's
portable kernels, which are slow; `runtime` says how many layers those are.

INT8 is not offered here: ExecuTorch quantises PyTorch graphs by its own calibration, which is another network
than the INT8 file that every other target runs.
"""

from __future__ import annotations

import importlib.util
import io
import time
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import torch

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.targets.base import Pixels, Session, described, executed, first_line, require_precision
from tersa.targets.torch_eager import count_layers, pinned, placed

INSTALL = 'pip install "executorch>=1.0"'

LARGEST_BATCH = 256


@dataclass(frozen=True)
class ExecuTorch:
    """ExecuTorch's runtime on the CPU.

    Attributes:
        threads: of its thread pool, which belongs to the whole process and cannot change.
    """

    threads: int = 1
    name: ClassVar[str] = "executorch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def describe(self) -> str:
        """`executorch@threads=N`."""
        return described(self.name, self.threads)

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Export, lower and load the artefact's module."""
        asked = require_precision(self, artefact, precision)
        if importlib.util.find_spec("executorch") is None:
            raise TargetError(f"executorch is not installed; {INSTALL}")
        module = placed(self.name, artefact, asked, "cpu", "contiguous")
        with pinned(self.threads):
            layers = count_layers(self.name, module, artefact, "cpu")
        program, portable = lower(module, artefact)
        runtime = _runtime()
        _set_threads(self.threads)
        start = time.perf_counter()
        loaded = runtime.load_program(program)
        method = loaded.load_method("forward")
        load_ms = 1e3 * (time.perf_counter() - start)
        keep = (method, loaded, program)  # the method points into the program's bytes

        def run(pixels: Pixels) -> Pixels:
            if len(pixels) > LARGEST_BATCH:
                raise TargetError(f"executorch runs batches up to {LARGEST_BATCH}, not {len(pixels)}")
            return keep[0].execute([torch.from_numpy(pixels)])[0].numpy().copy()

        slow = f", {portable} layers on portable kernels" if portable else ""
        return Session(
            *(
                model,
                self.describe(),
                asked,
                self.threads,
                f"executorch {version('executorch')} xnnpack{slow}",
            ),
            run,
            executed=executed(self.name, asked, layers),
            load_ms=load_ms,
            size_bytes=len(program),
        )


def lower(module: torch.nn.Module, artefact: Artefact) -> tuple[bytes, int]:
    """The `.pte` program of a module, and the number of its layers that XNNPACK did not take.

    Raises:
        TargetError: the network cannot be exported or lowered.
    """
    with _quiet():  # importing it warns about registrations of its own
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # pyright: ignore - an optional runtime
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower  # pyright: ignore - an optional runtime

    example = (torch.zeros(2, *artefact.header.shape),)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with _quiet():
        try:
            exported = torch.export.export(module, example, dynamic_shapes=({0: batch},))
            lowered: Any = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            program = lowered.to_executorch()
        except Exception as error:  # noqa: BLE001 - it raises what traced code and passes raise
            raise TargetError(f"executorch cannot lower the network: {first_line(error)}") from None
    kinds = Counter(str(node.target) for node in lowered.exported_program().graph.nodes)
    left = sum(
        count
        for kind, count in kinds.items()
        if any(word in kind for word in ("convolution", "addmm", ".mm."))
    )
    return bytes(program.buffer), left


def _runtime() -> Any:
    with _quiet():
        from executorch.runtime import Runtime  # pyright: ignore - an optional runtime

        return Runtime.get()


_POOL: list[int] = []
"""Size of the thread pool that loaded programs hold on to."""


def _set_threads(count: int) -> None:
    """Size the process-wide thread pool, which must not change once a program is loaded.

    Raises:
        TargetError: a program with another number of threads is loaded in this process.
    """
    with _quiet():  # importing it warns that the interface is experimental
        from executorch.extension.pybindings import portable_lib  # pyright: ignore - an optional runtime

    library: Any = portable_lib
    if not _POOL:
        library._unsafe_reset_threadpool(count)
        _POOL.append(count)
    elif _POOL[0] != count:
        raise TargetError(
            f"executorch runs with {_POOL[0]} threads in this process and cannot change; "
            f"run threads={count} in a process of its own"
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Silence what exporting prints and warns about its own internals."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
