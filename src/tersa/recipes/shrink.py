"""The main job: a trained network made as small as the goals allow, exported, checked, measured, reported.

    task -> baseline -> prune and retrain, step by step (`descent`) -> fine-tune the smallest step that keeps
         the goals (`search`) -> ONNX in fp32 and INT8 (`deploy`) -> test set, clock and report (`outcome`)

Choices are made on the validation split with a margin of one standard error (`goals`); the test set is read
once, at the end, by running the exported files. Everything is on disk as it happens: a killed run goes on
with `resume`.

Example:
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> quick = {"retrain": 2, "tune": 4, "share": 0.6, "criterion_samples": 50}
    >>> goals = Goals(max_loss=90.0)
    >>> spec = ShrinkSpec(model="mlp:8", epochs=1, precision="fp32", protocol=quick, goals=goals)
    >>> result = shrink(spec, place / "demo", setting=Setting(seconds=0.05, cache=place / "cache"))
    >>> result.compression > 2, [goal.met for goal in result.goals]
    (True, [True])
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task, fingerprint
from tersa.errors import UsageError
from tersa.models.load import LoadedModel
from tersa.models.load import load as load_model
from tersa.models.zoo import default_spec
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import verify
from tersa.recipes.deploy import Dock, export_options, pick, race, shippable
from tersa.recipes.descent import Job, descend_
from tersa.recipes.folder import RESULT, open_folder
from tersa.recipes.goals import Goals, Start
from tersa.recipes.outcome import Outcome, finish
from tersa.recipes.request import DEFAULT_GOALS, ShrinkSpec, baseline_config, protocol_of
from tersa.recipes.search import Search
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.trajectory import Trajectory
from tersa.records import (
    ShrinkResult,
    read_record,
)
from tersa.train.baseline import Baseline, baseline
from tersa.train.checkpoint import weights_digest
from tersa.train.device import choose as choose_device
from tersa.train.loop import Progress


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
        loaded = _loaded(spec, task, with_weights=True)
        if loaded.trained and spec.epochs is not None:
            raise UsageError(f"--epochs trains a baseline, but {spec.model} brings its weights; leave it out")
        groups = _prunable(loaded.module, task)
        folder = open_folder(Path(out), "shrink", spec, resume=resume, overwrite=overwrite)
        return _finished(folder) or _run(spec, setting, task, groups, folder, device, began)


def _finished(folder: Path) -> ShrinkResult | None:
    """The result that is there, if all of its files are."""
    if not (folder / RESULT).is_file():
        return None
    result = read_record(folder / RESULT, ShrinkResult)
    return result if all((folder / name).is_file() for name in [*result.artefacts, result.report]) else None


def _loaded(spec: ShrinkSpec, task: Task, *, with_weights: bool) -> LoadedModel:
    """The network as it is built, or with the weights that were given."""
    start = Path(spec.checkpoint) if spec.checkpoint and with_weights else None
    return load_model(str(spec.model), task.shape, len(task.classes), seed=spec.seed, checkpoint=start)


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
        fresh=lambda: _loaded(spec, task, with_weights=False).module,
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
    return finish(
        Outcome(spec, setting, job, trained, kept, row, network, options, chosen, note, folder, began)
    )


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
