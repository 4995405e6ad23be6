"""`tersa search`: width, pruning ratio and bits per layer at once, against measured costs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.joint_request import JointSpec
    from tersa.recipes.joint_result import SearchResult
    from tersa.recipes.setting import Setting
    from tersa.study.cluster import Crew

EPILOG = """\b
Examples:
  tersa search --data digits --trials 30
  tersa search --data mnist --model lenet --max-loss 0.5 --latency 0.5x --costs latency,size
  tersa search --data mnist --model lenet --max-loss 0.5 --latency 0.5x --costs latency,size \\
      --trials 200 --resume
  tersa search --run runs/net --data mnist --widths 1 --scope layer --bits 2..8 --out runs/search-net
  tersa search --data mnist --storage postgresql://me@host/searches --study mnist --out runs/shared

Needs Optuna: pip install 'tersa[search]'. Exit code 3: done, but a goal was missed (the best is kept)."""

MANY = 10**9
"""Networks beyond which a count is told by its power of ten."""

ONCE = ("--resume", "--overwrite", "--json", "--debug")


def search(
    data: options.Data = "digits",
    model: options.Model = None,
    checkpoint: options.Checkpoint = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run folder whose network is the baseline.")
    ] = None,
    max_loss: options.MaxLoss = None,
    min_accuracy: options.MinAccuracy = None,
    parameters: options.Parameters = None,
    size: options.Size = None,
    latency: options.Latency = None,
    macs: options.Macs = None,
    costs: Annotated[
        str,
        typer.Option(
            "--costs", metavar="COST,...", help="Set against accuracy: of latency, size, macs, parameters."
        ),
    ] = "latency,size",
    target: options.Target = "onnxruntime@threads=1",
    batch: options.Batch = 1,
    widths: Annotated[
        str,
        typer.Option(
            "--widths", metavar="SHARE,...", help="Shares of each layer's channels to build and train with."
        ),
    ] = "1,0.75,0.5",
    scope: Annotated[
        Literal["network", "layer"],
        typer.Option("--scope", help="One pruning ratio for the network, or one for each layer."),
    ] = "network",
    most: Annotated[
        float,
        typer.Option(
            "--most",
            min=0.0,
            max=0.99,
            help="Largest pruning ratio, rounded down to steps of 0.05; 0 for no pruning.",
        ),
    ] = 0.8,
    bits: Annotated[
        str, typer.Option("--bits", metavar="LOW..HIGH", help="Of each layer's weights, 1 to 8; or none.")
    ] = "2..6",
    tune: Annotated[
        int, typer.Option("--tune", min=1, help="Iterations of the fine-tune of each network.")
    ] = 300,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Networks to try, in all.")] = 40,
    storage: Annotated[
        str,
        typer.Option(
            "--storage", metavar="URL", help="A database for the trials, to share them. [a file in --out]"
        ),
    ] = "",
    study: Annotated[
        str, typer.Option("--study", help="Name of the search in the database. [that of --out]")
    ] = "",
    epochs: options.Epochs = None,
    validation: options.Validation = None,
    measure_seconds: options.MeasureSeconds = 3.0,
    out: options.Out = None,
    data_dir: options.DataDir = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Networks that are trained at once.")] = 1,
    on: options.On = "local",
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Search width, pruning ratio and bits per layer together; the Pareto front of accuracy and cost."""
    from tersa.recipes.goals import Goals
    from tersa.recipes.joint_request import COSTS, STEP, JointSpec
    from tersa.recipes.joint_trials import load_optuna, shown
    from tersa.recipes.request import DEFAULT_GOALS
    from tersa.recipes.setting import Setting, crew_of

    load_optuna()
    goals = Goals.read(
        max_loss=max_loss,
        min_accuracy=min_accuracy,
        size=size,
        latency=latency,
        macs=macs,
        parameters=parameters,
    )
    terminal = Terminal(json=json)
    if goals == Goals():
        goals = DEFAULT_GOALS
        terminal.note("no goal given: losing at most 1 point of accuracy (--max-loss 1)")
    spec = JointSpec(
        data=data,
        model=model,
        checkpoint=str(checkpoint) if checkpoint else None,
        run=str(run) if run else None,
        goals=goals,
        costs=tuple(kind for kind in COSTS if kind in _names(costs, COSTS)),
        target=target,
        batch=batch,
        widths=_shares(widths),
        scope=scope,
        most=most,
        bits=bits,
        tune=tune,
        seed=seed,
        epochs=epochs,
        validation=validation,
    )
    if most >= STEP and spec.most_ratio < most - 1e-9:
        terminal.note(f"--most {most:g}: ratios go in steps of {STEP:g}, the largest is {spec.most_ratio:g}")
    folder = out or Path("runs") / f"search-{Path(data).stem}"
    crew = crew_of(workers, threads, on)
    if dry_run:
        _plan(terminal, spec, Setting(data_dir, device, threads), folder, trials, crew)
        return
    from tersa.recipes.joint import Place, joint_search

    words = [word for word in sys.argv[1:] if word not in ONCE]
    words = [word.replace(storage, shown(storage)) if storage else word for word in words]
    command = shlex.join(["tersa", *words])
    with terminal.progress() as say:
        setting = Setting(data_dir, device, threads, say, command, seconds=measure_seconds)
        result = joint_search(
            spec,
            folder,
            trials=trials,
            place=Place(storage, study),
            setting=setting,
            crew=crew,
            resume=resume,
            overwrite=overwrite,
        )
    terminal.say()
    _tell(terminal, result, folder)
    terminal.result(result.absolute(folder))
    if not all(goal.met for goal in result.goals):
        raise typer.Exit(3)


