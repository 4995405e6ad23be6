"""TensorRT on an NVIDIA GPU: FP32, FP16, BF16 and INT8 (QDQ) files.

FP32 is FP32 (TF32 is switched off). FP16 and BF16 let the builder choose that precision for each layer, and
what it chose is read back from the engine (`EngineInspector`). Written against the Python API of TensorRT 10;
memory on the GPU comes from PyTorch, so that no other binding is needed.

An engine belongs to one GPU and takes seconds to minutes to build. Batches from 1 to `LARGEST_BATCH` run.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections import Counter
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import INPUT, OUTPUT, Artefact
from tersa.targets.base import Pixels, Session, described, executed, require_precision

INSTALL = 'pip install "tensorrt>=10" (needs an NVIDIA GPU and a CUDA build of PyTorch)'

OPTIONS = {"level": ("3", "0", "1", "2", "4", "5")}

LARGEST_BATCH = 256

FORMATS = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8"}
"""How the engine names the type of a tensor, up to the first space or bracket, and our name."""

LAYERS = (
    "Convolution",
    "CaskConvolution",
    "Gemm",
    "CaskGemm",
    "MatrixMultiply",
    "FullyConnected",
    "Deconvolution",
)


@dataclass(frozen=True)
class TensorRt:
    """TensorRT on the first CUDA device.

    Attributes:
        threads: 1; the work is on the GPU.
        level: optimisation level of the builder, 0 to 5.
    """

    threads: int = 1
    level: str = "3"
    name: ClassVar[str] = "tensorrt"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8")

    def describe(self) -> str:
        """`tensorrt@threads=1`, with `level` when it is not 3."""
        return described(self.name, self.threads, level=(self.level, "3"))

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Build an engine for this GPU."""
        asked = require_precision(self, artefact, precision)
        if importlib.util.find_spec("tensorrt") is None:
            raise TargetError(f"tensorrt is not installed; {INSTALL}")
        if not torch.cuda.is_available():
            raise TargetError(f"tensorrt needs an NVIDIA GPU; PyTorch {torch.__version__} sees none")
        if not artefact.path.is_file():
            raise ModelError(f"no file {artefact.path}")
        import tensorrt  # pyright: ignore[reportMissingImports] - an optional runtime

        plan = build_engine(tensorrt, artefact, asked, int(self.level))
        start = time.perf_counter()
        engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(plan)
        context = engine.create_execution_context()
        load_ms = 1e3 * (time.perf_counter() - start)
        classes = len(artefact.header.classes)

        def run(pixels: Pixels) -> Pixels:
            if len(pixels) > LARGEST_BATCH:
                raise TargetError(f"tensorrt runs batches up to {LARGEST_BATCH}, not {len(pixels)}")
            images = torch.from_numpy(pixels).cuda()
            logits = torch.empty(len(pixels), classes, device="cuda")
            context.set_input_shape(INPUT, tuple(images.shape))
            context.set_tensor_address(INPUT, images.data_ptr())
            context.set_tensor_address(OUTPUT, logits.data_ptr())
            context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
            return logits.cpu().numpy()

        return Session(
            *(model, self.describe(), asked, self.threads, f"tensorrt {tensorrt.__version__}", run),
            device=torch.cuda.get_device_name(),
            executed=executed(self.name, asked, layers(tensorrt, engine)),
            load_ms=load_ms,
            size_bytes=len(bytes(plan)),
        )


def build_engine(tensorrt: ModuleType | Any, artefact: Artefact, asked: str, level: int) -> Any:
    """A serialised engine for batches of 1 to `LARGEST_BATCH`.

    Raises:
        ModelError: TensorRT cannot read the file.
        TargetError: it can, but cannot build an engine.
    """
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    if not parser.parse(artefact.path.read_bytes()):
        detail = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise ModelError(f"{artefact.path} is not an ONNX file that tensorrt can load: {detail}")
    config = builder.create_builder_config()
    config.builder_optimization_level = level
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    flags = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
    if asked in flags:
        config.set_flag(getattr(tensorrt.BuilderFlag, flags[asked]))
    shape = artefact.header.shape
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, (1, *shape), (8, *shape), (LARGEST_BATCH, *shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TargetError(f"tensorrt built no engine of {artefact.path.name} in {asked}")
    return plan


def layers(tensorrt: ModuleType | Any, engine: Any) -> Counter[str]:
    """Convolutions and matrix products by the precision of their inputs, as the engine describes itself."""
    text = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    return read_layers(text)


def read_layers(text: str) -> Counter[str]:
    """The same from the inspector's JSON.

    >>> dict(read_layers('{"Layers": [{"LayerType": "CaskConvolution", "Inputs":'
    ...                  ' [{"Format/Datatype": "Half NHWC8"}]}, {"LayerType": "Reformat"}]}'))
    {'fp16': 1}
    """
    found: Counter[str] = Counter()
    for layer in json.loads(text)["Layers"]:
        if layer.get("LayerType") in LAYERS and layer.get("Inputs"):
            kind = str(layer["Inputs"][0].get("Format/Datatype", "unknown")).split(" ")[0].split("[")[0]
            found[FORMATS.get(kind, kind)] += 1
    return found
