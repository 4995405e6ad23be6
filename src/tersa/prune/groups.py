"""Channel groups: which channels of a network must go together, found from its traced graph.

Every output channel of a convolution or fully connected layer gets a number. The numbers are then sent
through the graph that `torch.export` records, as tensors of the same shape as the activations: data
movement (flatten, transpose, concatenation) is done on the numbers by the very operation that moves the
data; additions and depthwise or grouped convolutions unite the numbers that they tie together. What
remains are *units*: sets of channels that can only be removed as one. A *group* is the set of units of
layers that share a unit (two convolutions joined by a residual addition are one group).

Each dimension of each parameter ends up with one unit per index (a `Slot`), so that removing a unit is
nothing but `index_select` (see `surgery.py`), whatever the network looks like.

Channels that meet an operation with no rule here, that reach the output, or that enter a layer norm
are kept, and the reason is recorded. Criteria and schedules are elsewhere.

Example:
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> find_groups(net, (4,)).widths()
    {'0': 3}
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from tersa.errors import ModelError
from tersa.prune.disjoint import DisjointSets

BATCH = 2
"""Images in the traced batch; numbers must agree between them."""

FIXED = 0
"""The unit of everything that stays: pixels, logits, and what no rule covers."""


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter or buffer, with the unit of each index.

    Attributes:
        name: of the parameter in `model.state_dict()`.
        dim: the dimension that the units run along.
        units: (size of that dimension,), int64.
        incoming: the dimension reads channels (weights that consume a unit), else it makes them.
    """

    name: str
    dim: int
    units: Tensor
    incoming: bool


@dataclass(frozen=True)
class Gate:
    """A module whose output shows the channels of a group, for criteria that need activations.

    Attributes:
        module: its name in `model.named_modules()`; the batch norm behind a convolution if there is one.
        dim: channel dimension of its output (1 for convolutions, -1 for fully connected layers).
        units: (C,), the unit of each channel.
    """

    module: str
    dim: int
    units: Tensor


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
        kept: layer name -> why its channels stay.
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


@dataclass
class _Trace:
    """State of one walk through the graph."""

    sets: DisjointSets
    values: dict[fx.Node, Any] = field(default_factory=dict)
    parameters: dict[fx.Node, str] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    makers: list[tuple[str, Tensor, fx.Node]] = field(default_factory=list)
    gates: list[tuple[Gate, fx.Node]] = field(default_factory=list)
    reasons: list[tuple[Tensor, str]] = field(default_factory=list)
    depthwise: set[str] = field(default_factory=set)

    def keep(self, units: Tensor, reason: str) -> None:
        """Tie `units` to what stays."""
        flat = torch.unique(units)
        self.reasons.append((flat, reason))
        self.sets.unite(flat, torch.zeros_like(flat))

    def fresh(self, count: int) -> Tensor:
        return self.sets.grow(count)

    def slot(self, node: object, dim: int, units: Tensor, *, incoming: bool = False) -> None:
        if isinstance(node, fx.Node) and node in self.parameters:
            self.slots.append(Slot(self.parameters[node], dim, units, incoming))


