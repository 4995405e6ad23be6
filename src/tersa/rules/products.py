"""The large matrix product of a stack: one batch for all runs against the first layers of all of them.

    z = x W^T + b,   x (N, I), W (O, I) with O the outputs of all runs

Where torch has oneDNN it is asked for this product, not the BLAS that `torch.mm` calls: on an AMD processor
with AVX-512 it took half of MKL's time (`benchmarks/study_throughput.py` prints both rates). Both add float32
products in their own order, so results differ in the last bits. Gradients that are differentiated again,
mapped tensors (`torch.func`) and other devices take `torch.mm`.

Example:
    >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5])).tolist()
    [[11.5]]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

LEAST = 1 << 20
"""Multiply-accumulates below which `torch.mm` is taken: a small product does not pay for the call."""


def _found() -> Callable[..., Tensor] | None:
    """oneDNN's linear layer, which torch's own compiler calls; None in a build without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    return cast("Callable[..., Tensor] | None", getattr(torch.ops.mkldnn, "_linear_pointwise", None))


ONEDNN = _found()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, (N, O), by the faster library.

    Args:
        x: (N, I) float32.
        weight: (O, I).
        bias: (O,), or None for 0.
    """
    if ONEDNN is not None and _plain(x) and _plain(weight) and len(x) * weight.numel() >= LEAST:
        return ONEDNN(x.contiguous(), weight.contiguous(), bias, "none", [], "")
    return x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)


def _plain(x: Tensor) -> bool:
    """A float32 tensor of the CPU that nothing differentiates or maps."""
    functorch = cast(Any, torch)._C._functorch  # torch.func has no public test of its own tensors
    wrapped = functorch.is_functorch_wrapped_tensor(x)
    differentiated = torch.is_grad_enabled() and x.requires_grad
    return x.device.type == "cpu" and x.dtype == torch.float32 and not wrapped and not differentiated


def macs_of(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Operations of oneDNN's product for torch's counter: two for each multiply-accumulate.

    Args:
        x: shape of x.
        weight: shape of W.
    """
    return 2 * int(x[0]) * int(weight[0]) * int(weight[1])
