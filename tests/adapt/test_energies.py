"""Filling a table of energies on a machine whose every call takes a known energy."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.adapt.machine import CALL_MJ, FakeClock, FakeMeter, FakeTarget
from torch import nn

from tersa.adapt import table
from tersa.adapt.anatomy import Anatomy
from tersa.adapt.energies import Energies
from tersa.adapt.measuring import BLOCK, Filled, Stopwatch, count_missing, fill, wanted
from tersa.adapt.resource import Counter, Table, estimate
from tersa.adapt.signature import layers_of
from tersa.adapt.table import ENERGIES, TableFile
from tersa.errors import DataError, TargetError, UsageError
from tersa.prune.groups import find_groups

SHAPE = (1, 2, 3)


def anatomy(hidden: int = 10) -> Anatomy:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 4))
    return layers_of(model, SHAPE, find_groups(model, SHAPE))


@pytest.fixture
def file(tmp_path: Path) -> TableFile:
    return TableFile(tmp_path / "latency.db")


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget(FakeClock())


def filled(file: TableFile, net: Anatomy, target: FakeTarget, **how: bool) -> Filled:
    return fill(file, net, target, gauge=Energies(target.meter, target.clock), **how)


def test_layers_have_their_energy_without_the_call_around_them(file: TableFile, target: FakeTarget) -> None:
    found = filled(file, anatomy(), target)
    assert file.call(found.machine.key, ENERGIES) == pytest.approx(CALL_MJ)
    for values in file.points(found.machine.key, ENERGIES).values():
        for (inputs, outputs), mj in values.items():
            assert mj == pytest.approx(2e-2 * inputs * outputs, rel=1e-3, abs=1e-3)
    assert file.points(found.machine.key) == {}, "no times were asked for"
    with sqlite3.connect(file.path) as other:
        rows = other.execute("SELECT DISTINCT counters FROM energies").fetchall()
        assert rows == [("package-0, dram of 0",)]
        assert other.execute("SELECT MIN(calls) FROM energies").fetchone()[0] > 100


def test_the_estimate_of_a_network_is_its_energy(file: TableFile, target: FakeTarget) -> None:
    net = anatomy(20)
    found = filled(file, net, target)
    points = file.points(found.machine.key, ENERGIES)
    costs = Table(points, name="energy", unit="mJ", start=CALL_MJ)
    for width in range(1, 21):
        assert estimate(net, costs, [width]).value == pytest.approx(CALL_MJ + 2e-2 * 10 * width, rel=1e-3)
    assert Counter(net, costs).total([20]) == pytest.approx(CALL_MJ + 4.0, rel=1e-3)


def test_times_and_energies_lie_side_by_side(file: TableFile, target: FakeTarget) -> None:
    net = anatomy()
    times = fill(file, net, target, gauge=Stopwatch(target.clock))
    energies = filled(file, net, target)
    assert times.machine == energies.machine
    assert times.measured == energies.measured == len(wanted(net))
    assert filled(file, net, target).measured == 0
    assert fill(file, net, target, gauge=Stopwatch(target.clock)).measured == 0
    again = filled(file, net, target, fresh=True)
    assert again.measured == len(wanted(net))


def test_a_machine_that_disappears_leaves_the_blocks_that_were_measured(file: TableFile) -> None:
    net, clock = anatomy(64), FakeClock()
    with pytest.raises(TargetError, match="the machine is gone"):
        filled(file, net, FakeTarget(clock, last=BLOCK + 3))
    rest = filled(file, net, FakeTarget(clock))
    assert (rest.known, rest.measured) == (BLOCK, len(wanted(net)) - BLOCK)


def test_other_counters_measure_all_of_it_again(file: TableFile) -> None:
    """Energies with and without the memory's counter are not comparable."""
    net, clock = anatomy(), FakeClock()
    filled(file, net, FakeTarget(clock))
    fewer = FakeTarget(clock, meter=FakeMeter(domains=("package-0",)))
    gauge = Energies(fewer.meter, clock)
    assert count_missing(file.path, net, fewer, gauge=gauge) == (0, len(wanted(net)))
    found = filled(file, net, fewer)
    assert found.measured == len(wanted(net))
    assert file.counters(found.machine.key) == "package-0"
    assert count_missing(file.path, net, fewer, gauge=gauge) == (len(wanted(net)), 0)


def test_a_damaged_energy_is_named_and_mended(file: TableFile, target: FakeTarget) -> None:
    net = anatomy(5)
    own = filled(file, net, target).machine
    with sqlite3.connect(file.path) as other:
        other.execute("UPDATE energies SET mj = -2.0 WHERE outputs = 4")
    with pytest.raises(DataError, match=r"holds -2.0 mJ for 'linear.* channels, which is no energy; measure"):
        filled(file, net, target)
    filled(file, net, target, fresh=True)
    assert sum(map(len, file.points(own.key, ENERGIES).values())) == len(wanted(net))
    with sqlite3.connect(file.path) as other:
        other.execute("UPDATE energy_calls SET mj = 'much'")
    with pytest.raises(DataError, match=r"holds much mJ for the empty call, which is no energy"):
        filled(file, anatomy(6), target)


def test_another_machines_energies_follow_the_rules_of_times(
    file: TableFile, target: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = anatomy()
    filled(file, net, target)
    monkeypatch.setattr(table, "processor_name", lambda _: "a board")
    assert fill(file, net, target, gauge=Stopwatch(target.clock)).measured, "it holds no times of the other"
    with pytest.raises(UsageError, match="measured elsewhere"):
        filled(file, net, target)
    used = filled(file, net, target, allow_foreign=True)
    assert (used.foreign, used.measured) == (True, 0)
    with pytest.raises(UsageError, match=r"lacks .* layers of this network"):
        filled(file, anatomy(100), target, allow_foreign=True)


def test_a_table_of_before_has_no_energies_yet(file: TableFile, target: FakeTarget) -> None:
    fill(file, anatomy(), target, gauge=Stopwatch(target.clock))
    with sqlite3.connect(file.path) as other:
        other.execute("DROP TABLE energies")
        other.execute("DROP TABLE energy_calls")
    file.close()
    with TableFile(file.path) as again:
        assert filled(again, anatomy(), target).measured == len(wanted(anatomy()))


def test_counters_that_stand_still_are_no_energy(file: TableFile) -> None:
    idle = FakeTarget(FakeClock())
    with pytest.raises(TargetError, match="stand still while calls are made"):
        fill(file, anatomy(), idle, gauge=Energies(FakeMeter(), idle.clock))
