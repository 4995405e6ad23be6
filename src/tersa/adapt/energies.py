"""Energies of layers for `measuring.fill`: the machine's own counters around many calls of each.

    E(file) = min over rounds of (counters after - before) / calls

of the file of each layer and of its company; `measuring.fill` takes the one from the other.

Rounds of a block are interleaved as those of the clock are, and each is so long that the counters can tell
(`targets.energy_rounds`). What other counters than these measured is measured again.

Example:
    >>> from tersa.targets.energy import Reading
    >>> class Package:
    ...     ranges = {"package-0": 0}
    ...     def read(self):
    ...         return Reading({"package-0": 0})
    >>> Energies(Package()).quantity.unit, seconds(20)
    ('mJ', 5.0)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tersa.adapt.measuring import Measured
from tersa.adapt.table import ENERGIES, Quantity, TableFile
from tersa.errors import TargetError
from tersa.targets.base import Pixels, Session
from tersa.targets.energy import Meter, domains
from tersa.targets.energy_rounds import ROUND_SECONDS, ROUNDS, least_energies
from tersa.targets.rounds import Clock

EMPTY_ROUNDS = 20
"""Of the empty call, which is taken off every layer."""


def seconds(layers: int) -> float:
    """Time that measuring so many layers takes, at least."""
    return layers * ROUNDS * ROUND_SECONDS


@dataclass(frozen=True)
class Energies:
    """Millijoules of a call in the round that took least, calls in all rounds, and the counters' names.

    Attributes:
        meter: counters that see the target.
        clock: nanoseconds; a test passes its own.
    """

    meter: Meter
    clock: Clock = time.perf_counter_ns

    @property
    def quantity(self) -> Quantity:
        """Energies."""
        return ENERGIES

    def stale(self, file: TableFile, machine: str) -> bool:
        """Other counters measured what the file has."""
        return file.counters(machine) not in (None, domains(self.meter))

    def measure(
        self, sessions: Sequence[Session], inputs: Sequence[Pixels], *, empty: bool
    ) -> list[Measured]:
        """Interleaved rounds.

        Raises:
            TargetError: the counters cannot be read any more, or stand still.
        """
        found = least_energies(
            sessions, inputs, self.meter, rounds=EMPTY_ROUNDS if empty else ROUNDS, clock=self.clock
        )
        names = domains(self.meter)
        if empty and found[0].millijoules <= 0:
            raise TargetError(
                f"the energy counters ({names}) stand still while calls are made; leave out --energy"
            )
        return [Measured(each.millijoules, (each.calls, names)) for each in found]
