"""The HSIC bottleneck: each layer alone forgets the image and keeps the label; no error travels back.

    L_i = nHSIC(Z_i, X) - balance nHSIC(Z_i, Y)           Z_i: output of layer i, its input detached

nHSIC is in `tersa.rules.kernels`: X, Y (one-hot) and Z are compared as kernel matrices over the batch, so a
layer needs to know of the others only the batch's m x m matrix B = P_X - balance P_Y, one for all layers
and runs. Training has two phases:

    unformatted   each layer moves by its own L_i, in turn (the forward pass is repeated, the weights are
                  snapped once per batch), or all at once where `simultaneous`
    classifier    one linear layer learns from the frozen features by cross-entropy

`DOCUMENT` is document 000 as run: the network's last layer is a feature layer too, with a ReLU; sigma 5,
eps 1e-5, balance 500; SGD with rate 1 and weight decay 0.001, which never falls; then the classifier on the
last layer's 10 outputs, 20 epochs of Adadelta.

`HsicBottleneck()` departs from it where it fails. With so small an eps, growing the weights is the cheapest
way to raise nHSIC(Z, Y): once K = I, every image of the batch is a direction of its own, nHSIC(Z, Y) is at
its largest, its gradient gone, and the next batch has gained nothing. SGD with rate 1 is there after a few
steps, and then weight decay alone moves the weights. So here

    # Differs from the paper: the kernel compares units standardised over the batch, which cannot grow;
    eps 1e-3 and sigma 2, a ridge that 64 images can bear; the run's own optimiser in both phases;
    the classifier sees every layer, the last without ReLU.

MNIST, 2x100, batch 64, all layers at once, ten epochs of Adadelta falling by 0.6 and four of the classifier:
96.8 (three seeds, 96.77 to 96.84; document 000: 95.30). Without standardising, other sigma, eps and balance
gave 94 to 95 with batch 64, 96.5 with batch 256.

Cost of one step: for each layer a Cholesky inverse and two products, 5 m^3 operations, and a Gram matrix,
4 m^2 d; in turn, layer i's forward pass is also repeated for each layer behind it.

Not here: the paper's several sigmas side by side.

References:
    Ma, Lewis & Kleijn, The HSIC bottleneck: deep learning without back-propagation (2019): algorithm 1,
    section 3.2 (unformatted and format training).

Example:
    >>> from tersa.rules.network import network_of
    >>> [phase.name for phase in DOCUMENT.phases(network_of("mlp:4", (1, 8, 8), 10))]
    ['unformatted', 'classifier']
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tersa.rules.base import Batch, Draw, Extras, Phase, Recipe, Turn, cross_entropy
from tersa.rules.kernels import EPSILON, SIGMA, dependence, projector, standardised
from tersa.rules.network import Network, Weights, line_only

FLOOR = 0.01
"""Added to deviations before dividing by them: 0.001 and 0.1 learnt 0.1 to 0.2 points less."""
CLASSIFIER = "classifier"
"""Name of the second phase and of its turn."""


@dataclass(frozen=True)
class HsicBottleneck:
    """Layers that move by nHSIC, then a linear classifier on what they found.

    Attributes:
        name: as in the registry.
        balance: weight of the label against the image.
        sigma: of the kernel of Z, in units of the square root of its width.
        epsilon: regulariser per image of Z's projector.
        target_sigma: of the kernels of X and Y.
        target_epsilon: regulariser of their projectors.
        standardise: kernels compare units with mean 0 and deviation 1 over the batch.
        simultaneous: all layers move at once, after one forward pass.
        relu_last: the last layer's output is a feature behind a ReLU, as in document 000.
        all_features: the classifier sees every layer's output; False: the last one's.
        unformatted: optimiser of the first phase, or None for the run's.
        classifier: optimiser of the second phase, or None for the run's.
        classifier_epochs: length of the second phase.
    """

    name: str = "hsic"
    balance: float = 500.0
    sigma: float = 2.0
    epsilon: float = 1e-3
    target_sigma: float = SIGMA
    target_epsilon: float = EPSILON
    standardise: bool = True
    simultaneous: bool = False
    relu_last: bool = False
    all_features: bool = True
    unformatted: Recipe | None = None
    classifier: Recipe | None = None
    classifier_epochs: int = 20

    def check(self, network: Network) -> None:
        """Lines of layers only; see `tersa.rules.network.line_only`."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """The network's own."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """The classifier, trained: weight (R, K, F) and bias (R, K), uniform within 1 / sqrt(F)."""
        widths = [torch.Size(shape).numel() for shape in network.shapes]
        seen = sum(widths) if self.all_features else widths[-1]
        weight, bias = draw.uniform(network.classes, seen), draw.uniform(network.classes)
        return Extras(trained=((2 * weight - 1) * seen**-0.5, (2 * bias - 1) * seen**-0.5))

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """Layers in turn or at once for the run's epochs, then the classifier."""
        layers = tuple(range(len(network.layers)))
        turns = tuple(Turn(f"layer {i}", (i,), snap=False) for i in layers)
        if self.simultaneous:
            turns = (Turn("layers", layers),)
        last = Turn(CLASSIFIER, extras=(0, 1))
        return (
            Phase("unformatted", turns, recipe=self.unformatted),
            Phase(CLASSIFIER, (last,), self.classifier_epochs, self.classifier),
        )

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Sum of L_i over the layers that the turn moves, or the classifier's cross-entropy, (R,)."""
        if turn.name == CLASSIFIER:
            return cross_entropy(self.predict(network, weights, extras, batch.inputs), batch)
        wanted = self._target(network, batch)
        outputs = self._outputs(network, weights[: max(turn.layers) + 1], batch.inputs)
        compared = (self._compared(outputs[i]) for i in turn.layers)
        terms = [dependence(z, wanted, self.sigma, self.epsilon) for z in compared]
        return torch.stack(terms).sum(0)

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """The classifier's logits; no gradient reaches the features."""
        with torch.no_grad():
            outputs = [h.flatten(2) for h in self._outputs(network, weights, inputs)]
        features = torch.cat(outputs, -1) if self.all_features else outputs[-1]  # (R, N, F)
        weight, bias = extras.trained
        return torch.baddbmm(bias.unsqueeze(1), features, weight.mT)

    def _target(self, network: Network, batch: Batch) -> Tensor:
        """B = P_X - balance P_Y, (m, m), or (R, m, m) where each run has its own order."""
        images = batch.inputs.flatten(-3)
        labels = one_hot(batch.labels, network.classes).to(images.dtype)
        x, y = (projector(seen, self.target_sigma, self.target_epsilon) for seen in (images, labels))
        return x - self.balance * y

    def _compared(self, h: Tensor) -> Tensor:
        """What the kernel of a layer compares, (R, m, d)."""
        z = h.flatten(2)
        return standardised(z, FLOOR) if self.standardise else z

    def _outputs(self, network: Network, weights: Weights, inputs: Tensor) -> list[Tensor]:
        """Output of each layer, no graph between them; the last layer's is a feature too."""
        outputs = network.apart(weights, inputs)
        if self.relu_last and len(weights) == len(network.layers):
            outputs[-1] = outputs[-1].relu()
        return outputs


DOCUMENT = HsicBottleneck(
    name="hsic-document",
    sigma=SIGMA,
    epsilon=EPSILON,
    standardise=False,
    relu_last=True,
    all_features=False,
    unformatted=Recipe("sgd", 1.0, weight_decay=0.001),
    classifier=Recipe("adadelta", 1.0, decay=0.7),
)
"""Document 000, as run."""
SIMULTANEOUS = replace(HsicBottleneck(), name="hsic-simultaneous", simultaneous=True)
"""All layers at once."""
