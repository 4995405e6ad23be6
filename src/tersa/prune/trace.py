"""What one walk through the graph gathers: numbers of channels, where they live, and why some must stay.

A parameter may have several names (tied weights, a module that is registered twice), and an operation may
use weights that belong to no layer. `Owner` knows the modules behind the names: each tensor and each module
goes by its first name, and a call is told apart from a use of somebody else's weights. The walk itself is in
`groups.py`, what each operation does to the numbers in `rules.py`.

Example:
    >>> net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    >>> net["b"].weight = net["a"].weight
    >>> Owner(net).first_name("b.weight")
    'a.weight'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tersa.prune.disjoint import DisjointSets

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules whose output channels can be removed."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

NOT_HELD = "its weights are not held by a convolution or fully connected layer"
ELSEWHERE = "its weights are used outside of its own forward call"
RESHAPED = "its forward code changes the shape of its channels before it returns them"

MADE_AS = "made_as"
"""Attribute of a convolution with groups that has lost channels, `GROUPED` or `DEPTHWISE`: its sizes may no
longer tell, but saved weights give its number of groups back only by what it was made as."""

GROUPED, DEPTHWISE = "grouped", "depthwise"


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter or buffer, with the unit of each index.

    Attributes:
        name: of the parameter in `model.state_dict()`, the first one if it has several.
        dim: the dimension that the units run along.
        units: (size of that dimension,), int64.
        incoming: the dimension reads channels (weights that consume a unit), else it makes them.
    """

    name: str
    dim: int
    units: Tensor
    incoming: bool


@dataclass(frozen=True)
class Activation:
    """A non-linearity with the constants of its call, as plain data.

    >>> Activation("clamp", (0.0, 1.0))(torch.tensor([-2.0, 0.5, 2.0]))
    tensor([0.0000, 0.5000, 1.0000])

    Attributes:
        name: of the ATen operation, out of place (`relu`, `hardtanh`).
        arguments: what follows the tensor, by position.
        options: what follows by name.
    """

    name: str
    arguments: tuple[object, ...] = ()
    options: tuple[tuple[str, object], ...] = ()

    def __call__(self, z: Tensor) -> Tensor:
        """The non-linearity of `z`, of its shape; `z` stays as it is."""
        return getattr(torch.ops.aten, self.name)(z, *self.arguments, **dict(self.options))


@dataclass(frozen=True)
class Gate:
    """A module whose output shows the channels of a group, for criteria that need activations.

    Attributes:
        module: its name in `model.named_modules()`; the batch norm behind a convolution if there is one.
        dim: channel dimension of its output (1 for convolutions, -1 for fully connected layers).
        units: (C,), the unit of each channel.
        activation: the first non-linearity that its output meets before another layer, if it meets one.
    """

    module: str
    dim: int
    units: Tensor
    activation: Activation | None = None


@dataclass(frozen=True)
class Maker:
    """One use of weights that makes channels.

    Attributes:
        name: of the layer; of the weights themselves if no layer holds them.
        units: (C,), the channels it makes.
    """

    name: str
    units: Tensor


