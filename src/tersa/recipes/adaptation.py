"""`tersa reproduce adaptation`: document 003's faster NetAdapt, its tables and figures beside ours.

AlexNet, MobileNet V1 and VGG19 in their 32x32 forms with ten outputs (the document's are 224x224), on one
target of this machine:

    times      the original stage by stage on two steps, and what each remedy leaves (`adaptation_stages`)
    layers     latency over channels of a convolution and a fully connected layer, from the latency table
    scores     NAS-WOT, grad-norm and synflow of all candidates along a greedy way
    searches   whole adaptations of trained networks by several strategies: a full run alone

A quick run times one delta with few repetitions on networks with weights of initialisation, and trains
nothing. Parts are stored as they are done, so that a killed run goes on with `--resume`.

Example:
    >>> plan_adaptation(AdaptationRequest(networks=("alexnet",))).deltas
    (0.05,)

References:
    Document 003 (master thesis, UdelaR 2024), chapter 5.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tersa.adapt.grid import widths as widths_to_try
from tersa.adapt.measuring import wanted
from tersa.adapt.netadapt import Reduction, bisecting
from tersa.adapt.proxies import PROXIES, Probe
from tersa.adapt.resource import Table
from tersa.adapt.table import path_of
from tersa.errors import UsageError, unknown
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import AdaptSpec, specified
from tersa.recipes.adaptation_result import AdaptationResult, LayerPoint, ScorePoint, Searched, Timed
from tersa.recipes.adaptation_stages import Measured, Subject, measured_table, narrowed, stages, walk
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.published_adaptation import DELTAS, NETWORKS
from tersa.recipes.setting import Say, Setting
from tersa.records.base import Record, read_record, write_record
from tersa.targets.base import Target
from tersa.targets.environment import environment
from tersa.targets.registry import parse
from tersa.train.device import torch_threads

log = logging.getLogger(__name__)

Mode = Literal["quick", "full"]

SPECS = {"alexnet": "alexnet", "mobilenet": "mobilenet:1.0", "vgg19": "vgg:19"}
SIDE, OUTPUTS = 32, 10
QUICK_NETWORKS = ("alexnet", "mobilenet")
BUDGET, MIDDLE = 0.5, 0.025
MEASURED = {"quick": (1, 1), "full": (4, 2)}
"""Iterations that are run, and interpolators of a layer that are built."""
SCORED = {"quick": 16, "full": 64}
"""Images of a score."""
SCORES = ("naswot", "grad_norm", "synflow")
STRATEGIES: dict[str, dict[str, Any]] = {
    "original": {"search": "netadapt", "cut": "linear", "score": "finetune"},
    **{f"H30 {name}": {"search": "netadapt", "score": name, "hybrid": 0.3} for name in SCORES},
    "budget": {"search": "budget"},
}
"""What `tersa adapt` is asked in each; `settings_of` has the share of a step with it."""


class AdaptationRequest(Record):
    """What was asked; it is the `spec.toml` of the run.

    Attributes:
        mode: how much is measured.
        target: whose latencies fill the tables.
        networks: of `alexnet`, `mobilenet`, `vgg19`; empty for the mode's.
        deltas: shares of the latency that a step takes off; empty for the mode's.
        iterations: T of a short fine-tune.
        seeds: of whole adaptations, in a full run.
        data: of whole adaptations; 32x32 images in colour.
        data_dir: where to look for them first.
        table: SQLite file of the latency table, or None for the user's.
    """

    mode: Mode = "quick"
    target: str = "onnxruntime@threads=1"
    networks: tuple[str, ...] = ()
    deltas: tuple[float, ...] = ()
    iterations: int = 500
    seeds: int = 1
    data: str = "cifar-10"
    data_dir: str | None = None
    table: str | None = None


@dataclass(frozen=True)
class AdaptationPlan:
    """What will be done, checked.

    Attributes:
        request: what was asked.
        target: the runtime.
        networks: in the document's order.
        deltas: ascending.
    """

    request: AdaptationRequest
    target: Target
    networks: tuple[str, ...]
    deltas: tuple[float, ...]

    @property
    def searches(self) -> list[tuple[str, str, int]]:
        """(network, strategy, seed) of whole adaptations; none in a quick run."""
        if self.request.mode == "quick":
            return []
        seeds = range(self.request.seeds)
        return [(name, strategy, seed) for name in self.networks for strategy in STRATEGIES for seed in seeds]


class Scores(Record):
    """What is stored of one network's candidates."""

    points: list[ScorePoint]


class Layers(Record):
    """What is stored of one network's layers."""

    points: list[LayerPoint]


