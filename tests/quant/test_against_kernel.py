"""The readable quantisers against the compiled update, bit for bit, on a stack in which every run differs."""

import numpy as np
import pytest
import torch

from tersa.quant.primitives import hash_uniform, stream
from tersa.quant.quantiser import quantise
from tersa.quant.spec import QuantSpec
from tersa.study.update import Moment, Settings, State, reference_, update_

BITS = {"symmetric": [2, 3, 8], "asymmetric": [1, 3, 8], "binary": [1], "ternary": [2]}
SPECS = [
    QuantSpec.model_validate({"kind": kind, "bits": bits, "range": where, "rounding": rounding})
    for kind, sizes in BITS.items()
    for bits in sizes
    for where in ("global", "layer", "channel")
    for rounding in ("nearest", "stochastic")
]
WEIGHT = 1.3 * torch.sin(torch.arange(64 * 50) * 0.7).view(64, 50) ** 3 + 0.2
BIAS = 0.2 * torch.sin(torch.arange(64) * 0.3)
STEP = 7


@pytest.mark.parametrize("update", [update_, reference_])
def test_the_compiled_snap_is_the_readable_one(update) -> None:
    runs = len(SPECS)
    tensors = [tensor.expand(runs, *tensor.shape).clone() for tensor in (WEIGHT, BIAS)]
    everywhere, nowhere = np.ones(2, dtype=bool), np.zeros(2, dtype=bool)
    chosen = Settings.of(SPECS, [0.0] * runs, list(range(runs)), 2)
    state = State.of(tensors, chosen, "sgd")
    still = np.zeros(runs, dtype=np.float32)
    update(
        state,
        [None, None],
        chosen,
        Moment("sgd", still, STEP, 1, np.ones(runs, dtype=bool), nowhere, everywhere),
    )
    for run, spec in enumerate(SPECS):
        for place, x in enumerate((WEIGHT, BIAS)):
            uniform = None
            if spec.rounding == "stochastic":
                key = stream(torch.tensor([run]), STEP, place)
                uniform = hash_uniform(key, x.numel())[0].view(x.shape)
            expected = quantise(x, spec, uniform=uniform).values
            assert torch.equal(state.values[place][run], expected), f"{spec} differs"
