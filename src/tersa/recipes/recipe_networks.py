"""The jobs of a recipe about one network: train, binary, shrink, prune, adapt, cluster.

Each takes flat settings, named as the options of its verb, and makes of them the request of the library
function that the verb calls too.

Example:
    >>> spec = shrink_request("prune", {"data": "mnist", "macs": "0.5x", "criterion": "l1"})
    >>> spec.goals.macs.relative, spec.protocol["criterion"], spec.precision
    (True, 'l1', 'fp32')
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tersa.errors import Diverged, UsageError, faults
from tersa.models.load import load as load_model
from tersa.models.zoo import bits_of, default_spec
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import PROTOCOL as ADAPT_PROTOCOL
from tersa.recipes.adapt_request import AdaptSpec, checked, specified
from tersa.recipes.cluster import CODED, ClusterRequest, run_cluster
from tersa.recipes.compress_result import MOST_BITS, Compressed
from tersa.recipes.export import ExportRequest, export_subject
from tersa.recipes.goals import Goals, file_goal, parse_bound
from tersa.recipes.goals import Kind as BoundKind
from tersa.recipes.plan import plan
from tersa.recipes.pruning import Protocol, usual_retraining
from tersa.recipes.recipe_kind import Cost, Kind, Outcome, Trial, built, trying
from tersa.recipes.request import FLAGS, ShrinkSpec, protocol_of, share_of
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import prunable, shipped, shrink
from tersa.recipes.start import find_start
from tersa.recipes.train import WEIGHTS, plan_training, run_training
from tersa.recipes.train_request import TrainRequest, resolve
from tersa.records.results import Goal, ShrinkResult
from tersa.report.numbers import factor, percent, plural, si, size
from tersa.train.config import TrainConfig, override
from tersa.train.device import choose

BOUNDS: tuple[BoundKind, ...] = ("parameters", "macs", "size", "latency", "energy")
GOALS = frozenset(Goals.model_fields) - {"energy"}
"""Of every verb; a limit on energy is of `adapt` alone."""
TRAINING = frozenset(TrainConfig.model_fields)
PROTOCOL = frozenset(Protocol.model_fields) - {"batch"}
"""Of the protocol; `batch` is of the images per timed call, as on the command line."""
OWN = frozenset(ShrinkSpec.model_fields) - {"verb", "goals", "protocol"}
BESIDE = frozenset({"scratch", "cluster", "coder", "coded_size", "light"})
"""What `prune` alone can do beside."""
NAMES = {option.replace("-", "_"): name for name, option in FLAGS.items()}
"""Options of the command line with another name than the setting."""
PACKED_FILE = "model.tersa"

Verb = Literal["shrink", "prune", "adapt"]
SETTINGS: dict[Verb, frozenset[str]] = {
    "shrink": (OWN - BESIDE - {"run"}) | GOALS | PROTOCOL,
    "prune": OWN | GOALS | PROTOCOL,
    "adapt": (frozenset(AdaptSpec.model_fields) - {"verb", "goals", "protocol"} - BESIDE)
    | frozenset(Goals.model_fields)
    | frozenset(ADAPT_PROTOCOL),
}


def shrink_request(verb: Verb, settings: Mapping[str, Any]) -> ShrinkSpec:
    """The request of `tersa shrink`, `prune` or `adapt` from flat settings.

    Raises:
        UsageError: values that cannot be, all together.
    """
    found: list[str] = []
    given = dict(settings)
    goals = trying(found, lambda: Goals(**_goals(given, found))) or Goals()
    protocol = {name: given.pop(name) for name in list(given) if name in PROTOCOL}
    if "amount" in protocol and isinstance(protocol["amount"], str):
        protocol["amount"] = trying(found, lambda: share_of(str(protocol["amount"]))) or 0.5
    if isinstance(given.get("coded_size"), str | int):
        text = str(given.pop("coded_size"))
        given["coded_size"] = trying(found, lambda: parse_bound(text, "size", "coded-size"))
    training = {str(key): str(value) for key, value in dict(given.pop("training", {})).items()}
    whole: dict[str, Any] = {**given, "goals": goals, "training": training, "verb": verb}
    protocol = usual_retraining(verb) | protocol
    if verb == "adapt":
        spec: ShrinkSpec | None = trying(found, lambda: specified(**whole, protocol=protocol))
        trying(found, lambda: checked(spec) if isinstance(spec, AdaptSpec) else None)
    else:
        if goals == Goals() and protocol.get("schedule", "open") == "open":
            del whole["goals"]
        if verb == "prune":
            whole = {"precision": "fp32", "scratch": True, **whole}
        spec = trying(found, lambda: ShrinkSpec(**whole, protocol=protocol))
        trying(found, lambda: spec.check() if spec else None)
    if spec is None or found:
        raise faults(verb, list(dict.fromkeys(found)))
    return spec


def _goals(given: dict[str, Any], found: list[str]) -> dict[str, Any]:
    """Takes the goals out of the settings; bounds are read from their texts."""
    goals = {name: given.pop(name) for name in list(given) if name in Goals.model_fields}
    for kind in BOUNDS:
        if kind in goals:
            text = str(goals[kind])
            goals[kind] = trying(found, partial(parse_bound, text, kind))
    return goals


def _try_shrink(spec: ShrinkSpec, trial: Trial) -> str:
    """Build the network and remove a channel of each group of it, as the verb does before its work."""
    task, source = trial.task, trial.source
    if source is not None:
        if task is not None and source.model:
            spec = spec.model_copy(update={"run": None, "model": source.model})
            _check_channels(spec, trial)
        return source.model
    if task is None:
        return spec.model or ""
    if not spec.run:
        spec = spec.model_copy(update={"model": spec.model or default_spec(task.shape, len(task.classes))})
    _check_channels(spec, trial)
    return spec.model or find_start(spec, task).model


def _check_channels(spec: ShrinkSpec, trial: Trial) -> None:
    assert trial.task is not None
    begin = find_start(spec, trial.task)
    shipped(spec, trial.task, begin.pruned())
    prunable(begin.pruned(), trial.task, protocol_of(spec, trial.task))


def _estimate_shrink(spec: ShrinkSpec, trial: Trial) -> float | None:
    """As `tersa shrink --dry-run`; without the baseline's training where an earlier step did it."""
    if trial.task is None or spec.verb == "adapt":
        return None
    if trial.source is None:
        return plan(spec, trial.setting).seconds
    if not trial.source.model:
        return None
    found = plan(spec.model_copy(update={"run": None, "model": trial.source.model}), trial.setting)
    return sum(step.seconds for step in found.steps if step.name != "baseline")


