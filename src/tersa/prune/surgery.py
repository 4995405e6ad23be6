"""Removing channels for real: parameters shrink, the network keeps its class and its forward code.

`remove_` slices every parameter that carries a removed unit and mends the sizes that modules remember
(`Conv2d.groups`, `Linear.in_features`, ...). `mask_` leaves the sizes alone and zeroes every weight that
reads a removed unit: the readable twin, equal to the pruned network up to rounding. `resize_` gives a
freshly built network the sizes of saved weights, so that a pruned network is a builder's name and a
safetensors file.

Example:
    >>> import torch
    >>> from tersa.prune.groups import find_groups
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> groups = find_groups(net, (4,))
    >>> remove_(net, groups, groups.units[:1]).widths(), net[2].weight.shape
    ({'0': 2}, torch.Size([2, 2]))
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from tersa.errors import ModelError
from tersa.prune.groups import Gate, Group, Groups

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

EQUAL_OUTPUT = 1e-4
"""Largest difference of pruned and masked outputs, relative to the largest: sums in another order."""


def remove_(model: nn.Module, groups: Groups, units: Tensor) -> Groups:
    """Remove `units` from `model` in place and return the groups of what is left.

    Args:
        model: the network that `groups` was found on.
        groups: its channel groups.
        units: prunable units, (U,); at least one unit of every group must stay.

    Raises:
        ModelError: a unit that does not exist, or a group that would be left empty.
    """
    _check(groups, units)
    keep = [~torch.isin(slot.units, units) for slot in groups.slots]
    index: dict[str, dict[int, Tensor]] = {}
    for slot, mask in zip(groups.slots, keep, strict=True):
        index.setdefault(slot.name, {})[slot.dim] = mask.nonzero().reshape(-1)
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    resized: dict[str, Tensor] = {}
    for name, dims in index.items():
        value = tensors[name].detach()
        for dim, kept in dims.items():
            if len(kept) < value.shape[dim]:
                value = value.index_select(dim, kept.to(value.device))
        if value.shape != tensors[name].shape:
            resized[name] = value
    _assign_(model, resized, groups.depthwise)
    return Groups(
        tuple(replace(slot, units=slot.units[mask]) for slot, mask in zip(groups.slots, keep, strict=True)),
        tuple(Gate(g.module, g.dim, g.units[~torch.isin(g.units, units)]) for g in groups.gates),
        tuple(Group(g.name, g.layers, g.units[~torch.isin(g.units, units)]) for g in groups.groups),
        groups.kept,
        groups.depthwise,
        groups.shape,
    )


def mask_(model: nn.Module, groups: Groups, units: Tensor) -> None:
    """Zero every weight that reads one of `units`: the same outputs as `remove_`, at the old size."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for slot in groups.slots:
            if slot.incoming:
                gone = torch.isin(slot.units, units).nonzero().reshape(-1)
                value = tensors[slot.name]
                value.index_fill_(slot.dim, gone.to(value.device), 0.0)


def verify(model: nn.Module, groups: Groups, units: Tensor, images: Tensor) -> float:
    """Hold the pruned network against the masked one and return the largest difference of outputs.

    Works on copies. Raises:
        ModelError: outputs differ, or the pruned network does not run (forward code that relies on a
            fixed number of channels).
    """
    pruned, masked = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    remove_(pruned, groups, units)
    mask_(masked, groups, units)
    with torch.inference_mode():
        expected = masked(images)
        try:
            found = pruned(images)
        except (RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise ModelError(
                f"the pruned network does not run: {line}; its forward code fixes a number of channels "
                "(use torch.flatten(x, 1) and sizes taken from the input)"
            ) from error
    if found.shape != expected.shape:
        raise ModelError(
            f"the pruned network gives {tuple(found.shape)}, the masked one {tuple(expected.shape)}"
        )
    difference = float((found - expected).abs().max())
    if difference > EQUAL_OUTPUT * max(1.0, float(expected.abs().max())):
        raise ModelError(
            f"the pruned network differs from the masked one by {difference:.3g}; this is a defect"
        )
    return difference


def resize_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give `model` the sizes and values of a pruned network's saved weights.

    Raises:
        ModelError: names that do not match, or a tensor with another number of dimensions.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    shapes = [n for n in own.keys() & state.keys() if own[n].dim() != state[n].dim()]
    if missing or surplus or shapes:
        raise ModelError(
            f"the weights are of another network: missing {missing or 'none'}, unknown {surplus or 'none'}, "
            f"other dimensions {sorted(shapes) or 'none'}"
        )
    depthwise = {
        name
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.in_channels == module.groups
    }
    _assign_(
        model, {name: value for name, value in state.items() if value.shape != own[name].shape}, depthwise
    )
    model.load_state_dict(dict(state))


def _check(groups: Groups, units: Tensor) -> None:
    known = groups.units
    strange = units[~torch.isin(units, known)]
    if len(strange):
        raise ModelError(f"units {strange.tolist()} are not prunable; there are {len(known)} prunable units")
    for group in groups.groups:
        if len(group.units) and bool(torch.isin(group.units, units).all()):
            raise ModelError(
                f"nothing would be left of {group.name}; keep at least one of its {len(group.units)} units"
            )


def _assign_(model: nn.Module, resized: Mapping[str, Tensor], depthwise: Collection[str]) -> None:
    """Replace parameters and buffers, keeping ties between modules, and mend the sizes modules remember."""
    made: dict[int, nn.Parameter] = {}
    touched: dict[str, nn.Module] = {}
    for name, value in resized.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        touched[path] = module
        old = getattr(module, leaf)
        if isinstance(old, nn.Parameter):
            fresh = made.setdefault(id(old), nn.Parameter(value.clone(), requires_grad=old.requires_grad))
            setattr(module, leaf, fresh)
        else:
            setattr(module, leaf, value.clone())
    for path, module in touched.items():
        _mend_(module, depthwise=path in depthwise)


def _mend_(module: nn.Module, *, depthwise: bool) -> None:
    """Sizes that a module keeps beside its weights, taken from the weights again."""
    if isinstance(module, CONVOLUTIONS):
        out, per_group = int(module.weight.shape[0]), int(module.weight.shape[1])
        if depthwise:  # as many groups as channels
            module.groups = out // (module.out_channels // module.groups)
        module.out_channels = out
        module.in_channels = per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = (int(size) for size in module.weight.shape)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        held = module.running_mean if module.running_mean is not None else module.weight
        module.num_features = len(held)
