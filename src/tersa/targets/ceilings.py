"""The machine's ceilings: how fast it multiplies, and how fast it copies. Measured once, kept in the cache.

    arithmetic      n^3 / t of an n x n matrix product, n = 1024, by PyTorch or ONNX Runtime, the quicker
    memory          2 b / t of a copy of b bytes, for b from 64 kB to 64 MB: caches are faster than memory

The ceiling of memory for a network is that of its working set: what is smaller than a cache stays there
between calls. A copy of b bytes touches 2 b, so that a working set of w bytes has the ceiling of b = w / 2.
Both are what common kernels reach, not what the data sheet promises, so that a layer can pass 100 %.

Example:
    >>> found = Ceilings(machine="m", threads=1, macs_per_s={"fp32": 5e10}, copies={1024: 4e10, 4096: 1e10})
    >>> round(found.bandwidth(4096) / 1e9, 6)
    20.0
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from tersa.data.cache import cache_dir
from tersa.errors import DataError
from tersa.export.processor import cpuinfo, processor_name
from tersa.numerics import digest
from tersa.records.base import SCHEMA, Record, read_record, write_record
from tersa.targets.environment import cores
from tersa.targets.torch_eager import pinned

SIDE = 1024
COPIES = tuple(2**power for power in range(16, 28, 2))
"""Bytes of the copies: 64 kB to 64 MB."""
SECONDS = 0.15
"""Of each measurement."""


class Ceilings(Record):
    """What a machine can do with so many threads.

    Attributes:
        machine: fingerprint of processor, cores, threads and library versions.
        threads: of the product and the copy.
        macs_per_s: multiply-accumulates in a second, by precision.
        copies: bytes read and written in a second, by bytes copied.
    """

    schema_version: int = SCHEMA
    machine: str
    threads: int
    macs_per_s: dict[str, float]
    copies: dict[int, float]

    def bandwidth(self, working_set: int) -> float:
        """Bytes in a second for a working set, interpolated between the copies on logarithmic axes.

        Args:
            working_set: bytes, of which a copy has a half as its source and a half as its target.
        """
        sizes = sorted(self.copies)
        return float(
            np.exp(
                np.interp(
                    math.log(max(working_set / 2, 1)),
                    [math.log(size) for size in sizes],
                    [math.log(self.copies[size]) for size in sizes],
                )
            )
        )


def ceilings(threads: int = 1, folder: Path | None = None) -> Ceilings:
    """The machine's ceilings, from the cache or measured now (about two seconds).

    Args:
        threads: of the product and the copy.
        folder: of the cache; by default the user's.
    """
    machine = fingerprint(threads)
    path = (folder or cache_dir()) / "ceilings" / f"{machine}.json"
    with suppress(DataError):
        return read_record(path, Ceilings)
    found = measure_ceilings(threads, machine)
    with suppress(OSError):
        write_record(path, found)
    return found


def fingerprint(threads: int) -> str:
    """Names processor, cores, threads and the libraries that the ceilings are measured with."""
    versions = torch.__version__, onnxruntime.__version__
    return digest([processor_name(cpuinfo()), cores(), threads, *versions])


def measure_ceilings(threads: int, machine: str) -> Ceilings:
    """Multiply and copy now."""
    with pinned(threads), torch.inference_mode():
        speeds = {"fp32": max(_product(torch.float32), _by_onnxruntime("MatMul", threads))}
        for name, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            with suppress(RuntimeError):
                speeds[name] = _product(kind)
        speeds["int8"] = _by_onnxruntime("MatMulInteger", threads)
        copies = {size: _copy(size) for size in COPIES}
    return Ceilings(machine=machine, threads=threads, macs_per_s=speeds, copies=copies)


def _product(kind: torch.dtype) -> float:
    a, b = (torch.ones(SIDE, SIDE).to(kind) for _ in range(2))
    return SIDE**3 / _quickest(lambda: torch.mm(a, b))


def _by_onnxruntime(operator: str, threads: int) -> float:
    """A product with a stored matrix, packed once: FP32, or UINT8 by INT8 with 32-bit sums."""
    integer = operator == "MatMulInteger"
    left, right = (np.uint8, np.int8) if integer else (np.float32, np.float32)
    result = TensorProto.INT32 if integer else TensorProto.FLOAT
    weight = numpy_helper.from_array(np.ones((SIDE, SIDE), right), "b")
    a = helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(np.dtype(left)), [SIDE, SIDE])
    c = helper.make_tensor_value_info("c", result, [SIDE, SIDE])
    graph = helper.make_graph([helper.make_node(operator, ["a", "b"], ["c"])], "product", [a], [c], [weight])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = np.ones((SIDE, SIDE), left)
    return SIDE**3 / _quickest(lambda: session.run(None, {"a": values}))


def _copy(size: int) -> float:
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    repeats = max(1, 2**20 // size)

    def copy() -> None:
        for _ in range(repeats):
            target.copy_(source)

    return 2 * size * repeats / _quickest(copy)


def _quickest(work: Callable[[], object]) -> float:
    """Seconds of the quickest of many calls: a ceiling is what undisturbed work reaches."""
    best, end = math.inf, time.perf_counter() + SECONDS
    work()
    while time.perf_counter() < end or best == math.inf:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
