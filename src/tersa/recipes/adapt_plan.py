"""What `tersa adapt` would do and about how long it would take, without doing it.

The speed of training is measured on a few batches of the untrained baseline; the rest is counted. How long a
layer takes to time is assumed (`LAYER_SECONDS`); its energy takes rounds of a known length. What a narrowed
network costs against the baseline is assumed (`NARROWED_COST`). A rough estimate, and only of an otherwise
idle machine.
"""

from __future__ import annotations

import math

from tersa.adapt.energies import seconds as seconds_of
from tersa.adapt.signature import layers_of
from tersa.data.sources import load as load_task
from tersa.models.zoo import default_spec
from tersa.recipes.adapt_energy import meter_of
from tersa.recipes.adapt_request import BOUNDS, AdaptSpec, checked
from tersa.recipes.adapt_tables import counted
from tersa.recipes.plan import PlannedStep
from tersa.recipes.request import baseline_config, protocol_of
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.shrink import prunable, shipped
from tersa.recipes.start import find_start
from tersa.records.base import Record
from tersa.train.config import extent
from tersa.train.device import choose
from tersa.train.estimate import in_words, iteration_seconds

LAYER_SECONDS = 0.04
"""Assumed: writing, loading and timing one layer of the table."""

NARROWED_COST = 0.6
"""Assumed mean cost of an iteration of narrowed networks against one of the baseline."""


class AdaptPlan(Record):
    """The parts of the work with the whole time.

    Attributes:
        model: as it was asked for, or the data's default.
        layers: of the latency table that are there; 0 where no latency is asked, and so no table made.
        missing: that would be measured.
        energies: layers whose energy is there; 0 where none is asked.
        missing_energies: whose energy would be measured.
        groups: of channels that go together.
        iteration_s: seconds of an iteration of narrowed networks.
        steps: in order.
        seconds: estimated, in all.
        time: the same in words.
    """

    model: str
    layers: int
    missing: int
    energies: int
    missing_energies: int
    groups: int
    iteration_s: float
    steps: list[PlannedStep]
    seconds: float
    time: str


def plan(spec: AdaptSpec, setting: Setting, *, fresh_table: bool = False) -> AdaptPlan:
    """Estimate the work of `adapt(spec)`; the latency table is read and nothing is written.

    Args:
        spec: what is asked.
        setting: how it would be carried out.
        fresh_table: the network's layers would be measured again, whatever the table knows.

    Raises:
        UsageError, DataError, ModelError, TargetError: what `adapt` would raise before its work.
    """
    spec = checked(spec)
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    begin = find_start(spec, task)
    model, protocol = begin.network(), protocol_of(spec, task)
    shipped(spec, task, begin.pruned())
    groups = prunable(begin.pruned(), task, protocol)
    anatomy = layers_of(begin.pruned(), task.shape, groups, batch=spec.batch)
    meter = meter_of(spec.target) if spec.goals.energy is not None else None
    (there, missing), (energies, missing_energies) = counted(spec, anatomy, meter, fresh=fresh_table)
    config = baseline_config(spec, task, begin.model)
    with threads_of(setting):
        each = iteration_seconds(model, task, config, device=choose(setting.device))
    length = extent(config, len(task.train))
    narrowed = each * protocol.batch / max(config.batch, 1) * NARROWED_COST
    trains = 0.0 if begin.trained else each * length.iterations
    trained = f"weights from {spec.checkpoint or spec.run}" if begin.trained else f"{length.epochs} epochs"
    table = f"{missing} layers to measure, {there} there already", missing * LAYER_SECONDS
    used = f"{missing_energies} layers to measure, {energies} there already", seconds_of(missing_energies)
    parts = [
        ("baseline", f"{trained}, unless the cache has it" if trains else trained, trains),
        *([("latency table", *table)] if spec.goals.latency is not None else []),
        *([("energies of layers", *used)] if spec.goals.energy is not None else []),
        search_part(spec, len(groups.groups), narrowed),
        ("tune", f"{protocol.tune} iterations, distilling from the baseline", protocol.tune * narrowed),
        ("test and measure", f"{len(task.test)} test images, the usual runtimes", 30.0),
    ]
    steps = [PlannedStep(name=n, what=w, seconds=s, time=in_words(s)) for n, w, s in parts]
    total = sum(step.seconds for step in steps)
    return AdaptPlan(
        model=begin.model,
        layers=there,
        missing=missing,
        energies=energies,
        missing_energies=missing_energies,
        groups=len(groups.groups),
        iteration_s=narrowed,
        steps=steps,
        seconds=total,
        time=in_words(total),
    )


def search_part(spec: AdaptSpec, groups: int, each: float) -> tuple[str, str, float]:
    """The part of the search for widths: its name, what it does, seconds.

    Args:
        spec: what was asked.
        groups: of channels that go together.
        each: seconds of an iteration of narrowed networks.
    """
    if spec.search == "budget":
        tuned = spec.front * spec.finetune_steps * each
        what = (
            f"{spec.front} networks, each fine-tuned {spec.finetune_steps} iterations" if spec.front else ""
        )
        measured = ", then up to 6 measurements" if spec.measures else ""
        return "solve", what or f"all widths at once{measured}", 15.0 + tuned
    bound = next((bound for name in BOUNDS if (bound := getattr(spec.goals, name))), None)
    share = bound.value if bound and bound.relative else 0.5
    count = max(1, math.ceil((1.0 - share) / spec.delta))
    faithful = spec.score == "finetune"
    trained = count if faithful else math.ceil(count * spec.hybrid)
    listed = groups if faithful or not spec.shortlist else min(groups, spec.shortlist)
    whole, what = spec.finetune_steps, f"about {count} steps of {groups} candidates"
    iterations = whole + spec.heat * (listed - 1)
    what += f"; {trained} of them fine-tune {listed} each, up to {whole} iterations"
    what += f", all but the best {spec.heat}" if spec.heat < whole and listed > 1 else ""
    return "netadapt", what, count * (groups * 0.3 + 2.0) + trained * iterations * each
