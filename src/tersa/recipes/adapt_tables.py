"""The tables of layers that a run of adapt needs: refused before any work, filled before its search.

Example:
    >>> from tersa.recipes.goals import Goals, parse_bound
    >>> spec = AdaptSpec(goals=Goals(macs=parse_bound("0.5x", "macs")))
    >>> counted(spec, Anatomy((), (), ()), None)
    Counted(latencies=(0, 0), energies=(0, 0))
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from tersa.adapt.anatomy import Anatomy
from tersa.adapt.energies import Energies
from tersa.adapt.measuring import Filled, Gauge, Stopwatch, count_missing, fill, wanted
from tersa.adapt.resource import Table
from tersa.adapt.table import TableFile, path_of
from tersa.recipes.adapt_request import AdaptSpec
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.setting import Setting
from tersa.records.adaptation import Adaptation, EnergyUse
from tersa.targets.energy import Meter, domains
from tersa.targets.registry import parse


class Counted(NamedTuple):
    """Layers that a table has, and those that are to be measured; zeros where that is not limited.

    Attributes:
        latencies: of the latency table.
        energies: of the table of energies.
    """

    latencies: tuple[int, int]
    energies: tuple[int, int]


def counted(spec: AdaptSpec, anatomy: Anatomy, meter: Meter | None, *, fresh: bool = False) -> Counted:
    """What `fill` would find and measure; the table's file is read, and not made.

    Args:
        spec: what is asked.
        anatomy: of the network.
        meter: of energies; None where they are not limited.
        fresh: all layers would be measured again.

    Raises:
        UsageError: a table of another machine that may not or cannot be used.
        DataError: a file that is no table.
        TargetError: a target that does not run.
    """
    count = partial(
        count_missing, path_of(spec.table), anatomy, allow_foreign=spec.allow_foreign, fresh=fresh
    )
    latencies = energies = 0, 0
    if spec.goals.latency is not None:
        latencies = count(parse(spec.target))
    if meter is not None:
        energies = count(parse(spec.target), gauge=Energies(meter))
    return Counted(latencies, energies)


def latency_table(
    spec: AdaptSpec, setting: Setting, anatomy: Anatomy, store: AdaptStore, *, fresh: bool
) -> tuple[Table | None, Adaptation]:
    """Latencies of the network's layers, measured where they are missing; no table where none is asked.

    Raises:
        UsageError, DataError, TargetError: see `measuring.fill` and `TableFile.points`.
    """
    if spec.goals.latency is None:
        return None, Adaptation(search=spec.search)
    with store.timed("table"):
        each = _filled(spec, setting, anatomy, store, "latency table", Stopwatch(), fresh=fresh)
    about = Adaptation(
        search=spec.search,
        budget_ms=None,
        machine=each.found.machine.text,
        foreign=each.found.foreign,
        points=each.asked,
        measured=each.found.measured,
        call_ms=each.call,
        unknown=list(anatomy.unknown),
    )
    return Table(each.points, start=each.call), about


def energy_table(
    spec: AdaptSpec, setting: Setting, anatomy: Anatomy, store: AdaptStore, meter: Meter, *, fresh: bool
) -> tuple[Table, EnergyUse]:
    """Energies of the network's layers, measured where they are missing.

    Raises:
        UsageError, DataError, TargetError: see `measuring.fill` and `TableFile.points`.
    """
    with store.timed("energies"):
        each = _filled(spec, setting, anatomy, store, "energies of layers", Energies(meter), fresh=fresh)
    about = EnergyUse(
        budget_mj=0.0,
        counters=domains(meter),
        machine=each.found.machine.text,
        foreign=each.found.foreign,
        points=each.asked,
        measured=each.found.measured,
        call_mj=each.call,
    )
    return Table(each.points, name="energy", unit="mJ", start=each.call), about


class _Filled(NamedTuple):
    """What a table has of one network: points by family, the empty call, how many points there are."""

    found: Filled
    points: dict[str, dict[tuple[int, int], float]]
    call: float
    asked: int


def _filled(
    spec: AdaptSpec,
    setting: Setting,
    anatomy: Anatomy,
    store: AdaptStore,
    stage: str,
    gauge: Gauge,
    *,
    fresh: bool,
) -> _Filled:
    """Measure what is missing, with progress, and read all of it."""

    def show(done: int, of: int) -> None:
        store.lap()
        if of:
            setting.say(stage, done / of, f"{done} of {of} layers on {spec.target}")

    with TableFile(path_of(spec.table)) as file:
        found = fill(
            *(file, anatomy, parse(spec.target)),
            allow_foreign=spec.allow_foreign,
            fresh=fresh,
            progress=show,
            gauge=gauge,
        )
        call = file.call(found.machine.key, gauge.quantity) or 0.0
        known, asked = file.points(found.machine.key, gauge.quantity), wanted(anatomy)
    return _Filled(found, {each.family.key(): known[each.family.key()] for each in asked}, call, len(asked))
