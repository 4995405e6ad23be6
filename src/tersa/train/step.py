"""One update of one run: loss, gradients, clipping, optimiser.

`loss_of` is pure: it takes the network as a function of its inputs and returns the loss, so that the same
lines serve a module here and `torch.func.functional_call` over a stack of parameters elsewhere. `update_`
is the thin shell that moves one module's parameters.

A batch of more than `CHUNK` images is run in chunks whose gradients are summed with their shares, so that a
whole split fits in memory; batch normalisation then sees the chunks.

L-BFGS evaluates the loss many times per update. All evaluations of one update see the same dropout masks,
or its line search would compare different functions.

Example:
    >>> module, batch = torch.nn.Linear(2, 3), Batch(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    >>> loss, logits = loss_of(module, lambda z, y, _: torch.nn.functional.cross_entropy(z, y), batch)
    >>> loss.shape, logits.shape
    (torch.Size([]), torch.Size([4, 3]))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from tersa.train.config import Precision
from tersa.train.device import random_state, set_random_state_
from tersa.train.losses import Objective

CHUNK = 2048
"""Most images that go through the network at once."""

Network = Callable[[Tensor], Tensor]
"""Inputs (N, ...) -> logits (N, K)."""


@dataclass(frozen=True)
class Batch:
    """What one update sees.

    Attributes:
        inputs: (N, C, H, W) float32, normalised.
        labels: (N,) int64.
        teacher: (N, K) logits of a teacher on the same inputs, or None.
    """

    inputs: Tensor
    labels: Tensor
    teacher: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self) -> Iterator[Batch]:
        """The batch in parts of at most `CHUNK` images."""
        if len(self) <= CHUNK:
            yield self
            return
        for start in range(0, len(self), CHUNK):
            span = slice(start, start + CHUNK)
            teacher = None if self.teacher is None else self.teacher[span]
            yield Batch(self.inputs[span], self.labels[span], teacher)


@dataclass(frozen=True)
class Outcome:
    """What one update found, before it changed the weights; on the device, so that nothing waits for it.

    Attributes:
        loss: mean over the batch, 0-dimensional.
        correct: right answers in the batch, 0-dimensional, int64.
    """

    loss: Tensor
    correct: Tensor


def autocast(device: str, precision: Precision) -> AbstractContextManager[object]:
    """The arithmetic of the forward pass; `fp32` changes nothing."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def unit_strides(model: nn.Module, device: str, precision: Precision) -> Generator[None]:
    """In bfloat16 on a CPU, 1x1 convolutions with a stride are given the places that they read, without it.

    The result is the same. PyTorch 2.13's oneDNN writes past its memory in the backward pass of such a
    convolution (8 to 15 input channels, an odd batch on two threads), which ends the process some time later;
    the shortcuts of pruned residual networks come to be of this kind.

    Args:
        model: of a training; it is as it was after the block.
        device: where it computes.
        precision: of its forward passes.
    """
    affected = [part for part in model.modules() if isinstance(part, nn.Conv2d) and _strided_point(part)]
    if precision != "bf16" or torch.device(device).type != "cpu":
        affected = []
    strides = [part.stride for part in affected]
    hooks = [part.register_forward_pre_hook(_places(*part.stride)) for part in affected]
    for part in affected:
        part.stride = (1, 1)
    try:
        yield
    finally:
        for part, stride, hook in zip(affected, strides, hooks, strict=True):
            part.stride = stride
            hook.remove()


def _strided_point(part: nn.Conv2d) -> bool:
    return part.kernel_size == (1, 1) and part.stride != (1, 1) and part.padding in ((0, 0), 0)


def _places(down: int, across: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that leaves every so many rows and columns of the input."""
    return lambda module, inputs: (inputs[0][:, :, ::down, ::across], *inputs[1:])


def loss_of(network: Network, objective: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss and logits of a network on a batch; pure where the network is.

    Returns:
        The scalar loss, and the logits (N, K) in float32.
    """
    logits = network(batch.inputs).float()
    return objective(logits, batch.labels, batch.teacher), logits


def gradients_(optimizer: Optimizer, network: Network, objective: Objective, batch: Batch) -> Outcome:
    """Put the gradient of the batch's mean loss into the optimiser's parameters."""
    optimizer.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    right: list[Tensor] = []
    for chunk in batch.chunks():
        loss, logits = loss_of(network, objective, chunk)
        shared = loss * (len(chunk) / len(batch))
        shared.backward()
        losses.append(shared.detach())
        right.append((logits.detach().argmax(dim=1) == chunk.labels).sum())
    return Outcome(torch.stack(losses).sum(), torch.stack(right).sum())


def update_(
    optimizer: Optimizer,
    network: Network,
    objective: Objective,
    batch: Batch,
    *,
    clip_norm: float = 0.0,
    device: str = "cpu",
) -> Outcome:
    """Move the optimiser's parameters by one update.

    With g the gradient of the mean loss, clipping replaces it by g min(1, clip_norm / |g|).

    Args:
        optimizer: over the network's parameters, its learning rate set.
        network: inputs -> logits.
        objective: logits, labels, teacher's logits -> loss.
        batch: what to learn from.
        clip_norm: largest Euclidean norm of the gradient over all parameters; 0 for none.
        device: where the network computes; its random state is held still for L-BFGS.

    References:
        Pascanu, Mikolov & Bengio, On the difficulty of training recurrent networks (2013), section 3.2.
        Liu & Nocedal, On the limited memory BFGS method (1989).
    """
    if isinstance(optimizer, LBFGS):
        return _search_(optimizer, network, objective, batch, device)
    outcome = gradients_(optimizer, network, objective, batch)
    if clip_norm:
        everything = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(everything, clip_norm)
    optimizer.step()
    return outcome


def _search_(optimizer: LBFGS, network: Network, objective: Objective, batch: Batch, device: str) -> Outcome:
    """One L-BFGS update; the outcome is that of its first evaluation, at the weights it started from."""
    masks = random_state(device)
    outcomes: list[Outcome] = []

    def closure() -> float:
        set_random_state_(masks, device)
        outcomes.append(gradients_(optimizer, network, objective, batch))
        return float(outcomes[-1].loss)

    optimizer.step(closure)
    return outcomes[0]
