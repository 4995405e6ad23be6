"""A readable trainer for tests of learning rules: phases, turns, and torch's own optimisers on leaves.

The engine of `tersa.study` does the same faster, with quantisers; here is what a rule's own test needs:

    taught = teach(RULES["fa"], network, images, labels, epochs=3, seeds=(1, 2))
    taught.accuracy(test_images, test_labels)   # (R,) percent

Nothing is snapped to levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Recipe, Rule, Turn
from tersa.rules.network import Network, Pair, Weights

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda leaves, **options: torch.optim.SGD(leaves, momentum=0.9, **options),
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
}
DOCUMENT = Recipe("adadelta", 1.0, decay=0.7)
"""Document 000's optimiser: the default."""


@dataclass(frozen=True)
class Taught:
    """A network after its lessons."""

    rule: Rule
    network: Network
    weights: Weights
    extras: Extras

    def accuracy(self, images: Tensor, labels: Tensor) -> Tensor:
        """Share of images (N, C, H, W) that each run names as in labels (N,), in percent, (R,)."""
        with torch.no_grad():
            scores = self.rule.predict(self.network, self.weights, self.extras, images)  # (R, N, K)
        return (scores.argmax(-1) == labels).float().mean(-1) * 100


def moved(turn: Turn, weights: Weights, extras: Extras) -> list[Tensor]:
    """The tensors that a turn moves: weight and bias of its layers, then its extras."""
    pairs = [tensor for i in turn.layers for tensor in (weights[i].weight, weights[i].bias)]
    return pairs + [extras.trained[i] for i in turn.extras]


def only_moved(turn: Turn, weights: Weights, extras: Extras) -> tuple[list[Pair], Extras]:
    """Weights and extras of which only those that the turn moves can get a gradient."""
    pairs = [
        pair if i in turn.layers else Pair(pair.weight.detach(), pair.bias.detach())
        for i, pair in enumerate(weights)
    ]
    trained = tuple(e if i in turn.extras else e.detach() for i, e in enumerate(extras.trained))
    return pairs, Extras(extras.fixed, trained)


def gradients(
    rule: Rule, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
) -> list[Tensor]:
    """Gradient of the turn's loss with respect to `moved`, summed over runs (they do not mix)."""
    loss = rule.loss(turn, network, *only_moved(turn, weights, extras), batch, draw)
    return list(torch.autograd.grad(loss.sum(), moved(turn, weights, extras)))


def begin(rule: Rule, network: Network, seeds: Sequence[int]) -> tuple[list[Pair], Extras, Draw]:
    """Weights and extras at the start, all of them leaves, and the random numbers that follow."""
    draw = Draw(seeds)
    weights = [
        Pair(pair.weight.clone().requires_grad_(), pair.bias.clone().requires_grad_())
        for pair in rule.start(network, network.initial(seeds), draw)
    ]
    extras = rule.extras(network, weights, draw)
    trained = tuple(e.detach().clone().requires_grad_() for e in extras.trained)
    return weights, Extras(tuple(e.detach() for e in extras.fixed), trained), draw


def teach(
    rule: Rule,
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seeds: Sequence[int] = (1,),
    recipe: Recipe = DOCUMENT,
    batch: int = 64,
    order_seed: int = 1,
    after_epoch: Callable[[Taught], None] | None = None,
) -> Taught:
    """Train one run per seed; all runs see the same batches.

    Args:
        rule: how they learn.
        network: what learns.
        images: (N, C, H, W) normalised.
        labels: (N,).
        epochs: of each phase that says nothing of its length, and the most of any phase.
        seeds: one per run.
        recipe: optimiser of each phase that brings none.
        batch: images of one update; a smaller last batch is dropped.
        order_seed: of the shuffling.
        after_epoch: called with the network as it is then.
    """
    rule.check(network)
    weights, extras, draw = begin(rule, network, seeds)
    taught = Taught(rule, network, weights, extras)
    shuffle = torch.Generator().manual_seed(order_seed)
    for phase in rule.phases(network):
        optimiser, decay = _optimiser(phase.recipe or recipe, phase, weights, extras)
        for _ in range(min(phase.epochs or epochs, epochs)):
            for chosen in torch.randperm(len(labels), generator=shuffle).split(batch):
                if len(chosen) == min(batch, len(labels)):
                    _update(taught, phase, Batch(images[chosen], labels[chosen]), draw, optimiser)
            for group in optimiser.param_groups:
                group["lr"] *= decay
            if after_epoch is not None:
                after_epoch(taught)
    return taught


def _optimiser(
    recipe: Recipe, phase: Phase, weights: Weights, extras: Extras
) -> tuple[torch.optim.Optimizer, float]:
    leaves = {id(leaf): leaf for turn in phase.turns for leaf in moved(turn, weights, extras)}
    made = OPTIMISERS[recipe.optimizer](
        list(leaves.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    return made, recipe.decay


def _update(taught: Taught, phase: Phase, batch: Batch, draw: Draw, optimiser: torch.optim.Optimizer) -> None:
    """Each turn in order: gradient, then a step of what it moves (torch skips leaves without a gradient)."""
    for turn in phase.turns:
        optimiser.zero_grad(set_to_none=True)
        found = gradients(taught.rule, turn, taught.network, taught.weights, taught.extras, batch, draw)
        for leaf, gradient in zip(moved(turn, taught.weights, taught.extras), found, strict=True):
            leaf.grad = gradient
        optimiser.step()


def sine_weights(network: Network, runs: int = 1) -> list[Pair]:
    """Weights that look like nothing else: sines of the position, other ones in each layer and run."""

    def sines(size: tuple[int, ...], layer: int, scale: float) -> Tensor:
        count = torch.Size(size).numel()
        positions = torch.arange(runs * count, dtype=torch.float32).reshape(runs, *size)
        return scale * torch.sin(1.7 * positions + layer)

    return [
        Pair(
            sines(layer.weight_shape, i, layer.fan_in**-0.5),
            sines((layer.outputs,), i + 1, 0.1),
        )
        for i, layer in enumerate(network.layers)
    ]


def sine_batch(network: Network, count: int = 6) -> Batch:
    """Images of sines, and labels that go round."""
    size = (count, *network.shape)
    positions = torch.arange(torch.Size(size).numel(), dtype=torch.float32).reshape(size)
    return Batch(torch.sin(0.9 * positions), torch.arange(count) % network.classes)
