"""Evidence: what a criterion may look at, gathered from a network, and the scores of its units.

A criterion names what it needs; `collect` gathers that and nothing else, in one pass over the images or, if
the weights are enough, in none. Evidence is held where it shows:

    at a gate        `taylor`, `activations`: the output of a layer, or of the batch norm behind it
    at a weight      `weights`, `products`, `squares`, `curvature`: row c is filter c, which makes channel c
    at a batch norm  `scale`
    at a unit        `chance`

Each place gives one score per channel, and each channel belongs to a unit (`groups.py`). *A unit gets the
mean over all the channels that it is made of, at all places*: of the layers whose outputs a residual addition
ties together, of the gates that show it, of the channels that a grouped convolution ties together.

The formulas are in `criteria.py`, the passes over the images in `maps.py` and `filters.py`, what makes layers
comparable in `normalise.py`.

Example:
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
    >>> from tersa.prune.groups import find_groups
    >>> size = Criterion("size", frozenset(["weights"]), lambda held: held.weights.abs().sum(dim=1), "")
    >>> collect(net, find_groups(net, (2,)), None, None, size)
    tensor([3.0000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from tersa.data.task import Split, Task
from tersa.errors import Diverged, ModelError, UsageError
from tersa.prune.filters import curvature, products, squares
from tersa.prune.groups import Groups
from tersa.prune.maps import Batch, at_gates, sum_activations, sum_taylor
from tersa.prune.trace import BATCH_NORMS, LAYERS
from tersa.train.device import modes_kept

Need = Literal["weights", "products", "squares", "curvature", "activations", "taylor", "scale", "chance"]
"""A field of `Evidence`."""

FROM_IMAGES: frozenset[Need] = frozenset(["products", "squares", "curvature", "activations", "taylor"])
"""Needs for which the network has to see images."""

DRAWN: frozenset[Need] = frozenset(["curvature", "chance"])
"""Needs for which random numbers are drawn."""

PROBES = 2
"""Sign vectors of the curvature for each image; see `filters.curvature`."""


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about the C channels of one place; what the criterion does not need stays empty.

    Attributes:
        weights: (C, F), the filters, one to a row.
        products: (C,), mean over images of the squared sum over the filter of gradient times weight.
        squares: (C, F), mean over images of the squared gradient of each weight.
        curvature: (C, F), diagonal of the Hessian of the mean cost.
        activations: (C,), mean over images and positions of the size after the non-linearity.
        taylor: (C,), mean over images of `maps.taylor`.
        scale: (C,), what the batch norm multiplies by.
        chance: one random number in 0..1 per score, uniform.
    """

    weights: Tensor = field(default_factory=_nothing)
    products: Tensor = field(default_factory=_nothing)
    squares: Tensor = field(default_factory=_nothing)
    curvature: Tensor = field(default_factory=_nothing)
    activations: Tensor = field(default_factory=_nothing)
    taylor: Tensor = field(default_factory=_nothing)
    scale: Tensor = field(default_factory=_nothing)
    chance: Tensor = field(default_factory=_nothing)


@dataclass(frozen=True)
class Criterion:
    """How important a channel, or a weight, is.

    Attributes:
        name: as in a registry and on the command line.
        needs: the fields of `Evidence` that it reads, all of one kind of place.
        score: evidence of one place to its scores, more for more important: (C,), or (C, F) for weights.
        about: the formula in a line, for help and reports.
    """

    name: str
    needs: frozenset[Need]
    score: Callable[[Evidence], Tensor]
    about: str

    @property
    def needs_images(self) -> bool:
        """The network has to see training images."""
        return bool(self.needs & FROM_IMAGES)

    @property
    def needs_generator(self) -> bool:
        """Random numbers are drawn."""
        return bool(self.needs & DRAWN)


