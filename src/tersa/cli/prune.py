"""`tersa prune`: channels removed under a chosen criterion and protocol, with every step kept."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.cli.runs import tell, try_it
from tersa.cli.shrink import ONCE, show_plan

EPILOG = """\b
Examples:
  tersa prune --data digits
  tersa prune --data mnist --model lenet --parameters 0.0033x --macs 0.033x
  tersa prune --run runs/lenet --data mnist --criterion l1 --scope conv1,conv2 --step 1 --max-loss 0.5
  tersa prune --data cifar-10 --model resnet:20 --macs 0.5x --keep 'conv1'
  tersa prune --data mnist --schedule cubic --amount 90% --steps 10 --retrain 200
  tersa prune --data mnist --model lenet5 --parameters 0.006x --cluster auto

Every step is kept: tersa export --run DIR --at 0.99 writes the smallest network that had 99 %.
Exit code 3: done, but a goal was missed (the best found is kept)."""


def prune(
    data: options.Data = "digits",
    model: options.Model = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Prune the network of a finished run."),
    ] = None,
    checkpoint: options.Checkpoint = None,
    light: Annotated[
        str | None,
        typer.Option(
            "--light",
            metavar="KIND[@LAYER,...]",
            help="First replace convolutions: separable, fire or shift; distilled from the original.",
        ),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            help="taylor, taylor-weight, l1, l2, activation, geometric-median, bn-scale, obd, "
            "hessian-trace or random.",
        ),
    ] = "taylor",
    normalize: Annotated[
        Literal["none", "l1", "l2"],
        typer.Option("--normalize", help="Makes layers comparable."),
    ] = "l2",
    mac_penalty: Annotated[
        float,
        typer.Option(
            "--mac-penalty",
            min=0.0,
            help="Lambda: scores minus lambda times the channel's share of MACs (of parameters, where "
            "only they are too many).",
        ),
    ] = 0.5,
    scope: Annotated[
        str,
        typer.Option("--scope", help="global, or LAYER,LAYER* that lose channels."),
    ] = "global",
    granularity: Annotated[
        str,
        typer.Option(
            "--granularity",
            help="map removes channels; kernel, weight and 2:4 only zero (smaller to store, not faster).",
        ),
    ] = "map",
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="LAYER,LAYER* whose channels stay."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            help="Channels of a step: 1, 2% of those at the start, or 12%left. [default: 12%left]",
        ),
    ] = None,
    schedule: Annotated[
        Literal["open", "one-shot", "steady", "geometric", "cubic"],
        typer.Option(
            "--schedule",
            help="open: until a goal stops it; else --amount in --steps steps.",
        ),
    ] = "open",
    amount: Annotated[
        str | None,
        typer.Option("--amount", metavar="90%", help="Channels that a schedule removes."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Steps of a schedule. [default: 10]"),
    ] = None,
    recompute: Annotated[
        Literal["every", "once"],
        typer.Option("--recompute", help="Score at every step, or once."),
    ] = "every",
    regrow: Annotated[
        float,
        typer.Option(
            "--regrow",
            min=0.0,
            max=0.99,
            help="Share of a step's channels that may come back for others.",
        ),
    ] = 0.0,
    round_to: Annotated[
        int,
        typer.Option(
            "--round-to",
            min=1,
            help="Layers that lose channels keep a multiple of so many: what a kernel works on at a time.",
        ),
    ] = 1,
    criterion_samples: Annotated[
        int,
        typer.Option(
            "--criterion-samples",
            min=1,
            help="Training images that channels are scored on.",
        ),
    ] = 1000,
    retrain: Annotated[
        int | None,
        typer.Option("--retrain", min=0, help="Iterations after each step; 0 for none."),
    ] = None,
    retrain_scope: Annotated[
        Literal["all", "layer"],
        typer.Option("--retrain-scope", help="What learns: all, or the pruned layers."),
    ] = "all",
    optimiser: Annotated[
        Literal["follow", "fresh"],
        typer.Option(
            "--optimiser",
            help="follow: its state goes on with the surviving channels; fresh: new at each step.",
        ),
    ] = "follow",
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            min=0,
            help="Iterations of the closing fine-tune, distilling from the original; 0 for none.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Peak of retraining and fine-tune."),
    ] = None,
    teacher_weight: Annotated[
        float | None,
        typer.Option(
            "--teacher-weight",
            min=0.0,
            max=1.0,
            help="Share of the original's answers in what is learnt; 0 for labels alone.",
        ),
    ] = None,
    arithmetic: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(
            "--arithmetic",
            help="bf16: half-width forward passes while retraining, faster where the processor has them.",
        ),
    ] = "fp32",
    pad: Annotated[
        int | None,
        typer.Option(
            "--pad",
            min=0,
            help="Largest shift of training images, pixels; by default what suits the data.",
        ),
    ] = None,
    max_loss: options.MaxLoss = None,
    min_accuracy: options.MinAccuracy = None,
    parameters: options.Parameters = None,
    macs: options.Macs = None,
    size: options.Size = None,
    latency: options.Latency = None,
    target: options.Target = "onnxruntime@threads=1",
    batch: options.Batch = 1,
    precision: options.Precision = "fp32",
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="BITS|auto",
            help="Also cluster the weights to 2^BITS values and write an entropy-coded file.",
        ),
    ] = None,
    coder: Annotated[
        Literal["auto", "huffman", "arithmetic"], typer.Option("--coder", help="Of that file.")
    ] = "auto",
    coded_size: Annotated[
        str | None,
        typer.Option(
            "--coded-size",
            metavar="BYTES|SHARE",
            help="Of that file at most, 1500 or 0.001x of the baseline's weights: the most accurate one.",
        ),
    ] = None,
    scratch: Annotated[
        bool,
        typer.Option("--scratch/--no-scratch", help="Train the same sizes from scratch beside it."),
    ] = True,
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
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Remove channels step by step under a chosen criterion and protocol, fine-tune, export, measure."""
    from tersa.recipes.goals import Goals, parse_bound
    from tersa.recipes.pruning import usual_retraining
    from tersa.recipes.request import DEFAULT_GOALS, ShrinkSpec, bits_of, share_of
    from tersa.recipes.setting import Setting
    from tersa.recipes.shrink import shrink as work
    from tersa.recipes.train_request import parse_settings

    terminal = Terminal(json=json)
    goals = Goals.read(
        max_loss=max_loss,
        min_accuracy=min_accuracy,
        size=size,
        latency=latency,
        macs=macs,
        parameters=parameters,
    )
    if goals == Goals() and schedule == "open":
        goals = DEFAULT_GOALS
        terminal.note("no goal given: losing at most 1 point of accuracy (--max-loss 1)")
    asked: dict[str, int | float | str | None] = {
        "criterion": criterion,
        "normalisation": normalize,
        "mac_weight": mac_penalty,
        "scope": "network" if scope == "global" else scope,
        "granularity": granularity,
        "keep": keep,
        "step": step,
        "schedule": schedule,
        "amount": share_of(amount) if amount else None,
        "steps": steps,
        "recompute": recompute,
        "regrow": regrow,
        "round_to": round_to if round_to > 1 else None,  # so that runs of older versions go on
        "criterion_samples": criterion_samples,
        "retrain": retrain,
        "retrain_scope": retrain_scope,
        "optimiser": optimiser,
        "tune": tune,
        "learning_rate": learning_rate,
        "teacher_weight": teacher_weight,
        "pad": pad,
        "arithmetic": arithmetic,
    }
    spec = ShrinkSpec(
        verb="prune",
        data=data,
        model=model,
        run=str(run) if run else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        light=light,
        goals=goals,
        target=target,
        batch=batch,
        precision=precision,
        seed=seed,
        epochs=epochs,
        training=parse_settings(settings or []),
        validation=validation,
        scratch=scratch,
        cluster=bits_of(cluster),
        coder=coder,
        coded_size=parse_bound(coded_size, "size", "coded-size") if coded_size else None,
        protocol={
            **usual_retraining("prune"),
            **{name: value for name, value in asked.items() if value is not None},
        },
    )
    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    folder = out or Path("runs") / f"prune-{Path(data).stem}"
    setting = Setting(data_dir=data_dir, device=device, threads=threads)
    if dry_run:
        show_plan(terminal, spec, setting, folder)
        return
    terminal.note(f"pruning {run or model or 'the default network'} on {data} by {criterion}")
    with terminal.progress() as say:
        setting = Setting(
            data_dir=data_dir,
            device=device,
            threads=threads,
            say=say,
            command=command,
            seconds=measure_seconds,
        )
        result = work(spec, folder, setting=setting, resume=resume, overwrite=overwrite)
    terminal.say()
    tell(terminal, result, folder)
    terminal.say(f"try it    {try_it(result, folder)}")
    terminal.result(result.absolute(folder))
    if not all(goal.met for goal in result.goals):
        raise typer.Exit(3)
