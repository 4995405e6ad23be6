"""The update on devices other than the CPU: whole tensors at once, captured as one graph on CUDA.

What `tersa.study.update.reference_` says run by run is here said for all runs of a stack together: runs whose
quantisers differ in numbers alone (bits, range, seed) form a group, and each group is snapped by one chain of
tensor operations with those numbers as columns (r, 1). On CUDA the chain is recorded once per set of moved
tensors and replayed, so that an update costs one launch; rates, counters and the mask of diverged runs are
read from buffers. On a CPU the same lines run uncaptured: that is their test, against the compiled kernel.

Example:
    >>> import numpy as np
    >>> from tersa.quant.spec import QuantSpec
    >>> settings = Settings.of([QuantSpec(kind="symmetric", bits=2, range="global")], [0.0], [1], 1)
    >>> state = State.of([torch.tensor([[[0.2, 0.9]]])], settings, "sgd")
    >>> on = np.ones(1, dtype=np.bool_)
    >>> moment = Moment("sgd", np.ones(1, dtype=np.float32), 1, 1, on, on, on)
    >>> DeviceUpdate(state, settings)([torch.tensor([[[-0.5, 0.0]]])], moment)
    >>> state.values[0].tolist()
    [[[1.0, 1.0]]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.quant.primitives import WORD, hash_uniform, mix, sign_pm1
from tersa.quant.ranges import SMALLEST
from tersa.study import kernel
from tersa.study.update import Moment, Settings, State, either


@dataclass(frozen=True)
class Group:
    """Runs that are snapped by the same operations.

    Attributes:
        kind, where, stochastic, storage: what they share, as the kernel's codes.
        runs: their places, (r,) int64.
        steps: distance of the highest level from the lowest, in levels, (r, 1).
        parts: 2 to the extra bits, (r, 1).
        seeds: (r,) int64.
    """

    kind: int
    where: int
    stochastic: bool
    storage: int
    runs: Tensor
    steps: Tensor
    parts: Tensor
    seeds: Tensor


class DeviceUpdate:
    """Moves and snaps one state, again and again.

    Args:
        state: changed in place at each call.
        settings: of its runs; the quantisers that the kernel does not hold count as none.
    """

    def __init__(self, state: State, settings: Settings) -> None:
        self.state, self.settings = state, settings
        self.place = state.values[0].device
        self.groups = _groups(settings, self.place)
        self.low = torch.tensor(settings.low, device=self.place)  # (R, T)
        self.high = torch.tensor(settings.high, device=self.place)
        self.decay = torch.tensor(settings.decay, device=self.place).unsqueeze(1)
        self.rate = torch.zeros(len(settings.decay), 1, device=self.place)
        self.active = torch.ones(len(settings.decay), 1, dtype=torch.bool, device=self.place)
        self.step = torch.zeros((), dtype=torch.int64, device=self.place)
        self.time = torch.zeros((), device=self.place)
        self.grads = [torch.zeros_like(value) for value in state.values]
        self.captured: dict[tuple[object, ...], torch.cuda.CUDAGraph | None] = {}

    @torch.no_grad()
    def __call__(self, grads: Sequence[Tensor | None], moment: Moment) -> None:
        """One update; on CUDA the second of its kind is recorded, and later ones replay it."""
        self.rate.copy_(torch.from_numpy(moment.rate).unsqueeze(1))
        self.active.copy_(torch.from_numpy(moment.active).unsqueeze(1))
        self.step.fill_(moment.step)
        self.time.fill_(moment.time)
        for held, grad in zip(self.grads, grads, strict=True):
            if grad is not None:
                held.copy_(grad)
        key = (moment.optimizer, moment.moved.tobytes(), moment.snapped.tobytes())
        if self.place.type != "cuda" or key not in self.captured:
            self.captured[key] = None
            self._carry_out(moment)
            return
        graph = self.captured[key]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._carry_out(moment)
            self.captured[key] = graph
        graph.replay()

    def _carry_out(self, moment: Moment) -> None:
        """The chain of operations; nothing here waits for the device."""
        for t, (value, master) in enumerate(zip(self.state.values, self.state.masters, strict=True)):
            if not (moment.moved[t] or moment.snapped[t]):
                continue
            kept = master.flatten(1)
            if moment.moved[t]:
                kept = self._step(t, kept, moment.optimizer)
            seen = kept.clone()
            if moment.snapped[t]:
                for group in self.groups:
                    rows, levels = self._snap(t, kept[group.runs], group)
                    kept = kept.index_copy(0, group.runs, rows)
                    seen = seen.index_copy(0, group.runs, levels)
            old = master.flatten(1)
            value.flatten(1).copy_(torch.where(self.active, seen, value.flatten(1)))
            if master is not value:
                master.flatten(1).copy_(torch.where(self.active, kept, old))

    def _step(self, t: int, x: Tensor, optimizer: str) -> Tensor:
        """x after one step, (R, n); the optimiser's sums are changed in place, of active runs alone."""
        d = self.grads[t].flatten(1) + self.decay * x
        first = self.state.firsts[t].flatten(1) if self.state.firsts else x
        second = self.state.seconds[t].flatten(1) if self.state.seconds else x
        one = torch.ones((), device=self.place)
        if optimizer == "sgd":
            return x - self.rate * d
        if optimizer in ("momentum", "nesterov"):
            share = float(kernel.MOMENTUM_SHARE)
            m = self._keep(first, share * first + d)
            return x - self.rate * (m if optimizer == "momentum" else d + share * m)
        if optimizer == "adagrad":
            s = self._keep(first, first + d * d)
            return x - self.rate * (d / (s.sqrt() + float(kernel.ADAGRAD_EPS)))
        if optimizer == "adadelta":
            rho, eps = one * float(kernel.RHO), float(kernel.ADADELTA_EPS)
            s = rho * first + (one - rho) * (d * d)
            delta = ((second + eps) / (s + eps)).sqrt() * d
            self._keep(first, s)
            self._keep(second, rho * second + (one - rho) * (delta * delta))
            return x - self.rate * delta
        beta1, beta2 = one * float(kernel.BETA1), one * float(kernel.BETA2)
        m = self._keep(first, beta1 * first + (one - beta1) * d)
        v = self._keep(second, beta2 * second + (one - beta2) * (d * d))
        size = (v / (one - beta2**self.time)).sqrt() + float(kernel.ADAM_EPS)
        return x - self.rate * ((m / (one - beta1**self.time)) / size)

    def _keep(self, old: Tensor, new: Tensor) -> Tensor:
        """Write a sum of the active runs, and give it back."""
        old.copy_(torch.where(self.active, new, old))
        return old

    def _snap(self, t: int, x: Tensor, group: Group) -> tuple[Tensor, Tensor]:
        """What is kept and what is seen of a group's rows, (r, n) each."""
        low, high = self.low[group.runs, t].unsqueeze(1), self.high[group.runs, t].unsqueeze(1)
        if group.storage == kernel.LATENT and group.where == kernel.GLOBAL:
            x = torch.minimum(torch.maximum(x, low), high)
        key = mix((self._stream(group.seeds) + t) & WORD)
        uniform = hash_uniform(key, x.shape[1]) if group.stochastic else None
        pieces = int(self.state.rows[t]) if group.where == kernel.CHANNEL else 1
        cut = (len(x) * pieces, -1)
        columns = [c.repeat_interleave(pieces, 0) for c in (low, high, group.steps, group.parts)]
        rows = x.reshape(cut)
        levels, fine = _levels(rows, None if uniform is None else uniform.reshape(cut), group, *columns)
        seen = levels.reshape(x.shape)
        if group.storage == kernel.INPLACE:
            return seen, seen
        return fine.reshape(x.shape), seen

    def _stream(self, seeds: Tensor) -> Tensor:
        return mix((mix(seeds & WORD) + self.step) & WORD)


