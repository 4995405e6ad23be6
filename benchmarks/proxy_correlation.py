"""How well do scores without training foretell which sub-network ends more accurate?

    python benchmarks/proxy_correlation.py [--models lenet:16-32-128,alexnet:0.125,mobilenet:0.125]
    python benchmarks/proxy_correlation.py --data digits --models lenet:8-16-64

Of every network, trained on the data, two sets of sub-networks are scored, fine-tuned for the same number of
iterations and evaluated on validation images:

    random       every group of channels narrowed at random, least important channels first
    trajectory   every candidate of every step of NetAdapt (`tersa adapt --score finetune --race 1`, by
                 multiply-accumulates), scored as it was before its fine-tune; the next step begins with the
                 winner's weights

The table gives Spearman's rank correlation of each score with that accuracy and its 95 % bootstrap interval,
over the networks of a set; `step` is the mean of the correlations within each step of the trajectory, which
is the choice that NetAdapt leaves to a score, its interval over the steps. Beside the scores stand the number
of parameters and of multiply-accumulates: a score that does no better says nothing that the size does not.

Points go to `results/proxy_correlation_points.csv`, correlations to `results/proxy_correlation.csv`; rows of
other networks and data stay. The last line has the best score of each network along the trajectory.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import nn

from tersa.adapt.proxies import PROXIES, Probe
from tersa.data import load
from tersa.data.task import Task
from tersa.files import keep_rows
from tersa.models.summary import macs, parameters
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.surgery import remove_
from tersa.recipes import adapt as recipe
from tersa.recipes import adapt_race, adapt_search
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_fit import Fit, lowest
from tersa.recipes.adapt_race import Way
from tersa.recipes.adapt_request import specified
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.job import Job, Retraining
from tersa.recipes.pruning import Protocol
from tersa.recipes.retraining import retrain_
from tersa.recipes.setting import Setting, silent
from tersa.targets.environment import environment
from tersa.train.baseline import baseline, default_config
from tersa.train.config import override
from tersa.train.evaluation import evaluate

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 1000
IMAGES = 64
"""Training images that a score looks at."""
NAMES = (*PROXIES, "parameters", "macs")
Point = dict[str, str]
"""One sub-network, as its row in the file."""
Array = npt.NDArray[np.float64]


def scores(model: nn.Module, task: Task, seed: int) -> Point:
    """Every score of a network, and its size."""
    some = task.train.spread(IMAGES)
    probe = Probe(task.normalise(some.images), some.labels, seed)
    found = {name: proxy.score(model, probe) for name, proxy in PROXIES.items()}
    sizes = {"parameters": parameters(model), "macs": macs(model, task.shape)}
    return {name: f"{value:.9g}" for name, value in (found | sizes).items()}


def random_points(asked: argparse.Namespace, name: str) -> list[Point]:
    """Sub-networks of random widths, each fine-tuned from the baseline's weights."""
    task = load(asked.data, seed=asked.seed, validation=asked.validation)
    config = override(default_config(task, name), {"epochs": asked.epochs, "seed": asked.seed})
    trained = baseline(task, name, config).module
    groups, importances = ranked(trained, task, asked.seed)
    tuning = Retraining(
        task=task,
        baseline=trained,
        protocol=Protocol(retrain=asked.steps, tune=0, teacher_weight=0.0),
        seed=asked.seed,
        device="cpu",
        say=silent,
    )
    found: list[Point] = []
    for number in range(asked.networks):
        chance = random.Random(asked.seed * 1000 + number)
        widths = [max(1, round(len(g.units) * chance.uniform(0.05, 0.9))) for g in groups.groups]
        network = copy.deepcopy(trained)
        remove_(network, groups, lowest(groups, importances, widths))
        point = scores(network, task, asked.seed)
        retrain_(tuning, network, asked.steps, seed=number)
        accuracy = evaluate(network, task.validation, task).accuracy
        found.append({"step": "", "chosen": "", **point, "accuracy": f"{accuracy:.4g}"})
        print(f"  {name}, random {number + 1} of {asked.networks}: {accuracy:.2f} %", flush=True)
    return found


def ranked(model: nn.Module, task: Task, seed: int) -> tuple[Groups, list[torch.Tensor]]:
    """The groups of a network and the importances of their channels."""
    groups = find_groups(model, task.shape)
    generator = torch.Generator().manual_seed(seed)
    some = task.train.spread(500)
    values = collect(model, groups, task, some, CRITERIA["taylor"], generator=generator)
    return groups, list(torch.split(values, [len(group.units) for group in groups.groups]))


def trajectory_points(asked: argparse.Namespace, name: str) -> list[Point]:
    """Every candidate of every step of NetAdapt."""
    found: list[Point] = []
    whole, retrain = adapt_search.ways, adapt_race.retrain_

    def scored(job: Job, model: nn.Module, iterations: int, *, seed: int) -> None:
        found.append(scores(model, job.task, asked.seed))
        retrain(job, model, iterations, seed=seed)

    def ways(fit: Fit, model: nn.Module, groups: Groups, index: int, *others: Any) -> list[Way]:
        before = len(found)
        step = whole(fit, model, groups, index, *others)
        for point, way in zip(found[before:], step, strict=True):  # raises where one diverged
            accuracy = f"{way.row.score:.4g}"
            point |= {"step": str(index), "chosen": str(way.row.chosen), "accuracy": accuracy}
        print(f"  {name}, step {index}: {len(step)} candidates", flush=True)
        return step

    spec = specified(
        data=asked.data,
        model=name,
        search="netadapt",
        score="finetune",
        delta=asked.delta,
        finetune_steps=asked.steps,
        goals=Goals(macs=parse_bound(f"{asked.budget:g}x", "macs")),
        seed=asked.seed,
        epochs=asked.epochs,
        validation=asked.validation,
        protocol={"tune": 0},
    )
    with (
        patch.object(adapt_search, "ways", ways),
        patch.object(adapt_race, "retrain_", scored),
        patch.object(recipe, "finish", lambda *_: None),
    ):
        adapt(spec, asked.out / name.replace(":", "-"), setting=Setting(threads=1), overwrite=True)
    return found