def _names(text: str, known: tuple[str, ...]) -> list[str]:
    from tersa.errors import unknown

    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        if name not in known:
            raise unknown("cost", name, known)
    return found


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--widths '{text}': not shares separated by commas, such as 1,0.75,0.5") from None


def _plan(
    terminal: Terminal, spec: JointSpec, setting: Setting, folder: Path, trials: int, crew: Crew
) -> None:
    """What would be searched, without doing it."""
    from tersa.recipes.joint_plan import plan_search
    from tersa.report.numbers import plural
    from tersa.train.estimate import in_words

    plan = plan_search(spec, setting, trials, crew)
    rows = [(axis.name, axis.values) for axis in plan.axes]
    terminal.table(f"Plan for {folder}: {plan.model}", ("searched", "values"), rows, left=2)
    there = f"{plan.combinations:,}" if plan.combinations < MANY else f"{plan.combinations:.1e}"
    at_once = "" if crew.alone else f" with {plural(crew.workers, 'worker')}"
    terminal.say(
        f"{plan.trials} networks of {there} that can be made, about "
        f"{in_words(plan.seconds)}{at_once}; nothing was done"
    )
    terminal.result(plan)


def _tell(terminal: Terminal, result: SearchResult, folder: Path) -> None:
    """A result on the terminal: the report's story in the report's words and order."""
    from tersa.recipes.joint_report import cells_of, columns_of
    from tersa.report.numbers import milliseconds, percent, si
    from tersa.report.numbers import size as bytes_of

    terminal.say(result.verdict, style="bold")
    terminal.say(result.detail)
    old, new = result.baseline, result.result
    figures = [
        ("accuracy", percent(old.test_accuracy), percent(new.test_accuracy)),
        ("file", bytes_of(old.size_bytes), bytes_of(new.size_bytes)),
        ("latency", milliseconds(old.latency_ms.median), milliseconds(new.latency_ms.median)),
        ("MACs", si(old.macs), si(new.macs)),
        ("parameters", si(old.parameters), si(new.parameters)),
    ]
    terminal.table(f"{result.model} on {result.data}", ("", "before", "after"), figures)
    rows = [
        (f"{row.number}{' *' if row.number == result.chosen else ''}", *cells_of(row, result))
        for row in result.front
    ]
    terminal.table("Pareto front", ("network", *columns_of(result)), rows, caption="* the one that was taken")
    for goal in result.goals:
        if not goal.met:
            terminal.say(f"missed: {goal.text}: {goal.reason}", style="red")
    for name in result.artefacts:
        terminal.say(f"file      {folder / name}")
    terminal.say(f"report    {folder / result.report}")
