"""Synthetic gradients (decoupled neural interfaces): each hidden layer learns from a predicted gradient.

Behind each hidden output h_i stands a synthesiser, an MLP with one hidden layer, that predicts per image what
the loss will send back; the layer moves by the prediction, the synthesiser by its error:

    s_i  = C_i relu(A_i [x_i, y] + a_i) + c_i        x_i: h_i, standardised over the batch where `standardise`
    dW_i = mean_n of s_i relu'(z_i) u_i^T
    E_i  = mean_n |s_i - t_i|^2                      t_i: from layer i + 1, t_n from the cross-entropy
    t_i  = W_{i+1}^T relu'(z_{i+1}) (b s_{i+1} + (1 - b) t_{i+1})       b = `bootstrap`

Labels y enter where `labels` (conditional DNI). C_i and c_i start at zero, so at first only the last layer
moves. With b = 1 nothing waits for the output; with b = 0 the targets are the true gradients, which may come
late. The last layer moves by the cross-entropy.

Why document 000's networks collapsed (14.39 % with 2x100, 9.8 % with 6x20; `dni-document` does the same):

1. Scale. Its targets are gradients of the batch's mean, about 1e-3, and its error is a mean over images and
   units, so the gradient of a synthesiser's output weights is about 1e-6. Adadelta divides by
   sqrt(mean g^2 + 1e-6): gradients far below 1e-3 are not scaled up, and those weights never pass 3e-4. What
   a synthesiser learns is mostly a constant, the same push for every image.
2. Adadelta moves the layers by that push all the same. Within one epoch of MNIST three quarters of the second
   layer's ReLUs no longer fire for any image; in 6x20 all answers become one class.
3. Bootstrapping: each target is made of the next guess, so in deep networks errors feed on errors.
4. Without labels only the mean gradient given h can be known.

The cure: per-image gradients as targets, errors summed over units; inputs standardised over the batch (deep
in 6x20 a hidden output is almost only its bias); true targets; a start that does not shrink signals (variance
1 / fan-in, the zoo's is a third of it); labels. MNIST, 20,000 images, three epochs, the document's Adadelta:
mean test accuracy of three seeds, each line with all above it, then `dni-labels` without one part.

                         2x100   6x20                             2x100   6x20
    dni-document          11.8   11.4        dni-labels            95.9   88.5
    + labels              30.4   11.4        without labels: dni   92.4   62.0
    + per image           92.1   21.6        without per image     86.5   45.9
    + standardised        95.2   30.5        without standardised  94.8   83.5
    + true targets        95.6   78.3        bootstrapped          95.3   24.7

Not here: synthetic inputs (forward unlocking), recurrent networks, convolutional synthesisers (outputs of a
convolution are flattened).

References:
    Jaderberg, Czarnecki, Osindero, Vinyals, Graves, Silver & Kavukcuoglu, Decoupled neural interfaces using
    synthetic gradients (2017): section 2.1, appendix B (conditioning on labels).

Example:
    >>> LABELS.name
    'dni-labels'
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything, one_hot
from tersa.rules.kernels import standardised
from tersa.rules.network import Network, Pair, Weights, line_only

FLOOR = 0.001
"""Added to deviations before dividing by them."""
TENSORS = 4
"""Of one synthesiser among the trained extras: A (R, H, D + K or D), a (R, H), C (R, D, H), c (R, D)."""


@dataclass(frozen=True)
class SyntheticGradients:
    """Layers that move by predicted gradients.

    Attributes:
        labels: synthesisers see the labels.
        bootstrap: share b of the next synthesiser's output in a target; 1 never waits, 0 is true gradients.
        per_image: targets are gradients of an image's own loss (N times those of the mean), and errors are
            summed over units; False: gradients of the mean, and errors averaged, as in document 000.
        standardise: what a synthesiser sees of h has mean 0 and deviation 1 over the batch.
        scaled_start: weights start uniform with variance 1 / fan-in, biases with 0; False: the zoo's start.
        most_hidden: units of a synthesiser's hidden layer where the layer behind it is wider.
        name: as in the registry.
    """

    labels: bool = False
    bootstrap: float = 0.0
    per_image: bool = True
    standardise: bool = True
    scaled_start: bool = True
    most_hidden: int = 256
    name: str = "dni"

    def check(self, network: Network) -> None:
        """Lines of layers only; see `tersa.rules.network.line_only`."""
        line_only(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """Weights uniform with variance 1 / fan-in and zero biases, or the network's own."""
        if not self.scaled_start:
            return weights
        return [
            Pair(
                (2 * draw.uniform(*layer.weight_shape) - 1) * (3 / layer.fan_in) ** 0.5,
                torch.zeros_like(pair.bias),
            )
            for layer, pair in zip(network.layers, weights, strict=True)
        ]

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """Trained: `TENSORS` per hidden layer, two uniform within 1 / sqrt(inputs), two zero."""
        found: list[Tensor] = []
        for shape in network.shapes[:-1]:
            width = math.prod(shape)
            seen, hidden = width + self.labels * network.classes, min(width, self.most_hidden)
            first, bias = draw.uniform(hidden, seen), draw.uniform(hidden)
            found += [(2 * first - 1) * seen**-0.5, (2 * bias - 1) * seen**-0.5]
            found += [first.new_zeros(len(first), width, hidden), first.new_zeros(len(first), width)]
        return Extras(trained=tuple(found))

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves layers and synthesisers."""
        return everything(network, TENSORS * (len(network.layers) - 1))

    def synthesise(self, extras: Extras, i: int, h: Tensor, batch: Batch, classes: int) -> Tensor:
        """s_i of a hidden output h_i, (R, N, ...), shaped like it: per image where `per_image`."""
        first, first_bias, last, last_bias = extras.trained[TENSORS * i : TENSORS * (i + 1)]
        x = h.flatten(2)  # (R, N, D)
        if self.standardise:
            x = standardised(x, FLOOR)
        if self.labels:
            x = torch.cat([x, one_hot(batch, len(x), classes)], -1)  # (R, N, D + K)
        inner = torch.baddbmm(first_bias.unsqueeze(1), x, first.mT).relu()  # (R, N, H)
        return torch.baddbmm(last_bias.unsqueeze(1), inner, last.mT).view_as(h)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Cross-entropy plus the synthesisers' errors, (R,); its gradient moves each layer by its own s_i."""
        share = batch.labels.shape[-1] if self.per_image else 1  # s / share is a gradient of the mean loss
        entered, left = _apart(network, weights, batch.inputs)
        total = cross_entropy(left[-1], batch)
        below = torch.autograd.grad(total.sum(), entered[-1], retain_graph=True)[0] if len(left) > 1 else None
        for i in reversed(range(len(left) - 1)):
            assert below is not None
            h, target = left[i], below * share
            s = self.synthesise(extras, i, h.detach(), batch, network.classes)
            total = total + self._error(s, target) + _pull(h, s.detach() / share)
            if i:
                sent = torch.lerp(target, s.detach(), self.bootstrap) / share
                (below,) = torch.autograd.grad(h, entered[i], sent, retain_graph=True)
        return total

    def _error(self, s: Tensor, target: Tensor) -> Tensor:
        squared = (s - target.detach()).square().flatten(2)  # (R, N, D)
        return squared.sum(2).mean(1) if self.per_image else squared.mean((1, 2))

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits."""
        return network.logits(weights, inputs)


def _apart(network: Network, weights: Weights, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What enters and what leaves each layer; no graph joins two layers."""
    entered, left = [network.enter(inputs)], list[Tensor]()
    for i, pair in enumerate(weights):
        left.append(network.layer(i, pair, entered[i]))
        entered.append(left[i].detach().requires_grad_())
    return entered[:-1], left


def _pull(h: Tensor, gradient: Tensor) -> Tensor:
    """A zero per run, (R,), whose gradient with respect to h is the given one."""
    return ((h - h.detach()) * gradient).flatten(1).sum(1)


DOCUMENT = SyntheticGradients(
    bootstrap=1.0, per_image=False, standardise=False, scaled_start=False, name="dni-document"
)
"""Document 000, as run: it collapses."""
LABELS = SyntheticGradients(labels=True, name="dni-labels")
"""Conditioned on the labels: the one to use."""
