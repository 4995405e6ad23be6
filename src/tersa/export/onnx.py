"""A trained network becomes one ONNX file: pixels in, logits out, everything needed to use it inside.

The file takes (N, C, H, W) float32 pixels in 0..1 for any N, with the normalisation folded into the first
layer (`tersa.export.normalise`) and batch normalisation into the convolution before it (by torch's exporter).
A low-bit network is frozen first (`tersa.export.frozen`): its levels are stored, not its latent weights.
Equal weights give equal bytes. It is written whole or not at all.

Example:
    >>> import tempfile, torch
    >>> from tersa.export.artefact import Header
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> header = Header(("dark", "bright"), (1, 2, 2), (0.5,), (0.25,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     artefact = export_onnx(network, header, Path(folder) / "tiny.onnx")
    ...     artefact.size_bytes < 700
    True
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from tersa.data.task import Task
from tersa.errors import ModelError, UsageError
from tersa.export.artefact import INPUT, OUTPUT, PRECISIONS, Artefact, Header
from tersa.export.frozen import freeze, is_low_bit, reads_pixels, require_pixels
from tersa.export.int8 import Calibration, quantise
from tersa.export.lean import lean_
from tersa.export.normalise import normalise_
from tersa.files import write_atomic

OPSET = 18
"""Old enough for every runtime of the last three years, new enough for per-channel DequantizeLinear (13)."""

IR_VERSION = 10
"""What torch 2.11-2.13 write; onnxruntime 1.20-1.31 all read it."""


class Deployed(nn.Module):
    """A network that takes pixels: `network((pixels - mean) / std)`, in evaluation mode, without gradients.

    Args:
        network: takes normalised input.
        header: its mean and standard deviation.
    """

    def __init__(self, network: nn.Module, header: Header) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(header.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(header.std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, H, W) in 0..1."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return self.network((pixels - mean) / std)


def export_onnx(
    network: nn.Module,
    task: Task | Header,
    path: Path,
    *,
    precision: str = "fp32",
    calibration: Calibration | None = None,
) -> Artefact:
    """Write a trained network as an ONNX file.

    Args:
        network: takes normalised (N, C, H, W) input, gives (N, K) logits. It is not changed.
        task: what it was trained on, or the header to write.
        path: of the file; replaced whole when the export has succeeded.
        precision: `fp32` or `int8`.
        calibration: images and settings that set the ranges; needed for `int8`.

    Returns:
        The artefact; its module is a copy of the network (for `int8` too: the float network it stands for).

    Raises:
        UsageError: an unknown precision, or `int8` without calibration images.
        ModelError: the network cannot be traced, or does not give one logit per class.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    if precision == "int8" and calibration is None:
        raise UsageError("int8 needs calibration images: pass calibration=Calibration(images)")
    header = task if isinstance(task, Header) else Header.of(task)
    module = evaluation_copy(network)
    model = build_model(module, header)
    if calibration is not None and precision == "int8":
        header = replace(header, precision="int8")
        model = quantise(model, header, calibration)
    write_atomic(path, model.SerializeToString(deterministic=True))
    return Artefact(path, header, Deployed(module, header))


def evaluation_copy(network: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode; the network given is left alone."""
    with _quiet():
        module = copy.deepcopy(network).cpu()
    with suppress(NotImplementedError):  # `ExportedProgram.module()` has one mode only and refuses eval()
        module.eval()
    return module.requires_grad_(False)


def build_model(module: nn.Module, header: Header) -> onnx.ModelProto:
    """The lean ONNX model of a network in evaluation mode, with the normalisation inside.

    Raises:
        ModelError: the network cannot be traced, or does not give one logit per class.
    """
    example = torch.zeros(2, *header.shape)
    with torch.inference_mode():
        try:
            logits = module(example)
        except Exception as error:  # noqa: BLE001 - whatever a user's own forward raises
            raise ModelError(
                f"the network does not take input {tuple(example.shape)}: {_first_line(error)}"
            ) from None
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, len(header.classes)):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the network must give {(2, len(header.classes))} logits for 2 images, it gives {found}"
        )
    outside = header
    if is_low_bit(module):
        require_pixels(module, header)
        module = frozen = freeze(module)
        if reads_pixels(frozen):
            outside = replace(header, mean=(0.0,) * len(header.mean), std=(1.0,) * len(header.std))
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # noqa: BLE001 - it raises what traced code and passes raise
            raise ModelError(
                f"torch cannot export the network: {_first_line(error.__cause__ or error)}"
            ) from None
    assert program is not None
    model = onnx.ModelProto.FromString(program.model_proto.SerializeToString())
    model.ir_version = IR_VERSION
    normalise_(model, outside)
    lean_(model, header.properties())
    onnx.checker.check_model(model)
    return model


def as_pixels(images: Tensor | npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Stored images (bytes 0..255, or floats in 0..1) as float32 pixels in 0..1."""
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    return array.astype(np.float32, copy=False)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


@contextmanager
def _quiet() -> Generator[None]:
    """Silence what torch's exporter says about itself, and nothing else.

    It logs one line per operator of a package that tersa does not use (torchvision), prints its progress, and
    copies graphs in a way that torch itself calls deprecated.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.filterwarnings(
                "ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning
            )
            yield
    finally:
        logger.setLevel(level)
