"""Which single weights or kernels go: masks over the weights of convolutions and fully connected layers.

A mask is a bool tensor shaped like its weight, True where the weight is alive. What one removal takes is the
granularity:

    map      whole feature maps and neurons: these leave the network for real, see `surgery.py`; no masks
    kernel   all weights between one input and one output channel; a kernel of size 1 is a weight
    weight   single weights
    N:M      at most N of every M consecutive inputs stay, in all blocks at once, see `blocks.py`

`choose_masks` removes the kernels or weights of lowest score over all layers together, and masks only ever
shrink; `regrow` brings back the dead weights that the loss pulls at most, by

    |dL/dw|    summed over the kernel

for pruning with regrowth. Which weights of a network take part, and keeping the dead ones at zero while it
trains, is `holding.py`; their size on disk `sparse.py`. Masks make a network smaller to store, not faster to
run: the tensors keep their sizes.

Example:
    >>> scores = {"fc.weight": torch.tensor([[0.4, 0.1], [0.2, 0.3]])}
    >>> masks = {"fc.weight": torch.ones(2, 2, dtype=torch.bool)}
    >>> choose_masks(scores, masks, "weight", count=2)["fc.weight"].int().tolist()
    [[1, 0], [0, 1]]

References:
    Han et al., Learning both Weights and Connections (NeurIPS 2015).
    Guo, Yao & Chen, Dynamic Network Surgery (NeurIPS 2016).
    Evci et al., Rigging the Lottery (ICML 2020), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tersa.errors import Diverged, ModelError, UsageError, unknown
from tersa.prune.blocks import NM, best, parse_nm, whole
from tersa.prune.normalise import none

Unit = Literal["map", "kernel", "weight"]

Granularity = Unit | NM
"""What one removal takes."""

Masks = Mapping[str, Tensor]
"""Parameter name -> bool, True where alive, shaped like the parameter."""

NAMES: tuple[Unit, ...] = ("map", "kernel", "weight")

NOT_FINITE = "a score or gradient is NaN or infinite: the network or its input holds such values"

SLACK = 1e-9
"""Relative: 0.1 of 1,000 weights is 100 removals, though 0.1 * 1000 may be an ulp above 100."""


def parse_granularity(text: str) -> Granularity:
    """`map`, `kernel`, `weight`, or a pattern such as `2:4`.

    Raises:
        UsageError: another name, or numbers that make no pattern.

    >>> parse_granularity("kernel"), parse_granularity("1:4")
    ('kernel', NM(n=1, m=4))
    """
    asked = text.strip().lower()
    for name in NAMES:
        if asked == name:
            return name
    pattern = parse_nm(asked)
    if pattern is None:
        raise unknown("granularity", text, (*NAMES, "N:M (such as 2:4)"))
    return pattern


def gone(masks: Masks) -> float:
    """Share of the weights under masks that are dead, 0 .. 1.

    >>> gone({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
    0.25
    """
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def choose_masks(
    scores: Mapping[str, Tensor],
    masks: Masks,
    granularity: Granularity,
    *,
    count: int | None = None,
    share: float | None = None,
    how: Callable[[Tensor], Tensor] = none,
    least: int = 1,
) -> dict[str, Tensor]:
    """The masks after removing what has the lowest scores among all that is alive in these layers.

    A kernel's score is the sum over its living weights. Of equal scores the first goes first.

    Args:
        scores: of each weight, shaped like the masks; those of dead weights do not count.
        masks: what is alive now; never changed, and nothing dead comes back.
        granularity: `kernel`, `weight`, or N:M, which takes neither count nor share: of every block the N
            highest scores stay.
        count: kernels or weights to remove now; fewer where the layers have no more to give.
        share: of all weights under masks that must be dead afterwards, at least, 0 .. 1; removes as few
            as reach it.
        how: makes the layers comparable, from `normalise.NORMALISATIONS`; sees the living of one layer.
        least: kernels or weights that stay in each layer.

    Raises:
        UsageError: not one of count and share, names or shapes that do not fit, granularity `map`.
        ModelError: a layer without a living weight, a share that `least` does not allow, or N:M on layers
            that have no more than N inputs each.
        Diverged: the score of a living weight is NaN or infinite.
    """
    _check(scores, masks, "scores")
    for name, mask in masks.items():
        if not bool(mask.any()):
            raise ModelError(f"{name} has no weight left; nothing can be chosen from it")
    if isinstance(granularity, NM):
        if count is not None or share is not None:
            raise UsageError(f"{granularity} says itself how many weights go; give neither count nor share")
        return _best_blocks(scores, masks, granularity)
    if least < 1:
        raise UsageError(f"least is {least}; at least 1 must stay in each layer")
    pools = [_pool(scores[name], mask, granularity, alive=True) for name, mask in masks.items()]
    order = _free(pools, _order(pools, how), least)
    sizes = torch.cat([pool.sizes for pool in pools])[order]
    number = _removals(masks, sizes, count, share)
    return _with(masks, pools, order[:number], granularity, alive=False)


def regrow(
    masks: Masks,
    gradients: Mapping[str, Tensor],
    granularity: Granularity = "weight",
    *,
    count: int | None = None,
    share: float | None = None,
    how: Callable[[Tensor], Tensor] = none,
) -> dict[str, Tensor]:
    """The masks after bringing back what is dead and has the largest gradients, over all these layers.

    What comes back is zero until it is trained. RigL regrows layer by layer: give one layer at a time.

    Args:
        masks: what is alive now; not changed.
        gradients: dL/dw of all weights, dead ones too; `torch.autograd.grad` gives them, also under `held`.
        granularity: `weight`, or `kernel` (those without any living weight).
        count: kernels or weights to bring back; fewer where fewer are dead.
        share: instead, of those that are dead, 0 .. 1, rounded.
        how: makes the layers comparable; sees the dead of one layer.

    Raises:
        UsageError: not one of count and share, names or shapes that do not fit, another granularity.
        Diverged: the gradient of a dead weight is NaN or infinite.

    References:
        Evci et al. (ICML 2020), section 3, grow criterion; Guo et al. (NeurIPS 2016) splice by the size of a
        weight that they keep beside its mask.
    """
    _check(gradients, masks, "gradients")
    if isinstance(granularity, NM):
        raise UsageError(f"{granularity} does not regrow; choose {granularity} masks anew from full masks")
    pools = [_pool(gradients[name].abs(), mask, granularity, alive=False) for name, mask in masks.items()]
    order = _order(pools, lambda scores: -how(scores))
    if (count is None) == (share is None):
        raise UsageError("regrow takes one of count and share, and not both")
    if share is not None and not 0 <= share <= 1:
        raise UsageError(f"share is {share}; of the dead it is 0 .. 1")
    number = count if count is not None else round((share or 0.0) * len(order))
    if number < 0:
        raise UsageError(f"count is {number}; must be 0 or more")
    return _with(masks, pools, order[:number], granularity, alive=True)


@dataclass(frozen=True)
class _Pool:
    """The units of one layer that may be chosen.

    Attributes:
        places: their numbers among the layer's units (weights, or kernels), (U,).
        scores: (U,), float64.
        sizes: living weights of each, (U,).
    """

    places: Tensor
    scores: Tensor
    sizes: Tensor


def _by_unit(values: Tensor, granularity: Unit) -> Tensor:
    """(units, weights per unit)."""
    if granularity == "map":
        raise UsageError("granularity map has no masks: tersa.prune.surgery removes feature maps for real")
    if granularity == "weight" or values.dim() <= 2:
        return values.reshape(-1, 1)
    return values.reshape(values.shape[0] * values.shape[1], -1)  # (O I, k k)


def _pool(scores: Tensor, mask: Tensor, granularity: Unit, *, alive: bool) -> _Pool:
    """The living units with the scores of their living weights, or the dead units with those of all."""
    living = _by_unit(mask, granularity)
    counted = _by_unit(scores.detach(), granularity).double().to(mask.device)
    if alive:
        counted = counted.masked_fill(~living, 0.0)
    sizes = living.sum(dim=1)  # (units,)
    places = ((sizes > 0) == alive).nonzero().reshape(-1)
    chosen = counted.sum(dim=1)[places].cpu()
    if not bool(torch.isfinite(chosen).all()):
        raise Diverged(NOT_FINITE)
    return _Pool(places.cpu(), chosen, sizes[places].cpu())


def _order(pools: list[_Pool], how: Callable[[Tensor], Tensor]) -> Tensor:
    """Numbers of all units, those of all layers one after the other, in rising order of score."""
    return torch.argsort(torch.cat([how(pool.scores) for pool in pools]), stable=True)


def _free(pools: list[_Pool], order: Tensor, least: int) -> Tensor:
    """The sorted units that may go: of each layer all but its last `least`, in the same order."""
    owners = torch.cat([torch.full((len(pool.places),), i) for i, pool in enumerate(pools)])[order]
    free = torch.ones_like(owners, dtype=torch.bool)
    for layer in range(len(pools)):
        free[(owners == layer).nonzero().reshape(-1)[-least:]] = False
    return order[free]


def _removals(masks: Masks, sizes: Tensor, count: int | None, share: float | None) -> int:
    """How many of the units of these sizes, in this order, must go."""
    if count is not None and share is None:
        if count < 0:
            raise UsageError(f"count is {count}; must be 0 or more")
        return count
    if share is None or count is not None:
        raise UsageError("choose_masks takes one of count and share, and not both")
    if not 0 <= share < 1:
        raise UsageError(f"share is {share}; it is 0 or more and less than 1")
    total = sum(mask.numel() for mask in masks.values())
    dead = total - sum(int(mask.sum()) for mask in masks.values())
    needed = math.ceil(share * total * (1 - SLACK)) - dead
    if needed <= 0:
        return 0
    removed = torch.cumsum(sizes, dim=0)
    reach = int(removed[-1]) if len(removed) else 0
    if needed > reach:
        raise ModelError(
            f"a share of {share} cannot be removed: {(dead + reach) / total:.6g} is the most that leaves "
            "every layer what must stay; ask for less"
        )
    return int(torch.searchsorted(removed, needed)) + 1


def _with(
    masks: Masks, pools: list[_Pool], chosen: Tensor, granularity: Unit, *, alive: bool
) -> dict[str, Tensor]:
    """The masks with all weights of the chosen units alive or dead."""
    ends = torch.tensor([len(pool.places) for pool in pools]).cumsum(dim=0)
    layers = torch.searchsorted(ends, chosen, right=True)
    found: dict[str, Tensor] = {}
    for index, ((name, mask), pool) in enumerate(zip(masks.items(), pools, strict=True)):
        inside = chosen[layers == index] - (ends[index] - len(pool.places))
        fresh = mask.clone(memory_format=torch.contiguous_format)
        _by_unit(fresh, granularity)[pool.places[inside].to(mask.device)] = alive  # a view of `fresh`
        found[name] = fresh
    return found


def _best_blocks(scores: Mapping[str, Tensor], masks: Masks, pattern: NM) -> dict[str, Tensor]:
    """Of every block the best, among the living."""
    if len(whole(masks, pattern)) == len(masks):
        raise ModelError(
            f"{pattern} removes nothing: no layer has more than {pattern.n} inputs per output; "
            "choose a smaller N"
        )
    found: dict[str, Tensor] = {}
    for name, mask in masks.items():
        values = scores[name].detach().to(mask.device)
        if not bool(torch.isfinite(values[mask]).all()):
            raise Diverged(NOT_FINITE)
        found[name] = mask & best(values.masked_fill(~mask, -math.inf), pattern)
    return found


def _check(values: Mapping[str, Tensor], masks: Masks, what: str) -> None:
    """Every mask is bool, of two dimensions or more, and has values of its shape."""
    if not masks:
        raise UsageError("no masks were given; start from full ones, of the weights that maskable names")
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.dim() < 2 or not mask.numel():
            raise UsageError(
                f"the mask of {name} is {tuple(mask.shape)} of {mask.dtype}; it must be bool, (O, I, ...), "
                "and not empty"
            )
        if name not in values:
            raise UsageError(f"{name} has a mask and no {what}; give {what} for every mask")
        if values[name].shape != mask.shape:
            raise UsageError(
                f"the {what} of {name} are {tuple(values[name].shape)}, its mask {tuple(mask.shape)}; "
                "they must be one per weight"
            )
