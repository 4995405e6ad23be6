"""Layer-local losses: each hidden layer has a linear classifier of its own and learns from it alone.

    L_i = -mean_n log softmax(V_i f(h_i) + c_i)[y_n],   h_i = act(W_i u_i + b_i) with u_i detached
    L   = sum_i L_i,   the last layer being its own classifier (V, c and f are the identity there)

f flattens; behind a convolution it first averages over regions, at most `cells` x `cells` of them. No error
passes from one hidden layer to another. The network answers with its last layer; the classifiers serve
training only.

This is the prediction loss of the papers below; the similarity-matching loss of the first is not here.

References:
    Nokland & Eidnes, Training neural networks with local error signals (2019): `predsim` without `sim`.
    Belilovsky, Eickenberg & Oyallon, Greedy layerwise learning can scale to ImageNet (2019).

Example:
    >>> from tersa.rules.network import network_of
    >>> network = network_of("lenet", (1, 28, 28), 10)
    >>> drawn = LocalLosses().extras(network, network.initial([1]), Draw([1]))
    >>> [tuple(tensor.shape) for tensor in drawn.trained[::2]]
    [(1, 10, 512), (1, 10, 1024), (1, 10, 1024)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything
from tersa.rules.network import Network, Weights, line_only


@dataclass(frozen=True)
class LocalLosses:
    """A classifier beside each hidden layer.

    Attributes:
        name: as in the registry.
        cells: most rows and columns of averages that a classifier sees of a convolution's output.
    """

    name: str = "local"
    cells: int = 4

    def check(self, network: Network) -> None:
        """Lines of layers only; see `tersa.rules.network.line_only`."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """V_1, c_1, V_2, c_2, ... of the hidden layers: (R, K, F) and (R, K), uniform in +-1/sqrt(F)."""
        trained: list[Tensor] = []
        for shape in network.shapes[:-1]:
            features = math.prod(min(side, self.cells) if axis else side for axis, side in enumerate(shape))
            for size in ((network.classes, features), (network.classes,)):
                trained.append((2.0 * draw.uniform(*size) - 1.0) / math.sqrt(features))
        return Extras(trained=tuple(trained))

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves all layers and all classifiers: their losses share no gradient."""
        return everything(network, 2 * (len(network.layers) - 1))

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """L, (R,)."""
        *hidden, logits = network.apart(weights, batch.inputs)
        loss = cross_entropy(logits, batch)
        for i, h in enumerate(hidden):
            weight, bias = extras.trained[2 * i : 2 * i + 2]
            loss = loss + cross_entropy(torch.baddbmm(bias.unsqueeze(1), self._features(h), weight.mT), batch)
        return loss

    def _features(self, h: Tensor) -> Tensor:
        """(R, N, F) of (R, N, O) or (R, N, C, H, W)."""
        if h.dim() == 3:
            return h
        rows, columns = (min(side, self.cells) for side in h.shape[-2:])
        return F.adaptive_avg_pool2d(h.flatten(0, 1), (rows, columns)).unflatten(0, h.shape[:2]).flatten(2)

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits of the last layer."""
        return network.logits(weights, inputs)
