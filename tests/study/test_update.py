"""The compiled update against its readable twin, and both against torch's optimisers."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tersa.quant.quantiser import quantise
from tersa.quant.spec import Kind, QuantSpec, Range, Rounding, Storage
from tersa.study.device import DeviceUpdate
from tersa.study.stacked import threads_of
from tersa.study.update import OPTIMISERS, Moment, Settings, State, compiled, reference_, update_

EXACT = ("sgd", "momentum", "nesterov")
ULPS = 3e-6
"""Square roots and powers may differ by an ulp between the two, which a few steps carry on."""
KINDS: tuple[Kind, ...] = ("none", "symmetric", "asymmetric", "binary", "ternary")
RANGES: tuple[Range, ...] = ("global", "layer", "channel")
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "stochastic")
STORAGES: tuple[Storage, ...] = ("inplace", "latent", "accumulate")
SHAPES = ((17, 13), (17,))


def specs() -> list[QuantSpec]:
    found: list[QuantSpec] = [QuantSpec()]
    for kind, where, rounding, storage in itertools.product(KINDS[1:], RANGES, ROUNDINGS, STORAGES):
        extra = 4 if storage == "accumulate" else 0
        bits = {"binary": 1, "ternary": 2}.get(kind, 3)
        found.append(
            QuantSpec(kind=kind, bits=bits, range=where, rounding=rounding, storage=storage, extra_bits=extra)
        )
    return found


def values(runs: int, salt: float = 0.0) -> list[Tensor]:
    return [
        0.7 * torch.sin(torch.arange(runs * int(np.prod(shape))) * 1.7 + salt).view(runs, *shape)
        for shape in SHAPES
    ]


def moment(
    optimizer: str, runs: int, step: int = 0, rate: float = 0.1, active: npt.NDArray[np.bool_] | None = None
) -> Moment:
    on = np.ones(len(SHAPES), dtype=np.bool_)
    active = np.ones(runs, dtype=np.bool_) if active is None else active
    return Moment(optimizer, np.full(runs, rate, dtype=np.float32), step, step + 1, active, on, on)


@pytest.mark.parametrize("twin", ["alone", "together", "device"])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_the_three_ways_are_one(optimizer: str, twin: str) -> None:
    """The compiled update, and the one that GPUs run, against the readable one; the last run has diverged."""
    chosen = specs()
    runs = len(chosen)
    settings = Settings.of(chosen, [0.001] * runs, list(range(runs)), len(SHAPES))
    fast, slow = (State.of(values(runs), settings, optimizer) for _ in range(2))
    first = values(runs, 5.0)
    active = np.arange(runs) < runs - 1
    at = moment(optimizer, runs, 2, active=active)
    if twin == "device":
        DeviceUpdate(fast, settings)(first, at)
    else:
        with threads_of(1 if twin == "alone" else 2):
            update_(fast, first, settings, at)
    reference_(slow, first, settings, at)
    for ours, twin in zip([*fast.values, *fast.masters], [*slow.values, *slow.masters], strict=True):
        if optimizer in EXACT:
            torch.testing.assert_close(ours, twin, rtol=0, atol=0)
        else:  # an ulp before a threshold is a whole level after it: nearly all are equal, and none far off
            assert ((ours - twin).abs() <= ULPS).float().mean() > 0.999
    for ours, twin in zip([*fast.firsts, *fast.seconds], [*slow.firsts, *slow.seconds], strict=True):
        torch.testing.assert_close(ours, twin, rtol=ULPS, atol=ULPS)


TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_steps_are_those_of_torch(optimizer: str) -> None:
    settings = Settings.of([QuantSpec()], [0.01], [1], len(SHAPES))
    state = State.of(values(1), settings, optimizer)
    theirs = [value.clone().requires_grad_() for value in values(1)]
    reference = TORCH[optimizer](theirs)
    for step in range(5):
        grads = values(1, 2.0 + step)
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = grad.clone()
        reference.step()
        update_(state, grads, settings, moment(optimizer, 1, step))
    for ours, parameter in zip(state.values, theirs, strict=True):
        torch.testing.assert_close(ours, parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "spec", [s for s in specs() if s.active and s.storage == "inplace" and s.rounding == "nearest"]
)
def test_snap_is_that_of_the_quantiser(spec: QuantSpec) -> None:
    settings = Settings.of([spec], [0.0], [1], len(SHAPES))
    state = State.of(values(1), settings, "sgd")
    update_(state, values(1), settings, moment("sgd", 1, rate=0.0))
    for ours, start in zip(state.values, values(1), strict=True):
        torch.testing.assert_close(ours[0], quantise(start[0], spec).values, rtol=1e-6, atol=1e-7)


def test_stochastic_rounding_is_right_on_average() -> None:
    """The mean over many draws of a value between two levels is the value: deviation sqrt(p (1 - p) / n)."""
    count, level = 40_000, 1 / 3
    spec = QuantSpec(kind="symmetric", bits=3, range="global", rounding="stochastic")
    settings = Settings.of([spec], [0.0], [7], 1)
    state = State.of([torch.full((1, count, 1), 0.4 * level)], settings, "sgd")
    on = np.ones(1, dtype=np.bool_)
    update_(
        state, [torch.zeros(1, count, 1)], settings, Moment("sgd", np.zeros(1, np.float32), 3, 1, on, on, on)
    )
    codes = state.values[0] / level
    assert set(codes.round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert abs(float(codes.mean()) - 0.4) < 5 * (0.24 / count) ** 0.5


def test_an_update_below_half_a_level_is_lost_in_place_and_kept_in_extra_bits() -> None:
    """Why document 000's networks stop learning at few bits, in one weight."""
    lost = QuantSpec(kind="symmetric", bits=3, range="global")
    kept = QuantSpec(kind="symmetric", bits=3, range="global", storage="accumulate", extra_bits=4)
    settings = Settings.of([lost, kept], [0.0, 0.0], [1, 1], 1)
    state = State.of([torch.zeros(2, 1, 1)], settings, "sgd")
    on, both = np.ones(1, dtype=np.bool_), np.ones(2, dtype=np.bool_)
    for step in range(10):
        step_of = Moment("sgd", np.full(2, 0.05, np.float32), step, step + 1, both, on, on)
        update_(state, [-torch.ones(2, 1, 1)], settings, step_of)
    assert state.values[0].flatten().tolist() == pytest.approx([0.0, 1 / 3])