def find_groups(model: nn.Module, shape: Sequence[int], keep: Sequence[str] = ()) -> Groups:
    """Trace a network and find its channel groups.

    Args:
        model: any module that `torch.export` can trace; it is not changed.
        shape: of one input, without the batch: (C, H, W), or (F,) for a plain MLP.
        keep: names of layers whose output channels must stay (exact, or a prefix ending in `*`).

    Raises:
        ModelError: the network cannot be traced, naming torch's reason.
    """
    program = _export(model, shape)
    trace = _Trace(DisjointSets(1))
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in names:
                trace.parameters[node] = names[node.name]
            elif node.name in signature.user_inputs:
                trace.values[node] = torch.zeros(node.meta["val"].shape, dtype=torch.long)
        elif node.op == "call_function":
            _visit(trace, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                if isinstance(trace.values.get(value), Tensor):
                    trace.keep(trace.values[value], "it gives the output")
    for name, units, _ in trace.makers:
        if any(name == rule or (rule.endswith("*") and name.startswith(rule[:-1])) for rule in keep):
            trace.keep(units, "asked to stay")
    return _collect(trace, tuple(shape))


def _export(model: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return torch.export.export(model, (torch.zeros(BATCH, *shape, device=device),), strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot trace the network with torch.export: {first}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _collect(trace: _Trace, shape: tuple[int, ...]) -> Groups:
    """Turn united numbers into slots, gates and groups."""
    find = trace.sets.find
    first: dict[tuple[str, int], Tensor] = {}
    for slot in trace.slots:  # a parameter that is used twice has one unit per index all the same
        trace.sets.unite(first.setdefault((slot.name, slot.dim), slot.units), slot.units)
    slots = tuple(Slot(s.name, s.dim, find(s.units), s.incoming) for s in trace.slots)
    followed = {id(node.args[0]) for _, node in trace.gates if _name(node) == "batch_norm"}
    gates = tuple(
        Gate(gate.module, gate.dim, find(gate.units))
        for gate, node in trace.gates
        if id(node) not in followed
    )
    layers = DisjointSets(len(trace.makers))
    owner: dict[int, int] = {}
    rooted = [find(units) for _, units, _ in trace.makers]
    for index, units in enumerate(rooted):
        for unit in torch.unique(units).tolist():
            if unit != FIXED:
                layers.unite(torch.tensor([owner.setdefault(unit, index)]), torch.tensor([index]))
    members: dict[int, list[int]] = {}
    for index in range(len(trace.makers)):
        members.setdefault(int(layers.find(torch.tensor([index]))[0]), []).append(index)
    groups: list[Group] = []
    for indices in members.values():
        units = torch.unique(torch.cat([rooted[i] for i in indices]))
        units = units[units != FIXED]
        if len(units):
            names = tuple(dict.fromkeys(trace.makers[i][0] for i in indices))
            groups.append(Group("+".join(names), names, units))
    return Groups(slots, gates, tuple(groups), _reasons(trace, rooted), frozenset(trace.depthwise), shape)


def _reasons(trace: _Trace, rooted: list[Tensor]) -> dict[str, str]:
    """For each layer with fixed channels, the first reason that reaches it."""
    said: dict[str, str] = {}
    for (name, units, _), roots in zip(trace.makers, rooted, strict=True):
        if bool((roots != FIXED).all()):
            continue
        direct = (why for held, why in trace.reasons if bool(torch.isin(held, units).any()))
        said[name] = next(direct, "it is tied to channels that stay")
    return said


# --- rules: one per kind of operation ------------------------------------------------------------------


def _name(node: fx.Node) -> str:
    target = node.target
    if target is operator.getitem:
        return "getitem"
    text = getattr(target, "__name__", str(target))
    return text.split(".")[0].rstrip("_") if not text.startswith("_") else text.split(".")[0]


def _visit(trace: _Trace, node: fx.Node) -> None:
    """Give `node` its numbers by the rule for its operation."""
    value = node.meta.get("val")
    name = _name(node)
    inputs = [n for n in node.all_input_nodes if isinstance(trace.values.get(n), (Tensor, list, tuple))]
    if not inputs:
        return  # a constant
    rule = RULES.get(name)
    if rule is not None and rule(trace, node):
        return
    if rule is None and name in UNARY and isinstance(value, Tensor):
        units = trace.values[inputs[0]]
        if isinstance(units, Tensor) and units.shape == value.shape and len(inputs) == 1:
            trace.values[node] = units
            return
    for n in inputs:
        held = trace.values[n]
        for units in held if isinstance(held, (list, tuple)) else [held]:
            trace.keep(units, f"the operation {name} ({node.name}) has no pruning rule")
    trace.values[node] = _fixed(value)


def _fixed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_fixed(item) for item in value]
    return torch.zeros(value.shape, dtype=torch.long) if isinstance(value, Tensor) else None


def _channels(units: Tensor, dim: int) -> Tensor | None:
    """The unit of each index along `dim`, or None if it differs between other positions."""
    moved = units.movedim(dim, 0).reshape(units.shape[dim], -1)
    first = moved[:, 0]
    return first.clone() if bool((moved == first[:, None]).all()) else None


def _spread(units: Tensor, dim: int, shape: torch.Size) -> Tensor:
    view = [1] * len(shape)
    view[dim] = -1
    return units.view(view).expand(shape)


def _convolution(trace: _Trace, node: fx.Node) -> bool:
    source, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2)
    incoming = _channels(trace.values[source], 1)
    if incoming is None or not isinstance(weight, fx.Node) or weight not in trace.parameters:
        return False
    shape: torch.Size = node.meta["val"].shape
    count = shape[1]
    groups = len(incoming) // int(weight.meta["val"].shape[1])
    out = trace.fresh(count)
    if groups > 1:
        per_in, per_out = len(incoming) // groups, count // groups
        grid_in, grid_out = incoming.view(groups, per_in), out.view(groups, per_out)
        if per_in == 1:  # depthwise: a channel goes with all that is made of it
            trace.sets.unite(grid_in.expand(groups, per_out).reshape(-1), out)
            trace.depthwise.add(trace.parameters[weight].rpartition(".")[0])
        else:  # every group of the convolution keeps the same number of channels
            trace.sets.unite(grid_in.reshape(-1), grid_in[:1].expand_as(grid_in).reshape(-1))
            trace.sets.unite(out, grid_out[:1].expand_as(grid_out).reshape(-1))
            trace.slot(weight, 1, grid_in[0], incoming=True)
    else:
        trace.slot(weight, 1, incoming, incoming=True)
    _make(trace, node, weight, bias, out, 1)
    trace.values[node] = _spread(out, 1, shape)
    return True


def _linear(trace: _Trace, node: fx.Node) -> bool:
    source, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2)
    incoming = _channels(trace.values[source], -1)
    if incoming is None or not isinstance(weight, fx.Node) or weight not in trace.parameters:
        return False
    shape: torch.Size = node.meta["val"].shape
    out = trace.fresh(shape[-1])
    trace.slot(weight, 1, incoming, incoming=True)
    _make(trace, node, weight, bias, out, -1)
    trace.values[node] = _spread(out, len(shape) - 1, shape)
    return True


