"""One curve of document 002: a network loses channels step by step, and its accuracy is read after each.

A `Curve` says how: criterion, normalisation, scope, iterations of retraining and what they may change, when
scores are taken again, and how many channels a step removes. `run_curve` walks it from a trained network to
one channel per layer. The optimiser goes on over all steps and its state follows the surviving channels
(`prune.surgery`), channels are really gone, so that every step is cheaper than the last, and a killed walk
goes on from its last checkpoint to the same points.

`FIGURES` names the curves of the document's figures 4.1 to 4.16; many curves appear in several.

Example:
    >>> Curve(criterion="taylor", normalisation="l2", scope="network", retrain=100).name
    'network-taylor-l2-100'
    >>> len(FIGURES), len(every_curve(step="2%", seed=0))
    (16, 102)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tersa.data.task import Task
from tersa.errors import DataError
from tersa.files import replacing
from tersa.models.summary import macs, parameters
from tersa.numerics import digest
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose, layer_widths, stride, within
from tersa.prune.surgery import after, remove_, resize_
from tersa.records.base import Record
from tersa.train.checkpoint import weights_digest
from tersa.train.config import Precision, TrainConfig
from tersa.train.continued import Continued, begin, learn_, optimiser_state, restore_
from tersa.train.evaluation import evaluate

LAYERS = ("conv1", "conv2", "fc1")
METHODS = ("taylor", "l1", "activation", "random")
"""Document 002's criteria, the random reference last."""

RETRAINS = (10, 50, 100)
CRITERION_SAMPLES = 1000
TEST_EVERY = 5
"""Quick walks read the test split at every so many steps, and at the last."""

CHECKPOINT_SECONDS = 60.0

Scope = Literal["conv1", "conv2", "fc1", "network"]


class Curve(Record):
    """How a network is pruned.

    Attributes:
        criterion: of `prune.criteria`.
        normalisation: between layers.
        scope: one layer, or the whole network but its classifier.
        retrain: iterations after each removal; 0 for none.
        retrain_scope: `all` parameters learn, or only the pruned `layer`'s.
        recompute: scores are taken at `every` step, or `once`.
        step: channels of a step, see `prune.protocol.stride`.
        seed: of the training images that are scored, the order of batches and the random criterion.
    """

    criterion: str
    normalisation: str = "none"
    scope: Scope = "network"
    retrain: int = 0
    retrain_scope: Literal["all", "layer"] = "all"
    recompute: Literal["every", "once"] = "every"
    step: str = "2%"
    seed: int = 0

    @property
    def name(self) -> str:
        """Unique among curves of one step and seed."""
        parts = [self.scope, self.criterion]
        parts += [self.normalisation] if self.scope == "network" else []
        parts += [str(self.retrain)] if self.retrain else ["no-retraining"]
        parts += ["layer"] if self.retrain_scope == "layer" else []
        parts += ["once"] if self.recompute == "once" else []
        return "-".join(parts)


class Point(Record):
    """The network after one step.

    Attributes:
        step: 0 is the trained network.
        removed: channels gone so far.
        left: channels left within the scope.
        parameters: trainable values left.
        macs: for one image.
        validation_accuracy: percent.
        test_accuracy: percent, None where it was not read; it decides nothing.
        widths: of the prunable layers, `conv1=32 conv2=64 fc1=1024`.
        seconds: wall time of the step.
    """

    step: int
    removed: int
    left: int
    parameters: int
    macs: int
    validation_accuracy: float
    test_accuracy: float | None
    widths: str
    seconds: float


@dataclass(frozen=True)
class Panel:
    """One set of axes of a figure.

    Attributes:
        title: what is compared, in words.
        lines: label of each line and its curve.
    """

    title: str
    lines: tuple[tuple[str, Curve], ...]


