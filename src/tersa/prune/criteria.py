"""Criteria: how much the loss would miss each channel.

A criterion is a function of what one batch showed at a gate (activation z and gradient dC/dz) to one score
per image and channel. `collect` runs the training images once, averages over images and gates, and gives
one score per unit. Normalisation between layers is in `normalise.py`.

Example:
    >>> import torch
    >>> taylor(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, -1.0]]]))
    tensor([[0.5000]])
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.data.task import Split, Task
from tersa.errors import Diverged
from tersa.prune.groups import Groups
from tersa.prune.trace import Gate

Criterion = Callable[[Tensor, Tensor], Tensor]


def taylor(z: Tensor, dz: Tensor) -> Tensor:
    """First-order change of the cost when a feature map is set to zero.

        score = |mean over positions (dC/dz * z)|

    Args:
        z: activations, (N, C, P).
        dz: gradients of the cost with respect to them, (N, C, P).

    Returns:
        (N, C), not negative.

    References:
        Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Transfer Learning
        (ICLR 2017), equations 7-8; document 002, section 3.3.
    """
    return (z * dz).mean(dim=2).abs()  # (N, C)


CRITERIA: dict[str, Criterion] = {"taylor": taylor}


def collect(
    model: nn.Module,
    groups: Groups,
    task: Task,
    images: Split,
    criterion: Criterion = taylor,
    *,
    batch: int = 250,
) -> Tensor:
    """One score per prunable unit, in the order of `groups.units`, from one pass over `images`.

    The cost of each image is its own cross-entropy, so that scores do not depend on the batch size. Batch
    norm uses its running statistics. A unit seen at several gates gets the mean of its scores there.

    Args:
        model: the network; its modes, parameters and gradients are left as they were.
        groups: its channel groups.
        task: gives the normalisation.
        images: (N images), usually 1,000 of the training split.
        criterion: activation and gradient to score.
        batch: images per pass, bounds the memory.

    Returns:
        (U,), float64.

    Raises:
        Diverged: a score is NaN or infinite.
    """
    units = groups.units
    place = {int(unit): index for index, unit in enumerate(units)}
    gates = [
        (gate, torch.tensor([place.get(int(u), -1) for u in gate.units]))
        for gate in groups.gates
        if bool(torch.isin(gate.units, units).any())
    ]
    total = torch.zeros(len(units), dtype=torch.float64)
    seen = torch.zeros(len(units), dtype=torch.float64)
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for start in range(0, len(images), batch):
            part = images.take(slice(start, start + batch))
            x = task.normalise(part.images.to(device))
            for index, score in _scores(model, gates, x, part.labels.to(device), criterion):
                held = index >= 0
                total.index_add_(0, index[held], score[held])
                if start == 0:
                    seen.index_add_(0, index[held], torch.ones(int(held.sum()), dtype=torch.float64))
    finally:
        for module, mode in modes.items():
            module.training = mode
    scores = total / (seen.clamp(min=1) * len(images))
    if not bool(torch.isfinite(scores).all()):
        raise Diverged("a pruning score is NaN or infinite: the network or its input holds such values")
    return scores


def _scores(
    model: nn.Module, gates: list[tuple[Gate, Tensor]], x: Tensor, labels: Tensor, criterion: Criterion
) -> list[tuple[Tensor, Tensor]]:
    """Per gate, the unit places and the scores summed over the batch, (C,)."""
    shown: list[tuple[Gate, Tensor, Tensor]] = []
    hooks = []
    for gate, index in gates:

        def hook(_: nn.Module, __: object, output: Tensor, gate: Gate = gate, index: Tensor = index) -> None:
            shown.append((gate, index, output))

        hooks.append(model.get_submodule(gate.module).register_forward_hook(hook))
    try:
        with torch.enable_grad():
            cost = F.cross_entropy(model(x.requires_grad_()), labels, reduction="sum")
            grads = torch.autograd.grad(cost, [z for _, _, z in shown], materialize_grads=True)
    finally:
        for handle in hooks:
            handle.remove()
    found: list[tuple[Tensor, Tensor]] = []
    for (gate, index, z), dz in zip(shown, grads, strict=True):
        z, dz = (
            t.detach().movedim(gate.dim, 1).flatten(2) if t.dim() > 2 else t.detach()[:, :, None]
            for t in (z, dz)
        )
        found.append((index, criterion(z, dz).sum(dim=0).double().cpu()))
    return found
