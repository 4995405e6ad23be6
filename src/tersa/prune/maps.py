"""What feature maps show: activations and gradients at gates, as sums over images.

    taylor       mean over images of |mean over positions (dC/dz z)|
    activations  mean over images and positions of |f(z)|, f the non-linearity that follows

each (C,) at a gate (`trace.Gate`: the output z of a layer, or of the batch norm behind it). The cost C of an
image is its own cross-entropy, so that nothing depends on how the images are cut into batches. What the
numbers are good for is in `criteria.py`; which unit each channel belongs to, in `evidence.py`.

Example:
    >>> taylor(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, -1.0]]]))
    tensor([[0.5000]])
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.prune.trace import Gate

Batch = tuple[Tensor, Tensor]
"""Network inputs (N, C, H, W) and labels (N,), on the model's device."""

Shown = list[tuple[int, Tensor]]
"""Which gate, and a sum over images, (C,) float64 on the CPU; one entry for each call of a gate."""


def taylor(z: Tensor, dz: Tensor) -> Tensor:
    """First-order change of the cost when a feature map is set to zero.

        score = |mean over positions (dC/dz * z)|

    Args:
        z: activations, (N, C, P).
        dz: gradients of the cost with respect to them, (N, C, P).

    Returns:
        (N, C), not negative.

    References:
        Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Transfer Learning
        (ICLR 2017), equations 7-8; document 002, equation 3.2.
    """
    return (z * dz).mean(dim=2).abs()  # (N, C)


def at_gates(
    model: nn.Module,
    gates: Sequence[Gate],
    parts: Iterator[Batch],
    measure: Callable[[nn.Module, Sequence[Gate], Batch], Shown],
) -> Shown:
    """Sums over all images of what `measure` (`sum_activations`, `sum_taylor`) finds in each batch."""
    total: Shown = []
    for part in parts:
        found = measure(model, gates, part)
        total = [(i, a + b) for (i, a), (_, b) in zip(total, found, strict=True)] if total else found
    return total


def sum_activations(model: nn.Module, gates: Sequence[Gate], part: Batch) -> Shown:
    """Per call of a gate, the sum over images of mean |f(z)| over positions; f is the gate's non-linearity.

    Differs from document 002: absolute values, which are no change after a ReLU, and without one keep a map
    that is large and negative from looking unimportant.
    """
    found: Shown = []

    def see(index: int, z: Tensor) -> None:
        activation = gates[index].activation
        shown = z if activation is None else activation(z)
        found.append((index, by_channel(shown, gates[index].dim).abs().mean(dim=2).sum(dim=0).double().cpu()))

    with torch.no_grad(), _watched(model, gates, see):
        model(part[0])
    return found


def sum_taylor(model: nn.Module, gates: Sequence[Gate], part: Batch, *, copies: bool = False) -> Shown:
    """Per call of a gate, the sum over images of `taylor`.

    Args:
        model: in eval mode.
        gates: where to look.
        part: images and labels.
        copies: hand the network a copy of what a gate shows. Set by the function itself, when it finds that
            the network goes on in place (`out += identity`) and so has overwritten what was shown.
    """
    shown: list[tuple[int, Tensor, int]] = []

    def see(index: int, z: Tensor) -> Tensor | None:
        shown.append((index, z, _version(z)))
        return z.clone() if copies else None

    with torch.enable_grad():
        with _watched(model, gates, see):
            cost = cost_of(model(part[0].requires_grad_()), part[1])
        if any(_version(z) != version for _, z, version in shown):
            return sum_taylor(model, gates, part, copies=True)
        grads = torch.autograd.grad(cost, [z for _, z, _ in shown], materialize_grads=True)
    found: Shown = []
    for (index, z, _), dz in zip(shown, grads, strict=True):
        z, dz = (by_channel(t.detach(), gates[index].dim) for t in (z, dz))
        found.append((index, taylor(z, dz).sum(dim=0).double().cpu()))
    return found


def cost_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the images, ()."""
    return F.cross_entropy(logits, labels, reduction="sum")


def by_channel(t: Tensor, dim: int) -> Tensor:
    """(N, C, P), P positions."""
    return t.movedim(dim, 1).flatten(2) if t.dim() > 2 else t[:, :, None]


def _version(t: Tensor) -> int:
    """How often `t` has been written to in place."""
    return t._version  # pyright: ignore[reportPrivateUsage] - torch has no other name for it


@contextmanager
def _watched(
    model: nn.Module, gates: Sequence[Gate], see: Callable[[int, Tensor], Tensor | None]
) -> Generator[None]:
    """Call `see` with a gate's place and output whenever it runs; what it returns replaces the output."""
    hooks = []
    for index, gate in enumerate(gates):

        def hook(_: nn.Module, __: object, output: Tensor, index: int = index) -> Tensor | None:
            return see(index, output)

        hooks.append(model.get_submodule(gate.module).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
