"""The end of a run of shrink: files, the test set, the clock, the result and its report.

The test set is read here and nowhere else, by running the exported files.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tersa.data.task import Task
from tersa.errors import TargetError
from tersa.export.artefact import PACKED
from tersa.export.bundle import SUFFIX
from tersa.export.check import agreement, classify, require
from tersa.export.run_script import write_run_script
from tersa.files import replacing
from tersa.models.summary import macs, parameters
from tersa.numerics import paired_loss
from tersa.prune.holding import alive
from tersa.recipes.beside import SCRATCH, coded_file, from_scratch, sparse_size, twin_config
from tersa.recipes.deploy import Option, race, race_energy, tolerance_of
from tersa.recipes.evidence import confusion, examples, layer_rows
from tersa.recipes.folder import RESULT, read_spec
from tersa.recipes.goals import file_goal, judged, keeps_accuracy, within_bounds
from tersa.recipes.job import Job
from tersa.recipes.request import ShrinkSpec, command_of
from tersa.recipes.setting import Setting
from tersa.recipes.start import zeroed_by
from tersa.records.adaptation import Adaptation
from tersa.records.base import write_record
from tersa.records.results import (
    CodedFile,
    Comparison,
    Figures,
    Goal,
    Quantiles,
    ShrinkResult,
    SparseSize,
    Step,
    Twin,
)
from tersa.report.page import write as write_report
from tersa.report.verdict import headline
from tersa.report.words import GUESSES
from tersa.targets.energy import domains
from tersa.targets.environment import environment
from tersa.targets.registry import installed, parse
from tersa.train.baseline import Baseline, save_weights
from tersa.train.evaluation import predict

GUESSING = 1.5
"""A baseline below this many times the accuracy of guessing is remarked upon."""

USUAL = ("torch", "onnxruntime", "openvino")
"""Runtimes that every result is measured on where they are installed; `tersa bench` has all. Those that
compile first (torch-compile, c) would take longer than the rest of a small job."""


@dataclass(frozen=True)
class Outcome:
    """All that the last part of a run needs; `model` is the spec of the network that lost channels.

    `stop` and `floor` say why a bound on costs or a floor of accuracy was missed, where the search knows
    better than its ending tells.
    """

    spec: ShrinkSpec
    model: str
    setting: Setting
    job: Job
    trained: Baseline
    kept: int
    row: Step
    network: nn.Module
    options: list[Option]
    chosen: Option
    note: str
    folder: Path
    began: float
    adaptation: Adaptation | None = None
    stop: str = ""
    floor: str = ""


@dataclass(frozen=True)
class _Tested:
    """One file on the whole test set."""

    logits: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        return 100.0 * float(self.correct.mean())


def finish(o: Outcome) -> ShrinkResult:
    o.setting.say("test and measure", 0.0, "")
    artefacts = _ship(o)
    before, after = (_test(path, o.job.task) for path in (o.job.dock.reference.path, artefacts[0]))  # type: ignore[union-attr] - set by weigh_baseline
    comparisons = _measure(o, artefacts)
    result = _compose(o, artefacts, before, after, comparisons, _energies(o), _beside(o, before))
    write_report(result, o.folder / "report.html")
    for name in ("candidate.onnx", "candidate-int8.onnx", f"candidate{SUFFIX}"):
        (o.folder / "steps" / name).unlink(missing_ok=True)
    write_record(o.folder / RESULT, result)
    for left in (SCRATCH, "steps/*.training.*", "tuned/*.training.*"):
        for path in o.folder.glob(left):
            path.unlink(missing_ok=True)
    o.setting.say("test and measure", 1.0, result.verdict)
    return result


@dataclass(frozen=True)
class Beside:
    """What was made or counted beside the result, where it was asked."""

    scratch: Twin | None
    sparse: SparseSize | None
    coded: CodedFile | None


def _beside(o: Outcome, before: _Tested) -> Beside:
    job, spec, pruned = o.job, o.spec, o.kept > 0
    return Beside(
        from_scratch(job, twin_config(spec, job.task, o.trained.spec), o.kept, before.correct)
        if spec.scratch and pruned and not job.zeroes
        else None,
        sparse_size(job, o.network) if job.zeroes and pruned else None,
        coded_file(job, spec, o.model, o.network, o.folder, before.correct) if spec.cluster else None,
    )


def _ship(o: Outcome) -> list[Path]:
    """The chosen file as `model.onnx` or `model.tersa`, the float twin of an INT8 one, the weights, and
    `run.py`, which is of ONNX files."""
    assert o.job.dock.reference is not None
    chosen = o.chosen.artefact
    paths = [o.folder / f"model{chosen.path.suffix}"]
    _copy(chosen.path, paths[0])
    if chosen.header.precision == "int8":
        exact = chosen.path.with_name(chosen.path.name.replace("-int8", ""))
        paths.append(o.folder / "model-fp32.onnx")
        _copy(exact, paths[1])
    save_weights(o.network, o.folder / "model.safetensors")
    paths.append(o.folder / "model.safetensors")
    if chosen.path.suffix != SUFFIX:
        paths.append(write_run_script(o.folder / "run.py", paths[0].name))
    return [*paths, o.job.dock.reference.path]


def _copy(source: Path, path: Path) -> None:
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def _test(path: Path, task: Task) -> _Tested:
    logits = classify(path, task.test.images)
    return _Tested(logits, logits.argmax(axis=1) == task.test.labels.numpy())


def _measure(o: Outcome, artefacts: list[Path]) -> list[Comparison]:
    """The baseline against each file of the result on the usual runtimes, the goal's target first.

    Raises:
        TargetError: the goal's target has gone since the baseline was measured on it.
    """
    dock = o.job.dock
    files = [o.chosen.artefact, *(x.artefact for x in o.options if x is not o.chosen)]
    names = [dock.target]
    packed = PACKED in dock.precisions
    there = [
        kind.name
        for kind in installed()
        if kind.version and kind.name in USUAL and (PACKED in kind.precisions or not packed)
    ]
    names += [f"{name}@threads=1" for name in there if name != parse(dock.target).name]
    found: list[Comparison] = []
    for name in names:
        for artefact in files:
            timed = race(dock, dock.reference or artefact, artefact, seconds=o.setting.seconds, target=name)
            if not found and timed.verdict == "not offered":
                raise TargetError(f"{name} cannot be measured any more: {timed.reason}; --resume goes on")
            found.append(timed)
            o.setting.say("test and measure", len(found) / (len(names) * len(files) + 1), name)
    return found


@dataclass(frozen=True)
class _Energies:
    """Measured energies of a call, mJ, and the counters that told; None and empty where none was asked."""

    before: float | None = None
    after: float | None = None
    by: str = ""


def _energies(o: Outcome) -> _Energies:
    """The energy of the baseline and of the result, in alternating rounds on the goal's target.

    Raises:
        TargetError: the counters cannot be read any more, or stand still.
    """
    dock = o.job.dock
    if dock.meter is None:
        return _Energies()
    assert dock.reference is not None
    before, after = race_energy(dock, dock.reference, o.chosen.artefact, seconds=o.setting.seconds)
    return _Energies(before, after, domains(dock.meter))


def _compose(
    o: Outcome,
    artefacts: list[Path],
    before: _Tested,
    after: _Tested,
    comparisons: list[Comparison],
    energies: _Energies,
    beside: Beside,
) -> ShrinkResult:
    task, dock, spec = o.job.task, o.job.dock, o.spec
    main = comparisons[0]
    assert main.before is not None, "the first comparison is of the goal's own target"
    assert main.after is not None
    assert main.speedup is not None
    assert dock.start is not None
    assert dock.reference is not None
    old = _figures(
        o.trained.module,
        task,
        before,
        dock.start.accuracy,
        dock.reference.path,
        main.before.latency_ms,
        dock.reference.header.precision,
        alive(o.trained.module) if o.job.zeroes else parameters(o.trained.module),
    ).model_copy(update={"energy_mj": energies.before, "energy_by": energies.by})
    new = _figures(
        o.network,
        task,
        after,
        o.chosen.standing.accuracy,
        artefacts[0],
        main.after.latency_ms,
        o.chosen.artefact.header.precision,
        alive(o.network) if o.job.zeroes else parameters(o.network),
    ).model_copy(update={"energy_mj": energies.after, "energy_by": energies.by})
    loss = paired_loss(before.correct, after.correct)
    trained_logits = predict(o.network, task.test, task).numpy()
    exact = artefacts[1] if new.precision == "int8" else artefacts[0]
    reference = agreement(exact, trained_logits, task.test.images, tolerance=tolerance_of(exact))
    require(reference, exact.name)
    tolerance = 0.0 if new.precision == "int8" else reference.tolerance
    right, wrong = examples(task, task.test, after.logits)
    goals = judged(spec.goals, old, new, loss.points, _reasons(o, loss.points, main))
    goals += _coded_goals(beside.coded)
    result = ShrinkResult(
        verb=spec.verb,
        name=o.folder.name,
        command=o.setting.command or command_of(spec),
        task=task.name,
        task_note=task.provenance.note,
        model=o.model,
        target=parse(spec.target).describe(),
        batch=spec.batch,
        precision=new.precision,
        seed=spec.seed,
        split_sizes={"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        classes=list(task.classes),
        shape=task.shape,
        mean=task.mean,
        std=task.std,
        sha256=dict(task.provenance.sha256),
        baseline=old,
        result=new,
        compression=old.parameters / new.parameters,
        acceleration=old.macs / max(new.macs, 1),
        size_ratio=old.size_bytes / new.size_bytes,
        speedup=main.speedup,
        loss_points=loss.points,
        loss_standard_error=loss.standard_error,
        goals=goals,
        verdict="",
        detail="",
        agreement=agreement(artefacts[0], trained_logits, task.test.images, tolerance=tolerance),
        reference_agreement=reference,
        comparisons=comparisons,
        layers=layer_rows(o.trained.module, o.network, task, o.job.groups.kept),
        steps=_steps(o),
        confusion=confusion(task.test.labels.numpy(), after.logits.argmax(axis=1), len(task.classes)),
        samples=right,
        mistakes=wrong,
        scratch=beside.scratch,
        sparse=beside.sparse,
        coded=beside.coded,
        adaptation=o.adaptation,
        protocol={**o.job.protocol.model_dump(exclude_none=True), "baseline_key": o.trained.key},
        environment=environment(torch.get_num_threads()),
        notes=_notes(o),
        artefacts=[*(path.name for path in artefacts), *([beside.coded.file] if beside.coded else [])],
        report="report.html",
        seconds=o.job.way.earlier_seconds + time.perf_counter() - o.began,
    )
    verdict, detail = headline(result)
    return result.model_copy(update={"verdict": verdict, "detail": detail})


def _figures(
    model: nn.Module,
    task: Task,
    tested: _Tested,
    validation: float,
    path: Path,
    latency: Quantiles,
    precision: str,
    count: int,
) -> Figures:
    return Figures(
        test_accuracy=tested.accuracy,
        validation_accuracy=validation,
        parameters=count,
        macs=macs(model, task.shape),
        size_bytes=path.stat().st_size,
        latency_ms=latency,
        precision=precision,
    )


def _steps(o: Outcome) -> list[Step]:
    """Pruning steps, then every fine-tune that was tried, then what was shipped."""
    tuned = o.job.way.rows("tuned")
    rows = o.job.way.rows("steps")
    last = len(rows)
    for offset, row in enumerate(tuned):
        shipped = row.index == o.kept and o.chosen.artefact.header.precision != "int8"
        what = f"{row.what}, starting at step {row.index}"
        rows.append(row.model_copy(update={"index": last + offset, "kept": shipped, "what": what}))
    if o.chosen.artefact.header.precision == "int8" or not o.kept:
        standing = o.chosen.standing
        integer = o.chosen.artefact.header.precision == "int8"
        origin = f"step {o.kept}, fine-tuned" if o.kept else "the baseline"
        what = f"INT8 of {origin}" if integer else "the baseline itself"
        rows.append(
            o.row.model_copy(
                update={
                    "index": len(rows),
                    "stage": "quantise" if integer else "baseline",
                    "what": what,
                    "validation_accuracy": standing.accuracy,
                    "loss_points": standing.loss.points,
                    "standard_error": standing.loss.standard_error,
                    "size_bytes": standing.size_bytes,
                    "seconds": 0.0,
                    "kept": True,
                }
            )
        )
    return rows


def _reasons(o: Outcome, lost: float, main: Comparison) -> dict[str, str]:
    """For each goal that could be missed, the cause in words."""
    standing, start = o.chosen.standing, o.job.dock.start
    assert start is not None
    allowed = o.job.allowed_loss
    if allowed is not None and allowed < 0:
        floor = f"the baseline itself has {start.accuracy:.2f} % on validation"
    elif not keeps_accuracy(o.spec.goals, start, standing):
        what = f"the baseline's {o.chosen.artefact.header.precision} file"
        floor = (
            o.floor or f"no network, {what} included, keeps it on validation with one standard error to spare"
        )
    else:
        floor = (
            f"validation showed {standing.loss.points:.2f} ± {standing.loss.standard_error:.2f} points lost, "
            f"the test set {lost:.2f}: the splits differ by chance; a larger --validation narrows this"
        )
    count = f"{o.row.parameters:,} parameters"
    last = max((row.index for row in o.job.way.rows("steps")), default=0)
    if within_bounds(o.spec.goals, start, standing):
        stop = "the measurement that steered was within the bound, the final one was not"
    elif o.stop:
        stop = o.stop
    elif o.job.ended == "broken" and (o.row.index == last or not o.spec.goals.guarded):
        stop = f"the network did not run below {count}"
    elif o.spec.goals.guarded and o.row.index != last:
        stop = f"the accuracy allowed no smaller network than {count}"
    elif o.job.ended == "diverged":
        stop = f"retraining diverged below {count}"
    elif o.job.ended == "schedule":
        stop = f"the schedule ended at {count}"
    elif ":" in o.job.protocol.granularity:
        stop = f"{o.job.protocol.granularity} leaves {count}"
    else:
        unit = o.job.protocol.granularity if o.job.zeroes else "channel"
        few = o.job.protocol.round_to
        down = f"one {unit}" if few == 1 else f"{few} {unit}s"
        stop = f"pruning ended at {count}: every layer is down to {down} or must stay"
    slow = f"{stop}; {main.reason}" if main.reason else stop
    floors = {"max-loss": floor, "min-accuracy": floor}
    return floors | {"size": stop, "macs": stop, "parameters": stop, "energy": stop, "latency": slow}


def _coded_goals(coded: CodedFile | None) -> list[Goal]:
    """The limit of the entropy-coded file, where one was asked."""
    if coded is None or coded.most_bytes is None:
        return []
    text = f"at most {coded.most_bytes:,} bytes of entropy-coded file"
    reason = f"the smallest file that training gave, of {coded.bits}-bit weights before coding"
    return [file_goal("coded-size", coded.most_bytes, coded.size_bytes, text, reason)]


def _notes(o: Outcome) -> list[str]:
    notes = ["The test set was read once, at the end; every choice was made on the validation split."]
    assert o.job.dock.start is not None
    if o.job.dock.start.accuracy < GUESSING * 100.0 / len(o.job.task.classes):
        notes.append(GUESSES)
    if o.spec.checkpoint:
        notes.append(
            "The weights were given: if images of this validation split trained them, it flatters them."
        )
    if o.spec.run and _split_elsewhere(o.spec):
        notes.append(
            "The run was made with another seed or --validation: images of this validation split may have "
            "trained it, which flatters it."
        )
    if o.spec.run and not o.job.zeros and (kind := zeroed_by(Path(o.spec.run))):
        why = f"--light {o.spec.light}" if o.spec.light else "--granularity map"
        notes.append(f"The run had zeroed by {kind}: under {why} its zeros learnt again.")
    if o.job.ended == "broken":
        notes.append(f"Pruning ended early: {o.job.reason}.")
    if o.job.task.provenance.note:
        notes.append(o.job.task.provenance.note)
    if o.trained.cached and not o.spec.checkpoint:
        notes.append("The baseline came from the cache: the time stated does not include its training.")
    if o.job.dock.meter is not None:
        names = domains(o.job.dock.meter)
        notes.append(
            f"Energy was measured by the counters of {names}: all that they saw in the least of a few "
            "rounds, idle power included."
        )
    if o.note:
        notes.append(o.note)
    return notes


def _split_elsewhere(spec: ShrinkSpec) -> bool:
    """The run that gave the weights may have cut its validation split from other images."""
    made = read_spec(Path(str(spec.run)))
    seed = made.get("seed", made.get("config", {}).get("seed", 0))
    return (seed, made.get("validation")) != (spec.seed, spec.validation)
