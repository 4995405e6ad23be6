"""A memristor array: its description, a weight as a pair of conductances, and the deployment of a network.

A weight w in [-h, h] is the difference of two conductances, one of which rests at g_min:

    G+ = g_min + (g_max - g_min) max(w, 0) / h,   G- = g_min + (g_max - g_min) max(-w, 0) / h
    w = h (G+ - G-) / (g_max - g_min)

`deploy` sends a trained network through what its weights meet: levels, writing, drift, slow read noise, stuck
devices; all tensors of all runs in one buffer. Training in the array needs the same, step by step and fast:
`tersa.quant.programming` (writing), `tersa.quant.reading` (reads), `tersa.quant.pulses` (updates). Statistics
of devices are in `tersa.quant.devices`, faults in `tersa.quant.faults`, tiles in `tersa.quant.tiles`.

Everything is off by default, and then weights come back bit for bit. `program_noise` and `read_noise` are
deviations of a whole weight as shares of h; each device of the pair has 1/sqrt(2) of it.

What this does not do: wire resistance, sneak paths, converters, drift compensation.

Example:
    >>> weights = [torch.tensor([[0.5, -1.0]])]
    >>> pair = to_pair(weights[0], torch.tensor([[1.0]]), Crossbar(g_min_us=1.0, g_max_us=21.0))
    >>> pair.tolist()
    [[[11.0, 1.0], [1.0, 21.0]]]
    >>> deploy(weights, Crossbar(drift_exponent=0.5), seeds=[1], seconds=99.0)[0].tolist()
    [[0.05000000074505806, -0.10000000149011612]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails
from torch import Tensor

from tersa.errors import UsageError, faults, unknown
from tersa.quant.chance import DEPLOYMENT, generator, normals
from tersa.quant.devices import Device, Gaussian, PhaseChange, drift
from tersa.quant.faults import Stuck, draw_faults
from tersa.quant.primitives import round_half_even
from tersa.quant.pulses import Response, ResponseKind
from tersa.quant.tiles import SIDE
from tersa.records.base import Record

DeviceName = Literal["gaussian", "pcm"]


class Crossbar(Record):
    """What a weight meets; the default is an array without a flaw.

    Raises:
        UsageError: all faults of the description together.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    device: DeviceName = "gaussian"
    """Statistics of a device: `gaussian` (the fields below), or `pcm` (measured phase-change memory)."""
    g_min_us: float = Field(default=0.0, ge=0)
    """Lowest conductance that is written, in microsiemens."""
    g_max_us: float = Field(default=25.0, gt=0)
    """Highest one, in microsiemens: the largest weight."""
    conductance_bits: int = Field(default=0, ge=0, le=8)
    """A device has 2^bits levels, evenly spaced from g_min to g_max; 0: any conductance. Pairs of
    n - 1 bits hold symmetric weights of n bits exactly."""
    program_noise: float = Field(default=0.0, ge=0)
    """Deviation of a written weight from its level, as a share of the range's half width."""
    read_noise: float = Field(default=0.0, ge=0)
    """Deviation of a weight at each read, as a share of the range's half width; not seen by `deploy`."""
    stuck_low: float = Field(default=0.0, ge=0, lt=1)
    """Share of devices stuck at g_min."""
    stuck_high: float = Field(default=0.0, ge=0, lt=1)
    """Share of devices stuck at g_max."""
    stuck_random: float = Field(default=0.0, ge=0, lt=1)
    """Share of devices stuck at a random level."""
    drift_exponent: float = Field(default=0.0, ge=0)
    """Mean nu of G(t) = G_0 (t / t_0)^-nu."""
    drift_spread: float = Field(default=0.0, ge=0)
    """Deviation of nu over devices; no exponent is below 0."""
    drift_start_s: float = Field(default=1.0, gt=0)
    """t_0: seconds from writing to the first read, from which drift counts; 20 of a measured pcm device."""
    response: ResponseKind = "linear"
    """How a device answers the pulses of an update: `linear`, `soft-bounds` or `exponential`."""
    up_nonlinearity: float = Field(default=0.0, ge=0)
    """a of potentiation for the exponential response; 0 is linear."""
    down_nonlinearity: float = Field(default=0.0, ge=0)
    """a of depression; other than `up_nonlinearity`, updates are asymmetric."""
    rows: int = Field(default=SIDE, ge=1)
    """Inputs of a tile."""
    columns: int = Field(default=SIDE, ge=1)
    """Outputs of a tile."""

    @model_validator(mode="wrap")
    @classmethod
    def _all_faults_at_once(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        found: list[str] = []
        bad: set[str] = set()
        try:
            made = handler(value)
        except ValidationError as error:
            details = error.errors()
            found = [_say(detail) for detail in details]
            bad = {str(detail["loc"][0]) for detail in details}
            made = handler({key: entry for key, entry in value.items() if key not in bad})
        found += [each.text for each in CONFLICTS if not bad & set(each.fields) and each.broken(made)]
        if found:
            raise faults("crossbar", found)
        return made

    @property
    def statistics(self) -> Device:
        """Of one of its devices."""
        if self.device == "pcm":
            return PhaseChange(self.g_max_us)
        deviation_us = self.program_noise * self.span_us / math.sqrt(2)
        return Gaussian(deviation_us, self.drift_exponent, self.drift_spread, self.drift_start_s)

    @property
    def span_us(self) -> float:
        """g_max - g_min in microsiemens."""
        return self.g_max_us - self.g_min_us

    @property
    def stuck(self) -> Stuck:
        """Its shares of stuck devices."""
        levels = 2**self.conductance_bits if self.conductance_bits else 0
        return Stuck(self.stuck_low, self.stuck_high, self.stuck_random, levels)

    @property
    def answer(self) -> Response:
        """How its devices answer pulses."""
        return Response(self.response, self.up_nonlinearity, self.down_nonlinearity)

    def ideal(self, seconds: float = 0.0) -> bool:
        """A network deployed `seconds` ago still has its weights."""
        drifts = seconds > 0 and (self.drift_exponent > 0 or self.drift_spread > 0)
        written = self.device == "pcm" or self.program_noise > 0 or self.conductance_bits > 0
        return not (written or drifts or self.stuck.share > 0)


CHOICES: dict[str, tuple[str, ...]] = {"device": get_args(DeviceName), "response": get_args(ResponseKind)}
ROUNDING = 1e-6
"""Share of the range within which a weight is on a level already: a few units of float32."""
GAUSSIAN_ONLY = ("program_noise", "drift_exponent", "drift_spread", "drift_start_s")


@dataclass(frozen=True)
class Conflict:
    """A fault that lies between fields.

    Attributes:
        fields: that it reads; it is not looked at when one of them is at fault itself.
        broken: whether a crossbar has the fault.
        text: what is wrong and what to do.
    """

    fields: tuple[str, ...]
    broken: Callable[[Crossbar], bool]
    text: str


def _given(crossbar: Crossbar, name: str) -> bool:
    """Whether a field has another value than its default."""
    return bool(getattr(crossbar, name) != Crossbar.model_fields[name].default)


CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        ("g_min_us", "g_max_us"),
        lambda c: c.g_min_us >= c.g_max_us,
        "g_min_us must be below g_max_us; lower the first or raise the second",
    ),
    Conflict(
        ("stuck_low", "stuck_high", "stuck_random"),
        lambda c: c.stuck.share >= 1,
        "stuck_low + stuck_high + stuck_random must be below 1: a device is stuck at one place",
    ),
    Conflict(
        ("device", *GAUSSIAN_ONLY),
        lambda c: c.device == "pcm" and any(_given(c, name) for name in GAUSSIAN_ONLY),
        f"device pcm brings measured noise and drift; leave out {', '.join(GAUSSIAN_ONLY)}",
    ),
    Conflict(
        ("response", "up_nonlinearity", "down_nonlinearity"),
        lambda c: c.response != "exponential" and (c.up_nonlinearity > 0 or c.down_nonlinearity > 0),
        "up_nonlinearity and down_nonlinearity are used by response=exponential alone; leave them out",
    ),
)