@dataclass(frozen=True)
class Figure:
    """One figure of the document.

    Attributes:
        number: as in the document (`4.5`).
        question: what it answers.
        panels: its axes.
    """

    number: str
    question: str
    panels: tuple[Panel, ...]


LABELS = {"taylor": "Taylor", "l1": "weights", "activation": "activation", "random": "random"}


def _methods(title: str, **how: object) -> Panel:
    """The four criteria under one protocol."""
    lines = tuple((LABELS[method], Curve.model_validate({"criterion": method, **how})) for method in METHODS)
    return Panel(title, lines)


def _by_layer(**how: object) -> tuple[Panel, ...]:
    return tuple(_methods(layer, scope=layer, **how) for layer in LAYERS)


def _retrains(**how: object) -> tuple[Panel, ...]:
    """10, 50 and 100 iterations, an axis for each criterion."""
    return tuple(
        Panel(
            LABELS[method],
            tuple(
                (f"{count} iterations", Curve.model_validate({"criterion": method, "retrain": count, **how}))
                for count in RETRAINS
            ),
        )
        for method in METHODS
    )


def _norms(retrain: int, norms: tuple[str, ...]) -> tuple[Panel, ...]:
    return tuple(
        Panel(
            LABELS[method],
            tuple((norm, Curve(criterion=method, normalisation=norm, retrain=retrain)) for norm in norms),
        )
        for method in METHODS[:3]
    )


def _protocols(scope: Scope, norm: str) -> Panel:
    """Taylor under each protocol; only a single layer has one of its own to retrain."""
    base = Curve(criterion="taylor", normalisation=norm, scope=scope)
    lines = [
        ("no retraining", base),
        ("100 iterations, all layers", base.model_copy(update={"retrain": 100})),
        ("criterion once", base.model_copy(update={"retrain": 100, "recompute": "once"})),
    ]
    if scope != "network":
        only = base.model_copy(update={"retrain": 100, "retrain_scope": "layer"})
        lines.insert(2, ("100 iterations, this layer only", only))
    return Panel(scope, tuple(lines))


FIGURES: tuple[Figure, ...] = (
    Figure("4.1", "One layer, no retraining: which criterion?", _by_layer()),
    Figure("4.2", "All layers, no retraining, scores as they are", (_methods("network"),)),
    Figure("4.3", "Does a normalisation between layers help?", _norms(0, ("none", "l1", "l2"))),
    Figure(
        "4.4", "All layers, no retraining, l2: which criterion?", (_methods("network", normalisation="l2"),)
    ),
    Figure("4.5", "conv1: how many iterations of retraining?", _retrains(scope="conv1")),
    Figure("4.6", "conv2: how many iterations of retraining?", _retrains(scope="conv2")),
    Figure("4.7", "fc1: how many iterations of retraining?", _retrains(scope="fc1")),
    Figure("4.8", "All layers: how many iterations of retraining?", _retrains(normalisation="l2")),
    Figure("4.9", "One layer, 100 iterations: which criterion?", _by_layer(retrain=100)),
    Figure(
        "4.10",
        "All layers, 100 iterations: which criterion?",
        (_methods("network", normalisation="l2", retrain=100),),
    ),
    Figure("4.11", "Is a normalisation needed when there is retraining?", _norms(100, ("none", "l2"))),
    Figure(
        "4.12",
        "Only the pruned layer learns: which criterion?",
        _by_layer(retrain=100, retrain_scope="layer"),
    ),
    Figure("4.13", "Criterion computed once: which criterion?", _by_layer(retrain=100, recompute="once")),
    Figure(
        "4.14",
        "All layers, criterion computed once: which criterion?",
        (_methods("network", normalisation="l2", retrain=100, recompute="once"),),
    ),
    Figure(
        "4.15", "One layer, Taylor: which protocol?", tuple(_protocols(layer, "none") for layer in LAYERS)
    ),
    Figure("4.16", "All layers, Taylor: which protocol?", (_protocols("network", "l2"),)),
)


