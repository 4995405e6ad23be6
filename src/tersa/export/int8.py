"""INT8 by calibration: a float graph becomes a QDQ graph, ranges taken from training images.

Weights are symmetric int8, one scale per output channel; activations are uint8 with a zero point, one scale
per tensor; biases are int32. ONNX Runtime's `quantize_static` chooses the scales; afterwards the graph is
made small again and three of its habits are undone: the logits stay float (8-bit logits tie, and ties cost
accuracy), zero points of weights and biases that are all zero are left out where the runtime does without
them, and the metadata are put back.

What this does not do: quantise-aware training, fewer than 8 bits, or weights alone.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from tersa.errors import ModelError, UsageError, unknown
from tersa.export.artefact import INPUT, OUTPUT, Artefact, Header
from tersa.export.lean import lean_
from tersa.export.processor import saturates
from tersa.files import write_atomic

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}

QUANTISED = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Relu", "Clip", "LeakyRelu", "Sigmoid", "Reshape", "Flatten", "Transpose", "Pad", "Slice", "Split"),
)
"""Operators with quantised inputs and outputs; ONNX Runtime has integer kernels for them, or moves bytes."""

BATCH = 64
"""Calibration images per call: small enough for the histograms of a wide first layer."""


@dataclass(frozen=True)
class Calibration:
    """How the ranges of activations are found.

    Attributes:
        images: (N, C, H, W) float32, as the artefact takes them (pixels in 0..1, or features of any range),
            from the training split; 300 to 1000 are enough.
        method: `minmax`, `entropy` (Kullback-Leibler) or `percentile` (99.999 %).
        reduce_range: weights in 7 bits, against saturation on x86 processors without VNNI; None asks the
            processor of this machine.
    """

    images: npt.NDArray[np.float32]
    method: str = "minmax"
    reduce_range: bool | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("calibration method", self.method, METHODS)
        if self.images.ndim != 4 or not len(self.images):
            raise UsageError(
                f"calibration needs (N, C, H, W) images, at least one, got shape {self.images.shape}"
            )
        if self.images.dtype != np.float32 or not np.isfinite(self.images).all():
            raise UsageError(f"calibration needs finite float32 values, got {self.images.dtype}")
        top = self.images.max()
        if 1.0 < top <= 255.0 and self.images.min() >= 0.0 and not (self.images % 1.0).any():
            raise UsageError("calibration needs pixels in 0..1, these look like bytes; divide by 255")


def quantise_onnx(source: Artefact, path: Path, calibration: Calibration) -> Artefact:
    """Write the INT8 form of a float artefact.

    Args:
        source: an fp32 artefact; its file is not changed.
        path: of the INT8 file; replaced whole when the work has succeeded.
        calibration: images and settings that set the ranges.

    Raises:
        UsageError: the artefact is INT8 already.
        ModelError: the images are not of the artefact's shape, or its graph cannot be quantised.
    """
    if source.header.precision != "fp32":
        raise UsageError(f"{source.path} is {source.header.precision} already; quantise the fp32 file")
    header = replace(source.header, precision="int8")
    model = quantise(onnx.load(source.path), header, calibration)
    write_atomic(path, model.SerializeToString(deterministic=True))
    return Artefact(path, header, source.module)


def quantise(model: onnx.ModelProto, header: Header, calibration: Calibration) -> onnx.ModelProto:
    """The lean QDQ model of a lean float model.

    Raises:
        ModelError: the images are not of the header's shape, or the graph cannot be quantised.
    """
    if calibration.images.shape[1:] != header.shape:
        raise ModelError(
            f"calibration images are {calibration.images.shape[1:]}, the network takes {header.shape}"
        )
    reduce_range = saturates() if calibration.reduce_range is None else calibration.reduce_range
    named = onnx.ModelProto.FromString(
        model.SerializeToString()
    )  # quantize_static changes the model it is given
    for index, node in enumerate(named.graph.node):
        node.name = f"{node.op_type}{index}"
    onnx.helper.set_model_props(
        named, {"onnx.quant.pre_process": "onnxruntime.quant"}
    )  # it is folded and clean
    front = [node.name for node in named.graph.node if INPUT in node.input and node.op_type not in QUANTISED]
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder, _quiet():
        file = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                named,
                file,
                _Reader(calibration.images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_exclude=front,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=METHODS[calibration.method],
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
        except Exception as error:  # noqa: BLE001 - ValueError, RuntimeError and its own types
            detail = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"onnxruntime cannot quantise the network: {detail}") from None
        result = onnx.load(file)
    _float_logits(result)
    _drop_zero_points(result)
    result.ir_version = model.ir_version
    lean_(result, header.properties())
    onnx.checker.check_model(result)
    return result


def float_operations(path: Path) -> dict[str, int]:
    """Operators of an INT8 file that ONNX Runtime computes in float on this machine, with their number.

    The graph is read after the runtime's own optimisation, because a pattern that it does not recognise falls
    back to float without a word. Conversions between float and integer are not counted.
    """
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        file = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(file)
        options.intra_op_num_threads = 1
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(file).graph
    integer: set[str] = set()
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type.startswith(INTEGER) or (node.op_type in SELECTING and node.input[0] in integer):
            integer.update(node.output)
        elif node.op_type not in UNCOUNTED:
            found[node.op_type] += 1
    return dict(sorted(found.items()))


INTEGER = ("QuantizeLinear", "QLinear", "QGemm", "MatMulInteger", "ConvInteger")
"""How the names of ONNX Runtime's integer operators begin."""

