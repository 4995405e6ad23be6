"""Filling a table on a machine whose every call takes a known time."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from tests.adapt.machine import CALL_MS, FakeClock, FakeTarget, by_weights
from torch import nn

from tersa.adapt import table
from tersa.adapt.anatomy import Anatomy
from tersa.adapt.measuring import BLOCK, Stopwatch, count_missing, fill, wanted
from tersa.adapt.resource import Counter, Table, estimate, factor_of
from tersa.adapt.signature import layers_of
from tersa.adapt.table import TableFile
from tersa.errors import DataError, TargetError, UsageError
from tersa.export.artefact import Artefact
from tersa.prune.groups import find_groups
from tersa.targets.base import Session

SHAPE = (1, 2, 3)


def anatomy(hidden: int = 10) -> Anatomy:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 4))
    return layers_of(model, SHAPE, find_groups(model, SHAPE))


@pytest.fixture
def file(tmp_path) -> TableFile:
    return TableFile(tmp_path / "latency.db")


def test_layers_are_measured_without_the_call_around_them(file: TableFile) -> None:
    clock = FakeClock()
    found = fill(file, anatomy(), FakeTarget(clock), gauge=Stopwatch(clock))
    assert file.call(found.machine.key) == pytest.approx(CALL_MS)
    for values in file.points(found.machine.key).values():
        for (inputs, outputs), ms in values.items():
            assert ms == pytest.approx(1e-2 * inputs * outputs, rel=1e-6, abs=1e-6)


def test_a_layer_of_images_is_measured_without_what_it_pays_at_its_ends(file: TableFile) -> None:
    """On a machine that takes another millisecond for every file of images, and more for wide ones."""

    def cost(artefact: Artefact) -> float:
        channels, height, _ = artefact.header.shape
        return by_weights(artefact) + (1.0 + 0.1 * channels if height > 1 else 0.0)

    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 5, 1))
    net = layers_of(model, (3, 6, 6), find_groups(model, (3, 6, 6)))
    clock = FakeClock()
    found = fill(file, net, FakeTarget(clock, cost=cost), gauge=Stopwatch(clock))
    points = file.points(found.machine.key)
    for layer in net.layers:
        for (inputs, outputs), ms in points[layer.family.key()].items():
            assert ms == pytest.approx(1e-2 * layer.family.weights(inputs, outputs), abs=1e-6)
    costs = Table(points, start=CALL_MS)
    assert estimate(net, costs).value == pytest.approx(CALL_MS + 1e-2 * (27 * 8 + 8 * 5))
    assert sum(map(len, points.values())) == len(wanted(net)) == found.measured, "company is no layer"


def test_company_is_measured_in_the_same_run(file: TableFile) -> None:
    """A machine that was twice as fast when the table was begun: costs are differences of one day."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 5, 1, bias=False))
    net = layers_of(model, (3, 6, 6), find_groups(model, (3, 6, 6)))
    clock = FakeClock()
    slow = FakeTarget(clock, cost=lambda artefact: 1.0 + by_weights(artefact))
    fast = FakeTarget(clock, cost=lambda artefact: (1.0 + by_weights(artefact)) / 2, last=25)
    with pytest.raises(TargetError):
        fill(file, net, fast, gauge=Stopwatch(clock))
    began = file.points(file.machines()[0][0].key)
    found = fill(file, net, slow, gauge=Stopwatch(clock))
    assert found.known == sum(map(len, began.values())) > 0
    points = file.points(found.machine.key)
    for layer in net.layers:
        for place, ms in points[layer.family.key()].items():
            half = 0.5 if place in began.get(layer.family.key(), {}) else 1.0
            assert ms == pytest.approx(half * 1e-2 * layer.family.weights(*place), abs=1e-6)