def _make(trace: _Trace, node: fx.Node, weight: fx.Node, bias: object, out: Tensor, dim: int) -> None:
    layer = trace.parameters[weight].rpartition(".")[0]
    trace.slot(weight, 0, out)
    trace.slot(bias, 0, out)
    trace.makers.append((layer, out, node))
    trace.gates.append((Gate(layer, dim, out), node))


def _batch_norm(trace: _Trace, node: fx.Node) -> bool:
    units = trace.values[_argument(node, 0)]
    channels = _channels(units, 1)
    if channels is None:
        return False
    held = [n for n in node.args[1:5] if isinstance(n, fx.Node) and n in trace.parameters]
    for parameter in held:
        trace.slot(parameter, 0, channels)
    if held:
        trace.gates.append((Gate(trace.parameters[held[0]].rpartition(".")[0], 1, channels), node))
    trace.values[node] = units
    return True


def _elementwise(trace: _Trace, node: fx.Node) -> bool:
    """Two tensors of equal or broadcast shape: position by position the units become one."""
    shape: torch.Size = node.meta["val"].shape
    result: Tensor | None = None
    for operand in node.all_input_nodes:
        units = trace.values.get(operand)
        if units is None or not isinstance(units, Tensor):
            continue
        wide = units.expand(shape)
        channels = (1,) * (len(shape) - units.dim()) + tuple(units.shape)
        if len(shape) > 1 and channels[1] != shape[1]:
            trace.keep(units, f"{_name(node)} ({node.name}) spreads one channel over many")
        if result is None:
            result = wide
        else:
            trace.sets.unite(result.reshape(-1), wide.reshape(-1))
    if result is None:
        return False
    for operand in node.all_input_nodes:
        if operand in trace.parameters and not _scale(trace, operand, result):
            return False
    trace.values[node] = result
    return True


def _scale(trace: _Trace, node: fx.Node, units: Tensor) -> bool:
    """A parameter that meets an activation elementwise (a layer scale): its channel dimension is a slot."""
    shape = node.meta["val"].shape
    offset = units.dim() - len(shape)
    wide = [d for d, size in enumerate(shape) if size > 1]
    if not wide:
        return True
    if len(wide) > 1:
        return False
    channels = _channels(units, wide[0] + offset)
    if channels is None:
        return False
    trace.slot(node, wide[0], channels)
    return True


