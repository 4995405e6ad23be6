"""Backpropagation: the exact gradient of the cross-entropy.

    L = -mean_n log softmax(h_n)[y_n],   delta_i = (W_{i+1}^T delta_{i+1}) relu'(z_i),   dW_i = delta_i u_i^T

References:
    Rumelhart, Hinton & Williams, Learning representations by back-propagating errors (1986).

Example:
    >>> BackPropagation().name
    'bp'
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything
from tersa.rules.network import Network, Weights


@dataclass(frozen=True)
class BackPropagation:
    """Gradient descent on the cross-entropy, through every layer."""

    name: str = "bp"

    def check(self, network: Network) -> None:
        """Every network is fine."""

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """None."""
        return Extras()

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves everything."""
        return everything(network)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Cross-entropy, (R,)."""
        return cross_entropy(network.logits(weights, batch.inputs), batch)

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits."""
        return network.logits(weights, inputs)
