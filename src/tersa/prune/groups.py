"""Channel groups: which channels of a network must go together, found from its traced graph.

Every output channel of a convolution or fully connected layer gets a number. The numbers are then sent
through the graph that `torch.export` records, as tensors of the same shape as the activations: data
movement (flatten, transpose, concatenation) is done on the numbers by the very operation that moves the
data; additions and depthwise or grouped convolutions unite the numbers that they tie together. What
remains are *units*: sets of channels that can only be removed as one. A *group* is the set of units of
layers that share a unit (two convolutions joined by a residual addition are one group).

Each dimension of each parameter ends up with one unit per index (a `Slot`), so that removing a unit is
nothing but `index_select` (see `surgery.py`), whatever the network looks like.

Channels are kept, and the reason is recorded, where they meet an operation without a rule (`rules.py`) or
reach the output, where no layer holds the weights that make them (`trace.py`), and where a value that is
not saved with the network runs along them. Criteria and schedules are elsewhere.

Example:
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> find_groups(net, (4,)).widths()
    {'0': 3}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersa.errors import ModelError
from tersa.prune.disjoint import DisjointSets
from tersa.prune.rules import activation_after, name_of, readers, visit
from tersa.prune.trace import Gate, Owner, Slot, Trace
from tersa.prune.twins import plain_twin

BATCH = 2
"""Images in the traced batch; numbers must agree between them."""

FIXED = 0
"""The unit of everything that stays: pixels, logits, and what no rule covers."""

PINNED = "its first channel stays: it makes only some channels of its group, and must not run empty"


@dataclass(frozen=True)
class Group:
    """Layers whose channels are tied together.

    Attributes:
        name: the layers' names joined by `+`.
        layers: names of the convolutions and fully connected layers that make its channels.
        units: what can be removed, ascending, (U,).
    """

    name: str
    layers: tuple[str, ...]
    units: Tensor


@dataclass(frozen=True)
class Groups:
    """The channel groups of one network; `surgery.remove_` returns the groups of what is left.

    Attributes:
        slots: every parameter dimension that carries units.
        gates: where units can be observed.
        groups: the prunable groups, in order of the forward pass.
        kept: layer name -> why its channels stay; the weights' own name where no layer holds them.
        depthwise: names of convolutions with one group per input channel; their groups shrink with it.
        shape: of one input, without the batch.
    """

    slots: tuple[Slot, ...]
    gates: tuple[Gate, ...]
    groups: tuple[Group, ...]
    kept: dict[str, str]
    depthwise: frozenset[str]
    shape: tuple[int, ...]

    def widths(self) -> dict[str, int]:
        """Units left in each group, by group name."""
        return {group.name: len(group.units) for group in self.groups}

    @property
    def units(self) -> Tensor:
        """All prunable units, (U,), int64."""
        return (
            torch.cat([group.units for group in self.groups])
            if self.groups
            else torch.empty(0, dtype=torch.long)
        )


def find_groups(model: nn.Module, shape: Sequence[int], keep: Sequence[str] = ()) -> Groups:
    """Trace a network and find its channel groups.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        shape: of one input, without the batch: (C, H, W), or (F,) for a plain MLP.
        keep: names of layers whose output channels must stay (exact, or a prefix ending in `*`).

    Raises:
        ModelError: the network cannot be traced, naming torch's reason, or its levels would change when
            channels go (`twins.check_levels`).
    """
    model = plain_twin(model)
    program = _export(model, shape)
    trace = Trace(Owner(model))
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in names:
                trace.parameters[node] = trace.owner.first_name(names[node.name])
            elif node.name in signature.user_inputs:
                trace.values[node] = torch.zeros(node.meta["val"].shape, dtype=torch.long)
        elif node.op == "call_function":
            visit(trace, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                if isinstance(trace.values.get(value), Tensor):
                    trace.keep(trace.values[value], "it gives the output")
    asked = trace.owner.matching(tuple(keep))
    for maker in trace.makers:
        if maker.name in asked:
            trace.keep(maker.units, "asked to stay")
    _settle(trace)
    _pin(trace)
    return _collect(trace, tuple(shape))


def _export(model: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return torch.export.export(model, (torch.zeros(BATCH, *shape, device=device),), strict=False)
    except Exception as error:  # torch raises many types for code it cannot trace
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot trace the network with torch.export: {first}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _settle(trace: Trace) -> None:
    """What only shows once all uses of a parameter are known."""
    first: dict[tuple[str, int], Tensor] = {}
    for slot in trace.slots:  # a parameter that is used twice has one unit per index all the same
        trace.sets.unite(first.setdefault((slot.name, slot.dim), slot.units), slot.units)
        if slot.name in trace.elsewhere:
            trace.keep(slot.units, f"{slot.name} is also used by {trace.elsewhere[slot.name]}")
        if not trace.owner.saved(slot.name):
            why = f"the buffer {slot.name} runs along them and is not saved (persistent=False)"
            trace.keep(slot.units, why)


def _pin(trace: Trace) -> None:
    """A layer that makes only some of its group's channels keeps the first, so that it never runs empty."""
    find = trace.sets.find
    for indices in _together([find(maker.units) for maker in trace.makers]):
        whole = torch.unique(torch.cat([find(trace.makers[i].units) for i in indices]))
        count = int((whole != FIXED).sum())
        for maker in (trace.makers[i] for i in indices):
            own = torch.unique(find(maker.units))
            if len(own) < count and FIXED not in own.tolist():
                trace.keep(maker.units[:1], PINNED)


