"""How far a rule's update points away from backpropagation's.

    angle_i = arccos( <g_i, G_i> / (|g_i| |G_i|) )   in degrees

g_i is the rule's gradient of layer i's weight, summed over the turns of one update, G_i the gradient of the
cross-entropy on the same batch and weights. Below 90 degrees the rule descends the cross-entropy to first
order; feedback alignment starts near 90 and falls. Optimisers that rescale each weight are left out.

References:
    Lillicrap et al. (2016), figure 2: the angle between the errors that a layer gets, here between updates.

Example:
    >>> from tersa.rules.backprop import BackPropagation
    >>> from tersa.rules.network import network_of
    >>> network = network_of("mlp:6", (1, 8, 8), 10)
    >>> batch = Batch(torch.ones(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
    >>> alignment(BackPropagation(), network, network.initial([1, 2]), Extras(), batch, Draw([1, 2])).shape
    torch.Size([2, 2])
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.rules.base import Batch, Draw, Extras, Phase, Rule, cross_entropy
from tersa.rules.network import Network, Pair, Weights


def alignment(
    rule: Rule,
    network: Network,
    weights: Weights,
    extras: Extras,
    batch: Batch,
    draw: Draw,
    phase: Phase | None = None,
) -> Tensor:
    """Angle between the rule's and backpropagation's update of each layer's weight, in degrees.

    Nothing moves. `draw` goes on as in an update: give one of your own to leave a run's numbers as they are.

    Args:
        rule: whose update.
        network: what learns.
        weights: one pair per layer.
        extras: of the rule.
        batch: what the update sees.
        draw: the rule's random numbers.
        phase: of the rule whose turns are summed; the first one by default.

    Returns:
        (R, L) float32 in 0..180; NaN where the rule or backpropagation has no gradient, or a zero one.
    """
    leaves = [Pair(pair.weight.detach().requires_grad_(), pair.bias.detach()) for pair in weights]
    matrices = [pair.weight for pair in leaves]
    true = torch.autograd.grad(cross_entropy(network.logits(leaves, batch.inputs), batch).sum(), matrices)
    ours = [torch.zeros_like(matrix) for matrix in matrices]
    for turn in (phase or rule.phases(network)[0]).turns:
        if not turn.layers:
            continue
        loss = rule.loss(turn, network, leaves, extras, batch, draw)
        moved = [matrices[i] for i in turn.layers]
        found = torch.autograd.grad(loss.sum(), moved, materialize_grads=True)
        for i, gradient in zip(turn.layers, found, strict=True):
            ours[i] = ours[i] + gradient
    return torch.stack([degrees(a, b) for a, b in zip(ours, true, strict=True)], 1)


def degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angle between two tensors of each run, (R,); NaN where one is zero.

    2 atan2(|a' - b'|, |a' + b'|) of the unit vectors, which is exact near 0 and 180 where arccos is not.

    References:
        Kahan, How futile are mindless assessments of roundoff in floating-point computation? (2006).

    >>> degrees(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    tensor([45., nan])
    """
    first, second = (v.detach().flatten(1).double() for v in (a, b))
    first, second = first / first.norm(dim=1, keepdim=True), second / second.norm(dim=1, keepdim=True)
    angle = 2.0 * torch.atan2((first - second).norm(dim=1), (first + second).norm(dim=1))
    return torch.rad2deg(angle).float()