def plan_adaptation(request: AdaptationRequest) -> AdaptationPlan:
    """Check a request.

    Raises:
        UsageError: all kinds of wrong names and numbers.
        TargetError: the target is not there.
    """
    networks = request.networks or (QUICK_NETWORKS if request.mode == "quick" else NETWORKS)
    for name in networks:
        if name not in SPECS:
            raise unknown("network", name, SPECS)
    deltas = request.deltas or ((DELTAS[-1],) if request.mode == "quick" else DELTAS)
    for delta in deltas:
        if not 0 < delta < 1 - BUDGET:
            raise UsageError(f"--delta {delta:g}: a step takes off more than 0 and less than {1 - BUDGET:g}")
    if request.iterations < 1 or request.seeds < 1:
        raise UsageError("--iterations and --seeds: whole numbers above 0")
    order = tuple(name for name in NETWORKS if name in networks)
    return AdaptationPlan(request, parse(request.target), order, tuple(sorted(set(deltas))))


@releasing
def run_adaptation(
    plan: AdaptationPlan,
    out: Path,
    *,
    command: str = "",
    resume: bool = False,
    overwrite: bool = False,
    say: Say | None = None,
) -> AdaptationResult:
    """Measure what is not there yet, and write tables, rows and the report into `out`.

    Args:
        plan: what to measure.
        out: folder of the run.
        command: what the user typed.
        resume: go on with a run of the same request.
        overwrite: start again.
        say: told (task, fraction, remark) as the work goes on.

    Raises:
        UsageError: `out` exists.
        TargetError: the runtime cannot run a layer.
    """
    from tersa.recipes.adaptation_report import write_results

    start, tell = time.perf_counter(), say or (lambda _task, _fraction, _remark: None)
    open_folder(out, "reproduce adaptation", plan.request, resume=resume, overwrite=overwrite)
    timed: list[Timed] = []
    layers: list[LayerPoint] = []
    scores: list[ScorePoint] = []
    with torch_threads(1):
        for network in plan.networks:
            own = _network(plan, network, out, tell)
            timed += own[0]
            layers += own[1]
            scores += own[2]
    result = AdaptationResult(
        mode=plan.request.mode,
        command=command,
        target=plan.target.describe(),
        timed=timed,
        layers=layers,
        scores=scores,
        searched=[_search(plan, *each, out, tell) for each in plan.searches],
        environment=environment(1),
        notes=_notes(plan),
        artefacts=[],
        seconds=time.perf_counter() - start,
    )
    result = write_results(result, out)
    write_record(out / RESULT, result)
    return result


def _notes(plan: AdaptationPlan) -> list[str]:
    notes = [
        f"Ours are the {SIDE}x{SIDE} forms with {OUTPUTS} outputs on {plan.target.describe()}, one thread; "
        "the document's are 224x224 on GPUs, with tables of a Jetson Xavier",
        "Seconds of a stage are measured on two steps and multiplied by the number of steps; a fine-tune and "
        "an evaluation are some of their iterations, multiplied",
    ]
    if plan.request.mode == "quick":
        notes.append("Nothing was trained: scores are of networks with weights of initialisation")
    return notes


def _network(
    plan: AdaptationPlan, network: str, out: Path, tell: Say
) -> tuple[list[Timed], list[LayerPoint], list[ScorePoint]]:
    """Everything of one network but whole adaptations; read where it is stored already."""
    mode, shape = plan.request.mode, (3, SIDE, SIDE)
    paths = {delta: out / f"{network}-{delta:g}.json" for delta in plan.deltas}
    layers, scores = out / f"{network}-layers.json", out / f"{network}-scores.json"
    if not all(path.is_file() for path in (*paths.values(), layers, scores)):
        table = path_of(plan.request.table)

        def filling(done: int, of: int) -> None:
            tell("latency table", done / max(of, 1), f"{network}, {done} of {of} layers")

        points, _ = measured_table(SPECS[network], shape, OUTPUTS, plan.target, table, filling)
        subject = Subject.of(SPECS[network], shape, OUTPUTS, points)
        repeat, builds = MEASURED[mode]
        for delta, path in paths.items():
            if not path.is_file():
                asked = Measured(delta, BUDGET, plan.request.iterations, repeat, builds)

                def shown(done: float, remark: str, delta: float = delta) -> None:
                    tell("stages", done, f"{network}, delta {delta:g}, {remark}")

                write_record(path, stages(subject, asked, network=network, folder=out, say=shown))
        (out / "table").unlink(missing_ok=True)
        if not layers.is_file():
            write_record(layers, Layers(points=layer_points(subject, points)))
        if not scores.is_file():
            delta = MIDDLE if MIDDLE in plan.deltas else plan.deltas[-1]
            write_record(scores, Scores(points=score_points(subject, network, delta, SCORED[mode], tell)))
    return (
        [read_record(path, Timed) for path in paths.values()],
        read_record(layers, Layers).points,
        read_record(scores, Scores).points,
    )