def test_the_estimate_of_a_network_is_its_measurement(file: TableFile) -> None:
    """All of it on the fake machine: the sum of the layers and one call, at widths between the points too."""
    clock, net = FakeClock(), anatomy(20)
    found = fill(file, net, FakeTarget(clock), gauge=Stopwatch(clock))
    costs = Table(file.points(found.machine.key), start=CALL_MS)
    for width in range(1, 21):
        said = estimate(net, costs, [width])
        assert said.value == pytest.approx(CALL_MS + 1e-2 * (6 * width + 4 * width))
        assert said.exact + said.interpolated == 2
    assert estimate(net, costs, [20]).interpolated == 0
    assert estimate(net, costs, [7]).interpolated == 2
    costs.factor = factor_of(5.0, costs.plain(net.channels()), costs.start)
    assert estimate(net, costs).value == pytest.approx(5.0)
    assert Counter(net, costs).total([20]) == pytest.approx(5.0)


def test_what_is_known_is_not_measured_again(file: TableFile) -> None:
    """Networks that share signatures share their points."""
    clock = FakeClock()
    target = FakeTarget(clock)
    first = fill(file, anatomy(10), target, gauge=Stopwatch(clock))
    again = fill(file, anatomy(10), target, gauge=Stopwatch(clock))
    assert (first.known, first.measured) == (0, len(wanted(anatomy(10))))
    assert (again.known, again.measured) == (len(wanted(anatomy(10))), 0)
    other = fill(file, anatomy(8), target, gauge=Stopwatch(clock))
    assert other.known > 0
    fresh = fill(file, anatomy(10), target, gauge=Stopwatch(clock), fresh=True)
    assert fresh.measured == len(wanted(anatomy(10)))


def test_measuring_again_leaves_other_networks_alone(file: TableFile) -> None:
    """And replaces a layer only when it was measured: a run that is killed has lost nothing."""
    clock = FakeClock()
    target, large, small = FakeTarget(clock), anatomy(64), anatomy(5)
    own = fill(file, large, target, gauge=Stopwatch(clock)).machine
    fill(file, small, target, gauge=Stopwatch(clock))
    before = file.points(own.key)
    slower = FakeTarget(clock, cost=lambda artefact: 2 * by_weights(artefact))
    assert fill(file, small, slower, gauge=Stopwatch(clock), fresh=True).measured == len(wanted(small))
    asked = {(each.family.key(), each.inputs, each.outputs) for each in wanted(small)}
    for family, points in file.points(own.key).items():
        for (inputs, outputs), ms in points.items():
            twice = 2 if (family, inputs, outputs) in asked else 1
            assert ms == pytest.approx(twice * before[family][inputs, outputs], abs=1e-6)
    with pytest.raises(TargetError):
        fill(file, large, FakeTarget(clock, last=1), gauge=Stopwatch(clock), fresh=True)
    assert fill(file, large, target, gauge=Stopwatch(clock)).measured == 0


def test_measuring_again_mends_a_damaged_table(file: TableFile) -> None:
    clock = FakeClock()
    target, net = FakeTarget(clock), anatomy(5)
    own = fill(file, net, target, gauge=Stopwatch(clock)).machine
    with sqlite3.connect(file.path) as other:
        other.execute("UPDATE points SET ms = NULL WHERE outputs = 4")
        other.execute("INSERT INTO points VALUES (?, 'of another network', 1, 1, NULL, 9)", (own.key,))
    with pytest.raises(DataError, match="measure again with tersa adapt --fresh-table"):
        fill(file, net, target, gauge=Stopwatch(clock))
    fill(file, net, target, gauge=Stopwatch(clock), fresh=True)
    assert sum(map(len, file.points(own.key).values())) == len(wanted(net))


def test_a_table_of_before_tokens_were_counted_is_read(file: TableFile) -> None:
    """A layer of one vector keeps its key; one of many vectors has another, and is measured."""
    key = "linear k1x1 s1x1 p0x0 d1x1 g1 on1x1 bias relu 32bit batch1"
    (first, *_) = anatomy().layers
    assert first.family.key() == key
    assert replace(first.family, size=(49, 1)).key() != key


