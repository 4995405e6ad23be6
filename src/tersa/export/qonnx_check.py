"""Run a QONNX file with the qonnx package, node by node: the answer that an export is held against.

The package is an optional extra, `pip install 'tersa[qonnx]'`; writing a file (`qonnx.py`) does without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from torch import Tensor

from tersa.errors import ModelError, TargetError
from tersa.export.artefact import INPUT, OUTPUT
from tersa.export.check import Images

INSTALL = "pip install 'tersa[qonnx]'"
BATCH = 128


def as_bytes(images: Images) -> npt.NDArray[np.uint8]:
    """Stored images as bytes 0..255; floats in 0..1 are rounded to the nearest.

    >>> as_bytes(np.array([0.0, 0.5, 1.0], np.float32)).tolist()
    [0, 128, 255]
    """
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    return np.round(array.astype(np.float64) * 255).clip(0, 255).astype(np.uint8)


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy that takes so many images at once; nothing inside depends on it."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*changed.graph.input, *changed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    changed.graph.ClearField("value_info")
    return changed


def classify_qonnx(path: Path, images: Images) -> npt.NDArray[np.float32]:
    """Logits (N, K) of stored images (N, C, H, W), executed by the qonnx package.

    Raises:
        TargetError: the package is not installed.
        ModelError: no ONNX file, or the images are not of its shape.
    """
    if find_spec("qonnx") is None:
        raise TargetError(
            f"a QONNX file is checked by executing it, which needs the qonnx package: {INSTALL}"
        )
    from qonnx.core.modelwrapper import ModelWrapper  # pyright: ignore - optional
    from qonnx.core.onnx_exec import execute_onnx  # pyright: ignore - optional
    from qonnx.transformation.infer_shapes import InferShapes  # pyright: ignore - optional

    try:
        model = onnx.load(path)
    except Exception as error:  # noqa: BLE001 - protobuf and onnx share no base class of their errors
        raise ModelError(f"{path} is not an ONNX file: {str(error).splitlines()[0]}") from None
    shape = tuple(size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim[1:])
    if tuple(images.shape[1:]) != shape:
        raise ModelError(f"{path} takes images of shape {shape}, got {tuple(images.shape[1:])}")
    pixels = as_bytes(images).astype(np.float32)
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    parts = [np.zeros((0, classes), np.float32)]
    for start in range(0, len(pixels), BATCH):
        some = pixels[start : start + BATCH]
        wrapped = ModelWrapper(with_batch(model, len(some))).transform(InferShapes())
        parts.append(execute_onnx(wrapped, {INPUT: some})[OUTPUT])
    return np.concatenate(parts)