def _same_channels(trace: _Trace, node: fx.Node) -> bool:
    """Pooling, padding, resizing: channels keep their place, positions change."""
    value = node.meta["val"]
    value = value[0] if isinstance(value, (list, tuple)) else value
    units = trace.values[_argument(node, 0)]
    if units.dim() < 3 or value.dim() != units.dim() or value.shape[:2] != units.shape[:2]:
        return False
    channels = _channels(units, 1)
    if channels is None:
        return False
    spread = _spread(channels, 1, value.shape)
    trace.values[node] = [spread, spread] if isinstance(node.meta["val"], (list, tuple)) else spread
    return True


def _mean(trace: _Trace, node: fx.Node) -> bool:
    """A mean or sum over positions keeps channels; one over channels is not a pruning matter."""
    units = trace.values[_argument(node, 0)]
    dims = node.args[1] if len(node.args) > 1 else None
    channels = _channels(units, 1) if units.dim() > 2 else None
    if channels is None or not isinstance(dims, (list, tuple)):
        return False
    if any(int(d) % units.dim() < 2 for d in dims):  # pyright: ignore[reportArgumentType] - fx: any argument
        return False
    trace.values[node] = _spread(channels, 1, node.meta["val"].shape)
    return True


def _view(trace: _Trace, node: fx.Node) -> bool:
    """Reshapes that leave the batch and either keep the channel axis or flatten everything into one."""
    units = trace.values[_argument(node, 0)]
    shape: torch.Size = node.meta["val"].shape
    keeps = len(shape) >= 2 and units.dim() >= 2 and shape[:2] == units.shape[:2]
    flattens = len(shape) == 2 and shape[0] == units.shape[0]
    if not (keeps or flattens):
        return False
    trace.values[node] = units.reshape(shape)
    return True


def _move(trace: _Trace, node: fx.Node) -> bool:
    """Operations that only move data: done on the numbers as they are."""

    def lookup(argument: fx.Node) -> Any:
        return trace.values.get(argument)

    target: Callable[..., Any] = node.target  # pyright: ignore[reportAssignmentType] - call_function
    arguments = map_arg(node.args, lookup)
    if any(a is None for a in _flat(arguments) if not isinstance(a, (int, float, str))):
        return False
    trace.values[node] = target(*arguments, **map_arg(node.kwargs, lookup))  # pyright: ignore
    return True


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _chunk(trace: _Trace, node: fx.Node) -> bool:
    """Equal parts along the channels: part k keeps the channels that part 1 keeps."""
    if not _move(trace, node):
        return False
    parts = trace.values[node]
    if any(part.shape != parts[0].shape for part in parts):
        return False
    for part in parts[1:]:
        trace.sets.unite(parts[0].reshape(-1), part.reshape(-1))
    return True


def _argument(node: fx.Node, index: int) -> Any:
    return node.args[index] if len(node.args) > index else None


Rule = Callable[[_Trace, fx.Node], bool]

RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    "linear": _linear,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum"), _elementwise),
    **dict.fromkeys(
        (
            "max_pool1d",
            "max_pool2d",
            "max_pool2d_with_indices",
            "avg_pool1d",
            "avg_pool2d",
            "adaptive_avg_pool1d",
        ),
        _same_channels,
    ),
    **dict.fromkeys(
        ("adaptive_avg_pool2d", "adaptive_max_pool2d", "pad", "constant_pad_nd", "upsample_nearest2d"),
        _same_channels,
    ),
    **dict.fromkeys(("upsample_bilinear2d", "_upsample_nearest", "instance_norm"), _same_channels),
    **dict.fromkeys(("mean", "sum", "amax"), _mean),
    **dict.fromkeys(("view", "reshape", "flatten", "_unsafe_view", "squeeze", "unsqueeze"), _view),
    **dict.fromkeys(("permute", "transpose", "cat", "getitem", "movedim"), _move),
    "chunk": _chunk,
}
"""Operation -> rule; a rule returns False when the case is not one it covers, and the channels are kept."""

UNARY = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "silu",
        "gelu",
        "mish",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "tanh",
        "softplus",
        "clamp",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "clone",
        "contiguous",
        "to",
        "_to_copy",
        "abs",
        "neg",
        "exp",
        "sqrt",
        "pow",
        "alias",
        "detach",
        "square",
        "rsqrt",
        "sign",
        "log1p",
        "threshold",
        "softsign",
    ]
)
"""Operations on each value alone: the numbers pass through."""
