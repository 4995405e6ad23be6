"""`tersa run`: a whole job from a TOML file, checked as a whole before it starts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersa.cli import options
from tersa.cli.console import Terminal
from tersa.errors import UsageError

if TYPE_CHECKING:
    from tersa.recipes.recipe import Recipe
    from tersa.recipes.recipe_result import RecipeResult
    from tersa.recipes.setting import Setting

EPILOG = """\b
Examples:
  tersa run --list
  tersa run small-and-fast
  tersa run small-and-fast data=mnist base.model=lenet --dry-run
  tersa run my-job.toml seed=3 prune.macs=0.3x --out runs/third
  tersa run my-job.toml seed=3 prune.macs=0.3x --out runs/third --resume

A recipe is a TOML file of [[step]] tables; tersa run --list names the jobs a step can do, and
tersa run NAME --show prints one to start from. Exit code 3: done, but a goal was missed."""

ONCE = ("--resume", "--overwrite", "--json", "--debug")


def run(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file, or the name of a shipped one.", metavar="RECIPE")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings for every step that knows them, or STEP.KEY=VALUE for one.", metavar="KEY=VALUE"
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="The shipped recipes, and the jobs that a step can do.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe, and do nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the results; an existing one needs --resume or --overwrite. [runs/RECIPE]",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    measure_seconds: options.MeasureSeconds = 3.0,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Carry out a recipe: steps from a TOML file, each a job with its settings, in one folder."""
    terminal = Terminal(json=json)
    if list_:
        _list(terminal)
        return
    if recipe is None:
        raise UsageError("name a recipe file or a shipped recipe; tersa run --list shows them")
    from tersa.recipes.recipe import find_recipe, override, parse
    from tersa.recipes.setting import Setting

    where, text = find_recipe(recipe)
    if show:
        terminal.say(text.rstrip())
        terminal.result({"verb": "run", "recipe": text, "artefacts": [], "report": "", "seconds": 0.0})
        return
    found: list[str] = []
    wanted = override(parse(text, where, found), changes or [], found)
    folder = out or Path("runs") / Path(recipe).stem
    setting = Setting(data_dir, device, threads, seconds=measure_seconds)
    if dry_run:
        _plan(terminal, wanted, folder, setting, found)
        return
    from tersa.recipes.recipe_run import run_recipe

    command = shlex.join(["tersa", *(word for word in sys.argv[1:] if word not in ONCE)])
    with terminal.progress() as say:
        setting = Setting(data_dir, device, threads, say, command, seconds=measure_seconds)
        result = run_recipe(wanted, folder, setting=setting, resume=resume, overwrite=overwrite, found=found)
    terminal.say()
    _tell(terminal, result, folder)
    terminal.result(result.absolute(folder))
    if not all(goal.met for goal in result.goals):
        raise typer.Exit(3)


def _list(terminal: Terminal) -> None:
    from tersa.recipes.recipe import parse, shipped
    from tersa.recipes.recipe_jobs import JOBS

    recipes = [parse(text, name, []) for name, text in shipped().items()]
    rows = [
        (
            each.name,
            each.audience,
            " → ".join(step.job for step in each.steps),
            "" if each.minutes is None else f"{each.minutes:g} min",
        )
        for each in recipes
    ]
    terminal.table("Recipes", ("recipe", "for", "steps", "about"), rows, left=3)
    for each in recipes:
        terminal.say(f"{each.name}: {each.description}")
    jobs = [(kind.name, kind.about, ", ".join(kind.uses)) for kind in JOBS.values()]
    terminal.table("Jobs of a step", ("job", "what it makes", "may name earlier steps in"), jobs, left=3)
    terminal.say("tersa run NAME --show prints a recipe; settings are the options of the job's verb")
    terminal.result(
        {
            "verb": "run",
            "recipes": [
                {"name": each.name, "audience": each.audience, "description": each.description}
                for each in recipes
            ],
            "jobs": {kind.name: sorted(kind.settings) for kind in JOBS.values()},
            "artefacts": [],
            "report": "",
            "seconds": 0.0,
        }
    )


def _plan(terminal: Terminal, recipe: Recipe, folder: Path, setting: Setting, found: list[str]) -> None:
    """What would be done, without doing it."""
    from tersa.recipes.recipe_check import check
    from tersa.recipes.recipe_run import estimate
    from tersa.train.estimate import in_words

    steps = check(recipe, folder, setting, found)
    seconds = [estimate(step) for step in steps]
    rows = [
        (
            step.made.name,
            step.kind.name,
            ", ".join(step.uses),
            step.made.model,
            "not known" if about is None else in_words(about),
        )
        for step, about in zip(steps, seconds, strict=True)
    ]
    terminal.table(f"Plan for {folder}", ("step", "job", "goes on from", "network", "about"), rows, left=5)
    known = [about for about in seconds if about is not None]
    some = (
        ""
        if len(known) == len(seconds)
        else f", and {len(seconds) - len(known)} steps whose time is not known"
    )
    terminal.say(f"in all about {in_words(sum(known))}{some}; nothing was done")
    terminal.result(
        {
            "verb": "run",
            "name": recipe.name,
            "steps": [
                {
                    "name": step.made.name,
                    "job": step.kind.name,
                    "uses": step.uses,
                    "model": step.made.model,
                    "settings": dict(step.settings),
                    "seconds": about,
                }
                for step, about in zip(steps, seconds, strict=True)
            ],
            "artefacts": [],
            "report": "",
            "seconds": sum(known),
        }
    )


def _tell(terminal: Terminal, result: RecipeResult, folder: Path) -> None:
    """A result on the terminal: the report's story in the report's words and order."""
    from tersa.recipes.recipe_result import words_of
    from tersa.report.numbers import duration

    terminal.say(result.verdict, style="bold")
    if result.description:
        terminal.say(result.description)
    rows = [
        (step.name, step.job, words_of(step.before), words_of(step.after), duration(step.seconds))
        for step in result.steps
    ]
    terminal.table("Steps", ("step", "job", "before", "after", "time"), rows, left=4)
    for step in result.steps:
        terminal.say(f"{step.name:12} {step.verdict}")
    for step in result.steps:
        for goal in step.goals:
            if not goal.met:
                terminal.say(f"missed in {step.name}: {goal.text}: {goal.reason}", style="red")
    for path in result.artefacts:
        terminal.say(f"file      {folder / path}")
    terminal.say(f"report    {folder / result.report}")
