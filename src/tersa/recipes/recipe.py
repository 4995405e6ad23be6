"""A recipe: a whole job as a TOML file, steps in order, each a job that exists with its settings.

    name = "small"
    description = "Half the work, few bits, measured."

    [common]                  # holds for every step that knows the setting
    data = "digits"
    seed = 0

    [[step]]
    job = "train"             # what is done; see `tersa run --list`
    name = "base"             # the step's folder, and how others call it; the job's name where left out
    model = "lenet"

    [[step]]
    job = "prune"
    run = "base"              # the run of an earlier step, or a folder on the disk
    macs = "0.5x"

Settings have the names of the options of `tersa JOB`, with `_` or `-`. A step's own setting wins over
`common`, `key=value` on the command line over both (`step.key=value` for one step). What settings there are,
and whether they fit together, is checked in `recipe_check`; this file reads and changes, and knows no job.

Example:
    >>> found: list[str] = []
    >>> recipe = parse('step = [{ job = "train", epochs = 3 }]', "demo.toml", found)
    >>> override(recipe, ["train.epochs=1", "data=digits"], found).steps[0].settings, found
    ({'epochs': 1}, [])
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tersa.errors import DataError, UsageError, unknown
from tersa.recipes.folder import SPEC, read_spec
from tersa.records.base import Record

SUFFIX = ".toml"
HEAD = ("name", "description", "audience", "minutes", "common", "step")
"""Keys of a recipe file."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class StepSpec(Record):
    """One `[[step]]`."""

    name: str
    """Its folder, and how other steps call it."""
    job: str
    """What is done."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of the job, as written."""


class Recipe(Record):
    """A recipe file."""

    name: str
    """For people."""
    description: str = ""
    """What it does, in a sentence."""
    audience: str = ""
    """For whom it is."""
    minutes: float | None = None
    """About how long it takes on two cores, where its author measured it."""
    common: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of every step that knows them."""
    steps: list[StepSpec]
    """In order."""


class RecipeSpec(Record):
    """A recipe as it is carried out: the `spec.toml` of its folder."""

    name: str
    """For people."""
    common: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of every step that knows them; a file leaves empty tables out."""
    order: list[str]
    """Names of the steps."""
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """Job and settings of each."""

    @staticmethod
    def of(recipe: Recipe) -> RecipeSpec:
        """Without what is for people alone."""
        return RecipeSpec(
            name=recipe.name,
            common=recipe.common,
            order=[step.name for step in recipe.steps],
            steps={step.name: {"job": step.job, **step.settings} for step in recipe.steps},
        )


def read_recipe(folder: Path, description: str) -> Recipe:
    """The recipe that a folder was made by.

    Raises:
        UsageError: no readable spec there.
        DataError: it is not that of a recipe.
    """
    given = read_spec(folder)
    try:
        spec = RecipeSpec.model_validate({key: given[key] for key in RecipeSpec.model_fields if key in given})
        steps = [_read_step(name, spec.steps.get(name, {})) for name in spec.order]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{folder / SPEC} is not that of a recipe: {where}: {first['msg']}; run it again with --overwrite"
        ) from None
    return Recipe(name=spec.name, description=description, common=spec.common, steps=steps)


def _read_step(name: str, stored: dict[str, Any]) -> StepSpec:
    settings = dict(stored)
    return StepSpec.model_validate({"name": name, "job": settings.pop("job", None), "settings": settings})


def shipped() -> dict[str, str]:
    """The recipes of the package: name -> TOML text."""
    folder = files("tersa.recipes").joinpath("shipped")
    found = [file for file in folder.iterdir() if file.name.endswith(SUFFIX)]
    return {
        file.name.removesuffix(SUFFIX): file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda file: file.name)
    }


