"""The main job: a trained network made as small as the goals allow, exported, checked, measured, reported.

    task -> baseline -> prune and retrain, step by step -> fine-tune the smallest step that keeps the goals
         -> ONNX (fp32, INT8) -> test set, once -> latency side by side -> report

Choices are made on the validation split with a margin of one standard error (`goals`); the test set is read
once, at the end, by running the exported files. Everything is on disk as it happens: a killed run goes on
with `resume`.

Example:
    >>> ShrinkSpec(data="digits", goals=Goals(max_loss=2.0)).precision
    'auto'
"""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError
from torch import nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task, fingerprint
from tersa.errors import UsageError, faults, unknown
from tersa.export.check import agreement, classify, require
from tersa.export.run_script import write_run_script
from tersa.models.load import load as load_model
from tersa.models.summary import macs, parameters
from tersa.models.zoo import default_spec
from tersa.numerics import paired_loss
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import verify
from tersa.recipes.deploy import Dock, Option, export_options, pick, race, shippable
from tersa.recipes.descent import Job, Protocol, default_protocol, descend_
from tersa.recipes.evidence import confusion, examples, layer_rows
from tersa.recipes.folder import RESULT, open_folder
from tersa.recipes.goals import Goals, Start, judged, keeps_accuracy, within_bounds
from tersa.recipes.search import Search
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.trajectory import Trajectory
from tersa.records import (
    Comparison,
    Figures,
    Quantiles,
    Record,
    ShrinkResult,
    Step,
    read_record,
    replacing,
    write_record,
)
from tersa.report.page import write as write_report
from tersa.report.verdict import headline
from tersa.targets.environment import environment
from tersa.targets.registry import installed, parse
from tersa.train.baseline import Baseline, baseline, default_config, save_weights
from tersa.train.checkpoint import weights_digest
from tersa.train.config import TrainConfig, override
from tersa.train.device import choose as choose_device
from tersa.train.evaluation import predict
from tersa.train.loop import Progress

DEFAULT_GOALS = Goals(max_loss=1.0)
"""What is asked when nothing is asked."""


class ShrinkSpec(Record):
    """Everything that decides the result of one run; stored as `spec.toml`.

    Attributes:
        data: a known data set or a path.
        model: a spec, `module.py:build` or an exported file; None for the data's default.
        checkpoint: trained weights for it, or None to train the baseline here.
        goals: what is asked.
        target: where latency counts, with options.
        batch: images per call there.
        precision: `fp32`, `int8`, or `auto` (INT8 only if it keeps the goals and is not slower).
        seed: of everything random.
        epochs: of the baseline's training, or None for the data's default.
        validation: images (or share) of train that steer, or None for the data's default.
        protocol: settings of `descent.Protocol` that differ from what suits the data.
    """

    data: str = "digits"
    model: str | None = None
    checkpoint: str | None = None
    goals: Goals = DEFAULT_GOALS
    target: str = "onnxruntime@threads=1"
    batch: int = 1
    precision: str = "auto"
    seed: int = 0
    epochs: int | None = None
    validation: int | float | None = None
    protocol: dict[str, int | float | str] = Field(default_factory=dict[str, int | float | str])

    def check(self) -> None:
        """Faults that show before any work.

        Raises:
            UsageError: goals, target, batch or precision cannot be.
        """
        self.goals.check()
        shippable(self.precision, self.target)
        strange = self.protocol.keys() - Protocol.model_fields.keys()
        if strange:
            raise unknown("protocol setting", sorted(strange)[0], Protocol.model_fields)
        _protocol(self.protocol, 1)
        if self.epochs is not None and self.checkpoint is not None:
            raise UsageError("--epochs trains a baseline, --checkpoint brings one; leave out one of them")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch}: must be 1 or more")


