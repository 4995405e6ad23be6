"""What a recipe knows of a job: its settings, what it uses of earlier steps, how it is tried and carried out.

A new job is a `Kind` and one line in `recipe_jobs.JOBS`.

Example:
    >>> found: list[str] = []
    >>> trying(found, lambda: Cost.model_validate({"macs": "many"})) is None, found
    (True, ["macs is 'many'; must be a valid integer, unable to parse string as an integer"])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from tersa.data.task import Task
from tersa.errors import TersaError, faults, faults_of
from tersa.recipes.setting import Setting
from tersa.records.base import Record
from tersa.records.results import Goal

Makes = Literal["network", "file", "table"]
WORDS: dict[Makes, str] = {
    "network": "a network",
    "file": "a file to run",
    "table": "tables and figures",
}
T = TypeVar("T")


class Cost(Record):
    """What a network costs and gives; None where a job did not find out.

    Attributes:
        test_accuracy: percent of the whole test split.
        parameters: trainable values.
        macs: multiply-accumulates for one image.
        size_bytes: of the file.
        latency_ms: median of one call, on the job's target.
    """

    test_accuracy: float | None = None
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None


class Outcome(Record):
    """What a step came to.

    Attributes:
        verdict: in one line.
        model: spec of the network, empty where there is none.
        before: what the step began with, where it changes a network.
        after: what it ended with.
        goals: that were asked of it.
        artefacts: paths.
        report: path of its own page, empty where it has none.
    """

    verdict: str
    model: str = ""
    before: Cost | None = None
    after: Cost | None = None
    goals: list[Goal] = Field(default=[])
    artefacts: list[str] = Field(default=[])
    report: str = ""


@dataclass(frozen=True)
class Made:
    """What an earlier step leaves, known before it has run.

    Attributes:
        name: of the step.
        job: of the step.
        folder: that it leaves.
        address: what other steps are given: the folder, or a file in it.
        makes: what is in it.
        model: spec of its network; empty where there is none, or it cannot be told yet.
        data: that it was made with.
    """

    name: str
    job: str
    folder: Path
    address: Path
    makes: Makes
    model: str = ""
    data: str = ""


@dataclass(frozen=True)
class Trial:
    """What a request is tried with, before any work.

    Attributes:
        task: the data, None where they are not on this machine yet.
        source: the earlier step that it goes on from, None for none.
        setting: how work is carried out.
        out: the recipe's folder.
    """

    task: Task | None
    source: Made | None
    setting: Setting
    out: Path


@dataclass(frozen=True)
class Kind:
    """A job that a step can name.

    Attributes:
        name: of the job.
        about: in a few words.
        makes: what its folder holds in the end.
        settings: that it knows.
        uses: settings that may name an earlier step, and what that one must have made.
        request: checks settings by themselves. Raises UsageError, all faults together.
        trial: checks a request against its data and networks, without work. Raises TersaError.
        work: does it in a folder, going on with what is there. Raises TersaError.
        estimate: about how many seconds that takes, measured on a few batches.
        file: name of the file in its folder that other steps take, where they do not take the folder.
        other_names: settings that the command line calls otherwise.
        shared: which of `settings` a step with these settings takes from `[common]`; None for all.
    """

    name: str
    about: str
    makes: Makes
    settings: frozenset[str]
    uses: Mapping[str, tuple[Makes, ...]]
    request: Callable[[dict[str, Any]], Any]
    trial: Callable[[Any, Trial], str]
    work: Callable[[Any, Path, Setting], Outcome]
    estimate: Callable[[Any, Trial], float | None] = lambda request, trial: None
    file: Callable[[Any], str] = lambda request: ""
    other_names: Mapping[str, str] = field(default_factory=dict[str, str])
    shared: Callable[[Mapping[str, Any]], frozenset[str]] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Settings that it knows, under all their names."""
        return self.settings | self.other_names.keys()

    def takes(self, own: Mapping[str, Any], common: Mapping[str, Any]) -> frozenset[str]:
        """Names of common settings that hold for a step, where they are given.

        Args:
            own: settings of the step.
            common: settings of all steps.
        """
        return self.names if self.shared is None else self.shared({**common, **own})


def trying(found: list[str], build: Callable[[], T]) -> T | None:
    """What `build` gives; or None, and its faults added to `found`."""
    try:
        return build()
    except ValidationError as error:
        for each in error.errors():
            where = ".".join(str(part) for part in each["loc"])
            if each["type"] == "missing":
                found.append(f"{where} is not given")
                continue
            message = each["msg"].replace("Input should be", "must be")
            found.append(f"{where} is {each['input']!r}; {message}")
    except TersaError as error:
        found += faults_of(error)
    return None


def built(build: Callable[[], T], what: str) -> T:
    """What `build` gives, its faults as one `UsageError`."""
    found: list[str] = []
    value = trying(found, build)
    if value is None or found:
        raise faults(what, found)
    return value