@dataclass(frozen=True)
class Sample:
    """The images that evidence is gathered on, and where random numbers come from.

    Attributes:
        task: gives the normalisation; None will do for a criterion that needs no images.
        images: usually 1,000 of the training split; likewise.
        batch: images per pass, bounds the memory.
        generator: on the CPU; None will do for a criterion that draws nothing.
    """

    task: Task | None
    images: Split | None
    batch: int
    generator: torch.Generator | None

    @property
    def count(self) -> int:
        """How many images there are."""
        return 0 if self.images is None else len(self.images)

    def require(self, criterion: Criterion) -> None:
        """Refuse to start without what the criterion needs.

        Raises:
            UsageError: no images, no task or no generator.
        """
        if criterion.needs_images and (self.task is None or not self.count):
            raise UsageError(
                f"criterion '{criterion.name}' needs training images, got none; give at least one (1,000 are "
                "usual), or take a criterion of the weights alone, such as l1"
            )
        if criterion.needs_generator and self.generator is None:
            raise UsageError(
                f"criterion '{criterion.name}' draws random numbers, got no generator; give one, such as "
                "torch.Generator().manual_seed(0)"
            )

    def parts(self, model: nn.Module) -> Iterator[Batch]:
        """The images, normalised, on the model's device and in its memory format, `batch` at a time."""
        assert self.task is not None
        assert self.images is not None
        device = next(model.parameters()).device
        layout = torch.channels_last if _channels_last(model) else torch.contiguous_format
        for start in range(0, self.count, self.batch):
            part = self.images.take(slice(start, start + self.batch))
            x = self.task.normalise(part.images.to(device))
            yield x.contiguous(memory_format=layout), part.labels.to(device)


TAYLOR = Criterion(
    "taylor",
    frozenset(["taylor"]),
    lambda held: held.taylor,
    "|mean over a map of activation times gradient|, mean over images",
)
"""What `collect` goes by unless told otherwise; the other criteria are in `criteria.py`."""

Place = tuple[Tensor, Evidence]
"""The unit of each channel, (C,) int64, and what is known about them."""


