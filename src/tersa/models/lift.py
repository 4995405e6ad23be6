"""An exported graph lifted back into layers: `torch.export` writes operators, training and pruning need
modules.

`from_export` walks the ATen graph and gives every operator that owns weights its module back, under the name
that its weights have:

    conv2d, convolution                                  nn.Conv2d
    linear, addmm and mm with a transposed weight        nn.Linear
    batch_norm, _native_batch_norm_legit[_...]           nn.BatchNorm2d (BatchNorm1d after a flattening)
    dropout, feature_dropout, native_dropout             nn.Dropout, nn.Dropout2d

inside a `torch.fx.GraphModule`. Modules follow `train()` and `eval()` whichever mode was exported. Views that
flatten (N, C, H, W) to (N, C*H*W) become `flatten(x, 1)`, and other views lose the batch size that was
exported, so any batch passes and channels can be removed. Every other operator is kept as it is; weights that
it uses stay parameters under their names. Not carried: graphs with several inputs or outputs.

Example:
    >>> from tersa.models.zoo import build
    >>> program = torch.export.export(build("lenet:2-3-4", (1, 8, 8), 10), (torch.zeros(2, 1, 8, 8),))
    >>> [name for name, _ in from_export(program).named_children()]
    ['conv1', 'conv2', 'fc1', 'fc2']
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from tersa.errors import ModelError

aten = torch.ops.aten

CONVOLUTIONS = {aten.conv2d.default, aten.conv2d.padding, aten.convolution.default}
NORMALISATIONS = {
    aten.batch_norm.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit_no_training.default,
}
DROPOUTS = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.native_dropout.default,
    aten.feature_dropout.default,
}
PRODUCTS = {aten.linear.default, aten.addmm.default, aten.mm.default}
TRANSPOSES = {aten.t.default, aten.permute.default, aten.transpose.int, aten.numpy_T.default}
VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
SWAPS: list[list[Any]] = [[], [(1, 0)], [(-1, 0)], [0, 1], [1, 0], [-1, -2], [-2, -1]]
"""Further arguments of a transposition of two axes."""
ASSERTIONS = ("aten._assert", "aten.sym_constrain_range", "aten._functional_assert")


def from_export(program: ExportedProgram) -> fx.GraphModule:
    """The network of an exported program as modules that train, on copies of its weights.

    Args:
        program: one input (N, C, H, W), one output; exported in either mode, decomposed or not.

    Returns:
        A graph module with the program's outputs (in the mode that was exported), in train mode.

    Raises:
        ModelError: several inputs or outputs, or no input.
    """
    return _Lift(program).module()


class _Lift:
    """The graph being written, and the module tree being filled."""

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        inputs = [spec.arg.name for spec in signature.input_specs if spec.kind == InputKind.USER_INPUT]
        outputs = [spec.arg.name for spec in signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(
                f"the exported model has {len(inputs)} inputs and {len(outputs)} outputs; "
                f"export one that maps a batch of images to a batch of logits"
            )
        self.input, self.output = inputs[0], outputs[0]
        self.paths = {
            s.arg.name: str(s.target) for s in signature.input_specs if s.kind != InputKind.USER_INPUT
        }
        self.tensors: dict[str, Any] = {**program.state_dict, **program.constants}
        self.source = program.graph
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.parameters: dict[str, nn.Parameter] = {}
        """One parameter per name, so that layers with a common weight share it."""
        self.made: dict[str, tuple[Any, ...]] = {}
        """Settings of the module at each path."""
        self.done: dict[fx.Node, fx.Node] = {}
        self.tuples: set[fx.Node] = set()
        """Operators of the source that gave a tuple there; their modules give its first element."""

    def module(self) -> fx.GraphModule:
        """The lifted network."""
        for node in self.source.nodes:
            if node.op == "placeholder" and node.name == self.input:
                self.done[node] = self.graph.placeholder("x")
            elif node.op == "call_function" and not self._is_dropped(node):
                self._call(node)
            elif node.op == "output":
                result = next(value for value in node.args[0] if value.name == self.output)
                self.graph.output(self._value(result))
        self.graph.eliminate_dead_code(_must_stay)
        lifted = fx.GraphModule(self.root, self.graph, class_name="Lifted")
        lifted.train()
        return lifted

    def _is_dropped(self, node: fx.Node) -> bool:
        """Checks of the exporter, and the batch counting of a normalisation, which counts itself."""
        if str(node.target).startswith(ASSERTIONS):
            return True
        first = self._path(node.args[0]) if node.args else None
        return node.target is aten.add_.Tensor and (first or "").endswith("num_batches_tracked")

    def _call(self, node: fx.Node) -> None:
        """One operator, as a module where it has one."""
        if node.target in TRANSPOSES and self._tensor(node.args[0]) is not None:
            return  # part of a product, or copied when something else asks for it
        if _is_getitem(node) and node.args[0] in self.tuples:
            if node.args[1] == 0:  # the others are statistics that the module keeps itself
                self.done[node] = self.done[_node(node.args[0])]
            return
        rules: tuple[tuple[set[Any], Callable[[fx.Node], fx.Node | None]], ...] = (
            (CONVOLUTIONS, self._convolution),
            (PRODUCTS, self._linear),
            (NORMALISATIONS, self._normalisation),
            (DROPOUTS, self._dropout),
            (VIEWS, self._view),
        )
        made = next((rule(node) for targets, rule in rules if node.target in targets), None)
        self.done[node] = made or self._copied(node)

    def _copied(self, node: fx.Node) -> fx.Node:
        """The operator as it is; the exporter's notes on its shape no longer hold."""
        copy = self.graph.node_copy(node, self._value)
        copy.meta = {}
        return copy

    def _value(self, node: fx.Node) -> fx.Node:
        """The new node of an old one; a weight that no module took becomes an attribute, once."""
        if node not in self.done:
            path = self._path(node)
            if path is not None:
                self._keep(path)
                self.done[node] = self.graph.get_attr(path)
            elif node.target in TRANSPOSES:
                self.done[node] = self._copied(node)
            else:
                raise ModelError(
                    f"the exported graph uses '{node.name}', which only a mutated state would give"
                )
        return self.done[node]

    def _path(self, value: Any) -> str | None:
        """The dotted name of a weight, buffer or constant; None for anything else."""
        return (
            self.paths.get(value.name) if isinstance(value, fx.Node) and value.op == "placeholder" else None
        )

    def _tensor(self, value: Any) -> Tensor | None:
        """The weight behind a node, or None."""
        path = self._path(value)
        return None if path is None else self.tensors.get(path)

    def _parameter(self, path: str) -> nn.Parameter:
        """The parameter of this name, a copy of the program's."""
        if path not in self.parameters:
            self.parameters[path] = nn.Parameter(self.tensors[path].detach().clone())
        return self.parameters[path]

    def _keep(self, path: str) -> None:
        """Put a weight into the tree under its own name, for an operator that is kept as it is."""
        value = self.tensors.get(path)
        if not isinstance(value, Tensor):
            raise ModelError(f"the exported graph uses '{path}', which is no tensor")
        folder, _, leaf = path.rpartition(".")
        owner = _folder(self.root, folder)
        if getattr(owner, leaf, None) is not None:
            return
        if isinstance(value, nn.Parameter):
            owner.register_parameter(leaf, self._parameter(path))
        else:
            owner.register_buffer(leaf, value.detach().clone())

    def _place(
        self, data: Any, name: str, settings: tuple[Any, ...], module: nn.Module, **weights: Any
    ) -> fx.Node:
        """Call a module on a node, made once per name and settings.

        Args:
            data: the source's node of the input.
            name: path of the module; a weight used again with other settings gets a second one beside it.
            settings: what tells it from another module of the same weight.
            module: the module, its values still its own.
            weights: the source's nodes of its parameters and buffers, by name in the module.
        """
        while self.made.get(name, settings) != settings:
            name += "_again"
        if name not in self.made:
            self.made[name] = settings
            for key, value in weights.items():
                path = self._path(value)
                if path is not None and isinstance(getattr(module, key), nn.Parameter):
                    setattr(module, key, self._parameter(path))
                elif path is not None:
                    setattr(module, key, self.tensors[path].detach().clone())
            _add(self.root, name, module)
        return self.graph.call_module(name, (self._value(_node(data)),))

    def _convolution(self, node: fx.Node) -> fx.Node | None:
        values = _arguments(node)
        weight, bias = self._tensor(values["weight"]), self._tensor(values["bias"])
        if weight is None or weight.ndim != 4 or values.get("transposed"):
            return None
        if bias is None and values["bias"] is not None:
            return None
        settings = {name: _plain(values[name]) for name in ("stride", "padding", "dilation", "groups")}
        c_out, c_in, *kernel = weight.shape
        channels, flag = c_in * settings["groups"], bias is not None
        module = nn.Conv2d(channels, c_out, (kernel[0], kernel[1]), bias=flag, **settings)
        weights = {"weight": values["weight"], "bias": values["bias"]}
        return self._place(
            values["input"], self._name(values["weight"]), _key(settings, weights), module, **weights
        )

    def _linear(self, node: fx.Node) -> fx.Node | None:
        data, factor, offset = _product(node)
        weight, bias = self._tensor(factor), self._tensor(offset)
        if weight is None or weight.ndim != 2 or (offset is not None and (bias is None or bias.ndim != 1)):
            return None
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        weights = {"weight": factor, "bias": offset}
        return self._place(data, self._name(factor), _key({}, weights), module, **weights)

    def _normalisation(self, node: fx.Node) -> fx.Node | None:
        values = _arguments(node)
        weights = {name: values[name] for name in ("weight", "bias", "running_mean", "running_var")}
        held = {name: self._tensor(value) for name, value in weights.items()}
        kind = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(len(_shape(values["input"]) or ()))
        mean, affine = held["running_mean"], held["weight"] is not None
        unknown = any(held[name] is None and weights[name] is not None for name in weights)
        if mean is None or kind is None or unknown or affine != (held["bias"] is not None):
            return None
        if not isinstance(values["momentum"], float):  # a cumulative average, counted in the graph
            return None
        settings = {"eps": float(values["eps"]), "momentum": float(values["momentum"])}
        module = kind(len(mean), settings["eps"], settings["momentum"], affine=affine)
        if node.target is not aten.batch_norm.default:
            self.tuples.add(node)
        name = self._name(weights["running_mean"])
        count = self.tensors.get(f"{name}.num_batches_tracked")
        if isinstance(count, Tensor):
            module.num_batches_tracked = count.detach().clone()
        return self._place(values["input"], name, _key(settings, weights), module, **weights)

    def _dropout(self, node: fx.Node) -> fx.Node | None:
        p = float(_number(node.args[1]))
        if node.target is aten.native_dropout.default:
            self.tuples.add(node)
        module = nn.Dropout2d(p) if node.target is aten.feature_dropout.default else nn.Dropout(p)
        return self._place(node.args[0], f"{node.name}_layer", ("dropout", node.name), module)

    def _view(self, node: fx.Node) -> fx.Node | None:
        """A flattening view by its meaning; any other keeps its sizes but the batch."""
        old, new = _shape(node.args[0]), _shape(node)
        if not old or not new or str(old[0]) != str(new[0]):
            return None
        data = self._value(_node(node.args[0]))
        if len(new) == 2 and len(old) > 2 and str(new[1]) == str(math.prod(old[1:])):
            return self.graph.call_function(torch.flatten, (data, 1))
        batch, *rest = cast("list[Any]", node.args[1])
        if isinstance(batch, int) and batch != -1 and -1 not in rest:
            rest = [self._value(size) if isinstance(size, fx.Node) else size for size in rest]
            return self.graph.call_function(aten.reshape.default, (data, [-1, *rest]))
        return None

    def _name(self, weight: Any) -> str:
        """Path of the module that owns a weight; a weight of the root itself gives the module its name."""
        path = self._path(weight) or ""
        return path.rpartition(".")[0] or f"{path}_layer"


