"""`tersa reproduce all`: every document's experiments one after another, then the book.

    OUT/NAME    one folder an experiment, as its verb leaves it
    OUT/book    `recipes.book`

Each experiment is the verb of its name in the asked mode with that verb's own defaults. One that fails is
told and the others go on; with `resume` those that have ended are read, not run again.

Example:
    >>> list(RUNNERS)
    ['quantized-training', 'pruning', 'hardware', 'adaptation', 'binary-vgg']
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from tersa.errors import TersaError, UsageError, unknown
from tersa.recipes.adaptation import AdaptationRequest, plan_adaptation, run_adaptation
from tersa.recipes.binary_vgg import BinaryVgg, reproduce_binary_vgg
from tersa.recipes.book import BOOK, book, write_book
from tersa.recipes.book_found import found
from tersa.recipes.folder import RESULT
from tersa.recipes.hardware import HardwareRequest, plan_hardware, run_hardware
from tersa.recipes.pruning_study import Pruning, reproduce_pruning
from tersa.recipes.quantized_training import Reproduction, reproduce
from tersa.recipes.reproductions import EXPERIMENTS
from tersa.recipes.setting import Setting
from tersa.records import SCHEMA, Record
from tersa.study.cluster import LOCAL, Crew, check_place
from tersa.targets.environment import cores

Mode = Literal["quick", "full"]
FOLDER = "book"


@dataclass(frozen=True)
class Asked:
    """How one experiment is run.

    Attributes:
        mode: how much of it.
        folder: of the experiment.
        setting: data, device and progress.
        workers: processes, where an experiment has them; None for its own default.
        resume: go on with what is there.
        on: where workers are, as `tersa.study.cluster` reads it.
    """

    mode: Mode
    folder: Path
    setting: Setting
    workers: int | None
    resume: bool
    on: str = LOCAL

    @property
    def how(self) -> dict[str, Any]:
        """What the experiments that train many networks share."""
        return {"workers": self.workers, "resume": self.resume, "on": self.on}


class Part(Record):
    """What came of one experiment."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """As in `tersa reproduce list`."""
    folder: str
    """Where it is."""
    status: Literal["done", "ended before", "failed"]
    """`ended before` where its result was there."""
    verdict: str
    """Its answer, or the error."""
    seconds: float
    """Of this call."""


class AllResult(Record):
    """What `tersa reproduce all` found."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_version: int = SCHEMA
    verb: Literal["reproduce all"] = "reproduce all"
    mode: Mode
    """How much of each."""
    verdict: str
    """Of the book."""
    parts: list[Part]
    """One per experiment."""
    share: float
    """Percent of the values that any machine can have, with something of ours."""
    artefacts: list[str]
    """Files of the book."""
    report: str
    """Its page; empty where nothing ended."""
    seconds: float
    """Of this call."""


def _training(asked: Asked) -> str:
    wanted = Reproduction(quick=asked.mode == "quick")
    result, _ = reproduce(wanted, asked.folder, asked.setting, pictures=False, **asked.how)
    return result.verdict


def _pruning(asked: Asked) -> str:
    wanted = Pruning(mode=asked.mode)
    return reproduce_pruning(wanted, asked.folder, asked.setting, **asked.how).verdict


def _hardware(asked: Asked) -> str:
    request = HardwareRequest(mode=asked.mode, data_dir=_directory(asked))
    return run_hardware(plan_hardware(request), asked.folder, **_how(asked)).verdict


def _adaptation(asked: Asked) -> str:
    request = AdaptationRequest(mode=asked.mode, data_dir=_directory(asked))
    return run_adaptation(plan_adaptation(request), asked.folder, **_how(asked)).verdict


def _directory(asked: Asked) -> str | None:
    return None if asked.setting.data_dir is None else str(asked.setting.data_dir)


def _how(asked: Asked) -> dict[str, Any]:
    """What document 003's two parts are told beside their plans."""
    return {"command": asked.setting.command, "resume": asked.resume, "say": asked.setting.say}


def _binary(asked: Asked) -> str:
    wanted = BinaryVgg(mode=asked.mode)
    workers = asked.workers or 1
    crew = Crew(workers, max(1, cores() // workers), asked.on)
    return reproduce_binary_vgg(wanted, asked.folder, asked.setting, resume=asked.resume, crew=crew).verdict


RUNNERS: dict[str, Callable[[Asked], str]] = {
    "quantized-training": _training,
    "pruning": _pruning,
    "hardware": _hardware,
    "adaptation": _adaptation,
    "binary-vgg": _binary,
}
"""By the names of `reproductions.EXPERIMENTS`."""


def chosen(only: Sequence[str]) -> list[str]:
    """The experiments that are asked for, in the documents' order; none for all.

    Raises:
        UsageError: unknown names.
    """
    for name in only:
        if name not in RUNNERS:
            raise unknown("experiment", name, RUNNERS)
    return [name for name in RUNNERS if name in only or not only]


def reproduce_all(
    mode: Mode,
    folder: Path,
    setting: Setting | None = None,
    *,
    only: Sequence[str] = (),
    workers: int | None = None,
    resume: bool = False,
    on: str = LOCAL,
) -> AllResult:
    """Run every experiment, then write the book over all that have ended.

    Args:
        mode: `quick` or `full`, of each.
        folder: of all of them.
        setting: data, device and progress.
        only: experiments by name; none for all.
        workers: processes, where an experiment has them.
        resume: go on with the work in `folder`.
        on: where the workers of experiments that train many networks are, as `tersa.study.cluster` reads it.

    Raises:
        UsageError: unknown experiments, no such place, or a folder with something in it and no `resume`.
        KeyboardInterrupt: SIGINT; each experiment goes on where it was, with `resume`.
    """
    began, setting = time.perf_counter(), setting or Setting()
    names = chosen(only)
    check_place(on)
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise UsageError(f"{folder} exists and is not empty; give another --out, or --resume to go on in it")
    parts = [_run(name, Asked(mode, folder / name, setting, workers, resume, on)) for name in names]
    ended = [folder / name for name in RUNNERS if (folder / name / RESULT).is_file()]
    summaries = found(ended)
    made = book(summaries)
    paths = write_book(made, summaries, folder / FOLDER, overwrite=True) if ended else []
    return AllResult(
        mode=mode,
        verdict=made.verdict,
        parts=parts,
        share=made.share,
        artefacts=[str(path) for path in paths],
        report=str(folder / FOLDER / BOOK) if ended else "",
        seconds=time.perf_counter() - began,
    )


def _run(name: str, asked: Asked) -> Part:
    """One experiment; a failure is its result."""
    began = time.perf_counter()
    if asked.resume and (asked.folder / RESULT).is_file():
        return Part(name=name, folder=str(asked.folder), status="ended before", verdict="", seconds=0.0)
    experiment = next(each for each in EXPERIMENTS if each.name == name)
    command = experiment.as_typed(full=asked.mode == "full", out=str(asked.folder))
    say = asked.setting.say
    told = replace(
        asked.setting,
        command=command,
        say=lambda task, done, remark: say(f"{name}: {task}", done, remark),
    )
    try:
        verdict = RUNNERS[name](replace(asked, setting=told))
    except TersaError as error:
        return Part(
            name=name,
            folder=str(asked.folder),
            status="failed",
            verdict=str(error),
            seconds=time.perf_counter() - began,
        )
    seconds = time.perf_counter() - began
    return Part(name=name, folder=str(asked.folder), status="done", verdict=verdict, seconds=seconds)
