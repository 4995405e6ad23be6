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
    if pad < 0:
        raise ValueError(f"pad {pad}; allowed: 0 or more pixels")
    if not flip and not pad:
        return images
    n, c, h, w = images.shape
    rows = torch.arange(h, device=images.device).expand(n, h)  # (N, H)
    columns = torch.arange(w, device=images.device).expand(n, w)  # (N, W)
    if flip:
        mirrored = _draw(2, n, generator, images.device) == 1
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    if pad:
        rows = rows + _draw(2 * pad + 1, n, generator, images.device)[:, None]
        columns = columns + _draw(2 * pad + 1, n, generator, images.device)[:, None]
        images = pad_zeros(images, (pad, pad, pad, pad))  # (N, C, H + 2 pad, W + 2 pad)
    index = rows[:, :, None] * images.shape[3] + columns[:, None, :]  # (N, H, W)
    flat = index.view(n, 1, h * w).expand(n, c, h * w)
    return images.reshape(n, c, -1).gather(2, flat).view(n, c, h, w)


def _draw(below: int, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(N,) integers in 0..below-1, drawn where the generator is."""
    return torch.randint(below, (n,), generator=generator, device=generator.device).to(device)
