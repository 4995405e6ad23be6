"""A joint search over width, pruning ratio and bits: the Pareto front of accuracy and measured costs.

    runs/NAME/spec.toml                everything that decides what is searched, written first
              search.db                the trials (SQLite), where no other storage is given
              widths/ trials/          the trained network of each width, the network of each trial
              baseline.onnx model.onnx model.coded
              report.html result.json  written last

Choices are made on the validation split; the test split is read once, at the end, by running the files of the
baseline and of the network that was taken. A search that is killed goes on with `resume`, which may ask for
more trials; with a database of one's own several machines work on one search. With workers, as many networks
as there are of them are sampled at once, trained at once, and then timed one after the other.

Example:
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> spec = JointSpec(model="mlp:8", epochs=1, tune=2, costs=("macs",), widths=(1.0,), bits="none")
    >>> result = joint_search(spec, place / "demo", trials=2, setting=Setting(seconds=0.05, cache=place))
    >>> len(result.trials), result.front[0].on_front
    (2, True)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tersa.data.sources import load as load_task
from tersa.data.task import Task, fingerprint
from tersa.errors import Diverged, TargetError, UsageError
from tersa.export.artefact import Artefact
from tersa.export.check import agreement, classify, require
from tersa.export.onnx import export_onnx
from tersa.files import replacing
from tersa.models.summary import macs, parameters
from tersa.models.zoo import default_spec
from tersa.numerics import paired_loss
from tersa.prune.groups import Groups
from tersa.recipes.deploy import Dock, race, shippable
from tersa.recipes.folder import RESULT, SPEC, open_folder, read_spec, releasing
from tersa.recipes.goals import judged
from tersa.recipes.joint_networks import Workshop, network_of, searched, try_network, weighed
from tersa.recipes.joint_report import REPORT, write_report
from tersa.recipes.joint_request import COSTS, JointSpec, PlacedSpec, command_of
from tersa.recipes.joint_result import SearchResult, TriedNetwork, distinct, front, pick
from tersa.recipes.joint_trials import Asked, Trials, combinations, load_optuna, own_study, shown, url_of
from tersa.recipes.joint_workers import train_networks
from tersa.recipes.request import protocol_of
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.shrink import prunable, shipped, trained_baseline, weigh_baseline
from tersa.recipes.start import Begin, find_start
from tersa.records.base import read_record, write_record
from tersa.records.results import Comparison, Figures
from tersa.report.numbers import factor, plural, points
from tersa.study.cluster import Crew, check_place
from tersa.targets.environment import environment
from tersa.targets.registry import parse
from tersa.train.checkpoint import weights_digest
from tersa.train.device import choose as choose_device
from tersa.train.evaluation import predict

DATABASE = "search.db"


@dataclass(frozen=True)
class Place:
    """Where the trials of a search are kept.

    Attributes:
        storage: a database URL; empty for a file in the search's folder.
        study: name of the search there; empty for the one that the folder was begun with, else the folder's
            name in a database, and the only one in the folder's file.
    """

    storage: str = ""
    study: str = ""


@releasing
def joint_search(
    spec: JointSpec,
    out: Path | str,
    *,
    trials: int = 40,
    place: Place | None = None,
    setting: Setting | None = None,
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> SearchResult:
    """Search, and take the network that suits the goals best.

    Args:
        spec: what is asked.
        out: folder for everything that is made.
        trials: networks to try in all, with those that the storage has already; fewer where no more can be
            made.
        place: where they are kept.
        setting: how it is carried out.
        crew: how many networks are trained at once, and where.
        resume: go on with the search in `out`.
        overwrite: start again; trials in a database of one's own stay there.

    Returns:
        The result; goals that were missed are in `goals`, nothing is raised for them.

    Raises:
        UsageError: the request cannot be carried out, Optuna is not installed, or a storage that cannot be.
        DataError, ModelError, TargetError: data, network or runtime do not fit.
        Diverged: the baseline's training ended in NaN, or every network's.
    """
    began, setting, out = time.perf_counter(), setting or Setting(), Path(out)
    crew, place = crew or Crew(), _named(place or Place(), out, resume)
    load_optuna()
    check_place(crew.on)
    spec.check()
    if trials < 1:
        raise UsageError(f"--trials {trials}: 1 or more")
    url, storage = place.storage, shown(place.storage) if place.storage else None
    device = choose_device(setting.device)
    task = load_task(spec.data, data_dir=setting.data_dir, seed=spec.seed, validation=spec.validation)
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    with threads_of(setting):
        begin = find_start(spec.shrinking(), task)
        shipped(spec.shrinking(), task, begin.pruned())
        groups = prunable(begin.pruned(), task, protocol_of(spec.shrinking(), task))
        axes = searched(spec, begin, groups)
        kept = PlacedSpec(**dict(spec), storage=storage, study=place.study or None)
        if resume and _older(out):
            kept = PlacedSpec(**dict(spec))
        folder = open_folder(out, "search", kept, resume=resume, overwrite=overwrite)
        done = _finished(folder, trials, combinations(axes))
        if done is not None:
            return done
        work = _workshop(spec, setting, task, begin, groups, folder, device)
        deciding = {**spec.model_dump(mode="json"), "baseline": weights_digest(work.baseline)}
        deciding["images"] = fingerprint(task)
        store = Trials.open(
            url or url_of(folder / DATABASE),
            place.study or own_study(folder / DATABASE),
            axes,
            spec.costs,
            spec.seed,
            deciding,
        )
        tell = partial(_tell, setting, trials)
        store.run(trials, partial(_try, work, crew), alone=not url, say=tell, at_once=crew.workers)
        rows = store.rows()
        if not rows:
            raise UsageError(
                f"all {plural(store.diverged, 'network')} diverged; give fewer --bits or a lower --most"
            )
        return _finish(work, store, rows, storage or DATABASE, trials, began)


def _named(place: Place, out: Path, resume: bool) -> Place:
    """With the name of the search, where it is not the only one of its file."""
    known = read_spec(out).get("study", "") if resume and (out / SPEC).is_file() else ""
    return replace(place, study=place.study or known or (out.resolve().name if place.storage else ""))


def _older(out: Path) -> bool:
    """A folder of a search in a data base, from before its spec named it."""
    if not (out / SPEC).is_file() or (out / DATABASE).is_file():
        return False
    return not {"storage", "study"} & read_spec(out).keys()


def _finished(folder: Path, trials: int, possible: int) -> SearchResult | None:
    """The result that is there, if it tried as many networks, or all that can be made."""
    if not (folder / RESULT).is_file():
        return None
    found = read_record(folder / RESULT, SearchResult)
    whole = all((folder / name).is_file() for name in [*found.artefacts, found.report])
    enough = len(found.trials) + found.diverged >= trials or distinct(found.trials) >= possible
    return found if whole and enough else None


def _workshop(
    spec: JointSpec, setting: Setting, task: Task, begin: Begin, groups: Groups, folder: Path, device: str
) -> Workshop:
    base = spec.shrinking()
    trained = trained_baseline(base, setting, task, begin, device)
    dock = Dock(task, shippable("fp32", spec.target), spec.target, spec.batch, spec.seed)
    weigh_baseline(dock, trained.module, folder)
    return Workshop(spec, task, begin, trained.module.eval(), groups, dock, folder, device, setting)


def _try(work: Workshop, crew: Crew, asked: Sequence[Asked]) -> list[TriedNetwork | Diverged]:
    """Trials here one by one, or all at once in workers and then weighed here."""
    trained = [None] * len(asked) if crew.alone else train_networks(work, crew, asked)
    found: list[TriedNetwork | Diverged] = []
    for each, row in zip(asked, trained, strict=True):
        try:
            if row is None:
                row = try_network(work, each.number, each.settings)
            elif isinstance(row, TriedNetwork):
                row = weighed(work, row)
            found.append(row)
        except Diverged as error:
            found.append(error)
    return found


def _tell(setting: Setting, wanted: int, ended: int, row: TriedNetwork | None) -> None:
    what = "diverged" if row is None else f"{row.validation_accuracy:.2f} %, {row.size_bytes:,} bytes"
    setting.say("search", (ended + 1) / wanted, f"network {ended + 1} of {wanted}: {what}")


def _finish(
    work: Workshop, store: Trials, rows: list[TriedNetwork], storage: str, trials: int, began: float
) -> SearchResult:
    spec, task, folder, setting = work.spec, work.task, work.folder, work.setting
    on = {row.number for row in front(rows, spec.costs)}
    rows = [row.model_copy(update={"on_front": row.number in on}) for row in rows]
    chosen = pick(rows, spec.costs, spec.goals, work.start)
    network, coded = network_of(work, chosen)
    artefact = export_onnx(network, task, folder / "model.onnx")
    names = ["model.onnx"]
    if coded is not None:
        with replacing(folder / "model.coded") as temporary:
            shutil.copyfile(coded, temporary)
        names.append("model.coded")
    assert work.dock.reference is not None
    compared = race(work.dock, work.dock.reference, artefact, seconds=setting.seconds)
    if compared.before is None or compared.after is None or not compared.speedup:
        raise TargetError(f"--target {spec.target}: {compared.reason}")
    logits = predict(network, task.test, task).numpy()
    same = agreement(artefact.path, logits, task.test.images)
    require(same, artefact.path.name)
    correct = [_correct(path, task) for path in (work.dock.reference.path, artefact.path)]
    loss = paired_loss(*correct)
    old = _figures(work, None, work.dock.reference, correct[0], compared)
    new = _figures(work, chosen, artefact, correct[1], compared)
    more = "no others can be made" if store.exhausted else "--resume with more --trials tries more"
    reason = f"of {plural(distinct(rows), 'network')} that were tried none was nearer; {more}"
    asked: tuple[str, ...] = ("max-loss", "min-accuracy", *COSTS)
    reasons: dict[str, str] = dict.fromkeys(asked, reason)
    goals = judged(spec.goals, old, new, loss.points, reasons)
    result = SearchResult(
        name=folder.resolve().name,
        command=setting.command or command_of(spec, trials),
        data=task.name,
        model=work.begin.model,
        target=parse(spec.target).describe(),
        batch=spec.batch,
        costs=list(spec.costs),
        storage=storage,
        study=store.study.study_name,
        seed=spec.seed,
        baseline=old,
        result=new,
        compression=old.parameters / new.parameters,
        acceleration=old.macs / max(new.macs, 1),
        size_ratio=old.size_bytes / new.size_bytes,
        speedup=compared.speedup,
        loss_points=loss.points,
        goals=goals,
        verdict=_verdict(old, new, loss.points, compared),
        detail=_detail(chosen, rows, len(on)),
        chosen=chosen.number,
        front=front(rows, spec.costs),
        trials=rows,
        diverged=store.diverged,
        comparison=compared,
        agreement=same,
        environment=environment(torch.get_num_threads()),
        artefacts=[*names, "baseline.onnx"],
        report=REPORT,
        seconds=time.perf_counter() - began,
    )
    write_report(folder, result)
    write_record(folder / RESULT, result)
    return result


def _correct(path: Path, task: Task) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return classify(path, task.test.images).argmax(axis=1) == task.test.labels.numpy()


def _figures(
    work: Workshop,
    row: TriedNetwork | None,
    artefact: Artefact,
    correct: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    compared: Comparison,
) -> Figures:
    """Of the baseline (no row), or of the network that was taken, whose file may be the coded one."""
    assert compared.before is not None
    assert compared.after is not None
    side = compared.before if row is None else compared.after
    return Figures(
        test_accuracy=100.0 * float(correct.mean()),
        validation_accuracy=work.start.accuracy if row is None else row.validation_accuracy,
        parameters=parameters(work.baseline) if row is None else row.parameters,
        macs=macs(work.baseline, work.task.shape) if row is None else row.macs,
        size_bytes=artefact.size_bytes if row is None else row.size_bytes,
        latency_ms=side.latency_ms,
        precision="fp32" if row is None or not row.bits else "coded",
    )


def _verdict(old: Figures, new: Figures, lost: float, compared: Comparison) -> str:
    quick = {
        "faster": f"{factor(compared.speedup or 1.0)} faster",
        "slower": f"{factor(1 / (compared.speedup or 1.0))} slower",
    }.get(compared.verdict, "no faster")
    moved = f"{points(lost)} lost" if lost >= 0 else f"{points(-lost)} gained"
    return f"{factor(old.size_bytes / new.size_bytes)} smaller and {quick}, {moved}"


def _detail(chosen: TriedNetwork, rows: list[TriedNetwork], on: int) -> str:
    parts = [f"width {chosen.width:g}"]
    ratios = {f"{100 * value:.0f} %" for value in chosen.ratios.values()}
    parts += [f"{', '.join(sorted(ratios))} of the channels pruned"] if chosen.ratios else []
    bits = sorted(set(chosen.bits.values()))
    parts += [f"{' to '.join(map(str, dict.fromkeys((bits[0], bits[-1]))))} bits"] if bits else []
    return (
        f"Network {chosen.number}: {', '.join(parts)}. {plural(distinct(rows), 'network')} tried, "
        f"{on} on the front. Choices by validation; the test images were read once."
    )
