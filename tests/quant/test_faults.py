"""Stuck devices: shares, levels, one map per run and tensor."""

import pytest
import torch

from tersa.quant.faults import Stuck, draw_faults

COUNT = 100_000
SHARE_TOLERANCE = 0.004
"""Absolute; five standard errors of a share of 0.05 over COUNT devices."""


def test_shares_and_places() -> None:
    stuck = Stuck(low=0.02, high=0.05, random=0.03, levels=5)
    for side in draw_faults([stuck], [1], 0, COUNT).dense(COUNT):
        low, high = (float((side == v).double().mean()) for v in (0.0, 1.0))
        inner = float(((side > 0) & (side < 1)).double().mean())
        assert low == pytest.approx(0.02 + 0.03 / 5, abs=SHARE_TOLERANCE)
        assert high == pytest.approx(0.05 + 0.03 / 5, abs=SHARE_TOLERANCE)
        assert inner == pytest.approx(0.03 * 3 / 5, abs=SHARE_TOLERANCE)
        assert set(side[~side.isnan()].tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_devices_of_a_pair_fail_apart() -> None:
    positive, negative = draw_faults([Stuck(high=0.1)], [2], 0, COUNT).dense(COUNT)
    both = float((~positive.isnan() & ~negative.isnan()).double().mean())
    assert both == pytest.approx(0.01, abs=SHARE_TOLERANCE)


def test_any_conductance_where_there_are_no_levels() -> None:
    found = draw_faults([Stuck(random=0.5)], [3], 0, COUNT).positive
    levels = found[~found.isnan()]
    assert float(levels.mean()) == pytest.approx(0.5, abs=SHARE_TOLERANCE)
    assert float(levels.std()) == pytest.approx(12**-0.5, abs=SHARE_TOLERANCE)


def test_a_run_has_its_map_alone_and_in_a_stack() -> None:
    stuck = [Stuck(), Stuck(low=0.1), Stuck(random=0.2)]
    stack = draw_faults(stuck, [7, 8, 9], 4, 500).dense(500)
    for run, (share, seed) in enumerate(zip(stuck, [7, 8, 9], strict=True)):
        alone = draw_faults([share], [seed], 4, 500).dense(500)
        for many, one in zip(stack, alone, strict=True):
            torch.testing.assert_close(many[run], one[0], rtol=0, atol=0, equal_nan=True)


def test_seeds_and_tensors_have_maps_of_their_own() -> None:
    def places(seed: int, tensor: int) -> set[int]:
        return set(draw_faults([Stuck(high=0.1)], [seed], tensor, 1000).index.tolist())

    first = places(1, 0)
    assert first == places(1, 0)
    for other in (places(2, 0), places(1, 1)):
        assert len(first & other) < 0.4 * len(first)


def test_no_fault_no_entry() -> None:
    found = draw_faults([Stuck(), Stuck()], [1, 2], 0, 9)
    assert found.starts.tolist() == [0, 0, 0]
    assert bool(found.dense(9)[0].isnan().all())
