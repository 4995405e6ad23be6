"""What a recipe came to, step by step: `result.json`.

Example:
    >>> headline([], None, None)
    '0 steps done'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from tersa.recipes.recipe_kind import Cost
from tersa.records.base import SCHEMA, Record
from tersa.records.results import Environment, Goal
from tersa.report.numbers import factor, percent, plural, si, size


class StepResult(Record):
    """One step that is done.

    Attributes:
        name: of the step, and of its folder.
        job: that was done.
        uses: steps that it went on from.
        verdict: in one line.
        model: spec of its network, empty where there is none.
        before: what it began with, where it changes a network.
        after: what it ended with.
        goals: that were asked of it.
        artefacts: paths within the recipe's folder; whole ones outside of it.
        report: of its own page, likewise; empty where it has none.
        seconds: wall time, of the call that ended it.
    """

    name: str
    job: str
    uses: list[str]
    verdict: str
    model: str = ""
    before: Cost | None = None
    after: Cost | None = None
    goals: list[Goal] = Field(default=[])
    artefacts: list[str] = Field(default=[])
    report: str = ""
    seconds: float


class Done(Record):
    """The steps that are done: `steps.json`, written after each."""

    schema_version: int = SCHEMA
    steps: list[StepResult] = Field(default=[])


class RecipeResult(Record):
    """Everything that one recipe found.

    Attributes:
        name: of the recipe.
        description: as it says.
        command: what the user typed.
        data: of the first step that names any.
        model: of the last step that has a network.
        verdict: the answer in a line.
        baseline: what the recipe began with: the first network that was measured.
        result: what it ended with: the last one.
        goals: of all steps.
        steps: in order.
        artefacts: of all steps, within the recipe's folder.
        report: the page.
        seconds: wall time of all steps.
    """

    schema_version: int = SCHEMA
    verb: Literal["run"] = "run"
    name: str
    description: str
    command: str
    data: str
    model: str
    verdict: str
    baseline: Cost | None
    result: Cost | None
    goals: list[Goal]
    steps: list[StepResult]
    environment: Environment
    artefacts: list[str]
    report: str
    seconds: float

    def absolute(self, folder: Path) -> RecipeResult:
        """The same with whole paths, as scripts want them."""

        def whole(path: str) -> str:
            return str(folder / path) if path else ""

        steps = [
            step.model_copy(
                update={"artefacts": [whole(path) for path in step.artefacts], "report": whole(step.report)}
            )
            for step in self.steps
        ]
        artefacts = [whole(path) for path in self.artefacts]
        return self.model_copy(
            update={"steps": steps, "artefacts": artefacts, "report": str(folder / self.report)}
        )


def ends(steps: Sequence[StepResult]) -> tuple[Cost | None, Cost | None]:
    """What a recipe began and ended with: the last network whose accuracy is known, and the first of those
    that it came from."""
    known = {step.name: step for step in steps if step.after and step.after.test_accuracy is not None}
    if not known:
        return None, None
    last = first = list(known.values())[-1]
    while first.uses and first.uses[0] in known:
        first = known[first.uses[0]]
    return first.before or first.after, last.after


def headline(steps: Sequence[StepResult], before: Cost | None, after: Cost | None) -> str:
    """The answer in one line: what became of the network; else what the last step said."""
    if not steps:
        return "0 steps done"
    if before is None or after is None or before is after:
        return steps[-1].verdict
    parts = [
        f"{factor(old / new)} {words}"
        for old, new, words in (
            (before.size_bytes, after.size_bytes, "smaller"),
            (before.macs, after.macs, "fewer MACs"),
        )
        if old and new and old / new > 1.005
    ]
    assert before.test_accuracy is not None
    assert after.test_accuracy is not None
    moved = f"{percent(before.test_accuracy)} became {percent(after.test_accuracy)}"
    return f"{', '.join(parts) or 'No smaller'}: {moved} on test in {plural(len(steps), 'step')}"


def words_of(cost: Cost | None) -> str:
    """A cost in one line, as far as it is known.

    >>> words_of(Cost(test_accuracy=97.5, parameters=1200, size_bytes=4800))
    '97.50 %, 1.20 k parameters, 4.80 kB'
    """
    if cost is None:
        return ""
    parts = [
        "" if cost.test_accuracy is None else percent(cost.test_accuracy),
        "" if cost.parameters is None else f"{si(cost.parameters)} parameters",
        "" if cost.macs is None else f"{si(cost.macs)} MACs",
        "" if cost.size_bytes is None else size(cost.size_bytes),
    ]
    return ", ".join(part for part in parts if part)
