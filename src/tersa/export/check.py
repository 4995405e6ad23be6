"""Hold an artefact against the network it was made from, on the same images, before it is kept.

Example:
    >>> import numpy as np
    >>> compare_logits(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[1.0, 2.5], [3.0, 0.0]]), tolerance=0.1)
    Agreement(images=2, same_class=2, largest_difference=0.5, tolerance=0.1)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tersa.binary.runtime import Runner
from tersa.errors import ModelError
from tersa.export.artefact import open_session
from tersa.export.bundle import SUFFIX, read_bundle
from tersa.export.onnx import as_pixels
from tersa.quant.sums import by
from tersa.records.results import Agreement

BATCH = 256

TOLERANCE = 1e-3
"""Largest difference of a logit that another order of float32 sums explains, relative to the largest (or 1).

Folding the normalisation cancels up to mean / std (about 2) times the size of a first-layer sum; over the
networks of the zoo the difference is below 1e-5, and a wrong layer gives 1e-1 and more.
"""

Images = Tensor | npt.NDArray[np.generic]


def classify(path: Path, images: Images, *, threads: int = 1) -> npt.NDArray[np.float32]:
    """Logits (N, K) of stored images (N, C, H, W; bytes, or floats in 0..1), by ONNX Runtime or
    as a packed program.

    Raises:
        ModelError: the file cannot be loaded, or the images are not of its shape.
    """
    if path.suffix == SUFFIX:
        found: npt.NDArray[Any] = images if isinstance(images, np.ndarray) else images.numpy()
        return Runner(read_bundle(path), threads)(found if found.dtype == np.uint8 else as_pixels(found))
    session = open_session(path, threads)
    wanted = tuple(session.get_inputs()[0].shape[1:])
    if tuple(images.shape[1:]) != wanted:
        raise ModelError(f"{path} takes images of shape {wanted}, got {tuple(images.shape[1:])}")
    name = session.get_inputs()[0].name
    parts = [
        np.asarray(session.run(None, {name: as_pixels(images[start : start + BATCH])})[0])
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, session.get_outputs()[0].shape[1]), np.float32)


def module_logits(module: nn.Module, images: Images) -> npt.NDArray[np.float32]:
    """Logits (N, K) of stored images, by a module that takes pixels (`Deployed`) and PyTorch alone."""
    parts: list[npt.NDArray[np.float32]] = []
    with torch.inference_mode(), by(None):
        for start in range(0, len(images), BATCH):
            parts.append(module(torch.from_numpy(as_pixels(images[start : start + BATCH]))).numpy())
    return np.concatenate(parts)


def compare_logits(
    reference: npt.NDArray[np.floating], found: npt.NDArray[np.floating], *, tolerance: float
) -> Agreement:
    """Two answers to the same images: how many classes agree, and how far the logits are apart.

    Args:
        reference: (N, K), of the trained network.
        found: (N, K), of the artefact.
        tolerance: recorded beside the largest difference; 0 when only classes are compared.

    Raises:
        ModelError: another number of images or classes.
    """
    if reference.shape != found.shape:
        raise ModelError(f"the artefact gave logits of shape {found.shape}, the network {reference.shape}")
    same = int(np.sum(reference.argmax(axis=1) == found.argmax(axis=1)))
    difference = float(np.abs(reference - found).max()) if reference.size else 0.0
    return Agreement(
        images=len(reference), same_class=same, largest_difference=difference, tolerance=tolerance
    )


def agreement(
    path: Path, reference: npt.NDArray[np.floating], images: Images, *, tolerance: float | None = None
) -> Agreement:
    """Run an artefact over a whole split and compare it with the trained network's logits.

    Args:
        path: the ONNX file.
        reference: (N, K) logits of the trained network on `images`.
        images: (N, C, H, W) as stored.
        tolerance: of any logit; by default `TOLERANCE` times the largest logit, or once when that is below 1.
    """
    if tolerance is None:
        tolerance = TOLERANCE * max(1.0, float(np.abs(reference).max(initial=0.0)))
    return compare_logits(reference, classify(path, images), tolerance=tolerance)


def require(found: Agreement, name: str) -> None:
    """Refuse an artefact that does not compute what was trained.

    Raises:
        ModelError: a logit differs by more than the tolerance, or is not a number.
    """
    if not found.largest_difference <= found.tolerance:
        raise ModelError(
            f"{name} does not give the trained network's outputs: logits differ by up to "
            f"{found.largest_difference:.3g} (allowed {found.tolerance:.3g}), "
            f"{found.images - found.same_class} of {found.images} classes differ"
        )
