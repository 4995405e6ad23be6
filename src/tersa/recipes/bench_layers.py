"""Where the time goes: each layer's operations, bytes and time on a target, under the machine's roof.

    roof = max(macs / macs per second, bytes / bytes per second, what a call costs at least)

The largest of the three is what holds the layer back: `arithmetic`, `memory`, or `call overhead`, which is
taken as the time of the quickest operator that the profiler saw. A layer that is held back by memory or by
overhead does not become faster when channels of its neighbours' arithmetic go: that is why pruning a layer
may not help.

Of a packed program a layer is one step of its kernels, and arithmetic is counted in products of single bits,
under the limit of counting or looking up (`tersa.targets.popcount`), as if every thread had a core of its
own. What multiplies numbers there (few channels, many bits, floats) has no known roof.

Reference: Williams et al., Roofline (Communications of the ACM 52(4), 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tersa.errors import TersaError
from tersa.export.artefact import PACKED
from tersa.recipes.bench_matrix import File, Job
from tersa.recipes.bench_result import LayerCost, LayerTable
from tersa.recipes.subjects import noise
from tersa.targets import popcount
from tersa.targets.base import Effort, Target
from tersa.targets.ceilings import Ceilings, ceilings
from tersa.targets.costs import NodeCost, file_costs
from tersa.targets.measure import measure
from tersa.targets.profile import LayerTime, profile, steps_of
from tersa.targets.sweep import Row

Say = Callable[[str, float, str], None]


def layer_tables(job: Job, rows: Sequence[Row], notes: list[str], say: Say) -> list[LayerTable]:
    """One table for every model, precision and local target that was measured, at the smallest batch.

    Args:
        job: what is measured.
        rows: what was measured.
        notes: gets a line for every target that gives no times by layer.
        say: told how the work goes on.
    """
    found: list[LayerTable] = []
    known = {(row.model, row.target, row.precision) for row in rows}
    pairs = [
        (target, each)
        for _, target in job.targets
        if not isinstance(target, str)
        for each in job.files
        if (each.subject.name, target.describe(), each.precision) in known
    ]
    for index, (target, file) in enumerate(pairs):
        say("layers", index / len(pairs), f"{file.subject.name} on {target.describe()}")
        try:
            found.append(layer_table(target, file, file.subject.batch or job.batches.sizes[0]))
        except TersaError as error:
            notes.append(f"layers of {file.subject.name} on {target.describe()}: {error}")
    say("layers", 1.0, "")
    return found


def layer_table(target: Target, file: File, batch: int) -> LayerTable:
    """The layers of one network on one target.

    Raises:
        TargetError: the runtime gives no times by layer, or does not run the network.
        ModelError: the work of the layers is not known.
    """
    packed = file.precision == PACKED
    path = file.artefact.path
    costs = steps_of(path, batch) if packed else file_costs(path, batch, file.precision)
    images = noise(file.artefact.header, batch)
    times = profile(target, file.artefact, file.precision, images, costs)
    session = target.prepare(file.artefact, file.subject.name, file.precision)
    try:
        [whole] = measure([session], images, effort=Effort(seconds=0.3, warmup_seconds=0.3))
    finally:
        session.close()
    machine = ceilings(target.threads)
    if packed:
        bits = {PACKED: target.threads * popcount.limit()}
        machine = machine.model_copy(update={"macs_per_s": machine.macs_per_s | bits})
    working_set = sum(one.weight_bytes for one in costs) + max(
        one.moved_bytes - one.weight_bytes for one in costs
    )
    overhead = min(one.ms for one in times.layers)
    layers = roofs(times.layers, machine, file.precision, working_set, overhead)
    return LayerTable(
        model=file.subject.name,
        target=target.describe(),
        precision=file.precision,
        batch=batch,
        call_ms=whole.latency_ms.median,
        profiled_ms=sum(one.ms for one in times.layers),
        overhead_ms=overhead,
        macs_per_s=_speed(machine, file.precision),
        bytes_per_s=machine.bandwidth(working_set),
        working_set_bytes=working_set,
        how=times.how,
        layers=layers,
    )


def roofs(
    times: list[LayerTime], machine: Ceilings, precision: str, working_set: int, overhead_ms: float
) -> list[LayerCost]:
    """Every layer under the roof; see the head of this file.

    Args:
        times: of the layers.
        machine: its ceilings.
        precision: of the arithmetic.
        working_set: bytes that the network touches in a call.
        overhead_ms: what an operator costs at least.
    """
    total = sum(one.ms for one in times)
    speed = _speed(machine, precision)
    found: list[LayerCost] = []
    for one in times:
        cost: NodeCost | None = one.cost
        macs = cost.macs if cost else 0
        moved = cost.moved_bytes if cost else one.moved_bytes
        parts = {
            "arithmetic": 1e3 * (cost.work if cost and precision == PACKED else macs) / speed,
            "memory": 1e3 * moved / machine.bandwidth(working_set),
            "call overhead": overhead_ms,
        }
        known = moved > 0 and not (cost and precision == PACKED and macs and not cost.work)
        limit = max(parts, key=lambda name: parts[name]) if known else "not known"
        found.append(
            LayerCost(
                name=one.name,
                kind=one.kind,
                macs=macs,
                bytes=moved,
                ms=one.ms,
                share=100.0 * one.ms / total,
                limit=limit,  # pyright: ignore[reportArgumentType] - a key of `parts`
                roof_ms=max(parts.values()) if known else 0.0,
            )
        )
    return found


def limit_words(table: LayerTable) -> str:
    """Where the time goes, in a sentence."""
    by_limit: dict[str, float] = {}
    for one in table.layers:
        by_limit[one.limit] = by_limit.get(one.limit, 0.0) + one.share
    most = max(table.layers, key=lambda one: one.share)
    parts = [
        f"{share:.0f} % " + ("without a known limit" if limit == "not known" else f"held back by {limit}")
        for limit, share in _falling(by_limit)
        if share >= 0.5
    ]
    return f"{most.name} takes {most.share:.0f} % of the time; of all the time {', '.join(parts)}"


def _falling(shares: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: -pair[1])


def _speed(machine: Ceilings, precision: str) -> float:
    """Ceiling of arithmetic; of FP32 where a precision could not be measured."""
    return machine.macs_per_s.get(precision, machine.macs_per_s["fp32"])
