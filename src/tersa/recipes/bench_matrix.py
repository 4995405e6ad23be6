"""Measure a plan target by target, batch by batch, and keep every cell as soon as it is measured.

A cell is one target at one batch size: `cells/TARGET-bN.json`, written whole. A kill loses the cell at work;
with `--resume` finished cells are read back, as long as the artefacts are the same bytes and the machine is
the same. Accuracies are a file of their own for each target.

The *reference* is the first model, in the first precision that suits a target. On the first target it is the
*anchor*: it is timed in the rounds of every other target too, as far as its own memory and time go, so that
targets are compared within rounds. Where it is not measured, nothing stands in for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tersa.data.task import Task
from tersa.errors import DataError, TargetError, TersaError, UsageError
from tersa.export.artefact import PACKED, Artefact
from tersa.export.check import classify, module_logits
from tersa.export.onnx import as_pixels
from tersa.recipes.bench_result import Accuracy, Answers, Kept
from tersa.recipes.subjects import Subject, noise
from tersa.records.base import read_record, write_record
from tersa.targets.base import Effort, Target
from tersa.targets.environment import hardware
from tersa.targets.lanes import Anchor, Candidate, Lane, Limits
from tersa.targets.ssh import is_remote
from tersa.targets.sweep import Cell, Contest, Gap
from tersa.targets.worker import Died

Images = npt.NDArray[np.float32]
Say = Callable[[str, float, str], None]

CELLS = "cells"
ANSWERED = 100
"""Images of one call while accuracy is measured; where memory ends at these, the smallest batch size."""
WARMUP_S = 0.2
"""Longest warm-up of each of several starts."""
LARGEST_BATCH = 65_536
"""Where an open range of batch sizes ends even without a limit."""


@dataclass(frozen=True)
class File:
    """A model in one precision: what is measured."""

    subject: Subject
    precision: str
    artefact: Artefact

    @property
    def key(self) -> str:
        """Names it in a cell's digests."""
        return f"{self.subject.name} {self.precision}"


@dataclass(frozen=True)
class Batches:
    """Batch sizes, ascending.

    Attributes:
        sizes: those asked for.
        open: go on doubling after the last until memory or time ends.
    """

    sizes: tuple[int, ...]
    open: bool = False

    def __iter__(self) -> Generator[int]:
        yield from self.sizes
        size = 2 * self.sizes[-1]
        while self.open and size <= LARGEST_BATCH:
            yield size
            size *= 2

    def describe(self) -> str:
        """`1, 2, 4, ...`."""
        return ", ".join(map(str, self.sizes)) + (", ..." if self.open else "")


def packs(target: Target | str) -> bool:
    """The target is there and runs packed programs."""
    return not isinstance(target, str) and PACKED in target.precisions


def only_packs(target: Target | str) -> bool:
    """Packed programs are what the target is made for: the first of its precisions."""
    return packs(target) and not isinstance(target, str) and target.precisions[0] == PACKED


def suits(packable: Collection[str], model: str, precision: str, target: Target | str) -> bool:
    """A target runs this form of a model, where nobody asked which: what runs packed programs gets the
    packed form, and all but what is made for them the other one.

    Args:
        packable: models that are there in two forms, packed and not.
        model: one of them, or another.
        precision: of the form.
        target: the runtime, or why it is not there: it then counts as one without packed programs.
    """
    if model not in packable:
        return True
    return packs(target) if precision == PACKED else not only_packs(target)


@dataclass(frozen=True)
class Job:
    """What to measure and how.

    Attributes:
        targets: text, and the runtime or why it is not there.
        files: models in precisions, those of the reference first.
        batches: images per call.
        seconds: of timed calls per combination.
        limits: where raising the batch ends.
        watts: for estimated energy, or None.
        cores: that the processes may run on; empty for all.
        task: gives images, and accuracy where `tested` is above 0.
        tested: test images that accuracy is measured on.
        starts: processes of each network, one after the other, that share these seconds.
        packable: models that are here in two forms, packed and not; each target takes what `suits` it.
        model: the reference, which may have no file; empty for that of the first file.
    """

    targets: Sequence[tuple[str, Target | str]]
    files: Sequence[File]
    batches: Batches
    seconds: float = 1.0
    limits: Limits = field(default_factory=Limits)
    watts: float | None = None
    cores: tuple[int, ...] = ()
    task: Task | None = None
    tested: int = 0
    starts: int = 1
    packable: frozenset[str] = frozenset()
    model: str = ""

    def reference_on(self, target: Target | str) -> str | None:
        """The precision of the reference on a target, or None where it has no file for it."""
        model = self.model or self.files[0].subject.name
        fits = (
            each.precision
            for each in self.files
            if each.subject.name == model and suits(self.packable, model, each.precision, target)
        )
        return next(fits, None)


