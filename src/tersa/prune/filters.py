"""What filters show: gradients and curvature of weights, image by image, as sums over images.

    products   mean over images of (sum over the filter of dC/dw w)^2   (C,)
    squares    mean over images of (dC/dw)^2                            of the weight's shape
    curvature  diagonal of the Hessian of the mean cost                 of the weight's shape

A layer is linear in its weights, z = w x + b, so that what it read, x, and the gradient of what it returned
hold all of this, for a whole batch of images in one backward pass:

    sum over the filter of dC/dw w = sum over positions of dC/dz (z - b)            (Euler's theorem)
    (dC/dw)^2 = (dC/dz)^2 (x^2)'                                 (fully connected, one use per image)

and for convolutions dC/dw is made for one image and one layer at a time. The cost C of an image is its own
cross-entropy, so that nothing depends on how the images are cut into batches. What the numbers are good for
is in `criteria.py`.

Example:
    >>> net = nn.Linear(2, 2, bias=False)
    >>> _ = net.weight.data.zero_()
    >>> image = torch.tensor([[2.0, -4.0]])
    >>> squares(net, [net.weight], iter([(image, torch.tensor([0]))]))
    [tensor([[1., 4.],
            [1., 4.]])]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tersa.prune.maps import Batch, by_channel, cost_of

Sums = list[Tensor | None]
"""A sum over images for each weight; None for a weight that the network never used."""

LINEAR = {F.conv1d: 1, F.conv2d: 1, F.conv3d: 1, torch.convolution: 1, F.linear: -1}
"""Functions that are linear in their weights, and the channel dimension of what they return."""


def products(model: nn.Module, weights: Sequence[Tensor], parts: Iterator[Batch]) -> Sums:
    """Per weight, the sum over images of `(sum over the filter of dC/dw w)^2`, (C,) float64 on the CPU.

    Args:
        model: in eval mode.
        weights: of convolutions and fully connected layers; one that is used several times gets the gradient
            of all its uses.
        parts: the images.
    """
    total: Sums = [None] * len(weights)
    for part in parts:
        uses, logits = _run(model, weights, part)
        images: dict[int, Tensor] = {}
        for use, dz in zip(uses, _slopes(cost_of(logits, part[1]), uses), strict=True):
            product = by_channel(dz * use.z.detach(), use.dim).sum(dim=2)  # (N, C)
            if use.bias is not None:
                product -= use.bias.detach() * by_channel(dz, use.dim).sum(dim=2)
            images[use.index] = images[use.index] + product if use.index in images else product
        for index, product in images.items():
            _add(total, index, product.double().square().sum(dim=0).cpu())
    return total


def squares(model: nn.Module, weights: Sequence[Tensor], parts: Iterator[Batch]) -> Sums:
    """Per weight, the sum over images of `(dC/dw)^2`, of its shape; the arguments are those of `products`."""
    total: Sums = [None] * len(weights)
    for part in parts:
        uses, logits = _run(model, weights, part)
        _add_squares(total, weights, uses, _slopes(cost_of(logits, part[1]), uses))
    return total


def curvature(
    model: nn.Module,
    weights: Sequence[Tensor],
    parts: Iterator[Batch],
    *,
    probes: int,
    generator: torch.Generator,
) -> Sums:
    """Per weight, the diagonal of the Gauss-Newton matrix of the cost summed over images, of its shape.

    With J the gradient of an image's logits and p its softmax, that matrix is J' (diag(p) - p p') J. Its
    middle is S S' with S = diag(sqrt p) - p (sqrt p)', and for a vector s of independent signs

        h = mean over probes of (J' S s)^2

    is unbiased and never negative. One backward pass gives it for a batch of images. Where the logits are
    piecewise linear in each single weight (ReLU, max pooling, no weight used twice in a row), it is the
    diagonal of the Hessian itself.

    Differs from Hutchinson's estimator on the weights, mean of v * (H v): the signs are drawn for the K
    logits of each image and not for all weights, whose off-diagonal noise drowns h in a large layer.

    Args:
        model: in eval mode.
        weights: of convolutions and fully connected layers.
        parts: the images.
        probes: sign vectors for each image.
        generator: on the CPU.

    References:
        Martens, Sutskever & Swersky, Estimating the Hessian by Back-propagating Curvature (ICML 2012);
        Schraudolph, Fast Curvature Matrix-Vector Products (2002).
    """
    total: Sums = [None] * len(weights)
    for part in parts:
        uses, logits = _run(model, weights, part)
        p = logits.detach().softmax(dim=1)  # (N, K)
        signs = 2.0 * torch.randint(2, (len(p), probes, p.shape[1]), generator=generator).to(p) - 1.0
        for s in signs.unbind(dim=1):  # image by image, so that the batch size changes none
            along = p.sqrt() * s / probes**0.5
            ahead = along - p * along.sum(dim=1, keepdim=True)  # S s
            _add_squares(total, weights, uses, _slopes((ahead * logits).sum(), uses, again=True))
    return total


def _run(model: nn.Module, weights: Sequence[Tensor], part: Batch) -> tuple[list[_Use], Tensor]:
    """Every use of one of the weights, in order, and the logits with their graph."""
    with torch.enable_grad(), _Watch(weights) as watch:
        logits = model(part[0].requires_grad_())
    return watch.uses, logits


def _slopes(cost: Tensor, uses: Sequence[_Use], *, again: bool = False) -> tuple[Tensor, ...]:
    """Gradients of the cost with respect to what each use returned; `again` keeps the graph for more."""
    if not uses:
        return ()
    return torch.autograd.grad(cost, [use.z for use in uses], retain_graph=again, materialize_grads=True)


def _add_squares(
    total: Sums, weights: Sequence[Tensor], uses: Sequence[_Use], slopes: Sequence[Tensor]
) -> None:
    """Add the squared gradient of each weight, image by image."""
    pairs = list(zip(uses, slopes, strict=True))
    for index in {use.index: None for use in uses}:
        mine = [(use, dz) for use, dz in pairs if use.index == index]
        use, dz = mine[0]
        if len(mine) == 1 and use.dim == -1 and dz.dim() == 2:
            # dC/dw of an image is the outer product of dz and x, and its square that of their squares
            _add(total, index, dz.square().T @ use.x.square())
            continue
        leaf = weights[index].detach().requires_grad_()
        for image in range(len(dz)):
            with torch.enable_grad():
                z = [use.call(use.x[image : image + 1], leaf) for use, _ in mine]
            (grad,) = torch.autograd.grad(z, leaf, [dz[image : image + 1] for _, dz in mine])
            _add(total, index, grad.square())


def _add(total: Sums, index: int, found: Tensor) -> None:
    before = total[index]
    total[index] = found if before is None else before.add_(found)


@dataclass(frozen=True)
class _Use:
    """One call of a linear function with one of the weights.

    Attributes:
        index: which weight.
        dim: channel dimension of what it returned.
        x: what it read.
        z: what it returned, with its graph.
        bias: what it added, or None.
        call: the same function of another input and weight, without the bias.
    """

    index: int
    dim: int
    x: Tensor
    z: Tensor
    bias: Tensor | None
    call: Callable[[Tensor, Tensor], Tensor]


class _Watch(TorchFunctionMode):
    """Notes every use of the given weights, whichever module or function makes it."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._places = {id(weight): index for index, weight in enumerate(weights)}
        self.uses: list[_Use] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        z = func(*args, **given)
        if func not in LINEAR:
            return z
        held = dict(zip(("input", "weight", "bias"), args, strict=False)) | given
        index = self._places.get(id(held["weight"]))
        if index is None:
            return z
        options = {key: value for key, value in given.items() if key not in ("input", "weight", "bias")}

        def call(x: Tensor, weight: Tensor) -> Tensor:
            return func(x, weight, None, *args[3:], **options)

        self.uses.append(_Use(index, LINEAR[func], held["input"].detach(), z, held.get("bias"), call))
        return z.clone()  # what follows in place leaves z alone
