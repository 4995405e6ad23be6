"""`tersa train`: one network on one data set, with its history, in a folder of its own."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.learn import LearnedRun
    from tersa.recipes.setting import Setting
    from tersa.recipes.train import TrainedRun, TrainPlan

EPILOG = """\b
Examples:
  tersa train --data digits --model lenet
  tersa train --data mnist --model lenet --optimizer adam --lr 0.001 --out runs/adam
  tersa train --data cifar-10 --model resnet:20 --set clip_norm=1 --dry-run
  tersa train --data mnist --model mlp:100 --teacher lenet \\
      --teacher-checkpoint runs/adam/model.safetensors \\
      --set distillation=temperature --set distillation_temperature=4

\b
  tersa train --data mnist --model mlp:100x100 --rule hsic --bits 3 --storage latent

\b
  tersa train --data mnist --model sfc+w1a1:in=1
  tersa train --data cifar-10 --model cnv+w1a1:by=approx --epochs 24 --set precision=bf16
  tersa train --data cifar-10 --model cnv+w32a1 --out runs/first
  tersa train --data cifar-10 --model cnv+w1a1 --checkpoint runs/first/model.safetensors

+wXaY behind bvgg16, vgg-small, vgg:11, cnv, bresnet18, bresnet20, tfc, sfc or lfc gives X bits of weights and
Y of activations; after a colon in=1..8, first=8/8, last=float, by=ste|approx|swish|tanh|dsq (or two, W/A),
scale=none|channel|lab|xnor, draw=stochastic, shape=standardise|recu. The last two commands train in two
stages: activations get their bit first, then the weights.

A learning rule or a quantiser (--rule, --quant, --bits, --range, --rounding, --storage) trains with document
000's settings: Adadelta, rate 1 times 0.7 after each epoch, batch 64, 30 epochs, seed 1.
A killed run goes on with the same command and --resume. Exit code 1: the training diverged."""


def train(
    context: typer.Context,
    data: options.Data = "digits",
    model: options.Model = None,
    checkpoint: options.Checkpoint = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            "--optimizer",
            help="sgd, momentum, nesterov, adagrad, adadelta, adam, lbfgs; without a rule also "
            "adamw, with one cg, newton, levenberg-marquardt.",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="Updates, in place of --epochs.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "--batch-size", help="Images per update; 0: all of them.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="constant, cosine, one-cycle, step or exponential.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="Learning rule: bp, fa, dfa, sign-symmetry, hsic, dni, dtp, ff, ..."),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option("--quant", help="symmetric, asymmetric, binary, ternary, power-of-two, clusters."),
    ] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="Bits of a weight, 1 to 8.")] = None,
    range: Annotated[
        str | None,
        typer.Option("--range", help="global, layer, channel, percentile, calibrated, learned."),
    ] = None,
    rounding: Annotated[str | None, typer.Option("--rounding", help="nearest or stochastic.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="inplace, latent, accumulate or after.")
    ] = None,
    extra_bits: Annotated[
        int | None, typer.Option("--extra-bits", help="Bits per weight of storage accumulate. [4]")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Model to follow, with --set distillation=temperature; of a low-bit --model: Apprentice.",
        ),
    ] = None,
    teacher_checkpoint: Annotated[
        Path | None, typer.Option("--teacher-checkpoint", help="The teacher's trained weights.")
    ] = None,
    teacher_views: Annotated[
        int,
        typer.Option(
            "--teacher-views",
            min=0,
            help="Ask the teacher once, about so many fixed views of each image (one where they are not "
            "augmented); 0: about every batch. [0]",
            show_default=False,
        ),
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other setting of TrainConfig; may be given again."
        ),
    ] = None,
    validation: Annotated[
        int | None, typer.Option("--validation", min=1, help="Images of train that steer the choices.")
    ] = None,
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
    """Train a network and keep its weights, history and test accuracy."""
    from tersa.recipes.setting import Setting
    from tersa.recipes.train import plan_training, run_training
    from tersa.recipes.train_request import TrainRequest, merged

    terminal = Terminal(json=json)
    named = {"optimizer": optimizer, "learning_rate": lr, "epochs": epochs, "iterations": iterations}
    named |= {"batch": batch, "schedule": schedule, "seed": seed}
    few = {"rule": rule, "quant": quant, "bits": bits, "range": range, "rounding": rounding}
    few |= {"storage": storage, "extra_bits": extra_bits}
    folder = out or Path("runs") / f"train-{Path(data).stem}"
    if any(value is not None for value in few.values()):
        others: dict[str, object] = {"--checkpoint": checkpoint, "--teacher": teacher}
        others |= {"--validation": validation}
        others |= {
            "--iterations": iterations,
            "--schedule": schedule,
            "--teacher-checkpoint": teacher_checkpoint,
            "--teacher-views": teacher_views or None,
        }
        _refuse(others)
        how = Setting(data_dir, device, threads)
        asked: dict[str, object] = {"data": data, "model": model, **named, **few}
        if not given(context, "seed"):
            del asked["seed"]  # the option has another default than document 000
        _learn(terminal, asked, settings or [], folder, how, resume, overwrite, dry_run)
        return
    request = TrainRequest(
        data=data,
        model=model,
        checkpoint=str(checkpoint) if checkpoint else None,
        teacher=teacher,
        teacher_checkpoint=str(teacher_checkpoint) if teacher_checkpoint else None,
        teacher_views=teacher_views,
        validation=validation,
        settings=merged(named, settings or []),
    )
    if dry_run:
        _show_plan(terminal, plan_training(request, Setting(data_dir, device, threads)), folder)
        return
    with terminal.progress() as say:
        setting = Setting(data_dir, device, threads, say, shlex.join(["tersa", *sys.argv[1:]]))
        result = run_training(request, folder, setting=setting, resume=resume, overwrite=overwrite)
    _show(terminal, result, folder)
    if result.status == "diverged":
        raise typer.Exit(1)


def given(context: typer.Context, name: str) -> bool:
    """An option was typed, be it with its default value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(options_given: dict[str, object]) -> None:
    """Options that a learning rule's training has no use for."""
    found = [name for name, value in options_given.items() if value is not None]
    if found:
        raise UsageError(
            f"{', '.join(found)} and a learning rule or quantiser do not go together; leave out one side"
        )


