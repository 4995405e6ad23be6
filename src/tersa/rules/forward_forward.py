"""Forward-forward: each layer learns to be active for an image with its label, and quiet with a wrong one.

The first K pixels of an image are overwritten by a label: `strength` at its place, 0 elsewhere, strength / K
everywhere where no label is given. Hidden layer i has the goodness

    G_i = mean_j h_ij^2,   u_{i+1} = h_i / rms(h_i)   (so that the next layer cannot see how good it was)

and moves on its own, with G+ of the right label, G- of a wrong one and s the sharpness:

    ff             log(1 + exp(-s (G+ - G-)))                                      (Lee & Song)
    ff-threshold   log(1 + exp(-s (G+ - theta))) + log(1 + exp(s (G- - theta)))    (Hinton)

No gradient passes from a layer to the one below. The network's last layer is a softmax classifier of the last
u without a label, moved by its cross-entropy; wrong labels are drawn with the probabilities that it gives
(Hinton's hard negatives). The answer is the label with the largest sum of goodness over all hidden layers,
K passes, or with `readout="softmax"` the last layer's, one pass.

Differs from the papers: the goodness of the first layer counts too (on 6x20 the layers above know little);
the last layer sees the last hidden layer alone, not all but the first; mean squares in place of sums (s
takes the width's place); Lee & Song's extra class pattern is left out. The values of overwritten pixels are
lost: on MNIST they are background.

References:
    Hinton, The forward-forward algorithm: some preliminary investigations (arXiv 2212.13345, 2022).
    Lee & Song, SymBa: symmetric backpropagation-free contrastive learning (arXiv 2303.08418, 2023).

Example:
    >>> from tersa.rules.network import network_of
    >>> labelled(network_of("mlp:4", (1, 2, 3), 3), torch.ones(1, 1, 2, 3), torch.tensor([1]), 5.0)
    tensor([[0., 5., 0., 1., 1., 1.]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tersa.errors import UsageError
from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy, everything
from tersa.rules.network import Network, Weights, dense_line

SILENT = 1e-4
"""Added to the root mean square, so that a layer of zeros stays one."""


@dataclass(frozen=True)
class ForwardForward:
    """Layer-wise goodness of images with right and wrong labels.

    Attributes:
        name: as in the registry.
        loss_kind: `contrast` of right against wrong, or each against a `threshold`.
        sharpness: s, what one unit of goodness is worth in the loss.
        threshold: theta; a contrast has none.
        strength: value of the pixel that stands for the label (MNIST's ink is 2.8, its paper -0.4).
        hard: wrong labels are drawn from the last layer's softmax, not evenly.
        readout: which answer `predict` gives.
    """

    name: str = "ff"
    loss_kind: Literal["contrast", "threshold"] = "contrast"
    sharpness: float = 20.0
    threshold: float = 1.0
    strength: float = 3.0
    hard: bool = True
    readout: Literal["goodness", "softmax"] = "goodness"

    def check(self, network: Network) -> None:
        """Dense lines, and more pixels than labels.

        Raises:
            UsageError: another network, or too few pixels.
        """
        dense_line(self.name, network)
        pixels = network.layers[0].inputs
        if pixels <= network.classes:
            raise UsageError(
                f"rule '{self.name}' writes the label over the first {network.classes} pixels, "
                f"the images have {pixels}; it needs at least {network.classes + 1}"
            )

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """As the network has it."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """None."""
        return Extras()

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One turn moves everything: the losses of the layers share no weight."""
        return everything(network)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Sum of the layers' losses and of the last layer's cross-entropy, (R,)."""
        right = batch.labels_of(len(weights[0].weight))  # (R, N)
        with torch.no_grad():
            top = activities(network, weights, labelled(network, batch.inputs, None, self.strength))[-1]
        logits = network.layer(len(weights) - 1, weights[-1], unit(top))
        wrong = wrong_labels(right, logits.detach() if self.hard else torch.zeros_like(logits), draw)
        pair = [labelled(network, batch.inputs, labels, self.strength) for labels in (right, wrong)]
        loss = cross_entropy(logits, batch)
        for h in activities(network, weights, torch.cat(pair, 1)):  # (R, 2N, O)
            positive, negative = goodness(h).chunk(2, 1)
            loss = loss + self.layer_loss(positive, negative).mean(1)
        return loss

    def layer_loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Loss of one layer for each image, from its goodness with the right and with a wrong label."""
        if self.loss_kind == "contrast":
            return F.softplus(self.sharpness * (negative - positive))
        above = F.softplus(self.sharpness * (self.threshold - positive))
        return above + F.softplus(self.sharpness * (negative - self.threshold))

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Summed goodness of each label, or the last layer's logits, (R, N, K)."""
        if self.readout == "softmax":
            top = activities(network, weights, labelled(network, inputs, None, self.strength))[-1]
            return network.layer(len(weights) - 1, weights[-1], unit(top))
        scores: list[Tensor] = []
        for label in range(network.classes):  # one label for all runs: the first layer stays one product
            asked = torch.full((len(inputs),), label, device=inputs.device)
            found = activities(network, weights, labelled(network, inputs, asked, self.strength))
            scores.append(torch.stack([goodness(h) for h in found]).sum(0))  # (R, N)
        return torch.stack(scores, -1)


HINTON = ForwardForward("ff-threshold", loss_kind="threshold", sharpness=8.0)
"""The loss of Hinton's paper."""


def goodness(h: Tensor) -> Tensor:
    """Mean square of each image's activities, (R, N, O) to (R, N)."""
    return h.square().mean(-1)


def unit(h: Tensor) -> Tensor:
    """Activities with a root mean square of 1."""
    return h / (h.square().mean(-1, keepdim=True).sqrt() + SILENT)


def labelled(network: Network, x: Tensor, labels: Tensor | None, strength: float) -> Tensor:
    """Inputs of the first layer with a label in place of their first K values.

    Args:
        network: says K.
        x: images (N, C, H, W) or (R, N, C, H, W).
        labels: (N,) or (R, N), or None for a little of each.
        strength: value of a label.

    Returns:
        (N, I) where neither differs between runs, else (R, N, I).
    """
    u = network.enter(x)
    if labels is None:
        code = u.new_full((*u.shape[:-1], network.classes), strength / network.classes)
    else:
        code = strength * F.one_hot(labels, network.classes).to(u.dtype)
    rest = u[..., network.classes :]
    return torch.cat([code, rest.expand(*code.shape[:-1], rest.shape[-1])], -1)


def activities(network: Network, weights: Weights, u: Tensor) -> list[Tensor]:
    """Outputs (R, N, O) of the hidden layers, each from the normalised output below it, held fixed."""
    found: list[Tensor] = []
    for i, pair in enumerate(weights[:-1]):
        found.append(network.layer(i, pair, u))
        u = unit(found[-1].detach())
    return found


def wrong_labels(right: Tensor, logits: Tensor, draw: Draw) -> Tensor:
    """A label other than the right one for each image, with softmax probabilities renormalised, (R, N).

    Args:
        right: (R, N).
        logits: (R, N, K); equal ones draw evenly.
        draw: one number for each image.
    """
    odds = logits.softmax(-1) + 1e-6  # no label is impossible
    heap = odds.scatter(-1, right.unsqueeze(-1), 0.0).cumsum(-1)  # (R, N, K)
    level = draw.uniform(right.shape[1], 1) * heap[..., -1:]  # (R, N, 1)
    return (heap <= level).sum(-1).clamp(max=last_other(right, logits.shape[-1]))


def last_other(right: Tensor, classes: int) -> Tensor:
    """The largest label that is not the right one, for a draw that rounding puts at the very end."""
    return torch.where(right == classes - 1, classes - 2, classes - 1)