def test_accumulated_values_are_codes_of_the_stated_bits() -> None:
    for kind, bits in (("symmetric", 3), ("asymmetric", 2), ("binary", 1), ("ternary", 2)):
        spec = QuantSpec(
            kind=kind, bits=bits, range="global", storage="accumulate", extra_bits=4, rounding="stochastic"
        )
        settings = Settings.of([spec], [0.0], [3], len(SHAPES))
        state = State.of(values(1), settings, "sgd")
        update_(state, values(1, 1.0), settings, moment("sgd", 1))
        for seen, kept in zip(state.values, state.masters, strict=True):
            assert len(seen.unique()) <= 2**bits
            assert len(kept.unique()) <= 2 ** (bits + 4)
            step = 2.0 / ({"symmetric": 6, "asymmetric": 3, "binary": 1, "ternary": 2}[kind])
            assert float((seen - kept).abs().max()) <= step / 2 + 1e-6


def test_inactive_runs_and_unnamed_tensors_stay() -> None:
    spec = QuantSpec(kind="symmetric", bits=3)
    settings = Settings.of([spec, spec], [0.0, 0.0], [1, 2], len(SHAPES))
    state = State.of(values(2), settings, "sgd")
    named = np.array([True, False])
    at = Moment("sgd", np.ones(2, np.float32), 0, 1, np.array([False, True]), named, named)
    update_(state, [values(2, 3.0)[0], None], settings, at)
    start = values(2)
    torch.testing.assert_close(state.values[0][0], start[0][0], rtol=0, atol=0)
    assert not torch.equal(state.values[0][1], start[0][1])
    torch.testing.assert_close(state.values[1], start[1], rtol=0, atol=0)


def test_degenerate_tensors() -> None:
    """All zeros stay zeros; equal values are the one level there is, or an end of a range around zero."""
    chosen = [
        QuantSpec(kind=kind, bits=b) for kind, b in (("symmetric", 3), ("asymmetric", 3), ("ternary", 2))
    ]
    settings = Settings.of(chosen, [0.0] * 3, [1] * 3, 1)
    on, runs = np.ones(1, dtype=np.bool_), np.ones(3, dtype=np.bool_)
    for start in (0.0, 0.25):
        state = State.of([torch.full((3, 4, 2), start)], settings, "sgd")
        update_(
            state,
            [torch.zeros(3, 4, 2)],
            settings,
            Moment("sgd", np.zeros(3, np.float32), 0, 1, runs, on, on),
        )
        torch.testing.assert_close(state.values[0], torch.full((3, 4, 2), start), rtol=0, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_captured_graph_gives_what_the_cpu_gives() -> None:
    chosen = specs()
    runs = len(chosen)
    settings = Settings.of(chosen, [0.001] * runs, list(range(runs)), len(SHAPES))
    ours = State.of([value.cuda() for value in values(runs)], settings, "adadelta")
    theirs = State.of(values(runs), settings, "adadelta")
    update = DeviceUpdate(ours, settings)
    for step in range(4):  # eager, recorded, replayed, replayed
        grads = values(runs, 5.0 + step)
        at = moment("adadelta", runs, step)
        update([grad.cuda() for grad in grads], at)
        reference_(theirs, grads, settings, at)
    for mine, twin in zip(ours.values, theirs.values, strict=True):
        assert ((mine.cpu() - twin).abs() <= 1e-4).float().mean() > 0.99


def test_what_the_kernel_holds() -> None:
    assert compiled(QuantSpec(kind="symmetric", bits=3, range="calibrated"))
    assert not compiled(QuantSpec(kind="symmetric", bits=3, range="percentile"))
    assert not compiled(QuantSpec(kind="power-of-two", bits=3))
    assert compiled(QuantSpec(kind="power-of-two", bits=3, storage="after"))