def _shrink(spec: ShrinkSpec, folder: Path, setting: Setting) -> Outcome:
    if isinstance(spec, AdaptSpec):
        return _of_shrink(adapt(spec, folder, setting=setting, resume=True), folder)
    return _of_shrink(shrink(spec, folder, setting=setting, resume=True), folder)


def _of_shrink(result: ShrinkResult, folder: Path) -> Outcome:
    before, after = (
        Cost(
            test_accuracy=each.test_accuracy,
            parameters=each.parameters,
            macs=each.macs,
            size_bytes=each.size_bytes,
            latency_ms=each.latency_ms.median,
        )
        for each in (result.baseline, result.result)
    )
    whole = result.absolute(folder)
    return Outcome(
        verdict=result.verdict,
        model=result.model,
        before=before,
        after=after,
        goals=result.goals,
        artefacts=whole.artefacts,
        report=whole.report,
    )


def train_request(settings: Mapping[str, Any]) -> TrainRequest:
    """The request of `tersa train` from flat settings.

    Raises:
        UsageError: values that cannot be, all together.
    """
    found: list[str] = []
    training = {name: value for name, value in settings.items() if name in TRAINING}
    rest = {name: value for name, value in settings.items() if name not in TRAINING}
    trying(found, lambda: override(TrainConfig(), training))
    request = trying(found, lambda: TrainRequest(**rest, settings=training))
    if request is None or found:
        raise faults("train", found)
    return request


def binary_request(settings: Mapping[str, Any]) -> TrainRequest:
    """The same for a low-bit network.

    Raises:
        UsageError: a network in floating point, too.
    """
    request = train_request(settings)
    if request.model is None or bits_of(request.model) is None:
        raise UsageError(
            f"model is {request.model or 'not given'}; binary trains a low-bit network, such as tfc+w1a1 or "
            "cnv+w1a1 (a family, then +wXaY)"
        )
    return request


def _try_train(request: TrainRequest, trial: Trial) -> str:
    if trial.task is None:
        return request.model or ""
    taught = request
    if trial.source is not None:  # the teacher's weights are not there yet
        taught = request.model_copy(update={"teacher_checkpoint": None})
    spec = resolve(taught, trial.task, choose(trial.setting.device))
    shape, classes = trial.task.shape, len(trial.task.classes)
    start = Path(request.checkpoint) if request.checkpoint else None
    load_model(spec.model, shape, classes, checkpoint=start)
    return spec.model


def _estimate_train(request: TrainRequest, trial: Trial) -> float | None:
    if trial.task is None:
        return None
    changes: dict[str, Any] = {"teacher_checkpoint": None}
    plan = plan_training(request.model_copy(update=changes), trial.setting, teacher_later=True)
    return plan.cost.seconds + plan.teacher_seconds


def _train(request: TrainRequest, folder: Path, setting: Setting) -> Outcome:
    result = run_training(request, folder, setting=setting, resume=True)
    if result.status == "diverged":
        raise Diverged(
            "the training ended in NaN or infinity, and --resume would hand the same one back: give other "
            "settings (a lower learning_rate, clip_norm = 1) with --overwrite or another --out"
        )
    after = Cost(
        test_accuracy=result.test_accuracy,
        parameters=result.parameters,
        macs=result.macs,
        size_bytes=(folder / WEIGHTS).stat().st_size,
    )
    bits = f", {result.bits}" if result.bits else ""
    return Outcome(
        verdict=f"{percent(result.test_accuracy)} on test, {plural(result.epochs, 'epoch')}{bits}",
        model=result.model,
        after=after,
        artefacts=[str(folder / name) for name in result.artefacts],
        report=str(folder / result.report) if result.report else "",
    )