def collect(
    model: nn.Module,
    groups: Groups,
    task: Task | None,
    images: Split | None,
    criterion: Criterion = TAYLOR,
    *,
    batch: int = 250,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One score per prunable unit, in the order of `groups.units`.

    The cost of each image is its own cross-entropy and batch norm uses its running statistics, so that scores
    do not depend on the batch size. A unit gets the mean over its channels at all places.

    Args:
        model: the network, on any device; its modes, parameters and gradients are left as they were.
        groups: its channel groups.
        task: gives the normalisation; None will do where `criterion.needs_images` is false.
        images: (N images), usually 1,000 of the training split; likewise.
        criterion: what to score by.
        batch: images per pass, bounds the memory.
        generator: on the CPU, where `criterion.needs_generator`.

    Returns:
        (U,), float64, on the CPU.

    Raises:
        UsageError: no images or no generator for a criterion that needs them; layers without a batch norm
            for one that reads its scale.
        ModelError: a layer whose own forward code uses its weights in an unusual way.
        Diverged: a score is NaN or infinite.
    """
    units = groups.units
    sample = Sample(task, images, batch, generator)
    sample.require(criterion)
    if not len(units):
        return torch.zeros(0, dtype=torch.float64)
    total, seen = torch.zeros(2, len(units), dtype=torch.float64)
    with modes_kept(model):
        model.eval()
        places = _gather(model, groups, sample, criterion.needs)
    for shown, evidence in places:
        index = _positions(units, shown)
        held = index >= 0
        score = criterion.score(evidence).detach().double().cpu()
        total.index_add_(0, index[held], score[held])
        seen.index_add_(0, index[held], torch.ones(int(held.sum()), dtype=torch.float64))
    _all_seen(groups, seen > 0, criterion)
    return finite(total / seen)


def finite(scores: Tensor) -> Tensor:
    """`scores` as they are.

    Raises:
        Diverged: one is NaN or infinite.
    """
    if not bool(torch.isfinite(scores).all()):
        raise Diverged("a pruning score is NaN or infinite: the network or its input holds such values")
    return scores


def of_weights(
    model: nn.Module, weights: Mapping[str, Tensor], sample: Sample, needs: frozenset[Need]
) -> dict[str, Evidence]:
    """Evidence at each of the named weights, in one pass over the images or none.

    Args:
        model: in eval mode.
        weights: by name, two or more dimensions; tied ones may come under several names.
        sample: the images.
        needs: what to gather.

    Returns:
        By name, without those that no convolution or fully connected layer uses.
    """
    found = {name: Evidence(weights=weight.detach().flatten(1)) for name, weight in weights.items()}
    seen = needs & FROM_IMAGES
    if not seen:
        return found
    once = list({id(weight): weight for weight in weights.values()}.values())
    if "products" in seen:
        sums = products(model, once, sample.parts(model))
    elif "squares" in seen:
        sums = squares(model, once, sample.parts(model))
    else:
        assert sample.generator is not None
        sums = curvature(model, once, sample.parts(model), probes=PROBES, generator=sample.generator)
    (field_name,) = seen
    means = {
        id(weight): (total if total.dim() == 1 else total.flatten(1)) / sample.count
        for weight, total in zip(once, sums, strict=True)
        if total is not None
    }
    return {
        name: replace(evidence, **{field_name: means[id(weights[name])]})
        for name, evidence in found.items()
        if id(weights[name]) in means
    }


def _channels_last(model: nn.Module) -> bool:
    return any(
        p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
    )


def _gather(model: nn.Module, groups: Groups, sample: Sample, needs: frozenset[Need]) -> Sequence[Place]:
    """Evidence at every place that shows a prunable unit."""
    units = groups.units
    if "chance" in needs:
        numbers = torch.rand(len(units), generator=sample.generator, dtype=torch.float64)
        return [(units, Evidence(chance=numbers))]
    if "scale" in needs:
        return _norms(model, groups)
    gates = [gate for gate in groups.gates if bool(torch.isin(gate.units, units).any())]
    if "taylor" in needs:
        shown = at_gates(model, gates, sample.parts(model), sum_taylor)
        return [(gates[i].units, Evidence(taylor=total / sample.count)) for i, total in shown]
    if "activations" in needs:
        shown = at_gates(model, gates, sample.parts(model), sum_activations)
        return [(gates[i].units, Evidence(activations=total / sample.count)) for i, total in shown]
    makers = _makers(model, groups)
    weights = {name: weight for name, (weight, _) in makers.items()}
    known = of_weights(model, weights, sample, needs)
    return [(makers[name][1], evidence) for name, evidence in known.items()]


def _makers(model: nn.Module, groups: Groups) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights that make prunable units, by name, with the unit of each filter; tied ones once."""
    layers = [model.get_submodule(name) for name in dict.fromkeys(n for g in groups.groups for n in g.layers)]
    made = {id(layer.weight): layer.weight for layer in layers if isinstance(layer, LAYERS)}
    return _held(model, groups, made)


def _norms(model: nn.Module, groups: Groups) -> list[Place]:
    """The scale of every batch norm that prunable units pass."""
    norms = {id(m.weight): m.weight for m in model.modules() if isinstance(m, BATCH_NORMS) and m.affine}
    return [
        (units, Evidence(scale=weight.detach())) for weight, units in _held(model, groups, norms).values()
    ]


def _held(model: nn.Module, groups: Groups, wanted: Mapping[int, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of the tensors `wanted`, by their id, those whose first dimension makes or scales prunable units."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    units = groups.units
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for slot in groups.slots:
        value = tensors.get(slot.name)
        if slot.incoming or slot.dim or value is None or id(value) not in wanted:
            continue
        if bool(torch.isin(slot.units, units).any()):
            found.setdefault(slot.name, (value, slot.units))
    return found


def _positions(units: Tensor, asked: Tensor) -> Tensor:
    """Where each of `asked` is in `units`, -1 if it is not there."""
    ordered, order = units.sort()
    place = torch.searchsorted(ordered, asked).clamp(max=len(units) - 1)
    return torch.where(ordered[place] == asked, order[place], -1)


def _all_seen(groups: Groups, seen: Tensor, criterion: Criterion) -> None:
    """Refuse to score a unit by nothing."""
    parts = torch.split(seen, [len(group.units) for group in groups.groups])
    bare = [group for group, part in zip(groups.groups, parts, strict=True) if not bool(part.all())]
    if not bare:
        return
    names = ", ".join(group.name for group in bare)
    if "scale" in criterion.needs:
        raise UsageError(
            f"criterion '{criterion.name}' needs a batch norm with a scale behind every prunable layer, got "
            f"none for {names}; keep these layers, or take a criterion of the weights, such as l1"
        )
    raise ModelError(
        f"criterion '{criterion.name}' finds nothing to go by at {names}: what runs there is none of "
        "conv1d, conv2d, conv3d and linear of torch.nn.functional; use these, or take l1"
    )
