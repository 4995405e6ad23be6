"""The array: its description, pairs, and deployment in closed form."""

import math

import pytest
import torch

from tersa.errors import UsageError
from tersa.quant.crossbar import Crossbar, deploy, from_pair, to_pair

SHAPES = [(100, 784), (100,), (10, 100), (10,)]
SPREAD_TOLERANCE = 0.02
"""Relative; the standard error of a deviation over 79,510 weights is 0.0025."""


def network(runs: int) -> list[torch.Tensor]:
    """Non-trivial weights, each run's with an amplitude of its own."""
    found = []
    for i, shape in enumerate(SHAPES):
        wave = torch.sin(0.7 * torch.arange(math.prod(shape)) + i).reshape(shape)
        found.append(torch.stack([wave * (0.3 + 0.1 * run) for run in range(runs)]))
    return found


def errors(crossbar: Crossbar, seconds: float = 0.0, seed: int = 1) -> torch.Tensor:
    """Error of the first layer's weights as a share of their half width."""
    weights = network(1)
    found = deploy(weights, crossbar, [seed], seconds)[0] - weights[0]
    return found / weights[0].abs().max()


def test_ideal_array_gives_the_weights_bit_for_bit() -> None:
    weights = network(2)
    for found, old in zip(deploy(weights, Crossbar(), [1, 2], seconds=1e9), weights, strict=True):
        assert torch.equal(found, old)


def test_read_noise_and_tiles_leave_stored_weights_alone() -> None:
    crossbar = Crossbar(read_noise=0.1, response="soft-bounds", rows=8)
    assert torch.equal(deploy(network(1), crossbar, [1])[0], network(1)[0])


@pytest.mark.parametrize("g_min_us", [0.0, 1.0, 24.0])
def test_pairs_are_exact_there_and_back(g_min_us: float) -> None:
    crossbar = Crossbar(g_min_us=g_min_us)
    weights = network(2)[0].flatten(1)
    half = weights.abs().amax(1, keepdim=True)
    pair = to_pair(weights, half, crossbar)
    assert float(pair.min()) == g_min_us
    assert float(pair.max()) == 25.0
    assert bool((pair.amin(1) == g_min_us).all())  # one of each pair rests
    assert torch.equal(from_pair(pair, half, crossbar), weights)


