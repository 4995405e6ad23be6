"""OpenVINO on the CPU: FP32, BF16, FP16 and INT8 (QDQ) files, and packed programs of binary networks.
Optional: `pip install "tersa[runtimes]"`.

OpenVINO computes in bfloat16 where the processor can, whatever the file says, and takes `f16` without a word
on processors that have none. So the precision is set with `INFERENCE_PRECISION_HINT`, and what the compiled
graph will execute is read back, layer by layer.

A `.tersa` file is no file of OpenVINO's: its operations become a model of OpenVINO's own binary convolution
(`openvino_binary`), whose logits are the packed program's. A network that is not binary is refused. Such a
model has one batch size; it is compiled anew when a batch of another one comes.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import PACKED, Artefact
from tersa.export.bundle import read_bundle
from tersa.targets.base import Pixels, Session, described, executed, first_line, require_precision
from tersa.targets.openvino_binary import binary_model, require_binary

INSTALL = 'pip install "openvino>=2025.0"'

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""For INT8 files the hint is of the layers that stay float."""

LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "BinaryConvolution")

NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "I8": "int8"}

BITS = "u1"
"""What OpenVINO calls the precision of its binary convolution."""

OPTIONS = {"hint": ("latency", "throughput")}


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU device, one stream.

    Attributes:
        threads: of one inference.
        hint: `latency` or `throughput`, OpenVINO's performance hint.
    """

    threads: int = 1
    hint: str = "latency"
    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8", PACKED)

    def describe(self) -> str:
        """`openvino@threads=N`, with `hint` when it is not `latency`."""
        return described(self.name, self.threads, hint=(self.hint, "latency"))

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Compile the file for batches of any size; a packed program for one image, and for others later."""
        asked = require_precision(self, artefact, precision)
        if importlib.util.find_spec("openvino") is None:
            raise TargetError(f"openvino is not installed; {INSTALL}")
        openvino = load_openvino()
        if not artefact.path.is_file():
            raise ModelError(f"no file {artefact.path}")
        packed = asked == PACKED
        start = time.perf_counter()
        run = BySize(self._packed(openvino, artefact) if packed else self._file(openvino, artefact, asked))
        load_ms = 1e3 * (time.perf_counter() - start)
        found, runtime = layers(run.compiled), f"openvino {openvino.__version__.split('-')[0]}"
        return Session(
            *(model, self.describe(), asked, self.threads, runtime, run),
            executed=binary(run.compiled, found) if packed else executed(self.name, asked, found),
            load_ms=load_ms,
        )

    def _file(self, openvino: ModuleType, artefact: Artefact, precision: str) -> Callable[[int], Any]:
        try:
            compiled = openvino.Core().compile_model(
                artefact.path, "CPU", settings(self.threads, self.hint, precision)
            )
        except RuntimeError as error:
            detail = first_line(error, last=True)
            raise ModelError(
                f"{artefact.path} is not an ONNX file that openvino can load: {detail}"
            ) from None
        return lambda _: compiled

    def _packed(self, openvino: ModuleType, artefact: Artefact) -> Callable[[int], Any]:
        program = read_bundle(artefact.path)
        require_binary(program)
        core = openvino.Core()
        chosen = settings(self.threads, self.hint, "fp32")  # of the layers that are not binary

        def compiled(images: int) -> Any:
            try:
                return core.compile_model(binary_model(openvino, program, images), "CPU", chosen)
            except RuntimeError as error:
                detail = first_line(error, last=True)
                raise TargetError(f"openvino does not compile {artefact.path.name}: {detail}") from None

        return compiled