def alive(
    targets: Sequence[tuple[str, Target | str]],
    forms: Sequence[tuple[str, str]],
    packable: Collection[str] = (),
) -> int:
    """Processes that live at the same time at most: the networks of a target, and the anchor beside them.

    Args:
        targets: as in `Job`.
        forms: models in precisions.
        packable: as in `Job`.
    """
    here = [one for text, one in targets if not isinstance(one, str) and not is_remote(text)]
    most = max(
        (
            sum(form in one.precisions and suits(packable, model, form, one) for model, form in forms)
            for one in here
        ),
        default=0,
    )
    return max(1, most + (len(here) > 1))


def nothing(gaps: Sequence[Gap]) -> TersaError:
    """The error of a matrix without a measurement: the user's where nothing is offered, else the work's."""
    reasons = dict.fromkeys(f"{gap.model} on {gap.target}: {gap.reason}" for gap in gaps)
    kind = UsageError if all(gap.kind == "not offered" for gap in gaps) else TargetError
    return kind("; ".join(reasons))


@dataclass(frozen=True)
class Found:
    """All cells, accuracies, how many cells were read back, and what else is to be said."""

    cells: list[Cell]
    accuracies: list[Accuracy]
    again: int
    notes: list[str] = field(default_factory=list[str])


class Finished:
    """The finished cells of a folder, or nothing without one."""

    def __init__(self, folder: Path | None, files: Sequence[File]) -> None:
        self.folder = None if folder is None else folder / CELLS
        self.sha256 = {
            each.key: hashlib.sha256(each.artefact.path.read_bytes()).hexdigest() for each in files
        }
        self.machine = hardware()
        self.read = 0

    def cell(self, target: str, batch: int) -> Cell | None:
        """A finished cell of the same artefacts and machine, or None; older cells name no machine."""
        path = self._path(f"{_slug(target)}-b{batch}.json")
        if path is None or not path.is_file():
            return None
        kept = read_record(path, Kept)
        if kept.sha256 != self.sha256:
            raise _other(path)
        if kept.machine not in ("", self.machine) and not is_remote(target):
            raise DataError(
                f"{path} was measured on {kept.machine}, this one is {self.machine}; go on over there, or "
                "start again with --overwrite"
            )
        self.read += 1
        return kept.cell

    def keep(self, cell: Cell) -> None:
        """Write a finished cell, whole."""
        path = self._path(f"{_slug(cell.target)}-b{cell.batch}.json")
        if path is not None:
            write_record(path, Kept(sha256=self.sha256, machine=self.machine, cell=cell))

    def answers(self, target: str) -> list[Accuracy] | None:
        """Finished accuracies of a target, or None."""
        path = self._path(f"{_slug(target)}-accuracy.json")
        if path is None or not path.is_file():
            return None
        kept = read_record(path, Answers)
        if kept.sha256 != self.sha256:
            raise _other(path)
        return kept.accuracies

    def keep_answers(self, target: str, found: list[Accuracy]) -> None:
        """Write the accuracies of a target, whole."""
        path = self._path(f"{_slug(target)}-accuracy.json")
        if path is not None:
            write_record(path, Answers(sha256=self.sha256, accuracies=found))

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name


