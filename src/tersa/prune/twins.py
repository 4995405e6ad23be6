"""Low-bit networks, as pruning sees them: a plain twin to trace, and a masked twin whose zeros count nothing.

Channels are the same whatever the bits, so a low-bit network is traced as its `plain_twin`: ordinary layers
that hold the very same parameters, hard tanh for the activations. What is found there (names, dimensions,
units) holds for the network itself.

A weight of zero is no level of one bit: sign(0) is +1. The twin that shows what removing a channel leaves has
the levels themselves as weights, in floating point, and there a zero adds nothing (`levels_`).

Removal must not change the levels of what stays. It would where they depend on all weights of a layer or an
output: factors (`scale=`), `shape=`, ternary thresholds. Such networks, and those with masks of their own,
are refused by name.

Example:
    >>> from tersa.models.zoo import build
    >>> net = build("tfc", (1, 8, 8), 10)
    >>> twin = plain_twin(net)
    >>> type(twin.classifier[0]).__name__, twin.classifier[0].weight is net.classifier[0].weight
    ('Linear', True)
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from tersa.errors import ModelError
from tersa.quant.layers import (
    FLOAT,
    IntegerBatchNorm1d,
    IntegerBatchNorm2d,
    PixelInput,
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    SignPool2d,
    WeightForm,
)
from tersa.quant.subsidiary import FilterMask
from tersa.quant.xnor import Xnor

LOW_BIT = (QuantConv2d, QuantLinear, QuantActivation, PixelInput)


def is_low_bit(model: nn.Module) -> bool:
    """Some layer computes with levels."""
    return any(isinstance(module, LOW_BIT) for module in model.modules())


def plain_twin(model: nn.Module) -> nn.Module:
    """The network itself, or of a low-bit one ordinary layers with the same parameters under the same names.

    Raises:
        ModelError: levels that would change when a channel goes.
    """
    if not is_low_bit(model):
        return model
    check_levels(model)
    shared = {id(p): p for p in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, dict(shared))
    for name, module in list(twin.named_modules()):
        plain = _plain(module)
        if plain is not None:
            owner, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(owner), leaf, plain.train(module.training))
    return twin


def check_levels(model: nn.Module) -> None:
    """Refuse networks whose levels depend on weights that pruning removes.

    Raises:
        ModelError: names the layer and what to do.
    """
    for name, module in model.named_modules():
        if isinstance(module, FilterMask | Xnor):
            raise ModelError(
                f"layer {name} ({type(module).__name__}) cannot lose channels here; "
                "prune a network without mask=subsidiary and scale=xnor"
            )
        if not isinstance(module, QuantConv2d | QuantLinear):
            continue
        form = module.form
        if form.scale != "none" or form.shaping != "none" or form.bits == "ternary":
            found = ", ".join(f"{key}={value}" for key, value in form._asdict().items() if value != "none")
            raise ModelError(
                f"layer {name} ({found}): its levels depend on all of its weights, so removing channels "
                "would change the others; prune a network with scale=none, shape=none and 1 to 8 bits"
            )


def levels_(model: nn.Module) -> None:
    """Make the levels of a network its float weights, in place: the same outputs, and zeros add nothing."""
    for module in model.modules():
        if isinstance(module, QuantConv2d | QuantLinear):
            with torch.no_grad():
                module.weight.copy_(module.integer_weight())
            module.form = WeightForm(FLOAT)


def _plain(module: nn.Module) -> nn.Module | None:
    """The ordinary layer in place of a low-bit one, None for others; it holds the same tensors."""
    if isinstance(module, QuantConv2d):
        plain: nn.Module = nn.Conv2d(module.in_channels, module.out_channels, 1, bias=False, device="meta")
        plain.kernel_size, plain.stride, plain.padding = module.kernel_size, module.stride, module.padding
        plain.weight = module.weight
        return plain
    if isinstance(module, QuantLinear):
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = module.weight
        return plain
    if isinstance(module, IntegerBatchNorm1d | IntegerBatchNorm2d):
        kind = nn.BatchNorm2d if isinstance(module, IntegerBatchNorm2d) else nn.BatchNorm1d
        plain = kind(module.num_features, eps=module.eps, device="meta")
        for leaf, tensor in (*module.named_parameters(), *module.named_buffers()):
            setattr(plain, leaf, tensor)
        return plain
    if isinstance(module, SignPool2d):
        return nn.MaxPool2d(module.kernel_size)
    if isinstance(module, QuantActivation):
        return nn.Hardtanh()
    return nn.Identity() if isinstance(module, PixelInput) else None
