"""Fitting a network to a target: tables of layers, search for widths, fine-tune, a checked and measured file.

    task -> baseline -> tables (`adapt.measuring`) -> widths (`adapt_search`) -> fine-tune with distillation
         (`search`) -> ONNX (`deploy`) -> test set, clock and report (`outcome`)

Everything but the search for widths is shrink's. Choices are made on the validation split and by the tables,
of latencies and of energies, where these are limited; the budget counts as met when the whole network,
measured beside the baseline, is within it.

Example:
    >>> from tersa.recipes.adapt_request import AdaptSpec
    >>> from tersa.recipes.goals import Goals, parse_bound
    >>> import tempfile
    >>> place, goals = Path(tempfile.mkdtemp()), Goals(macs=parse_bound("0.5x", "macs"))
    >>> quick = {"tune": 4, "criterion_samples": 50}
    >>> spec = AdaptSpec(model="mlp:16x16", epochs=1, protocol=quick, goals=goals)
    >>> result = adapt(spec, place / "demo", setting=Setting(seconds=0.05, cache=place / "cache"))
    >>> result.goals[0].met, result.result.macs <= 0.5 * result.baseline.macs
    (True, True)
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from tersa.adapt.anatomy import Anatomy
from tersa.adapt.signature import layers_of
from tersa.adapt.table import TableFile, path_of
from tersa.data.sources import load as load_task
from tersa.data.task import Task, fingerprint
from tersa.errors import UsageError
from tersa.models.zoo import default_spec
from tersa.prune.groups import Groups
from tersa.prune.surgery import after
from tersa.recipes.adapt_energy import meter_of, weigh_energy_
from tersa.recipes.adapt_fit import Fit
from tersa.recipes.adapt_request import AdaptSpec, adapt_command, check_call, checked
from tersa.recipes.adapt_search import asked, by_budget, by_netadapt, why_missed
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.adapt_tables import counted, energy_table, latency_table
from tersa.recipes.deploy import Dock, export_options, pick, shippable
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.job import Job
from tersa.recipes.outcome import Outcome, finish
from tersa.recipes.request import protocol_of
from tersa.recipes.search import Search
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.shrink import finished, prunable, shipped, trained_baseline, weigh_baseline
from tersa.recipes.start import Begin, find_start
from tersa.recipes.trajectory import Trajectory
from tersa.records.adaptation import FrontPoint
from tersa.records.results import ShrinkResult, Step
from tersa.study.cluster import Crew, check_place
from tersa.targets.energy import Meter
from tersa.train.checkpoint import weights_digest
from tersa.train.device import choose as choose_device


@releasing
def adapt(
    spec: AdaptSpec,
    out: Path | str,
    *,
    setting: Setting | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fresh_table: bool = False,
    crew: Crew | None = None,
) -> ShrinkResult:
    """Fit a network to a target.

    Args:
        spec: what is asked.
        out: folder for everything that is made.
        setting: how it is carried out.
        resume: go on with the run in `out`; a finished one is returned as it is.
        overwrite: start again.
        fresh_table: measure the network's layers again, whatever the table knows.
        crew: workers that fine-tune the candidates of a step at once; none, this process does.

    Returns:
        The result; goals that were missed are in `goals`, nothing is raised for them.

    Raises:
        UsageError: the request cannot be carried out as it stands.
        DataError, ModelError, TargetError: data, table, network or runtime do not fit.
        Diverged: the baseline's training ended in NaN.
    """
    began, crew = time.perf_counter(), crew or Crew()
    check_place(crew.on)
    setting, spec = setting or Setting(), checked(spec)
    check_call(spec, fresh_table=fresh_table, crew=crew)
    device = choose_device(setting.device)
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    if spec.run and Path(spec.run).resolve() == Path(out).resolve():
        raise UsageError(f"--out {out} is the run whose network is adapted; give another folder")
    if not setting.command:
        setting = replace(setting, command=adapt_command(spec))
    with threads_of(setting):
        start = find_start(spec, task)
        shipped(spec, task, start.pruned())
        groups = prunable(start.pruned(), task, protocol_of(spec, task))
        anatomy = layers_of(start.pruned(), task.shape, groups, batch=spec.batch)
        meter = meter_of(spec.target) if spec.goals.energy is not None else None
        if spec.measures:
            TableFile(path_of(spec.table)).close()  # one that cannot be written is refused before any work
        ended = resume and (Path(out) / RESULT).is_file()
        if not ended:  # such a run is returned, whatever has become of the table
            counted(spec, anatomy, meter, fresh=fresh_table)
        folder = open_folder(Path(out), "adapt", spec, resume=resume, overwrite=overwrite)
        done = finished(folder)
        return done or _run(
            *(spec, setting, task, start, groups, anatomy, meter, folder, device, began, fresh_table, crew)
        )


def _run(
    spec: AdaptSpec,
    setting: Setting,
    task: Task,
    begin: Begin,
    groups: Groups,
    anatomy: Anatomy,
    meter: Meter | None,
    folder: Path,
    device: str,
    began: float,
    fresh_table: bool,
    crew: Crew,
) -> ShrinkResult:
    trained = trained_baseline(spec, setting, task, begin, device)
    origin = {"data": fingerprint(task), "baseline": weights_digest(trained.module), "model": begin.model}
    way = Trajectory(folder, origin)
    store = AdaptStore(folder)
    table, about = latency_table(spec, setting, anatomy, store, fresh=fresh_table)
    energies = used = None
    if meter is not None:
        energies, used = energy_table(spec, setting, anatomy, store, meter, fresh=fresh_table)
    dock = Dock(task, shippable(spec.precision, spec.target), spec.target, spec.batch, spec.seed)
    weigh_baseline(dock, trained.module, folder)
    if dock.start and (earlier := store.checks()):  # limits and steps stay what they were when it began
        dock.start = replace(dock.start, latency_ms=earlier[0].measured_ms)
    if meter is not None:
        weigh_energy_(dock, meter, store.energies())
    job = Job(
        task=task,
        baseline=trained.module,
        groups=groups,
        fresh=begin.pruned,
        goals=spec.goals,
        protocol=protocol_of(spec, task),
        dock=dock,
        way=way,
        seed=spec.seed,
        device=device,
        say=setting.say,
    )
    fit = Fit(job, spec, anatomy, table, store, energies, crew=crew, data_dir=setting.data_dir)
    with store.timed("search"):
        kept = by_budget(fit) if spec.search == "budget" else by_netadapt(fit)
    with store.timed("tune"):
        tuned = Search(job).of(kept) if kept else None
    if tuned:
        row, options, network = tuned.row, tuned.options, job.network("tuned", kept)
    else:
        if kept:
            job.reason = "the closing fine-tune diverged, and the baseline was kept"
        kept = 0
        row, network = way.rows("steps")[0], trained.module
        options = export_options(dock, network, folder / "tuned", "000", latency=bool(spec.goals.latency))
    chosen, note = pick(options, spec.goals, dock, precision=spec.precision)
    limits = fit.limits()
    if used is not None:
        used = used.model_copy(update={"budget_mj": limits["energy"], "checked": store.energies()})
    adaptation = about.model_copy(
        update={
            "budget_ms": limits.get("latency"),
            "checked": store.checks(),
            "energy": used,
            "candidates": store.candidates(),
            "front": _front(fit, way.rows("steps")) if spec.front else [],
            "seconds": store.seconds(),
        }
    )
    why = (
        job.reason
        or f"the search ended at {row.parameters:,} parameters: {why_missed(fit, _left(fit, kept))}"
    )
    lost = f"{chosen.standing.loss.points:.2f} ± {chosen.standing.loss.standard_error:.2f} points"
    # the search goes by costs alone, and never stops for the accuracy
    return finish(
        Outcome(
            *(spec, begin.model, setting, job, trained, kept, row, network, options, chosen, note, folder),
            began,
            adaptation,
            stop=why,
            floor=f"the limits on costs come first, and their network lost {lost} on validation",
        )
    )


def _front(fit: Fit, rows: list[Step]) -> list[FrontPoint]:
    """Every solved network, and whether another one is at least as good in everything; estimates are all by
    the last factor, which is not that of the time when a network was solved for."""
    points = [
        FrontPoint(
            step=row.index,
            cost=asked(fit).at(_widths(fit, row)),
            estimate_ms=fit.estimate_ms(_widths(fit, row)),
            estimate_mj=fit.estimate_mj(_widths(fit, row)),
            macs=row.macs,
            parameters=row.parameters,
            validation_accuracy=row.validation_accuracy,
        )
        for row in rows
    ]
    return [point.model_copy(update={"dominated": _dominated(point, points)}) for point in points]


def _widths(fit: Fit, row: Step) -> tuple[int, ...]:
    return fit.widths(_left(fit, row.index))


def _left(fit: Fit, index: int) -> Groups:
    return after(fit.job.groups, fit.job.way.gone(index))


def _dominated(point: FrontPoint, points: list[FrontPoint]) -> bool:
    mine = _merits(point)
    return any(
        all(b >= a for a, b in zip(mine, _merits(other), strict=True)) and _merits(other) != mine
        for other in points
        if other.step != point.step
    )


def _merits(point: FrontPoint) -> tuple[float, ...]:
    return (
        point.validation_accuracy,
        -(point.estimate_ms or 0.0),
        -(point.estimate_mj or 0.0),
        -float(point.macs),
        -float(point.parameters),
    )
