"""Difference target propagation: hidden layers get targets, not errors, through learned or fixed decoders.

With h_i = f_i(h_{i-1}) the output of layer i, n layers and decoders g_i from the values of h_i to those of
h_{i-1}, the targets t_i of the hidden layers are

    t_{n-1} = h_{n-1} - eta dL/dh_{n-1}                     (L of one image: its cross-entropy)
    t_{i-1} = h_{i-1} + g_i(t_i) - g_i(h_i)                 (i = n-1 .. 2)

and each layer moves on its own: hidden ones down |h_i - t_i|^2 / (2 eta), the last one down the
cross-entropy, the input of each held fixed. g_i(h) = tanh(V_i h + c_i) learns to undo its layer,

    |g_i(f_i(h_{i-1} + e)) - (h_{i-1} + e)|^2,   e ~ N(0, sigma^2)

in a turn of its own before the layers move (`dtp`), or stays as it was drawn (`dtp-fixed`). The division by
eta only sets the scale: to first order a hidden layer then gets W^T delta with g_i' in the place of W_i^T.

Differs from the papers: ReLU layers, as everywhere here, where both use tanh; no batch normalisation; the
optimiser is the run's. A network with one hidden layer needs no decoder and learns as by backpropagation.
Dense layers only: a decoder of a convolution would have to undo its pooling.

References:
    Lee, Zhang, Fischer & Bengio, Difference target propagation (ECML 2015), algorithm 1.
    Shibuya, Inoue, Kawakami & Sato, Fixed-weight difference target propagation (AAAI 2023).

Example:
    >>> from tersa.rules.network import network_of
    >>> network = network_of("mlp:6x5", (1, 2, 4), 3)
    >>> [turn.name for turn in DTP().phases(network)[0].turns]
    ['decoders', 'layers']
    >>> [turn.name for turn in FIXED.phases(network)[0].turns]
    ['layers']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Turn, cross_entropy
from tersa.rules.network import Network, Pair, Weights, dense_line


@dataclass(frozen=True)
class DTP:
    """Difference target propagation.

    Attributes:
        name: `dtp`, or `dtp-fixed` where the decoders stay as drawn.
        learned: the decoders learn to undo their layers.
        step: eta, how far the last target lies down the gradient.
        noise: sigma, deviation of the disturbance that decoders learn under.
    """

    name: str = "dtp"
    learned: bool = True
    step: float = 1.0
    noise: float = 0.1

    def check(self, network: Network) -> None:
        """Dense lines only.

        Raises:
            UsageError: convolutions, or a recurrent network.
        """
        dense_line(self.name, network)

    def start(self, network: Network, weights: Weights, draw: Draw) -> Weights:
        """As the network has it."""
        return weights

    def extras(self, network: Network, weights: Weights, draw: Draw) -> Extras:
        """Weight (R, I, O) and bias (R, I) of the decoders of layers 2 .. n-1, by the Xavier rule and 0."""
        made: list[Tensor] = []
        for layer in network.layers[1:-1]:
            bound = (6 / (layer.inputs + layer.outputs)) ** 0.5
            weight = (2 * draw.uniform(layer.inputs, layer.outputs) - 1) * bound
            made += [weight, torch.zeros_like(weight[:, :, 0])]
        return Extras(trained=tuple(made)) if self.learned else Extras(fixed=tuple(made))

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """The decoders, then the layers; the decoders' turn only where there are any that learn."""
        turns = (Turn("layers", tuple(range(len(network.layers)))),)
        decoders = 2 * (len(network.layers) - 2)
        if self.learned and decoders > 0:
            turns = (Turn("decoders", extras=tuple(range(decoders))), *turns)
        return (Phase("train", turns),)

    def loss(
        self, turn: Turn, network: Network, weights: Weights, extras: Extras, batch: Batch, draw: Draw
    ) -> Tensor:
        """Reconstruction errors, or local errors and cross-entropy, (R,)."""
        decoders = paired(extras.trained if self.learned else extras.fixed)
        if turn.name == "decoders":
            with torch.no_grad():
                hidden = network.run(weights, batch.inputs)[:-1]
            return self.reconstruction(network, weights, decoders, hidden, draw)
        outputs = separate(network, weights, batch.inputs)
        last = outputs[-2].detach().requires_grad_()
        logits = network.layer(len(weights) - 1, weights[-1], last)
        loss = cross_entropy(logits, batch)
        (slope,) = torch.autograd.grad(loss.sum() * logits.shape[1], last, retain_graph=True)
        hidden = outputs[:-1]
        found = targets([h.detach() for h in hidden], slope, decoders, self.step)
        for h, target in zip(hidden, found, strict=True):
            loss = loss + (h - target).square().sum(-1).mean(-1) / (2 * self.step)
        return loss

    def reconstruction(
        self, network: Network, weights: Weights, decoders: Weights, hidden: Sequence[Tensor], draw: Draw
    ) -> Tensor:
        """Sum over decoders of the mean squared error of undoing a layer, (R,).

        Args:
            network: what learns.
            weights: its numbers; they get no gradient.
            decoders: of layers 2 .. n-1.
            hidden: h_1 .. h_{n-1}, (R, N, I).
            draw: of the disturbance.
        """
        loss = torch.zeros(len(hidden[0]), device=hidden[0].device)
        for i, decoder in enumerate(decoders, start=1):
            disturbed = hidden[i - 1] + self.noise * draw.normal(*hidden[i - 1].shape[1:])  # (R, N, I)
            with torch.no_grad():
                above = network.layer(i, weights[i], disturbed)
            loss = loss + (decode(decoder, above) - disturbed).square().sum(-1).mean(-1)
        return loss

    def predict(self, network: Network, weights: Weights, extras: Extras, inputs: Tensor) -> Tensor:
        """Logits."""
        return network.logits(weights, inputs)


