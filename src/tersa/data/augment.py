"""Augmentation on whole batches: random flip and padded random crop, one offset for each image.

    padded  = images with `pad` zeros on every side
    out_n   = padded_n[:, y_n : y_n + H, x_n : x_n + W],  y_n, x_n uniform in 0..2 pad
    flipped = out_n with its columns reversed, with probability 1/2

Both are one gather for the whole batch, without a loop over images. What is padded is zero in the values that
are given: black for pixels, the mean for normalised input.

References:
    Krizhevsky, Sutskever & Hinton (2012), section 4.1; He et al. (2016), section 4.2 (pad 4, flip, crop).

Example:
    >>> images = torch.arange(4.0).view(1, 1, 1, 4)
    >>> augment(images, torch.Generator().manual_seed(1), flip=True, pad=0)
    tensor([[[[3., 2., 1., 0.]]]])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_zeros

from tersa.data.task import Task


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
        flip: mirror each image left to right with probability 1/2.
        pad: pixels of zeros on every side before a random crop back to the old size; 0: no crop.
    """

    flip: bool = False
    pad: int = 0

    @property
    def nothing(self) -> bool:
        """Images stay as they are."""
        return not self.flip and not self.pad


NONE = Augmentation()
DEFAULTS = {
    "mnist": Augmentation(pad=2),
    "fashion-mnist": Augmentation(flip=True, pad=2),
    "cifar-10": Augmentation(flip=True, pad=4),
}
"""By source. Digits must not be mirrored; of a user's own data it is not known what may be."""


def default_augmentation(task: Task) -> Augmentation:
    """What suits a task: none for bundled digits, features and a user's own data."""
    _, h, w = task.shape
    return NONE if 1 in (h, w) else DEFAULTS.get(task.provenance.source, NONE)


@dataclass(frozen=True)
class Shifts:
    """What augmentation does to each image of a batch.

    Attributes:
        mirrored: (N,) bool, or None where nothing is flipped.
        rows: (N,) int64 in 0..2 pad, first row of the crop; None where nothing is cropped.
        columns: (N,) int64 in 0..2 pad, first column of the crop.
        pad: pixels of zeros on every side.
    """

    mirrored: Tensor | None
    rows: Tensor | None
    columns: Tensor | None
    pad: int


def draw(n: int, generator: torch.Generator, *, flip: bool, pad: int) -> Shifts:
    """Random shifts for N images, on the generator's device."""
    if pad < 0:
        raise ValueError(f"pad {pad}; allowed: 0 or more pixels")

    def below(count: int) -> Tensor:
        return torch.randint(count, (n,), generator=generator, device=generator.device)

    mirrored = below(2) == 1 if flip else None
    rows = below(2 * pad + 1) if pad else None
    columns = below(2 * pad + 1) if pad else None
    return Shifts(mirrored, rows, columns, pad)


def shifted(images: Tensor, shifts: Shifts) -> Tensor:
    """Mirrored and cropped copies of a batch, (N, C, H, W); the batch itself where there is nothing to do."""
    if shifts.mirrored is None and shifts.rows is None:
        return images
    n, c, h, w = images.shape
    device = images.device
    rows = torch.arange(h, device=device).expand(n, h)  # (N, H)
    columns = torch.arange(w, device=device).expand(n, w)  # (N, W)
    if shifts.mirrored is not None:
        columns = torch.where(shifts.mirrored.to(device)[:, None], columns.flip(1), columns)
    if shifts.rows is not None and shifts.columns is not None:
        rows = rows + shifts.rows.to(device)[:, None]
        columns = columns + shifts.columns.to(device)[:, None]
        images = pad_zeros(images, (shifts.pad,) * 4)  # (N, C, H + 2 pad, W + 2 pad)
    index = rows[:, :, None] * images.shape[3] + columns[:, None, :]  # (N, H, W)
    flat = index.view(n, 1, h * w).expand(n, c, h * w)
    return images.reshape(n, c, -1).gather(2, flat).view(n, c, h, w)


def augment(images: Tensor, generator: torch.Generator, *, flip: bool, pad: int) -> Tensor:
    """Randomly mirrored and shifted copies of a batch.

    Args:
        images: (N, C, H, W), any float type, on any device.
        generator: what the choices follow from; one on the CPU gives the same on every device.
        flip: mirror with probability 1/2.
        pad: largest shift in pixels; 0: none.

    Returns:
        (N, C, H, W), same type and device; the batch itself where there is nothing to do.
    """
    return shifted(images, draw(len(images), generator, flip=flip, pad=pad))
