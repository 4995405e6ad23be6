"""Writing during training: the readable form in closed form, and its compiled twin against it."""

import math

import numpy as np
import pytest
import torch

from tersa.quant.chance import hash_normal
from tersa.quant.crossbar_kernel import alone, normal_quantile, together
from tersa.quant.faults import Faults, Stuck, draw_faults
from tersa.quant.programming import (
    EXTREMES,
    GIVEN,
    LARGEST,
    Cells,
    Ranges,
    blank,
    given_range,
    own_range,
    program,
    program_,
    programming_key,
)

QUANTILE_TOLERANCE = 5e-7
"""Relative; PPND7 promises about 1e-7."""
TWIN_TOLERANCE = 2e-6
"""Absolute, in half widths: the quantile's seven digits times sigma, and float32 sums."""
SPREAD_TOLERANCE = 0.02
RUNS = 3
SEEDS = torch.tensor([5, 6, 7])
NOTHING = torch.zeros(RUNS)
SIGMA = torch.tensor([0.1, 0.0, 0.3])


def levels(bits: int, shape: tuple[int, ...] = (40, 30), shift: float = 0.0) -> torch.Tensor:
    """Symmetric levels of `bits` bits, (R, ...), each run's range another."""
    top = 2 ** (bits - 1) - 1
    wave = torch.sin(0.37 * torch.arange(RUNS * math.prod(shape)) + shift).reshape(RUNS, *shape)
    amplitude = torch.tensor([0.5, 1.0, 1.7]).reshape(RUNS, *[1] * len(shape))
    return torch.round(wave * top) / top * amplitude


def key(step: int = 0) -> torch.Tensor:
    return programming_key(SEEDS, step, tensor=2)


def compiled(
    weights: torch.Tensor, cells: Cells, faults: Faults | None, ranges: Ranges, sigma: torch.Tensor, step: int
) -> tuple[torch.Tensor, Cells]:
    """`program_` as a function."""
    fresh = Cells(cells.level.clone(), cells.deviation.clone(), cells.half.clone())
    effective = torch.full_like(weights, 77.0)
    program_(effective, weights, fresh, faults, ranges, sigma, key(step))
    return effective, fresh


@pytest.fixture(params=["readable", "compiled"])
def form(request: pytest.FixtureRequest):
    if request.param == "compiled":
        return compiled
    return lambda w, cells, faults, ranges, sigma, step: program(w, cells, faults, ranges, sigma, key(step))


@pytest.mark.parametrize("measured", ["largest", "extremes"])
def test_without_flaws_the_weights_bit_for_bit(form, measured) -> None:
    weights = levels(8) * 1.1 + 0.37  # extremes that centre ± half width misses by a unit
    effective, _ = form(weights, blank(weights), None, own_range(RUNS, measured), NOTHING, 0)
    assert torch.equal(effective, weights)


@pytest.mark.parametrize(
    "ranges", [own_range(RUNS), given_range(NOTHING - 1, NOTHING + 1)], ids=["own", "given"]
)
def test_divergence_is_not_hidden(form, ranges: Ranges) -> None:
    weights = levels(4)
    weights[1, 3, 4] = math.nan
    effective, _ = form(weights, blank(weights), None, ranges, SIGMA, 0)
    assert bool(effective[1, 3, 4].isnan())
    assert not bool(effective[[0, 2]].isnan().any())


def test_noise_is_a_share_of_the_half_width(form) -> None:
    weights = levels(4, (200, 100))
    effective, cells = form(weights, blank(weights), None, own_range(RUNS), SIGMA, 0)
    half = weights.abs().amax((1, 2))
    torch.testing.assert_close(cells.half[:, 0], half)
    for run in range(RUNS):
        error = (effective - weights)[run] / half[run]
        assert float(error.std()) == pytest.approx(float(SIGMA[run]), rel=SPREAD_TOLERANCE)
        assert abs(float(error.mean())) <= 5 * float(SIGMA[run]) / math.sqrt(error.numel())