def shrink(
    spec: ShrinkSpec,
    out: Path | str,
    *,
    setting: Setting | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> ShrinkResult:
    """Make a network as small as its goals allow.

    Args:
        spec: what is asked; without any goal, losing at most one point of accuracy is.
        out: folder for everything that is made.
        setting: how it is carried out.
        resume: go on with the run in `out`; a finished one is returned as it is.
        overwrite: start again.

    Returns:
        The result; goals that were missed are in `goals`, nothing is raised for them.

    Raises:
        UsageError: the request cannot be carried out as it stands.
        DataError, ModelError, TargetError: data, network or runtime do not fit.
        Diverged: the baseline's training ended in NaN.
    """
    began = time.perf_counter()
    setting = setting or Setting()
    if spec.goals == Goals():
        spec = spec.model_copy(update={"goals": DEFAULT_GOALS})
    spec.check()
    device = choose_device(setting.device)
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    with threads_of(setting):
        groups = _prunable(_network(spec, task, with_weights=True), task)
        folder = open_folder(Path(out), "shrink", spec, resume=resume, overwrite=overwrite)
        return _finished(folder) or _run(spec, setting, task, groups, folder, device, began)


def _finished(folder: Path) -> ShrinkResult | None:
    """The result that is there, if all of its files are."""
    if not (folder / RESULT).is_file():
        return None
    result = read_record(folder / RESULT, ShrinkResult)
    return result if all((folder / name).is_file() for name in [*result.artefacts, result.report]) else None


def _network(spec: ShrinkSpec, task: Task, *, with_weights: bool) -> nn.Module:
    """The network as it is built, or with the weights that were given."""
    start = Path(spec.checkpoint) if spec.checkpoint and with_weights else None
    return load_model(str(spec.model), task.shape, len(task.classes), seed=spec.seed, checkpoint=start).module


def _run(
    spec: ShrinkSpec,
    setting: Setting,
    task: Task,
    groups: Groups,
    folder: Path,
    device: str,
    began: float,
) -> ShrinkResult:
    trained = _baseline(spec, setting, task, device)
    way = Trajectory(folder, {"data": fingerprint(task), "baseline": weights_digest(trained.module)})
    dock = Dock(task, shippable(spec.precision, spec.target), spec.target, spec.batch, spec.seed)
    _weigh_baseline(dock, trained.module, folder)
    job = Job(
        task=task,
        baseline=trained.module,
        groups=groups,
        fresh=lambda: _network(spec, task, with_weights=False),
        goals=spec.goals,
        protocol=protocol_of(spec, task),
        dock=dock,
        way=way,
        seed=spec.seed,
        device=device,
        say=setting.say,
    )
    search = Search(job)
    kept = search.find(descend_(job))
    tuned = search.of(kept) if kept else None
    if tuned:
        row, options, network = tuned.row, tuned.options, job.network("tuned", kept)
    else:
        row, network = way.rows("steps")[0], trained.module
        options = export_options(dock, network, folder / "tuned", "000", latency=bool(spec.goals.latency))
    chosen, note = pick(options, spec.goals, dock, precision=spec.precision)
    return _finish(
        _Outcome(spec, setting, job, trained, kept, row, network, options, chosen, note, folder, began)
    )


def protocol_of(spec: ShrinkSpec, task: Task) -> Protocol:
    """The pruning settings of a run: what suits the data, with what was asked to differ."""
    return _protocol(spec.protocol, len(task.train))


def _protocol(changes: dict[str, int | float | str], images: int) -> Protocol:
    try:
        return Protocol.model_validate({**default_protocol(images).model_dump(), **changes})
    except ValidationError as error:
        found = [f"{e['loc'][0]} is {e['input']}: {e['msg'].lower()}" for e in error.errors()]
        raise faults("pruning settings", found) from None


def baseline_config(spec: ShrinkSpec, task: Task, model: str) -> TrainConfig:
    """Settings of the baseline's training."""
    config = override(default_config(task, model), {"seed": spec.seed})
    return config if spec.epochs is None else override(config, {"epochs": spec.epochs})


def _baseline(spec: ShrinkSpec, setting: Setting, task: Task, device: str) -> Baseline:
    """The trained network to start from."""
    config = baseline_config(spec, task, str(spec.model))

    def show(at: Progress) -> None:
        accuracy = "" if at.validation_accuracy is None else f", {at.validation_accuracy:.2f} %"
        setting.say("baseline", at.iteration / at.iterations, f"loss {at.loss:.3f}{accuracy}")

    setting.say("baseline", 0.0, "")
    trained = baseline(
        task,
        str(spec.model),
        config,
        checkpoint_file=Path(spec.checkpoint) if spec.checkpoint else None,
        device=device,
        cache=setting.cache,
        progress=show,
    )
    source = "from the cache" if trained.cached and not spec.checkpoint else "trained"
    setting.say("baseline", 1.0, f"{source}, {trained.validation_accuracy:.2f} % on validation")
    return trained


def _prunable(model: nn.Module, task: Task) -> Groups:
    """The channel groups, after removing a unit of each has given the masked network's outputs."""
    groups = find_groups(model, task.shape)
    trial = [group.units[:1] for group in groups.groups if len(group.units) > 1]
    if not trial:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in groups.kept.items()) or "it has no layers"
        raise UsageError(f"the network has no channels that can be removed ({why})")
    verify(model, groups, torch.cat(trial), task.normalise(task.train.images[:8]))
    return groups