def _say(detail: ErrorDetails) -> str:
    """One fault that pydantic found, in this project's words."""
    field, given = str(detail["loc"][0]), detail["input"]
    if detail["type"] == "extra_forbidden":
        return str(unknown("setting", field, Crossbar.model_fields))
    if detail["type"] == "literal_error":
        return str(unknown(field, str(given), CHOICES[field]))
    return f"{field} is {given}; {detail['msg'].replace('Input should be', 'must be')}"


def to_pair(weight: Tensor, half: Tensor, crossbar: Crossbar) -> Tensor:
    """Conductances (R, 2, P) in microsiemens, float64: G+ and G- of weights (R, P).

    Args:
        weight: within [-half, half].
        half: h, broadcast against `weight`; where it is 0 both conductances are g_min.
        crossbar: its range of conductances, and levels where it has any.
    """
    share = torch.where(half > 0, weight.double() / half.double(), 0.0)
    both = torch.stack([share, -share], 1).clamp(0.0, 1.0)  # (R, 2, P)
    if crossbar.conductance_bits:
        top = 2**crossbar.conductance_bits - 1
        level = round_half_even(both * top) / top
        both = torch.where((level - both).abs() <= ROUNDING, both, level)  # a level keeps its float32 name
    return crossbar.g_min_us + crossbar.span_us * both