def correlation(x: Array, y: Array) -> float:
    """Spearman's, NaN where either does not vary."""
    found: Any = spearmanr(x, y) if len(set(x)) > 1 and len(set(y)) > 1 else None
    return math.nan if found is None else float(found.statistic)


def interval(count: int, value: Callable[[npt.NDArray[np.int64]], float]) -> tuple[float, float]:
    """95 % bootstrap interval of a number that is worked out from chosen items.

    Args:
        count: of the items.
        value: of places of items, some of them several times.
    """
    chance = np.random.default_rng(0)
    drawn = [value(chance.integers(0, count, count)) for _ in range(RESAMPLES)]
    known = [each for each in drawn if not math.isnan(each)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (math.nan, math.nan)
    return float(low), float(high)


def correlations(points: Sequence[Point]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Set -> score -> correlation with its interval."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for kind in ("random", "trajectory"):
        own = [point for point in points if point["set"] == kind]
        y = np.array([float(point["accuracy"]) for point in own])
        for name in NAMES if own else ():
            x = np.array([float(point[name]) for point in own])
            spread = interval(len(own), lambda at, x=x, y=y: correlation(x[at], y[at]))
            found.setdefault(kind, {})[name] = (correlation(x, y), *spread)
    steps = choices(points)
    for name in NAMES if steps else ():
        each = [
            correlation(*(np.array([float(point[key]) for point in step]) for key in (name, "accuracy")))
            for step in steps
        ]
        each = [value for value in each if not math.isnan(value)]
        if each:
            values = np.array(each)
            spread = interval(len(values), lambda at, values=values: float(values[at].mean()))
            found.setdefault("step", {})[name] = (mean(each), *spread)
    return found


def choices(points: Sequence[Point]) -> list[list[Point]]:
    """The candidates of each step that has three or more; of two the correlation is 1 or -1."""
    steps: dict[str, list[Point]] = {}
    for point in points:
        if point["set"] == "trajectory":
            steps.setdefault(str(point["step"]), []).append(point)
    return [step for step in steps.values() if len(step) > 2]


def study(asked: argparse.Namespace, name: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Both sets of one network, written and printed."""
    sets = {"random": random_points(asked, name), "trajectory": trajectory_points(asked, name)}
    settings = {
        "iterations": str(asked.steps), "epochs": str(asked.epochs), "validation": str(asked.validation),
        "delta": f"{asked.delta:g}", "budget": f"{asked.budget:g}", "seed": str(asked.seed),
    }  # fmt: skip
    points = [
        {"model": name, "data": asked.data, "set": kind, **point, **settings}
        for kind, own in sets.items()
        for point in own
    ]
    keep_rows(asked.csv / "proxy_correlation_points.csv", points, ("model", "data"))
    found, machine = correlations(points), environment(1)
    counts = {kind: len(own) for kind, own in sets.items()} | {"step": sum(map(len, choices(points)))}
    lines = [
        {
            "model": name, "data": asked.data, "set": kind, "score": score,
            "networks": str(counts[kind]),
            "correlation": f"{value:.2f}", "low": f"{low:.2f}", "high": f"{high:.2f}",
            **settings, "processor": machine.processor, "commit": machine.commit,
        }
        for kind, own in found.items()
        for score, (value, low, high) in own.items()
    ]  # fmt: skip
    keep_rows(asked.csv / "proxy_correlation.csv", lines, ("model", "data"))
    print(f"\n{name} on {asked.data}: {asked.steps} iterations each")
    print(f"{'score':<12}" + "".join(f"{kind:>28}" for kind in found))
    for score in NAMES:
        told = [
            f"{value:.2f} ({low:.2f} to {high:.2f})"
            for own in found.values()
            for value, low, high in [own.get(score, (math.nan,) * 3)]
        ]
        print(f"{score:<12}" + "".join(f"{text:>28}" for text in told), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="lenet:16-32-128,alexnet:0.125,mobilenet:0.125")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--networks", type=int, default=30, help="random sub-networks")
    parser.add_argument("--steps", type=int, default=60, help="iterations of each fine-tune")
    parser.add_argument("--epochs", type=int, default=2, help="of the baseline's training")
    parser.add_argument(
        "--validation", type=int, default=2000, help="images of the training split that judge"
    )
    parser.add_argument("--delta", type=float, default=0.1, help="share of the MACs that a step takes off")
    parser.add_argument("--budget", type=float, default=0.5, help="share of the MACs at the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/proxies"))
    parser.add_argument("--csv", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    told: list[str] = []
    for name in asked.models.split(","):
        own = study(asked, name).get("trajectory", {})
        if own:
            best = max(PROXIES, key=lambda score: np.nan_to_num(own[score][0], nan=-1.0))
            told.append(f"{name} {best} {own[best][0]:.2f}, parameters {own['parameters'][0]:.2f}")
    print("ratio best score along the trajectory: " + "; ".join(told))


if __name__ == "__main__":
    main()