def find_recipe(text: str) -> tuple[str, str]:
    """(where, TOML text) of a file or of a shipped recipe; a file wins over a name.

    Raises:
        UsageError: neither; the closest name is shown.
    """
    path, known = Path(text), shipped()
    if path.is_file():
        try:
            return text, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None
    if text in known:
        return text, known[text]
    if path.suffix == SUFFIX or len(path.parts) > 1:
        raise UsageError(f"no file {path}; give a recipe file, or one of {', '.join(known)}")
    raise unknown("recipe", text, known)


def parse(text: str, where: str, found: list[str]) -> Recipe:
    """A recipe from TOML text; what is wrong with its shape is added to `found`, and left out.

    Args:
        text: the file's content.
        where: its name, for errors and where the file names itself nothing.
        found: faults.

    Raises:
        UsageError: not TOML.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from None
    found += [str(unknown("key", key, HEAD)) for key in raw if key not in HEAD]
    head: dict[str, Any] = {}
    for key in ("name", "description", "audience"):
        value = raw.get(key, "")
        if not isinstance(value, str):
            found.append(f"{key} is {value!r}; write text")
        elif value:
            head[key] = value
    minutes = raw.get("minutes")
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float)):
        found.append(f"minutes is {minutes!r}; write a number")
        minutes = None
    common = raw.get("common", {})
    if not isinstance(common, dict):
        found.append(f"common is {common!r}; write a table [common] with settings of all steps")
        common = {}
    steps = _steps(raw.get("step"), found)
    return Recipe(**{"name": Path(where).stem, **head}, minutes=minutes, common=_named(common), steps=steps)


def _steps(raw: Any, found: list[str]) -> list[StepSpec]:
    if not isinstance(raw, list) or not raw:
        found.append('it has no steps; write [[step]] with job = "train" (tersa run --list names the jobs)')
        return []
    steps: list[StepSpec] = []
    for place, table in enumerate(raw, start=1):
        if not isinstance(table, dict):
            found.append(f"step {place} is {table!r}; write [[step]] with a job and its settings")
            continue
        settings: dict[str, Any] = dict(table)
        job, name = settings.pop("job", None), settings.pop("name", None)
        if not isinstance(job, str):
            found.append(f'step {place} names no job; write job = "train" or another of tersa run --list')
            continue
        name = job if name is None else name
        if not isinstance(name, str) or not NAME.fullmatch(name):
            found.append(f"step {place}: name {name!r} is not made of letters, digits, - and _")
            continue
        if any(step.name == name for step in steps):
            found.append(f"step {place}: another step is called '{name}' already; give each a name")
            continue
        steps.append(StepSpec(name=name, job=job, settings=_named(settings)))
    return steps


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    """With `_` in the names, as in Python; options on the command line have `-`."""
    return {key.replace("-", "_"): value for key, value in settings.items()}


def override(recipe: Recipe, pairs: Sequence[str], found: list[str]) -> Recipe:
    """A recipe with settings replaced: `key=value` for every step that knows it, `step.key=value` for one.

    Args:
        recipe: as read.
        pairs: values are TOML, or else text (`epochs=2`, `latency=0.5x`).
        found: faults.
    """
    common, steps = dict(recipe.common), {step.name: dict(step.settings) for step in recipe.steps}
    seen: set[str] = set()
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            found.append(f"'{pair}' is not KEY=VALUE or STEP.KEY=VALUE")
            continue
        if name in seen:
            found.append(f"{name} is given twice")
            continue
        seen.add(name)
        step, dot, key = name.rpartition(".")
        key, value = key.replace("-", "_"), _value(text)
        if not dot:
            common[key] = value
            for settings in steps.values():
                settings.pop(key, None)
        elif step in steps:
            steps[step][key] = value
        else:
            found.append(f"{pair}: {unknown('step', step, steps)}")
    changed = [step.model_copy(update={"settings": steps[step.name]}) for step in recipe.steps]
    return recipe.model_copy(update={"common": common, "steps": changed})


def _value(text: str) -> Any:
    """A TOML value, or the text itself.

    >>> _value("2"), _value("0.5x"), _value("[1, 2]"), _value("true")
    (2, '0.5x', [1, 2], True)
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
