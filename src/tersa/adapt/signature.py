"""How the layers of a network are found, as signatures whose cost can be looked up for any widths.

One forward pass without storage shows every operation with its shapes; what runtimes fold is folded. What is
left is a list of layers (`anatomy.py`), whose channels follow from the widths of the channel groups:

    channels(w) = fixed + sum_g times_g w_g

The coefficients are found by taking one unit away from each group in turn and looking again, so that flatten,
concatenation and residual additions need no rules of their own. Networks that such a line does not describe
are refused: a group whose units go to different layers, so that its width does not say what is left of each
(the two halves of a fire module behind a residual addition), and products that no family stands for. The
network with one unit of each group is looked at to make sure.

What this does not do: say what a layer costs (`table.py`, `resource.py`).

Example:
    >>> from torch import nn
    >>> from tersa.prune.groups import find_groups
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> found = layers_of(net, (1, 8, 8), find_groups(net, (1, 8, 8)))
    >>> [(layer.family.text(), layer.inputs.at([2]), layer.outputs.at([2])) for layer in found.layers]
    [('conv 3x3 on 8x8, relu', 1, 2), ('linear', 72, 2)]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersa.adapt.anatomy import NONE, ONE, Anatomy, Channels, Family, Layer, Pair
from tersa.errors import ModelError
from tersa.models.summary import evaluating, first_line, macs
from tersa.prune.groups import Groups
from tersa.prune.surgery import remove_
from tersa.prune.trace import Slot

ACTIVATIONS = (
    "relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_", "silu", "silu_",
    "sigmoid", "sigmoid_", "tanh", "tanh_", "gelu", "elu", "elu_", "leaky_relu", "leaky_relu_", "hardswish",
    "hardswish_", "hardsigmoid", "hardsigmoid_",
)  # fmt: skip
NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
FREE = (
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "detach", "alias", "unsqueeze", "squeeze",
    "expand", "select", "slice", "clone", "_to_copy", "dropout", "contiguous", "lift_fresh", "empty", "full",
)  # fmt: skip
"""Operations that move no data to speak of, or that runtimes remove."""


@dataclass
class _Row:
    """One operation as it was seen."""

    name: str
    family: Family
    inputs: int
    outputs: int


@dataclass
class _Seen:
    """What a pass has shown so far.

    Attributes:
        rows: the operations that cost something.
        batch: images of the pass.
        made: which row made a tensor, by the tensor's id.
        held: every tensor of the pass, so that no id is used twice.
        unknown: names of operations without a family.
    """

    batch: int = 1
    rows: list[_Row] = field(default_factory=list[_Row])
    made: dict[int, int] = field(default_factory=dict[int, int])
    held: list[object] = field(default_factory=list[object])
    unknown: list[str] = field(default_factory=list[str])


def layers_of(
    model: nn.Module, shape: Sequence[int], groups: Groups, *, batch: int = 1, bits: int = 32
) -> Anatomy:
    """The layers of a network, with channels as functions of its groups' widths.

    Args:
        model: the network that `groups` belongs to; it stays as it is.
        shape: (C, H, W) of one image.
        groups: its channel groups.
        batch: images per call.
        bits: of weights and activations when it is deployed.

    Raises:
        ModelError: the network does not take such an image, or its layers do not follow from its widths.
    """
    require_even(groups)
    bare = copy.deepcopy(model).to("meta")
    whole = _watch(bare, shape, batch)
    shifts: list[list[tuple[int, int]]] = []
    for group in groups.groups:
        if len(group.units) < 2:
            shifts.append([(0, 0)] * len(whole.rows))
            continue
        less = copy.deepcopy(bare)
        remove_(less, groups, group.units[-1:])
        rows = _watch(less, shape, batch).rows
        if not _alike(whole.rows, rows):
            raise ModelError(f"the network runs other operations when a channel of {group.name} is gone")
        pairs = zip(whole.rows, rows, strict=True)
        shifts.append([(a.inputs - b.inputs, a.outputs - b.outputs) for a, b in pairs])
    widths = tuple(len(group.units) for group in groups.groups)
    found = tuple(
        Layer(
            row.name,
            replace(row.family, batch=batch, bits=bits),
            _affine(row.inputs, [shift[place][0] for shift in shifts], widths),
            _affine(row.outputs, [shift[place][1] for shift in shifts], widths),
        )
        for place, row in enumerate(whole.rows)
    )
    unknown = tuple(dict.fromkeys(whole.unknown))
    anatomy = Anatomy(found, tuple(group.name for group in groups.groups), widths, unknown)
    _require_narrow(anatomy, bare, shape, groups, batch)
    _require_macs(anatomy, bare, shape)
    return anatomy


def _alike(whole: Sequence[_Row], less: Sequence[_Row]) -> bool:
    """Both networks run the same operations; torch runs a depthwise layer of one channel as a dense one."""
    return len(whole) == len(less) and all(
        b.family == a.family or (b.inputs == 1 and b.family == replace(a.family, operation="conv"))
        for a, b in zip(whole, less, strict=True)
    )


def require_even(groups: Groups) -> None:
    """Refuse groups whose units bring unequal numbers of channels to some weights.

    Raises:
        ModelError: naming a layer of each that can be kept.
    """
    makers, others = dict[str, str](), dict[str, str]()
    for slot in groups.slots:
        layer, _, _ = slot.name.rpartition(".")
        counts = slot_counts(slot, groups)
        for group in groups.groups:
            each = counts[group.units]
            if bool((each != each[0]).any()):
                others.setdefault(group.name, group.layers[0])
                if layer in group.layers and not slot.incoming:
                    makers.setdefault(group.name, layer)
    found = {**others, **makers}
    if found:
        some = next(iter(found.values()))
        raise ModelError(
            f"channels that are narrowed together with those of {some} do not all go to the same layers, so "
            f"that widths do not say what is left of each; keep such layers (--keep "
            f"{','.join(found.values())}), or use tersa prune, which counts the network itself"
        )


def slot_counts(slot: Slot, groups: Groups) -> Tensor:
    """How often each unit occurs along one dimension of a parameter, (units,)."""
    most = max((int(group.units.max()) for group in groups.groups), default=0)
    return torch.bincount(slot.units, minlength=most + 1)


def _require_narrow(
    anatomy: Anatomy, bare: nn.Module, shape: Sequence[int], groups: Groups, batch: int
) -> None:
    """Hold the channels that are said of one unit per group against the network that has one."""
    gone = [group.units[1:] for group in groups.groups]
    if not gone:
        return
    less = copy.deepcopy(bare)
    remove_(less, groups, torch.cat(gone))
    rows = [(row.inputs, row.outputs) for row in _watch(less, shape, batch).rows]
    said = [(ins, outs) for _, ins, outs in anatomy.channels([1] * len(groups.groups))]
    if rows == said:
        return
    place = next((i for i, (a, b) in enumerate(zip(rows, said, strict=False)) if a != b), None)
    what = "its operations" if place is None else f"the channels of {anatomy.layers[place].name}"
    raise ModelError(
        f"{what} do not follow from the widths: with one channel per group the network does something else; "
        "keep such layers (--keep LAYER*), or use tersa prune, which counts the network itself"
    )


def _require_macs(anatomy: Anatomy, bare: nn.Module, shape: Sequence[int]) -> None:
    """Refuse a network with multiply-accumulates that no layer accounts for: changes of them go unseen."""
    channels, height, width = shape
    whole = macs(bare, (channels, height, width))
    found = sum(family.macs(ins, outs) for family, ins, outs in anatomy.channels())
    if found != whole:
        others = f" (without a family: {', '.join(anatomy.unknown)})" if anatomy.unknown else ""
        raise ModelError(
            f"the layers that can be costed make {found} of the network's {whole} multiply-accumulates"
            f"{others}; use tersa prune, which counts the network itself"
        )


def _affine(count: int, each: Sequence[int], widths: Sequence[int]) -> Channels:
    times = tuple((group, step) for group, step in enumerate(each) if step)
    return Channels(count - sum(step * widths[group] for group, step in times), times)


class _Watcher(TorchDispatchMode):
    """Notes every operation of a pass."""

    def __init__(self, seen: _Seen, where: Callable[[], str]) -> None:
        super().__init__()
        self.seen, self.where = seen, where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        _note(self.seen, func.overloadpacket.__name__, self.where(), args, out)
        return out


def _watch(model: nn.Module, shape: Sequence[int], batch: int) -> _Seen:
    """One pass on tensors without storage."""
    seen, stack = _Seen(batch), list[str]()
    with ExitStack() as block:
        block.enter_context(evaluating(model))
        block.enter_context(torch.no_grad())
        for name, module in model.named_modules():
            handles = (
                module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)),
                module.register_forward_hook(lambda *_: _pop(stack)),
            )
            for handle in handles:
                block.callback(handle.remove)
        block.enter_context(_Watcher(seen, lambda: stack[-1] if stack else ""))
        try:
            model(torch.zeros((batch, *shape), device="meta"))
        except Exception as error:  # a user's forward may raise anything
            raise ModelError(
                f"the layers of the network cannot be listed: {type(error).__name__}: {first_line(error)}"
            ) from error
    return seen


def _pop(stack: list[str]) -> None:
    stack.pop()


def _note(seen: _Seen, name: str, where: str, args: Sequence[Any], out: Any) -> None:
    """Make a row of an operation, fold it into the row before, or pass its input's row on."""
    first = out[0] if isinstance(out, (tuple, list)) else out
    if not isinstance(first, Tensor):
        return
    seen.held += [out, args]
    inputs = [each for each in args if isinstance(each, Tensor)]
    source = seen.made.get(id(inputs[0])) if inputs else None
    before = seen.rows[source] if source is not None else None
    layer = before is not None and before.family.operation in ("conv", "depthwise", "linear")
    if name in FREE or not inputs:
        pass
    elif name in NORMS and layer and before is not None and not before.family.after:
        before.family = replace(before.family, norm=True, bias=True)
    elif name in ACTIVATIONS and layer and before is not None and not before.family.after:
        before.family = replace(before.family, after=name.rstrip("_"))
    else:
        row = _row(name, where, args, inputs, first, seen.batch)
        if row is None:
            seen.unknown.append(name)
        else:
            seen.rows.append(row)
            source = len(seen.rows) - 1
    if source is not None:
        seen.made[id(first)] = source