def run_matrix(job: Job, folder: Path | None, say: Say) -> Found:
    """Measure every cell that is not there yet.

    Args:
        job: what to measure.
        folder: of the run, where cells are kept; None keeps nothing.
        say: told (task, fraction, remark) as the work goes on.

    Raises:
        DataError: a kept cell is of other artefacts, or of another machine.
    """
    finished = Finished(folder, job.files)
    candidates = [_candidate(job, each) for each in job.files]
    cells: list[Cell] = []
    accuracies: list[Accuracy] = []
    anchor: Anchor | None = None
    with ExitStack() as stack:
        for index, (text, target) in enumerate(job.targets):
            start, part = index / len(job.targets), 1 / len(job.targets)
            if isinstance(target, str):
                cells.append(_absent(text, target, job))
                continue

            def tell(fraction: float, remark: str, start: float = start, part: float = part) -> None:
                say("measuring", start + part * fraction, remark)

            one = _Line(job, finished, text, target, candidates, tell)
            if index and anchor is None and not one.complete and not one.remote:
                anchor = _anchor(job, candidates, cells, stack)
            cells += one.run(None if one.remote else anchor)
            accuracies += one.accuracies
    return Found(cells, accuracies, finished.read, anchor.notes if anchor else [])


class _Line:
    """One target of the matrix."""

    def __init__(
        self,
        job: Job,
        finished: Finished,
        text: str,
        target: Target,
        candidates: Sequence[Candidate],
        say: Callable[[float, str], None],
    ) -> None:
        self.job, self.finished, self.text, self.target, self.say = job, finished, text, target, say
        self.candidates = _suited(job, candidates, target)
        self.led = job.reference_on(target) is not None
        self.name = target.describe()
        self.remote = is_remote(text)
        self.done = {batch: finished.cell(self.name, batch) for batch in job.batches}
        self.known = finished.answers(self.name)
        self.accuracies: list[Accuracy] = self.known or []
        self.tested = [each for each in job.files if each.subject.trained] if job.tested else []

    @property
    def complete(self) -> bool:
        """Nothing is left to measure."""
        if self.tested and self.known is None:
            return False
        if not self.job.batches.open:
            return all(self.done.values())
        stored = [cell for cell in self.done.values() if cell is not None]
        return (
            bool(stored) and not stored[-1].rows and all(self.done[size] for size in self.job.batches.sizes)
        )

    def run(self, anchor: Anchor | None) -> list[Cell]:
        """Cells of all batch sizes, in their order."""
        if self.complete:
            return [cell for cell in self.done.values() if cell is not None]
        cells: list[Cell] = []
        sizes = self.job.batches.sizes
        seconds = self.job.seconds
        warmup_s = min(0.5, max(0.05, seconds / 2)) if self.job.starts == 1 else WARMUP_S
        effort = Effort(seconds=seconds, warmup_seconds=warmup_s, starts=self.job.starts)
        self.say(0.0, f"{self.name}: loading")
        job = self.job
        with Contest(self.text, self.target, self.candidates, job.limits, job.cores, led=self.led) as contest:
            if self.tested and self.known is None:
                self.accuracies = self._answers(contest)
                self.finished.keep_answers(self.name, self.accuracies)
            for place, batch in enumerate(self.job.batches):
                cell = self.done[batch]
                if cell is not None:
                    contest.leave(cell.gaps)
                elif contest.lanes:
                    self.say(min(place / len(sizes), 1.0), f"{self.name}, batch {batch}")
                    found = contest.at(batch, effort, anchor, self.job.watts)
                    first = {"gaps": [*contest.gaps, *found.gaps]} if place == 0 else {}
                    cell = found.model_copy(update=first)
                    self.finished.keep(cell)
                elif place == 0:
                    cell = Cell(
                        target=self.name, batch=batch, rows=[], comparisons=[], across=[], gaps=contest.gaps
                    )
                    self.finished.keep(cell)
                else:
                    break
                cells.append(cell)
        return cells

    def _answers(self, contest: Contest) -> list[Accuracy]:
        """Test accuracy of every trained network that this target runs."""
        found: list[Accuracy] = []
        for lane in list(contest.lanes):
            model, precision = lane.candidate.model, lane.candidate.precision
            if not any((each.subject.name, each.precision) == (model, precision) for each in self.tested):
                continue
            self.say(0.0, f"{self.name}: accuracy of {model} in {precision}")
            whole = self.job.tested - self.job.tested % (lane.candidate.batch or 1)
            try:
                right = self._right(contest, lane, whole)
            except Died as error:
                contest.lose(lane, error)
                continue
            if whole:
                found.append(
                    Accuracy(
                        model=model,
                        target=self.name,
                        precision=precision,
                        test_accuracy=100.0 * right / whole,
                        images=whole,
                    )
                )
        return found

    def _right(self, contest: Contest, lane: Lane, whole: int) -> int:
        """How many test images a network gets right; where memory ends, in calls of the smallest batch size.

        Raises:
            Died: its process ended.
        """
        step, smallest = lane.candidate.batch or ANSWERED, self.job.batches.sizes[0]
        try:
            return self._count(contest, lane, whole, step)
        except Died as error:
            if error.kind != "out of memory" or lane.candidate.batch or smallest >= step:
                raise
        lane.renew()
        return self._count(contest, lane, whole, smallest)

    def _count(self, contest: Contest, lane: Lane, whole: int, step: int) -> int:
        task, right = self.job.task, 0
        assert task is not None
        images, labels = task.test.images[:whole], task.test.labels[:whole].numpy()
        for at in range(0, whole, step):
            logits = contest.answer(lane, as_pixels(images[at : at + step]))
            right += int((logits.argmax(1) == labels[at : at + step]).sum())
        return right


