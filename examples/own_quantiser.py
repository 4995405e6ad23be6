"""A quantiser of your own: levels at odd multiples, so that no weight is zero.

values a (2 c + 1) / (2^n - 1),  c = -2^(n-1) .. 2^(n-1) - 1,  a = max |x|
"""

import torch
from torch import Tensor

from tersa import build, evaluate, load
from tersa.quant import QUANTISERS, QuantSpec, attach_, detach_
from tersa.quant.base import Quantiser, Snapped
from tersa.quant.ranges import bounds, half_width
from tersa.quant.uniform import clamp_mirrored


def lowest(spec: QuantSpec) -> int:
    """The code of the first level."""
    return -(2 ** (spec.bits - 1))


def snap(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None) -> Snapped:
    """Values on levels, and their codes; `uniform` holds random numbers for stochastic rounding, or None."""
    step = half_width(low, high) / (2**spec.bits - 1)
    place = x / (2 * step) - 0.5
    codes = torch.round(place) if uniform is None else torch.floor(place + uniform)
    codes = codes.clamp(lowest(spec), -lowest(spec) - 1)
    return Snapped((2 * codes + 1) * step, codes)


def levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """All levels, lowest first."""
    codes = torch.arange(lowest(spec), -lowest(spec))
    return (2 * codes + 1) * (half_width(low, high) / (2**spec.bits - 1)).unsqueeze(-1)


QUANTISERS["odd"] = Quantiser(snap, levels, clamp_mirrored, bounds, lowest)

if __name__ == "__main__":
    task = load("digits")
    model = build("mlp:32", task.shape, len(task.classes), seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    # The kinds that QuantSpec checks are a closed list; `model_construct` makes one without the check.
    attach_(model, QuantSpec.model_construct(kind="odd", bits=2, storage="latent"))
    images, labels = task.normalise(task.train.images), task.train.labels
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    detach_(model)
    print(f"{len(model.state_dict()['fc1.weight'].unique())} different weights in fc1")
    print(f"{evaluate(model, task.test, task).accuracy:.1f} % on the test split")
