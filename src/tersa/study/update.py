"""Optimiser step and quantisation of a stack of runs: what settings each run has, and who carries it out.

For each tensor x of a run with gradient g (weight decay c added as g + c x):

    sgd         x - r g
    momentum    m = 0.9 m + g,  x - r m
    nesterov    m = 0.9 m + g,  x - r (g + 0.9 m)
    adagrad     s = s + g^2,  x - r g / (sqrt(s) + 1e-10)
    adadelta    s = 0.9 s + 0.1 g^2,  d = sqrt((a + 1e-6) / (s + 1e-6)) g,  a = 0.9 a + 0.1 d^2,  x - r d
    adam        torch's, betas 0.9 and 0.999, eps 1e-8

and then the snap, by storage:

    inplace      x = snap(moved x): only the snapped weight exists
    latent       a float copy is moved (and clipped to a global range); x = snap(copy)
    accumulate   a copy with `extra_bits` more bits is moved and snapped; x is its visible part
    after        x moves freely; the trained network is snapped once, at the end

On a CPU the compiled `tersa.study.kernel` does it in one pass over memory; `reference_` is the same in torch,
readable, exact to the bit (adam: to rounding); `tersa.study.device` is for GPUs. Quantisers that the kernel
does not hold (power-of-two, clusters; percentile and learned ranges) are snapped run by run
through `tersa.quant`, see `tersa.study.special`.

References:
    Zeiler, ADADELTA: an adaptive learning rate method (2012). Kingma & Ba, Adam (2015).
    Courbariaux, Bengio & David, BinaryConnect (2015): the latent copy. Gupta et al., Deep learning with
    limited numerical precision (2015): stochastic rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tersa.quant.primitives import hash_uniform, sign_pm1, stream
from tersa.quant.ranges import SMALLEST
from tersa.quant.spec import QuantSpec
from tersa.study import kernel

OPTIMISERS = {
    "sgd": kernel.SGD,
    "momentum": kernel.MOMENTUM,
    "nesterov": kernel.NESTEROV,
    "adagrad": kernel.ADAGRAD,
    "adadelta": kernel.ADADELTA,
    "adam": kernel.ADAM,
}
"""First-order optimisers, which work on whole stacks."""
KINDS = {
    "none": kernel.NONE,
    "symmetric": kernel.SYMMETRIC,
    "asymmetric": kernel.ASYMMETRIC,
    "binary": kernel.BINARY,
    "ternary": kernel.TERNARY,
}
RANGES = {
    "global": kernel.GLOBAL,
    "calibrated": kernel.GLOBAL,
    "layer": kernel.LAYER,
    "channel": kernel.CHANNEL,
}
STORAGES = {"inplace": kernel.INPLACE, "latent": kernel.LATENT, "accumulate": kernel.ACCUMULATE}
STATES = {"sgd": 0, "momentum": 1, "nesterov": 1, "adagrad": 1, "adadelta": 2, "adam": 2}
"""How many values an optimiser keeps per weight."""

Array = npt.NDArray[np.generic]


def compiled(spec: QuantSpec) -> bool:
    """The kernel holds this quantiser; the others go through `tersa.quant` run by run."""
    return spec.storage == "after" or (spec.kind in KINDS and spec.range in RANGES)


@dataclass(frozen=True)
class Settings:
    """What differs between the runs of a stack, one entry per run (R,).

    Attributes:
        specs: the quantisers.
        kind, bits, where, stochastic, storage, extra: their fields as the kernel's codes.
        low, high: fixed range of each tensor (R, T), for global and calibrated ranges.
        decay: weight decay.
        seed: of stochastic rounding.
    """

    specs: tuple[QuantSpec, ...]
    kind: npt.NDArray[np.int64]
    bits: npt.NDArray[np.int64]
    where: npt.NDArray[np.int64]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    stochastic: npt.NDArray[np.int64]
    storage: npt.NDArray[np.int64]
    extra: npt.NDArray[np.int64]
    decay: npt.NDArray[np.float32]
    seed: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        specs: Sequence[QuantSpec],
        decay: Sequence[float],
        seed: Sequence[int],
        tensors: int,
        calibrated: Mapping[int, Sequence[tuple[float, float]]] | None = None,
    ) -> Settings:
        """From the runs' specs; quantisers that the kernel does not hold count as none here.

        Args:
            specs: one per run.
            decay: weight decay of each run.
            seed: of each run.
            tensors: T, tensors of the state.
            calibrated: run -> fixed range of each tensor, for runs with the range `calibrated`.
        """

        def ints(values: Sequence[int]) -> npt.NDArray[np.int64]:
            return np.array(values, dtype=np.int64)

        fixed = calibrated or {}
        bounds = np.array(
            [fixed.get(run, [(spec.low, spec.high)] * tensors) for run, spec in enumerate(specs)],
            dtype=np.float32,
        )  # (R, T, 2)
        inside = [compiled(spec) and spec.storage != "after" for spec in specs]
        return cls(
            tuple(specs),
            ints([KINDS[s.kind] if ok else kernel.NONE for s, ok in zip(specs, inside, strict=True)]),
            ints([s.bits for s in specs]),
            ints([RANGES.get(s.range, kernel.GLOBAL) for s in specs]),
            bounds[..., 0].copy(),
            bounds[..., 1].copy(),
            ints([int(s.rounding == "stochastic") for s in specs]),
            ints([STORAGES.get(s.storage, kernel.LATENT) for s in specs]),
            ints([s.extra_bits for s in specs]),
            np.array(decay, dtype=np.float32),
            ints(seed),
        )


@dataclass(frozen=True)
class State:
    """The numbers of a stack between two updates; all tensors are (R, ...) and contiguous.

    Attributes:
        values: what the network computes with, snapped.
        masters: where sums are kept; the same tensors as `values` where no run has another.
        firsts, seconds: the optimiser's sums, empty where it keeps none.
        rows: output channels of each tensor; 1 for a bias, which shares one range.
    """

    values: list[Tensor]
    masters: list[Tensor]
    firsts: list[Tensor]
    seconds: list[Tensor]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: list[Tensor], settings: Settings, optimizer: str) -> State:
        """A fresh state; copies are kept only where a run's storage asks for one."""
        needed = any(spec.storage in ("latent", "accumulate") for spec in settings.specs)
        apart = needed or not all(compiled(spec) for spec in settings.specs)
        count = STATES.get(optimizer, 0)
        return cls(
            values,
            [value.detach().clone() for value in values] if apart else values,
            [torch.zeros_like(value) for value in values] if count > 0 else [],
            [torch.zeros_like(value) for value in values] if count > 1 else [],
            np.array([value.shape[1] if value.dim() > 2 else 1 for value in values], dtype=np.int64),
        )

    def reset(self, optimizer: str) -> State:
        """The same weights under another optimiser that starts anew."""
        count = STATES.get(optimizer, 0)
        zeros = [[torch.zeros_like(v) for v in self.values] if count > k else [] for k in range(2)]
        return State(self.values, self.masters, zeros[0], zeros[1], self.rows)