def _learn(
    terminal: Terminal,
    asked: dict[str, object],
    pairs: list[str],
    folder: Path,
    setting: Setting,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """One run under a rule and a quantiser: a study of one cell."""
    from tersa.recipes.learn import cell_of, plan_learning, run_learning
    from tersa.recipes.train_request import merged

    cell = cell_of(merged(asked, pairs))
    if dry_run:
        plan = plan_learning(cell, setting)
        rows = [
            ("run", cell.describe()),
            ("network", f"{plan.parameters:,} parameters"),
            ("length", f"{plan.epochs} epochs, {plan.updates:,} updates on {plan.images:,} images"),
        ]
        terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
        terminal.say("nothing was done")
        terminal.result(plan)
        return
    with terminal.progress() as say:
        how = replace(setting, say=say, command=shlex.join(["tersa", *sys.argv[1:]]))
        result = run_learning(cell, folder, setting=how, resume=resume, overwrite=overwrite)
    _show_learned(terminal, result, folder)
    if result.status == "diverged":
        raise typer.Exit(1)


def _show_learned(terminal: Terminal, result: LearnedRun, folder: Path) -> None:
    terminal.say()
    if result.message:
        terminal.say(result.message, style="red")
    rows = [
        ("status", result.status),
        ("test accuracy", f"{result.test_accuracy:.2f} %"),
        ("epochs", f"{len(result.epochs)}"),
        ("parameters", f"{result.parameters:,}"),
        ("time", f"{result.seconds:.1f} s"),
    ]
    terminal.table(result.cell.describe(), ("", ""), rows, caption=result.task_note)
    terminal.say(f"weights  {folder / result.artefacts[0]}")
    if result.report:
        terminal.say(f"report   {folder / result.report}")
    terminal.result(result.absolute(folder))


def _show(terminal: Terminal, result: TrainedRun, folder: Path) -> None:
    terminal.say()
    if result.status == "diverged":
        terminal.say("the training ended in NaN or infinity; the last good weights are kept", style="red")
        terminal.say("a lower --lr or --set clip_norm=1 may help", style="red")
    rows = [
        ("status", result.status),
        ("test accuracy", f"{result.test_accuracy:.2f} %"),
        ("validation accuracy", f"{result.validation_accuracy:.2f} %"),
        ("best epoch", f"{result.best_epoch} of {result.epochs}"),
        *([("bits", result.bits)] if result.bits else []),
        ("parameters", f"{result.parameters:,}"),
        ("MACs", f"{result.macs:,}"),
        ("time", f"{result.seconds:.1f} s"),
    ]
    terminal.table(f"{result.model} on {result.task}", ("", ""), rows, caption=result.task_note)
    terminal.say(f"weights  {folder / result.artefacts[0]}")
    terminal.say(f"history  {folder / 'history.db'}")
    terminal.say(f"report   {folder / result.report}")
    terminal.result(result.absolute(folder))


def _show_plan(terminal: Terminal, plan: TrainPlan, folder: Path) -> None:
    from tersa.train.estimate import in_words

    sizes = ", ".join(f"{count:,} {name}" for name, count in plan.split_sizes.items())
    rows = [
        ("data", f"{plan.spec.data} ({sizes})"),
        ("model", f"{plan.spec.model}: {plan.parameters:,} parameters, {plan.macs:,} MACs"),
        *([("bits", plan.bits)] if plan.bits else []),
        ("length", f"{plan.cost.epochs} epochs, {plan.cost.iterations:,} updates on {plan.device}"),
        *((name, str(value)) for name, value in plan.spec.config.model_dump().items() if value is not None),
    ]
    if plan.teacher_seconds:
        rows.append(("teacher", f"answers in about {in_words(plan.teacher_seconds)}"))
    terminal.table(f"Plan for {folder}", ("", ""), rows, left=2)
    memory = (plan.cost.memory_bytes + plan.teacher_bytes) / 1e9
    whole = in_words(plan.cost.seconds + plan.teacher_seconds)
    terminal.say(f"in all about {whole} and {memory:.1f} GB of memory; nothing was done")
    terminal.result(plan)