def _weigh_baseline(dock: Dock, model: nn.Module, folder: Path) -> None:
    """Export the baseline as fp32, and fill in what all candidates are compared with."""
    plain = Dock(dock.task, ("fp32",), dock.target, dock.batch, dock.seed)
    option = export_options(plain, model, folder, "baseline", latency=False)[0]
    dock.reference, dock.correct = option.artefact, option.correct
    itself = race(dock, option.artefact, option.artefact, seconds=1.0)
    if itself.before is None:
        raise UsageError(f"--target {dock.target}: {itself.reason}")
    dock.start = Start(
        accuracy=option.standing.accuracy,
        macs=option.standing.macs,
        size_bytes=option.artefact.size_bytes,
        latency_ms=itself.before.latency_ms.median,
    )


# --- the end: files, test set, clock, report ------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """All that the last part of a run needs."""

    spec: ShrinkSpec
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


@dataclass(frozen=True)
class _Tested:
    """One file on the whole test set."""

    logits: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        return 100.0 * float(self.correct.mean())


def _finish(o: _Outcome) -> ShrinkResult:
    o.setting.say("test and measure", 0.0, "")
    artefacts = _ship(o)
    before, after = (_test(path, o.job.task) for path in (o.job.dock.reference.path, artefacts[0]))  # type: ignore[union-attr] - set by _weigh_baseline
    comparisons = _measure(o, artefacts)
    result = _compose(o, artefacts, before, after, comparisons)
    write_report(result, o.folder / "report.html")
    for name in ("candidate.onnx", "candidate-int8.onnx"):
        (o.folder / "steps" / name).unlink(missing_ok=True)
    write_record(o.folder / RESULT, result)
    o.setting.say("test and measure", 1.0, result.verdict)
    return result


def _ship(o: _Outcome) -> list[Path]:
    """The chosen file as `model.onnx`, the float twin of an INT8 one, the weights, and `run.py`."""
    paths = [o.folder / "model.onnx"]
    _copy(o.chosen.artefact.path, paths[0])
    if o.chosen.artefact.header.precision != "fp32":
        exact = o.chosen.artefact.path.with_name(o.chosen.artefact.path.name.replace("-int8", ""))
        paths.append(o.folder / "model-fp32.onnx")
        _copy(exact, paths[1])
    save_weights(o.network, o.folder / "model.safetensors")
    write_run_script(o.folder / "run.py", "model.onnx")
    return [*paths, o.folder / "model.safetensors", o.folder / "run.py", o.folder / "baseline.onnx"]


def _copy(source: Path, path: Path) -> None:
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def _test(path: Path, task: Task) -> _Tested:
    logits = classify(path, task.test.images)
    return _Tested(logits, logits.argmax(axis=1) == task.test.labels.numpy())


def _measure(o: _Outcome, artefacts: list[Path]) -> list[Comparison]:
    """The baseline against each file of the result on every installed runtime, the goal's target first."""
    dock = o.job.dock
    files = [o.chosen.artefact, *(x.artefact for x in o.options if x is not o.chosen)]
    names = [dock.target]
    there = [kind.name for kind in installed() if kind.version]
    names += [f"{name}@threads=1" for name in there if name != parse(dock.target).name]
    found: list[Comparison] = []
    for name in names:
        for artefact in files:
            found.append(
                race(dock, dock.reference or artefact, artefact, seconds=o.setting.seconds, target=name)
            )
            o.setting.say("test and measure", len(found) / (len(names) * len(files) + 1), name)
    return found


