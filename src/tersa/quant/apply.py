"""Quantising the weights and biases of any PyTorch module.

    quantise_   storage `after`: snaps a trained network in place and reports what that did to each tensor
    attach_     storage `latent`: the module computes with levels, its optimiser moves real copies
                (straight-through), range and rounding taken again at each forward pass
    detach_     ends `attach_`: the levels become the module's ordinary weights

Tensors are the weights and biases of linear and convolutional layers, each with a range of its own; others
(normalisation layers, embeddings) stay real. A tensor that layers share is snapped once.

Activations are in `signals.py`; stacks of runs, and the storages that keep no real copy, in `tersa.study`.

Example:
    >>> layer = nn.Linear(4, 2)
    >>> [report.name for report in quantise_(layer, QuantSpec(kind="symmetric", bits=3, storage="after"))]
    ['weight', 'bias']
    >>> len(layer.weight.unique()) <= 7
    True
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersa.errors import UsageError
from tersa.quant import learned
from tersa.quant.base import Bounds
from tersa.quant.quantiser import fake_quantise, quantise
from tersa.quant.rounding import uniform_like
from tersa.quant.spec import QuantSpec
from tersa.records.base import Record

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights have their outputs on the first axis."""


class TensorReport(Record):
    """What snapping did to one tensor."""

    name: str
    """As in `named_parameters`."""
    values: int
    """Elements of the tensor."""
    levels: int
    """Different values it holds now; of range `channel`, the most in one channel."""
    low: float
    """Lower end of its range; of range `channel`, the lowest."""
    high: float
    """Upper end of its range; of range `channel`, the highest."""
    mean_squared_error: float
    """Mean over elements of (snapped - real)^2."""


def quantise_(
    module: nn.Module,
    spec: QuantSpec,
    *,
    bounds: Mapping[str, Bounds] | None = None,
    seed: int = 0,
) -> list[TensorReport]:
    """Snap the weights and biases of a trained module in place.

    Args:
        module: any module; a linear or convolutional layer itself will do.
        spec: with storage `after`.
        bounds: range by parameter name, instead of measured; range `calibrated` needs one for each.
        seed: of stochastic rounding.

    Returns:
        One report per tensor, in the module's order.

    Raises:
        UsageError: another storage, a module without such layers, a name in `bounds` that it does not have.
        TersaError: a weight is NaN or infinite; nothing was changed.
    """
    _check(spec, "after", "quantise_")
    places = _places(module, bounds)
    found = []
    for index, (name, (owner, short)) in enumerate(places.items()):
        x = getattr(owner, short).detach()
        uniform = uniform_like(x, seed, tensor=index) if spec.rounding == "stochastic" else None
        found.append((name, x, quantise(x, spec, bounds=(bounds or {}).get(name), uniform=uniform)))
    reports: list[TensorReport] = []
    for name, x, snapped in found:
        parts = snapped.values.flatten(1) if snapped.low.dim() else snapped.values.flatten().unsqueeze(0)
        reports.append(
            TensorReport(
                name=name,
                values=x.numel(),
                levels=max(len(part.unique()) for part in parts),
                low=float(snapped.low.min()),
                high=float(snapped.high.max()),
                mean_squared_error=float((snapped.values - x).double().square().mean()),
            )
        )
        x.copy_(snapped.values)
    return reports


