"""NetAdapt as published against `tersa adapt`: where the time of a search goes, remedy by remedy.

    python benchmarks/adaptation_speed.py [--models alexnet,mobilenet:1.0] [--target onnxruntime]
    python benchmarks/adaptation_speed.py --accuracy [--seeds 5] [--out runs/adaptation]

The original: candidates' widths one by one; for every estimate the table read from its file and an
interpolator (scipy's Rbf, cubic) built anew for each layer that is not in it; every candidate fine-tuned for
T iterations and evaluated on what the published code evaluates on, the 50,000 images of the training split.
Ours: (a) `--search netadapt --cut bisect --score naswot --hybrid 0.3`; (b) `--search budget`, with its share
of the latency table: all the points that this network needs, measured in this run. Same network, images,
budget, T, delta, target and machine, one thread.

What is run and what is multiplied. The original: two whole steps, the first and the middle one of a greedy
way, stage by stage (`recipes.adaptation_stages` says how), times the number of steps. Of a fine-tune's T
iterations `--timed` are run, of a layer's interpolators `--builds`, and the rest charged. Ours is run whole,
on CIFAR-10, from a network trained for some iterations; fine-tunes are of `--short` iterations and taken to
T by what one iteration takes (a line through the fine-tunes' times); `--short 500` runs them all. The rest is
measured as it is: importances, scores, surgery, measurements of the whole network, files. The closing
fine-tune is the same on both sides and counted on neither, nor is the published table's measuring. Images are
32x32 throughout. Seconds are the processor's, of one thread, on both sides: other work takes none of them.

What is done is kept in `--out`: the same command goes on where a killed one was, and needs another folder for
other settings.

With `--accuracy`: final test accuracies of the original (`--cut linear --score finetune`), (a) and (b), each
run whole with its closing fine-tune, for several seeds; a killed run goes on with the same command.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from tersa.adapt.grid import Grid
from tersa.recipes import adapt as recipe
from tersa.recipes import adapt_candidates, adapt_store
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import AdaptSpec, specified
from tersa.recipes.adaptation_result import Timed
from tersa.recipes.adaptation_stages import Measured, Subject, measured_table, stages
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.job import Job
from tersa.recipes.setting import Setting
from tersa.records import read_record, write_record
from tersa.targets.environment import environment
from tersa.targets.registry import parse

SIDE, CLASSES = 32, 10
RESULTS = Path(__file__).parent / "results" / "adaptation_speed.csv"
ACCURACY = Path(__file__).parent / "results" / "adaptation_accuracy.csv"
processor = SimpleNamespace(perf_counter=time.process_time)
SIDES = {
    "original": {"search": "netadapt", "cut": "linear", "score": "finetune"},
    "(a)": {"search": "netadapt", "cut": "bisect", "score": "naswot", "hybrid": 0.3},
    "(b)": {"search": "budget"},
}
Row = tuple[str, str, float, float, str]
"""Network, what, seconds, times faster, how it was found."""


def queries() -> tuple[float, float]:
    """Microseconds of a measured point and of a new one between points."""
    values = {(8 * i, 8 * o): 0.1 * i * o for i in range(1, 13) for o in range(1, 13)}
    grid, places = Grid("demo", values), [(i, o) for i in range(9, 90) for o in range(9, 90)]
    began = time.perf_counter()
    for at in places:
        grid.at(*at)
    between = time.perf_counter() - began
    began = time.perf_counter()
    for at in places:
        grid.at(*at)
    return 1e6 * (time.perf_counter() - began) / len(places), 1e6 * between / len(places)


@dataclass
class Ours:
    """One run of adapt without its closing fine-tune, in seconds of the processor.

    Attributes:
        seconds: of the search, with fine-tunes of T iterations.
        stages: of it.
        how: what was multiplied.
    """

    seconds: float
    stages: dict[str, float]
    how: str


def ours(asked: argparse.Namespace, model: str, side: str, folder: Path) -> Ours:
    """A side of ours, run now or read."""
    stored = folder / f"{side.strip('()')}.json"
    if not stored.is_file():
        stored.write_text(json.dumps(asdict(run(asked, model, side, folder))))
    return Ours(**json.loads(stored.read_text()))


def stepwise(side: dict[str, Any], delta: float) -> dict[str, float]:
    """What only a search in steps is told."""
    return {"delta": delta} if side["search"] == "netadapt" else {}


def run(asked: argparse.Namespace, model: str, side: str, folder: Path) -> Ours:
    """Adapt, and time each short fine-tune by its iterations."""
    spec: AdaptSpec = specified(
        **SIDES[side],
        **stepwise(SIDES[side], asked.delta),
        data=asked.data,
        model=model,
        target=asked.target,
        goals=Goals(latency=parse_bound(f"{asked.budget}x", "latency")),
        finetune_steps=asked.short,
        table=str(folder / "table.db"),
        training={"iterations": str(asked.baseline)},
        protocol={"tune": 0},
    )
    calls: list[tuple[int, float]] = []
    retrain = adapt_candidates.retrain_

    def timed(job: Job, network: nn.Module, iterations: int, *, seed: int) -> None:
        began = time.process_time()
        retrain(job, network, iterations, seed=seed)
        calls.append((iterations, time.process_time() - began))

    setting = Setting(threads=1, seconds=0.2, say=told, cache=folder / "cache")
    out = folder / side.strip("()")
    with (
        patch.object(adapt_store, "time", processor),
        patch.object(adapt_candidates, "retrain_", timed),
        patch.object(recipe, "finish", lambda *_: None),  # test set and report are no part of a search
    ):
        adapt(spec, out, setting=setting, overwrite=True)
    stages = adapt_store.AdaptStore(out).seconds()
    seconds = stages.pop("search")
    stages = {name: value for name, value in stages.items() if name not in ("tune", "table")}
    how = "run whole"
    if calls and asked.short != asked.steps:
        counts, took = (np.array(each, float) for each in zip(*calls, strict=True))
        each = float(np.polyfit(counts, took, 1)[0])
        more = each * counts.sum() * (asked.steps / asked.short - 1)
        seconds += more
        stages["finetune"] += more
        how = f"run; {each:.3f} s for each iteration of a fine-tune above {asked.short}"
    stages["all else"] = seconds - sum(stages.values())
    return Ours(seconds, stages, how)


def told(task: str, done: float, remark: str) -> None:
    if remark.startswith("step"):
        print(f"    {task} {100 * done:.0f} %: {remark}", flush=True)


def compare(asked: argparse.Namespace, model: str, folder: Path) -> list[Row]:
    """Rows of one network; what is in the folder is not measured again."""
    shape, file, kept = (3, SIDE, SIDE), folder / "table.db", folder / "table.json"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    points, filled = measured_table(model, shape, CLASSES, parse(asked.target), file)
    if not kept.is_file():
        kept.write_text(json.dumps({"seconds": time.process_time() - began, "points": filled.measured}))
    filling = json.loads(kept.read_text())
    print(f"\n{model} at {SIDE}x{SIDE}: {filling['points']} layers in {filling['seconds']:.0f} s", flush=True)
    both = {"(b)": ours(asked, model, "(b)", folder)} if "b" in asked.sides else {}
    stored = folder / "stages.json"
    if not stored.is_file():
        subject = Subject.of(model, shape, CLASSES, points)
        measured = Measured(asked.delta, asked.budget, asked.steps, asked.timed, asked.builds)
        show = partial(print, " ", flush=True)
        found = stages(subject, measured, network=model, folder=folder, say=lambda _, text: show(text))
        write_record(stored, found)
    found = read_record(stored, Timed)
    tell(found)
    if "a" in asked.sides:
        both["(a)"] = ours(asked, model, "(a)", folder)
    rows, whole = original_rows(found, model), found.total("original")
    texts = {"(a)": "netadapt, bisection, NAS-WOT, last 30 % by accuracy, short list of 2", "(b)": "budget"}
    for side, text in texts.items():
        if side not in both:
            continue
        mine = both[side]
        if side == "(b)":
            text += ", its latency table included"
            mine.seconds += filling["seconds"]
            mine.stages["latency table"] = filling["seconds"]
        rows.append((model, f"{side} {text}", mine.seconds, whole / mine.seconds, mine.how))
        rows += [
            (model, f"  {side} of which {n}", value, math.nan, mine.how) for n, value in mine.stages.items()
        ]
    return rows


def original_rows(found: Timed, model: str) -> list[Row]:
    """The original, and what each remedy leaves of it."""
    whole, how = found.total("original"), f"2 steps of {found.steps}, times {found.steps} / 2"
    names = {
        "bisection": "bisection alone",
        "interpolation": "interpolators built once",
        "bisection_interpolation": "both",
        "file_interpolation": "interpolators once, table in memory",
        "ours": "bisection, grid in memory (ours)",
    }
    rows: list[Row] = [(model, "original", whole, 1.0, how)]
    rows += [
        (model, f"  of which {text}", found.steps * found.of_step(stage), math.nan, how)
        for text, stage in (
            ("search for widths", "original"),
            ("fine-tunes", "finetune_s"),
            ("evaluations", "evaluate_s"),
        )
    ]
    for name, text in names.items():
        rows.append((model, text, found.total(name), whole / found.total(name), how))
        alone = found.steps * found.of_step(name)
        rows.append(
            (
                model,
                f"  {text}, the search alone",
                alone,
                found.of_step("original") / found.of_step(name),
                how,
            )
        )
    scored = found.hybrid()
    rows.append(
        (
            model,
            "the same, NAS-WOT but for the last 30 %, all of those fine-tuned",
            scored,
            whole / scored,
            how,
        )
    )
    return rows


def tell(found: Timed) -> None:
    """The measured steps, block by block."""
    print(f"  {found.steps} steps, {found.trained} of them in the last 30 % of the way")
    print(
        f"  {'step':<5}{'block':<34}{'width':>12}{'tries':>7}{'Rbfs':>6}{'search s':>10}"
        f"{'tune s':>9}{'eval s':>8}"
    )
    for row in found.blocks:
        width = f"{row.before} to {row.width or '-'}"
        print(
            f"  {row.step:<5}{row.name[:32]:<34}{width:>12}{row.tries:>7}{row.built:>6}"
            f"{row.cuts['original']:>10.3f}{row.finetune_s:>9.1f}{row.evaluate_s:>8.1f}"
        )


def accuracy(asked: argparse.Namespace) -> None:
    """Final accuracies of whole runs, seed by seed."""
    rows: list[dict[str, Any]] = []
    print(
        f"{'network':<16}{'seed':>5}{'side':>10}{'baseline':>10}{'test accuracy':>15}"
        f"{'speed-up':>10}{'search s':>10}"
    )
    for model in asked.models.split(","):
        for seed in range(asked.seeds):
            for side, settings in SIDES.items():
                spec: AdaptSpec = specified(
                    **settings,
                    **stepwise(settings, asked.delta),
                    data=asked.data,
                    model=model,
                    target=asked.target,
                    goals=Goals(latency=parse_bound(f"{asked.budget}x", "latency")),
                    finetune_steps=asked.steps,
                    seed=seed,
                    epochs=asked.epochs,
                    table=str(asked.out / "table.db"),
                    protocol={} if asked.tune is None else {"tune": asked.tune},
                )
                folder = asked.out / f"{model.replace(':', '-')}-{seed}-{side.strip('()')}"
                result = adapt(
                    spec, folder, setting=Setting(threads=1, device=asked.device), resume=folder.exists()
                )
                assert result.adaptation is not None
                row: dict[str, Any] = {
                    "network": model,
                    "seed": seed,
                    "side": side,
                    "baseline": result.baseline.test_accuracy,
                    "accuracy": result.result.test_accuracy,
                    "speedup": result.speedup,
                    "search_s": result.adaptation.seconds["search"],
                    "met": all(goal.met for goal in result.goals),
                    "delta": asked.delta,
                    "finetune_steps": asked.steps,
                    "device": asked.device,
                }
                rows.append(row)
                print(
                    f"{model:<16}{seed:>5}{side:>10}{row['baseline']:>10.2f}{row['accuracy']:>15.2f}"
                    f"{row['speedup'] or math.nan:>10.2f}{row['search_s']:>10.0f}",
                    flush=True,
                )
    write(ACCURACY, list(rows[0]), [list(row.values()) for row in rows])
    told_off: list[str] = []
    for model in asked.models.split(","):
        for side in ("(a)", "(b)"):
            gaps = [gap(rows, model, side, seed) for seed in range(asked.seeds)]
            spread = f" +- {stdev(gaps) / math.sqrt(len(gaps)):.2f}" if len(gaps) > 1 else ""
            told_off.append(f"{model} {side} {mean(gaps):+.2f}{spread} points")
    print("ratio " + ", ".join(told_off) + " against the original")


def gap(rows: Sequence[dict[str, Any]], model: str, side: str, seed: int) -> float:
    """Points of accuracy above the original."""
    at = {row["side"]: row["accuracy"] for row in rows if (row["network"], row["seed"]) == (model, seed)}
    return at[side] - at["original"]


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A file of results."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(header)
        out.writerows(rows)


def speed(asked: argparse.Namespace) -> None:
    """The comparison of times."""
    exact, between = queries()
    print(f"a query: {exact:.2f} us measured, {between:.2f} us interpolated")
    rows: list[Row] = []
    for name in asked.models.split(","):
        rows += compare(asked, name, asked.out / "speed" / name.replace(":", "-"))
    wide = max(len(what) for _, what, *_ in rows)
    print(f"\n{'network':<16}{'search':<{wide + 2}}{'seconds':>12}{'times faster':>14}  how")
    for name, what, seconds, ratio, how in rows:
        faster = "" if math.isnan(ratio) else f"{ratio:.3g}"
        print(f"{name:<16}{what:<{wide + 2}}{seconds:>12.4g}{faster:>14}  {how}")
    machine = environment(1)
    common = [SIDE, asked.target, asked.delta, asked.steps, asked.budget, machine.processor]
    common += [platform.python_version(), torch.__version__, machine.commit]
    write(
        RESULTS if asked.csv is None else asked.csv,
        ["network", "search", "seconds", "times_faster", "how", "side", "target", "delta", "finetune_steps",
         "budget", "processor", "python", "torch", "commit"],
        [[n, w, f"{s:.4g}", "" if math.isnan(r) else f"{r:.4g}", h, *common] for n, w, s, r, h in rows],
    )  # fmt: skip
    found = {(name, what[:3]): ratio for name, what, _, ratio, _ in rows if what.startswith("(")}
    told_off = [f"{name}: {side} {ratio:.1f}x" for (name, side), ratio in found.items()]
    print("ratio " + ", ".join(told_off))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="alexnet,mobilenet:1.0")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--target", default="onnxruntime@threads=1")
    parser.add_argument("--delta", type=float, default=0.025)
    parser.add_argument("--steps", type=int, default=500, help="T, iterations of a short fine-tune")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--timed", type=int, default=4, help="of the original's T, iterations that are run")
    parser.add_argument("--builds", type=int, default=2, help="interpolators of a layer that are built")
    parser.add_argument("--short", type=int, default=20, help="of ours' T, iterations that are run")
    parser.add_argument("--baseline", type=int, default=20, help="iterations that train the network first")
    parser.add_argument("--sides", default="ab", help="of ours: a, b, or both")
    parser.add_argument("--csv", type=Path, help="results go here, not to benchmarks/results")
    parser.add_argument("--accuracy", action="store_true", help="final accuracies of whole runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of the baseline's training")
    parser.add_argument("--tune", type=int, help="iterations of the closing fine-tune")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    (accuracy if asked.accuracy else speed)(asked)


if __name__ == "__main__":
    main()
