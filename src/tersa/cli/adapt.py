"""`tersa adapt`: widths fitted to a machine by tables of its layers, with NetAdapt or all at once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.cli.runs import tell
from tersa.cli.shrink import ONCE
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.adapt_request import AdaptSpec
    from tersa.recipes.setting import Setting
    from tersa.records.results import ShrinkResult

EPILOG = """\b
Examples:
  tersa adapt --data digits --latency 0.5x
  tersa adapt --data mnist --model lenet --target onnxruntime --latency 0.5x
  tersa adapt --run runs/net --data cifar-10 --latency 2ms --search netadapt --score finetune
  tersa adapt --data cifar-10 --model mobilenet:1.0 --latency 0.5x --size 2MB --front 10
  tersa adapt --data mnist --energy 0.5x --latency 0.8x

--energy needs counters that can be read here: RAPL of the processor, NVML of an NVIDIA GPU.
Latencies and energies of layers are measured once per machine and runtime and kept in the user cache.
Every step is kept: tersa export --run DIR --at 3 writes its network.
Exit code 3: done, but a goal was missed (the best found is kept)."""


def adapt(
    data: options.Data = "digits",
    model: options.Model = None,
    run: Annotated[Path | None, typer.Option("--run", help="Adapt the network of a finished run.")] = None,
    checkpoint: options.Checkpoint = None,
    target: options.Target = "onnxruntime@threads=1",
    batch: options.Batch = 1,
    latency: options.Latency = None,
    energy: options.Energy = None,
    macs: options.Macs = None,
    size: options.Size = None,
    parameters: options.Parameters = None,
    max_loss: Annotated[
        float | None, typer.Option("--max-loss", help="Points of accuracy that may be lost.")
    ] = None,
    min_accuracy: options.MinAccuracy = None,
    search: Annotated[
        Literal["budget", "netadapt"],
        typer.Option("--search", help="budget: all widths at once; netadapt: one group a step."),
    ] = "budget",
    cut: Annotated[
        Literal["bisect", "linear"],
        typer.Option("--cut", help="How NetAdapt looks for a candidate's width."),
    ] = "bisect",
    score: Annotated[
        str,
        typer.Option(
            "--score",
            help="What NetAdapt ranks candidates by: finetune, or naswot, synflow, grad_norm, jacob_cov, "
            "zen, taylor (no training).",
        ),
    ] = "naswot",
    hybrid: Annotated[
        float,
        typer.Option(
            "--hybrid", min=0.0, max=1.0, help="Last share of the way ranked by fine-tuned accuracy."
        ),
    ] = 0.3,
    shortlist: Annotated[
        int,
        typer.Option(
            "--shortlist",
            min=0,
            help="Of these, candidates that the score names for fine-tuning. [0: all, for all iterations]",
        ),
    ] = 2,
    race: Annotated[
        float | None,
        typer.Option(
            "--race",
            min=0.0,
            max=1.0,
            help="Share of --finetune-steps after which candidates are compared and the best goes on alone; "
            "1: all to the end. [default: 0.1 of a short list, else 1]",
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", help="Share of the first latency that a step takes off.")
    ] = 0.025,
    decay: Annotated[float, typer.Option("--decay", help="Times delta, after every step.")] = 1.0,
    finetune_steps: Annotated[
        int,
        typer.Option(
            "--finetune-steps",
            min=0,
            help="Iterations of a short fine-tune (candidates, a front's networks).",
        ),
    ] = 500,
    tune: Annotated[
        int | None, typer.Option("--tune", min=0, help="Iterations of the closing fine-tune.")
    ] = None,
    front: Annotated[
        int, typer.Option("--front", min=0, help="Also so many networks between baseline and budget.")
    ] = 0,
    criterion: Annotated[
        str, typer.Option("--criterion", help="Importance of a channel, as in tersa prune.")
    ] = "taylor",
    arithmetic: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(
            "--arithmetic",
            help="bf16: half-width forward passes in fine-tunes, faster where the processor has them.",
        ),
    ] = "fp32",
    keep: Annotated[str | None, typer.Option("--keep", help="LAYER,LAYER* whose channels stay.")] = None,
    score_images: Annotated[
        int,
        typer.Option(
            "--score-images",
            min=2,
            help="Training images that a score looks at; synflow and zen look at none.",
        ),
    ] = 64,
    check_every: Annotated[
        int,
        typer.Option(
            "--check-every",
            min=0,
            help="Steps of NetAdapt between two measurements; 0: estimates alone decide, as published.",
        ),
    ] = 5,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", help="SQLite file of latencies and energies of layers. [default: in the user cache]"
        ),
    ] = None,
    allow_foreign: Annotated[
        bool, typer.Option("--allow-foreign", help="Use a table that was measured on another machine.")
    ] = False,
    fresh_table: Annotated[
        bool, typer.Option("--fresh-table", help="Measure the network's layers again.")
    ] = False,
    epochs: options.Epochs = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of the baseline's training, as in tersa train; may be given again.",
        ),
    ] = None,
    validation: options.Validation = None,
    measure_seconds: options.MeasureSeconds = 3.0,
    out: options.Out = None,
    data_dir: options.DataDir = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="Candidates of one step of NetAdapt that train at once."),
    ] = 1,
    on: options.On = "local",
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Fit a network's widths to a machine: table of layers, search, fine-tune, export, check, measure."""
    from tersa.recipes.adapt import adapt as work
    from tersa.recipes.adapt_request import check_call, specified
    from tersa.recipes.goals import Goals
    from tersa.recipes.pruning import usual_retraining
    from tersa.recipes.setting import Setting, crew_of
    from tersa.recipes.train_request import parse_settings

    terminal = Terminal(json=json)
    protocol = {
        **usual_retraining("adapt"),
        "criterion": criterion,
        "keep": keep or "",
        **({"tune": tune} if tune is not None else {}),
        **({"arithmetic": arithmetic} if arithmetic != "fp32" else {}),
    }
    spec: AdaptSpec = specified(
        data=data,
        model=model,
        run=str(run) if run else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        goals=Goals.read(
            max_loss=max_loss,
            min_accuracy=min_accuracy,
            size=size,
            latency=latency,
            energy=energy,
            macs=macs,
            parameters=parameters,
        ),
        target=target,
        batch=batch,
        search=search,
        cut=cut,
        score=score,
        hybrid=hybrid,
        shortlist=shortlist,
        race=race,
        delta=delta,
        decay=decay,
        finetune_steps=finetune_steps,
        score_images=score_images,
        check_every=check_every,
        front=front,
        table=str(table) if table else None,
        allow_foreign=allow_foreign,
        seed=seed,
        epochs=epochs,
        training=parse_settings(settings or []),
        validation=validation,
        protocol=protocol,
    )
    crew = crew_of(workers, threads, on)
    check_call(spec, fresh_table=fresh_table, crew=crew)
    if spec.differs("finetune_steps") and not spec.tunes:
        raise UsageError(
            f"--finetune-steps {finetune_steps}: no effect: for candidates of --search netadapt and networks "
            "of --front, and none is fine-tuned"
        )
    folder = out or Path("runs") / f"adapt-{Path(data).stem}"
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in (*ONCE, "--fresh-table"))])
    setting = Setting(
        data_dir=data_dir, device=device, threads=threads, command=command, seconds=measure_seconds
    )
    if dry_run:
        show_plan(terminal, spec, setting, folder, fresh_table=fresh_table)
        return
    terminal.note(f"adapting {run or model or 'the default network'} on {data} to {target}, batch {batch}")
    with terminal.progress() as say:
        setting = Setting(
            data_dir=data_dir,
            device=device,
            threads=threads,
            say=say,
            command=command,
            seconds=measure_seconds,
        )
        result = work(
            spec,
            folder,
            setting=setting,
            resume=resume,
            overwrite=overwrite,
            fresh_table=fresh_table,
            crew=crew,
        )
    terminal.say()
    tell(terminal, result, folder)
    tell_search(terminal, result)
    terminal.say(f"try it    python {folder / 'run.py'} IMAGE")
    terminal.result(result.absolute(folder))
    if not all(goal.met for goal in result.goals):
        raise typer.Exit(3)