@dataclass(frozen=True)
class Moment:
    """When an update happens and what it touches.

    Attributes:
        optimizer: name of a first-order optimiser.
        rate: learning rates (R,).
        step: updates since the start of the run, for the random stream.
        time: updates since the optimiser started, 1 for the first.
        active: runs that have not diverged (R,).
        moved: tensors that take a step (T,).
        snapped: tensors that are snapped (T,).
    """

    optimizer: str
    rate: npt.NDArray[np.float32]
    step: int
    time: int
    active: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]
    snapped: npt.NDArray[np.bool_]


def update_(state: State, grads: Sequence[Tensor | None], settings: Settings, moment: Moment) -> None:
    """Move and snap what the moment names; compiled on a CPU, `reference_` elsewhere."""
    if state.values[0].device.type != "cpu":
        reference_(state, grads, settings, moment)
        return
    values = _addresses(state.values)
    dense = [None if grad is None else grad.contiguous() for grad in grads]
    gradients = np.array([0 if grad is None else grad.data_ptr() for grad in dense], dtype=np.int64)
    sizes = np.array([value[0].numel() for value in state.values], dtype=np.int64)
    threads = numba.get_num_threads()
    carry_out = kernel.alone if threads == 1 else kernel.together
    carry_out(
        values, _addresses(state.masters), gradients,
        _addresses(state.firsts) if state.firsts else values,
        _addresses(state.seconds) if state.seconds else values,
        sizes, state.rows, moment.moved, moment.snapped, OPTIMISERS[moment.optimizer], moment.step,
        moment.time, moment.rate, settings.decay, moment.active, settings.kind, settings.bits, settings.where,
        settings.low, settings.high, settings.stochastic, settings.storage, settings.extra, settings.seed,
    )  # fmt: skip


