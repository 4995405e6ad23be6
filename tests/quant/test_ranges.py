"""Where levels lie: each range by its definition."""

import pytest
import torch

from tersa.errors import UsageError
from tersa.quant.quantiser import measure, quantise
from tersa.quant.ranges import bounds, calibrate, magnitude, widen
from tersa.quant.spec import QuantSpec

X = torch.tensor([[-3.0, 0.5, 0.25], [1.0, 2.0, -0.125]])


def spec(where: str, **more: object) -> QuantSpec:
    return QuantSpec.model_validate({"kind": "asymmetric", "range": where, **more})


@pytest.mark.parametrize(
    ("chosen", "low", "high"),
    [
        (spec("global"), -1.0, 1.0),
        (spec("global", low=-0.1, high=0.3), -0.1, 0.3),
        (spec("layer"), -3.0, 2.0),
        (spec("channel"), [-3.0, -0.125], [0.5, 2.0]),
        (spec("percentile", percentile=100.0), -3.0, 2.0),
        (spec("percentile", percentile=80.0), -2.0, 2.0),  # 5 of 6 |x| are at most 2
        (spec("percentile", percentile=66.0), -1.0, 1.0),  # 4 of 6 are at most 1
    ],
    ids=lambda entry: str(getattr(entry, "range", entry)),
)
def test_bounds(chosen: QuantSpec, low: object, high: object) -> None:
    found = bounds(X, chosen)
    assert torch.equal(found[0], torch.tensor(low))
    assert torch.equal(found[1], torch.tensor(high))


def test_percentile_has_an_own_end_where_a_side_is_short() -> None:
    low, high = bounds(torch.tensor([-0.1, 1.0, 2.0, 3.0, 4.0]), spec("percentile", percentile=80.0))
    assert (low, high) == (torch.tensor(-0.1), torch.tensor(3.0))


@pytest.mark.parametrize(("percentile", "rank"), [(99.9, 999), (99.95, 1000), (50.1, 501), (100.0, 1000)])
def test_magnitude_is_a_rank(percentile: float, rank: int) -> None:
    """Without a slip of floating point: 99.9 % of 1,000 is the 999th."""
    x = torch.arange(1, 1001).float() * torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0)
    assert magnitude(x, percentile) == rank


def test_a_bias_is_one_channel() -> None:
    low, high = bounds(X[0], spec("channel"))
    assert (float(low), float(high)) == (-3.0, 0.5)


def test_calibration_is_the_widest_of_all_times() -> None:
    low, high = calibrate(X * factor for factor in (0.5, 2.0, 1.0))
    assert (float(low), float(high)) == (-6.0, 4.0)
    low, high = calibrate([X, 0.1 * X], percentile=80.0)
    assert (float(low), float(high)) == (-2.0, 2.0)
    found = quantise(X, spec("calibrated", bits=1), bounds=(low, high))
    assert found.values.unique().tolist() == [-2.0, 2.0]


def test_calibration_needs_a_snapshot() -> None:
    with pytest.raises(UsageError, match="no snapshot"):
        calibrate([])
    with pytest.raises(UsageError, match="full-precision run"):
        bounds(X, spec("calibrated"))


def test_widen() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert widen(None, (one, two)) == (one, two)
    assert widen((-one, one), (-two, -one)) == (-two, one)


def test_bounds_carry_no_gradient() -> None:
    x = X.clone().requires_grad_()
    for where in ("layer", "channel", "percentile"):
        for kind in ("asymmetric", "binary", "ternary"):
            settings = {"kind": kind, "range": where}
            assert not any(end.requires_grad for end in measure(x, QuantSpec.model_validate(settings)))
