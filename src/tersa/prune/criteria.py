"""Criteria: how much the loss would miss each channel, or each weight.

A criterion is a function of `Evidence` (`evidence.py`, which says where each kind of evidence shows; a unit
that shows at several places gets the mean). With w the weights of a filter, g the gradient of an image's cost
C with respect to them, z the map that the filter makes, and means over images:

    l1                sum |w|                                   document 002, equation 3.1
    l2                sqrt(sum w^2)
    geometric-median  sum over the layer's other filters v of |w - v|
    bn-scale          |gamma| of the batch norm behind the layer
    activation        mean of |f(z)|, f the non-linearity behind the layer
    taylor            mean of |mean over positions (dC/dz z)|   document 002, equation 3.2
    taylor-weight     mean of (sum g w)^2
    obd               1/2 sum h w^2, h the diagonal of the Hessian
    hessian-trace     1/2 mean(h) sum w^2
    random            uniform

More is more important; scores of different layers are made comparable in `normalise.py`. `WEIGHT_CRITERIA`
are those that have a meaning for single weights, with one score per weight. A new criterion is a function and
an entry; the contract tests pick it up.

Example:
    >>> l1(Evidence(weights=torch.tensor([[1.0, -2.0], [0.5, 0.0]])))
    tensor([3.0000, 0.5000])
    >>> sorted(WEIGHT_CRITERIA)
    ['l1', 'l2', 'obd', 'random', 'taylor-weight']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tersa.data.task import Split, Task
from tersa.errors import ModelError, UsageError, unknown
from tersa.prune.evidence import TAYLOR, Criterion, Evidence, Need, Sample, finite, of_weights
from tersa.prune.evidence import collect as collect
from tersa.prune.maps import taylor as taylor
from tersa.train.device import modes_kept


def l1(held: Evidence) -> Tensor:
    """Sum of absolute weights, `sum |w|`, (C,).

    References:
        Li et al., Pruning Filters for Efficient ConvNets (ICLR 2017), section 3.1; document 002, eq. 3.1.
    """
    return held.weights.abs().sum(dim=1)


def l2(held: Evidence) -> Tensor:
    """Length of the filter, `sqrt(sum w^2)`, (C,)."""
    return held.weights.norm(dim=1)


def geometric_median(held: Evidence) -> Tensor:
    """Sum of distances to the other filters of the layer, `sum_v |w - v|`, (C,).

    The filter with the least is the one nearest to the geometric median: what it does, the others can do.
    In float64, so that equal filters are at a distance of nearly 0.

    References:
        He et al., Filter Pruning via Geometric Median (CVPR 2019), equations 4-8.
    """
    w = held.weights.double()
    return torch.cdist(w, w).sum(dim=1)


def bn_scale(held: Evidence) -> Tensor:
    """Size of the scale, `|gamma|`, (C,).

    References:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming (ICCV 2017), section 3.
    """
    return held.scale.abs()


def activation(held: Evidence) -> Tensor:
    """Mean size of the map after the non-linearity, (C,).

    References:
        Document 002, section 3.3.1; Molchanov et al. (ICLR 2017), section 2.2.
    """
    return held.activations


def taylor_weight(held: Evidence) -> Tensor:
    """First-order change of the cost when the filter is set to zero, squared: `mean of (sum g w)^2`, (C,).

    The joint importance of the filter's weights (not the sum of their own), without bias and batch norm.
    Differs from the paper: g is the gradient of one image, the paper's that of a minibatch, so that the score
    does not depend on the batch size. Close to a minimum, where the gradients of images cancel, both order
    filters alike: the square of a mean of B independent gradients is, on average, 1/B of the mean square.

    References:
        Molchanov et al., Importance Estimation for Neural Network Pruning (CVPR 2019), equations 6-8.
    """
    return held.products


def obd(held: Evidence) -> Tensor:
    """Second-order change of the cost when the filter is set to zero, `1/2 sum h w^2`, (C,).

    h is the diagonal of the Hessian, or of its Gauss-Newton part where the two differ, by random signs sent
    back from the logits: `filters.curvature`, `evidence.PROBES` of them per image.

    References:
        LeCun et al., Optimal Brain Damage (NeurIPS 1989), equation 5, with its Levenberg-Marquardt
        approximation, there by another estimator.
    """
    return 0.5 * (held.curvature * held.weights.square()).sum(dim=1)


def hessian_trace(held: Evidence) -> Tensor:
    """Mean curvature times squared length, `1/2 mean(h) sum w^2`, (C,); h as in `obd`.

    References:
        Yu et al., Hessian-Aware Pruning and Optimal Neural Implant (WACV 2022), section 3.
    """
    return 0.5 * held.curvature.mean(dim=1) * held.weights.square().sum(dim=1)


def chance(held: Evidence) -> Tensor:
    """Uniform in 0..1, (U,) or (C, F): what every other criterion has to beat."""
    return held.chance


def _entry(name: str, needs: Sequence[Need], score: Callable[[Evidence], Tensor], about: str) -> Criterion:
    return Criterion(name, frozenset(needs), score, about)


CRITERIA: dict[str, Criterion] = {
    one.name: one
    for one in (
        _entry("l1", ["weights"], l1, "sum of absolute weights of the filter"),
        _entry("l2", ["weights"], l2, "length of the filter"),
        _entry("activation", ["activations"], activation, "mean activation after the non-linearity"),
        TAYLOR,
        _entry(
            "taylor-weight", ["products"], taylor_weight, "(sum of gradient times weight)^2, mean over images"
        ),
        _entry("geometric-median", ["weights"], geometric_median, "distance to the layer's other filters"),
        _entry("bn-scale", ["scale"], bn_scale, "size of the batch norm's scale"),
        _entry("random", ["chance"], chance, "a random number"),
        _entry("obd", ["weights", "curvature"], obd, "half the sum of curvature times squared weight"),
        _entry(
            "hessian-trace", ["weights", "curvature"], hessian_trace, "mean curvature times squared length"
        ),
    )
}
"""Per channel: evidence of a place to (C,)."""

WEIGHT_CRITERIA: dict[str, Criterion] = {
    one.name: one
    for one in (
        _entry("l1", ["weights"], lambda held: held.weights.abs(), "size of the weight"),
        _entry("l2", ["weights"], lambda held: held.weights.square(), "squared weight"),
        _entry(
            "taylor-weight",
            ["weights", "squares"],
            lambda held: held.squares * held.weights.square(),
            "(gradient times weight)^2, mean over images",
        ),
        _entry("random", ["chance"], chance, "a random number"),
        _entry(
            "obd",
            ["weights", "curvature"],
            lambda held: 0.5 * held.curvature * held.weights.square(),
            "half the curvature times squared weight",
        ),
    )
}
"""Per weight: evidence of a weight to (C, F)."""


def weight_scores(
    model: nn.Module,
    names: Sequence[str],
    task: Task | None,
    images: Split | None,
    criterion: str,
    *,
    batch: int = 250,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """One score per weight, for granularities finer than channels.

    Args:
        model: the network, on any device; its modes, parameters and gradients are left as they were.
        names: of weights with two or more dimensions, as in `model.named_parameters()`.
        task: gives the normalisation; None will do for a criterion that needs no images.
        images: (N images); likewise.
        criterion: a name in `WEIGHT_CRITERIA`: `l1` |w|, `l2` w^2, `taylor-weight` mean over images of
            (g w)^2, `obd` 1/2 h w^2, `random`.
        batch: images per pass, bounds the memory.
        generator: on the CPU, for `random` and `obd`.

    Returns:
        By name, of the weight's shape, on the CPU; sums over kernels are the importance of kernels.

    Raises:
        UsageError: a criterion or weight that is not there, or has no such scores; no images or no generator.
        ModelError: a weight that no convolution or fully connected layer uses.
        Diverged: a score is NaN or infinite.
    """
    chosen = weight_criterion(criterion)
    sample = Sample(task, images, batch, generator)
    sample.require(chosen)
    weights = {name: _weight(model, name) for name in names}
    if "chance" in chosen.needs:
        return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
    with modes_kept(model):
        model.eval()
        known = of_weights(model, weights, sample, chosen.needs)
    unused = [name for name in weights if name not in known]
    if unused:
        raise ModelError(
            f"criterion '{criterion}' finds nothing to go by at {', '.join(unused)}: no convolution or "
            "fully connected layer uses them; leave them out, or take l1"
        )
    return {
        name: finite(chosen.score(held).reshape(weights[name].shape).cpu()) for name, held in known.items()
    }


def find(name: str) -> Criterion:
    """The criterion for channels of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in CRITERIA:
        raise unknown("criterion", name, CRITERIA)
    return CRITERIA[name]


def weight_criterion(name: str) -> Criterion:
    """The criterion for single weights of this name.

    Raises:
        UsageError: there is none, or it scores channels only.
    """
    if find(name).name not in WEIGHT_CRITERIA:
        raise UsageError(
            f"criterion '{name}' scores whole channels, not single weights or kernels; those that do: "
            f"{', '.join(sorted(WEIGHT_CRITERIA))}"
        )
    return WEIGHT_CRITERIA[name]


def _weight(model: nn.Module, name: str) -> Tensor:
    known = {key: p for key, p in model.named_parameters(remove_duplicate=False) if p.dim() > 1}
    if name not in known:
        raise unknown("weight", name, known)
    return known[name]
