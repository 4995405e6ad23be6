"""`tersa predict`: the classes that an artefact gives to images from files, by ONNX Runtime.

Images are read as PNG, JPEG or `.npy` (rows x columns, with channels last or first; bytes, or floats in
0..1). Colours are converted where the network wants the other kind, and that is said. An image of
another size is an error, because a squeezed image is another question: `resize` allows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tersa.data.folder import decode_image
from tersa.errors import DataError, UsageError
from tersa.export.artefact import Artefact, Header
from tersa.export.check import classify
from tersa.export.onnx import as_pixels
from tersa.records import SCHEMA, Record

Array = npt.NDArray[Any]

GREY = np.array([0.299, 0.587, 0.114])
"""Luminance of red, green and blue (ITU-R BT.601), as Pillow converts."""


class Guess(Record):
    """One class with its probability, 0..1."""

    label: str
    probability: float


class Prediction(Record):
    """One image with its most likely classes, best first; `note` says what was converted."""

    image: str
    top: list[Guess]
    note: str = ""


class PredictResult(Record):
    """Everything that one `tersa predict` found."""

    schema_version: int = SCHEMA
    verb: Literal["predict"] = "predict"
    model: str
    predictions: list[Prediction]
    artefacts: list[str]
    report: str = ""
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """An image as the network wants it: (C, H, W) float32 pixels in 0..1, and what was done to it."""

    pixels: npt.NDArray[np.float32]
    note: str


def predict(
    artefact: Artefact, images: list[Path], *, top: int = 3, resize: bool = False
) -> list[Prediction]:
    """Classify image files.

    Args:
        artefact: the network.
        images: PNG, JPEG or `.npy` files.
        top: how many classes to name.
        resize: scale an image of another size, instead of refusing it.

    Raises:
        UsageError: no image, or `top` below 1.
        DataError: an image that cannot be read, or has another size.
    """
    if not images:
        raise UsageError("no image given; name at least one PNG, JPEG or .npy file")
    if top < 1:
        raise UsageError(f"--top is at least 1, not {top}")
    prepared = [prepare(read_image(path), artefact.header, str(path), resize=resize) for path in images]
    logits = classify(artefact.path, np.stack([one.pixels for one in prepared]))
    shares = softmax(logits)
    return [
        Prediction(image=str(path), top=_best(row, artefact.header.classes, top), note=one.note)
        for path, one, row in zip(images, prepared, shares, strict=True)
    ]


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Probabilities (N, K), in float64.

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def read_image(path: Path) -> Array:
    """An image file as (C, H, W), as stored.

    Raises:
        DataError: no such file, not an image, or an array that is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if path.suffix.lower() != ".npy":
        return decode_image(content, str(path))
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a readable .npy file: {error}") from None
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[2] in (1, 3) and array.shape[0] not in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise DataError(
            f"{path} has shape {array.shape}; an image is rows x columns, or with 1 or 3 channels"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not np.isfinite(array).all() or array.min() < 0.0 or array.max() > 1.0:
        raise DataError(f"{path} holds {array.dtype} values; an image has bytes, or floats in 0..1")
    return array


def prepare(image: Array, header: Header, name: str, *, resize: bool) -> Prepared:
    """An image in the network's colours and size.

    Raises:
        DataError: another size, and `resize` was not asked.
    """
    channels, rows, columns = header.shape
    notes: list[str] = []
    pixels = as_pixels(image)
    if pixels.shape[0] != channels:
        if channels == 1:
            pixels = np.tensordot(GREY, pixels.astype(np.float64), axes=1)[None].astype(np.float32)
            notes.append("colour to grey")
        elif pixels.shape[0] == 1 and channels == 3:
            pixels = np.repeat(pixels, 3, axis=0)
            notes.append("grey to colour")
        else:
            raise DataError(f"{name} has {pixels.shape[0]} channels, the network takes {channels}")
    found = pixels.shape[1:]
    if found != (rows, columns):
        if not resize:
            raise DataError(
                f"{name} is {found[1]}x{found[0]} pixels, the network takes {columns}x{rows}; "
                "--resize scales it"
            )
        layers = [
            Image.fromarray(layer).resize((columns, rows), Image.Resampling.BILINEAR) for layer in pixels
        ]
        pixels = np.clip(np.stack([np.asarray(layer) for layer in layers]), 0.0, 1.0)
        notes.append(f"scaled from {found[1]}x{found[0]} to {columns}x{rows}")
    return Prepared(np.ascontiguousarray(pixels, np.float32), ", ".join(notes))


def _best(shares: npt.NDArray[np.float64], classes: tuple[str, ...], top: int) -> list[Guess]:
    order = np.argsort(-shares, kind="stable")[:top]
    return [Guess(label=classes[int(index)], probability=float(shares[index])) for index in order]
