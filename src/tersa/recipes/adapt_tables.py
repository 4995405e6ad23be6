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
from tersa.adapt.measuring import count_missing, fill, wanted
from tersa.adapt.resource import Table
from tersa.adapt.table import TableFile, path_of
from tersa.recipes.adapt_request import AdaptSpec
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.setting import Setting
from tersa.records.adaptation import Adaptation
from tersa.targets.energy import Meter
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
    spec: AdaptSpec, setting: Setting, anatomy: Anatomy, store: AdaptStore, fresh: bool
) -> tuple[Table | None, Adaptation]:
    """Latencies of the network's layers, measured where they are missing; no table where none is asked."""
    if spec.goals.latency is None:
        return None, Adaptation(search=spec.search)

    def show(done: int, of: int) -> None:
        store.lap()
        if of:
            setting.say("latency table", done / of, f"{done} of {of} layers on {spec.target}")

    path = path_of(spec.table)
    with TableFile(path) as file, store.timed("table"):
        found = fill(
            file, anatomy, parse(spec.target), allow_foreign=spec.allow_foreign, fresh=fresh, progress=show
        )
        call = file.call(found.machine.key) or 0.0
        asked = wanted(anatomy)
        known = file.points(found.machine.key)
        points = {each.family.key(): known[each.family.key()] for each in asked}
    table = Table(points, start=call)
    about = Adaptation(
        search=spec.search,
        budget_ms=None,
        machine=found.machine.text,
        foreign=found.foreign,
        points=len(asked),
        measured=found.measured,
        call_ms=call,
        unknown=list(anatomy.unknown),
    )
    return table, about