def _row(
    name: str, where: str, args: Sequence[Any], inputs: list[Tensor], out: Tensor, batch: int
) -> _Row | None:
    x = inputs[0]
    if name == "convolution":
        return _convolution(where, args)
    if name in ("addmm", "mm"):
        left, right = (args[1], args[2]) if name == "addmm" else (args[0], args[1])
        family = Family("linear", size=(max(1, len(left) // batch), 1), bias=name == "addmm")
        return _Row(where, family, int(left.shape[-1]), int(right.shape[-1]))
    if name in ("bmm", "baddbmm"):
        left, right = (args[1], args[2]) if name == "baddbmm" else (args[0], args[1])
        family = Family("product", size=(max(1, len(left) // batch), int(left.shape[1])), bias=False)
        return _Row(where, family, int(left.shape[2]), int(right.shape[2]))
    channels = 1 if out.dim() < 2 else int(out.shape[2 if out.dim() == 3 else 1])  # tokens: (N, T, C)
    size = _size(x)
    if name == "max_pool2d_with_indices":
        pads = _pair(args[4]) if len(args) > 4 else NONE
        stride = _pair(args[2]) if len(args) > 2 and args[2] else _pair(args[1])
        family = Family("max-pool", _pair(args[1]), stride, pads, size=size, bias=False)
    elif name == "avg_pool2d":
        stride = _pair(args[2]) if len(args) > 2 and args[2] else _pair(args[1])
        family = Family("average-pool", _pair(args[1]), stride, size=size, bias=False)
    elif name in ("mean", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"):
        family = Family("mean", size=size, bias=False)
    elif name in ("add", "add_", "mul", "mul_") and len(inputs) > 1:
        kind = "add" if name.startswith("add") else "multiply"
        family = Family(kind, size=_size(out), bias=False)
    elif name == "cat":
        family = Family("concatenate", size=_size(out), bias=False)
    elif name in NORMS:
        family = Family("norm", size=size, bias=False)
    elif name in ACTIVATIONS:
        family = Family("activation", size=size, bias=False, after=name.rstrip("_"))
    else:
        return None
    return _Row(where, family, channels, channels)


def _convolution(where: str, args: Sequence[Any]) -> _Row | None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    if transposed or weight.dim() != 4:
        return None
    ins, outs = int(x.shape[1]), int(weight.shape[0])
    deep = groups == ins and groups == outs and groups > 1
    family = Family(
        "depthwise" if deep else "conv",
        (int(weight.shape[2]), int(weight.shape[3])),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        1 if deep else int(groups),
        _size(x),
        bias is not None,
    )
    return _Row(where, family, ins, outs)


def _pair(value: Any) -> Pair:
    values = [int(each) for each in (value if isinstance(value, (list, tuple)) else (value,))]
    return values[0], values[-1]


def _size(x: Tensor) -> Pair:
    if x.dim() == 3:
        return int(x.shape[1]), 1
    return (int(x.shape[2]), int(x.shape[3])) if x.dim() == 4 else ONE