def _product(node: fx.Node) -> tuple[Any, Any, Any]:
    """Input, weight (outputs, inputs) and bias of a linear operator; no weight where it has another form."""
    if node.target is aten.linear.default:
        data, weight, bias = (*node.args, None)[:3]
        return data, weight, bias
    *offset, data, factor = node.args
    plain = isinstance(factor, fx.Node) and factor.target in TRANSPOSES and not node.kwargs
    if not plain or [_plain(value) for value in _node(factor).args[1:]] not in SWAPS:
        return data, None, None
    return data, _node(factor).args[0], offset[0] if offset else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an ATen call by name, defaults filled in."""
    operation: Any = node.target
    schema = operation._schema  # PyTorch's only way from an operator to the names of its arguments
    values = {argument.name: argument.default_value for argument in schema.arguments}
    values.update(zip(values, node.args, strict=False))
    values.update(node.kwargs)
    return values


def _key(settings: dict[str, Any], weights: dict[str, Any]) -> tuple[Any, ...]:
    """What tells two modules at one path apart."""
    return (
        *settings.values(),
        *(value.name if isinstance(value, fx.Node) else None for value in weights.values()),
    )


def _shape(value: Any) -> tuple[Any, ...] | None:
    """The shape that the exporter noted for a node, or None."""
    noted = value.meta.get("val") if isinstance(value, fx.Node) else None
    return tuple(noted.shape) if isinstance(noted, Tensor) else None


def _node(value: Any) -> fx.Node:
    assert isinstance(value, fx.Node), value
    return value


def _number(value: Any) -> float:
    assert isinstance(value, (int, float)), value
    return value


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _is_getitem(node: fx.Node) -> bool:
    return node.target is operator.getitem


def _must_stay(node: fx.Node) -> bool:
    """Nodes that are no dead code although nothing uses them: the input, the output, writes in place."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def _folder(root: nn.Module, path: str) -> nn.Module:
    """The module at a path, made of empty ones where there is none."""
    for name in filter(None, path.split(".")):
        if not isinstance(getattr(root, name, None), nn.Module):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root


def _add(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module into the tree; what a folder of its name held moves into it."""
    parent, _, leaf = path.rpartition(".")
    owner = _folder(root, parent)
    folder = dict(owner.named_children()).get(leaf, nn.Module())
    values = (*folder.named_parameters(recurse=False), *folder.named_buffers(recurse=False))
    for name, child in folder.named_children():
        module.add_module(name, child)
    for name, value in values:
        if isinstance(value, nn.Parameter):
            setattr(module, name, value)
        elif not hasattr(module, name):
            module.register_buffer(name, value)
    setattr(owner, leaf, module)