class BySize:
    """A network and the memory that it reads images of one batch size from; made anew for another size.

    Pixels are copied there. An array that is handed over in each call is bound first, which takes a tenth of
    a millisecond and more (`benchmarks/runtimes_own_tools.py`).

    Args:
        network: the compiled network for so many images.

    Attributes:
        compiled: the network for the batch size at hand.
        request: of it; its `latency` is what the library says of the last call, in milliseconds.
    """

    def __init__(self, network: Callable[[int], Any]) -> None:
        self._network = network
        self.compiled: Any = network(1)
        self._begin(1)

    def _begin(self, images: int) -> None:
        shape = self.compiled.input().partial_shape
        self.request: Any = self.compiled.create_infer_request()
        tensor = self.request.get_input_tensor()
        if shape[0].is_dynamic:
            tensor.shape = [images, *(side.get_length() for side in list(shape)[1:])]
        self._pixels: Pixels = tensor.data

    def _take(self, images: int) -> None:
        """The network for so many images; the one before gives its memory back first."""
        self._pixels = self._pixels[:0].copy()
        self.request = self.compiled = None
        self.compiled = self._network(images)
        self._begin(images)

    def __call__(self, pixels: Pixels) -> Pixels:
        """Logits (N, K) of pixels (N, C, H, W) in 0..1.

        Raises:
            ModelError: images of another shape or type, or more or fewer than the file takes.
            TargetError: the network cannot be compiled for so many images.
        """
        shape = self._pixels.shape
        if pixels.shape[1:] != shape[1:] or pixels.dtype != np.float32:
            raise ModelError(
                f"openvino takes float32 images {shape[1:]}, got {pixels.dtype} {pixels.shape[1:]}"
            )
        if len(pixels) != len(self._pixels):
            self._take(len(pixels))
            if len(pixels) != len(self._pixels):
                raise ModelError(f"the file takes batches of {len(self._pixels)} only, not {len(pixels)}")
        self._pixels[...] = pixels
        self.request.infer()
        return np.array(self.request.get_output_tensor().data)


def settings(threads: int, hint: str, precision: str) -> dict[str, int | str | bool]:
    """What a network is compiled with; `ssh_runner.openvino_settings` says the same."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "ENABLE_CPU_PINNING": False,  # bound to a core that others use, every call waits for its turn
    }


def layers(compiled: Any) -> Counter[str]:
    """Convolutions and matrix products by precision, from the execution graph of a compiled model."""
    found: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        about = operation.get_rt_info()
        if "layerType" in about and about["layerType"].astype(str) in LAYERS:
            kind = str(about["runtimePrecision"].astype(str))
            found[NAMES.get(kind, kind)] += 1
    return found


def binary(compiled: Any, layers: Mapping[str, int]) -> str:
    """What a compiled binary network executes, in words: `binary (u1) 14 of 15 layers, fp32 1`.

    A processor for which OpenVINO has no such kernels gets its reference one, which is said.

    Args:
        compiled: the network.
        layers: of it, by precision.

    Raises:
        TargetError: no layer is binary in the compiled graph.
    """
    found = dict(layers)
    total, met = sum(found.values()), found.pop(BITS, 0)
    others = "".join(f", {name} {count}" for name, count in sorted(found.items()))
    if not met:
        raise TargetError(f"openvino computes 0 of {total} layers in binary on this machine ({others[2:]})")
    slow = ", by OpenVINO's reference kernel" if "ref" in binary_kernels(compiled) else ""
    return f"binary ({BITS}) {met} of {total} layers{slow}{others}"


def binary_kernels(compiled: Any) -> set[str]:
    """The kinds of kernels that binary convolutions run on: `jit`, `ref`."""
    about = (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops())
    return {
        str(one["primitiveType"].astype(str)).partition("_")[0]
        for one in about
        if "layerType" in one and one["layerType"].astype(str) == "BinaryConvolution"
    }


def load_openvino() -> ModuleType:
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


def features() -> str:
    """What OpenVINO computes in on this processor, in its own words (`BF16, FP32, INT8, BIN`)."""
    found: list[str] = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ", ".join(name for name in found if name in ("FP32", "BF16", "FP16", "INT8", "BIN"))
