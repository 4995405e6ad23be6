"""NetAdapt as published against ours: where the time of a search goes, remedy by remedy.

    python benchmarks/netadapt_speed.py [--models alexnet,mobilenet:1.0] [--delta 0.025] [--steps 500]

The original: candidates' widths one by one, for every estimate the table read from its file and an
interpolator (scipy's Rbf) built anew for each layer that is not in it, every candidate fine-tuned and
evaluated. Ours: (a) bisection, table in memory, NAS-WOT for the first 70 % of the way and accuracy for the
rest; (b) all widths at once. Both sides search the same network with the same table, on one thread.

What is run and what is multiplied: the greedy loop is walked to the end with estimates from memory, counting
every estimate and every interpolated layer of the linear and of the bisecting search; one estimate of each
kind, one iteration of training, one evaluation and one score are timed, and the times are their products:
the original of AlexNet would take days here. The table is made of MACs, in sixteens of channels
(the time of a search hardly depends on the costs in it), so that no target is needed; measuring it is counted
on neither side. Not shown here: final accuracies, and tables as large as the document's, whose Rbf of
thousands of points is what its 37 times mostly come from.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import Rbf
from torch import nn

from tersa.adapt.budget import Damage, solve
from tersa.adapt.cost import Cost, Limit
from tersa.adapt.grid import Grid, widths
from tersa.adapt.measuring import wanted
from tersa.adapt.netadapt import Reduction, bisecting, by_accuracy, linear
from tersa.adapt.proxies import PROXIES, Probe
from tersa.adapt.resource import Counter, Macs, Table
from tersa.adapt.signature import Anatomy, layers_of
from tersa.models.zoo import build
from tersa.prune.groups import find_groups

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 128
VALIDATION = 5000
HYBRID = 0.3
RESULTS = Path(__file__).parent / "results" / "netadapt_speed.csv"


def made_up(anatomy: Anatomy) -> dict[str, dict[tuple[int, int], float]]:
    """A table of the network's grid: milliseconds from MACs, channels rounded up to sixteens."""
    points: dict[str, dict[tuple[int, int], float]] = {}
    for each in wanted(anatomy):
        ins, outs = (-(-n // 16) * 16 for n in (each.inputs, each.outputs))
        family = replace(each.family, groups=1) if each.family.groups > 1 else each.family
        cost = 1e-3 + 1e-7 * Macs().of(family, ins, outs).value + 1e-6 * ins
        points.setdefault(each.family.key(), {})[each.inputs, each.outputs] = cost
    return points


@dataclass
class Walk:
    """One greedy search to the end, by estimates alone.

    Attributes:
        steps: that it took.
        trained: of those, ranked by accuracy under the hybrid schedule.
        candidates: in all.
        trained_candidates: of those, in steps ranked by accuracy.
        tries: estimates of whole networks.
        misses: layers of these estimates that were not in the table.
        seconds: of the search for widths, as it was run here.
    """

    steps: int = 0
    trained: int = 0
    candidates: int = 0
    trained_candidates: int = 0
    tries: int = 0
    misses: int = 0
    seconds: float = 0.0


def walk(anatomy: Anatomy, table: Table, delta: float, how: str, budget: float) -> Walk:
    """Narrow one group at a step, the one with the most channels left, and count."""
    cost = Cost([Limit(Counter(anatomy, table), 1.0)])
    now, first, found = list(anatomy.widths), cost.at(anatomy.widths), Walk()
    limit = budget * first
    seen: dict[tuple[int, ...], int] = {}
    while (here := cost.at(now)) > limit:
        constraint = Reduction(delta).constraint(here, first, found.steps, limit)
        trained = by_accuracy(here, first, limit, HYBRID)
        choices: list[tuple[float, int, int]] = []
        for group in range(len(now)):
            along, asked = cost.along(group, now), list[int]()

            def ask(width: int, along: Callable[[int], float] = along, asked: list[int] = asked) -> float:
                asked.append(width)
                return along(width)

            tried = [w for w in widths(anatomy.widths[group]) if w < now[group]]
            began = time.perf_counter()
            cut = linear(tried, ask, constraint) if how == "linear" else bisecting(tried, ask, constraint)
            found.seconds += time.perf_counter() - began
            found.tries += len(asked)
            for width in asked:
                at = (*now[:group], width, *now[group + 1 :])
                if at not in seen:
                    seen[at] = sum(not table.of(*layer).exact for layer in anatomy.channels(at))
                found.misses += seen[at]
            if cut is not None:
                choices.append((cut.width / anatomy.widths[group], group, cut.width))
        if not choices:
            break
        _, group, width = max(choices)
        now[group] = width
        found.steps += 1
        found.candidates += len(choices)
        found.trained += trained
        found.trained_candidates += len(choices) * trained
    return found


def timed(work: Callable[[], object], least: float = 0.3) -> float:
    """Seconds of one call, the fastest of those that fit."""
    work()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < least or best == float("inf"):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def original_estimates(
    anatomy: Anatomy, points: dict[str, dict[tuple[int, int], float]]
) -> tuple[float, float]:
    """Seconds of reading the table's file, and of one interpolation with an interpolator of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        path.write_text(
            json.dumps({key: [[*at, ms] for at, ms in grid.items()] for key, grid in points.items()})
        )
        read = timed(lambda: json.loads(path.read_text()))
    two = [
        grid for grid in points.values() if len({i for i, _ in grid}) > 1 and len({o for _, o in grid}) > 1
    ]
    each: list[float] = []
    for grid in two:
        ins, outs = (np.array(axis, float) for axis in zip(*grid, strict=True))
        keep = ins != outs if len(set(ins - outs)) > 1 else np.ones(len(ins), bool)
        ms = np.array(list(grid.values()))
        distinct = len(set(zip(ins[keep], outs[keep], strict=True))) > 3
        if distinct:
            each.append(
                timed(lambda i=ins, o=outs, m=ms: float(Rbf(i, o, m, function="linear")(3.5, 5.5)), 0.1)
            )
    return read, float(np.mean(each)) if each else 0.0


def training(model: nn.Module) -> tuple[float, float, float]:
    """Seconds of an iteration of training, of an evaluation of the validation split, of a NAS-WOT score."""
    images, labels = torch.randn(BATCH, *SHAPE), torch.randint(CLASSES, (BATCH,))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimiser.step()

    def forward() -> None:
        with torch.inference_mode():
            model.eval()(images)

    iteration, one = timed(step, 1.0), timed(forward, 0.5)
    probe = Probe(images[:64], labels[:64])
    return iteration, one * VALIDATION / BATCH, timed(lambda: PROXIES["naswot"].score(model, probe), 0.5)


def queries() -> tuple[float, float]:
    """Microseconds of a measured point and of a new one between points."""
    values = {(8 * i, 8 * o): 0.1 * i * o for i in range(1, 13) for o in range(1, 13)}
    grid, places = Grid("demo", values), [(i, o) for i in range(9, 90) for o in range(9, 90)]
    began = time.perf_counter()
    for at in places:
        grid.at(*at)
    between = (time.perf_counter() - began) / len(places)
    exact = timed(lambda: [grid.at(48, 64) for _ in range(1000)], 0.1) / 1000
    return 1e6 * exact, 1e6 * between


def compare(name: str, delta: float, iterations: int, budget: float) -> list[tuple[str, str, float, float]]:
    """Rows of (model, what, seconds, times faster than the original)."""
    model = build(name, SHAPE, CLASSES)
    groups = find_groups(model, SHAPE)
    anatomy = layers_of(model, SHAPE, groups)
    points = made_up(anatomy)
    one, two = (walk(anatomy, Table(points), delta, how, budget) for how in ("linear", "bisect"))
    read, rebuild = original_estimates(anatomy, points)
    iteration, evaluation, score = training(model)
    tune = iterations * iteration + evaluation
    slow = one.tries * read + one.misses * rebuild
    whole = slow + one.candidates * tune
    fast = two.seconds + (two.candidates - two.trained_candidates) * score + two.trained_candidates * tune
    began = time.perf_counter()
    table = Table(points)
    first = Counter(anatomy, table).total(anatomy.widths)
    chance = torch.Generator().manual_seed(0)
    damage = [Damage(torch.rand(n, generator=chance).tolist(), widths(n)) for n in anatomy.widths]
    solve(damage, Cost([Limit(Counter(anatomy, table), budget * first)]))
    solved = time.perf_counter() - began
    importances = 1000 / BATCH * iteration  # Taylor scores of 1,000 images: forward and backward
    print(f"\n{name}: {len(anatomy.groups)} groups, {sum(map(len, points.values()))} points in the table")
    for how, each in (("linear", one), ("bisecting", two)):
        print(
            f"  {how}: {each.steps} steps, {each.candidates} candidates, {each.tries} estimates, "
            f"{each.misses} layers interpolated"
        )
    print(
        f"  reading the table {1e3 * read:.2f} ms, an Rbf {1e3 * rebuild:.2f} ms, an iteration "
        f"{iteration:.3f} s, an evaluation {evaluation:.1f} s, NAS-WOT {score:.2f} s"
    )
    rows = [
        ("original: linear, file read and Rbf built each time, all fine-tuned", whole),
        ("  of which the search for widths", slow),
        ("  of which fine-tunes and evaluations", one.candidates * tune),
        ("bisection alone", two.tries * read + two.misses * rebuild + two.candidates * tune),
        ("table in memory alone", one.seconds + one.candidates * tune),
        ("both", two.seconds + two.candidates * tune),
        ("(a) both, NAS-WOT, last 30 % by accuracy", fast),
        ("(b) all widths at once, importances included", solved + importances),
        ("  of which solving", solved),
    ]
    return [(name, what, seconds, whole / seconds if seconds else float("inf")) for what, seconds in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="alexnet,mobilenet:1.0")
    parser.add_argument("--delta", type=float, default=0.025)
    parser.add_argument("--steps", type=int, default=500, help="iterations of a short fine-tune")
    parser.add_argument("--budget", type=float, default=0.5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    exact, between = queries()
    print(f"a query: {exact:.2f} us measured, {between:.2f} us interpolated")
    names = asked.models.split(",")
    rows = [row for name in names for row in compare(name, asked.delta, asked.steps, asked.budget)]
    width = max(len(what) for _, what, _, _ in rows)
    print(f"\n{'network':<16}{'search':<{width + 2}}{'seconds':>12}{'times faster':>14}")
    for name, what, seconds, ratio in rows:
        print(f"{name:<16}{what:<{width + 2}}{seconds:>12.4g}{ratio:>14.4g}")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["network", "search", "seconds", "times_faster", "delta", "finetune_steps", "budget"])
        out.writerows((*row, asked.delta, asked.steps, asked.budget) for row in rows)
    told = {(name, what[:3]): ratio for name, what, _, ratio in rows}
    print("ratio " + ", ".join(
        f"{name}: (a) {told[name, '(a)']:.1f}x (b) {told[name, '(b)']:.0f}x" for name in names
    ))  # fmt: skip


if __name__ == "__main__":
    main()
