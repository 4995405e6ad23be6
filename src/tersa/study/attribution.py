"""What the networks of a stack look at: integrated gradients, and an atlas of what activates a unit.

Integrated gradients share a score out among the pixels of an image: along the straight path from a baseline b
(the black image) to the image x, by the midpoint rule with m steps,

    IG_i = (x_i - b_i) 1/m sum_k dF/dx_i (b + (k - 1/2)/m (x - b))          sum_i IG_i ~ F(x) - F(b)

The atlas shows a unit by the images that activate it most, averaged with their activations a as weights:

    atlas_u = sum_{n in top(u)} max(a_nu, 0) x_n / sum_{n in top(u)} max(a_nu, 0)

Both take a stack of runs at once (axis R) and look at any function of the inputs: no rule and no network is
known here.

References:
    Sundararajan, Taly & Yan, Axiomatic attribution for deep networks (2017), section 3 and equation 3.
    Carter et al., Activation atlas (2019): averaged by what the units do, here one unit at a time.

Example:
    >>> weight = torch.tensor([[[1.0, -2.0]]])
    >>> x = torch.tensor([[[[3.0, 0.5]]]])
    >>> integrated_gradients(lambda u: u.flatten(2) @ weight.mT, x, torch.tensor([0]), torch.zeros(1, 1, 2))
    tensor([[[[[ 3., -1.]]]]])
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

STEPS = 32
"""Points on the path: enough for a sum that is within a hundredth of the score's change in ReLU networks."""
TOP = 32
"""Images that an entry of the atlas is averaged from."""

PAPER = (250, 250, 248)
FOR = (12, 120, 106)
AGAINST = (120, 124, 132)
GAP = 1
"""Pixels between the tiles of a mosaic."""

Bytes = npt.NDArray[np.uint8]


def integrated_gradients(
    scores: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    baseline: Tensor,
    *,
    runs: int = 1,
    steps: int = STEPS,
) -> Tensor:
    """What every pixel adds to the score of a class.

    Args:
        scores: from inputs (R, N, C, H, W) to scores (R, N, K).
        images: (N, C, H, W), as the network takes them.
        classes: (N,) int64, whose score is shared out.
        baseline: (C, H, W), the image without information.
        runs: R.
        steps: m, points on the path.

    Returns:
        (R, N, C, H, W); summed over the pixels it is about the score of the image minus that of the baseline.

    Raises:
        ValueError: the scores carry no gradient.
    """
    total = images.new_zeros(runs, *images.shape)
    for step in range(steps):
        share = (step + 0.5) / steps
        inputs = (baseline + share * (images - baseline)).expand_as(total).clone().requires_grad_(True)
        found = scores(inputs)
        if not found.requires_grad:
            raise ValueError("these scores carry no gradient to the inputs; call it without torch.no_grad")
        picked = found.gather(-1, classes.expand(runs, -1).unsqueeze(-1))
        (slope,) = torch.autograd.grad(picked.sum(), inputs)
        total += slope
    return total / steps * (images - baseline)


def atlas(activations: Tensor, images: Tensor, top: int = TOP) -> Tensor:
    """The mean of the images that activate each unit most, weighted by how much they do.

    Args:
        activations: (R, N, U) of the units.
        images: (N, C, H, W) that caused them.
        top: images per unit, at most N.

    Returns:
        (R, U, C, H, W); zeros for a unit that no image activates above zero.
    """
    runs, count, units = activations.shape
    found, index = activations.clamp(min=0).topk(min(top, count), dim=1)  # (R, T, U)
    total = found.sum(1, keepdim=True)
    weights = torch.where(total > 0, found / total.clamp(min=torch.finfo(found.dtype).tiny), 0.0)
    every = activations.new_zeros(runs, count, units).scatter_(1, index, weights)
    flat = every.mT @ images.flatten(1)  # (R, U, C*H*W)
    return flat.view(runs, units, *images.shape[1:])


def mosaic(tiles: npt.NDArray[np.float64], columns: int, *, signed: bool = False) -> Bytes:
    """Grey tiles side by side as one picture.

    Args:
        tiles: (M, H, W). Unsigned tiles are each drawn from black, their least value, to white, their
            greatest. Signed ones from grey, against, over paper, nothing, to green, for, on one scale each.
        columns: tiles per row.
        signed: which of the two.

    Returns:
        (rows, columns, 3) bytes.
    """
    count, height, width = tiles.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), PAPER, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = _signed(tile) if signed else _grey(tile)
    return sheet


def _grey(tile: npt.NDArray[np.float64]) -> Bytes:
    reach = float(tile.max() - tile.min())
    part = (tile - tile.min()) / reach if reach > 0 else np.zeros_like(tile)
    return np.repeat(np.rint(255 * part).astype(np.uint8)[..., None], 3, axis=-1)


def _signed(tile: npt.NDArray[np.float64]) -> Bytes:
    most = float(np.abs(tile).max())
    part = tile / most if most > 0 else np.zeros_like(tile)
    paper, colour = np.array(PAPER, float), np.where(part[..., None] > 0, FOR, AGAINST)
    return np.rint(paper + np.abs(part)[..., None] * (colour - paper)).astype(np.uint8)