def test_only_changed_cells_are_written_again(form) -> None:
    first, second = levels(3), levels(3, shift=0.05)
    second[:, 0, 0] = first[:, 0, 0] = first.abs().amax((1, 2))
    before, cells = form(first, blank(first), None, own_range(RUNS), SIGMA, 0)
    after, _ = form(second, cells, None, own_range(RUNS), SIGMA, 1)
    kept = first == second
    assert 0.1 < float(kept.double().mean()) < 0.99
    assert torch.equal(after[kept], before[kept])
    noisy = ~kept[[0, 2]]
    error = [(x - w)[[0, 2]][noisy] for x, w in ((before, first), (after, second))]
    assert not bool((error[0] == error[1]).any())


def test_a_range_that_grows_rewrites_nothing(form) -> None:
    weights = levels(5)
    before, cells = form(weights, blank(weights), None, own_range(RUNS), SIGMA, 0)
    after, again = form(weights * 1.3, cells, None, own_range(RUNS), SIGMA, 1)
    assert torch.equal(again.deviation, cells.deviation)
    torch.testing.assert_close(after, before * 1.3)


def test_a_shifted_range_rewrites_nothing(form) -> None:
    codes = torch.round(7.5 * (1 + torch.sin(0.3 * torch.arange(RUNS * 100)))).reshape(RUNS, 100)
    codes[:, 0], codes[:, 1] = 0, 15
    ranges = own_range(RUNS, "extremes")
    _, cells = form(codes / 15 - 0.5, blank(codes), None, ranges, SIGMA, 0)
    _, again = form(codes / 15 * 0.9 - 0.2, cells, None, ranges, SIGMA, 1)
    assert torch.equal(again.deviation, cells.deviation)


def test_given_range_holds_weights_inside(form) -> None:
    weights = levels(5)
    ranges = given_range(torch.full((RUNS,), -0.6), torch.full((RUNS,), 0.6))
    effective, cells = form(weights, blank(weights), None, ranges, NOTHING, 0)
    assert torch.equal(effective, weights.clamp(-0.6, 0.6))
    torch.testing.assert_close(cells.half, torch.full((RUNS, 1), 0.6))


def test_channels_have_ranges_of_their_own(form) -> None:
    weights = levels(4) * torch.linspace(0.1, 2.0, 40)[:, None]
    effective, cells = form(weights, blank(weights, 40), None, own_range(RUNS, pieces=40), SIGMA, 0)
    torch.testing.assert_close(cells.half, weights.abs().amax(2))
    error = ((effective - weights) / cells.half[:, :, None])[0]
    assert float(error.std()) == pytest.approx(0.1, rel=0.1)  # 1,200 weights
    narrow, wide = (effective - weights)[0, 1].std(), (effective - weights)[0, -1].std()
    assert float(wide / narrow) > 5


def test_stuck_pairs_in_closed_form(form) -> None:
    weights = torch.tensor([[0.5, 0.5, -0.5, -0.5, 0.5, 1.0]]).expand(RUNS, -1).contiguous()
    nan = math.nan
    starts = torch.arange(RUNS + 1) * 5
    faults = Faults(
        starts,
        torch.arange(5).repeat(RUNS),
        torch.tensor([0.25, nan, 0.75, nan, 1.0]).repeat(RUNS),
        torch.tensor([nan, 0.25, nan, 0.75, 0.5]).repeat(RUNS),
    )
    effective, _ = form(weights, blank(weights), faults, own_range(RUNS), NOTHING, 0)
    expected = torch.tensor([0.25, 0.5 - 0.25, 0.75 - 0.5, -0.75, 1.0 - 0.5, 1.0])
    torch.testing.assert_close(effective, expected.expand(RUNS, -1))


def test_a_stuck_device_has_no_noise_and_its_partner_half_the_variance(form) -> None:
    weights = torch.full((1, 20_000), 0.5)
    weights[0, -1] = 1.0
    ones = torch.ones(19_999)
    for negative, expected in ((ones * math.nan, 0.1 / math.sqrt(2)), (ones * 0.5, 0.0)):
        faults = Faults(torch.tensor([0, 19_999]), torch.arange(19_999), ones, negative)
        effective = torch.empty_like(weights)
        cells, sigma, seed = blank(weights), torch.tensor([0.1]), key()[:1]
        if form is compiled:
            program_(effective, weights, cells, faults, own_range(1), sigma, seed)
        else:
            effective, _ = program(weights, cells, faults, own_range(1), sigma, seed)
        assert float(effective[0, :-1].std()) == pytest.approx(expected, rel=SPREAD_TOLERANCE, abs=1e-7)


