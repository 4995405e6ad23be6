"""`tersa shrink`: the main job, from a data set and a network to a smaller, checked file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.cli.runs import tell, try_it

if TYPE_CHECKING:
    from tersa.recipes.request import ShrinkSpec
    from tersa.recipes.setting import Setting

EPILOG = """\b
Examples:
  tersa shrink --data digits
  tersa shrink --data mnist --model lenet --max-loss 0.24
  tersa shrink --data cifar-10 --model resnet:20 --macs 0.3x --max-loss 1
  tersa shrink --data photos.zip --model net.py:build --latency 0.5x

Exit code 3: done, but a goal was missed (the best found is kept)."""


ONCE = ("--resume", "--overwrite", "--json", "--debug")
"""Options that do not belong to doing it again."""


def shrink(
    data: options.Data = "digits",
    model: options.Model = None,
    checkpoint: options.Checkpoint = None,
    max_loss: options.MaxLoss = None,
    min_accuracy: options.MinAccuracy = None,
    parameters: options.Parameters = None,
    size: options.Size = None,
    latency: options.Latency = None,
    macs: options.Macs = None,
    target: options.Target = "onnxruntime@threads=1",
    batch: options.Batch = 1,
    precision: options.Precision = "auto",
    epochs: options.Epochs = None,
    retrain: Annotated[
        int | None, typer.Option("--retrain", min=1, help="Iterations after each pruning step.")
    ] = None,
    tune: Annotated[
        int | None, typer.Option("--tune", min=1, help="Iterations of each long fine-tune.")
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="Share of the channels left that one step removes (0.12).")
    ] = None,
    criterion_samples: Annotated[
        int | None,
        typer.Option("--criterion-samples", min=1, help="Training images that channels are scored on."),
    ] = None,
    validation: options.Validation = None,
    measure_seconds: options.MeasureSeconds = 3.0,
    out: options.Out = None,
    data_dir: options.DataDir = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Make a network as small as the goals allow: prune, retrain, quantise, export, check, measure."""
    from tersa.recipes.goals import Goals
    from tersa.recipes.request import DEFAULT_GOALS, ShrinkSpec
    from tersa.recipes.setting import Setting
    from tersa.recipes.shrink import shrink as run

    terminal = Terminal(json=json)
    goals = Goals.read(
        max_loss=max_loss,
        min_accuracy=min_accuracy,
        size=size,
        latency=latency,
        macs=macs,
        parameters=parameters,
    )
    if goals == Goals():
        goals = DEFAULT_GOALS
        terminal.note("no goal given: losing at most 1 point of accuracy (--max-loss 1)")
    spec = ShrinkSpec(
        data=data,
        model=model,
        checkpoint=str(checkpoint) if checkpoint else None,
        goals=goals,
        target=target,
        batch=batch,
        precision=precision,
        seed=seed,
        epochs=epochs,
        validation=validation,
        protocol={
            name: value
            for name, value in (
                ("retrain", retrain),
                ("tune", tune),
                ("share", share),
                ("criterion_samples", criterion_samples),
            )
            if value is not None
        },
    )
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    folder = out or Path("runs") / f"shrink-{Path(data).stem}"
    if dry_run:
        show_plan(terminal, spec, Setting(data_dir=data_dir, device=device, threads=threads), folder)
        return
    terminal.note(
        f"shrinking {model or 'the default network'} on {data}; latency counts on {target}, batch {batch}"
    )
    with terminal.progress() as say:
        setting = Setting(
            data_dir=data_dir,
            device=device,
            threads=threads,
            say=say,
            command=command,
            seconds=measure_seconds,
        )
        result = run(spec, folder, setting=setting, resume=resume, overwrite=overwrite)
    terminal.say()
    tell(terminal, result, folder)
    terminal.say(f"try it    {try_it(result, folder)}")
    terminal.result(result.absolute(folder))
    if not all(goal.met for goal in result.goals):
        raise typer.Exit(3)


def show_plan(terminal: Terminal, spec: ShrinkSpec, setting: Setting, folder: Path) -> None:
    """What would be done, without doing it."""
    from tersa.recipes.plan import plan

    found = plan(spec, setting)
    layers = [
        (
            each.name,
            each.kind,
            "x".join(map(str, each.output)),
            f"{each.parameters:,}",
            f"{each.macs:,}",
            f"{each.size_bytes:,}",
        )
        for each in found.layers
    ]
    columns = ("layer", "kind", "output", "parameters", "MACs", "bytes")
    terminal.table(f"{found.model}, the baseline", columns, layers, left=3)
    steps = [(step.name, step.what, step.time) for step in found.steps]
    terminal.table(f"Plan for {folder}", ("step", "what", "about"), steps, left=2)
    terminal.say(
        f"in all about {found.time} and {found.memory_bytes / 1e9:.1f} GB of memory; nothing was done"
    )
    terminal.result(found)
