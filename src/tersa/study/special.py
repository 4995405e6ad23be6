"""Quantisers that the compiled update does not hold, run by run.

Power-of-two and clustered levels, percentile and learned ranges are rarer and dearer than one pass over
memory: their runs take the step with all others, and are snapped here through `tersa.quant`. A learned range
(LSQ) has a step size s per tensor, trained on the gradient of the snapped weight by plain descent,

    s <- s - 0.01 (rate / first rate) dL/ds

in which the rate falls as the weights' own does.

References:
    Esser et al., Learned step size quantization (ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.quant.learned import initial_step, lsq_gradient, step_bounds
from tersa.quant.primitives import hash_uniform, stream
from tersa.quant.quantiser import fake_quantise
from tersa.quant.ranges import Bounds
from tersa.quant.spec import QuantSpec
from tersa.study.update import Moment, Settings, State, compiled

STEP_RATE = 0.01
"""Rate of LSQ's step sizes at the start; the paper trains them with the weights' optimiser at 0.01."""


def check(spec: QuantSpec) -> None:
    """Refuse what has no meaning run by run.

    Raises:
        UsageError: extra bits for levels that are not evenly spaced, or whose range is measured elsewhere.
    """
    if spec.storage == "accumulate" and not compiled(spec):
        raise UsageError(
            f"storage accumulate needs evenly spaced levels: not {spec.kind} with range {spec.range}; choose "
            "symmetric, asymmetric, binary or ternary with range global, layer, channel or calibrated"
        )


@dataclass
class Special:
    """Runs of a stack that are snapped one by one.

    Attributes:
        runs: their places in the stack.
        steps: step size of each tensor of a run with a learned range.
    """

    runs: tuple[int, ...]
    steps: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])

    @classmethod
    def of(cls, settings: Settings, state: State) -> Special:
        """The special runs of a stack, their step sizes from the start of the weights."""
        runs = tuple(run for run, spec in enumerate(settings.specs) if not compiled(spec))
        steps = {
            (run, t): initial_step(master[run], settings.specs[run].bits)
            for run in runs
            if settings.specs[run].range == "learned"
            for t, master in enumerate(state.masters)
        }
        return cls(runs, steps)

    @torch.no_grad()
    def before_(
        self, grads: Sequence[Tensor | None], state: State, settings: Settings, rate: Sequence[float]
    ) -> None:
        """Learned ranges: move the step sizes, and let only weights inside the range move.

        Args:
            grads: of the snapped values; those of learned runs are changed in place.
            state: weights before the update.
            settings: of the runs.
            rate: present learning rate of each run over its first.
        """
        for (run, t), step in self.steps.items():
            grad = grads[t]
            if grad is not None:
                inside, of_step = lsq_gradient(
                    grad[run], state.masters[t][run], step, settings.specs[run].bits
                )
                grad[run] = inside
                step.sub_(STEP_RATE * rate[run] * of_step).clamp_(min=1e-6)

    @torch.no_grad()
    def after_(self, state: State, settings: Settings, moment: Moment) -> None:
        """Snap the tensors that the moment names."""
        for run in self.runs:
            if not moment.active[run]:
                continue
            spec = settings.specs[run]
            for t in np.flatnonzero(moment.snapped):
                master = state.masters[t][run]
                if not bool(master.isfinite().all()):
                    continue
                bounds: Bounds | None = None
                if (run, int(t)) in self.steps:
                    bounds = step_bounds(self.steps[run, int(t)], spec.bits)
                elif spec.range == "calibrated":
                    bounds = master.new_tensor(settings.low[run, t]), master.new_tensor(settings.high[run, t])
                seed = torch.tensor([int(settings.seed[run])], device=master.device)
                uniform = None
                if spec.rounding == "stochastic":
                    key = stream(seed, moment.step, int(t))
                    uniform = hash_uniform(key, master.numel()).view_as(master)
                state.values[t][run] = fake_quantise(master, spec, bounds=bounds, uniform=uniform)
                if spec.storage == "inplace":
                    master.copy_(state.values[t][run])
