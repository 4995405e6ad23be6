"""What a learning rule is.

A rule says which scalar is differentiated and with respect to which tensors, what is cut from the graph
(`detach`) and what errors travel through; autograd does the rest. It is written once: all its tensors have a
leading axis R, one slice per run, and a single run is R = 1. Runs never mix: `loss` returns one scalar per
run, and the engine differentiates their sum.

One update of a run goes through the rule's turns. A turn names the layers (and trained extras) that move:

    for turn in phase.turns:
        g = d sum_r loss_r(turn) / d (tensors that the turn moves)
        the optimiser moves them; they are snapped to their levels where turn.snap, else at the last turn

Most rules have one phase with one turn that moves everything.

Example:
    >>> Phase("train", (Turn("all", layers=(0, 1, 2)),)).turns[0].snap
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tersa.rules.network import Network, Weights


@dataclass(frozen=True)
class Extras:
    """Tensors that a rule needs besides the network's weights; each has a leading axis R.

    Attributes:
        fixed: never move (feedback weights); snapped once, with the same quantiser as the weights.
        trained: moved by turns that name them (synthesisers, decoders, local classifiers), snapped like
            weights.
    """

    fixed: tuple[Tensor, ...] = ()
    trained: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A part of one update.

    Attributes:
        name: tells the turns of a rule apart in its `loss`.
        layers: indices of the network's layers whose weight and bias move.
        extras: indices into `Extras.trained` of what moves.
        snap: the moved tensors are snapped at once; False leaves it to the end of the update.
    """

    name: str
    layers: tuple[int, ...] = ()
    extras: tuple[int, ...] = ()
    snap: bool = True


@dataclass(frozen=True)
class Recipe:
    """An optimiser that a phase brings with it instead of the run's.

    Attributes:
        optimizer: name of an optimiser of `tersa.study.update`.
        learning_rate: at the start of the phase.
        decay: the rate is multiplied by it after each epoch.
        weight_decay: L2 pull on everything that moves.
    """

    optimizer: str
    learning_rate: float
    decay: float = 1.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Phase:
    """A stretch of training with the same turns.

    Attributes:
        name: for records (`train`, `unformatted`, `classifier`).
        turns: of each update, in order.
        epochs: its length, or None for the run's epochs.
        recipe: its optimiser, or None for the run's.
    """

    name: str
    turns: tuple[Turn, ...]
    epochs: int | None = None
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Batch:
    """What one update sees.

    Attributes:
        inputs: (N, C, H, W) normalised, or (R, N, C, H, W) where each run has its own order.
        labels: (N,) int64, or (R, N).
    """

    inputs: Tensor
    labels: Tensor

    def labels_of(self, runs: int) -> Tensor:
        """Labels (R, N)."""
        return self.labels if self.labels.dim() == 2 else self.labels.expand(runs, -1)


class Draw:
    """Random numbers for a stack: each run has a generator of its own, so it draws the same alone.

    Args:
        seeds: one per run.
        device: of the numbers; they are drawn on the CPU.
    """

    def __init__(self, seeds: Sequence[int], device: str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (R, *shape)."""
        return self._stack([torch.randn(shape, generator=g) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), (R, *shape)."""
        return self._stack([torch.rand(shape, generator=g) for g in self.generators])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform in 0 .. high-1, (R, *shape) int64."""
        return self._stack([torch.randint(high, shape, generator=g) for g in self.generators])

    def _stack(self, rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).to(self.device)


class Rule(Protocol):
    """How a network learns; a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """As in the registry and on the command line."""
        ...

    def check(self, network: Network) -> None:
        """Refuse a network that the rule has no meaning for.

        Raises:
            UsageError: in one line: what was asked, what is allowed.
        """
        ...

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The weights that training starts from, given the network's own; most rules return these.

        Called once, before `extras`, with the same `draw`. A run with a start of its own (a cell with a gain)
        does not use what it returns.
        """
        ...

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """What the rule needs besides the weights, drawn once at the start."""
        ...

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """What happens, in order."""
        ...

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """The scalar of each run whose gradient moves what the turn names, (R,)."""
        ...

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Scores (R, N, K) of images (N, C, H, W); the largest is the answer."""
        ...


def everything(network: Network, extras: int = 0) -> tuple[Phase, ...]:
    """One phase with one turn that moves all layers, and the first `extras` trained extras."""
    return (Phase("train", (Turn("all", tuple(range(len(network.layers))), tuple(range(extras))),)),)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch of -log softmax(logits)[label], (R,).

    Args:
        logits: (R, N, K).
        batch: its labels are used.
    """
    labels = batch.labels_of(len(logits))
    picked = torch.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1))  # (R, N, 1)
    return -picked.mean((1, 2))


def one_hot(batch: Batch, runs: int, classes: int) -> Tensor:
    """Labels as (R, N, K) float32."""
    return torch.nn.functional.one_hot(batch.labels_of(runs), classes).float()
