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
iterations `--timed` are run, of a layer's interpolators two, and the rest charged. Ours is run whole on
CIFAR-10 from a network trained for some iterations, with fine-tunes of `--short` iterations, whose time is
multiplied by T over that; `--short 500` multiplies nothing. Everything else is ours' wall clock: importances,
scores, surgery, measurements of the whole network, files. The closing fine-tune is the same on both sides and
counted on neither, nor is the published table's measuring. Images are 32x32 throughout. Seconds are the
processor's, of one thread, on both sides: other work on the machine takes none of them.

With `--accuracy`: final test accuracies of the original (`--cut linear --score finetune`), (a) and (b), each
run whole with its closing fine-tune, for several seeds; a killed run goes on with the same command.
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import torch

from tersa.adapt.grid import Grid
from tersa.recipes import adapt_store
from tersa.recipes.adapt import adapt
from tersa.recipes.adapt_request import AdaptSpec, specified
from tersa.recipes.adaptation_result import Timed
from tersa.recipes.adaptation_stages import Measured, Subject, measured_table, stages
from tersa.recipes.goals import Goals, parse_bound
from tersa.recipes.setting import Setting
from tersa.records import ShrinkResult
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


def ours(
    asked: argparse.Namespace, model: str, side: str, table: Path, folder: Path, steps: int
) -> ShrinkResult:
    """One run of adapt without its closing fine-tune."""
    spec: AdaptSpec = specified(
        **SIDES[side],
        data=asked.data,
        model=model,
        target=asked.target,
        goals=Goals(latency=parse_bound(f"{asked.budget}x", "latency")),
        delta=asked.delta,
        finetune_steps=steps,
        table=str(table),
        training={"iterations": str(asked.baseline)},
        protocol={"tune": 0},
    )
    adapt_store.time = processor  # pyright: ignore[reportAttributeAccessIssue] - a clock for its stages
    setting = Setting(threads=1, seconds=0.2, say=told, cache=folder.parent / "cache")
    return adapt(spec, folder, setting=setting)


def told(task: str, done: float, remark: str) -> None:
    if remark.startswith("step"):
        print(f"    {task} {100 * done:.0f} %: {remark}", flush=True)


def compare(asked: argparse.Namespace, model: str, folder: Path) -> list[Row]:
    """Rows of one network."""
    shape = (3, SIDE, SIDE)
    file = folder / "table.db"
    began = time.process_time()
    points, filled = measured_table(model, shape, CLASSES, parse(asked.target), file)
    filling = time.process_time() - began
    print(f"\n{model} at {SIDE}x{SIDE}: {filled.measured} layers measured in {filling:.0f} s", flush=True)
    subject = Subject.of(model, shape, CLASSES, points)
    measured = Measured(asked.delta, asked.budget, asked.steps, asked.timed, asked.builds)
    found = stages(
        subject,
        measured,
        network=model,
        folder=folder,
        say=lambda _, remark: print(f"  {remark}", flush=True),
    )
    tell(found)
    part = asked.short / asked.steps
    rows = original_rows(found, model)
    whole = found.total("original")
    for side, text in (("(a)", "netadapt, bisection, NAS-WOT, last 30 % by accuracy"), ("(b)", "budget")):
        result = ours(asked, model, side, file, folder / side.strip("()"), asked.short)
        assert result.adaptation is not None
        spent = result.adaptation.seconds
        tuned = spent.get("finetune", 0.0)
        seconds = spent["search"] + tuned * (1 / part - 1)
        how = (
            "run whole" if part == 1 or not tuned else f"run; fine-tunes of {asked.short} times {1 / part:g}"
        )
        if side == "(b)":
            seconds += filling
            text += ", its latency table included"
        rows.append((model, f"{side} {text}", seconds, whole / seconds, how))
        shown = {name: value for name, value in spent.items() if name not in ("search", "tune", "table")}
        shown["finetune"] = tuned / part
        shown["all else"] = seconds - sum(shown.values()) - (filling if side == "(b)" else 0.0)
        rows += [(model, f"  {side} of which {name}", value, math.nan, how) for name, value in shown.items()]
        if side == "(b)":
            rows.append((model, "  (b) of which latency table", filling, math.nan, "run whole"))
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
                    data=asked.data,
                    model=model,
                    target=asked.target,
                    goals=Goals(latency=parse_bound(f"{asked.budget}x", "latency")),
                    delta=asked.delta,
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
        with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
            rows += compare(asked, name, Path(folder))
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
    names = asked.models.split(",")
    print("ratio " + ", ".join(f"{n}: (a) {found[n, '(a)']:.1f}x (b) {found[n, '(b)']:.0f}x" for n in names))


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