def tell_search(terminal: Terminal, result: ShrinkResult) -> None:
    """Estimates against measurements, the front, races, and where the time went."""
    from tersa.report.adapt_view import (
        check_rows,
        energy_rows,
        front_columns,
        front_rows,
        race_words,
        second_rows,
    )

    found = result.adaptation
    if found is None:
        return
    if found.checked:
        columns = ("step", "estimate, ms", "measured, ms", "95 % interval", "estimate off by")
        terminal.table("Does the table foretell the clock?", columns, check_rows(found), left=1)
    if rows := energy_rows(found):
        columns = ("step", "estimate, mJ", "measured, mJ", "estimate off by")
        terminal.table("Do the layers foretell the energy?", columns, rows, left=1)
    if found.front:
        terminal.table("Front", front_columns(found), front_rows(found), left=1)
    if words := race_words(found):
        terminal.say(words)
    terminal.table("Where the time went", ("stage", "time"), second_rows(found), left=1)


def show_plan(
    terminal: Terminal, spec: AdaptSpec, setting: Setting, folder: Path, *, fresh_table: bool
) -> None:
    """What would be done, without doing it."""
    from tersa.recipes.adapt_plan import plan

    found = plan(spec, setting, fresh_table=fresh_table)
    rows = [(step.name, step.what, step.time) for step in found.steps]
    terminal.table(f"{found.model}: plan for {folder}", ("step", "what", "about"), rows, left=2)
    terminal.say(f"in all about {found.time}; nothing was done")
    terminal.result(found)
