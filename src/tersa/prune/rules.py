"""What each operation does to the numbers of channels: one rule per kind of operation.

A rule gives an operation's result its numbers, unites numbers that the operation ties together, and notes
the dimensions of parameters that run along them (`trace.Slot`). It returns False for a case that it does not
cover; then, as for an operation without a rule, the channels that enter are kept. A new operation is a line
in `RULES` or `UNARY`; the walk that applies them is in `groups.py`.

Example:
    >>> RULES["conv2d"] is RULES["conv1d"], "relu" in UNARY
    (True, True)
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from tersa.prune.trace import DEPTHWISE, GROUPED, NOT_HELD, Activation, Gate, Maker, Trace


def name_of(node: fx.Node) -> str:
    """The operation's name without namespace, overload and the underscore of in-place variants."""
    target = node.target
    if target is operator.getitem:
        return "getitem"
    text = getattr(target, "__name__", str(target))
    return text.split(".")[0].rstrip("_") if not text.startswith("_") else text.split(".")[0]


def visit(trace: Trace, node: fx.Node) -> None:
    """Give `node` its numbers by the rule for its operation."""
    value = node.meta.get("val")
    name = name_of(node)
    if name in CHECKS:
        return
    inputs = [n for n in node.all_input_nodes if isinstance(trace.values.get(n), (Tensor, list, tuple))]
    if not inputs:  # a constant, which stays as it is, and so must the parameters that it is made of
        _used_elsewhere(trace, node)
        return
    rule = RULES.get(name)
    if rule is not None and rule(trace, node):
        return
    if rule is None and name in UNARY and isinstance(value, Tensor) and node.all_input_nodes == inputs:
        units = trace.values[inputs[0]]
        if isinstance(units, Tensor) and units.shape == value.shape:
            trace.values[node] = units
            return
    _refuse(trace, node, inputs)


def _refuse(trace: Trace, node: fx.Node, inputs: list[fx.Node]) -> None:
    """No rule covers `node`: what enters stays, and so do the weights that it uses."""
    reason = f"the operation {name_of(node)} ({node.name}) has no pruning rule"
    for n in inputs:
        held = trace.values[n]
        for units in held if isinstance(held, (list, tuple)) else [held]:
            trace.keep(units, reason)
    _used_elsewhere(trace, node)
    for operand in node.all_input_nodes:
        if operand in trace.parameters and operand.meta["val"].dim() > 1:
            weight = trace.parameters[operand]
            trace.refused.setdefault(trace.owner.holder(node, weight), reason)
    trace.values[node] = _fixed(node.meta.get("val"))


def _used_elsewhere(trace: Trace, node: fx.Node) -> None:
    for operand in node.all_input_nodes:
        if operand in trace.parameters:
            trace.elsewhere.setdefault(trace.parameters[operand], f"{name_of(node)} ({node.name})")


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


def _convolution(trace: Trace, node: fx.Node) -> bool:
    source, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2)
    incoming = _channels(trace.values[source], 1)
    transposed = name_of(node) == "convolution" and bool(_argument(node, 6))
    if incoming is None or transposed or not _held(trace, weight, bias):
        return False
    shape: torch.Size = node.meta["val"].shape
    count = shape[1]
    groups = len(incoming) // int(weight.meta["val"].shape[1])
    out = trace.fresh(count)
    layer, reason = trace.owner.layer(node, trace.parameters[weight])
    made_as = trace.owner.made_as(layer)
    if groups > 1 or made_as == DEPTHWISE:
        per_in, per_out = len(incoming) // groups, count // groups
        grid_in, grid_out = incoming.view(groups, per_in), out.view(groups, per_out)
        if per_in == 1 and made_as != GROUPED:  # depthwise: a channel goes with all that is made of it
            trace.sets.unite(grid_in.expand(groups, per_out).reshape(-1), out)
            if reason != NOT_HELD:
                trace.depthwise.add(layer)
        else:  # every group of the convolution keeps the same number of channels
            trace.sets.unite(grid_in.reshape(-1), grid_in[:1].expand_as(grid_in).reshape(-1))
            trace.sets.unite(out, grid_out[:1].expand_as(grid_out).reshape(-1))
            trace.slot(weight, 1, grid_in[0], incoming=True)
    else:
        trace.slot(weight, 1, incoming, incoming=True)
    _make(trace, node, weight, bias, out, 1)
    trace.values[node] = _spread(out, 1, shape)
    return True


def _linear(trace: Trace, node: fx.Node) -> bool:
    source, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2)
    incoming = _channels(trace.values[source], -1)
    if isinstance(trace.owner.caller(node)[1], nn.MultiheadAttention):
        return False  # remembers the width of its input beside its weights
    if incoming is None or not _held(trace, weight, bias):
        return False
    shape: torch.Size = node.meta["val"].shape
    out = trace.fresh(shape[-1])
    trace.slot(weight, 1, incoming, incoming=True)
    _make(trace, node, weight, bias, out, -1)
    trace.values[node] = _spread(out, len(shape) - 1, shape)
    return True


def _held(trace: Trace, weight: object, bias: object) -> bool:
    """Weights and bias are parameters or buffers as they are, not computed from others."""
    return weight in trace.parameters and (bias is None or bias in trace.parameters)