def _binary(request: TrainRequest, folder: Path, setting: Setting) -> Outcome:
    """Train, then the packed program beside the weights, held against the network bit for bit."""
    done = _train(request, folder, setting)
    packed = folder / PACKED_FILE
    order = ExportRequest(
        str(folder), packed, "tersa", data=request.data, data_dir=setting.data_dir, overwrite=True
    )
    found = export_subject(order)
    assert done.after is not None
    before, after = done.after, done.after.model_copy(update={"size_bytes": found.size_bytes})
    saved = factor((before.size_bytes or 0) / found.size_bytes)
    return done.model_copy(
        update={
            "verdict": f"{done.verdict}; packed into {size(found.size_bytes)}, {saved} smaller",
            "before": before,
            "after": after,
            "artefacts": [str(packed), *done.artefacts],
        }
    )


def cluster_request(settings: Mapping[str, Any]) -> ClusterRequest:
    """The request of clustering from settings.

    Raises:
        UsageError: values that cannot be, all together.
    """
    request = built(lambda: ClusterRequest(**settings), "cluster")
    request.check()
    return request


def _try_cluster(request: ClusterRequest, trial: Trial) -> str:
    source = trial.source
    if source is not None and source.model and bits_of(source.model) is not None:
        raise UsageError(
            f"run = '{source.name}': a low-bit network shares few values already; "
            "cluster one in floating point"
        )
    return source.model if source else ""


def _cluster(request: ClusterRequest, folder: Path, setting: Setting) -> Outcome:
    result = run_cluster(request, folder, setting=setting, resume=True)
    before = Cost(
        test_accuracy=result.before_accuracy,
        parameters=result.parameters,
        macs=result.macs,
        size_bytes=4 * result.parameters,
    )
    after = before.model_copy(update={"test_accuracy": result.test_accuracy, "size_bytes": result.size_bytes})
    made = result.compressed
    goals = cluster_goals(request, made)
    missed = "".join(f"; missed: {goal.text}" for goal in goals if not goal.met)
    return Outcome(
        verdict=(
            f"{made.bits}-bit weights in {size(result.size_bytes)}, {factor(made.ratio)} smaller than the "
            f"{si(made.original_bytes // 4)} parameters it came from; "
            f"{percent(result.test_accuracy)} on test{missed}"
        ),
        model=result.model,
        before=before,
        after=after,
        goals=goals,
        artefacts=[str(folder / name) for name in result.artefacts],
    )


def cluster_goals(request: ClusterRequest, made: Compressed) -> list[Goal]:
    """What was asked of the coded file: its size, or a floor on validation, which `auto` alone has too."""
    if made.most_bytes is not None:
        text, reason = f"at most {made.most_bytes:,} bytes", "the smallest file that training gave"
        return [file_goal("size", made.most_bytes, made.size_bytes, text, reason)]
    if made.floor is None:
        return []
    allowed = request.max_loss or 0.0
    tried = f"{made.bits} bits" if request.bits != "auto" else f"up to {MOST_BITS} bits"
    return [
        Goal(
            name="max-loss",
            asked=allowed,
            reached=made.accuracy_before - made.validation_accuracy,
            unit="points",
            met=made.floor_met,
            text=f"lose at most {allowed:g} points on validation",
            reason="" if made.floor_met else f"shared values of {tried} lost more",
        )
    ]


def _kind(verb: Verb, about: str) -> Kind:
    return Kind(
        verb,
        about,
        "network",
        SETTINGS[verb],
        {"run": ("network",)} if "run" in SETTINGS[verb] else {},
        partial(shrink_request, verb),
        _try_shrink,
        _shrink,
        _estimate_shrink,
        other_names={other: name for other, name in NAMES.items() if name in SETTINGS[verb]},
    )


NETWORKS = (
    Kind(
        "train",
        "a network from data",
        "network",
        (frozenset(TrainRequest.model_fields) - {"settings"}) | TRAINING,
        {"teacher": ("network",)},
        train_request,
        _try_train,
        _train,
        _estimate_train,
    ),
    _kind("shrink", "as small as goals allow, exported, checked, measured"),
    _kind("prune", "fewer channels under a chosen protocol"),
    _kind("adapt", "widths fitted to a target"),
    Kind(
        "cluster",
        "shared values of few bits, one coded file",
        "file",
        frozenset(ClusterRequest.model_fields),
        {"run": ("network",)},
        cluster_request,
        _try_cluster,
        _cluster,
        file=lambda request: CODED,
    ),
    Kind(
        "binary",
        "a low-bit network trained and packed",
        "network",
        (frozenset(TrainRequest.model_fields) - {"settings"}) | TRAINING,
        {"teacher": ("network",)},
        binary_request,
        _try_train,
        _binary,
        _estimate_train,
    ),
)