def _collect(trace: Trace, shape: tuple[int, ...]) -> Groups:
    """Turn united numbers into slots, gates and groups."""
    find = trace.sets.find
    rooted = [find(maker.units) for maker in trace.makers]
    groups: list[Group] = []
    for indices in _together(rooted):
        units = torch.unique(torch.cat([rooted[i] for i in indices]))
        units = units[units != FIXED]
        if len(units):
            names = tuple(dict.fromkeys(trace.makers[i].name for i in indices))
            groups.append(Group("+".join(names), names, units))
    return Groups(
        tuple(Slot(s.name, s.dim, find(s.units), s.incoming) for s in trace.slots),
        _gates(trace),
        tuple(groups),
        _reasons(trace, rooted),
        frozenset(trace.depthwise),
        shape,
    )


def _together(rooted: list[Tensor]) -> list[list[int]]:
    """Makers that share a unit, as lists of their places in `rooted`."""
    layers = DisjointSets(len(rooted))
    owner: dict[int, int] = {}
    for index, units in enumerate(rooted):
        for unit in torch.unique(units).tolist():
            if unit != FIXED:
                layers.unite(torch.tensor([owner.setdefault(unit, index)]), torch.tensor([index]))
    members: dict[int, list[int]] = {}
    for index in range(len(rooted)):
        members.setdefault(int(layers.find(torch.tensor([index]))[0]), []).append(index)
    return list(members.values())


def _gates(trace: Trace) -> tuple[Gate, ...]:
    """One per module, without those whose output goes into a batch norm that is one itself, and nowhere else:
    what passes by the norm shows at the layer alone."""
    normed = {node.all_input_nodes[0] for _, node in trace.gates if name_of(node) == "batch_norm"}
    followed = {node for node in normed if len(readers(node)) == 1}
    shown: dict[str, Gate] = {}
    for gate, node in trace.gates:
        if node not in followed:
            units = trace.sets.find(gate.units)
            shown.setdefault(gate.module, Gate(gate.module, gate.dim, units, activation_after(node)))
    return tuple(shown.values())


def _reasons(trace: Trace, rooted: list[Tensor]) -> dict[str, str]:
    """For each layer with fixed channels, the first reason that reaches it."""
    said: dict[str, str] = {}
    for maker, roots in zip(trace.makers, rooted, strict=True):
        if bool((roots != FIXED).all()):
            continue
        direct = (why for held, why in trace.reasons if bool(torch.isin(held, maker.units).any()))
        said[maker.name] = next(direct, "it is tied to channels that stay")
    return said | {name: why for name, why in trace.refused.items() if name not in said}
