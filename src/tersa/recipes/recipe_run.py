"""A recipe from its file to a folder: checked as a whole, then step by step, each in a folder of its own.

    runs/NAME/spec.toml      the recipe as it was carried out, written first
              STEP/          what the job leaves, as if its verb had been called with --out
              steps.json     the steps that are done, grows
              report.html    what each step did, with links to their pages
              result.json    written last

With `resume` steps that are done are left alone, and one that was killed goes on as its job does.

Example:
    >>> import tempfile
    >>> from tersa.recipes.recipe import parse
    >>> text = 'common = {data = "digits", seed = 1}\\nstep = [{job = "train", model = "mlp:8", epochs = 2}]'
    >>> recipe = parse(text, "demo.toml", [])
    >>> result = run_recipe(recipe, Path(tempfile.mkdtemp()) / "demo", setting=Setting(threads=1))
    >>> [step.name for step in result.steps], result.result.parameters
    (['train'], 610)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from tersa.errors import TersaError
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.recipe import Recipe, RecipeSpec
from tersa.recipes.recipe_check import Ready, check
from tersa.recipes.recipe_kind import Outcome
from tersa.recipes.recipe_report import REPORT, write_report
from tersa.recipes.recipe_result import Done, RecipeResult, StepResult, ends, headline
from tersa.recipes.setting import Setting
from tersa.records.base import read_record, write_record
from tersa.targets.environment import environment

DONE = "steps.json"


@releasing
def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    setting: Setting | None = None,
    resume: bool = False,
    overwrite: bool = False,
    found: list[str] | None = None,
) -> RecipeResult:
    """Carry out a recipe.

    Args:
        recipe: as read, and changed by the command line.
        out: folder for everything that is made.
        setting: how it is carried out.
        resume: go on with the recipe in `out`; a finished one is returned as it is.
        overwrite: start again.
        found: faults of the file that are known already; they are reported with the others.

    Returns:
        The result; goals that were missed are in `goals`, nothing is raised for them.

    Raises:
        UsageError: faults of the recipe, all in one message, before any work; or `out` holds another run.
        TersaError: a step failed; what it says, after the name of the step. Steps before it are kept.
    """
    setting = setting or Setting()
    ready = check(recipe, out, setting, list(found or []))
    folder = open_folder(out, "run", RecipeSpec.of(recipe), resume=resume, overwrite=overwrite)
    if (folder / RESULT).is_file() and (folder / REPORT).is_file():
        return read_record(folder / RESULT, RecipeResult)
    done = read_record(folder / DONE, Done) if (folder / DONE).is_file() else Done()
    for step in ready:
        if any(each.name == step.made.name for each in done.steps):
            setting.say(step.made.name, 1.0, "done before")
            continue
        own = replace(setting, command=command_of(recipe, step.made.name, setting.command))
        done = Done(steps=[*done.steps, _carry_out(step, own, folder)])
        write_record(folder / DONE, done)
    result = _result(recipe, ready, done.steps, setting)
    write_report(folder, recipe, result)
    write_record(folder / RESULT, result)
    return result


def estimate(step: Ready) -> float | None:
    """About how many seconds a step takes, measured on a few batches; None where that cannot be told."""
    return step.kind.estimate(step.request, step.trial)


def command_of(recipe: Recipe, step: str, command: str) -> str:
    """What the page of a step shows as its command: that of the recipe, with a remark for people.

    >>> command_of(Recipe(name="small", steps=[]), "base", "tersa run small.toml seed=3")
    'tersa run small.toml seed=3  # step base'
    """
    return f"{command}  # step {step}" if command else f"step {step} of the recipe {recipe.name}"


def _carry_out(step: Ready, setting: Setting, folder: Path) -> StepResult:
    """One step.

    Raises:
        TersaError: of the step's own kind, with its name in front.
    """
    began, name = time.perf_counter(), step.made.name
    own = replace(setting, say=_named(setting.say, name))
    try:
        outcome = step.kind.work(step.request, step.made.folder, own)
    except TersaError as error:
        raise type(error)(f"step '{name}' ({step.kind.name}): {error}") from error
    return _step(step, outcome, folder, time.perf_counter() - began)


def _named(say: Callable[[str, float, str], None], name: str) -> Callable[[str, float, str], None]:
    """Progress under the name of the step."""

    def named(task: str, done: float, remark: str) -> None:
        say(f"{name}: {task}" if task != name else name, done, remark)

    return named


def _step(step: Ready, outcome: Outcome, folder: Path, seconds: float) -> StepResult:
    return StepResult(
        name=step.made.name,
        job=step.kind.name,
        uses=list(step.uses),
        verdict=outcome.verdict,
        model=outcome.model,
        before=outcome.before,
        after=outcome.after,
        goals=outcome.goals,
        artefacts=list(map(partial(_within, folder), outcome.artefacts)),
        report=_within(folder, outcome.report),
        seconds=seconds,
    )


def _within(folder: Path, path: str) -> str:
    """A path as seen from the recipe's folder, so that it stays right when that is moved."""
    if path and Path(path).is_relative_to(folder):
        return Path(path).relative_to(folder).as_posix()
    return path


def _result(recipe: Recipe, ready: list[Ready], steps: list[StepResult], setting: Setting) -> RecipeResult:
    before, after = ends(steps)
    return RecipeResult(
        name=recipe.name,
        description=recipe.description,
        command=setting.command,
        data=next((step.made.data for step in ready if step.made.data), ""),
        model=next((step.model for step in reversed(steps) if step.model), ""),
        verdict=headline(steps, before, after),
        baseline=before,
        result=after,
        goals=[goal for step in steps for goal in step.goals],
        steps=steps,
        environment=environment(setting.threads or torch.get_num_threads()),
        artefacts=[path for step in steps for path in step.artefacts],
        report=REPORT,
        seconds=sum(step.seconds for step in steps),
    )
