"""The sums of a binary convolution: `F.conv2d`, or a faster way to the same numbers.

Where inputs and weights are all -1 or 1, the sums are integers far below 2^24, which float32 holds exactly:
in whatever order they are added, they are the same bit for bit. So the forward pass of a binary network can
run on bits while it is trained and evaluated, and the training is the same to the last bit; the backward
pass, whose gradients are real numbers, stays as it is.

This file has the place for such a way, `tersa.binary.sign_sums` is one. A way may decline (other values than
-1 and 1, a small layer), and then `conv2d` runs. It is not asked on a GPU, inside of autocast, `torch.func`,
forward-mode differentiation, tracing, or where something records what PyTorch does.

Example:
    >>> x, w = torch.ones(1, 2, 3, 3), -torch.ones(1, 2, 3, 3)
    >>> def way(x, w, stride, padding, threads):
    ...     print("asked for", x.shape, w.shape)
    >>> with by(way):
    ...     convolve(x, w, (1, 1), (0, 0)).tolist()
    asked for (1, 2, 3, 3) (1, 2, 3, 3)
    [[[[-18.0]]]]
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Array = npt.NDArray[np.float32]
Pair = tuple[int, ...]

Way = Callable[[Array, Array, int, int, int], Array | None]
"""(inputs (N, C, H, W), weights (O, C, kh, kw), stride, padding, threads) -> sums (N, O, H', W'), or None.
All three lie contiguously in memory, channels first or channels last."""

_ways: list[Way | None] = []


@contextmanager
def by(way: Way | None) -> Generator[None]:
    """Ask a way for the sums of every binary convolution of this process, for a block; None: ask no way."""
    _ways.append(way)
    try:
        yield
    finally:
        _ways.remove(way)


def convolve(input: Tensor, weight: Tensor, stride: Pair, padding: Pair | str) -> Tensor:
    """Sums (N, O, H', W') of inputs (N, C, H, W) and weights (O, C, kh, kw); padded places count 0."""
    sums = None if torch.compiler.is_compiling() or not _ways else _asked(input, weight, stride, padding)
    if sums is None:
        return F.conv2d(input, weight, None, stride, padding)
    if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
        return cast(Tensor, _Known.apply(input, weight, [sums], stride, padding))  # pyright: ignore[reportUnknownMemberType] - no stub
    return sums


def _asked(input: Tensor, weight: Tensor, stride: Pair, padding: Pair | str) -> Tensor | None:
    way = (_ways or [None])[-1]
    steps, sides = set(stride), set(padding)
    whole = isinstance(padding, tuple) and len(steps) == len(sides) == 1 and input.dim() == 4
    if way is None or not whole or _watched() or not (_plain(input) and _plain(weight)):
        return None
    if not _alike(input, weight):
        return None
    found = way(
        *(input.detach().numpy(), weight.detach().numpy()),
        *(stride[0], int(padding[0]), torch.get_num_threads()),
    )
    return None if found is None else torch.from_numpy(found)  # pyright: ignore[reportUnknownMemberType] - no stub


def _plain(tensor: Tensor) -> bool:
    """Numbers in this machine's memory."""
    kind = type(tensor) in (Tensor, torch.nn.Parameter)
    return kind and tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _alike(input: Tensor, weight: Tensor) -> bool:
    """Both lie channels first, or both channels last: what `conv2d` keeps."""
    both = (input, weight)
    return all(each.is_contiguous() for each in both) or all(
        each.is_contiguous(memory_format=torch.channels_last) for each in both
    )


def _watched() -> bool:
    """Something follows the operations that would not see these, or differentiates them otherwise."""
    core = cast(Any, torch._C)  # pyright: ignore[reportPrivateUsage] - there are no public questions
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - public, says its documentation
        or core._are_functorch_transforms_active()
        or core._len_torch_dispatch_stack()
        or torch.autograd.forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]
    )


class _Known(torch.autograd.Function):
    """A convolution whose sums are known: only its gradients are left to be found. Never under `vmap`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        input: Tensor, weight: Tensor, sums: list[Tensor], stride: Pair, padding: Pair
    ) -> Tensor:
        return sums[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        input, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        input, weight = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            *(grad, input, weight, None, ctx.stride, ctx.padding, [1, 1]),
            *(False, [0, 0], 1, needed),
        )
        return of_input, of_weight, None, None, None
