"""How well do scores without training foretell which sub-network ends more accurate?

    python benchmarks/proxy_correlation.py [--data digits] [--model lenet:8-16-64] [--networks 16]

Random sub-networks of one trained network (every group narrowed at random, least important channels first)
are scored, fine-tuned for the same number of iterations and evaluated on the validation images; the table
gives Spearman's rank correlation of each score with that accuracy, with its 95 % bootstrap interval over the
networks. Beside the scores stand the number of parameters and of multiply-accumulates: a score that does no
better says nothing that the size does not. Writes `results/proxy_correlation.csv`, one row per network.
"""

from __future__ import annotations

import argparse
import copy
import csv
import random
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from tersa.adapt.proxies import PROXIES, Probe
from tersa.data import load
from tersa.models.summary import macs, parameters
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_
from tersa.recipes.adapt_fit import lowest
from tersa.train.baseline import baseline, default_config
from tersa.train.config import override
from tersa.train.evaluation import evaluate
from tersa.train.loop import train

RESULTS = Path(__file__).parent / "results" / "proxy_correlation.csv"
RESAMPLES = 2000


def interval(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the rank correlation."""
    chance, found = np.random.default_rng(0), list[float]()
    for _ in range(RESAMPLES):
        at = chance.integers(0, len(x), len(x))
        if len(set(x[at])) > 1 and len(set(y[at])) > 1:
            found.append(float(spearmanr(x[at], y[at]).statistic))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="lenet:8-16-64")
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task = load(asked.data)
    trained = baseline(task, asked.model, default_config(task, asked.model)).module
    groups = find_groups(trained, task.shape)
    some = task.train.take(slice(0, 500))
    generator = torch.Generator().manual_seed(asked.seed)
    scores = collect(trained, groups, task, some, CRITERIA["taylor"], generator=generator)
    importances = list(torch.split(scores, [len(group.units) for group in groups.groups]))
    probe = Probe(task.normalise(task.train.images[:64]), task.train.labels[:64], asked.seed)
    config = override(
        default_config(task, asked.model),
        {"iterations": asked.iterations, "keep": "last", "batch": min(128, len(task.train))},
    )
    rows: list[dict[str, float]] = []
    for number in range(asked.networks):
        chance = random.Random(asked.seed * 1000 + number)
        widths = [max(1, round(len(g.units) * chance.uniform(0.05, 0.9))) for g in groups.groups]
        network = copy.deepcopy(trained)
        remove_(network, groups, lowest(groups, importances, widths))
        row = {name: proxy.score(network, probe) for name, proxy in PROXIES.items()}
        row |= {"parameters": float(parameters(network)), "macs": float(macs(network, task.shape))}
        train(network, task, config, evaluate_every=0)
        row["accuracy"] = evaluate(network, task.validation, task).accuracy
        rows.append(row)
        print(f"  {number + 1} of {asked.networks}: widths {widths}, {row['accuracy']:.2f} %", flush=True)
    accuracy = np.array([row["accuracy"] for row in rows])
    print(
        f"\n{asked.model} on {asked.data}: {asked.networks} sub-networks, {asked.iterations} iterations each"
    )
    print(f"{'score':<14}{'rank correlation':>18}{'95 % interval':>20}")
    found: dict[str, float] = {}
    for name in (*PROXIES, "parameters", "macs"):
        values = np.array([row[name] for row in rows])
        found[name] = float(spearmanr(values, accuracy).statistic)
        low, high = interval(values, accuracy)
        print(f"{name:<14}{found[name]:>18.2f}{f'{low:.2f} to {high:.2f}':>20}")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        out = csv.DictWriter(file, ["model", "data", "iterations", *rows[0]])
        out.writeheader()
        out.writerows(
            {"model": asked.model, "data": asked.data, "iterations": asked.iterations, **r} for r in rows
        )
    best = max(PROXIES, key=lambda name: found[name])
    print(f"ratio best score {best} {found[best]:.2f}, number of parameters {found['parameters']:.2f}")


if __name__ == "__main__":
    main()
