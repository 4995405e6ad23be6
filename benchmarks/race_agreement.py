"""How often does a race of candidates end with the winner that all of them fine-tuned to the end would have?

    python benchmarks/race_agreement.py [--data mnist] [--model lenet:8-16-64] [--seeds 5]
    python benchmarks/race_agreement.py --data cifar-10 --model alexnet:0.25 --epochs 4 --seeds 1 --delta 0.1
        --budget 0.3

NetAdapt as published (`--score finetune --race 1`) narrows a trained network by its multiply-accumulates,
step by step. Of every candidate the accuracy after each heat (a share of its T iterations) is kept beside the
one after T, and it is asked whom a race after that heat would have sent on: of the two that NAS-WOT names, as
`tersa adapt` has it by default, and of all. A race is right where its winner is the one after T, and within
the error where the winner's price (accuracy lost per cost saved) is above the least by no more than the
standard error of the difference, which is that of the same images answered by both. `lost_points` is the
difference, in points of accuracy at the mean saving of a step, averaged over steps. A heat of 0 is none: whom
NAS-WOT puts first is sent on.

Heats are judged on as many images of the validation split as `tersa adapt` takes, and on all of them.
Writes `results/race_agreement.csv`, a row for each heat, list and number of images; rows of other data,
networks and lengths stay. The last line has the default's share of right and nearly right races.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tersa.adapt.netadapt import price
from tersa.adapt.proxies import PROXIES, Probe
from tersa.data.task import evenly
from tersa.files import keep_rows
from tersa.recipes import adapt as recipe
from tersa.recipes import adapt_race, adapt_search
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_fit import Fit
from tersa.recipes.adapt_race import HEAT_IMAGES, Way
from tersa.recipes.adapt_request import RACE, specified
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.job import Job
from tersa.recipes.setting import Setting
from tersa.targets.environment import environment
from tersa.train.evaluation import evaluate

RESULTS = Path(__file__).parent / "results" / "race_agreement.csv"
SHARES = (0.05, 0.1, 0.25, 0.5)
UNTRIED = 0.0
"""The heat of a candidate that the score alone sends on."""
LISTED = 2
SETTINGS = ("data", "model", "iterations", "list", "heat", "images")


@dataclass
class Runner:
    """One candidate of a step.

    Attributes:
        naswot: its score before any fine-tune.
        heats: right answers on the validation split, (N,) bool, by share of T; 1 is all of it.
        cost: of its network.
    """

    naswot: float
    heats: dict[float, Tensor] = field(default_factory=dict[float, Tensor])
    cost: float = 0.0


@dataclass
class Step:
    """One step of a way.

    Attributes:
        now: cost before it.
        accuracy: percent, before it.
        naswot: score before it.
        runners: its candidates.
    """

    now: float
    accuracy: float
    naswot: float
    runners: list[Runner] = field(default_factory=list[Runner])

    def price(self, runner: Runner, heat: float, images: int) -> float:
        """Points lost per cost saved, by so many images; of the score without a heat."""
        if heat == UNTRIED:
            return price(self.naswot, runner.naswot, self.now, runner.cost)
        right = runner.heats[heat]
        accuracy = 100.0 * float(right[evenly(len(right), images)].double().mean())
        return price(self.accuracy, accuracy, self.now, runner.cost)

    def listed(self, count: int) -> list[Runner]:
        """The candidates that NAS-WOT puts first."""
        return sorted(self.runners, key=lambda runner: self.price(runner, UNTRIED, 0))[:count]


def watched(asked: argparse.Namespace, seed: int, folder: Path) -> list[Step]:
    """The steps of one way, every candidate with its heats."""
    steps: list[Step] = []
    whole, retrain = adapt_search.ways, adapt_race.retrain_

    def probe(job: Job) -> Probe:
        images = job.task.train.spread(64)
        return Probe(job.task.normalise(images.images), images.labels, job.seed)

    def right(job: Job, model: nn.Module) -> Tensor:
        return evaluate(model, job.task.validation, job.task).correct

    def ways(fit: Fit, model: nn.Module, groups: Any, *others: Any) -> list[Way]:
        accuracy = fit.answers(model).accuracy
        score = PROXIES["naswot"].score(model, probe(fit.job))
        steps.append(Step(fit.cost().at(fit.widths(groups)), accuracy, score))
        found = whole(fit, model, groups, *others)
        for runner, way in zip(steps[-1].runners, found, strict=True):
            runner.cost = way.row.cost
        return found

    def heated(job: Job, model: nn.Module, iterations: int, *, seed: int) -> None:
        runner = Runner(PROXIES["naswot"].score(model, probe(job)))
        for share in SHARES:
            part = copy.deepcopy(model)
            adapt_race.start_(job, part, iterations, until=max(1, round(share * iterations)), seed=seed)
            runner.heats[share] = right(job, part)
        retrain(job, model, iterations, seed=seed)
        runner.heats[1.0] = right(job, model)
        steps[-1].runners.append(runner)

    spec = specified(
        data=asked.data,
        model=asked.model,
        search="netadapt",
        score="finetune",
        delta=asked.delta,
        finetune_steps=asked.steps,
        goals=Goals(macs=parse_bound(f"{asked.budget:g}x", "macs")),
        seed=seed,
        epochs=asked.epochs,
        protocol={"tune": 0},
    )
    with (
        patch.object(adapt_search, "ways", ways),
        patch.object(adapt_race, "retrain_", heated),
        patch.object(recipe, "finish", lambda *_: None),
    ):
        adapt(spec, folder / f"{asked.data}-{seed}", setting=Setting(threads=1), overwrite=True)
    return [step for step in steps if len(step.runners) > 1]


def judged(step: Step, rivals: list[Runner], heat: float, images: int) -> tuple[bool, bool, float]:
    """Of a race after a heat: right, right within the standard error, and points lost."""
    count = len(rivals[0].heats[1.0])
    best = min(rivals, key=lambda each: step.price(each, 1.0, count))
    sent = min(rivals, key=lambda each: step.price(each, heat, images))
    lost = step.price(sent, 1.0, count) - step.price(best, 1.0, count)
    each = [100.0 * r.heats[1.0].double() / max(step.now - r.cost, 1e-12) for r in (sent, best)]
    error = float((each[0] - each[1]).std()) / count**0.5
    saved = mean(step.now - each.cost for each in rivals)
    return sent is best, lost <= error, lost * saved


def rows_of(asked: argparse.Namespace, steps: list[Step]) -> list[dict[str, str]]:
    """A row for each list, heat and number of images."""
    count, found = len(steps[0].runners[0].heats[1.0]), list[dict[str, str]]()
    looks = sorted({min(HEAT_IMAGES, count), count})
    for listed, heat, images in itertools.product(("2", "all"), (UNTRIED, *SHARES), looks):
        races = [
            judged(step, step.listed(LISTED) if listed == "2" else step.runners, heat, images)
            for step in steps
        ]
        found.append(
            {
                "data": asked.data,
                "model": asked.model,
                "iterations": str(asked.steps),
                "list": listed,
                "heat": f"{heat:g}",
                "images": str(images),
                "seeds": str(asked.seeds),
                "races": str(len(races)),
                "right": str(sum(right for right, _, _ in races)),
                "within_error": str(sum(near for _, near, _ in races)),
                "lost_points": f"{mean(lost for *_, lost in races):.3f}",
                "delta": f"{asked.delta:g}",
                "budget": f"{asked.budget:g}",
                "processor": environment(1).processor,
                "commit": environment(1).commit,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--model", default="lenet:8-16-64")
    parser.add_argument("--steps", type=int, default=200, help="T, iterations of a short fine-tune")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of the baseline's training")
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--budget", type=float, default=0.2, help="share of the multiply-accumulates")
    parser.add_argument("--out", type=Path, default=Path("runs/race"))
    parser.add_argument("--csv", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    steps: list[Step] = []
    for seed in range(asked.seeds):
        steps += watched(asked, seed, asked.out)
        print(f"  seed {seed}: {len(steps)} races so far", flush=True)
    rows = rows_of(asked, steps)
    keep_rows(asked.csv, rows, SETTINGS)
    print(f"\n{asked.model} on {asked.data}, T {asked.steps}, {asked.seeds} seeds, {len(steps)} races")
    print(f"{'list':<6}{'heat':>6}{'images':>8}{'right':>8}{'within error':>14}{'points lost':>13}")
    for row in rows:
        right, near = (100 * int(row[name]) / len(steps) for name in ("right", "within_error"))
        print(
            f"{row['list']:<6}{row['heat']:>6}{row['images']:>8}{right:>7.0f}%{near:>13.0f}%"
            f"{row['lost_points']:>13}"
        )
    usual = next(row for row in rows if row["list"] == "2" and float(row["heat"]) == RACE)
    share = int(usual["within_error"]) / len(steps)
    print(f"ratio {share:.2f} of the default's races ended with a winner within the error")


if __name__ == "__main__":
    main()