def every_curve(*, step: str, seed: int) -> dict[str, Curve]:
    """All different curves of all figures by name, the whole-network ones with retraining first."""
    found: dict[str, Curve] = {}
    for figure in FIGURES:
        for panel in figure.panels:
            for _, curve in panel.lines:
                found[curve.name] = curve.model_copy(update={"step": step, "seed": seed})
    order = sorted(found, key=lambda name: (found[name].scope != "network", -found[name].retrain))
    return {name: found[name] for name in order}


def document_training(seed: int, precision: Precision = "fp32") -> TrainConfig:
    """Document 002's training: 10,000 iterations of Adam at 1e-4, 100 images each, nothing else."""
    return TrainConfig(
        optimizer="adam",
        learning_rate=1e-4,
        batch=100,
        iterations=10_000,
        schedule="constant",
        keep="last",
        seed=seed,
        precision=precision,
        channels_last=True,
    )


@dataclass
class Walk:
    """One curve at work.

    Attributes:
        curve: how.
        task: the data.
        run: the network with its optimiser.
        groups: of what is left.
        whole: of the trained network.
        removed: units gone, in order of their numbers.
        scores: of the trained network, where they are taken once.
        points: so far.
        test_every: steps between two looks at the test split.
    """

    curve: Curve
    task: Task
    run: Continued
    groups: Groups
    whole: Groups
    removed: Tensor
    scores: Tensor | None = None
    points: list[Point] = field(default_factory=list[Point])
    test_every: int = TEST_EVERY

    @property
    def model(self) -> nn.Module:
        """The network as it is now."""
        return self.run.model


def run_curve(
    curve: Curve,
    task: Task,
    trained: nn.Module,
    *,
    state: Path | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
    test_every: int = TEST_EVERY,
    progress: Callable[[float, Point], None] | None = None,
) -> list[Point]:
    """Walk one curve to its end.

    Args:
        curve: how.
        task: the data; retraining and scores see its train split alone.
        trained: the network to prune; it is not changed.
        state: file for checkpoints; where it is there and belongs to this walk, the walk goes on from it.
        precision: of the forward pass while retraining (`bf16`: weights and updates stay float32).
        device: where it computes.
        test_every: steps between two looks at the test split; the first and last step always have one.
        progress: called after every step with the share done and its point.

    Raises:
        DataError: a damaged checkpoint.
        Diverged: retraining ended in NaN.
    """
    origin = digest([curve.model_dump(), precision, weights_digest(trained)])
    config = document_training(curve.seed, precision)
    whole = find_groups(trained, task.shape)
    model = copy.deepcopy(trained)
    kept = _read(state, origin) if state else None
    removed = kept.tensors["removed"] if kept else torch.empty(0, dtype=torch.long)
    if kept is not None:
        resize_(model, kept.part("model/"))
    run = begin(model, task, config, device=device)
    walk = Walk(curve, task, run, after(whole, removed), whole, removed, test_every=test_every)
    if kept is not None:
        restore_(run, kept.part("optimiser/"), kept.iteration)
        walk.points, walk.scores = kept.points, kept.tensors.get("scores")
    return _walk_(walk, state, origin, progress)


def _walk_(
    walk: Walk, state: Path | None, origin: str, progress: Callable[[float, Point], None] | None
) -> list[Point]:
    if not walk.points:
        walk.points.append(_point(walk, time.perf_counter(), test=True))
    start = int(within(walk.whole, [walk.curve.scope]).sum())
    least = sum(1 for group in walk.whole.groups if walk.curve.scope in ("network", *group.layers))
    saved = time.perf_counter()
    while walk.points[-1].left > least:
        began = time.perf_counter()
        units = _next(walk, start)
        walk.groups = remove_(walk.model, walk.groups, units, walk.run.optimizer)
        walk.removed = torch.cat([walk.removed, units])
        learn_(walk.run, walk.curve.retrain, _learning(walk))
        last = walk.points[-1].left - len(units) <= least
        test = last or (len(walk.points) % walk.test_every == 0)
        walk.points.append(_point(walk, began, test=test))
        if progress:
            progress((start - walk.points[-1].left) / max(1, start - least), walk.points[-1])
        if state and (last or time.perf_counter() - saved > CHECKPOINT_SECONDS):
            _write(walk, state, origin)
            saved = time.perf_counter()
    return walk.points


