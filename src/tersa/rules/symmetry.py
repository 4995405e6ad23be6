"""Sign-symmetry: errors travel back through weights that share only the signs of the forward ones.

    delta_i = (B_{i+1}^T delta_{i+1}) relu'(z_i),   B = sign(W) m

The signs are those of the weights as they are at each update (0 counts as +1); the magnitudes m are

- `uniform`: one number per layer, sqrt(mean W^2) of the weights as they are, so that errors keep the scale
  that backpropagation would give them;
- `random`: drawn once for each weight, |uniform by the Xavier rule|, and never moved.

References:
    Liao, Leibo & Poggio, How important is weight symmetry in backpropagation? (2016): uniform is their uSF,
    random their frSF.
    Moskovitz, Litwin-Kumar & Abbott, Feedback alignment in deep convolutional networks (2018).

Example:
    >>> from tersa.rules.network import network_of
    >>> network = network_of("mlp:6", (1, 8, 8), 10)
    >>> weights = network.initial([1])
    >>> back = SignSymmetry().feedback(weights, Extras())[1]
    >>> bool((back.sign() == weights[1].weight.sign()).all())
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tersa.quant.primitives import sign_pm1
from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything
from tersa.rules.feedback import xavier
from tersa.rules.network import Network, Weights, line_only


@dataclass(frozen=True)
class SignSymmetry:
    """Backpropagation's forward pass, with the weights' signs on the way back.

    Attributes:
        name: of this setting in the registry.
        magnitude: `uniform` or `random`.
    """

    name: str = "sign-symmetry"
    magnitude: Literal["uniform", "random"] = "uniform"

    def check(self, network: Network) -> None:
        """Lines of layers only; see `tersa.rules.network.line_only`."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """`random`: the magnitudes of layers 2 .. n, shaped like their weights; `uniform`: none."""
        if self.magnitude == "uniform":
            return Extras()
        return Extras(fixed=tuple(xavier(layer, draw).abs() for layer in network.layers[1:]))

    def feedback(self, weights: Weights, extras: Extras) -> list[Tensor | None]:
        """B of each layer, shaped like its weight; None for the first."""
        found: list[Tensor | None] = [None]
        for i, pair in enumerate(weights[1:]):
            weight = pair.weight.detach()
            if self.magnitude == "random":
                size = extras.fixed[i]
            else:
                size = weight.square().mean(tuple(range(1, weight.dim())), keepdim=True).sqrt()  # (R, 1, ..)
            found.append(sign_pm1(weight) * size)
        return found

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves everything."""
        return everything(network)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Cross-entropy, (R,); its gradient is bent on the way back."""
        logits = network.run(weights, batch.inputs, self.feedback(weights, extras))[-1]
        return cross_entropy(logits, batch)

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits."""
        return network.logits(weights, inputs)


RANDOM = SignSymmetry("sign-symmetry-random", magnitude="random")
"""With fixed random magnitudes."""