def _addresses(tensors: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in tensors)
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


@torch.no_grad()
def reference_(state: State, grads: Sequence[Tensor | None], settings: Settings, moment: Moment) -> None:
    """What the kernel does, in torch, tensor by tensor and run by run."""
    for t, (value, master) in enumerate(zip(state.values, state.masters, strict=True)):
        first = state.firsts[t] if state.firsts else value
        second = state.seconds[t] if state.seconds else value
        for r in np.flatnonzero(moment.active):
            if not (moment.moved[t] or moment.snapped[t]):
                continue
            kept = master[r].view(-1)
            if moment.moved[t]:
                grad = grads[t]
                assert grad is not None
                _step_(
                    kept, grad[r].reshape(-1), first[r].view(-1), second[r].view(-1), moment, settings, int(r)
                )
            seen = value[r].view(-1)
            if settings.kind[r] == kernel.NONE or not moment.snapped[t]:
                seen.copy_(kept)
                continue
            if settings.storage[r] == kernel.LATENT and settings.where[r] == kernel.GLOBAL:
                kept.clamp_(float(settings.low[r, t]), float(settings.high[r, t]))
            seed = torch.tensor([int(settings.seed[r])], device=value.device)
            uniform = hash_uniform(stream(seed, moment.step, t), kept.numel())[0]
            pieces = int(state.rows[t]) if settings.where[r] == kernel.CHANNEL else 1
            parts = [
                _snap(x, u, settings, int(r), t)
                for x, u in zip(kept.chunk(pieces), uniform.chunk(pieces), strict=True)
            ]
            seen.copy_(torch.cat([visible for visible, _ in parts]))
            if settings.storage[r] == kernel.INPLACE:
                kept.copy_(seen)
            elif settings.storage[r] == kernel.ACCUMULATE:
                kept.copy_(torch.cat([fine for _, fine in parts]))


def _step_(
    x: Tensor, g: Tensor, first: Tensor, second: Tensor, moment: Moment, settings: Settings, run: int
) -> None:
    """One step of one tensor of one run, (n,)."""
    one = torch.tensor(1.0, device=x.device)
    rate = one * float(moment.rate[run])
    d = g + (one * float(settings.decay[run])) * x
    name = moment.optimizer
    rest = one - one * float(kernel.RHO)
    if name == "sgd":
        x.sub_(rate * d)
    elif name in ("momentum", "nesterov"):
        first.copy_(float(kernel.MOMENTUM_SHARE) * first + d)
        x.sub_(rate * (first if name == "momentum" else d + float(kernel.MOMENTUM_SHARE) * first))
    elif name == "adagrad":
        first.copy_(first + d * d)
        x.sub_(rate * (d / (first.sqrt() + float(kernel.ADAGRAD_EPS))))
    elif name == "adadelta":
        eps = float(kernel.ADADELTA_EPS)
        first.copy_(float(kernel.RHO) * first + rest * (d * d))
        delta = ((second + eps) / (first + eps)).sqrt() * d
        second.copy_(float(kernel.RHO) * second + rest * (delta * delta))
        x.sub_(rate * delta)
    else:
        beta1, beta2 = one * float(kernel.BETA1), one * float(kernel.BETA2)
        first.copy_(beta1 * first + (one - beta1) * d)
        second.copy_(beta2 * second + (one - beta2) * (d * d))
        mean, size = first / (one - beta1**moment.time), second / (one - beta2**moment.time)
        x.sub_(rate * (mean / (size.sqrt() + float(kernel.ADAM_EPS))))


