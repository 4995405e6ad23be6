"""NAS-WOT: how differently a network's rectifiers answer different images.

    s = log |det K|,   K_ij = A - d(c_i, c_j)

c_i is the binary code of image i (which of the A non-linearity inputs are above zero) and d the Hamming
distance. Images with equal codes make K singular: the score is then the log-determinant with `RIDGE` on the
diagonal, so that it stays a number.

Example:
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]])), net[0].bias.data.zero_()
    >>> score(net, Probe(torch.tensor([[1.0], [-1.0]]), torch.zeros(2)))  # codes 10, 01: K is 2 I
    1.387...

References:
    Mellor et al., Neural Architecture Search without Training (ICML 2021), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersa.adapt.proxies.base import Probe, Proxy
from tersa.adapt.signature import ACTIVATIONS
from tersa.errors import UsageError
from tersa.models.summary import evaluating

RIDGE = 1e-3
"""Added to the diagonal, beside numbers of activations in the thousands."""


class _Codes(TorchDispatchMode):
    """Sums the kernel of all non-linearities of a pass."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.kernel = torch.zeros(count, count, dtype=torch.float64)
        self.units = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ACTIVATIONS:
            code = (args[0] > 0).flatten(1).float()  # (N, A of this layer); counts below 2^24 are exact
            self.kernel += (code @ code.T + (1 - code) @ (1 - code).T).double().cpu()
            self.units += code.shape[1]
        return func(*args, **(kwargs or {}))


def kernel(model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """K (N, N) and the number A of units, summed over all non-linearities."""
    with evaluating(model), torch.no_grad(), _Codes(len(images)) as seen:
        model(images)
    return seen.kernel, seen.units


def score(model: nn.Module, probe: Probe) -> float:
    """log |det K|.

    Raises:
        UsageError: the network has no non-linearity.
    """
    found, units = kernel(model, probe.images)
    if not units:
        raise UsageError("naswot scores non-linearities, and this network has none; take --score synflow")
    held = found + RIDGE * torch.eye(len(found), dtype=torch.float64)
    return float(torch.linalg.slogdet(held).logabsdet)


NASWOT = Proxy("naswot", score, "log |det K| of the rectifiers' binary codes", gradients=False)
