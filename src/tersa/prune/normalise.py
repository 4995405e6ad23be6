"""Making scores of different layers comparable before the least important unit of a network is chosen.

Document 002 calls this regularisation; without it, Taylor scores of early layers dwarf those of late ones.

Example:
    >>> import torch
    >>> l2(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tersa.prune.groups import Groups


def none(scores: Tensor) -> Tensor:
    """Scores as they are, (U,)."""
    return scores


def l1(scores: Tensor) -> Tensor:
    """`s / sum |s|` within one group, (U,); all-zero scores stay zero."""
    return scores / scores.abs().sum().clamp(min=1e-30)


def l2(scores: Tensor) -> Tensor:
    """`s / sqrt(sum s^2)` within one group, (U,); all-zero scores stay zero.

    References:
        Molchanov et al. (ICLR 2017), section 2.3; document 002, section 3.3.
    """
    return scores / scores.norm().clamp(min=1e-30)


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": none, "l1": l1, "l2": l2}


def normalise(scores: Tensor, groups: Groups, how: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `how` to each group's part of `scores` (in the order of `groups.units`), (U,)."""
    result = scores.clone()
    start = 0
    for group in groups.groups:
        end = start + len(group.units)
        result[start:end] = how(scores[start:end])
        start = end
    return result