def layer_points(subject: Subject, table: Table) -> list[LayerPoint]:
    """Figures 5.3 and 5.4: the widest convolution and fully connected layer, over their channels.

    Measured points alone: the table's inputs nearest to a quarter, a half and all of the layer's, each with
    all of its outputs.
    """
    found: list[LayerPoint] = []
    measured = wanted(subject.anatomy)
    for kind in ("conv", "linear"):
        layers = [
            (inputs * outputs, layer.family, inputs, outputs)
            for layer, (_, inputs, outputs) in zip(
                subject.anatomy.layers, subject.anatomy.channels(), strict=True
            )
            if layer.family.operation == kind
        ]
        if not layers:
            continue
        _, family, inputs, outputs = max(layers, key=lambda each: each[0])
        own = [each for each in measured if each.family == family and each.outputs <= outputs]
        ins = {each.inputs for each in own if each.inputs <= inputs}
        shown = {min(ins, key=lambda each: (abs(each - inputs / share), each)) for share in (4, 2, 1)}
        found += [
            LayerPoint(
                kind=kind,
                layer=family.text(),
                inputs=each.inputs,
                outputs=each.outputs,
                ms=table.of(family, each.inputs, each.outputs).value,
            )
            for each in sorted(own, key=lambda each: (each.inputs, each.outputs))
            if each.inputs in shown
        ]
    return found


def score_points(subject: Subject, network: str, delta: float, images: int, tell: Say) -> list[ScorePoint]:
    """Every candidate along a greedy way, under each score; without those that a score gives no number."""
    way = walk(subject, delta=delta, budget=BUDGET)
    chance = torch.Generator().manual_seed(0)
    probe = Probe(
        torch.randn(images, *subject.shape, generator=chance),
        torch.randint(subject.classes, (images,), generator=chance),
    )
    found: list[ScorePoint] = []
    for step, (here, after) in enumerate(itertools.pairwise(way)):
        tell("scores", step / (len(way) - 1), f"{network}, step {step + 1} of {len(way) - 1}")
        cost = subject.cost.at(here)
        constraint = Reduction(delta).constraint(cost, 1.0, step, BUDGET)
        for block, width in enumerate(here):
            tried = [each for each in widths_to_try(subject.anatomy.widths[block]) if each < width]
            chosen = bisecting(tried, subject.cost.along(block, here), constraint)
            if chosen is None:
                continue
            at = (*here[:block], chosen.width, *here[block + 1 :])
            model = narrowed(subject, at)
            values = {name: PROXIES[name].score(model, probe) for name in SCORES}
            if wrong := [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]:
                log.warning("%s, step %d, block %d: %s; left out", network, step + 1, block, ", ".join(wrong))
                continue
            found.append(
                ScorePoint(
                    network=network,
                    step=step + 1,
                    block=block,
                    cost=chosen.cost,
                    chosen=at == after,
                    **values,
                )
            )
    return found


def settings_of(strategy: str, delta: float) -> dict[str, Any]:
    """What `tersa adapt` is asked in a strategy.

    Args:
        strategy: of `STRATEGIES`.
        delta: share of the first latency that a step takes off, which a search in steps alone is told.

    >>> settings_of("original", 0.05)
    {'search': 'netadapt', 'cut': 'linear', 'score': 'finetune', 'delta': 0.05}
    """
    found = STRATEGIES[strategy]
    return {**found, **({"delta": delta} if found["search"] == "netadapt" else {})}


def _search(plan: AdaptationPlan, network: str, strategy: str, seed: int, out: Path, tell: Say) -> Searched:
    """One whole adaptation of a trained network; a finished one is read."""
    request, spec = plan.request, search_spec(plan, network, strategy, seed)
    folder = out / f"{network}-{strategy.replace(' ', '-')}-{seed}"
    setting = Setting(data_dir=Path(request.data_dir) if request.data_dir else None, threads=1, say=tell)
    result = adapt(spec, folder, setting=setting, resume=folder.exists())
    assert result.adaptation is not None
    return Searched(
        network=network,
        strategy=strategy,
        seed=seed,
        search_s=result.adaptation.seconds["search"],
        accuracy=result.result.test_accuracy,
        baseline=result.baseline.test_accuracy,
        speedup=result.speedup,
    )


def search_spec(plan: AdaptationPlan, network: str, strategy: str, seed: int) -> AdaptSpec:
    """What `tersa adapt` is asked in one of a full run's searches."""
    request = plan.request
    return specified(
        **settings_of(strategy, plan.deltas[0]),
        data=request.data,
        model=SPECS[network],
        target=request.target,
        goals=Goals(latency=parse_bound(f"{BUDGET}x", "latency")),
        finetune_steps=request.iterations,
        seed=seed,
        table=request.table,
    )