def _learning(walk: Walk) -> set[str] | None:
    """Names of the parameters that retraining may change, None for all."""
    if walk.curve.retrain_scope == "all":
        return None
    return {f"{walk.curve.scope}.{leaf}" for leaf in ("weight", "bias")}


def _next(walk: Walk, start: int) -> Tensor:
    """The units of the next step."""
    scores = _scores(walk)
    allowed = within(walk.groups, [walk.curve.scope])
    count = stride(walk.curve.step).count(start, int(allowed.sum()))
    return choose(scores, walk.groups, count=count, allowed=allowed)


def _scores(walk: Walk) -> Tensor:
    """Normalised scores of the units that are left, (U,)."""
    curve, groups = walk.curve, walk.groups
    if curve.recompute == "once":
        if walk.scores is None:
            walk.scores = _fresh_scores(walk)
        return walk.scores[torch.isin(walk.whole.units, groups.units)]
    return _fresh_scores(walk)


def _fresh_scores(walk: Walk) -> Tensor:
    chance = torch.Generator().manual_seed(walk.curve.seed * 100_003 + len(walk.points))
    chosen = torch.randperm(len(walk.task.train), generator=chance)[:CRITERION_SAMPLES]
    scores = collect(
        walk.model,
        walk.groups,
        walk.task,
        walk.task.train.take(chosen),
        CRITERIA[walk.curve.criterion],
        batch=CRITERION_SAMPLES // 2,
        generator=chance,
    )
    return normalise(scores, walk.groups, NORMALISATIONS[walk.curve.normalisation])


def _point(walk: Walk, began: float, *, test: bool) -> Point:
    model, task = walk.model, walk.task
    validation = evaluate(model, task.validation, task, device=walk.run.device).accuracy
    tested = evaluate(model, task.test, task, device=walk.run.device).accuracy if test else None
    widths = " ".join(f"{layer}={width}" for layer, width in layer_widths(model, walk.groups).items())
    return Point(
        step=len(walk.points),
        removed=len(walk.removed),
        left=int(within(walk.groups, [walk.curve.scope]).sum()),
        parameters=parameters(model),
        macs=macs(model, task.shape),
        validation_accuracy=validation,
        test_accuracy=tested,
        widths=widths,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True)
class _Kept:
    """A checkpoint as it was read."""

    tensors: dict[str, Tensor]
    points: list[Point]
    iteration: int

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        found = self.tensors.items()
        return {name.removeprefix(prefix): value for name, value in found if name.startswith(prefix)}


class _Points(Record):
    """The points of a checkpoint, as its metadata."""

    origin: str
    iteration: int
    points: list[Point]


def _write(walk: Walk, path: Path, origin: str) -> None:
    tensors = {f"model/{k}": v.detach().cpu().contiguous() for k, v in walk.model.state_dict().items()}
    tensors |= {f"optimiser/{k}": v for k, v in optimiser_state(walk.run).items()}
    tensors["removed"] = walk.removed
    if walk.scores is not None:
        tensors["scores"] = walk.scores
    head = _Points(origin=origin, iteration=walk.run.iteration, points=walk.points)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"walk": head.model_dump_json()})


def _read(path: Path, origin: str) -> _Kept | None:
    """The checkpoint, None where there is none or it belongs to another walk."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            head = _Points.model_validate_json((file.metadata() or {})["walk"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}); remove it to start again") from None
    return _Kept(tensors, head.points, head.iteration) if head.origin == origin else None
