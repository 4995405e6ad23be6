"""A learning rule of your own: each hidden layer learns from a random classifier that never moves.

python own_rule.py study run --data digits --model mlp:32x32 --rule bp,local,readout --out studies/readout
"""

import math
from dataclasses import dataclass

from torch import Tensor

from tersa.cli.main import run
from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything
from tersa.rules.network import Network, Weights, line_only
from tersa.rules.registry import RULES


@dataclass(frozen=True)
class Readout:
    """L = sum_i -log softmax(V_i h_i)[y] with V_i fixed; no error passes between layers."""

    name: str = "readout"

    def check(self, network: Network) -> None:
        """Refuse networks that this rule has no meaning for."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The weights to begin with: the network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """V_i of the hidden layers, (R, units, K)."""
        sizes = [math.prod(shape) for shape in network.shapes[:-1]]
        return Extras(fixed=tuple(draw.normal(size, network.classes) / math.sqrt(size) for size in sizes))

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves all layers."""
        return everything(network)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """One scalar for each of the R runs that train together, (R,)."""
        *hidden, logits = network.apart(weights, batch.inputs)  # each layer's input is cut from the graph
        loss = cross_entropy(logits, batch)
        for h, readout in zip(hidden, extras.fixed, strict=True):
            loss = loss + cross_entropy(h.flatten(2) @ readout, batch)  # (R, N, units) @ (R, units, K)
        return loss

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Scores, (R, N, K)."""
        return network.logits(weights, inputs)


RULES["readout"] = Readout()

if __name__ == "__main__":
    run()  # the whole command line, with this rule in it
