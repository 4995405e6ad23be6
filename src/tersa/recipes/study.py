"""A study from its spec to a folder: expand, check, train what is left, say how it stands.

    studies/NAME/study.toml    everything asked, written first
                 study.db      the cells, growing while it runs (`tersa.study.store`)
                 report.html   the answer, then the curves; made again by `tersa study report`

A study that was killed goes on with `resume`, and ends with the same numbers. It may have grown: cells that
have ended stay, new ones are trained, and cells that the spec no longer has stay in the store. Failed cells
keep their traceback and are tried again with `retry`.

Example:
    >>> import tempfile
    >>> from tersa.study.spec import StudySpec
    >>> fixed = {"data": "digits", "model": "mlp:8", "epochs": 1, "quant": "symmetric"}
    >>> spec = StudySpec(name="demo", fixed=fixed, axes={"bits": [2, 8]}, seeds=2)
    >>> result = run_study(spec, Path(tempfile.mkdtemp()) / "demo", workers=1)
    >>> result.cells, result.done, result.trained
    (4, 4, 4)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from tersa.errors import UsageError, utf8
from tersa.files import write_atomic
from tersa.recipes.folder import discard, hold, releasing, sweep
from tersa.recipes.setting import Setting
from tersa.recipes.study_report import write_study_report
from tersa.records.base import SCHEMA, Record
from tersa.study.cell import Cell
from tersa.study.cluster import LOCAL, check_place
from tersa.study.launch import check, costs, cut, default_workers, pending, prepare, run
from tersa.study.pace import makespan, paces
from tersa.study.spec import Expansion, StudySpec, expand, read_spec, to_toml
from tersa.study.store import CellSummary, StudyStore
from tersa.study.workers import ENGINE, Launch, Shelf, engine_of, here, in_workers
from tersa.train.device import choose

SPEC, DATABASE, REPORT = "study.toml", "study.db", "report.html"


class StudyPlan(Record):
    """What `run_study` would do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Of the study."""
    cells: int
    """Runs of the study in all."""
    ended: int
    """Runs that are stored already."""
    failed: int
    """Runs that failed and would be left alone."""
    left: int
    """Runs that would be trained."""
    epochs: int
    """Of all runs that would be trained."""
    stacks: int
    """In how many stacks."""
    largest: int
    """Runs of the largest of them."""
    workers: int
    """Processes that train at once."""
    threads: int
    """Of each of them."""
    seconds: float | None
    """About how long it would take, by the pace of the runs that have ended, or else of a few updates of each
    kind of stack (`tersa.study.pace`); None where there are too many kinds, or an engine of one's own."""
    left_out: list[str]
    """Combinations without meaning, with the reason."""
    notes: list[str]
    """What was filled in or merged."""


