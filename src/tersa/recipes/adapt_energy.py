"""The energy of one run of adapt: counters that see the target, and energies of whole networks.

Only measured energy counts here: there must be counters on this machine, before any work. A whole network is
measured in rounds that alternate with the baseline's, and its energy is that of the baseline, as it was when
the run began, times the ratio of the two. Estimates are by the table of single layers times a factor, which
every measurement corrects (`adapt.resource`).

Example:
    >>> meter_of("ssh://pi/onnxruntime")
    Traceback (most recent call last):
    ...
    tersa.errors.TargetError: --energy: ssh://pi/onnxruntime runs on another machine, whose ...
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tersa.adapt.anatomy import Anatomy
from tersa.adapt.resource import Table, estimate, factor_of
from tersa.adapt.single import EMPTY, lone_layer
from tersa.errors import TargetError
from tersa.recipes.deploy import Dock, race_energy
from tersa.records.adaptation import CheckedEnergy
from tersa.targets.energy import POWERCAP, Meter, counters
from tersa.targets.registry import parse
from tersa.targets.ssh import is_remote

BASELINE_SECONDS = 1.0
"""Of calls of the baseline, for the energy that relative limits refer to."""

INSTEAD = "limit --latency, --macs, --size or --parameters instead"


def meter_of(target: str) -> Meter:
    """The counters that see what a target runs.

    Raises:
        TargetError: it runs on another machine, or this one has no counters that can be read.
    """
    if is_remote(target):
        raise TargetError(
            f"--energy: {target} runs on another machine, whose energy counters are not read from here; "
            f"{INSTEAD}"
        )
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        lone = lone_layer(EMPTY, 1, 1, Path(folder) / "empty.onnx")
        session = parse(target).prepare(lone.artefact, "empty call")
        device = session.device
        session.close()
    found = counters(device)
    if found is None:
        needed = f"RAPL of Intel or AMD, readable at {POWERCAP}" if device == "cpu" else "NVML of NVIDIA"
        raise TargetError(
            f"--energy: this machine has no energy counter that can be read for {target} (needed: {needed}); "
            f"{INSTEAD}"
        )
    return found


def weigh_energy_(dock: Dock, meter: Meter, earlier: Sequence[CheckedEnergy]) -> None:
    """Give the dock its counters and the baseline's energy; that of a run that goes on is what it was.

    Raises:
        TargetError: the counters cannot be read any more, or stand still.
    """
    assert dock.reference is not None
    assert dock.start is not None
    dock.meter = meter
    if earlier:
        energy = earlier[0].measured_mj
    else:
        energy = min(race_energy(dock, dock.reference, dock.reference, seconds=BASELINE_SECONDS))
    dock.start = replace(dock.start, energy_mj=energy)


def held(
    anatomy: Anatomy,
    table: Table,
    widths: Sequence[int],
    *,
    step: int,
    measured: float,
    first: float | None,
) -> CheckedEnergy:
    """An estimate against a measurement, and the factor that follows from it.

    Args:
        anatomy: of the network.
        table: with the factor in use.
        widths: of its groups.
        step: of the trajectory.
        measured: energy of the whole network, mJ.
        first: the baseline's factor; None where this is the baseline.
    """
    plain, known = table.plain(anatomy.channels(widths)), estimate(anatomy, table, widths)
    return CheckedEnergy(
        step=step,
        estimate_mj=known.value,
        first_mj=known.value if first is None else table.start + first * plain,
        measured_mj=measured,
        factor=factor_of(measured, plain, table.start),
        interpolated=known.interpolated,
        layers=known.exact + known.interpolated,
    )