def _compose(
    o: _Outcome, artefacts: list[Path], before: _Tested, after: _Tested, comparisons: list[Comparison]
) -> ShrinkResult:
    task, dock, spec = o.job.task, o.job.dock, o.spec
    main = comparisons[0]
    assert main.before is not None, "the first comparison is of the goal's own target"
    assert main.after is not None
    assert main.speedup is not None
    assert dock.start is not None
    old = _figures(
        o.trained.module,
        task,
        before,
        dock.start.accuracy,
        o.folder / "baseline.onnx",
        main.before.latency_ms,
        "fp32",
    )
    new = _figures(
        o.network,
        task,
        after,
        o.chosen.standing.accuracy,
        artefacts[0],
        main.after.latency_ms,
        o.chosen.artefact.header.precision,
    )
    loss = paired_loss(before.correct, after.correct)
    trained_logits = predict(o.network, task.test, task).numpy()
    exact = artefacts[0] if new.precision == "fp32" else artefacts[1]
    reference = agreement(exact, trained_logits, task.test.images)
    require(reference, exact.name)
    tolerance = None if new.precision == "fp32" else 0.0
    right, wrong = examples(task, task.test, after.logits)
    goals = judged(spec.goals, old, new, loss.points, _reasons(o, loss.points, main))
    result = ShrinkResult(
        name=o.folder.name,
        command=o.setting.command or command_of(spec),
        task=task.name,
        task_note=task.provenance.note,
        model=str(spec.model),
        target=parse(spec.target).describe(),
        batch=spec.batch,
        precision=new.precision,
        seed=spec.seed,
        split_sizes={"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        classes=list(task.classes),
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
        protocol={**o.job.protocol.model_dump(), "baseline_key": o.trained.key},
        environment=environment(torch.get_num_threads()),
        notes=_notes(o),
        artefacts=[path.name for path in artefacts],
        report="report.html",
        seconds=o.job.way.earlier_seconds + time.perf_counter() - o.began,
    )
    verdict, detail = headline(result)
    return result.model_copy(update={"verdict": verdict, "detail": detail})


def command_of(spec: ShrinkSpec) -> str:
    """The command line that does the same (settings of the protocol that it lacks are in the report).

    >>> command_of(ShrinkSpec(data="my photos", goals=Goals(max_loss=2.0), protocol={"tune": 50}))
    "tersa shrink --data 'my photos' --max-loss 2 --tune 50"
    """
    words = ["tersa", "shrink", "--data", spec.data]
    goals = {
        "max-loss": spec.goals.max_loss,
        "min-accuracy": spec.goals.min_accuracy,
        "size": spec.goals.size and spec.goals.size.text("size"),
        "latency": spec.goals.latency and spec.goals.latency.text("latency"),
        "macs": spec.goals.macs and spec.goals.macs.text("macs"),
    }
    given = {"model": spec.model, "checkpoint": spec.checkpoint, **goals}
    default = ShrinkSpec()
    for name in ("target", "batch", "precision", "seed", "epochs", "validation"):
        given[name] = getattr(spec, name) if getattr(spec, name) != getattr(default, name) else None
    known = ("retrain", "tune", "share", "criterion_samples")
    given |= {name: spec.protocol.get(name) for name in known}
    for name, value in given.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


def _figures(
    model: nn.Module,
    task: Task,
    tested: _Tested,
    validation: float,
    path: Path,
    latency: Quantiles,
    precision: str,
) -> Figures:
    return Figures(
        test_accuracy=tested.accuracy,
        validation_accuracy=validation,
        parameters=parameters(model),
        macs=macs(model, task.shape),
        size_bytes=path.stat().st_size,
        latency_ms=latency,
        precision=precision,
    )


def _steps(o: _Outcome) -> list[Step]:
    """Pruning steps, then every fine-tune that was tried, then what was shipped."""
    tuned = o.job.way.rows("tuned")
    rows = o.job.way.rows("steps")
    last = len(rows)
    for offset, row in enumerate(tuned):
        shipped = row.index == o.kept and o.chosen.artefact.header.precision == "fp32"
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


def _reasons(o: _Outcome, lost: float, main: Comparison) -> dict[str, str]:
    """For each goal that could be missed, the cause in words."""
    standing, start = o.chosen.standing, o.job.dock.start
    assert start is not None
    allowed = o.job.allowed_loss
    if allowed is not None and allowed < 0:
        floor = f"the baseline itself has {start.accuracy:.2f} % on validation"
    elif not keeps_accuracy(o.spec.goals, start, standing):
        what = f"the baseline's {o.chosen.artefact.header.precision} file"
        floor = f"no network, {what} included, keeps it on validation with one standard error to spare"
    else:
        floor = (
            f"validation showed {standing.loss.points:.2f} ± {standing.loss.standard_error:.2f} points lost, "
            f"the test set {lost:.2f}: the splits differ by chance; a larger --validation narrows this"
        )
    count = f"{o.row.parameters:,} parameters"
    if within_bounds(o.spec.goals, start, standing):
        stop = "the measurement that steered was within the bound, the final one was not"
    elif o.spec.goals.guarded:
        stop = f"the accuracy allowed no smaller network than {count}"
    elif o.job.ended == "diverged":
        stop = f"retraining diverged below {count}"
    else:
        stop = f"pruning ended at {count}: every layer is down to one channel or must stay"
    slow = f"{stop}; {main.reason}" if main.reason else stop
    return {"max-loss": floor, "min-accuracy": floor, "size": stop, "macs": stop, "latency": slow}


def _notes(o: _Outcome) -> list[str]:
    notes = ["The test set was read once, at the end; every choice was made on the validation split."]
    if o.spec.checkpoint:
        notes.append(
            "The weights were given: if images of this validation split trained them, it flatters them."
        )
    if o.job.task.provenance.note:
        notes.append(o.job.task.provenance.note)
    if o.trained.cached and not o.spec.checkpoint:
        notes.append("The baseline came from the cache: the time stated does not include its training.")
    if o.note:
        notes.append(o.note)
    return notes
