"""`tersa reproduce all`: every document's experiments one after another, then the book.

    OUT/NAME    one folder an experiment, as its verb leaves it
    OUT/book    `recipes.book`

Each experiment is the verb of its name in the asked mode with that verb's own defaults. One that fails, or
some of whose runs do, is told and the others go on; with `resume` it is run again, and those that have ended
well are read. A folder is of one mode.

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

from tersa.errors import TersaError, UsageError, faults, unknown
from tersa.recipes.adaptation import AdaptationRequest, plan_adaptation, run_adaptation
from tersa.recipes.adaptation_result import AdaptationResult
from tersa.recipes.binary_vgg import BinaryVgg, BinaryVggResult, reproduce_binary_vgg
from tersa.recipes.book import BOOK, book, write_book
from tersa.recipes.book_found import found
from tersa.recipes.folder import RESULT
from tersa.recipes.hardware import HardwareRequest, plan_hardware, run_hardware
from tersa.recipes.hardware_result import HardwareResult
from tersa.recipes.pruning_results import PruningResult
from tersa.recipes.pruning_study import Pruning, reproduce_pruning
from tersa.recipes.quantized_training import ReproduceResult, Reproduction, reproduce
from tersa.recipes.reproductions import EXPERIMENTS
from tersa.recipes.setting import Setting, crew_of
from tersa.records.base import SCHEMA, Record, read_record
from tersa.report.numbers import plural
from tersa.study.cluster import LOCAL, check_place

Mode = Literal["quick", "full"]
Result = ReproduceResult | PruningResult | HardwareResult | AdaptationResult | BinaryVggResult
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


@dataclass(frozen=True)
class Answer:
    """What an experiment said.

    Attributes:
        verdict: in a line.
        failed: of its runs, with an error; they are tried again with `resume`.
    """

    verdict: str
    failed: int = 0

    def __str__(self) -> str:
        return f"{plural(self.failed, 'run')} failed; {self.verdict}" if self.failed else self.verdict


@dataclass(frozen=True)
class Ended:
    """What an earlier call left of an experiment.

    Attributes:
        mode: how much of it was run.
        answer: what it said.
    """

    mode: str
    answer: Answer


class Part(Record):
    """What came of one experiment."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """As in `tersa reproduce list`."""
    folder: str
    """Where it is."""
    status: Literal["done", "ended before", "failed"]
    """`ended before` where its result was there; `failed` also where some of its runs did."""
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


def _training(asked: Asked) -> Answer:
    wanted = Reproduction(quick=asked.mode == "quick")
    result, _ = reproduce(wanted, asked.folder, asked.setting, pictures=False, **asked.how)
    return Answer(result.verdict, result.failed)


def _pruning(asked: Asked) -> Answer:
    wanted = Pruning(mode=asked.mode)
    result = reproduce_pruning(wanted, asked.folder, asked.setting, **asked.how)
    return Answer(result.verdict, result.failed)


def _hardware(asked: Asked) -> Answer:
    request = HardwareRequest(mode=asked.mode, data_dir=_directory(asked))
    return Answer(run_hardware(plan_hardware(request), asked.folder, **_how(asked)).verdict)


def _adaptation(asked: Asked) -> Answer:
    request = AdaptationRequest(mode=asked.mode, data_dir=_directory(asked))
    return Answer(run_adaptation(plan_adaptation(request), asked.folder, **_how(asked)).verdict)


def _directory(asked: Asked) -> str | None:
    return None if asked.setting.data_dir is None else str(asked.setting.data_dir)


def _how(asked: Asked) -> dict[str, Any]:
    """What document 003's two parts are told beside their plans."""
    return {"command": asked.setting.command, "resume": asked.resume, "say": asked.setting.say}


def _binary(asked: Asked) -> Answer:
    wanted = BinaryVgg(mode=asked.mode)
    crew = crew_of(asked.workers or 1, None, asked.on)
    result = reproduce_binary_vgg(wanted, asked.folder, asked.setting, resume=asked.resume, crew=crew)
    return Answer(result.verdict)


