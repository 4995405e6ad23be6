"""NetAdapt as published against `tersa adapt`: where the time of a search goes, remedy by remedy.

    python benchmarks/adaptation_speed.py [--models alexnet,mobilenet:1.0] [--target onnxruntime]
    python benchmarks/adaptation_speed.py --accuracy [--budgets 0.3,0.5,0.7] [--sides oab] [--seeds 5]

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

With `--accuracy`: test accuracy and measured latency at the end of the original (`--cut linear --score
finetune`; side o), (a) and (b), or of those that `--sides` names, each run whole with its closing fine-tune,
at every budget of `--budgets`, for several seeds; then the means over seeds, a line for each network, budget
and pair of sides. Latency is a share of the baseline's, measured beside it in interleaved rounds. A run that
ends writes its row, in place of one of the same settings; other rows of the file stay. A killed command goes
on when it is given again: finished runs are read from `--out`.
"""

from __future__ import annotations

import argparse
import csv
import io
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
from tersa.adapt.resource import Table
from tersa.errors import UsageError
from tersa.files import write_atomic
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
SIDES: dict[str, dict[str, Any]] = {
    "original": {"search": "netadapt", "cut": "linear", "score": "finetune"},
    "(a)": {"search": "netadapt", "cut": "bisect", "score": "naswot", "hybrid": 0.3},
    "(b)": {"search": "budget"},
}
LETTERS = {"o": "original", "a": "(a)", "b": "(b)"}
PAIRS = (("(b)", "original"), ("(b)", "(a)"), ("(a)", "original"))
Row = tuple[str, str, float, float, str]
"""Network, what, seconds, times faster, how it was found."""
SETTINGS = (
    "network", "data", "target", "budget", "seed", "side", "delta", "finetune_steps", "epochs", "tune",
    "device",
)  # fmt: skip
"""Columns of an accuracy that say what was run; the file has one row of each."""
Final = dict[str, str]
"""One whole run, as its row in the file."""


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
        patch.object(adapt_candidates, "time", processor),  # times the search for widths itself
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


def accuracy(asked: argparse.Namespace) -> None:
    """Final accuracies and latencies of whole runs, seed by seed, and their means over seeds."""
    place = ACCURACY if asked.csv is None else asked.csv
    rows: list[Final] = []
    print(
        f"{'network':<16}{'budget':>7}{'seed':>5}{'side':>10}{'baseline':>10}{'test accuracy':>15}"
        f"{'of latency':>12}{'search s':>10}"
    )
    for model in asked.models.split(","):
        for budget in asked.budgets:
            for seed in range(asked.seeds):
                for side in sides_of(asked.sides):
                    row = whole_run(asked, model, budget, seed, side)
                    rows.append(row)
                    keep(place, row)
                    print(
                        f"{model:<16}{budget:>7g}{seed:>5}{side:>10}{row['baseline']:>10}"
                        f"{row['accuracy']:>15}{row['latency_share']:>12}{row['search_s']:>10}",
                        flush=True,
                    )
    found = compared(rows)
    print(
        f"\n{'network':<16}{'budget':>7}  {'':<22}{'seeds':>6}{'latency, % of the baseline':>28}"
        f"{'test accuracy, %':>20}{'points':>16}"
    )
    for each in found:
        print(
            f"{each.network:<16}{each.budget:>7}  {f'{each.side} against {each.other}':<22}{each.seeds:>6}"
            f"{f'{100 * each.latency[0]:.1f} against {100 * each.latency[1]:.1f}':>28}"
            f"{f'{each.accuracy[0]:.2f} against {each.accuracy[1]:.2f}':>20}{each.gained():>16}"
        )
    told_off = [
        f"{each.network} at {each.budget}x {each.side} {each.gained()} points at "
        f"{each.latency[0] / each.latency[1]:.3f} of the latency of {each.other}"
        for each in found
    ]
    print("ratio " + (", ".join(told_off) or "of nothing: one side alone was run"))


def sides_of(letters: str) -> list[str]:
    """Sides by their letters.

    Raises:
        UsageError: a letter that is none.
    """
    if unknown := [letter for letter in letters if letter not in LETTERS]:
        known = ", ".join(f"{letter} for {side}" for letter, side in LETTERS.items())
        raise UsageError(f"--sides {letters}: unknown {', '.join(unknown)}; known: {known}")
    return [side for letter, side in LETTERS.items() if letter in letters]


def accuracy_spec(asked: argparse.Namespace, model: str, budget: float, seed: int, side: str) -> AdaptSpec:
    """What `tersa adapt` is asked in one whole run."""
    return specified(
        **SIDES[side],
        **stepwise(SIDES[side], asked.delta),
        data=asked.data,
        model=model,
        target=asked.target,
        goals=Goals(latency=parse_bound(f"{budget:g}x", "latency")),
        finetune_steps=asked.steps,
        seed=seed,
        epochs=asked.epochs,
        table=str(asked.out / "table.db"),
        protocol={} if asked.tune is None else {"tune": asked.tune},
    )