def _suited(job: Job, candidates: Sequence[Candidate], target: Target) -> list[Candidate]:
    return [each for each in candidates if suits(job.packable, each.model, each.precision, target)]


def _candidate(job: Job, file: File) -> Candidate:
    header, task = file.artefact.header, job.task
    kept: dict[int, Images] = {}

    def images(batch: int) -> Images:
        """Test images where there are data of this shape, else noise; the batch at work is kept."""
        if batch not in kept:
            kept.clear()
            if task is not None and task.shape == header.shape:
                index = np.arange(batch) % len(task.test)
                kept[batch] = np.ascontiguousarray(as_pixels(task.test.images[index]))
            else:
                kept[batch] = noise(header, batch)
        return kept[batch]

    def reference(pixels: Images) -> Images | None:
        """The trained network's logits; for INT8, and for a file without its module, what the file gives in
        ONNX Runtime, or in the packed kernels."""
        if file.artefact.module is not None and file.precision != "int8":
            return module_logits(file.artefact.module, pixels)
        return classify(file.artefact.path, pixels)

    return Candidate(
        model=file.subject.name,
        precision=file.precision,
        artefact=file.artefact,
        images=images,
        reference=reference,
        batch=file.subject.batch,
    )


def _anchor(
    job: Job, candidates: Sequence[Candidate], cells: Sequence[Cell], stack: ExitStack
) -> Anchor | None:
    """The reference on the first target, in a process of its own; None where it did not run there."""
    text, target = job.targets[0]
    if isinstance(target, str) or is_remote(text) or job.reference_on(target) is None:
        return None
    first = _suited(job, candidates, target)[:1]
    keys = [(each.model, each.precision, target.describe()) for each in first]
    rows = [row for cell in cells for row in cell.rows]
    last = max((row.batch for row in rows if (row.model, row.precision, row.target) in keys), default=0)
    if not last:
        return None
    contest = stack.enter_context(Contest(text, target, first, job.limits, job.cores))
    return Anchor(contest.lanes[0], last, job.limits) if contest.lanes else None


def _absent(text: str, reason: str, job: Job) -> Cell:
    gaps = [
        Gap(model=each.subject.name, target=text, precision=each.precision, reason=reason)
        for each in job.files
        if suits(job.packable, each.subject.name, each.precision, reason)
    ]
    return Cell(target=text, batch=job.batches.sizes[0], rows=[], comparisons=[], across=[], gaps=gaps)


def _slug(target: str) -> str:
    """A file name: readable, and different for different targets."""
    return f"{re.sub(r'[^A-Za-z0-9.=]+', '-', target)[:80]}-{hashlib.sha256(target.encode()).hexdigest()[:6]}"


def _other(path: Path) -> DataError:
    return DataError(
        f"{path} was measured with other files than the models give now; start again with --overwrite"
    )


def with_accuracy(cell: Cell, accuracies: Sequence[Accuracy]) -> Cell:
    """The cell with test accuracies in its rows."""
    known = {(one.model, one.target, one.precision): one for one in accuracies}
    rows = [
        row.model_copy(update={"test_accuracy": one.test_accuracy, "test_images": one.images})
        if (one := known.get((row.model, row.target, row.precision)))
        else row
        for row in cell.rows
    ]
    return cell.model_copy(update={"rows": rows})