def _make(trace: Trace, node: fx.Node, weight: fx.Node, bias: object, out: Tensor, dim: int) -> None:
    layer, reason = trace.owner.layer(node, trace.parameters[weight])
    trace.slot(weight, 0, out)
    trace.slot(bias, 0, out)
    trace.makers.append(Maker(layer, out))
    if reason is None:
        trace.gates.append((Gate(layer, dim, out), node))
    else:
        trace.keep(out, reason)


def _batch_norm(trace: Trace, node: fx.Node) -> bool:
    """Batch norm, and instance norm with weights: one weight, bias, mean and variance per channel."""
    units = trace.values[_argument(node, 0)]
    channels = _channels(units, 1)
    held = [n for n in node.args[1:5] if isinstance(n, fx.Node)]
    if channels is None or any(n not in trace.parameters for n in held):
        return False
    if not held and name_of(node) == "instance_norm":
        return False  # nothing to slice, but the module remembers how many channels it was made for
    for parameter in held:
        trace.slot(parameter, 0, channels)
    module = trace.owner.batch_norm(node)
    if held and module is not None:
        trace.gates.append((Gate(module, 1, channels), node))
    trace.values[node] = units
    return True


def _elementwise(trace: Trace, node: fx.Node) -> bool:
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
            trace.keep(units, f"{name_of(node)} ({node.name}) spreads one channel over many")
        if result is None:
            result = wide
        else:
            trace.sets.unite(result.reshape(-1), wide.reshape(-1))
    if result is None:
        return False
    for operand in node.all_input_nodes:
        if operand in trace.parameters:
            if not _scale(trace, operand, result):
                return False
        elif operand not in trace.values and not _same_everywhere(result, operand.meta["val"].shape):
            trace.keep(result, f"{name_of(node)} ({node.name}) meets them with a fixed number of values")
    trace.values[node] = result
    return True


def _scale(trace: Trace, node: fx.Node, units: Tensor) -> bool:
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


def _same_everywhere(units: Tensor, shape: torch.Size) -> bool:
    """Units do not change along the dimensions in which a constant of `shape` has several values."""
    offset = units.dim() - len(shape)
    wide = [d + offset for d, size in enumerate(shape) if size > 1]
    return all(bool((units == units.narrow(d, 0, 1)).all()) for d in wide)


def _same_channels(trace: Trace, node: fx.Node) -> bool:
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


def _mean(trace: Trace, node: fx.Node) -> bool:
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


def _view(trace: Trace, node: fx.Node) -> bool:
    """Reshapes that leave the batch and either keep the channel axis or flatten everything into one."""
    units = trace.values[_argument(node, 0)]
    shape: torch.Size = node.meta["val"].shape
    keeps = len(shape) >= 2 and units.dim() >= 2 and shape[:2] == units.shape[:2]
    flattens = len(shape) == 2 and shape[0] == units.shape[0]
    if not (keeps or flattens):
        return False
    trace.values[node] = units.reshape(shape)
    return True


def _move(trace: Trace, node: fx.Node) -> bool:
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


def _chunk(trace: Trace, node: fx.Node) -> bool:
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


Rule = Callable[[Trace, fx.Node], bool]

CHECKS = frozenset(["_assert_tensor_metadata", "_assert_scalar"])
"""Operations that the trace adds to check types and sizes; they give nothing."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    "linear": _linear,
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
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
    **dict.fromkeys(("upsample_bilinear2d", "_upsample_nearest"), _same_channels),
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

PLAIN = frozenset(
    (
        *("_to_copy", "alias", "clone", "contiguous", "detach", "neg", "to"),
        *("dropout", "feature_dropout", "alpha_dropout"),
    )
)
"""Unary operations that are no non-linearity once training is over."""

BARRIERS = (_convolution, _linear, _batch_norm)
"""Rules of operations with weights, whose results show at gates of their own."""


def activation_after(node: fx.Node) -> Activation | None:
    """The first non-linearity that the result of `node` meets before another layer or norm, or None.

    What lies between (pooling, an addition, a reshape) is passed by: max pooling and ReLU may be swapped,
    and of a residual sum each layer shows its own share. A side branch is not followed: where the map itself
    goes on, what is made of its mean (a scale, a gate) is no non-linearity of it.
    """
    waiting, seen = [node], {node}
    for current in waiting:  # breadth first; grows while it is walked
        users = readers(current)
        for user in users:
            name = name_of(user)
            if _is_square(user) or (len(users) > 1 and _shrinks(user)):
                continue
            if name in UNARY - PLAIN and user.all_input_nodes == [current]:
                return Activation(name, tuple(user.args[1:]), tuple(sorted(user.kwargs.items())))
            if (name in PLAIN or RULES.get(name, _linear) not in BARRIERS) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return None


def readers(node: fx.Node) -> list[fx.Node]:
    """The operations that use the result of `node`, without those that only check it."""
    return [user for user in node.users if name_of(user) not in CHECKS]


def _is_square(node: fx.Node) -> bool:
    """A product or quotient of a value with itself."""
    return name_of(node) in ("mul", "div") and _argument(node, 0) is _argument(node, 1)


def _shrinks(node: fx.Node) -> bool:
    """Nothing but values that are then reduced or pooled to fewer positions comes of `node`."""
    while True:
        held, source = node.meta.get("val"), node.all_input_nodes[0].meta.get("val")
        if not (isinstance(held, Tensor) and isinstance(source, Tensor)):
            return False
        if RULES.get(name_of(node)) in (_mean, _same_channels):
            return held.numel() < source.numel()
        following = readers(node)
        if len(following) != 1 or not (name_of(node) in UNARY or _is_square(node)):
            return False
        node = following[0]
