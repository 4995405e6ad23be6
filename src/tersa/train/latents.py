"""What low-bit layers (`quant.layers`) need of a training run, and what other networks have no part in.

    before the run      pixels take over the task's normalisation, latent weights are put into -1..1
    before an update    estimators that sharpen learn how far the run has come; masks of a subsidiary network
                        take their turn (a third of the run: the main network, the masks, the main network)
    after an update     latent weights are put into -1..1 (BinaryConnect), scales of normalisations that pool
                        are kept above 0, LAB's factors follow the optimiser

A latent weight outside -1..1 would move without changing its level, and lose its gradient.

With v the second moments that Adam keeps of each weight, LAB's factor of an output o is

    alpha_o = sum(d_o |w_o|) / sum(d_o),    d = sqrt(v)

Example:
    >>> from tersa.quant.layers import QuantLinear
    >>> layer = QuantLinear(2, 1)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> _ = Latents.of(layer)
    >>> layer.weight.tolist()
    [[1.0, 1.0]]

References:
    Courbariaux, Bengio & David, BinaryConnect (NIPS 2015), section 2.4.
    Hou, Yao & Kwok, Loss-aware Binarization of Deep Networks (ICLR 2017), section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.quant.estimators import sharpens
from tersa.quant.layers import (
    FLOAT,
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLayer,
    QuantLinear,
)
from tersa.quant.subsidiary import masks_of

SMALLEST_SCALE = 1e-4
"""Of a normalisation that learns from maxima."""
SECOND_MOMENTS = "exp_avg_sq"
"""Where torch's Adam and AdamW keep v."""


@dataclass(frozen=True)
class Latents:
    """The low-bit layers of one network, sorted by what they need.

    Attributes:
        weights: latent weights, which are kept in -1..1.
        sharpening: modules that are told the progress.
        loss_aware: layers whose factor follows the optimiser.
        scales: of normalisations that learn from maxima, which are kept above 0.
        masks: latents of a subsidiary network, from the first layer to the last.
        main: every other parameter, where there are masks.
    """

    weights: tuple[Tensor, ...]
    sharpening: tuple[QuantLayer | QuantActivation, ...]
    loss_aware: tuple[QuantLayer, ...]
    scales: tuple[Tensor, ...] = ()
    masks: tuple[nn.Parameter, ...] = ()
    main: tuple[nn.Parameter, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Latents:
        """Those of a network; its latent weights are put into -1..1."""
        layers = [part for part in model.modules() if isinstance(part, (QuantConv2d, QuantLinear))]
        acting = [part for part in model.modules() if isinstance(part, QuantActivation)]
        masks = tuple(mask.latent for mask in masks_of(model))
        others = {id(latent) for latent in masks}
        found = cls(
            weights=(*(layer.weight for layer in layers if layer.form.bits != FLOAT), *masks),
            masks=masks,
            main=tuple(p for p in model.parameters() if masks and id(p) not in others),
            sharpening=(
                *(layer for layer in layers if sharpens(layer.form.by) or layer.form.shaping == "recu"),
                *(part for part in acting if sharpens(part.by)),
            ),
            loss_aware=tuple(layer for layer in layers if layer.form.scale == "lab"),
            scales=tuple(
                part.weight
                for part in model.modules()
                if isinstance(part, IntegerBatchNorm2d) and part.pool > 1
            ),
        )
        found.clip_()
        return found

    @property
    def vary(self) -> bool:
        """Something outside of tensors differs from update to update."""
        return bool(self.sharpening or self.loss_aware or self.masks)

    def check(self, optimizer: str) -> None:
        """Refuse a run whose optimiser lacks what a layer follows.

        Raises:
            UsageError: scale=lab without an optimiser that keeps second moments.
        """
        if self.loss_aware:
            check_moments(optimizer)

    def clip_(self) -> None:
        """Put latent weights into -1..1, and scales above 0."""
        if self.weights:
            with torch.no_grad():
                if self.scales:
                    torch._foreach_clamp_min_(self.scales, SMALLEST_SCALE)  # pyright: ignore[reportPrivateUsage]
                torch._foreach_clamp_min_(self.weights, -1.0)  # pyright: ignore[reportPrivateUsage] - all at once
                torch._foreach_clamp_max_(self.weights, 1.0)  # pyright: ignore[reportPrivateUsage]

    def before_(self, progress: float) -> None:
        """Before an update: how far the run has come, 0..1."""
        for part in self.sharpening:
            part.progress = progress
        if not self.masks:
            return
        turn = math.floor((progress * 3 - 1) * len(self.masks))  # of a mask, in the second third
        for parameter in self.main:
            parameter.requires_grad_(not 0 <= turn < len(self.masks))
        for place, latent in enumerate(self.masks):
            latent.requires_grad_(place == turn)

    def after_(self, optimizer: Optimizer) -> None:
        """After an update."""
        self.clip_()
        for layer in self.loss_aware:
            state = optimizer.state.get(layer.weight, {})
            if layer.factor is not None and SECOND_MOMENTS in state:
                layer.factor.copy_(loss_aware_factor(layer.weight.detach(), state[SECOND_MOMENTS]))

    def release_(self) -> None:
        """After the run: every parameter may be trained again."""
        for parameter in (*self.main, *self.masks):
            parameter.requires_grad_(True)


def check_moments(optimizer: str) -> None:
    """Refuse LAB without an optimiser that keeps second moments.

    Raises:
        UsageError: neither adam nor adamw.
    """
    if optimizer not in ("adam", "adamw"):
        raise UsageError(f"scale=lab follows Adam's second moments; choose optimizer adam, not {optimizer}")


def loss_aware_factor(weight: Tensor, second: Tensor) -> Tensor:
    """alpha_o = sum(d_o |w_o|) / sum(d_o) with d = sqrt(second), (O,); mean |w_o| where all d_o are 0.

    >>> loss_aware_factor(torch.tensor([[1.0, -3.0]]), torch.tensor([[9.0, 1.0]])).tolist()
    [1.5]
    """
    size, d = weight.abs().flatten(1), second.sqrt().flatten(1)
    total = d.sum(1)
    return torch.where(
        total > 0, (d * size).sum(1) / total.clamp(min=torch.finfo(d.dtype).tiny), size.mean(1)
    )


def settle_pixels_(model: nn.Module, task: Task) -> None:
    """Tell every `PixelInput` of a network how the task's images are normalised."""
    for part in model.modules():
        if isinstance(part, PixelInput):
            part.settle_(task.mean, task.std)