def whole_run(asked: argparse.Namespace, model: str, budget: float, seed: int, side: str) -> Final:
    """One run of adapt, made now or read."""
    spec = accuracy_spec(asked, model, budget, seed, side)
    folder = asked.out / f"{model.replace(':', '-')}-{budget:g}x-{seed}-{side.strip('()')}"
    setting = Setting(threads=1, device=asked.device)
    result = adapt(spec, folder, setting=setting, resume=folder.exists())
    assert result.adaptation is not None
    assert result.speedup is not None
    return {
        "network": model,
        "data": asked.data,
        "target": asked.target,
        "budget": f"{budget:g}",
        "seed": str(seed),
        "side": side,
        "delta": f"{asked.delta:g}",
        "finetune_steps": str(asked.steps),
        "epochs": "" if asked.epochs is None else str(asked.epochs),
        "tune": "" if asked.tune is None else str(asked.tune),
        "device": asked.device,
        "baseline": f"{result.baseline.test_accuracy:.4g}",
        "accuracy": f"{result.result.test_accuracy:.4g}",
        "latency_ms": f"{result.result.latency_ms.median:.4g}",
        "latency_share": f"{1.0 / result.speedup:.4g}",
        "speedup": f"{result.speedup:.4g}",
        "search_s": f"{result.adaptation.seconds['search']:.4g}",
        "met": str(all(goal.met for goal in result.goals)),
        "processor": result.environment.processor,
        "commit": result.environment.commit,
    }


def keep(path: Path, row: Final) -> None:
    """Add a row to a file, in place of one of the same settings; its other rows stay."""
    rows: list[Final] = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    rows = [*(each for each in rows if any(each.get(name) != row[name] for name in SETTINGS)), row]
    columns = list(dict.fromkeys(name for each in (row, *rows) for name in each))
    text = io.StringIO()
    out = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())


@dataclass(frozen=True)
class Compared:
    """Two sides of one network at one budget, over the seeds.

    Attributes:
        network: which.
        budget: share of the latency that was asked.
        side: the first.
        other: the second.
        latency: shares of the baseline's latency that are left, mean of each side.
        accuracy: percent of the test images, mean of each side.
        gaps: points of accuracy by which the first is above the second, seed by seed.
    """

    network: str
    budget: str
    side: str
    other: str
    latency: tuple[float, float]
    accuracy: tuple[float, float]
    gaps: list[float]

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.gaps)

    def gained(self) -> str:
        """Mean gap with its standard error."""
        error = f" +- {stdev(self.gaps) / math.sqrt(self.seeds):.2f}" if self.seeds > 1 else ""
        return f"{mean(self.gaps):+.2f}{error}"


def compared(rows: Sequence[Final]) -> list[Compared]:
    """Every pair of sides that was run, for each network and budget."""
    found: list[Compared] = []
    for network, budget in dict.fromkeys((row["network"], row["budget"]) for row in rows):
        own = [row for row in rows if (row["network"], row["budget"]) == (network, budget)]
        for side, other in PAIRS:
            both = [[row for row in own if row["side"] == name] for name in (side, other)]
            if not all(both):
                continue
            accuracies, shares = (
                [[float(row[name]) for row in each] for each in both]
                for name in ("accuracy", "latency_share")
            )
            gaps = [a - b for a, b in zip(*accuracies, strict=True)]
            latency = mean(shares[0]), mean(shares[1])
            found.append(
                Compared(
                    network, budget, side, other, latency, (mean(accuracies[0]), mean(accuracies[1])), gaps
                )
            )
    return found


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


def budgets_of(text: str) -> list[float]:
    """Shares of the latency, from 0 to 1.

    Raises:
        UsageError: something else.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < each < 1 for each in found):
        raise UsageError(f"--budgets {text}: not shares of the latency between 0 and 1, such as 0.3,0.5,0.7")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="alexnet,mobilenet:1.0")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--target", default="onnxruntime@threads=1")
    parser.add_argument("--delta", type=float, default=0.025)
    parser.add_argument("--steps", type=int, default=500, help="T, iterations of a short fine-tune")
    parser.add_argument(
        "--budgets", default="0.5", help="shares of the latency; more than one with --accuracy"
    )
    parser.add_argument("--timed", type=int, default=4, help="of the original's T, iterations that are run")
    parser.add_argument("--builds", type=int, default=2, help="interpolators of a layer that are built")
    parser.add_argument("--short", type=int, default=20, help="of ours' T, iterations that are run")
    parser.add_argument("--baseline", type=int, default=20, help="iterations that train the network first")
    parser.add_argument(
        "--sides", default="oab", help="o (original), a and b; for times the original is always measured"
    )
    parser.add_argument("--csv", type=Path, help="results go here, not to benchmarks/results")
    parser.add_argument("--accuracy", action="store_true", help="final accuracies of whole runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of the baseline's training")
    parser.add_argument("--tune", type=int, help="iterations of the closing fine-tune")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    asked = parser.parse_args()
    try:
        asked.budgets = budgets_of(asked.budgets)
        sides_of(asked.sides)
    except UsageError as error:
        parser.error(str(error))
    if len(asked.budgets) > 1 and not asked.accuracy:
        parser.error("times are measured at one budget; give --accuracy, or one of --budgets")
    asked.budget = asked.budgets[0]
    torch.set_num_threads(1)
    (accuracy if asked.accuracy else speed)(asked)


if __name__ == "__main__":
    main()