def test_all_zero_weights_rest() -> None:
    zeros = torch.zeros(1, 5)
    pair = to_pair(zeros, torch.zeros(1, 1), Crossbar(g_min_us=2.0))
    assert bool((pair == 2.0).all())
    assert torch.equal(deploy([zeros], Crossbar(program_noise=0.1), [1])[0], zeros)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_weights_fit_pairs_of_one_bit_less(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    weights = [0.37 * (torch.arange(-top, top + 1).float() / top)[None]]
    kept = deploy(weights, Crossbar(conductance_bits=bits - 1), [1])[0]
    assert torch.equal(kept, weights[0])


def test_levels_are_the_nearest() -> None:
    found = deploy([torch.tensor([[0.1, 0.49, -0.51, 1.0]])], Crossbar(conductance_bits=1), [1])[0]
    assert found.tolist() == [[0.0, 0.0, -1.0, 1.0]]


def test_programming_noise_is_a_share_of_the_half_width() -> None:
    found = errors(Crossbar(program_noise=0.05))
    assert float(found.std()) == pytest.approx(0.05, rel=SPREAD_TOLERANCE)
    assert abs(float(found.mean())) < 5 * 0.05 / math.sqrt(found.numel())


def test_drift_shrinks_every_weight_alike() -> None:
    weights = network(1)
    found = deploy(weights, Crossbar(drift_exponent=0.1, drift_start_s=2.0), [1], seconds=6.0)
    for new, old in zip(found, weights, strict=True):
        torch.testing.assert_close(new, old * 4**-0.1)


def test_drift_pulls_resting_devices_too() -> None:
    crossbar = Crossbar(g_min_us=5.0, drift_exponent=0.1)
    torch.testing.assert_close(
        deploy(network(1), crossbar, [1], 99.0)[0], network(1)[0] * 100**-0.1, rtol=1e-5, atol=1e-7
    )  # G+ and G- shrink by the same factor, so their difference does


def test_spread_of_drift_grows_with_time() -> None:
    large = torch.ones(1, 50_000)
    logs = [
        deploy([large], Crossbar(drift_exponent=0.2, drift_spread=0.02), [1], seconds)[0].log()
        for seconds in (math.e - 1, math.e**4 - 1)
    ]
    for found, time in zip(logs, (1.0, 4.0), strict=True):
        assert float(found.mean()) == pytest.approx(-0.2 * time, rel=SPREAD_TOLERANCE)
        assert float(found.std()) == pytest.approx(0.02 * time, rel=SPREAD_TOLERANCE)


def test_stuck_share_and_place() -> None:
    weights = [torch.full((1, 40_000), 0.5), torch.ones(1, 1)]
    crossbar = Crossbar(stuck_low=0.1)
    found = deploy(weights, crossbar, [1], halves=[torch.ones(1), torch.ones(1)])[0]
    assert set(found.unique().tolist()) == {0.0, 0.5}  # G- rests at g_min in any case
    assert float((found == 0.0).double().mean()) == pytest.approx(0.1, abs=0.008)
    both = deploy([-weights[0]], Crossbar(stuck_high=0.1), [1], halves=[torch.ones(1)])[0]
    assert set(both.unique().tolist()) == {-1.0, -0.5, 0.0, 0.5}


def test_stuck_devices_do_not_drift() -> None:
    found = deploy([torch.ones(1, 1000)], Crossbar(stuck_high=0.5, drift_exponent=1.0), [1], seconds=9.0)[0]
    assert torch.allclose(found.unique(), torch.tensor([-0.9, 0.0, 0.1, 1.0]))


@pytest.mark.parametrize(
    "crossbar",
    [
        Crossbar(program_noise=0.1, stuck_random=0.1, drift_exponent=0.1, drift_spread=0.05),
        Crossbar(device="pcm", conductance_bits=3, stuck_low=0.02),
    ],
    ids=["gaussian", "pcm"],
)
def test_a_run_meets_the_same_alone_and_in_a_stack(crossbar: Crossbar) -> None:
    weights = network(3)
    stack = deploy(weights, crossbar, [4, 5, 6], 3600.0)
    for run in range(3):
        alone = deploy([w[run : run + 1] for w in weights], crossbar, [4 + run], 3600.0)
        for many, one in zip(stack, alone, strict=True):
            assert torch.equal(many[run], one[0])


def test_seeds_decide() -> None:
    noisy = Crossbar(program_noise=0.1)
    assert torch.equal(errors(noisy, seed=1), errors(noisy, seed=1))
    pair = torch.stack([errors(noisy, seed=1).flatten(), errors(noisy, seed=2).flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.02


def test_noise_does_not_repeat_the_first_weights() -> None:
    first = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    noise = deploy([torch.ones(1, 20_000)], Crossbar(program_noise=0.1), [1])[0][0] - 1
    assert abs(float(torch.corrcoef(torch.stack([first, noise]))[0, 1])) < 0.04


def test_phase_change_loses_weight_as_its_exponents_say() -> None:
    found = deploy([torch.ones(1, 50_000)], Crossbar(device="pcm"), [1], seconds=20.0 * 99)[0]
    # a target of g_max: nu = 0.049, spread 0.008; the other device rests near 0 and drifts too
    resting = 0.26348 / 25 / math.sqrt(2 * math.pi) * 100**-0.1 * math.exp(0.5 * (0.045 * math.log(100)) ** 2)
    kept = 100**-0.049 * math.exp(0.5 * (0.008 * math.log(100)) ** 2)
    assert float(found.mean()) == pytest.approx(kept - resting, rel=2e-3)


def test_json_round_trip() -> None:
    crossbar = Crossbar(device="pcm", stuck_low=0.01, response="exponential", up_nonlinearity=2.0)
    assert Crossbar.model_validate_json(crossbar.model_dump_json()) == crossbar
    assert (crossbar.answer.up, crossbar.stuck.low) == (2.0, 0.01)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(UsageError) as caught:
        Crossbar(device="pmc", rows=0, nosie=1, stuck_low=0.6, stuck_high=0.6, g_min_us=30)  # type: ignore  # faults on purpose
    text = str(caught.value)
    assert "5 faults" in text
    for part in ("unknown device 'pmc'; did you mean 'pcm'?", "rows is 0", "unknown setting 'nosie'"):
        assert part in text
    assert "must be below 1" in text
    assert "g_min_us must be below g_max_us" in text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"device": "pcm", "program_noise": 0.1}, "brings measured noise"),
        ({"device": "pcm", "drift_start_s": 5.0}, "leave out .*drift_start_s"),
        ({"up_nonlinearity": 1.0}, "response=exponential alone"),
        ({"drift_exponent": -0.1}, "drift_exponent is -0.1; must be greater than or equal to 0"),
    ],
)
def test_settings_that_do_nothing_are_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Crossbar.model_validate(fields)


@pytest.mark.parametrize(("seeds", "seconds"), [([1], 0.0), ([1, 2], -1.0)])
def test_deploy_refuses(seeds: list[int], seconds: float) -> None:
    with pytest.raises(UsageError, match="each run needs one seed"):
        deploy(network(2), Crossbar(program_noise=0.1), seeds, seconds)


def test_a_stored_array_of_phase_change_is_read_again() -> None:
    stored = Crossbar(device="pcm").model_dump()  # every field, those of the other device at their defaults
    assert Crossbar.model_validate(stored) == Crossbar(device="pcm")