def _groups(settings: Settings, device: torch.device) -> list[Group]:
    """The runs of a stack by what is done to them; those without a quantiser are in no group."""
    found: dict[tuple[int, int, bool, int], list[int]] = {}
    for run, kind in enumerate(settings.kind):
        if kind != kernel.NONE:
            key = (
                int(kind),
                int(settings.where[run]),
                bool(settings.stochastic[run]),
                int(settings.storage[run]),
            )
            found.setdefault(key, []).append(run)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)

    return [
        Group(
            *key,
            torch.tensor(runs, device=device),
            column([_steps(key[0], int(settings.bits[run])) for run in runs]),
            column([2.0 ** int(settings.extra[run]) for run in runs]),
            torch.tensor([int(settings.seed[run]) for run in runs], device=device),
        )
        for key, runs in found.items()
    ]


def _steps(kind: int, bits: int) -> float:
    """Distance of the highest level from the lowest, in levels."""
    steps = {
        kernel.SYMMETRIC: (1 << bits) - 2,
        kernel.ASYMMETRIC: (1 << bits) - 1,
        kernel.BINARY: 1,
        kernel.TERNARY: 2,
    }
    return float(steps[kind])


def _levels(
    x: Tensor, uniform: Tensor | None, group: Group, low: Tensor, high: Tensor, steps: Tensor, parts: Tensor
) -> tuple[Tensor, Tensor]:
    """Levels of rows that have a range each, and what is kept of them, (p, n) each."""
    if group.where != kernel.GLOBAL:
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    if group.kind != kernel.ASYMMETRIC:
        high = torch.maximum(low.abs(), high.abs())
        low = -high
    if group.storage == kernel.ACCUMULATE:
        return _fine(x, uniform, low, high, steps, parts)
    if group.kind == kernel.BINARY:
        a = high if group.where == kernel.GLOBAL else x.double().abs().mean(1, keepdim=True).float()
        if uniform is None:
            return sign_pm1(x) * a, x
        p = torch.where(a > SMALLEST, ((x / a + 1) / 2).clamp(0, 1), 0.5)
        return torch.where(uniform < p, a, -a), x
    if group.kind == kernel.TERNARY and group.where != kernel.GLOBAL:
        t = x.double().abs().mean(1, keepdim=True).float() * float(kernel.TWN)
        above = x.abs() > t
        count = above.sum(1, keepdim=True)
        total = torch.where(above, x.abs().double(), 0.0).sum(1, keepdim=True)
        a = torch.where(count > 0, total / count, 0.0).float()
        if uniform is not None:
            return _even(x, uniform, torch.ones_like(a), a), x
        return torch.where(above, torch.where(x > 0, a, -a), torch.zeros_like(x)), x
    if group.kind == kernel.ASYMMETRIC:
        v = torch.minimum(((x - low) * (steps / (high - low))).clamp(min=0), steps)
        t = (v.round() if uniform is None else either(v, uniform)) / steps
        return torch.where(high - low <= 2 * SMALLEST, low, low * (1 - t) + high * t), x
    return _even(x, uniform, steps / 2, high), x


def _even(x: Tensor, uniform: Tensor | None, q: Tensor, a: Tensor) -> Tensor:
    """Levels a c / q, c = -q .. q."""
    v = torch.minimum(torch.maximum(x * (q / a), -q), q)
    code = v.round() if uniform is None else either(v, uniform)
    return torch.where(a <= SMALLEST, 0.0, (code / q) * a)


def _fine(
    x: Tensor, uniform: Tensor | None, low: Tensor, high: Tensor, steps: Tensor, parts: Tensor
) -> tuple[Tensor, Tensor]:
    """Visible level floor(F / parts + 1/2) and kept level F / parts of a code with extra bits."""
    v = torch.minimum(((x - low) * (steps / (high - low))).clamp(min=0), steps) * parts
    code = v.round() if uniform is None else either(v, uniform)
    t = (code / parts) / steps
    seen = (code / parts + 0.5).floor() / steps
    flat = high - low <= 2 * SMALLEST
    return (
        torch.where(flat, low, low * (1 - seen) + high * seen),
        torch.where(flat, low, low * (1 - t) + high * t),
    )
