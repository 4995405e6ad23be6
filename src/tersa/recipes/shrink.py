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
from tersa.errors import UsageError, unknown
from tersa.export.artefact import PACKED
from tersa.export.onnx import evaluation_copy
from tersa.models.summary import parameters
from tersa.models.zoo import default_spec
from tersa.prune.blocks import NM
from tersa.prune.criteria import CRITERIA, weight_scores
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.holding import alive, full_masks
from tersa.prune.masks import choose_masks, parse_granularity
from tersa.prune.protocol import choose, fits, regular, within
from tersa.prune.surgery import verify
from tersa.prune.trace import LAYERS
from tersa.prune.twins import is_low_bit
from tersa.recipes.deploy import Dock, export_options, pack, pick, race, shippable
from tersa.recipes.descent import descend_
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.goals import Goals, Start
from tersa.recipes.job import Job
from tersa.recipes.outcome import Outcome, finish
from tersa.recipes.pruning import Protocol, listed
from tersa.recipes.request import DEFAULT_GOALS, ShrinkSpec, baseline_config, protocol_of
from tersa.recipes.search import Search
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.start import Begin, find_start
from tersa.recipes.trajectory import Trajectory
from tersa.recipes.zeroed import masked
from tersa.records.base import read_record
from tersa.records.results import ShrinkResult
from tersa.report.numbers import plural
from tersa.train.baseline import Baseline, baseline
from tersa.train.checkpoint import weights_digest
from tersa.train.device import choose as choose_device
from tersa.train.evaluation import evaluate
from tersa.train.latents import settle_pixels_
from tersa.train.loop import Progress

FEW = 8
"""Training images on which scores and surgery are tried before any work."""


@releasing
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
    if spec.goals == Goals() and spec.protocol.get("schedule", "open") == "open":
        spec = spec.model_copy(update={"goals": DEFAULT_GOALS})
    spec.check()
    device = choose_device(setting.device)
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    if spec.run and Path(spec.run).resolve() == Path(out).resolve():
        raise UsageError(f"--out {out} is the run whose network is pruned; give another folder")
    with threads_of(setting):
        start = find_start(spec, task)
        network = start.pruned()
        precisions = shipped(spec, task, network)
        groups = prunable(network, task, protocol_of(spec, task))
        folder = open_folder(Path(out), spec.verb, spec, resume=resume, overwrite=overwrite)
        return finished(folder) or _run(spec, setting, task, start, groups, precisions, folder, device, began)


def finished(folder: Path) -> ShrinkResult | None:
    """The result that is there, if all of its files are."""
    if not (folder / RESULT).is_file():
        return None
    result = read_record(folder / RESULT, ShrinkResult)
    return result if all((folder / name).is_file() for name in [*result.artefacts, result.report]) else None


def _run(
    spec: ShrinkSpec,
    setting: Setting,
    task: Task,
    begin: Begin,
    groups: Groups,
    precisions: tuple[str, ...],
    folder: Path,
    device: str,
    began: float,
) -> ShrinkResult:
    trained = trained_baseline(spec, setting, task, begin, device)
    origin = {"data": fingerprint(task), "baseline": weights_digest(trained.module), "model": begin.model}
    way = Trajectory(folder, origin)
    dock = Dock(task, precisions, spec.target, spec.batch, spec.seed)
    dock.zeroes = protocol_of(spec, task).granularity != "map"
    weigh_baseline(dock, trained.module, folder)
    job = Job(
        task=task,
        baseline=trained.module,
        groups=groups,
        fresh=begin.pruned,
        drawn=begin.drawn,
        goals=spec.goals,
        protocol=protocol_of(spec, task),
        dock=dock,
        way=way,
        seed=spec.seed,
        device=device,
        say=setting.say,
        light=spec.light or "",
        zeros=bool(begin.zeroed) and dock.zeroes and not spec.light,
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
    model = begin.pruned_model if kept else begin.model
    return finish(
        Outcome(spec, model, setting, job, trained, kept, row, network, options, chosen, note, folder, began)
    )


def trained_baseline(spec: ShrinkSpec, setting: Setting, task: Task, begin: Begin, device: str) -> Baseline:
    """The trained network to start from."""
    if spec.run:
        module = begin.network().eval()
        accuracy = evaluate(module, task.validation, task, device=device).accuracy
        return Baseline(module.cpu(), begin.model, [], accuracy, False, weights_digest(module))
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


def shipped(spec: ShrinkSpec, task: Task, network: nn.Module) -> tuple[str, ...]:
    """The precisions that may be shipped, after a trial of what can be tried before any work.

    Args:
        spec: what is asked.
        task: the data.
        network: that will be pruned, trained or not.

    Raises:
        UsageError, TargetError: see `deploy.shippable`.
        ModelError: a packed program lacks one of the network's layers.
    """
    found = shippable(spec.precision, spec.target, network)
    if PACKED in found:
        trial = evaluation_copy(network)
        if not (spec.run or spec.checkpoint):
            settle_pixels_(trial, task)
        pack(trial, task)
    return found


def prunable(model: nn.Module, task: Task, protocol: Protocol) -> Groups:
    """The channel groups, after removing a unit of each has given the masked network's outputs."""
    keep = listed(protocol.keep)
    if protocol.granularity != "map" and is_low_bit(model):
        raise UsageError(
            f"--granularity {protocol.granularity} makes weights zero, which is no level of a low-bit "
            "network; leave it out to remove whole channels"
        )
    groups = find_groups(model, task.shape, keep)
    layers = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    for name in keep:
        if not any(fits(layer, name) for layer in layers):
            raise unknown("layer to keep", name, layers)
    _try_scores(model, groups, task, protocol)
    if protocol.granularity != "map":
        return groups
    trial = [group.units[:1] for group in groups.groups if len(group.units) > 1]
    if not trial:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in groups.kept.items()) or "it has no layers"
        raise UsageError(f"the network has no channels that can be removed ({why})")
    _check_scope(groups, protocol)
    verify(model, groups, torch.cat(trial), task.normalise(task.train.images[:FEW]))
    return groups


