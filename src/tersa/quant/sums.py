"""The sums of a low-bit convolution: `F.conv2d`, or a faster way to the same numbers.

Where inputs and weights are all -1 or 1, the sums are integers far below 2^24, which float32 holds exactly:
in whatever order they are added, they are the same bit for bit. So the forward pass of a binary network can
run on bits while it is trained and evaluated, and the training is the same to the last bit; the backward
pass, whose gradients are real numbers, stays as it is.

This file has the place for such a way, `tersa.binary.sign_sums` is one. A way may decline (other values than
-1 and 1, a small layer), and then `conv2d` runs. It is not asked on a GPU, inside of autocast, `torch.func`
or tracing.

Example:
    >>> x, w = torch.ones(1, 2, 3, 3), -torch.ones(1, 2, 3, 3)
    >>> def way(x, w, stride, padding, threads):
    ...     print("asked for", x.shape, w.shape)
    >>> with by(way):
    ...     convolve(x, w, 1, 0).tolist()
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

Way = Callable[[Array, Array, int, int, int], Array | None]
"""(inputs (N, C, H, W), weights (O, C, kh, kw), stride, padding, threads) -> sums (N, O, H', W'), or None."""

_ways: list[Way] = []


@contextmanager
def by(way: Way) -> Generator[None]:
    """Ask a way for the sums of every low-bit convolution of this process, for a block."""
    _ways.append(way)
    try:
        yield
    finally:
        _ways.remove(way)


def convolve(input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Sums (N, O, H', W') of inputs (N, C, H, W) and weights (O, C, kh, kw); padded places count 0."""
    sums = _asked(input, weight, stride, padding)
    if sums is None:
        return F.conv2d(input, weight, None, stride, padding)
    if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
        return cast(Tensor, _Known.apply(input, weight, [sums], stride, padding))  # pyright: ignore[reportUnknownMemberType] - no stub
    return sums


def _asked(input: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor | None:
    if not _ways or not (_plain(input) and _plain(weight)):
        return None
    threads = torch.get_num_threads()
    found = _ways[-1](input.detach().numpy(), weight.detach().numpy(), stride, padding, threads)
    return None if found is None else torch.from_numpy(found)  # pyright: ignore[reportUnknownMemberType] - no stub


def _plain(tensor: Tensor) -> bool:
    """Numbers in this machine's memory, that nothing follows but autograd."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - public, says its documentation
        and not torch.compiler.is_compiling()
        and not cast(Any, torch._C)._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage] - there is no public question
    )


class _Known(torch.autograd.Function):
    """A convolution whose sums are known: only its gradients are left to be found."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        ctx: Any, input: Tensor, weight: Tensor, sums: list[Tensor], stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return sums[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        input, weight = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            *(grad, input, weight, None, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1]),
            *(False, [0, 0], 1, needed),
        )
        return of_input, of_weight, None, None, None