FIXED = DTP("dtp-fixed", learned=False, step=0.1)
"""Fixed-weight difference target propagation; a short step keeps targets where tanh is not yet flat."""


def paired(flat: Sequence[Tensor]) -> list[Pair]:
    """Weight, bias, weight, bias, ... as pairs."""
    return [Pair(weight, bias) for weight, bias in zip(flat[::2], flat[1::2], strict=True)]


def decode(decoder: Pair, h: Tensor) -> Tensor:
    """g(h) = tanh(V h + c): (R, N, O) to (R, N, I)."""
    return torch.tanh(torch.baddbmm(decoder.bias.unsqueeze(1), h, decoder.weight.mT))


def targets(hidden: Sequence[Tensor], slope: Tensor, decoders: Weights, step: float) -> list[Tensor]:
    """Targets t_1 .. t_{n-1} of the hidden layers.

        t_{n-1} = h_{n-1} - step slope,   t_{i-1} = h_{i-1} + (g_i(t_i) - g_i(h_i))

    Args:
        hidden: h_1 .. h_{n-1}, (R, N, O) each, without a gradient.
        slope: dL/dh_{n-1} of each image's own loss, (R, N, O).
        decoders: g_2 .. g_{n-1}.
        step: eta.
    """
    found = [hidden[-1] - step * slope]
    for h, below, decoder in zip(hidden[:0:-1], hidden[-2::-1], reversed(decoders), strict=True):
        found.append(below + (decode(decoder, found[-1]) - decode(decoder, h)))
    return [target.detach() for target in reversed(found)]


def separate(network: Network, weights: Weights, x: Tensor) -> list[Tensor]:
    """Outputs h_1 .. h_n of layers whose inputs are held fixed: no gradient passes to the layer below."""
    h = network.enter(x)
    found: list[Tensor] = []
    for i, pair in enumerate(weights):
        found.append(network.layer(i, pair, h.detach()))
        h = found[-1]
    return found
