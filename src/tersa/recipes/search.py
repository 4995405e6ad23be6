"""Back up: which of the pruned networks is the one to ship.

A few steps of the descent are fine-tuned at length, distilling from the baseline, exported and judged by what
their files answer on the validation split. Without bounds on costs the search gallops and bisects to the last
step that keeps the accuracy; with bounds it takes the first step within them. When the descent turns out to
have paused too early, it is asked for more steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import nn

from tersa.errors import Diverged
from tersa.models.summary import parameters
from tersa.recipes.deploy import Option, export_options
from tersa.recipes.descent import descend_, pause, weigh
from tersa.recipes.goals import keeps_accuracy, within_bounds
from tersa.recipes.job import Job
from tersa.recipes.retraining import forget, retrain_
from tersa.recipes.zeroed import masked_training
from tersa.records.results import Step
from tersa.report.numbers import plural
from tersa.train.loop import Progress

STRIDE = 4
"""Steps that are added at a time when the descent paused too early."""

BOUND_TRIES = 6
"""Steps within the bounds by a quick measurement that may turn out not to be, before the search gives up."""


@dataclass(frozen=True)
class Tuned:
    """A step after its long fine-tune, with the files that could be shipped."""

    row: Step
    options: list[Option]


@dataclass
class Search:
    """The search of one run.

    Attributes:
        job: the run.
        tuned: what was fine-tuned so far, by step.
    """

    job: Job
    tuned: dict[int, Tuned | None] = field(default_factory=dict)

    def find(self, rows: list[Step]) -> int:
        """Index of the step to ship; 0 is the baseline itself.

        With bounds: the first step within them whose tuned files are too and keep the accuracy. Else, or
        when accuracy and bounds exclude each other, the smallest step that keeps the accuracy. With no floor
        on the accuracy and with bounds out of reach: the smallest step there is.
        """
        if self.job.goals.bounded:
            found = self._first_within(rows)
            if found is not None:
                return found
        if self.job.allowed_loss is None:
            smallest = reversed(self.job.way.rows("steps")[1:])
            return next((row.index for row in smallest if self.of(row.index) is not None), 0)
        return self._smallest(self.job.way.rows("steps"))

    def _first_within(self, rows: list[Step]) -> int | None:
        """The first step that meets everything, or None when none does."""
        tried = 0
        while tried < BOUND_TRIES:
            for row in [row for row in rows if row.within][tried:]:
                tried += 1
                if row.index == 0 or self.passes(row.index, bounds=True):
                    return row.index
                if not self.passes(row.index, bounds=False):
                    return None  # a smaller network would be less accurate still
            longer = descend_(self.job, until=len(rows) + 1)
            if len(longer) == len(rows):
                return None
            rows = longer
        return None

    def _smallest(self, rows: list[Step]) -> int:
        """Gallop from a guess, then bisect, to the last step that keeps the accuracy after its fine-tune."""
        allowed = self.job.allowed_loss
        assert allowed is not None
        rows = self._until_first_pause(rows)
        if len(rows) == 1:
            return 0
        guess = max(row.index for row in rows if row.loss_points <= max(allowed, 0.0))
        probe, stride = max(1, guess), 2
        low, high = 0, None  # low keeps the accuracy; high, once known, does not
        while True:
            if self.passes(probe, bounds=False):
                low = probe
            else:
                high = probe
            if high is None:
                if low == rows[-1].index:
                    longer = self._deeper(rows)
                    if len(longer) == len(rows):
                        return low
                    rows = longer
                probe, stride = min(low + stride, rows[-1].index), 2 * stride
            elif high - low <= 1:
                return low
            elif low == 0:
                probe, stride = max(high - stride, 1), 2 * stride
            else:
                probe = (low + high) // 2

    def _until_first_pause(self, rows: list[Step]) -> list[Step]:
        """The steps that the descent made by itself: a resumed search must not know of later ones."""
        for count in range(1, len(rows)):
            if pause(self.job, rows[:count]) is not None:
                return rows[:count]
        return rows

    def _deeper(self, rows: list[Step]) -> list[Step]:
        """Some steps more, where the descent stopped for the accuracy and not because nothing is left."""
        wanted = len(rows) + STRIDE
        return descend_(self.job, until=wanted)[:wanted]

    def passes(self, index: int, *, bounds: bool) -> bool:
        """One file of the tuned step keeps the accuracy and, where asked, is within the bounds."""
        start, goals = self.job.dock.start, self.job.goals
        assert start is not None
        tuned = self.of(index)
        return tuned is not None and any(
            keeps_accuracy(goals, start, option.standing)
            and (not bounds or within_bounds(goals, start, option.standing))
            for option in tuned.options
        )

    def of(self, index: int) -> Tuned | None:
        """A step after its long fine-tune, done and stored once; None where the training diverged."""
        if index not in self.tuned:
            self.tuned[index] = self._tuned(index)
        return self.tuned[index]

    def _tuned(self, index: int) -> Tuned | None:
        job = self.job
        stored = {row.index: row for row in job.way.rows("tuned")}
        try:
            row, model = (
                (stored[index], job.network("tuned", index)) if index in stored else self._tune(index)
            )
        except Diverged:
            return None
        timed = bool(job.goals.latency)
        options = export_options(job.dock, model, job.way.folder / "tuned", f"{index:03d}", latency=timed)
        best = max(option.standing.accuracy for option in options)
        job.say(_name(row.parameters), 1.0, f"{best:.2f} % on validation")
        return Tuned(row, options)

    def _tune(self, index: int) -> tuple[Step, nn.Module]:
        job = self.job
        began = time.perf_counter()
        model = job.network("steps", index)
        name, state = _name(parameters(model)), job.way.folder / "tuned" / f"{index:03d}.training"

        def show(at: Progress) -> None:
            job.say(name, min(0.99, at.iteration / at.iterations), f"loss {at.loss:.3f}")

        job.say(name, 0.0, "")
        with masked_training(job, model):
            seed = job.seed + 1000 * index + 500
            retrain_(job, model, job.protocol.tune, seed=seed, progress=show, keep=state)
        what = f"fine-tuned {plural(job.protocol.tune, 'iteration')}" if job.protocol.tune else "as it was"
        what += ", distilling from the baseline" if job.protocol.tune and job.protocol.teacher_weight else ""
        row = weigh(job, model, index, "distil", what, began)
        job.way.add("tuned", row, model)
        forget(state)
        return row, model


def _name(count: int) -> str:
    """How a fine-tune is called where progress is shown."""
    return f"tune {count:,} parameters"
