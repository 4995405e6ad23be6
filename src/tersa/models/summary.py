"""What a network consists of and costs: layers, output shapes, parameters, multiply-accumulates, bytes.

    macs = flops / 2,  flops counted by torch.utils.flop_counter at the level of ATen operations

so that convolutions and products called as functions are counted too, and element-wise work (bias, ReLU,
normalisation, pooling) is not: for a convolution c_out h w (c_in / groups) k^2, for a fully connected layer
inputs x outputs. The forward pass runs on tensors without storage where the network allows it; modes,
gradients, running statistics and the random state are afterwards as they were.

Example:
    >>> from tersa.models.zoo import build
    >>> model = build("lenet", (1, 28, 28), 10)
    >>> parameters(model), macs(model, (1, 28, 28))
    (3274634, 13883904)
    >>> [(row.name, row.macs) for row in summary(model, (1, 28, 28)).rows if row.macs]
    [('conv1', 627200), ('conv2', 10035200), ('fc1', 3211264), ('fc2', 10240)]
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tersa.errors import ModelError
from tersa.models.family import Shape

BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: its path in the model (`features.0`), or `(functions)` for work done outside any layer.
        kind: its class (`Conv2d`).
        output: shape of its output for one image without the batch axis; empty where it did not run, or its
            output is not a tensor.
        parameters: trainable values that it holds and no row above it.
        macs: multiply-accumulates for one image.
        size_bytes: 4 bytes per parameter.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    size_bytes: int


@dataclass(frozen=True)
class Summary:
    """All layers of a network, in the order in which they were registered, and their sums."""

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Trainable values of the network."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def size_bytes(self) -> int:
        """Bytes of the parameters at 4 bytes each."""
        return sum(row.size_bytes for row in self.rows)


def parameters(model: nn.Module) -> int:
    """Trainable values of a network; one that is used in two places counts once."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, shape: Shape) -> int:
    """Multiply-accumulates of one image, see the head of this file.

    Args:
        model: maps (N, C, H, W) to anything.
        shape: (C, H, W).

    Raises:
        ModelError: the model does not take images of this shape.
    """
    return _run(model, shape, {}).get_total_flops() // 2


def summary(model: nn.Module, shape: Shape) -> Summary:
    """Layers of a network with what each costs.

    Rows are the modules without children. Parameters that belong to no such module, and multiply-accumulates
    that are called as functions, make one last row named `(functions)`, so that the sums are those of the
    network.

    Args:
        model: maps (N, C, H, W) to anything.
        shape: (C, H, W).

    Raises:
        ModelError: the model does not take images of this shape.
    """
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    seen = {name: _Seen() for name in leaves}
    total = _run(model, shape, {leaves[name]: found for name, found in seen.items()}).get_total_flops() // 2
    counted: set[int] = set()
    rows: list[Row] = []
    for name, module in leaves.items():
        own = _count_new(module, counted)
        rows.append(
            _row(name or "(model)", type(module).__name__, seen[name].output, own, seen[name].flops // 2)
        )
    rest = parameters(model) - sum(row.parameters for row in rows)
    loose = total - sum(row.macs for row in rows)
    if rest or loose:
        rows.append(_row("(functions)", "", (), rest, loose))
    return Summary(tuple(rows))


@dataclass
class _Seen:
    """What one layer did during the pass."""

    flops: int = 0
    output: tuple[int, ...] = ()


def _row(name: str, kind: str, output: tuple[int, ...], count: int, work: int) -> Row:
    return Row(name, kind, output, count, work, BYTES_PER_PARAMETER * count)


def _count_new(module: nn.Module, counted: set[int]) -> int:
    """Values of the parameters of a layer that no earlier layer had."""
    new = [p for p in module.parameters() if id(p) not in counted]
    counted.update(id(p) for p in new)
    return sum(p.numel() for p in new)


def _run(model: nn.Module, shape: Shape, watched: dict[nn.Module, _Seen]) -> FlopCounterMode:
    """One image through the network under the counter: without storage if that works, else for real."""
    try:
        return _count(model, shape, watched, torch.device("meta"))
    except Exception:  # noqa: BLE001 - a user's forward may raise anything on tensors without values
        for found in watched.values():
            found.flops, found.output = 0, ()
    try:
        return _count(model, shape, watched, _device(model))
    except Exception as error:  # a user's forward may raise anything
        raise ModelError(
            f"the model does not take one image of shape {shape}: {type(error).__name__}: {first_line(error)}"
        ) from error


def _count(
    model: nn.Module, shape: Shape, watched: dict[nn.Module, _Seen], device: torch.device
) -> FlopCounterMode:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if device.type == "meta":
        state = {name: tensor.to(device) for name, tensor in state.items()}
    else:  # statistics of a real pass must not reach the model's own buffers
        state = {name: tensor.detach().clone() for name, tensor in state.items()}
    image = torch.zeros((1, *shape), device=device)
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for module, found in watched.items():
            stack.enter_context(_watching(module, found, counter))
        stack.enter_context(counter)
        torch.func.functional_call(model, state, (image,))
    return counter


@contextmanager
def _watching(module: nn.Module, found: _Seen, counter: FlopCounterMode) -> Generator[None]:
    """Note the work and the output shape of each call of a layer."""
    start: list[int] = []

    def before(_module: nn.Module, _inputs: object) -> None:
        start.append(counter.get_total_flops())

    def after(_module: nn.Module, _inputs: object, output: object) -> None:
        found.flops += counter.get_total_flops() - start.pop()
        found.output = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    handles = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Generator[nn.Module]:
    """The model in eval mode inside the block; every module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for messages of one line."""
    return (str(error).strip().splitlines() or [""])[0]


def _device(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer is; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