RUNNERS: dict[str, Callable[[Asked], Answer]] = {
    "quantized-training": _training,
    "pruning": _pruning,
    "hardware": _hardware,
    "adaptation": _adaptation,
    "binary-vgg": _binary,
}
"""By the names of `reproductions.EXPERIMENTS`."""
RESULTS: dict[str, type[Result]] = {
    "quantized-training": ReproduceResult,
    "pruning": PruningResult,
    "hardware": HardwareResult,
    "adaptation": AdaptationResult,
    "binary-vgg": BinaryVggResult,
}
"""What each leaves as `result.json`."""


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
        UsageError: unknown experiments, no such place, a folder with something in it and no `resume`, or
            experiments in it that ended in the other mode.
        DataError: a damaged result in it.
        KeyboardInterrupt: SIGINT; each experiment goes on where it was, with `resume`.
    """
    began, setting = time.perf_counter(), setting or Setting()
    names = chosen(only)
    check_place(on)
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise UsageError(f"{folder} exists and is not empty; give another --out, or --resume to go on in it")
    ended = _ended_before(mode, folder, names)
    parts = [
        _run(name, Asked(mode, folder / name, setting, workers, resume, on), ended.get(name))
        for name in names
    ]
    there = [folder / name for name in RUNNERS if (folder / name / RESULT).is_file()]
    summaries = found(there)
    made = book(summaries)
    paths = write_book(made, summaries, folder / FOLDER, overwrite=True) if there else []
    return AllResult(
        mode=mode,
        verdict=made.verdict,
        parts=parts,
        share=made.share,
        artefacts=[str(path) for path in paths],
        report=str(folder / FOLDER / BOOK) if there else "",
        seconds=time.perf_counter() - began,
    )


def _ended_before(mode: Mode, folder: Path, names: Sequence[str]) -> dict[str, Ended]:
    """What earlier calls left of the experiments, by name.

    Raises:
        UsageError: some ended in the other mode, all in one message.
        DataError: a damaged result.
    """
    ended = {name: _stored(name, folder / name) for name in names if (folder / name / RESULT).is_file()}
    wrong = [
        f"{folder / name} is of mode {each.mode}, mode {mode} is asked; "
        f"give --{each.mode} to go on in it, or another --out"
        for name, each in ended.items()
        if each.mode != mode
    ]
    if wrong:
        raise faults("reproduce all", wrong)
    return ended


def _stored(name: str, folder: Path) -> Ended:
    """The mode and the answer of an experiment that has ended."""
    match read_record(folder / RESULT, RESULTS[name]):
        case ReproduceResult() as result:
            return Ended("quick" if result.quick else "full", Answer(result.verdict, result.failed))
        case PruningResult() as result:
            return Ended(result.mode, Answer(result.verdict, result.failed))
        case result:
            return Ended(result.mode, Answer(result.verdict))


def _run(name: str, asked: Asked, before: Ended | None) -> Part:
    """One experiment; a failure is its result, and what ended well before is not run again."""
    began = time.perf_counter()

    def part(status: Literal["done", "ended before", "failed"], verdict: str, seconds: float) -> Part:
        return Part(name=name, folder=str(asked.folder), status=status, verdict=verdict, seconds=seconds)

    if before is not None and not before.answer.failed:
        return part("ended before", before.answer.verdict, 0.0)
    experiment = next(each for each in EXPERIMENTS if each.name == name)
    command = experiment.as_typed(full=asked.mode == "full", out=str(asked.folder))
    say = asked.setting.say
    told = replace(
        asked.setting,
        command=command,
        say=lambda task, done, remark: say(f"{name}: {task}", done, remark),
    )
    try:
        answer = RUNNERS[name](replace(asked, setting=told))
    except TersaError as error:
        return part("failed", str(error), time.perf_counter() - began)
    return part("failed" if answer.failed else "done", str(answer), time.perf_counter() - began)
