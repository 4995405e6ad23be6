"""Competitive Hebbian learning of the hidden layers, the delta rule on the last.

Units that answer together with their input strengthen it, and softly the winner takes it all:

    p    = softmax over units of z / (temperature std z)             who wins
    dw_k = -(p_k - mean p_k) u + max(cov(p_k, z_k), 0) w_k           Hebb's product, centred, with Oja's decay
    db_k = -(1/O - p_k)                                              conscience: frequent winners are held off
    dW_n = (p_n - y) u^T                                             last layer: the delta rule

averaged over the batch, and behind a convolution over positions too, u being the patch; means are over the
same. w_k comes to point from the mean of all inputs to the mean of those it wins, with length 1. Without the
centring every w_k points to the mean of all. No label and no error reaches a hidden layer. A first hidden
layer learns useful features; each further one loses some of them.

Written for autograd: z of each layer, on a detached input, meets a detached p in a scalar whose gradient
is the lines above. What `loss` returns has the value of the last layer's cross-entropy.

References:
    Hebb, The organization of behavior (1949).
    Sejnowski, Storing covariance with nonlinearly interacting neurons (1977): the centred product.
    Oja, A simplified neuron model as a principal component analyzer (1982): the decay.
    DeSieno, Adding a conscience to competitive learning (1988).
    Moraitis et al., SoftHebb (2022): soft winner-take-all. Differs from the paper: its product is not
    centred, its decay p_k z_k w_k blows up where a winner's z is negative, and it has no conscience.

Example:
    >>> from tersa.rules.network import network_of
    >>> Hebbian().phases(network_of("mlp:6x5", (1, 8, 8), 10))[0].turns[0].layers
    (0, 1, 2)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything
from tersa.rules.network import Network, Pair, Weights, line_only


@dataclass(frozen=True)
class Hebbian:
    """Soft winner-take-all below, delta rule on top.

    Attributes:
        name: as in the registry.
        temperature: of the competition, in standard deviations of a layer's z: lower is sharper.
    """

    name: str = "hebbian"
    temperature: float = 0.2

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
        """One turn moves everything."""
        return everything(network)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """The value of the last layer's cross-entropy, (R,), with the gradient of this file's first lines."""
        u = network.enter(batch.inputs)
        taught = torch.zeros(len(weights[0].weight), device=u.device)
        for i, pair in enumerate(weights[:-1]):
            z = network.linear(i, Pair(pair.weight, pair.bias.detach()), u)
            taught = taught + self.competition(pair, z)
            u = network.act(i, z.detach())
        loss = cross_entropy(network.layer(len(weights) - 1, weights[-1], u), batch)
        return loss + (taught - taught.detach())

    def competition(self, pair: Pair, z: Tensor) -> Tensor:
        """A scalar per run whose gradient is dW and db of a hidden layer, (R,).

        Args:
            pair: the layer's numbers.
            z: its outputs before ReLU, with the bias detached, (R, N, O) or (R, N, O, H, W).
        """
        units = z.shape[2]
        z = z.reshape(*z.shape[:3], -1).movedim(2, -1).flatten(1, 2)  # (R, N H W, O)
        with torch.no_grad():
            spread = z.std((1, 2), correction=0, keepdim=True).clamp_min(1e-12)
            share = torch.softmax(z / (self.temperature * spread), -1)
            won = share.mean(1)  # (R, O)
            lead = share - won.unsqueeze(1)
            decay = (lead * z).mean(1).clamp_min(0.0)  # (R, O)
        drawn_in = (lead * z).sum(2).mean(1)
        pulled_back = 0.5 * (decay * pair.weight.flatten(2).square().sum(2)).sum(1)
        conscience = ((1.0 / units - won) * pair.bias).sum(1)
        return pulled_back - drawn_in - conscience

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits."""
        return network.logits(weights, inputs)
