"""PyTorch eager: the network as it was trained, one operator after the other; FP32, BF16 and FP16.

BF16 and FP16 convert weights and activations (`network.to(bfloat16)`); the pixels are normalised in FP32
before. FP32 is pinned to FP32: neither TF32 on a GPU nor a lowered `float32_matmul_precision` gets in.
INT8 is not offered: eager kernels for it belong to `torch.ao.quantization`, which is being removed.

`torch@device=cuda` runs on the first CUDA device; `layout=channels_last` stores the images as (N, H, W, C).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersa.errors import TargetError
from tersa.export.artefact import Artefact
from tersa.export.onnx import Deployed
from tersa.quant.sums import by
from tersa.targets.base import Pixels, Session, described, executed, first_line, require_precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {**{dtype: name for name, dtype in DTYPES.items()}, torch.int8: "int8", torch.uint8: "int8"}

LAYERS = ("convolution", "conv1d", "conv2d", "conv3d", "linear", "addmm", "mm", "bmm", "baddbmm", "matmul")
"""ATen operators that hold a network's arithmetic."""

OPTIONS = {"device": ("cpu", "cuda"), "layout": ("contiguous", "channels_last")}

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TorchEager:
    """PyTorch eager in inference mode.

    Attributes:
        threads: of one operator; the process-wide number is set for every round and given back.
        device: `cpu` or `cuda`.
        layout: of images in memory, `contiguous` (NCHW) or `channels_last` (NHWC).
    """

    threads: int = 1
    device: str = "cpu"
    layout: str = "contiguous"
    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")

    def describe(self) -> str:
        """`torch@threads=N`, with `device` and `layout` when they are not the defaults."""
        return described(
            self.name, self.threads, device=(self.device, "cpu"), layout=(self.layout, "contiguous")
        )

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """The artefact's module; a bare ONNX file has none."""
        asked = require_precision(self, artefact, precision)
        module = placed(self.name, artefact, asked, self.device, self.layout)
        with pinned(self.threads):
            layers = count_layers(self.name, module, artefact, self.device)
        run = runner(module, self.device, self.layout)
        runtime = f"torch {torch.__version__}"
        return Session(
            *(model, self.describe(), asked, self.threads, runtime, run),
            pinned=lambda: pinned(self.threads),
            device=device_name(self.device),
            executed=executed(self.name, asked, layers),
        )


class Converted(nn.Module):
    """A deployed network in 16 bits: normalised in FP32, computed in `dtype`, FP32 logits.

    Args:
        module: pixels to logits; it is copied.
        dtype: of weights and activations.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        self.dtype = dtype
        inner = self.module.network if isinstance(self.module, Deployed) else self.module
        assert isinstance(inner, nn.Module)
        inner.to(dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, H, W)."""
        module = self.module
        if isinstance(module, Deployed):
            normalised = (pixels - module.get_buffer("mean")) / module.get_buffer("std")
            return module.network(normalised.to(self.dtype)).float()
        return module(pixels.to(self.dtype)).float()


def placed(name: str, artefact: Artefact, asked: str, device: str, layout: str) -> nn.Module:
    """The artefact's module in one precision, on a device, in a memory layout; the original is left alone.

    Raises:
        TargetError: no module, no such device, or a module that cannot be converted.
    """
    module = artefact.module
    if module is None:
        raise TargetError(f"{name} cannot run {artefact.path}: an .onnx file has no PyTorch module")
    if device == "cuda" and not torch.cuda.is_available():
        raise TargetError(f"{name}: PyTorch {torch.__version__} sees no CUDA device; leave device=cuda out")
    if asked != "fp32":
        try:
            module = Converted(module, DTYPES[asked])
        except Exception as error:  # noqa: BLE001 - whatever a user's own module raises when it is copied
            raise TargetError(f"{name} cannot convert the network to {asked}: {first_line(error)}") from None
    if device == "cpu" and layout == "contiguous":
        return module
    memory = torch.channels_last if layout == "channels_last" else torch.preserve_format
    moved = copy.deepcopy(module).to(device)
    return moved.to(memory_format=memory)  # pyright: ignore[reportCallIssue] - a documented overload


def runner(module: Forward, device: str, layout: str) -> Callable[[Pixels], Pixels]:
    """Pixels to logits through a module, with the transfers that the device needs."""
    memory = torch.channels_last if layout == "channels_last" else torch.preserve_format

    def run(pixels: Pixels) -> Pixels:
        with torch.inference_mode():
            images = torch.from_numpy(pixels).to(device=device, memory_format=memory)
            return module(images).cpu().numpy()

    return run


def count_layers(name: str, module: nn.Module, artefact: Artefact, device: str) -> Counter[str]:
    """Number of layers by the precision of their weights and inputs, from one image of zeros.

    Raises:
        TargetError: the network does not run in this precision.
    """
    image = torch.zeros(1, *artefact.header.shape, device=device)
    with torch.inference_mode(), _Recorder() as seen:
        try:
            module(image)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise TargetError(f"{name} cannot run the network: {first_line(error)}") from None
    return seen.layers


def device_name(device: str) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name() if device == "cuda" else device


class _Recorder(TorchDispatchMode):
    """Counts the layers that are executed, by the widest precision among their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: Counter[str] = Counter()

    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in LAYERS:
            used = [one.dtype for one in args if isinstance(one, Tensor)]
            self.layers[NAMES.get(max(used, key=lambda dtype: dtype.itemsize), str(used[0]))] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def pinned(threads: int) -> Generator[None]:
    """Hold PyTorch's number of threads, FP32 at FP32, and its own convolutions; all are given back."""
    backends: Any = torch.backends
    settings = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul, backends.cudnn.conv)
    before = torch.get_num_threads(), [one.fp32_precision for one in settings]
    if before[0] != threads:
        torch.set_num_threads(threads)
    for one in settings:
        one.fp32_precision = "ieee"
    try:
        with by(None):
            yield
    finally:
        if before[0] != threads:
            torch.set_num_threads(before[0])
        for one, value in zip(settings, before[1], strict=True):
            one.fp32_precision = value


def features() -> str:
    """What PyTorch uses of this machine (`AVX512, oneDNN with bf16`)."""
    backends: Any = torch.backends
    operations: Any = torch.ops
    words = [backends.cpu.get_cpu_capability()]
    if backends.mkldnn.is_available():
        short = [
            name
            for name, check in (
                ("bf16", operations.mkldnn._is_mkldnn_bf16_supported),
                ("fp16", operations.mkldnn._is_mkldnn_fp16_supported),
            )
            if check()
        ]
        words.append("oneDNN" + (f" with {' and '.join(short)}" if short else ""))
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)