def _try_scores(model: nn.Module, groups: Groups, task: Task, protocol: Protocol) -> None:
    """Score once: data that the criterion lacks, and names that match nothing, show before any work."""
    few, generator = task.train.take(slice(0, FEW)), torch.Generator().manual_seed(0)
    if protocol.granularity == "map":
        collect(model, groups, task, few, CRITERIA[protocol.criterion], generator=generator)
        return
    names = masked(protocol, model)
    scores = weight_scores(model, names, task, few, protocol.criterion, generator=generator)
    kind = parse_granularity(protocol.granularity)
    if isinstance(kind, NM):
        choose_masks(scores, full_masks(model, names), kind)
    else:
        of_weights = kind != "kernel"
        there = sum(v.numel() if of_weights else v.shape[:2].numel() for v in scores.values())
        _removals(protocol, there, "weight" if of_weights else "kernel")


def _removals(protocol: Protocol, there: int, unit: str) -> int:
    """How many of the units in scope a schedule removes in all; 0 where there is no schedule.

    Raises:
        UsageError: its amount is less than half of one.
    """
    asked = round(protocol.amount * there)
    if protocol.schedule != "open" and not asked:
        raise UsageError(
            f"--amount {100 * protocol.amount:g}% of the {plural(there, unit)} in scope is none; "
            f"one is {100 / max(there, 1):.2g}%"
        )
    return asked


def _check_scope(groups: Groups, protocol: Protocol) -> None:
    """The layers in scope must have as many channels to give as is asked."""
    allowed = within(groups, protocol.layers())
    there, count = int(allowed.sum()), len(allowed)
    spare = len(choose(torch.zeros(count), groups, count=count, allowed=allowed, round_to=protocol.round_to))
    if not spare and protocol.round_to > 1:
        inside = [each for each in groups.groups if bool(allowed[torch.isin(groups.units, each.units)].any())]
        widest = max((len(each.units) for each in inside if regular(groups, each)), default=0)
        raise UsageError(
            f"--round-to {protocol.round_to}: nothing can be removed, the widest layer in scope whose "
            f"channels can go one by one has {widest} of them; give a smaller number"
        )
    if not spare:
        raise UsageError(f"--scope {protocol.scope}: nothing can be removed, every layer has one channel")
    asked = _removals(protocol, there, "channel")
    of_each = "one" if protocol.round_to == 1 else f"at least {protocol.round_to}"
    if protocol.schedule != "open" and asked > spare:
        raise UsageError(
            f"--amount {100 * protocol.amount:g}% of the {there} channels in scope is {asked}; at most "
            f"{spare} can go, since {of_each} of each layer {'stays' if of_each == 'one' else 'stay'}"
        )


def weigh_baseline(dock: Dock, model: nn.Module, folder: Path) -> None:
    """Export the baseline as it is (fp32 or packed), and fill in what all candidates are compared with."""
    exact = PACKED if PACKED in dock.precisions else "fp32"
    plain = Dock(dock.task, (exact,), dock.target, dock.batch, dock.seed)
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
        parameters=alive(model) if dock.zeroes else parameters(model),
    )
