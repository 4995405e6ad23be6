"""Quantisers: from real values to a few levels, 1 to 8 bits.

spec        what is done to a tensor, checked as a whole
quantiser   the door: `quantise`, `fake_quantise`, `levels`, `measure`, and the registry
uniform     symmetric and asymmetric levels       signs      binary and ternary
powers      powers of two                         clusters   shared values with trained centroids
ranges      where levels lie                      learned    a trained range (LSQ)
rounding    nearest or stochastic                 signals    hidden outputs and gradients
apply       any PyTorch module                    packing    codes as bits
crossbar    what a weight meets in a memristor array

The names below are loaded when they are first used: a spec is read and checked without loading torch.

Example:
    >>> import torch
    >>> from tersa import quant
    >>> spec = quant.QuantSpec(kind="symmetric", bits=2)
    >>> quant.quantise(torch.tensor([-0.5, 0.1, 0.4]), spec).values
    tensor([-0.5000,  0.0000,  0.5000])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tersa.quant.apply import TensorReport, attach_, detach_, quantise_
    from tersa.quant.clusters import centroid_gradient, retrain, share, shared
    from tersa.quant.learned import initial_step, lsq, lsq_gradient
    from tersa.quant.packing import pack, unpack
    from tersa.quant.quantiser import (
        QUANTISERS,
        Quantised,
        fake_quantise,
        levels,
        lowest_code,
        measure,
        quantise,
    )
    from tersa.quant.ranges import calibrate
    from tersa.quant.rounding import uniform_like
    from tersa.quant.signals import gradient_quantiser, hidden_quantiser, state_quantiser
    from tersa.quant.spec import QuantSpec

HOMES: dict[str, tuple[str, ...]] = {
    "apply": ("TensorReport", "attach_", "detach_", "quantise_"),
    "clusters": ("centroid_gradient", "retrain", "share", "shared"),
    "learned": ("initial_step", "lsq", "lsq_gradient"),
    "packing": ("pack", "unpack"),
    "quantiser": (
        "QUANTISERS",
        "Quantised",
        "fake_quantise",
        "levels",
        "lowest_code",
        "measure",
        "quantise",
    ),
    "ranges": ("calibrate",),
    "rounding": ("uniform_like",),
    "signals": ("gradient_quantiser", "hidden_quantiser", "state_quantiser"),
    "spec": ("QuantSpec",),
}
"""File of this folder -> public names in it."""

__all__ = [
    "QUANTISERS",
    "QuantSpec",
    "Quantised",
    "TensorReport",
    "attach_",
    "calibrate",
    "centroid_gradient",
    "detach_",
    "fake_quantise",
    "gradient_quantiser",
    "hidden_quantiser",
    "initial_step",
    "levels",
    "lowest_code",
    "lsq",
    "lsq_gradient",
    "measure",
    "pack",
    "quantise",
    "quantise_",
    "retrain",
    "share",
    "shared",
    "state_quantiser",
    "uniform_like",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    for file, names in HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"tersa.quant.{file}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'tersa.quant' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