def _snap(x: Tensor, uniform: Tensor, settings: Settings, run: int, tensor: int) -> tuple[Tensor, Tensor]:
    """Visible and kept levels of values that share a range, (n,)."""
    kind, bits = int(settings.kind[run]), int(settings.bits[run])
    everywhere = settings.where[run] == kernel.GLOBAL
    stochastic = bool(settings.stochastic[run])
    if everywhere:
        low, high = x.new_tensor(settings.low[run, tensor]), x.new_tensor(settings.high[run, tensor])
    else:
        low, high = x.min(), x.max()
    if kind != kernel.ASYMMETRIC:
        high = torch.maximum(low.abs(), high.abs())
        low = -high
    if settings.storage[run] == kernel.ACCUMULATE:
        steps = {
            kernel.SYMMETRIC: (1 << bits) - 2,
            kernel.ASYMMETRIC: (1 << bits) - 1,
            kernel.BINARY: 1,
            kernel.TERNARY: 2,
        }
        return _fine(x, uniform, steps[kind], low, high, 1 << int(settings.extra[run]), stochastic)
    if kind == kernel.BINARY:
        a = high if everywhere else x.double().abs().mean().float()
        if not stochastic:
            return sign_pm1(x) * a, x
        p = ((x / a + 1) / 2).clamp(0, 1)
        return torch.where(uniform < p, a, -a), x
    if kind == kernel.TERNARY and not everywhere:
        t = x.double().abs().mean().float() * float(kernel.TWN)
        above = x.abs() > t
        a = x.abs()[above].double().mean().float() if bool(above.any()) else x.new_tensor(0.0)
        if stochastic:
            return _even(x, uniform, 1.0, a), x
        return torch.where(above, torch.where(x > 0, a, -a), torch.zeros_like(x)), x
    if kind == kernel.ASYMMETRIC:
        if bool(high - low <= 2 * SMALLEST):
            return low.expand_as(x), x
        m = float((1 << bits) - 1)
        v = ((x - low) * (torch.full_like(low, m) / (high - low))).clamp(0, m)
        code = either(v, uniform) if stochastic else v.round()
        t = code / m
        return low * (1 - t) + high * t, x
    q = 1.0 if kind == kernel.TERNARY else float((1 << (bits - 1)) - 1)
    return _even(x, uniform if stochastic else None, q, high), x


def either(v: Tensor, uniform: Tensor) -> Tensor:
    """v rounded down or up at random, right on average; a whole number stays.

    >>> either(torch.tensor([1.0, 1.5, 1.5]), torch.tensor([0.0, 0.4, 0.6])).tolist()
    [1.0, 2.0, 1.0]
    """
    below = v.floor()
    return below + (uniform < v - below)


def _even(x: Tensor, uniform: Tensor | None, q: float, a: Tensor) -> Tensor:
    """Levels a c / q, c = -q .. q, (n,)."""
    if bool(a <= SMALLEST):
        return torch.zeros_like(x)
    v = (x * (torch.full_like(a, q) / a)).clamp(-q, q)
    code = v.round() if uniform is None else either(v, uniform)
    return (code / q) * a


def _fine(
    x: Tensor, uniform: Tensor, steps: int, low: Tensor, high: Tensor, parts: int, stochastic: bool
) -> tuple[Tensor, Tensor]:
    """Visible level floor(F / parts + 1/2) and kept level F / parts of a code with extra bits, (n,)."""
    if bool(high - low <= 2 * SMALLEST):
        return low.expand_as(x), low.expand_as(x)
    v = ((x - low) * (torch.full_like(low, steps) / (high - low))).clamp(0, steps) * parts
    code = either(v, uniform) if stochastic else v.round()
    t = (code / parts) / steps
    seen = (code / parts + 0.5).floor() / steps
    return low * (1 - seen) + high * seen, low * (1 - t) + high * t
