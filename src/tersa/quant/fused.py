"""Signs and their estimated gradients as one kernel each on an NVIDIA GPU.

What an update of a binary network does between its convolutions is bound by memory: as PyTorch's operators
the sign reads and writes its tensor twice, the triangle of `estimators.approx` five times. Compiled as one
kernel (torch's jiterator, at the first call), each reads and writes once:

    sign(x)           1 where x >= 0, else -1
    triangle(g, x)    g (2 - 2 |x|) where |x| < 1, else 0

In float32 the results for finite numbers are those of the operators; in 16 bits the triangle is rounded once,
not after every operator. NaN has no sign and no gradient here: a loss that is not finite ends a run before.
Elsewhere (CPU, other types, inside `torch.func`) `usable` is false, and the operators
run.

Example:
    >>> usable(torch.zeros(3))
    False
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels are written for: they compute in float32."""

SIGN = """
template <typename T> T tersa_sign(T x) {
  return static_cast<T>(static_cast<float>(x) >= 0.0f ? 1.0f : -1.0f);
}
"""
TRIANGLE = """
template <typename T> T tersa_triangle(T g, T x) {
  float size = static_cast<float>(x);
  size = size < 0.0f ? -size : size;
  return static_cast<T>(size < 1.0f ? static_cast<float>(g) * (2.0f - 2.0f * size) : 0.0f);
}
"""


def usable(*tensors: Tensor) -> bool:
    """The kernels can take these: on a GPU, of one of `TYPES`, and plain tensors."""
    plain = all(each.is_cuda and each.dtype in TYPES for each in tensors)
    return plain and not cast(Any, torch._C)._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage] - there is no public question


def sign(x: Tensor) -> Tensor:
    """1 where x >= 0, else -1, shaped and typed like x."""
    return _compiled(SIGN)(x)


def triangle(grad: Tensor, x: Tensor) -> Tensor:
    """grad (2 - 2 |x|) where |x| < 1, else 0."""
    return _compiled(TRIANGLE)(grad, x)


@lru_cache
def _compiled(source: str) -> Callable[..., Tensor]:
    made = cast(Any, torch.cuda).jiterator._create_jit_fn(source)
    return cast(Callable[..., Tensor], made)