class StudyResult(Record):
    """How a study stands after a run."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_version: int = SCHEMA
    verb: Literal["study run"] = "study run"
    name: str
    """Of the study."""
    cells: int
    """Runs of the study in all."""
    done: int
    """Runs that ended with a network."""
    diverged: int
    """Runs that ended in NaN or infinity."""
    failed: int
    """Runs that ended with an error."""
    trained: int
    """Runs that this call trained."""
    earlier: int
    """Runs in the store that the spec no longer has."""
    trouble: str
    """Last line of the first failure, or empty."""
    left_out: list[str]
    """Combinations without meaning, with the reason."""
    notes: list[str]
    """What was filled in or merged."""
    artefacts: list[str]
    """Paths of the spec and of the store."""
    report: str
    """Path of the report; empty where no run has ended well."""
    seconds: float
    """Wall time of this call."""


@releasing
def run_study(
    spec: StudySpec,
    out: Path,
    setting: Setting | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    on: str = LOCAL,
    engine: str = ENGINE,
) -> StudyResult:
    """Train every run of a study that has not ended.

    Args:
        spec: of the study.
        out: its folder.
        setting: data, device, threads of each worker (None: 1) and progress.
        workers: processes that train at once; None for as many as the cores carry.
        resume: go on with the study in `out`, which may have grown; a folder that is not there is made.
        overwrite: remove a study that is there.
        retry: train failed runs again.
        on: `local`, or a Ray cluster (`tersa.study.cluster`).
        engine: module that trains stacks.

    Raises:
        UsageError, DataError, ModelError: a spec or folder that cannot be, before any work.
        KeyboardInterrupt: SIGINT or SIGTERM; finished stacks are stored.
    """
    began = time.perf_counter()
    setting = setting or Setting()
    check_place(on)
    launch = launch_of(setting, workers, engine, on)
    expansion = expand(spec)
    shelf = Shelf(setting.data_dir)
    check(expansion.cells, shelf, launch)
    alone = launch.workers == 1 and on == LOCAL
    how = partial(here, shelf=shelf) if alone else in_workers
    open_study(out, spec, resume=resume, overwrite=overwrite)
    with StudyStore(out / DATABASE, write=True) as store:
        stacks = prepare(store, expansion.cells, shelf, launch, retry=retry)
        say = partial(setting.say, f"{spec.name}: {len(expansion.cells):,} runs")
        ways = run(store, stacks, launch, say, launcher=how)
        rows = store.summaries()
    if any(row.status in ("done", "diverged") for row in rows):
        write_study_report(out, name=spec.name, command=setting.command)
    return _result(spec, expansion, out, rows, ways.total(), time.perf_counter() - began)


def plan_study(
    spec: StudySpec,
    out: Path,
    setting: Setting | None = None,
    *,
    workers: int | None = None,
    retry: bool = False,
    engine: str = ENGINE,
) -> StudyPlan:
    """What `run_study` would do with `resume`; nothing is written.

    Raises:
        UsageError, DataError, ModelError: what the study would raise before its work.
    """
    setting = setting or Setting()
    launch = launch_of(setting, workers, engine)
    expansion = expand(spec)
    shelf = Shelf(setting.data_dir)
    check(expansion.cells, shelf, launch)
    stored = _rows(out)
    wanted = {cell.key for cell in expansion.cells}
    rows = [row for row in stored if row.key in wanted and row.stack is not None]
    known = {row.key for row in rows}
    fresh = [cell for cell in expansion.cells if cell.key not in known]
    trainer, cost = engine_of(engine), costs(shelf, launch)
    stacks = [stack.cells for stack in pending(rows, cost, retry=retry)]
    stacks += cut(fresh, lambda cell: trainer.capacity(cell, shelf.task(cell.data)), cost, launch.workers)
    left = [cell for stack in stacks for cell in stack]
    failed = sum(row.status == "failed" for row in rows)
    return StudyPlan(
        name=spec.name,
        cells=len(expansion.cells),
        ended=sum(row.status in ("done", "diverged") for row in rows),
        failed=0 if retry else failed,
        left=len(left),
        epochs=sum(cell.epochs for cell in left),
        stacks=len(stacks),
        largest=max(map(len, stacks), default=0),
        workers=launch.workers,
        threads=launch.threads,
        seconds=_estimate(stored, stacks, cost, shelf, launch),
        left_out=list(expansion.left_out),
        notes=list(expansion.notes),
    )


def launch_of(setting: Setting, workers: int | None = None, engine: str = ENGINE, on: str = LOCAL) -> Launch:
    """How a study is run: on a GPU by one worker, else by as many as the cores carry."""
    device = choose(setting.device)
    threads = setting.threads or 1
    count = workers or (default_workers(threads) if device == "cpu" else 1)
    return Launch(count, threads, device, setting.data_dir, engine, on)


def open_study(out: Path, spec: StudySpec, *, resume: bool, overwrite: bool) -> None:
    """Make the folder of a study, or enter the one that is there, and store its spec.

    Raises:
        UsageError: the folder exists and neither was asked; it is not a study; or another process runs it.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other; give one")
    utf8(out, "the folder")
    if out.is_dir():
        hold(out)
    sweep(out, SPEC)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not out.is_dir() or not (out / SPEC).is_file():
            raise UsageError(f"{out} exists and is not the folder of a study; give another --out")
        if not resume and not overwrite:
            raise UsageError(
                f"{out} exists; --resume goes on with it, --overwrite starts again, or give another --out"
            )
        if overwrite:
            StudyStore(out / DATABASE, write=True).close()  # refused while another process runs it
            discard(out)
    out.mkdir(parents=True, exist_ok=True)
    hold(out)
    write_atomic(out / SPEC, to_toml(spec))


def stored_spec(folder: Path) -> StudySpec:
    """The spec of a study that was begun.

    Raises:
        UsageError: the folder holds none.
    """
    if not (folder / SPEC).is_file():
        raise UsageError(f"{folder} is not the folder of a study: it has no {SPEC}")
    return read_spec(folder / SPEC)


def stored_cells(folder: Path) -> list[CellSummary]:
    """Every cell of a study that was begun, without epochs.

    Raises:
        UsageError: the folder holds no study.
        DataError: its store cannot be read.
    """
    stored_spec(folder)
    with StudyStore(folder / DATABASE) as store:
        return store.summaries()


def _rows(out: Path) -> list[CellSummary]:
    """What is stored of a study that may not have begun."""
    if not (out / DATABASE).is_file():
        return []
    with StudyStore(out / DATABASE) as store:
        return store.summaries()


def _estimate(
    rows: Sequence[CellSummary],
    stacks: Sequence[Sequence[Cell]],
    cost: Callable[[Cell], float],
    shelf: Shelf,
    launch: Launch,
) -> float | None:
    """Seconds by the pace of the runs that have ended, or of a few updates."""
    ended = [row for row in rows if row.seconds > 0]
    paid = sum(cost(row.cell) for row in ended)
    if paid:
        left = sum(cost(cell) for stack in stacks for cell in stack)
        return sum(row.seconds for row in ended) / paid * left / launch.workers
    if launch.engine != ENGINE:
        return None
    found = paces(stacks, shelf, threads=launch.threads, device=launch.device)
    return None if found is None else makespan(found, launch.workers)


def _result(
    spec: StudySpec, expansion: Expansion, out: Path, rows: list[CellSummary], trained: int, seconds: float
) -> StudyResult:
    wanted = {cell.key for cell in expansion.cells}
    ours = [row for row in rows if row.key in wanted]
    ways = [row.status for row in ours]
    trouble = next((row.message for row in ours if row.status == "failed"), "")
    report = out / REPORT
    return StudyResult(
        name=spec.name,
        cells=len(ours),
        done=ways.count("done"),
        diverged=ways.count("diverged"),
        failed=ways.count("failed"),
        trained=trained,
        earlier=len(rows) - len(ours),
        trouble=trouble.strip().rpartition("\n")[2],
        left_out=list(expansion.left_out),
        notes=list(expansion.notes),
        artefacts=[str(out / SPEC), str(out / DATABASE)],
        report=str(report) if report.is_file() else "",
        seconds=seconds,
    )
