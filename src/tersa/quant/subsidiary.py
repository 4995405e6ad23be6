"""Main and subsidiary networks: which filters of a binary network can go, learnt as binary masks.

The main network is the binary network itself. Behind each activation stands a mask with one latent m per
channel, the subsidiary network:

    y_c = x_c keep_c,   keep_c = 1 where m_c >= 0, else 0
    grad_m = 1/2 sum(grad_y x) 1(|m| <= 1) + pull / C

a straight-through estimator like the sign's, and a pull towards removal. A channel that is masked adds
nothing to the next layer's sums, so it and the filter that made it can be removed without changing any
output: `remove_masked_` makes the smaller network. Not so where a weight's level or factor follows from the
weights beside it (`scale=channel`, `shape=...`, ternary): such specs are refused, and it removes nothing.

A training (`train.latents`) has three stages, each a third: the main network alone; the masks, one layer
after another from the first to the last, while the main network stands still; the main network again, with
what the masks have left. Spec: `cnv+w1a1:mask=subsidiary`, for networks without shortcuts.

Differs from the paper: masks act on activations, which is the same but for padding; the paper repeats its
second stage layer by layer until the accuracy falls.

Example:
    >>> mask = FilterMask(3)
    >>> _ = mask.latent.data.copy_(torch.tensor([0.5, -0.5, 0.0]))
    >>> mask(torch.tensor([[1.0, 1.0, -1.0]])).tolist(), mask.kept
    ([[1.0, 0.0, -1.0]], 2)

References:
    Xu et al., A Main/Subsidiary Network Framework for Simplifying Binary Neural Networks (CVPR 2019),
    section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from tersa.errors import UsageError
from tersa.quant.layers import IntegerBatchNorm1d, IntegerBatchNorm2d, QuantConv2d, QuantLayer, QuantLinear

START = 0.25
"""Latents at the beginning: every channel is kept."""
PULL = 0.01
"""Weight of the share of channels kept, beside the loss."""


class FilterMask(nn.Module):
    """Channels that are kept, by the sign of a latent.

    Args:
        channels: C.
        pull: weight of the share kept in the loss.
    """

    def __init__(self, channels: int, pull: float = PULL) -> None:
        super().__init__()
        self.pull = pull
        self.latent = nn.Parameter(torch.full((channels,), START))

    @property
    def kept(self) -> int:
        """Channels that are kept."""
        return int((self.latent >= 0).sum())

    def forward(self, x: Tensor) -> Tensor:
        """The channels of (N, C, ...) that are kept, the others 0."""
        keep = cast(Tensor, _Keep.apply(self.latent, self.pull))  # pyright: ignore[reportUnknownMemberType] - no stub
        return x * keep.to(x.dtype).view(1, -1, *([1] * (x.dim() - 2)))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.kept} of {len(self.latent)}"


class _Keep(torch.autograd.Function):
    """1 where m >= 0, else 0; backward as in the head of this file."""

    generate_vmap_rule = True

    @staticmethod
    def forward(latent: Tensor, pull: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        return (latent >= 0).to(latent.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        latent, ctx.pull = inputs
        ctx.save_for_backward(latent)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        (latent,) = ctx.saved_tensors
        return 0.5 * grad * (latent.abs() <= 1) + ctx.pull / latent.shape[-1], None


def masks_of(model: nn.Module) -> list[FilterMask]:
    """A network's masks, from the first layer to the last."""
    return [part for part in model.modules() if isinstance(part, FilterMask)]


def remove_masked_(model: nn.Module) -> int:
    """Remove masked channels, the filters that make them, and the masks; the outputs stay as they are.

    Args:
        model: a network whose layers follow one another (`LowBitNetwork`); changed in place.

    Returns:
        How many channels were removed.

    Raises:
        UsageError: a mask that keeps nothing, after which no image could be told from another; or weights
            whose levels or factors depend on those that would go. The network is as it was.
    """
    _check(model)
    removed = 0
    earlier: list[nn.Module] = []
    for parent, name, part in list(_leaves(model)):
        if isinstance(part, FilterMask):
            keep = (part.latent.detach() >= 0).nonzero()[:, 0]
            removed += len(part.latent) - len(keep)
            _narrow_outputs_(earlier, keep)
            _narrow_next_input_(model, part, keep)
            setattr(parent, name, nn.Identity())
        earlier.append(part)
    return removed


def without_masked(model: nn.Module) -> nn.Module:
    """A copy without its masked channels and masks (`remove_masked_`); the network itself where it has none.

    Raises:
        UsageError: as `remove_masked_` does.
    """
    if not masks_of(model):
        return model
    smaller = copy.deepcopy(model)
    remove_masked_(smaller)
    return smaller


def _check(model: nn.Module) -> None:
    """Refuse masks that cannot go without another change."""
    masks = masks_of(model)
    if not all(mask.kept for mask in masks):
        raise UsageError("a mask keeps no channel at all; train with a smaller pull or rate")
    if all(mask.kept == len(mask.latent) for mask in masks):
        return
    for part in model.modules():
        if not isinstance(part, (QuantConv2d, QuantLinear)):
            continue
        form = part.form
        settings = {
            "scale=channel": form.scale == "channel",
            f"shape={form.shaping}": form.shaping != "none",
            "ternary weights": form.bits == "ternary",
        }
        found = [name for name, given in settings.items() if given]
        if found:
            raise UsageError(
                f"masked channels cannot be removed from a network with {' and '.join(found)}: the other "
                "weights' levels or factors depend on them; train mask=subsidiary without, or with scale=lab"
            )


def _leaves(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, module) of the modules without children, in order."""
    for name, child in module.named_children():
        if list(child.children()):
            yield from _leaves(child)
        else:
            yield module, name, child


def _narrow_outputs_(earlier: list[nn.Module], keep: Tensor) -> None:
    """The last layer so far and the normalisations behind it."""
    for part in reversed(earlier):
        if isinstance(part, (IntegerBatchNorm1d, IntegerBatchNorm2d)):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                assert tensor is not None
                tensor.data = tensor.data[keep]
            part.num_features = len(keep)
        elif isinstance(part, (QuantConv2d, QuantLinear)):
            part.weight.data = part.weight.data[keep]
            if part.factor is not None:
                part.factor = part.factor[keep]
            if isinstance(part, QuantConv2d):
                part.out_channels = len(keep)
            else:
                part.out_features = len(keep)
            return


def _narrow_next_input_(model: nn.Module, mask: FilterMask, keep: Tensor) -> None:
    """The next layer's inputs; a flattened map has several per channel."""
    parts = list(model.modules())
    layer: QuantLayer = next(
        p for p in parts[parts.index(mask) :] if isinstance(p, (QuantConv2d, QuantLinear))
    )
    channels = len(mask.latent)
    each = layer.weight.shape[1] // channels
    columns = (keep[:, None] * each + torch.arange(each)).flatten()
    layer.weight.data = layer.weight.data[:, columns]
    if isinstance(layer, QuantConv2d):
        layer.in_channels = len(columns)
    else:
        layer.in_features = len(columns)
