"""Energy of calls between two readings of counters: rounds, their order, and counters that fail."""

from __future__ import annotations

import numpy as np
import pytest
from tests.adapt.machine import FakeClock, FakeMeter

from tersa.errors import TargetError
from tersa.targets.base import Pixels, Session
from tersa.targets.energy import Reading
from tersa.targets.energy_rounds import ROUND_SECONDS, ROUNDS, least_energies, network_energies

IMAGES = np.zeros((1, 1, 2, 2), np.float32)


class Bench:
    """Sessions on one clock and meter, each with its time and energy of a call; calls are written down."""

    def __init__(self, meter: FakeMeter | None = None) -> None:
        self.clock, self.meter = FakeClock(), meter or FakeMeter()
        self.calls: list[str] = []

    def session(self, name: str, ms: float, mj: float) -> Session:
        def run(pixels: Pixels) -> Pixels:
            self.calls.append(name)
            self.clock.now += 1e6 * ms
            self.meter.millijoules += mj
            return pixels

        return Session(name, "fake", "fp32", 1, "fake 1", run)

    def turns(self) -> str:
        """The sessions in the order in which they had a round."""
        return "".join(
            name for place, name in enumerate(self.calls) if self.calls[place - 1 : place] != [name]
        )


def test_every_session_has_its_own_energy_in_alternating_rounds() -> None:
    bench = Bench()
    sessions = [bench.session("A", 1.0, 5.0), bench.session("B", 0.25, 0.5)]
    found = least_energies(sessions, [IMAGES] * 2, bench.meter, clock=bench.clock)
    assert [each.millijoules for each in found] == pytest.approx([5.0, 0.5])
    assert [each.calls for each in found] == [ROUNDS * 50, ROUNDS * 200]
    assert bench.turns() == "ABABAB", "A B, B A, A B, B A, A B"
    assert bench.meter.reads == 2 * 2 * ROUNDS


def test_a_call_longer_than_a_round_is_made_once() -> None:
    bench = Bench()
    found = least_energies(
        [bench.session("A", 1e3 * 2 * ROUND_SECONDS, 7.0)], [IMAGES], bench.meter, rounds=2, clock=bench.clock
    )
    assert found == [(pytest.approx(7.0), 2)]
    assert len(bench.calls) == 4, "and once before each round, untimed"


def test_other_work_only_adds_so_the_least_round_counts() -> None:
    bench = Bench()
    busy = iter([40.0, 0.0, 90.0, 20.0, 10.0])

    class Busy(FakeMeter):
        def read(self) -> Reading:
            self.millijoules = bench.meter.millijoules + (next(busy) if self.reads % 2 else 0.0)
            return super().read()

    found = least_energies([bench.session("A", 1.0, 2.0)], [IMAGES], Busy(), clock=bench.clock)
    assert found[0].millijoules == pytest.approx(2.0)


def test_a_counter_that_starts_again_within_a_round() -> None:
    bench = Bench(FakeMeter(span=100_000))  # of microjoules: 0.2 J over both domains, a round uses 0.15 J
    found = least_energies([bench.session("A", 1.0, 3.0)], [IMAGES], bench.meter, clock=bench.clock)
    assert found[0].millijoules == pytest.approx(3.0)


def test_counters_that_stand_still_or_fail_are_said() -> None:
    bench = Bench()
    still = bench.session("A", 1.0, 0.0)
    with pytest.raises(TargetError, match=r"the energy counters .package-0, dram of 0. stand still"):
        network_energies([still], IMAGES, bench.meter, seconds=0.1, clock=bench.clock)

    class Gone(FakeMeter):
        def read(self) -> Reading:
            raise PermissionError("energy_uj: permission denied")

    with pytest.raises(TargetError, match=r"cannot be read any more: energy_uj: .*; --resume goes on"):
        network_energies([still], IMAGES, Gone(), seconds=0.1, clock=bench.clock)
