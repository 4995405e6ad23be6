"""Removing channels for real: parameters shrink, the network keeps its class and its forward code.

`remove_` slices every parameter that carries a removed unit, under all names that it has, and mends the
sizes that modules remember (`Conv2d.groups`, `Linear.in_features`, ...). `mask_` leaves the sizes alone and
zeroes every weight that reads a removed unit: the readable twin, equal to the pruned network up to rounding.

A pruned network on disk is a builder's name, a safetensors file and the units that were removed: `resize_`
gives a freshly built network the sizes of saved weights, and `replay` the groups that are left. What sizes
alone do not tell is noted on the modules (`trace.MADE_AS`), so that it holds when groups are found again: a
grouped convolution with one channel left per group is not depthwise, a depthwise one with one channel not
dense.

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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersa.errors import ModelError, brief
from tersa.prune.groups import Groups
from tersa.prune.trace import BATCH_NORMS, DEPTHWISE, GROUPED, MADE_AS
from tersa.prune.twins import levels_

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

EQUAL_OUTPUT = 1e-4
"""Largest difference of pruned and masked outputs, relative to the largest: sums in another order."""

EQUAL_ZERO = 1e-6
"""Difference that is none even where all outputs are tiny: float32 rounding of values of order 1."""


def remove_(model: nn.Module, groups: Groups, units: Tensor, optimizer: Optimizer | None = None) -> Groups:
    """Remove `units` from `model` in place and return the groups of what is left.

    Args:
        model: the network that `groups` was found on.
        groups: its channel groups.
        units: prunable units, (U,); at least one unit of every group must stay.
        optimizer: over the model's parameters; it goes on with the smaller ones, and what it remembers of
            the surviving weights (moments, momentum) is kept.

    Raises:
        ModelError: a unit that does not exist, or a group that would be left empty.
    """
    left = after(groups, units)
    tensors = _tensors(model)
    cuts: dict[str, dict[int, Tensor]] = {}
    for slot in groups.slots:
        kept = (~torch.isin(slot.units, units)).nonzero().reshape(-1)
        if len(kept) < len(slot.units):
            cuts.setdefault(slot.name, {})[slot.dim] = kept.to(tensors[slot.name].device)
    resized = {name: _cut(tensors[name].detach(), dims) for name, dims in cuts.items()}
    _assign_(model, resized, groups.depthwise)
    if optimizer is not None:
        fresh = _tensors(model)
        _follow_(optimizer, {id(tensors[name]): (fresh[name], dims) for name, dims in cuts.items()})
    return left


def _cut(value: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """The kept indices of each dimension; channels that come last in memory still do."""
    last = _comes_last(value)
    for dim, kept in dims.items():
        value = value.index_select(dim, kept)
    return value.to(memory_format=torch.channels_last) if last else value


def _comes_last(value: Tensor) -> bool:
    """Channels come last in memory, by the strides: they decide how a convolution sums, also of one channel,
    where both orders are the same bytes."""
    return value.dim() == 4 and value.stride(1) == 1 and value.stride(3) == value.shape[1]


def _follow_(optimizer: Optimizer, swaps: Mapping[int, tuple[Tensor, Mapping[int, Tensor]]]) -> None:
    """Put the resized parameters where the old ones were, with the matching part of their state."""
    for group in optimizer.param_groups:
        held: list[Tensor] = group["params"]
        for place, old in enumerate(held):
            if id(old) not in swaps:
                continue
            fresh, dims = swaps[id(old)]
            held[place] = fresh
            state = optimizer.state.pop(old, None)
            if state is not None:
                optimizer.state[fresh] = {
                    key: _cut(value, dims).clone()
                    if isinstance(value, Tensor) and value.shape == old.shape
                    else value
                    for key, value in state.items()
                }


def restore_(
    model: nn.Module,
    groups: Groups,
    whole: Groups,
    earlier: Mapping[str, Tensor],
    optimizer: Optimizer | None = None,
) -> None:
    """Bring removed units back, with the weights they had; the others keep what they have learnt since.

    Args:
        model: the smaller network.
        groups: of it.
        whole: of the network as it was; `groups` came from it by `remove_`.
        earlier: the weights of the network as it was, `model.state_dict()` of then.
        optimizer: over the model's parameters; its state of what comes back is zero.
    """
    gone = whole.units[~torch.isin(whole.units, groups.units)]
    tensors = _tensors(model)
    places: dict[str, dict[int, Tensor]] = {}
    for slot in whole.slots:
        kept = (~torch.isin(slot.units, gone)).nonzero().reshape(-1)
        if len(kept) < len(slot.units):
            places.setdefault(slot.name, {})[slot.dim] = kept.to(tensors[slot.name].device)
    first = {name: list(dims.items()) for name, dims in places.items()}
    grown = {
        name: _spread(tensors[name].detach(), earlier[name].to(tensors[name].device), dims)
        for name, dims in first.items()
    }
    _assign_(model, grown, groups.depthwise)
    if optimizer is None:
        return
    fresh = _tensors(model)
    for group in optimizer.param_groups:
        held: list[Tensor] = group["params"]
        names = {id(tensors[name]): name for name in first}
        for place, old in enumerate(held):
            if id(old) not in names:
                continue
            name = names[id(old)]
            held[place] = fresh[name]
            state = optimizer.state.pop(old, {})
            blank = torch.zeros_like(fresh[name])
            optimizer.state[fresh[name]] = {
                key: _spread(value, blank, first[name])
                if isinstance(value, Tensor) and value.shape == old.shape
                else value
                for key, value in state.items()
            }


def _spread(value: Tensor, into: Tensor, dims: list[tuple[int, Tensor]]) -> Tensor:
    """`into` with `value` at the kept indices of each dimension."""
    if not dims:
        return value
    (dim, kept), *rest = dims
    whole = into.index_copy(dim, kept, _spread(value, into.index_select(dim, kept), rest))
    return whole.to(memory_format=torch.channels_last) if _comes_last(into) else whole


def after(groups: Groups, units: Tensor) -> Groups:
    """The groups that are left when `units` are removed, without a network.

    Raises:
        ModelError: a unit that does not exist, or a group that would be left empty.
    """
    _check(groups, units)

    def left(held: Tensor) -> Tensor:
        return held[~torch.isin(held, units)]

    return replace(
        groups,
        slots=tuple(replace(slot, units=left(slot.units)) for slot in groups.slots),
        gates=tuple(replace(gate, units=left(gate.units)) for gate in groups.gates),
        groups=tuple(replace(group, units=left(group.units)) for group in groups.groups),
    )


def replay(model: nn.Module, groups: Groups, removed: Sequence[Tensor]) -> Groups:
    """The groups of a network whose weights come from disk, from those of the fresh network.

    Args:
        model: the network as `resize_` left it; only its sizes are looked at.
        groups: of the freshly built network.
        removed: what each removal took, in order.

    Raises:
        ModelError: units that cannot be removed, or sizes that these removals do not lead to.
    """
    for units in removed:
        groups = after(groups, units)
    tensors = _tensors(model)
    for slot in groups.slots:
        found, expected = tensors[slot.name].shape[slot.dim], len(slot.units)
        if found != expected:
            raise ModelError(
                f"the weights and the {len(removed)} removals do not belong together: {slot.name} has size "
                f"{found} in dimension {slot.dim}, the removals leave {expected}"
            )
    return groups


def mask_(model: nn.Module, groups: Groups, units: Tensor) -> None:
    """Zero every weight that reads one of `units`: the same outputs as `remove_`, at the old size."""
    tensors = _tensors(model)
    with torch.no_grad():
        for slot in groups.slots:
            if slot.incoming:
                gone = torch.isin(slot.units, units).nonzero().reshape(-1)
                value = tensors[slot.name]
                value.index_fill_(slot.dim, gone.to(value.device), 0.0)


def verify(model: nn.Module, groups: Groups, units: Tensor, images: Tensor) -> float:
    """Hold pruned networks against masked ones and return the largest difference of outputs.

    Two removals are tried: `units`, and all but one unit of each group, where forward code that depends on
    the number of channels shows most. Works on copies. Raises:
        ModelError: a unit that cannot be removed; outputs that differ; a pruned network that does not run, in
            evaluation or in training (forward code that relies on a fixed number of channels). Layers to keep
            are named.
    """
    _check(groups, units)
    most = [group.units[1:] for group in groups.groups if len(group.units) > 1]
    removals = {"": units, " with one channel left of each group": torch.cat([*most, units[:0]])}
    return max(_trial(model, groups, gone, images, left) for left, gone in removals.items())


class _Fault(ModelError):
    """A removal that the network does not bear."""


def _trial(model: nn.Module, groups: Groups, units: Tensor, images: Tensor, left: str) -> float:
    """The difference for one removal; a fault names the groups that show it alone, or else all."""
    try:
        return _difference(model, groups, units, images, left)
    except _Fault as error:
        parts = [(group.layers, group.units[torch.isin(group.units, units)]) for group in groups.groups]
        tried = [(layers, gone) for layers, gone in parts if len(gone)]
        found = [layers for layers, gone in tried if not _works(model, groups, gone, images)]
        shown = found or [layers for layers, _ in tried]
        keep = ",".join(dict.fromkeys(layer for layers in shown for layer in layers))
        raise ModelError(f"{error}, or keep the channels of what shows it: --keep {keep}") from error


def _works(model: nn.Module, groups: Groups, units: Tensor, images: Tensor) -> bool:
    try:
        _difference(model, groups, units, images, "")
    except _Fault:
        return False
    return True


def _difference(model: nn.Module, groups: Groups, units: Tensor, images: Tensor, left: str) -> float:
    pruned, masked = _copy(model).eval(), _copy(model).eval()
    remove_(pruned, groups, units)
    levels_(masked)
    mask_(masked, groups, units)
    with torch.inference_mode():
        expected = masked(images)
        try:
            found = pruned(images)
        except Exception as error:  # a user's forward code may raise anything
            raise _Fault(
                f"the pruned network does not run{left}: {brief(error)}; its forward code fixes a number of "
                "channels: use torch.flatten(x, 1) and sizes taken from the input"
            ) from error
    if found.shape != expected.shape:
        raise _Fault(
            f"the pruned network{left} gives {tuple(found.shape)}, the masked one {tuple(expected.shape)}; "
            "its forward code should take sizes from the input"
        )
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if difference > EQUAL_OUTPUT * largest + EQUAL_ZERO:
        raise _Fault(
            f"the pruned network{left} differs from the masked one by {difference:.3g} (largest output "
            f"{largest:.3g}): its forward code depends on the number of channels; take that out"
        )
    _train(pruned, masked, images, left)
    return difference


def _train(pruned: nn.Module, masked: nn.Module, images: Tensor, left: str) -> None:
    """A pass in training mode, which may run other code; what stops the masked network too is not held
    against the pruned one."""
    with torch.random.fork_rng(devices=[]):
        try:
            pruned.train()(images)
        except Exception as error:  # a user's forward code may raise anything
            try:
                masked.train()(images)
            except Exception:  # noqa: BLE001 - as above
                return
            raise _Fault(
                f"the pruned network does not run in training{left}: {brief(error)}; its forward code does "
                "in training what it does not do in evaluation, where channels are traced: make both the same"
            ) from error


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # a weight that a hook computes is no leaf
        raise ModelError(
            f"the network cannot be copied: {brief(error)}; where it uses nn.utils.weight_norm or "
            "spectral_norm, take those of torch.nn.utils.parametrizations"
        ) from error


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
        if isinstance(module, CONVOLUTIONS) and _is_depthwise(module)
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


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _assign_(model: nn.Module, resized: Mapping[str, Tensor], depthwise: Collection[str]) -> None:
    """Replace parameters and buffers wherever they are held, and mend the sizes modules remember."""
    old = _tensors(model)
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        held = module.named_parameters(recurse=False, remove_duplicate=False)
        for leaf, tensor in (*held, *module.named_buffers(recurse=False, remove_duplicate=False)):
            places.setdefault(id(tensor), []).append((module, leaf))
    touched: list[nn.Module] = []
    for name, value in resized.items():
        tensor, fresh = old[name], value.clone()
        if isinstance(tensor, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
        for module, leaf in places.pop(id(tensor), []):  # nothing left: done under another name
            setattr(module, leaf, fresh)
            touched.append(module)
    by_channel = {model.get_submodule(name) for name in depthwise}
    for module in dict.fromkeys(touched):
        _mend_(module, depthwise=module in by_channel)


def _is_depthwise(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    """One group per input channel, from the start."""
    made_as = getattr(module, MADE_AS, "")
    return made_as == DEPTHWISE or (not made_as and 1 < module.groups == module.in_channels)


def _mend_(module: nn.Module, *, depthwise: bool) -> None:
    """Sizes that a module keeps beside its weights, taken from the weights again."""
    if isinstance(module, CONVOLUTIONS):
        if module.groups > 1:
            setattr(module, MADE_AS, DEPTHWISE if depthwise else GROUPED)
        out, per_group = int(module.weight.shape[0]), int(module.weight.shape[1])
        if depthwise:  # as many groups as channels
            module.groups = out // (module.out_channels // module.groups)
        module.out_channels = out
        module.in_channels = per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = (int(size) for size in module.weight.shape)
    elif isinstance(module, NORMS):
        held = module.running_mean if module.running_mean is not None else module.weight
        module.num_features = len(held)
