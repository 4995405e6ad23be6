"""NetAdapt as published against `tersa adapt`: where the time of a search goes, remedy by remedy.

    python benchmarks/adaptation_speed.py [--models alexnet,mobilenet:1.0] [--sides abh]

The original: candidates' widths one by one; for every estimate the table read from its file and an
interpolator (scipy's Rbf, cubic) built anew for each layer that is not in it; every candidate fine-tuned for
T iterations and evaluated on what the published code evaluates on, the 50,000 images of the training split.
Ours: (a) `--search netadapt --cut bisect --score naswot --hybrid 0.3`, whose short lists of two run a race:
both are fine-tuned for a tenth of T, and the better one goes on to T (`recipes.adapt_race`); (b) `--search
budget`, with its share of the latency table: all the points that this network needs, measured in this run.
Same network, images, budget, T, delta, target and machine, one thread. All of this computes in FP32. A third
side, h, is (a) with `--arithmetic bf16`: its fine-tunes alone run in BF16, and the original's do not.

What is run and what is multiplied. The original: two whole steps, the first and the middle one of a greedy
way, stage by stage (`recipes.adaptation_stages` says how), times the number of steps. Of a fine-tune's T
iterations `--timed` are run, of a layer's interpolators `--builds`, and the rest charged. Ours is run whole,
on CIFAR-10, from a network trained for some iterations; fine-tunes are of `--short` iterations and taken to
T by what one iteration takes (a line through the fine-tunes' times); `--short 500` runs them all. The rest is
measured as it is: importances, scores, surgery, measurements of the whole network, files. The closing
fine-tune is the same on both sides and counted on neither, nor is the published table's measuring. Images are
32x32 throughout. Seconds are the processor's, of one thread, on both sides: other work takes none of them.

What is done is kept in `--out`: the same command goes on where a killed one was, and needs another folder for
other settings. Rows of the networks that are run take the place of those in the file; of these, one whose
numbers are what they were keeps its commit. How accurate the networks are at the end:
`adaptation_accuracy.py`. The last line has the ratios.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import platform
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from tersa.adapt.grid import Grid
from tersa.adapt.resource import Table
from tersa.files import write_atomic
from tersa.recipes import adapt as recipe
from tersa.recipes import adapt_candidates, adapt_race, adapt_store
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import AdaptSpec, specified
from tersa.recipes.adaptation import settings_of
from tersa.recipes.adaptation_result import Timed
from tersa.recipes.adaptation_stages import Measured, Subject, measured_table, stages
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.job import Job
from tersa.recipes.retraining import Paused
from tersa.recipes.setting import Setting
from tersa.records.base import read_record, write_record
from tersa.report.numbers import plural
from tersa.targets.environment import environment
from tersa.targets.registry import parse

SIDE, CLASSES = 32, 10
RESULTS = Path(__file__).parent / "results" / "adaptation_speed.csv"
processor = SimpleNamespace(perf_counter=time.process_time)
SIDES = {"(a)": "H30 naswot", "(a) in BF16": "H30 naswot", "(b)": "budget"}
"""What each side of ours is called among the strategies of `tersa reproduce adaptation`."""
LETTERS = {"a": "(a)", "h": "(a) in BF16", "b": "(b)"}
FOLDERS = {side: letter for letter, side in LETTERS.items()}
COLUMNS: tuple[str, ...] = (
    "network", "search", "seconds", "times_faster", "how", "side", "target", "delta", "finetune_steps",
    "budget", "processor", "python", "torch", "commit",
)  # fmt: skip
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


@dataclass(frozen=True)
class Calls:
    """Parts of fine-tunes with their processor seconds, also those of a killed run.

    Attributes:
        path: of the file that keeps them.
    """

    path: Path

    @contextmanager
    def clocked(self, iterations: int) -> Generator[None]:
        """Note what so many iterations take."""
        began = time.process_time()
        yield
        found = [*self.read(), [iterations, time.process_time() - began]]
        write_atomic(self.path, json.dumps(found))

    def read(self) -> list[list[float]]:
        """Iterations and seconds of each."""
        return json.loads(self.path.read_text()) if self.path.is_file() else []

    def each(self) -> float:
        """Seconds of one iteration: the slope of a line through all parts."""
        counts, took = (np.array(each, float) for each in zip(*self.read(), strict=True))
        return float(np.polyfit(counts, took, 1)[0])


def ours(asked: argparse.Namespace, model: str, side: str, folder: Path) -> Ours:
    """A side of ours, run now or read."""
    stored = folder / f"{FOLDERS[side]}.json"
    if not stored.is_file():
        stored.write_text(json.dumps(asdict(run(asked, model, side, folder))))
    return Ours(**json.loads(stored.read_text()))


def ours_spec(asked: argparse.Namespace, model: str, side: str, folder: Path) -> AdaptSpec:
    """What `tersa adapt` is asked; without its closing fine-tune."""
    arithmetic = {"arithmetic": "bf16"} if side.endswith("BF16") else {}
    settings = settings_of(SIDES[side], asked.delta)
    if settings["search"] == "netadapt":
        settings["check_every"] = 0
    return specified(
        **settings,
        data=asked.data,
        model=model,
        target=asked.target,
        goals=Goals(latency=parse_bound(f"{asked.budget}x", "latency")),
        finetune_steps=asked.short,
        table=str(folder / "table.db"),
        training={"iterations": str(asked.baseline)},
        protocol={"tune": 0, **arithmetic},
    )


def run(asked: argparse.Namespace, model: str, side: str, folder: Path) -> Ours:
    """Adapt, from where a killed run was, and time each part of a short fine-tune by its iterations."""
    letter = FOLDERS[side]
    calls = Calls(folder / f"{letter}-calls.json")
    once, start, rest = adapt_race.retrain_, adapt_race.start_, adapt_race.go_on_

    def at_once(job: Job, network: nn.Module, iterations: int, *, seed: int) -> None:
        with calls.clocked(iterations):
            once(job, network, iterations, seed=seed)

    def started(job: Job, network: nn.Module, iterations: int, *, until: int, seed: int) -> Paused:
        with calls.clocked(until):
            return start(job, network, iterations, until=until, seed=seed)

    def went_on(job: Job, network: nn.Module, paused: Paused) -> None:
        with calls.clocked(paused.iterations - paused.state.iteration):
            rest(job, network, paused)

    setting = Setting(threads=1, seconds=0.2, say=told, cache=folder / "cache")
    out = folder / letter
    with (
        patch.object(adapt_store, "time", processor),
        patch.object(adapt_candidates, "time", processor),  # times the search for widths itself
        patch.object(adapt_race, "retrain_", at_once),
        patch.object(adapt_race, "start_", started),
        patch.object(adapt_race, "go_on_", went_on),
        patch.object(recipe, "finish", lambda *_: None),  # test set and report are no part of a search
    ):
        adapt(ours_spec(asked, model, side, folder), out, setting=setting, resume=out.exists())
    store = adapt_store.AdaptStore(out)
    stages, tuned = store.seconds(), sum(row.iterations for row in store.candidates())
    seconds = stages.pop("search")
    stages = {name: value for name, value in stages.items() if name not in ("tune", "table")}
    made = len({row.step for row in store.candidates()})
    how = "run whole" if side == "(b)" else f"run, {plural(made, 'step')}"
    if tuned and asked.short != asked.steps:
        each = calls.each()
        more = each * tuned * (asked.steps / asked.short - 1)
        seconds += more
        stages["finetune"] += more
        how = f"{how}; {each:.3f} s for each iteration of a fine-tune above {asked.short}"
    stages["all else"] = seconds - sum(stages.values())
    return Ours(seconds, stages, how)


def told(task: str, done: float, remark: str) -> None:
    if remark.startswith("step"):
        print(f"    {task} {100 * done:.0f} %: {remark}", flush=True)


def compare(asked: argparse.Namespace, model: str, folder: Path) -> list[Row]:
    """Rows of one network; what is in the folder is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    points, filling = filled_table(model, asked.target, folder)
    print(f"\n{model} at {SIDE}x{SIDE}: {filling['points']} layers in {filling['seconds']:.0f} s", flush=True)
    both = {"(b)": ours(asked, model, "(b)", folder)} if "b" in asked.sides else {}
    stored = folder / "stages.json"
    if not stored.is_file():
        subject = Subject.of(model, (3, SIDE, SIDE), CLASSES, points)
        measured = Measured(asked.delta, asked.budget, asked.steps, asked.timed, asked.builds)
        show = partial(print, " ", flush=True)
        found = stages(subject, measured, network=model, folder=folder, say=lambda _, text: show(text))
        write_record(stored, found)
    found = read_record(stored, Timed)
    tell(found)
    both |= {LETTERS[each]: ours(asked, model, LETTERS[each], folder) for each in "ah" if each in asked.sides}
    rows, whole = original_rows(found, model), found.total("original")
    heat = ours_spec(asked, model, "(a)", folder).model_copy(update={"finetune_steps": asked.steps}).heat
    stepwise = (
        f"netadapt, bisection, NAS-WOT, last 30 % by accuracy, short list of 2, race of {heat} iterations"
    )
    texts = {
        "(a)": stepwise,
        "(a) in BF16": f"{stepwise}, fine-tunes in BF16 (the original's in FP32)",
        "(b)": "budget, its latency table included",
    }
    for side, text in texts.items():
        if side not in both:
            continue
        mine = both[side]
        if side == "(b)":
            mine.seconds += filling["seconds"]
            mine.stages["latency table"] = filling["seconds"]
        rows.append((model, f"{side} {text}", mine.seconds, whole / mine.seconds, mine.how))
        rows += [
            (model, f"  {side} of which {n}", value, math.nan, mine.how) for n, value in mine.stages.items()
        ]
    return rows