class StraightThrough(nn.Module):
    """A parametrisation: real weights to levels, with the straight-through gradient; see `attach_`.

    Attributes:
        step: LSQ's trained step, with range `learned`; else None.
        drawn: forward passes in training mode so far; stochastic rounding draws anew at each.
    """

    low: Tensor | None
    high: Tensor | None
    drawn: Tensor

    def __init__(self, x: Tensor, spec: QuantSpec, bounds: Bounds | None, seed: int, index: int) -> None:
        super().__init__()
        self.spec, self.seed, self.index = spec, seed, index
        self.register_buffer("low", None if bounds is None else bounds[0].clone())
        self.register_buffer("high", None if bounds is None else bounds[1].clone())
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))
        is_learned = spec.range == "learned"
        self.step = nn.Parameter(learned.initial_step(x, spec.bits)) if is_learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Levels of x."""
        if self.step is not None:
            return learned.lsq(x, self.step.abs(), self.spec.bits)
        uniform = None
        if self.spec.rounding == "stochastic":
            uniform = uniform_like(x, self.seed, int(self.drawn), self.index)
            if self.training:
                self.drawn += 1
        bounds = None if self.low is None or self.high is None else (self.low, self.high)
        return fake_quantise(x, self.spec, bounds=bounds, uniform=uniform)


def attach_(
    module: nn.Module, spec: QuantSpec, *, bounds: Mapping[str, Bounds] | None = None, seed: int = 0
) -> list[str]:
    """Make a module compute with levels while its optimiser moves real weights.

    Make the optimiser after this: range `learned` adds a trained step per tensor.

    Args:
        module: any module; its parameters move to `parametrizations.NAME.original`.
        spec: with storage `latent`.
        bounds: range by parameter name, instead of measured; range `calibrated` needs one for each.
        seed: of stochastic rounding.

    Returns:
        Names of the tensors, in the module's order.

    Raises:
        UsageError: another storage, a module without such layers, attached already or with layers that share
            a parameter, an unknown name in `bounds`.
    """
    _check(spec, "latent", "attach_")
    places = _places(module, bounds)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    if len(names) != len(list(module.parameters())):
        raise UsageError("layers of this module share parameters, which attach_ would part; untie them first")
    if spec.range == "calibrated" and set(places) - set(bounds or {}):
        raise UsageError(
            f"range calibrated needs bounds for {', '.join(sorted(set(places) - set(bounds or {})))}"
        )
    for index, (name, (owner, short)) in enumerate(places.items()):
        part = StraightThrough(getattr(owner, short), spec, (bounds or {}).get(name), seed, index)
        parametrize.register_parametrization(owner, short, part)
    return list(places)


def detach_(module: nn.Module) -> list[str]:
    """Make the levels of an attached module its ordinary weights, in place; names of the tensors.

    Raises:
        UsageError: nothing is attached.
    """
    names: list[str] = []
    for path, owner in list(module.named_modules()):
        for short in ("weight", "bias"):
            if isinstance(owner, LAYERS) and _attached(owner, short):
                parametrize.remove_parametrizations(owner, short, leave_parametrized=True)
                names.append(f"{path}.{short}".lstrip("."))
    if not names:
        raise UsageError("nothing is attached to this module; call attach_ first")
    return names


def _attached(owner: nn.Module, short: str) -> bool:
    """`attach_` was here (weight norm and the like are somebody else's)."""
    if not parametrize.is_parametrized(owner, short):
        return False
    parts = owner.get_submodule(f"parametrizations.{short}")
    return any(isinstance(part, StraightThrough) for part in parts.children())


def _check(spec: QuantSpec, storage: str, function: str) -> None:
    if not spec.active:
        raise UsageError(f"{function} got kind none, which changes nothing; choose one such as symmetric")
    if spec.storage != storage:
        raise UsageError(
            f'{function} does what storage {storage} means, not {spec.storage}; give storage="{storage}"'
        )


def _places(module: nn.Module, bounds: Mapping[str, Bounds] | None) -> dict[str, tuple[nn.Module, str]]:
    """Parameter name to owner and attribute, each parameter once."""
    found: dict[str, tuple[nn.Module, str]] = {}
    seen: set[int] = set()
    for path, owner in module.named_modules():
        if not isinstance(owner, LAYERS):
            continue
        if parametrize.is_parametrized(owner):
            raise UsageError(f"layer '{path}' is parametrised already; call detach_ first")
        for short in ("weight", "bias"):
            entry = getattr(owner, short)
            if entry is not None and id(entry) not in seen:
                seen.add(id(entry))
                found[f"{path}.{short}".lstrip(".")] = (owner, short)
    if not found:
        raise UsageError("the module has no linear or convolutional layer, so there is no weight to quantise")
    strange = sorted(set(bounds or {}) - set(found))
    if strange:
        raise UsageError(f"bounds name {', '.join(strange)}; the module has {', '.join(found)}")
    return found