class Owner:
    """The modules behind the names of a traced network."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._tensors: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self._first: dict[int, str] = {}
        for name, held in (*self._modules.items(), *self._tensors.items()):
            self._first.setdefault(id(held), name)
        self._saved = {id(value) for value in model.state_dict(keep_vars=True).values()}

    def first_name(self, name: str) -> str:
        """The name that a module, parameter or buffer goes by; `name` itself if there is nothing there."""
        held = self._modules.get(name, self._tensors.get(name))
        return name if held is None else self._first[id(held)]

    def matching(self, rules: tuple[str, ...]) -> set[str]:
        """First names of all that has a name equal to a rule, or starting with a rule that ends in `*`."""
        names = (*self._modules, *self._tensors)
        return {self.first_name(n) for n in names if any(_matches(n, rule) for rule in rules)}

    def saved(self, name: str) -> bool:
        """The tensor is part of `model.state_dict()`, under whatever name."""
        return id(self._tensors[name]) in self._saved

    def caller(self, node: fx.Node) -> tuple[str, nn.Module | None]:
        """First name of the innermost module whose forward code ran `node`, and that module."""
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        path = str(list(stack.values())[-1][0]).partition("@")[0]
        return self.first_name(path), self._modules.get(path)

    def holder(self, node: fx.Node, weight: str) -> str:
        """Name of the module, of any kind, whose `weight` this is; the weight's own name if there is none."""
        name, module = self.caller(node)
        held = name and getattr(module, "weight", None) is self._tensors[weight]
        return name if held else self.layer(node, weight)[0]

    def made_as(self, name: str) -> str:
        """`GROUPED` or `DEPTHWISE` for a convolution that has lost channels, "" where its sizes tell."""
        return getattr(self._modules.get(name), MADE_AS, "")

    def layer(self, node: fx.Node, weight: str) -> tuple[str, str | None]:
        """Name of the layer that uses `weight` at `node`, and why its channels must stay, if they must."""
        value = self._tensors[weight]
        name, module = self.caller(node)
        if isinstance(module, LAYERS) and module.weight is value:
            return name, None if _returned(node).meta["val"].shape == node.meta["val"].shape else RESHAPED
        for path, other in self._modules.items():
            if isinstance(other, LAYERS) and other.weight is value:
                return self.first_name(path), ELSEWHERE
        return weight, NOT_HELD

    def batch_norm(self, node: fx.Node) -> str | None:
        """Name of the batch norm whose output `node` gives, or None."""
        name, module = self.caller(node)
        shown = _returned(node).meta["val"].shape == node.meta["val"].shape
        return name if isinstance(module, BATCH_NORMS) and shown else None


def _matches(name: str, rule: str) -> bool:
    return name == rule or (rule.endswith("*") and name.startswith(rule[:-1]))


def _returned(node: fx.Node) -> fx.Node:
    """The last operation on `node` within the same call of the same module: what the module returns."""
    stack = node.meta.get("nn_module_stack") or {}
    call = list(stack)[-1] if stack else ""
    while inside := [user for user in node.users if call in user.meta.get("nn_module_stack", {})]:
        node = inside[-1]
    return node


@dataclass
class Trace:
    """State of one walk through the graph.

    Attributes:
        owner: the modules behind the names.
        sets: which numbers have become one unit.
        values: the numbers of each activation, of its shape; constants have none.
        parameters: the name behind each placeholder of a parameter or buffer.
        slots: dimensions of parameters that carry units.
        makers: uses of weights that make channels, in order.
        gates: where units show, with the operation.
        reasons: units that must stay, and why.
        refused: name of a layer that no rule covers -> why.
        elsewhere: name of a parameter -> an operation that uses it, and whose result no rule follows.
        depthwise: names of convolutions with one group per input channel.
    """

    owner: Owner
    sets: DisjointSets = field(default_factory=lambda: DisjointSets(1))
    values: dict[fx.Node, Any] = field(default_factory=dict)
    parameters: dict[fx.Node, str] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    makers: list[Maker] = field(default_factory=list)
    gates: list[tuple[Gate, fx.Node]] = field(default_factory=list)
    reasons: list[tuple[Tensor, str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    depthwise: set[str] = field(default_factory=set)

    def keep(self, units: Tensor, reason: str) -> None:
        """Tie `units` to what stays."""
        flat = torch.unique(units)
        self.reasons.append((flat, reason))
        self.sets.unite(flat, torch.zeros_like(flat))

    def fresh(self, count: int) -> Tensor:
        """New numbers, (count,)."""
        return self.sets.grow(count)

    def slot(self, node: object, dim: int, units: Tensor, *, incoming: bool = False) -> None:
        """Note that dimension `dim` of the parameter behind `node` runs along `units`."""
        if isinstance(node, fx.Node) and node in self.parameters:
            self.slots.append(Slot(self.parameters[node], dim, units, incoming))