SELECTING = (
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "MaxPool",
    "NhwcMaxPool",
    "Concat",
)
"""Operators that move or select values: integer in, integer out."""

UNCOUNTED = ("DequantizeLinear", "Cast", "Shape", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze",
             "ReorderInput", "ReorderOutput")  # fmt: skip
"""Conversions and operators that only rename or move values."""


class _Reader(CalibrationDataReader):
    """Hands images to the calibration, `BATCH` at a time.

    The percentile method stacks the batches, so they must be equal: what is left over is not used.
    """

    def __init__(self, images: npt.NDArray[np.float32]) -> None:
        self._batch = min(BATCH, len(images))
        self._images = images[: len(images) - len(images) % self._batch]
        self._next = 0

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:  # pyright: ignore - the base says dict
        """The next batch, or None at the end."""
        batch = self._images[self._next : self._next + self._batch]
        self._next += self._batch
        return {INPUT: np.ascontiguousarray(batch)} if len(batch) else None


def _float_logits(model: onnx.ModelProto) -> None:
    """Let the last layer give float logits: take away the rounding to 8 bits behind it."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[OUTPUT]
    if last.op_type != "DequantizeLinear":
        return
    rounding = makers.get(last.input[0])
    if rounding is None or rounding.op_type != "QuantizeLinear":
        return
    readers = [node for node in graph.node if rounding.input[0] in node.input]
    if len(readers) != 1 or rounding.input[0] not in makers:
        return
    layer = makers[rounding.input[0]]
    layer.output[list(layer.output).index(rounding.input[0])] = OUTPUT
    graph.node.remove(last)
    graph.node.remove(rounding)


def _drop_zero_points(model: onnx.ModelProto) -> None:
    """Leave out zero points that are zero for every channel, of all biases and of convolution weights.

    ONNX Runtime 1.31 needs those of fully connected weights: without them it computes the layer in float.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {name: (node, slot) for node in model.graph.node for slot, name in enumerate(node.input)}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored or len(node.input) < 3:
            continue
        reader, slot = readers[node.output[0]]
        optional = slot == 2 or (slot == 1 and reader.op_type == "Conv")
        if optional and not numpy_helper.to_array(stored[node.input[2]]).any():
            del node.input[2]


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the calibration's prints and its log lines about settings that are meant; nothing else."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
