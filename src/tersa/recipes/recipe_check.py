"""A recipe checked as a whole before any work: jobs, settings, what uses what, and each request tried.

    settings    known to the job, of the right kind, fitting together      by the job's own request
    references  to a step above, which makes what is needed                here
    trial       the network is built, a channel of it removed, ...         where the data are on this machine

All faults are reported together. Data that are not on this machine are downloaded once nothing else is wrong,
and the trials that need them follow then.

Example:
    >>> from tersa.recipes.recipe import parse
    >>> found: list[str] = []
    >>> recipe = parse('step = [{job = "prun"}, {job = "bench", models = ["x.onnx"]}]', "demo.toml", found)
    >>> check(recipe, Path("runs/demo"), Setting(), found)
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: recipe demo: 2 faults
      - step 'prun': unknown job 'prun'; did you mean 'prune'? known: adapt, bench, ...
      - step 'bench': models = 'x.onnx': neither a step above nor a file or folder
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import DataError, TersaError, faults, faults_of, unknown
from tersa.models import zoo
from tersa.models.lighten import split
from tersa.models.load import kind_of
from tersa.models.zoo import bits_of
from tersa.recipes.bench_cross import split_adapted
from tersa.recipes.recipe import Recipe, StepSpec
from tersa.recipes.recipe_jobs import JOBS
from tersa.recipes.recipe_kind import WORDS, Kind, Made, Trial, trying
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.subjects import needs_task
from tersa.recipes.train import WEIGHTS


@dataclass(frozen=True)
class Ready:
    """A step that can be carried out.

    Attributes:
        made: what it will leave.
        kind: of its job.
        request: of its job.
        settings: that the request was made of, with what `common` gave.
        uses: names of the steps that it goes on from.
        trial: what it was tried with.
    """

    made: Made
    kind: Kind
    request: Any
    settings: Mapping[str, Any]
    uses: tuple[str, ...]
    trial: Trial


@dataclass
class _Checking:
    """What grows while steps are checked, in order."""

    recipe: Recipe
    out: Path
    setting: Setting
    made: dict[str, Made] = field(default_factory=dict[str, Made])
    tasks: dict[tuple[object, ...], Task | None] = field(
        default_factory=dict[tuple[object, ...], Task | None]
    )
    download: bool = False


def check(recipe: Recipe, out: Path, setting: Setting, found: list[str]) -> list[Ready]:
    """Every step of a recipe, ready to be carried out.

    Args:
        recipe: as read, and changed by the command line.
        out: the recipe's folder; steps work in folders of their own below it.
        setting: how work is carried out.
        found: faults that are known already.

    Raises:
        UsageError: all faults, in one message.
        DataError: data that are nowhere, once nothing else is wrong.
    """
    known = found + _strangers(recipe)
    at = _Checking(recipe, out, setting)
    with threads_of(setting):
        ready, faulty = _all(at, list(known))
        if not faulty and None in at.tasks.values():
            at = _Checking(recipe, out, setting, download=True)
            ready, faulty = _all(at, list(known))
    if faulty:
        raise faults(f"recipe {recipe.name}", list(dict.fromkeys(faulty)))
    return ready


def _strangers(recipe: Recipe) -> list[str]:
    """Settings of `common` that no step knows."""
    known = {
        name
        for step in recipe.steps
        if step.job in JOBS
        for name in JOBS[step.job].takes(step.settings, recipe.common)
    }
    if not known:
        return []
    strange = [str(unknown("setting of [common]", key, known)) for key in recipe.common if key not in known]
    return [f"{text.partition(' known: ')[0].rstrip(';')}; no step knows it" for text in strange]


def _all(at: _Checking, found: list[str]) -> tuple[list[Ready], list[str]]:
    ready: list[Ready] = []
    for step in at.recipe.steps:
        faulty: list[str] = []
        one = _step(at, step, faulty)
        found += [f"step '{step.name}': {fault}" for fault in faulty]
        if one is not None:
            ready.append(one)
    return ready, found


def _step(at: _Checking, step: StepSpec, found: list[str]) -> Ready | None:
    kind = JOBS.get(step.job)
    if kind is None:
        found.append(str(unknown("job", step.job, JOBS)))
        return None
    settings = _settings(at.recipe, step, kind, found)
    uses = _resolve(at, step, kind, settings, found)
    source = next((at.made[name] for name in uses), None)
    folder = at.out / step.name
    made = Made(step.name, kind.name, folder, folder, kind.makes, "", str(settings.get("data", "")))
    at.made[step.name] = made  # steps below may name it, whatever is wrong with it
    if source is not None:
        _same_data(source, settings, kind, found)
    request = trying(found, partial(kind.request, settings))
    if isinstance(settings.get("model"), str):
        trying(found, partial(_check_name, settings["model"]))
    if request is None or found:
        return None
    task = _task(at, settings, request, found)
    trial = Trial(task, source, at.setting, at.out)
    model = trying(found, partial(kind.trial, request, trial))
    if model is None:
        return None
    file, data = kind.file(request), getattr(request, "data", None) or ""
    made = replace(made, model=model, address=folder / file if file else folder, data=data)
    at.made[step.name] = made
    return Ready(made, kind, request, settings, uses, trial)


def _check_name(model: str) -> None:
    """A model's name by itself, so that it is judged even where other settings are wrong.

    Raises:
        UsageError: no such family, or no such file.
    """
    if kind_of(model) == "zoo" and bits_of(model) is None:
        zoo.parse(split(model)[0])


def _settings(recipe: Recipe, step: StepSpec, kind: Kind, found: list[str]) -> dict[str, Any]:
    """Of the step and of `common`, under the job's own names; unknown ones are faults and left out."""
    names, taken = kind.names, kind.takes(step.settings, recipe.common)
    found += [
        str(unknown(f"setting of {kind.name}", key, names)) for key in step.settings if key not in names
    ]
    own = {key: value for key, value in step.settings.items() if key in names}
    shared = {key: value for key, value in recipe.common.items() if key in taken and _fits(key, own)}
    given: dict[str, Any] = {}
    for key, value in {**shared, **own}.items():
        name = kind.other_names.get(key, key)
        if name in given:
            found.append(f"{key} and {name} are one setting; give it once")
        given[name] = value
    return given


