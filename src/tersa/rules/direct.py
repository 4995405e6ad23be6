"""Direct feedback alignment: the output error goes to every hidden layer at once, through random weights.

    e = p - y,   delta_i = (B_i^T e) act'(z_i),   dW_i = delta_i u_i^T,   dW_n = e u_n^T

with p the softmax of the logits and y the one-hot label. B_i is (K, units of layer i), for a convolution
(K, C H W) of its pooled output; act is ReLU and pooling. No layer waits for another one's error.

Written for autograd: the input of each layer is detached, the cross-entropy moves the last layer, and each
hidden layer has the scalar <h_i, B_i^T e> with e detached, whose gradient is the line above.

References:
    Nokland, Direct feedback alignment provides learning in deep neural networks (2016).

Example:
    >>> from tersa.rules.network import network_of
    >>> network = network_of("lenet", (1, 8, 8), 10)
    >>> drawn = DirectFeedbackAlignment().extras(network, network.initial([1]), Draw([1]))
    >>> [tuple(feedback.shape) for feedback in drawn.fixed]
    [(1, 10, 512), (1, 10, 256), (1, 10, 1024)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything, one_hot
from tersa.rules.network import Network, Weights, line_only


@dataclass(frozen=True)
class DirectFeedbackAlignment:
    """The output error, through one random matrix, to each hidden layer.

    Attributes:
        name: as in the registry.
        scale: B_i is uniform in +-scale sqrt(6 / (K + units)): 1 is the Xavier rule.
    """

    name: str = "dfa"
    scale: float = 1.0

    def check(self, network: Network) -> None:
        """Lines of layers only; see `tersa.rules.network.line_only`."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """B_1 .. B_{n-1}, (R, K, units) each."""
        sizes = [math.prod(shape) for shape in network.shapes[:-1]]
        return Extras(fixed=tuple(self._drawn(network.classes, size, draw) for size in sizes))

    def _drawn(self, classes: int, size: int, draw: Draw) -> Tensor:
        return (2.0 * draw.uniform(classes, size) - 1.0) * self.scale * math.sqrt(6.0 / (classes + size))

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves everything."""
        return everything(network)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """The value of the cross-entropy, (R,), with the gradient of this file's first lines."""
        *hidden, logits = network.apart(weights, batch.inputs)
        runs, count, classes = logits.shape
        error = (torch.softmax(logits, -1) - one_hot(batch, runs, classes)).detach() / count  # (R, N, K)
        loss = cross_entropy(logits, batch)
        for h, feedback in zip(hidden, extras.fixed, strict=True):
            taught = (h.flatten(2) * (error @ feedback)).sum((1, 2))  # (R,)
            loss = loss + (taught - taught.detach())
        return loss

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits."""
        return network.logits(weights, inputs)
