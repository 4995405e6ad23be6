"""What one memristive device does with the conductance it is asked for.

A device is asked for g_T at time 0 and read `seconds` later, t = t_0 + seconds after it was written:

    written    g_P = g_T + sigma_P(g_T) N(0, 1)
    drifted    g_D = g_P (t / t_0)^-nu,        nu ~ mu_nu(g_T) + sigma_nu(g_T) N(0, 1), fixed for a device
    read       g   = g_D + sigma_R(g_T, g_D, t) N(0, 1)

`Gaussian` has one sigma_P, one nu and its spread for all conductances, and no slow noise. `PhaseChange` is
the statistical model of a million phase-change devices; with r = g_T / g_max

    sigma_P = max(0.26348 + 1.9650 r - 1.1731 r^2, 0) uS x g_max / 25 uS
    mu_nu = clip(0.0244 - 0.0155 ln r, 0.049, 0.1),  sigma_nu = clip(-0.0059 - 0.0125 ln r, 0.008, 0.045)
    sigma_R = g_D min(0.0088 / r^0.65, 0.2) sqrt(ln((t + t_R) / (2 t_R))),  t_R = 250 ns

and neither a written nor a read conductance is below 0. Fresh noise of every single read is not here: it is
added where outputs are (`tersa.quant.reading`). Nor are temperature, wires and converters.

References:
    Nandakumar et al., Phase-change memory models for deep learning training and inference (ICECS 2019).
    Joshi et al., Accurate deep neural network inference using computational phase-change memory (Nature
    Communications 11, 2020), methods.

Example:
    >>> drift(torch.tensor([10.0]), torch.tensor([0.5]), seconds=99.0, start_s=1.0)
    tensor([1.0000])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Device(Protocol):
    """Statistics of one kind of device; conductances are in microsiemens, of any shape."""

    @property
    def start_s(self) -> float:
        """t_0: seconds from writing to the first read, from which drift counts."""
        ...

    def write(self, target: Tensor, normal: Tensor) -> Tensor:
        """g_P of the conductances asked for; `normal` is standard normal, of the same shape."""
        ...

    def exponent(self, target: Tensor, normal: Tensor) -> Tensor:
        """nu of each device."""
        ...

    def read(self, target: Tensor, drifted: Tensor, seconds: float, normal: Tensor) -> Tensor:
        """g: what a read finds, with the slow noise that has gathered."""
        ...


def drift(conductance: Tensor, exponent: Tensor, seconds: float, start_s: float) -> Tensor:
    """G(t) = G_0 (t / t_0)^-nu with t = t_0 + seconds; unchanged, bit for bit, at 0 seconds.

    Args:
        conductance: G_0, in any unit.
        exponent: nu, of the same shape.
        seconds: since the first read, 0 or more.
        start_s: t_0.
    """
    return conductance * torch.exp(-exponent * math.log1p(seconds / start_s))


@dataclass(frozen=True)
class Gaussian:
    """The same statistics at every conductance.

    A conductance near 0 may be written below it: what is described is the difference of a pair, whose mean is
    then that asked for.

    Attributes:
        deviation_us: sigma_P of one device, in microsiemens.
        nu: mean drift exponent.
        nu_spread: its deviation over devices; no exponent is below 0.
        start_s: t_0 in seconds.
    """

    deviation_us: float = 0.0
    nu: float = 0.0
    nu_spread: float = 0.0
    start_s: float = 1.0

    def write(self, target: Tensor, normal: Tensor) -> Tensor:
        """g_T + sigma_P N(0, 1)."""
        return target + self.deviation_us * normal

    def exponent(self, target: Tensor, normal: Tensor) -> Tensor:
        """max(nu + spread N(0, 1), 0)."""
        return (self.nu + self.nu_spread * normal).clamp(min=0.0)

    def read(self, target: Tensor, drifted: Tensor, seconds: float, normal: Tensor) -> Tensor:
        """As it is: no slow noise."""
        return drifted


PROGRAM_US = (0.26348, 1.9650, -1.1731)
"""Coefficients of 1, r, r^2 in sigma_P, measured with g_max = 25 uS."""
PROGRAM_MAX_US = 25.0
READ_PULSE_S = 250e-9
SMALLEST_SHARE = 1e-7
"""Where r stops falling: all clips have been reached by then."""


@dataclass(frozen=True)
class PhaseChange:
    """Phase-change memory, as measured.

    Attributes:
        g_max_us: conductance that the largest weight is mapped to, in microsiemens.
        start_s: t_0 in seconds.
    """

    g_max_us: float = PROGRAM_MAX_US
    start_s: float = 20.0

    def write(self, target: Tensor, normal: Tensor) -> Tensor:
        """max(g_T + sigma_P N(0, 1), 0)."""
        r = target / self.g_max_us
        c0, c1, c2 = PROGRAM_US
        deviation = (c0 + c1 * r + c2 * r.square()).clamp(min=0.0) * (self.g_max_us / PROGRAM_MAX_US)
        return (target + deviation * normal).clamp(min=0.0)

    def exponent(self, target: Tensor, normal: Tensor) -> Tensor:
        """mu_nu + sigma_nu N(0, 1), its size where it is below 0."""
        log_r = self._share(target).log()
        mean = (0.0244 - 0.0155 * log_r).clamp(0.049, 0.1)
        spread = (-0.0059 - 0.0125 * log_r).clamp(0.008, 0.045)
        return (mean + spread * normal).abs()

    def read(self, target: Tensor, drifted: Tensor, seconds: float, normal: Tensor) -> Tensor:
        """max(g_D (1 + Q sqrt(ln ...) N(0, 1)), 0): 1/f noise from writing until now."""
        amount = (0.0088 / self._share(target) ** 0.65).clamp(max=0.2)
        time = self.start_s + seconds
        gathered = math.sqrt(math.log((time + READ_PULSE_S) / (2 * READ_PULSE_S)))
        return (drifted * (1 + amount * gathered * normal)).clamp(min=0.0)

    def _share(self, target: Tensor) -> Tensor:
        return (target / self.g_max_us).clamp(min=SMALLEST_SHARE)
