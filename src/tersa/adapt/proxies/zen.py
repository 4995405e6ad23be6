"""Zen score: how far the output moves when the input does, on a network with random weights.

    s = log E ||f(x) - f(x + a e)||_F + sum over batch norms of log sqrt(mean variance),   x, e ~ N(0, 1)

on a copy with weights from N(0, 1) whose batch norms use the statistics of the batch: what they divide by is
put back by the second term. Differs from the paper: f is the network's output; the paper takes the map before
the global average. A network without batch norm has only the first term.

References:
    Lin et al., Zen-NAS (ICCV 2021), algorithm 1; a = 0.01.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tersa.adapt.proxies.base import Probe, Proxy
from tersa.prune.trace import BATCH_NORMS, LAYERS

MOVE = 0.01
"""a: how far the input moves."""
REPEATS = 4
"""Draws that are averaged."""
IMAGES = 16
"""Of one draw."""


def score(model: nn.Module, probe: Probe) -> float:
    """The Zen score; it looks at the images' shape and nothing else of them."""
    generator = probe.generator()
    drawn = copy.deepcopy(model).cpu()
    return sum(_once(drawn, probe.images.shape[1:], generator) for _ in range(REPEATS)) / REPEATS


def _once(model: nn.Module, shape: torch.Size, generator: torch.Generator) -> float:
    for module in model.modules():
        if isinstance(module, LAYERS):
            with torch.no_grad():
                module.weight.normal_(generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        elif isinstance(module, BATCH_NORMS) and module.affine:
            with torch.no_grad():
                module.weight.fill_(1.0)
                module.bias.zero_()
    x = torch.randn((IMAGES, *shape), generator=generator)
    moved = x + MOVE * torch.randn(x.shape, generator=generator)
    model.eval()
    spreads: list[float] = []

    def normalised(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        both = inputs[0]
        dims = [0, *range(2, both.dim())]
        first = both[:IMAGES]  # statistics of the batch that was not moved, for both
        variance = first.var(dims, unbiased=False).clamp(min=1e-12)
        sides = [1, -1, *([1] * (both.dim() - 2))]
        spreads.append(float(variance.mean().sqrt().log()))
        return (both - first.mean(dims).view(sides)) / variance.mean().sqrt()

    handles = [m.register_forward_hook(normalised) for m in model.modules() if isinstance(m, BATCH_NORMS)]
    try:
        with torch.no_grad():
            out = model(torch.cat((x, moved))).double()
    finally:
        for handle in handles:
            handle.remove()
    change = (out[:IMAGES] - out[IMAGES:]).norm(dim=1).mean().clamp(min=1e-30)
    return float(change.log()) + sum(spreads)


ZEN = Proxy("zen", score, "log of the output's change, batch norms put back", gradients=False, images=False)