def test_a_run_draws_the_same_alone(form) -> None:
    weights = levels(4)
    stack, _ = form(weights, blank(weights), None, own_range(RUNS), SIGMA, 3)
    alone, _ = program(weights[2:], blank(weights[2:]), None, own_range(1), SIGMA[2:], key(3)[2:])
    torch.testing.assert_close(stack[2:], alone, rtol=0, atol=TWIN_TOLERANCE * 1.7)


def test_twins_agree_over_steps_with_everything_on() -> None:
    origin = torch.tensor([GIVEN, LARGEST, EXTREMES])
    ranges = Ranges(origin, torch.tensor([1, 40, 1]), torch.tensor([-0.4, 0, 0]), torch.tensor([0.5, 0, 0]))
    stuck = [Stuck(random=0.1), Stuck(low=0.05, high=0.05), Stuck()]
    faults = draw_faults(stuck, SEEDS.tolist(), 0, 1200)
    slow = fast = blank(levels(4), 40)
    for step in range(4):
        weights = levels(4, shift=0.1 * step)
        expected, slow = program(weights, slow, faults, ranges, SIGMA, key(step))
        found, fast = compiled(weights, fast, faults, ranges, SIGMA, step)
        torch.testing.assert_close(found, expected, rtol=0, atol=TWIN_TOLERANCE * 1.7)
        torch.testing.assert_close(fast.half, slow.half, rtol=0, atol=0)
        torch.testing.assert_close(fast.level, slow.level, rtol=0, atol=TWIN_TOLERANCE)


def test_threads_do_not_change_a_bit() -> None:
    weights = levels(4)
    found = []
    for kernel in (alone, together):
        cells, out = blank(weights), torch.empty_like(weights)
        ranges, index = own_range(RUNS), torch.zeros(0)
        kernel(
            out.flatten(1).numpy(), weights.flatten(1).numpy(), cells.level.numpy(), cells.deviation.numpy(),
            cells.half.numpy(), torch.zeros(RUNS + 1, dtype=torch.int64).numpy(), index.long().numpy(),
            index.numpy(), index.numpy(), ranges.origin.numpy(), ranges.pieces.numpy(), ranges.low.numpy(),
            ranges.high.numpy(), SIGMA.numpy(), key().numpy(),
        )  # fmt: skip
        found.append(out)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("shape", [(1,), (255,), (257,), (3, 1)])
def test_odd_sizes(shape: tuple[int, ...]) -> None:
    weights = levels(4, shape)
    expected, _ = program(weights, blank(weights), None, own_range(RUNS), SIGMA, key())
    found, _ = compiled(weights, blank(weights), None, own_range(RUNS), SIGMA, 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=TWIN_TOLERANCE * 1.7)


def test_all_zero_weights_are_zero(form) -> None:
    weights = torch.zeros(RUNS, 20)
    effective, cells = form(weights, blank(weights), None, own_range(RUNS), SIGMA, 0)
    assert torch.equal(effective, weights)
    assert not bool(cells.level.isnan().any())


def test_quantile_of_the_normal_distribution() -> None:
    shares = np.concatenate([np.linspace(0.001, 0.999, 999), 2.0 ** -np.arange(2.0, 34.0), [1e-12]])
    expected = torch.special.ndtri(torch.tensor(shares)).numpy()
    found = np.array([normal_quantile(share) for share in shares])
    np.testing.assert_allclose(found, expected, rtol=QUANTILE_TOLERANCE, atol=1e-9)


def test_hashed_numbers_are_normal_and_independent() -> None:
    found = hash_normal(programming_key(torch.tensor([1, 2]), 5, 0), 100_000).double()
    assert float(found.mean(1).abs().max()) < 5 / math.sqrt(100_000)
    torch.testing.assert_close(found.std(1), torch.ones(2).double(), rtol=0.01, atol=0)
    fourth = (found**4).mean(1)
    torch.testing.assert_close(fourth, torch.full((2,), 3.0).double(), rtol=0.05, atol=0)
    other = hash_normal(programming_key(torch.tensor([1]), 6, 0), 100_000).double()
    lagged = torch.stack([found[0, :-1], found[0, 1:], found[1, 1:], other[0, 1:]])
    assert float((torch.corrcoef(lagged) - torch.eye(4)).abs().max()) < 5 / math.sqrt(100_000)
