"""Devices: closed forms of their statistics, drift, corner conductances."""

import itertools
import math

import pytest
import torch

from tersa.quant.devices import Gaussian, PhaseChange, drift

COUNT = 100_000
MEAN_TOLERANCE = 5.0
"""In standard errors of a mean: a chance of 6e-7, and the seeds are fixed."""
SPREAD_TOLERANCE = 0.01
"""Relative; the standard error of a deviation over COUNT numbers is 0.0022."""


def normal(seed: int) -> torch.Tensor:
    return torch.randn(COUNT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(target: float) -> torch.Tensor:
    return torch.full((COUNT,), target, dtype=torch.float64)


def test_drift_has_its_exponent() -> None:
    times = [0.0, 9.0, 99.0, 999.0]
    found = [float(drift(torch.tensor(8.0).double(), torch.tensor(0.3), s, 1.0)) for s in times]
    slopes = [math.log10(b / a) for a, b in itertools.pairwise(found)]
    assert found[0] == 8.0
    assert slopes == pytest.approx([-0.3] * 3, rel=1e-6)  # float32 exponent


def test_drift_counts_from_the_first_read() -> None:
    found = drift(torch.tensor(1.0), torch.tensor(1.0), seconds=60.0, start_s=20.0)
    torch.testing.assert_close(found, torch.tensor(0.25))


def test_gaussian_writes_mean_and_deviation() -> None:
    found = Gaussian(deviation_us=0.5).write(at(3.0), normal(1))
    assert abs(float(found.mean()) - 3.0) < MEAN_TOLERANCE * 0.5 / math.sqrt(COUNT)
    assert float(found.std()) == pytest.approx(0.5, rel=SPREAD_TOLERANCE)


def test_gaussian_exponents_are_never_negative() -> None:
    found = Gaussian(nu=0.05, nu_spread=0.05).exponent(at(3.0), normal(2))
    assert float(found.min()) == 0.0
    share = float((found == 0).double().mean())
    assert share == pytest.approx(0.158655, rel=0.03)  # Phi(-1)


@pytest.mark.parametrize(
    ("target", "deviation"),
    [(12.5, 0.26348 + 1.9650 / 2 - 1.1731 / 4), (25.0, 0.26348 + 1.9650 - 1.1731)],
)
def test_phase_change_writing_noise(target: float, deviation: float) -> None:
    found = PhaseChange().write(at(target), normal(3))
    assert abs(float(found.mean()) - target) < MEAN_TOLERANCE * deviation / math.sqrt(COUNT)
    assert float(found.std()) == pytest.approx(deviation, rel=SPREAD_TOLERANCE)


def test_phase_change_writes_no_negative_conductance() -> None:
    found = PhaseChange().write(at(0.0), normal(4))
    assert float(found.min()) == 0.0
    half_normal_mean = 0.26348 / math.sqrt(2 * math.pi)  # of max(N, 0)
    assert float(found.mean()) == pytest.approx(half_normal_mean, rel=SPREAD_TOLERANCE)


def test_phase_change_noise_scales_with_the_range() -> None:
    small = PhaseChange(25.0).write(at(10.0), normal(5))
    large = PhaseChange(50.0).write(at(20.0), normal(5))
    torch.testing.assert_close(large, 2 * small)


@pytest.mark.parametrize(
    ("share", "mean", "spread"),
    [
        (1.0, 0.049, 0.008),  # both clipped
        (0.1, 0.0244 + 0.0155 * math.log(10), -0.0059 + 0.0125 * math.log(10)),
        (0.0, 0.1, 0.045),
    ],
)
def test_phase_change_drift_exponents(share: float, mean: float, spread: float) -> None:
    device = PhaseChange()
    found = device.exponent(at(share * 25.0), torch.zeros(COUNT).double())
    torch.testing.assert_close(found, at(mean))
    found = device.exponent(at(share * 25.0), normal(6))
    assert float(found.min()) >= 0.0
    assert float(found.mean()) == pytest.approx(mean, rel=SPREAD_TOLERANCE)
    if mean > 4 * spread:
        assert float(found.std()) == pytest.approx(spread, rel=SPREAD_TOLERANCE)


def test_phase_change_read_noise_grows_with_time() -> None:
    device = PhaseChange()
    for seconds in (0.0, 3600.0, 2_592_000.0):
        found = device.read(at(25.0), at(20.0), seconds, normal(7))
        expected = 20.0 * 0.0088 * math.sqrt(math.log((seconds + 20 + 250e-9) / 500e-9))
        assert float(found.std()) == pytest.approx(expected, rel=SPREAD_TOLERANCE)
        assert abs(float(found.mean()) - 20.0) < MEAN_TOLERANCE * expected / math.sqrt(COUNT)


def test_phase_change_read_noise_is_bounded_for_small_conductances() -> None:
    found = PhaseChange().read(at(0.0), at(1.0), 0.0, torch.full((COUNT,), 0.1).double())
    expected = 1.0 + 0.1 * 0.2 * math.sqrt(math.log(20.00000025 / 500e-9))
    torch.testing.assert_close(found, at(expected))


def test_gaussian_reads_what_is_there() -> None:
    assert torch.equal(Gaussian().read(at(1.0), at(0.7), 5.0, normal(8)), at(0.7))