def test_a_machine_that_disappears_leaves_what_was_measured(file: TableFile) -> None:
    clock, net = FakeClock(), anatomy(64)
    assert len(wanted(net)) > BLOCK
    with pytest.raises(TargetError, match=r"fake@threads=1 cannot run 'linear.*the machine is gone"):
        fill(file, net, FakeTarget(clock, last=BLOCK + 3), gauge=Stopwatch(clock))
    assert sum(map(len, file.points(file.machines()[0][0].key).values())) == BLOCK
    rest = fill(file, net, FakeTarget(clock), gauge=Stopwatch(clock))
    assert (rest.known, rest.measured) == (BLOCK, len(wanted(net)) - BLOCK)


def test_a_newer_runtime_is_measured_and_other_hardware_refused(
    file: TableFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    target = FakeTarget(clock)
    first = fill(file, anatomy(), target, gauge=Stopwatch(clock))
    newer = fill(file, anatomy(), FakeTarget(clock, version="2"), gauge=Stopwatch(clock))
    assert newer.measured == first.measured
    monkeypatch.setattr(table, "processor_name", lambda _: "a board")
    with pytest.raises(UsageError, match="measured elsewhere"):
        fill(file, anatomy(), target, gauge=Stopwatch(clock))
    used = fill(file, anatomy(), target, gauge=Stopwatch(clock), allow_foreign=True)
    assert used.foreign
    assert used.measured == 0
    with pytest.raises(UsageError, match=r"lacks .* layers of this network"):
        fill(file, anatomy(100), target, gauge=Stopwatch(clock), allow_foreign=True)


def test_a_machine_over_ssh_brings_its_own_hardware() -> None:
    here = Session("m", "fake@threads=1", "fp32", 1, "fake 1", lambda pixels: pixels)
    board, swapped = (replace(here, hardware=("a board", count)) for count in (4, 8))
    assert table.machine_of(board).hardware == '{"cores": "4", "device": "cpu", "processor": "a board"}'
    assert len({table.machine_of(each).key for each in (here, board, swapped)}) == 3


def test_progress_and_the_count_of_a_plan(file: TableFile) -> None:
    clock, net, seen = FakeClock(), anatomy(64), list[tuple[int, int]]()
    target = FakeTarget(clock)
    assert count_missing(file.path.with_name("none.db"), net, target) == (0, len(wanted(net)))
    assert not file.path.with_name("none.db").exists()
    fill(file, net, target, gauge=Stopwatch(clock), progress=lambda done, of: seen.append((done, of)))
    assert seen[0] == (0, len(wanted(net)))
    assert seen[-1] == (len(wanted(net)), len(wanted(net)))
    assert count_missing(file.path, net, target) == (len(wanted(net)), 0)
    assert count_missing(file.path, net, target, fresh=True) == (0, len(wanted(net)))


def test_a_plan_refuses_what_filling_refuses(file: TableFile, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, net = FakeClock(), anatomy()
    target = FakeTarget(clock)
    fill(file, net, target, gauge=Stopwatch(clock))
    monkeypatch.setattr(table, "processor_name", lambda _: "a board")
    with pytest.raises(UsageError, match=r"was measured elsewhere .*give another --table"):
        count_missing(file.path, net, target)
    assert count_missing(file.path, net, target, allow_foreign=True) == (len(wanted(net)), 0)
    with pytest.raises(UsageError, match=r"lacks .* layers of this network"):
        count_missing(file.path, anatomy(100), target, allow_foreign=True)


def test_another_machines_layers_are_not_measured_again_here(
    file: TableFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, net = FakeClock(), anatomy()
    target = FakeTarget(clock)
    own = fill(file, net, target, gauge=Stopwatch(clock)).machine
    monkeypatch.setattr(table, "processor_name", lambda _: "a board")
    said = r"--fresh-table measures here .*a board.* --allow-foreign takes from .*; leave out one of the two"
    with pytest.raises(UsageError, match=said):
        fill(file, net, target, gauge=Stopwatch(clock), allow_foreign=True, fresh=True)
    with pytest.raises(UsageError, match=said):
        count_missing(file.path, net, target, allow_foreign=True, fresh=True)
    assert [machine for machine, _ in file.machines()] == [own]