def _fits(key: str, own: Mapping[str, Any]) -> bool:
    """Whether a common setting holds for a step: a run brings its network, a file its study."""
    if key in ("model", "checkpoint", "epochs") and "run" in own:
        return False
    return not (key in ("data", "model", "seed") and "file" in own)


def _resolve(
    at: _Checking, step: StepSpec, kind: Kind, settings: dict[str, Any], found: list[str]
) -> tuple[str, ...]:
    """Puts paths in place of the names of steps; the names that were used."""
    used: list[str] = []
    for key in kind.uses:
        value = settings.get(key)
        if isinstance(value, str):
            settings[key] = _address(at, step, kind, key, value, used, found)
        elif isinstance(value, list):
            settings[key] = [_address(at, step, kind, key, str(each), used, found) for each in value]
    teacher = settings.get("teacher")
    if "teacher" in kind.uses and used and isinstance(teacher, str):
        _teach(at, used[-1], settings, found)
    return tuple(dict.fromkeys(used))


def _address(
    at: _Checking, step: StepSpec, kind: Kind, key: str, text: str, used: list[str], found: list[str]
) -> str:
    """The path that a name of a step stands for; other texts as they are."""
    name, target = split_adapted(text) if key == "models" else (text, "")
    head, slash, rest = name.partition("/")
    source = at.made.get(head)
    if source is not None:
        used.append(head)
        if source.makes not in kind.uses[key]:
            found.append(
                f"{key} = '{text}': step '{head}' ({source.job}) leaves {WORDS[source.makes]}, "
                f"{kind.name} needs {' or '.join(WORDS[makes] for makes in kind.uses[key])}"
            )
        path = source.folder / rest if slash else source.address
        return f"{path}={target}" if target else str(path)
    names = [each.name for each in at.recipe.steps]
    if head == step.name:
        found.append(f"{key} = '{text}': this is the step itself; name one above it")
    elif head in names:
        found.append(f"{key} = '{text}': that step comes later; move it above this one")
    elif not Path(name).exists() and not _is_model(key, name):
        above = f"; steps above: {', '.join(at.made)}" if at.made else ""
        found.append(f"{key} = '{text}': neither a step above nor a file or folder{above}")
    return text


def _is_model(key: str, name: str) -> bool:
    """Models by name may stand where networks to measure or teachers are named."""
    return key == "teacher" or (key == "models" and needs_task(name))


def _teach(at: _Checking, name: str, settings: dict[str, Any], found: list[str]) -> None:
    """A teacher that is a step: its network, and the weights that it will leave."""
    source = at.made[name]
    if source.job not in ("train", "binary"):
        found.append(
            f"teacher = '{name}': its network has other sizes than its model's name says; "
            "name a step of train"
        )
    if "teacher_checkpoint" in settings:
        found.append(f"teacher = '{name}' brings its weights; leave out teacher_checkpoint")
    settings["teacher"] = source.model
    settings["teacher_checkpoint"] = str(source.folder / WEIGHTS)
    settings.setdefault("distillation", "temperature")


def _same_data(source: Made, settings: dict[str, Any], kind: Kind, found: list[str]) -> None:
    """A step takes the data of the one that it goes on from; others do not fit."""
    if "data" not in kind.settings or not source.data:
        return
    data = str(settings.setdefault("data", source.data))
    if data != source.data:
        found.append(
            f"data = '{data}', but step '{source.name}' was made with '{source.data}'; give the same"
        )


def _task(at: _Checking, settings: Mapping[str, Any], request: Any, found: list[str]) -> Task | None:
    """The data of a step; None where it has none, or they are not on this machine yet."""
    name = getattr(request, "data", None)
    if not isinstance(name, str):
        return None
    seed = settings.get("seed", 0)
    validation = settings.get("validation")
    key = (name, seed, validation)
    if key not in at.tasks:
        try:
            at.tasks[key] = load_task(
                name,
                data_dir=at.setting.data_dir,
                seed=seed,
                validation=validation,
                download=at.download,
            )
        except DataError:
            if at.download:
                raise
            at.tasks[key] = None
        except TersaError as error:
            found += faults_of(error)
            return None
    return at.tasks[key]
