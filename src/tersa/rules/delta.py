"""The delta rule on the last layer, over hidden layers that never move.

    dW_n = (p - y) u^T,   db_n = p - y,   averaged over the batch

u is what the hidden layers make of the image, y the label as one-hot vector, p the answer: the softmax of the
outputs z, or z itself (`linear`), which is Widrow and Hoff's rule, least mean squares. The hidden layers keep
their start: they are random features.

References:
    Widrow & Hoff, Adaptive switching circuits (1960): linear outputs.
    Rumelhart & McClelland, Parallel distributed processing (1986), volume 1, chapter 2: the name.

Example:
    >>> from tersa.rules.network import network_of
    >>> DeltaRule().phases(network_of("mlp:6x5", (1, 8, 8), 10))[0].turns[0].layers
    (2,)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, one_hot
from tersa.rules.network import Network, Weights, line_only


@dataclass(frozen=True)
class DeltaRule:
    """One layer taught on random features.

    Attributes:
        name: as in the registry.
        output: p is the `softmax` of the outputs, or the outputs themselves (`linear`).
    """

    name: str = "delta"
    output: Literal["softmax", "linear"] = "softmax"

    def check(self, network: Network) -> None:
        """Lines of layers only; see `tersa.rules.network.line_only`."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """None."""
        return Extras()

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves the last layer."""
        return (Phase("train", (Turn("last", layers=(len(network.layers) - 1,)),)),)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Cross-entropy, or half the squared error of linear outputs, (R,)."""
        with torch.no_grad():
            u = network.run(weights[:-1], batch.inputs)[-1]
        z = network.layer(len(weights) - 1, weights[-1], u)
        return cross_entropy(z, batch) if self.output == "softmax" else squared_error(z, batch)

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Outputs of the last layer."""
        return network.logits(weights, inputs)


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch of |z - y|^2 / 2, (R,).

    Args:
        outputs: z, (R, N, K).
        batch: its labels are used.
    """
    runs, _, classes = outputs.shape
    return 0.5 * (outputs - one_hot(batch, runs, classes)).square().sum(2).mean(1)
