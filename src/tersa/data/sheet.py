"""Pictures of a task's images: one image as PNG, and a contact sheet with a row for each class.

Bytes and floats in 0..1 are shown as they are; other floats (features) are stretched from their smallest to
their largest value. One channel is grey, three are colour; of any other number the first is shown. Pixels are
enlarged, never smoothed.

Example:
    png(task.test.images[0], scale=4)                # the bytes of a PNG file
    Path("samples.png").write_bytes(contact_sheet(task, rows=10, columns=12))
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tersa.data.source import Array
from tersa.data.task import Task, pixels

CELL = 56
"""Pixels that the longer side of an image gets, at least, by enlarging."""

GAP = 4
MARGIN = 12
FONT_SIZE = 13
PAPER = (255, 255, 255)
INK = (38, 38, 43)
FAINT = (120, 120, 128)
LABEL_LENGTH = 24


def png(image: Tensor, scale: int = 1) -> bytes:
    """One stored image as the bytes of a PNG file.

    Args:
        image: (C, H, W), uint8 or float.
        scale: how many pixels wide each pixel is drawn.
    """
    if image.ndim != 3 or scale < 1:
        raise ValueError(
            f"image of shape {tuple(image.shape)} at scale {scale}; expected (C, H, W), 1 or more"
        )
    return _encoded(_picture(image, scale))


def contact_sheet(task: Task, rows: int = 10, columns: int = 10, seed: int = 0) -> bytes:
    """Samples of the train split as the bytes of a PNG file: a row for each class, named at its left.

    Args:
        task: where the images come from.
        rows: classes shown; of more than that, evenly spread ones.
        columns: images of each; fewer where a class has fewer.
        seed: which images are shown.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"{rows} rows of {columns}; both must be 1 or more")
    k = len(task.classes)
    shown = (
        sorted({round(i * (k - 1) / max(rows - 1, 1)) for i in range(rows)}) if rows < k else list(range(k))
    )
    _, h, w = task.shape
    scale = -(-CELL // max(h, w))
    font = ImageFont.load_default(FONT_SIZE)
    names = [_printable(task.classes[label]) for label in shown]
    counts = [f"{int((task.train.labels == label).sum()):,}" for label in shown]
    left = MARGIN + round(max(font.getlength(text) for text in (*names, *counts))) + MARGIN
    height = max(h * scale, 2 * FONT_SIZE + 6)
    size = (left + columns * (w * scale + GAP) + MARGIN, 2 * MARGIN + len(shown) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    generator = torch.Generator().manual_seed(seed)
    for row, label in enumerate(shown):
        top = MARGIN + row * (height + GAP)
        draw.text((MARGIN, top), names[row], fill=INK, font=font)
        draw.text((MARGIN, top + FONT_SIZE + 3), counts[row], fill=FAINT, font=font)
        for column, index in enumerate(_sample(task.train.labels, label, columns, generator)):
            picture = _picture(task.train.images[index], scale)
            sheet.paste(picture, (left + column * (w * scale + GAP), top))
    return _encoded(sheet)


def _sample(labels: Tensor, label: int, count: int, generator: torch.Generator) -> list[int]:
    """Up to `count` positions of one class, in random order."""
    members = torch.nonzero(labels == label).flatten()
    return members[torch.randperm(len(members), generator=generator)[:count]].tolist()


def _picture(image: Tensor, scale: int) -> Image.Image:
    """(C, H, W) as an enlarged grey or colour picture."""
    values = pixels(image.detach().cpu())
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 1.0:
        values = (values - low) / max(high - low, 1e-12)
    shown = values if len(values) == 3 else values[:1]
    levels: Array = (shown * 255.0).round().to(torch.uint8).numpy()
    flat = np.ascontiguousarray(levels.transpose(1, 2, 0)) if len(levels) == 3 else levels[0]
    _, h, w = image.shape
    return Image.fromarray(flat).resize((w * scale, h * scale), Image.Resampling.NEAREST)


def _printable(name: str) -> str:
    """A class name that the built-in font can draw, not too long."""
    short = name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 3] + "..."
    return short.encode("latin-1", "replace").decode("latin-1")


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
