"""Masks on a network: which weights take part, zeroing the dead ones, and training that leaves them at zero.

    w <- w * mask        `apply_`, once
    under `held`         g <- g * mask before every optimiser step, w <- w * mask after it

With zero gradients no optimiser moves a weight by what the loss says, and the zeroing undoes what it moves by
memory (momentum from before, Adam's moments) or by itself (weight decay). Both are hooks on the parameters
and on `torch.optim.Optimizer`: the network keeps its class, its parameters' names and its state dict, and
nothing is left on it afterwards. Masks are in `masks.py`.

Masks need no file of their own: `masks_of` reads the pattern of a stored network from its zeros.

Example:
    >>> net = nn.Linear(2, 1)
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    >>> with held(net, masks):
    ...     net(torch.ones(3, 2)).sum().backward()
    ...     optimizer.step()
    >>> masks_of(net, ["weight"])["weight"]
    tensor([[ True, False]])
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from tersa.errors import ModelError, unknown
from tersa.prune.masks import Masks
from tersa.prune.trace import LAYERS, Owner


def maskable(model: nn.Module, keep: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the weights that masks apply to: of every convolution and fully connected layer, in order.

    Biases, normalisation and recurrent layers have none. The classifier takes part unless it is kept.

    Args:
        model: any network.
        keep: names of layers, or of their weights, that stay whole (exact, or a prefix ending in `*`).

    Returns:
        Parameter names, tied weights once, by their first name.

    Raises:
        UsageError: a pattern that matches none of these layers, with the closest.
        ModelError: nothing is left to prune, or a layer's weight is computed from other parameters.
    """
    owner = Owner(model)
    buffers = {id(buffer) for buffer in model.buffers()}
    layers = {  # a shift's kernels are a buffer: there is nothing to learn or to zero
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and id(module.weight) not in buffers
    }
    names = {name: owner.first_name(f"{name}.weight" if name else "weight") for name in layers}
    _check_patterns(owner, keep, names)
    stay = owner.matching(tuple(keep))
    kept = {weight for layer, weight in names.items() if layer in stay or weight in stay}
    chosen = {layer: weight for layer, weight in names.items() if weight not in kept}
    if not chosen:
        raise ModelError(
            f"no weights to prune: {len(layers)} convolutions and fully connected layers, "
            f"{len(kept)} of their weights kept"
        )
    parameters = dict(model.named_parameters())
    for layer, weight in chosen.items():
        if weight not in parameters:
            raise ModelError(
                f"the weight of {layer} is computed from other parameters; remove its parametrization first, "
                f"or keep {layer}"
            )
    return tuple(dict.fromkeys(chosen.values()))


def _check_patterns(owner: Owner, keep: Sequence[str], names: Mapping[str, str]) -> None:
    """Each pattern must match a layer or its weight."""
    known = {owner.first_name(layer) for layer in names} | set(names.values())
    for rule in keep:
        if not owner.matching((rule,)) & known:
            raise unknown("layer", rule, names)


def full_masks(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Masks under which everything is alive, by parameter name.

    Raises:
        UsageError: a name that is no parameter.
    """
    return {name: torch.ones_like(_parameter(model, name), dtype=torch.bool) for name in names}


def masks_of(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Which weights are not zero, by parameter name: the masks of a network that was stored pruned.

    A weight that was regrown and has not been trained since is zero, and so counts as dead.

    Raises:
        UsageError: a name that is no parameter.
    """
    return {name: _parameter(model, name).detach() != 0 for name in names}


def apply_(model: nn.Module, masks: Masks) -> None:
    """Set the dead weights to zero (plus zero, so that equal networks are equal bytes).

    Raises:
        UsageError: a name that is no parameter.
        ModelError: a mask of another shape than its parameter.
    """
    with torch.no_grad():
        for parameter, dead in _dead(model, masks).items():
            parameter.masked_fill_(dead, 0.0)


@contextmanager
def held(model: nn.Module, masks: Masks) -> Generator[None]:
    """Optimiser steps inside leave dead weights at zero; on entry they are zeroed.

    Holds for every `torch.optim.Optimizer`, whenever it was made. Gradients that `backward` accumulates are
    zero where weights are dead, so that clipping by norm does not see them either; `torch.autograd.grad`
    still gives the whole gradient, for `regrow`. The network may move to another device inside, but its
    parameters must stay the same objects (no `surgery.remove_`).

    Args:
        model: its weights, and nothing else, are changed.
        masks: held as they are now; later changes to these tensors have no effect.

    Raises:
        UsageError: a name that is no parameter.
        ModelError: a mask of another shape than its parameter.
    """
    dead: dict[Tensor, Tensor] = {**_dead(model, masks)}

    def on(parameter: Tensor) -> Tensor:
        """The dead weights of a parameter, moved to its device once."""
        if dead[parameter].device != parameter.device:
            dead[parameter] = dead[parameter].to(parameter.device)
        return dead[parameter]

    def clear_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(on(parameter), 0.0)

    def clear_weights(*_: object) -> None:
        with torch.no_grad():
            for parameter in dead:
                parameter.masked_fill_(on(parameter), 0.0)

    clear_weights()
    handles = [p.register_post_accumulate_grad_hook(clear_gradient) for p in dead if p.requires_grad]
    after_step = register_optimizer_step_post_hook(clear_weights)
    try:
        yield
    finally:
        after_step.remove()
        for handle in handles:
            handle.remove()
        clear_weights()


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    if name not in parameters:
        raise unknown("parameter", name, parameters)
    return parameters[name]


def _dead(model: nn.Module, masks: Masks) -> dict[nn.Parameter, Tensor]:
    """What is dead of each parameter, on its device; one that is masked under two names is dead in either."""
    found: dict[nn.Parameter, Tensor] = {}
    for name, mask in masks.items():
        parameter = _parameter(model, name)
        if mask.shape != parameter.shape or mask.dtype != torch.bool:
            raise ModelError(
                f"the mask of {name} is {tuple(mask.shape)} of {mask.dtype}; the weight is "
                f"{tuple(parameter.shape)} and needs a bool of that shape"
            )
        dead = ~mask.to(parameter.device)
        found[parameter] = found[parameter] | dead if parameter in found else dead
    return found


def alive(model: nn.Module) -> int:
    """Trainable values that are not zeroed weights of convolutions and fully connected layers.

    >>> net = nn.Linear(2, 2)
    >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> alive(net)
    3
    """
    masks = masks_of(model, maskable(model))
    return sum(p.numel() for p in model.parameters()) - sum(int((~m).sum()) for m in masks.values())
