"""How much time does it save to remove channels for real, instead of masking them?

    python benchmarks/pruning_speed.py --rounds 3

Document 002's global protocol on LeNet: score 1,000 images with Taylor and l2, remove one feature map,
retrain 100 iterations of 100 images, read the accuracy of 5,000 validation images; 1,117 times. At 20 points
evenly spaced along the way one step is timed on the network whose channels are gone (`surgery.remove_`) and
on the same network at its full size, the same weights zeroed and held at zero (`prune.holding.held`, what
masks do). Both take turns on the same images, from the same weights; times are medians over the rounds and
are integrated over the removals by the trapezoid rule. At each point both networks answer 1,000 images first.

The order of removal is that of a walk with 2 % of the maps a step and `--retrain` iterations after each.

Writes `results/pruning_speed.csv`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from tersa.data import load
from tersa.data.task import Task
from tersa.models.zoo import build
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups, find_groups
from tersa.prune.holding import apply_, held
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose
from tersa.prune.surgery import remove_, restore_
from tersa.recipes.pruning_curves import document_training
from tersa.targets.environment import environment
from tersa.train.baseline import baseline, default_config
from tersa.train.continued import begin, learn_
from tersa.train.evaluation import evaluate

RESULTS = Path(__file__).parent / "results" / "pruning_speed.csv"
POINTS = 20
IMAGES = 1000
TOLERANCE = 1e-5
"""Largest difference of masked and removed outputs, relative to the largest: sums in another order."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each kind at each point")
    parser.add_argument("--iterations", type=int, default=20, help="timed of the 100, and scaled up")
    parser.add_argument("--retrain", type=int, default=20, help="after each removal of the walk")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = load("mnist", validation=5000)
    network = copy.deepcopy(baseline(task, "lenet", default_config(task, "lenet")).module)
    rows = walk(task, network, arguments.rounds, arguments.iterations, arguments.retrain)
    whole = {kind: integral(rows, kind) for kind in ("masked", "removed")}
    ratio = whole["masked"] / whole["removed"]
    machine = environment(arguments.threads)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        columns = [*rows[0], "threads", "rounds", "processor", "torch", "date"]
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        shared = {
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "processor": machine.processor,
            "torch": machine.versions["torch"],
            "date": machine.date[:10],
        }
        writer.writerows([row | shared for row in rows])
    print(f"largest difference of outputs {max(row['difference'] for row in rows):.1e} of the largest output")
    print(f"the whole protocol: removing is {ratio:.2f} times as fast as masking ({len(rows)} points)")


def walk(
    task: Task, network: nn.Module, rounds: int, iterations: int, retrain: int
) -> list[dict[str, float]]:
    """Go down the trajectory and time both kinds of step at the points."""
    whole = find_groups(network, task.shape)
    config = document_training(0)
    run = begin(network, task, config)
    groups, start = whole, len(whole.units)
    least = len(whole.groups)
    targets = [round(place * (start - least) / (POINTS - 1)) for place in range(POINTS)]
    rows: list[dict[str, float]] = []
    for target in targets:
        while (gone := start - len(groups.units)) < target:
            units = lowest(task, run.model, groups, min(round(0.02 * start), target - gone), seed=gone)
            groups = remove_(run.model, groups, units, run.optimizer)
            learn_(run, retrain)
        rows.append(point(task, run.model, groups, whole, target, rounds, iterations))
        row = rows[-1]
        print(
            f"{target:5} maps gone: masked {row['masked']:6.2f} s, removed {row['removed']:6.2f} s a step, "
            f"{row['masked'] / row['removed']:5.2f} times",
            flush=True,
        )
    return rows


def lowest(task: Task, model: nn.Module, groups: Groups, count: int, *, seed: int) -> Tensor:
    chosen = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:IMAGES]
    scores = collect(model, groups, task, task.train.take(chosen), CRITERIA["taylor"], batch=IMAGES // 2)
    return choose(normalise(scores, groups, NORMALISATIONS["l2"]), groups, count=count)


def point(
    task: Task, model: nn.Module, groups: Groups, whole: Groups, gone: int, rounds: int, iterations: int
) -> dict[str, float]:
    """One step of each kind, in turns."""
    masked, masks = full_size(model, groups, whole)
    images = task.normalise(task.validation.images[:IMAGES])
    with torch.inference_mode():
        wanted, found = masked(images), model(images)
    difference = float((wanted - found).abs().max() / wanted.abs().max())
    assert difference < TOLERANCE, f"masked and removed outputs differ by {difference:.1e} at {gone} maps"
    times: dict[str, list[float]] = {"masked": [], "removed": []}
    for round_ in range(rounds + 1):  # the first warms up
        for kind in times:
            if kind == "masked":
                with held(masked, masks):
                    taken = step(task, masked, whole, iterations, round_)
            else:
                taken = step(task, model, groups, iterations, round_)
            if round_:
                times[kind].append(taken)
    return {
        "maps_gone": gone,
        **{kind: round(statistics.median(each), 4) for kind, each in times.items()},
        "difference": difference,
    }


def step(task: Task, model: nn.Module, groups: Groups, iterations: int, seed: int) -> float:
    """Seconds of one step of the protocol on a copy, its retraining scaled to 100 iterations."""
    began = time.perf_counter()
    lowest(task, model, groups, 1, seed=seed)
    evaluate(model, task.validation, task)
    other = time.perf_counter() - began
    state = copy.deepcopy(model.state_dict())
    run = begin(model, task, document_training(seed))
    learn_(run, 2)  # the optimiser makes its state
    began = time.perf_counter()
    learn_(run, iterations)
    training = time.perf_counter() - began
    model.load_state_dict(state)
    return other + training * 100 / iterations


def full_size(model: nn.Module, groups: Groups, whole: Groups) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network at its full size with the weights of the units that are gone at zero, and its masks."""
    blank = build("lenet", (1, 28, 28), 10)
    zeros = {name: torch.zeros_like(value) for name, value in blank.state_dict().items()}
    masked = copy.deepcopy(model)
    restore_(masked, groups, whole, zeros)
    masked.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
    ones = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1.0)
    restore_(ones, groups, whole, zeros)
    names = [name for name, value in ones.named_parameters() if value.dim() >= 2]
    masks = {name: dict(ones.named_parameters())[name].detach() > 0 for name in names}
    apply_(masked, masks)
    return masked.eval(), masks


def integral(rows: list[dict[str, float]], kind: str) -> float:
    """Seconds of the whole protocol, by the trapezoid rule over the removals."""
    return sum(
        (b["maps_gone"] - a["maps_gone"]) * (a[kind] + b[kind]) / 2 for a, b in itertools.pairwise(rows)
    )


if __name__ == "__main__":
    main()