def filled_table(model: str, target: str, folder: Path) -> tuple[Table, dict[str, Any]]:
    """The latency table of a network, and what its measuring took: seconds and points, summed over the calls
    of this command that measured some of it (a killed one's up to its last block)."""
    kept = folder / "table.json"
    filling: dict[str, Any] = {"seconds": 0.0, "points": 0, "whole": False}
    if kept.is_file():
        filling = {"whole": True, **json.loads(kept.read_text())}
    began, earlier = time.process_time(), dict(filling)

    def note(done: int, of: int) -> None:
        if not earlier["whole"]:
            filling["seconds"] = earlier["seconds"] + time.process_time() - began
            filling["points"] = earlier["points"] + done
            filling["whole"] = done == of
            write_atomic(kept, json.dumps(filling))

    table, _ = measured_table(model, (3, SIDE, SIDE), CLASSES, parse(target), folder / "table.db", note)
    return table, filling


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


def keep(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Rows in place of all of their networks; those with the numbers of the file keep its commit."""
    there: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            there = list(csv.DictReader(file))
    known = {tuple(row.get(name, "") for name in COLUMNS[:-1]): row for row in there}
    new = [known.get(tuple(row[name] for name in COLUMNS[:-1]), row) for row in rows]
    others = [row for row in there if row["network"] not in {each["network"] for each in rows}]
    text = io.StringIO()
    out = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    out.writeheader()
    out.writerows([*others, *new])
    write_atomic(path, text.getvalue())


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
    common = [
        f"{SIDE}",
        asked.target,
        f"{asked.delta}",
        f"{asked.steps}",
        f"{asked.budget}",
        machine.processor,
    ]
    common += [platform.python_version(), str(torch.__version__), machine.commit]
    lines = [[n, w, f"{s:.4g}", "" if math.isnan(r) else f"{r:.4g}", h, *common] for n, w, s, r, h in rows]
    keep(asked.csv, [dict(zip(COLUMNS, line, strict=True)) for line in lines])
    ratios = [
        f"{name} {side} {ratio:.1f}x"
        for name, what, _, ratio, _ in rows
        for side in sorted(SIDES, key=len, reverse=True)
        if what.startswith(f"{side} ") and not what.startswith(f"{side} in ")
    ]
    print("ratio " + ", ".join(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="alexnet,mobilenet:1.0")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--target", default="onnxruntime@threads=1")
    parser.add_argument("--delta", type=float, default=0.025)
    parser.add_argument("--steps", type=int, default=500, help="T, iterations of a short fine-tune")
    parser.add_argument("--budget", type=float, default=0.5, help="share of the latency")
    parser.add_argument("--timed", type=int, default=4, help="of the original's T, iterations that are run")
    parser.add_argument("--builds", type=int, default=2, help="interpolators of a layer that are built")
    parser.add_argument("--short", type=int, default=20, help="of ours' T, iterations that are run")
    parser.add_argument("--baseline", type=int, default=20, help="iterations that train the network first")
    parser.add_argument("--sides", default="abh", help="a, b and h; the original is always measured")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    asked = parser.parse_args()
    if unknown := set(asked.sides) - set(LETTERS):
        parser.error(f"--sides {asked.sides}: unknown {', '.join(sorted(unknown))}; known: a, b, h")
    if not 0 < asked.budget < 1:
        parser.error(f"--budget {asked.budget}: not a share of the latency between 0 and 1")
    torch.set_num_threads(1)
    speed(asked)


if __name__ == "__main__":
    main()