def from_pair(pair: Tensor, half: Tensor, crossbar: Crossbar) -> Tensor:
    """Weights (R, P) float32 of conductances (R, 2, P) in microsiemens.

    The inverse of `to_pair`, bit for bit for weights above h/2^24 (float64 is kept in between).
    """
    difference = pair[:, 0] - pair[:, 1]
    return (difference / crossbar.span_us * half.double()).float()


def deploy(
    weights: Sequence[Tensor],
    crossbar: Crossbar,
    seeds: Sequence[int],
    seconds: float = 0.0,
    halves: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The weights that an array gives back, `seconds` after its first read.

    Every device is written once, drifts with an exponent of its own, and is read with the slow noise gathered
    until then; stuck devices do none of it. Numbers are drawn per run, so a run meets the same alone.

    Args:
        weights: trained tensors, each (R, ...).
        crossbar: what they meet.
        seeds: of the runs, R of them; the map of faults is that of training with this seed.
        seconds: age of the deployment.
        halves: half width h of each tensor's range, each (R,); by default its largest |w| in each run.

    Returns:
        Tensors shaped like `weights`; the very same where the crossbar is ideal.

    Raises:
        UsageError: a negative age, or another number of seeds than runs.
    """
    runs = len(weights[0])
    if seconds < 0 or len(seeds) != runs:
        raise UsageError(
            f"deploy: {seconds:g} seconds and {len(seeds)} seeds for {runs} runs; "
            "seconds must be 0 or more, and each run needs one seed"
        )
    if crossbar.ideal(seconds):
        return list(weights)
    flat = [each.reshape(runs, -1) for each in weights]
    sizes = [each.shape[1] for each in flat]
    widths = [each.abs().amax(1) for each in flat] if halves is None else halves
    half = torch.cat([h[:, None].expand(-1, n) for h, n in zip(widths, sizes, strict=True)], 1)  # (R, P)
    target = to_pair(torch.cat(flat, 1), half, crossbar)  # (R, 2, P)
    found = _aged(target, crossbar.statistics, [generator(seed, DEPLOYMENT) for seed in seeds], seconds)
    if crossbar.stuck.share:
        stuck = _stuck(crossbar.stuck, seeds, sizes)
        found = torch.where(stuck.isnan(), found, crossbar.g_min_us + crossbar.span_us * stuck)
    effective = from_pair(found, half, crossbar).split(sizes, 1)
    return [each.reshape(old.shape) for each, old in zip(effective, weights, strict=True)]


def _aged(target: Tensor, device: Device, generators: Sequence[torch.Generator], seconds: float) -> Tensor:
    """Conductances asked for, written, drifted and read once."""
    shape = target.shape[1:]
    written = device.write(target, normals(generators, *shape).double())
    exponent = device.exponent(target, normals(generators, *shape).double())
    drifted = drift(written, exponent, seconds, device.start_s)
    return device.read(target, drifted, seconds, normals(generators, *shape).double())


def _stuck(stuck: Stuck, seeds: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """What each device is stuck at, (R, 2, P), NaN where it works."""
    maps = [draw_faults([stuck] * len(seeds), seeds, i, size).dense(size) for i, size in enumerate(sizes)]
    return torch.cat([torch.stack(pair, 1) for pair in maps], 2)
