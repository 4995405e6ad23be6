"""`tersa bench`: models, runtimes, precisions and batch sizes against one another, measured side by side.

For every target and batch size all models in all precisions run in the same interleaved rounds, and each is
compared with the first. What a runtime does not offer is listed with the reason, never left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import TargetError, UsageError, unknown
from tersa.export.artefact import PRECISIONS, Artefact
from tersa.export.check import classify, module_logits
from tersa.export.onnx import as_pixels
from tersa.models.load import kind_of
from tersa.recipes.folder import RESULT, open_folder
from tersa.recipes.subjects import (
    CODED,
    Subject,
    accuracy_on_test,
    find_subject,
    needs_task,
    noise,
    to_artefact,
)
from tersa.records import SCHEMA, Comparison, Environment, Measurement, Record, write_record
from tersa.targets.base import Session, Target
from tersa.targets.environment import environment
from tersa.targets.measure import Effort, compare_measured, measure_timed
from tersa.targets.registry import DEFAULT, parse, split_list

Images = npt.NDArray[np.float32]
Say = Callable[[str, float, str], None]

DEFAULT_DATA = "digits"

OVERHEAD = 1.6
"""Wall time over timed time: warm-up, and one untimed call per round."""


class NotOffered(Record):
    """One combination that cannot be measured, and why."""

    model: str
    target: str
    precision: str
    reason: str


class Accuracy(Record):
    """Test accuracy of one trained model in one precision, by running its file."""

    model: str
    precision: str
    test_accuracy: float
    images: int


class BenchResult(Record):
    """Everything that one `tersa bench` found.

    Attributes:
        measurements: one row per combination that was measured.
        comparisons: of each measurement with the first model's on the same target and batch.
        not_offered: combinations that a runtime does not have.
        accuracies: of trained models, where data are given.
    """

    schema_version: int = SCHEMA
    verb: Literal["bench"] = "bench"
    measurements: list[Measurement]
    comparisons: list[Comparison]
    not_offered: list[NotOffered]
    accuracies: list[Accuracy]
    environment: Environment
    notes: list[str]
    artefacts: list[str]
    report: str = ""
    seconds: float


class BenchRequest(Record):
    """What was asked, as on the command line; it is the `spec.toml` of a benchmark that is kept."""

    models: list[str]
    targets: str = DEFAULT
    batch: str = "1"
    precision: str = ""
    data: str | None = None
    data_dir: str | None = None
    checkpoint: str | None = None
    network: str | None = None
    seconds: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """What to measure, checked.

    Attributes:
        subjects: the models; every other is compared with the first.
        targets: runtimes as texts, with the runtime or the reason why it is not there.
        precisions: to run each model in; empty means as it is stored (fp32 for a model).
        batches: images per call.
        seconds: of timed calls per combination.
        task: gives real images, INT8 ranges and test accuracy; None without data.
    """

    subjects: list[Subject]
    targets: list[tuple[str, Target | str]]
    precisions: list[str]
    batches: list[int]
    seconds: float = 1.0
    task: Task | None = None

    def wanted(self, subject: Subject) -> list[str]:
        """The precisions that one model is run in."""
        return self.precisions or [subject.header.precision]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Every combination: model, target, precision, batch."""
        return [
            (subject.name, target, precision, str(batch))
            for target, _ in self.targets
            for batch in self.batches
            for subject in self.subjects
            for precision in self.wanted(subject)
        ]

    @property
    def combinations(self) -> int:
        """How many rows the table can have."""
        return len(self.rows())

    @property
    def expected_seconds(self) -> float:
        """About how long the measuring takes."""
        return self.combinations * self.seconds * OVERHEAD


def parse_targets(text: str) -> list[tuple[str, Target | str]]:
    """Targets separated by commas; one that is not installed gives the reason instead.

    Raises:
        UsageError: unknown names, options or values.
    """
    found: list[tuple[str, Target | str]] = []
    for piece in split_list(text):
        try:
            target = parse(piece)
            found.append((target.describe(), target))
        except TargetError as error:
            found.append((piece, str(error)))
    return found


def parse_precisions(text: str) -> list[str]:
    """`fp32,int8` as a list; empty text means as stored.

    >>> parse_precisions("fp32, int8"), parse_precisions("")
    (['fp32', 'int8'], [])
    """
    found = [piece.strip() for piece in text.split(",") if piece.strip()]
    for piece in found:
        if piece not in PRECISIONS:
            raise unknown("precision", piece, PRECISIONS)
    return list(dict.fromkeys(found))


def parse_batches(text: str) -> list[int]:
    """`1,8` as numbers.

    >>> parse_batches("1,8")
    [1, 8]
    """
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces or not all(piece.isdecimal() and int(piece) > 0 for piece in pieces):
        raise UsageError(f"--batch takes whole numbers above 0, separated by commas, not '{text}'")
    return list(dict.fromkeys(int(piece) for piece in pieces))


def make_plan(request: BenchRequest) -> Plan:
    """Check a request, and load what it names; a model without data takes its input shape from `digits`.

    Raises:
        UsageError: all that is wrong with it.
        ModelError: a file that cannot be loaded.
    """
    targets = parse_targets(request.targets)
    precisions = parse_precisions(request.precision)
    batches = parse_batches(request.batch)
    twice = sorted({name for name in request.models if request.models.count(name) > 1})
    if twice:
        raise UsageError(f"model '{twice[0]}' is given twice")
    specs = [name for name in request.models if needs_task(name)]
    if request.checkpoint and len(specs) != 1:
        raise UsageError(f"--checkpoint belongs to one model, {len(specs)} are given")
    if request.network and not any(name.endswith(CODED) for name in request.models):
        raise UsageError(
            "--model names the network of a .coded file, and none is given; a model to measure has no option"
        )
    for name in specs:
        kind_of(name)
    name = request.data or (DEFAULT_DATA if specs else None)
    data_dir = Path(request.data_dir) if request.data_dir else None
    task = load_data(name, data_dir=data_dir) if name else None
    weights = Path(request.checkpoint) if request.checkpoint else None
    subjects = [
        find_subject(
            model,
            task,
            checkpoint=weights if model in specs else None,
            seed=request.seed,
            foreign=True,
            data_dir=data_dir,
            network=request.network,
        )
        for model in request.models
    ]
    return Plan(subjects, targets, precisions, batches, request.seconds, task)


def run_bench(
    request: BenchRequest, plan: Plan, out: Path | None, *, overwrite: bool = False, say: Say | None = None
) -> BenchResult:
    """Measure, and keep the exported files and `result.json` in `out` where one is given.

    Raises:
        UsageError: `out` exists, or not one combination is offered.
        ModelError: a file does not give its network's outputs.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
            found = bench(plan, Path(folder), say)
        kept = [path for path in found.artefacts if Path(path).parent != Path(folder)]
        return found.model_copy(update={"artefacts": kept})
    open_folder(out, "bench", request, resume=False, overwrite=overwrite)
    found = bench(plan, out, say)
    inside = [Path(path).name if Path(path).parent == out else path for path in found.artefacts]
    found = found.model_copy(update={"artefacts": inside})
    write_record(out / RESULT, found)
    return found


def bench(plan: Plan, folder: Path, say: Say | None = None) -> BenchResult:
    """Measure everything in the plan.

    Args:
        plan: what to measure.
        folder: where exported files go.
        say: told (task, fraction, remark) as the work goes on.

    Raises:
        UsageError: not one combination is offered.
        ModelError: a file does not give its network's outputs.
    """
    start = time.perf_counter()
    tell = say or (lambda _task, _fraction, _remark: None)
    missing: list[NotOffered] = []
    notes: list[str] = []
    files = _artefacts(plan, folder, missing, notes, tell)
    measurements: list[Measurement] = []
    comparisons: list[Comparison] = []
    turns = [(target, batch) for target in plan.targets for batch in plan.batches]
    for done, ((text, target), batch) in enumerate(turns):
        tell("measuring", done / len(turns), f"{text}, batch {batch}")
        rows, against = _measure_together(plan, files, text, target, batch, missing)
        measurements += rows
        comparisons += against
    tell("measuring", 1.0, f"{len(measurements)} measured")
    missing = list(dict.fromkeys(missing))
    if not measurements:
        raise UsageError(
            "; ".join(dict.fromkeys(f"{row.model} on {row.target}: {row.reason}" for row in missing))
        )
    return BenchResult(
        measurements=measurements,
        comparisons=comparisons,
        not_offered=missing,
        accuracies=_accuracies(plan, files),
        environment=environment(max(row.threads for row in measurements)),
        notes=notes,
        artefacts=[str(artefact.path) for _, artefact in files],
        seconds=time.perf_counter() - start,
    )


Files = list[tuple[Subject, Artefact]]


def _artefacts(plan: Plan, folder: Path, missing: list[NotOffered], notes: list[str], tell: Say) -> Files:
    found: Files = []
    for index, subject in enumerate(plan.subjects):
        tell("preparing", index / len(plan.subjects), subject.name)
        for precision in plan.wanted(subject):
            path = folder / f"{index}-{precision}.onnx"
            try:
                found.append((subject, to_artefact(subject, precision, path, plan.task)))
            except TargetError as error:
                missing += [_not_offered(subject, text, precision, str(error)) for text, _ in plan.targets]
                continue
            if path.exists() and precision == "int8" and plan.task is None:
                notes.append(
                    f"{subject.name}: INT8 ranges come from noise (no --data): right for timing, not for use"
                )
    tell("preparing", 1.0, "")
    return found


def _not_offered(subject: Subject, target: str, precision: str, reason: str) -> NotOffered:
    return NotOffered(model=subject.name, target=target, precision=precision, reason=reason)


def _measure_together(
    plan: Plan, files: Files, text: str, target: Target | str, batch: int, missing: list[NotOffered]
) -> tuple[list[Measurement], list[Comparison]]:
    """One target and batch size: all models in the same rounds, each compared with the first."""
    sessions: list[Session] = []
    inputs: list[Images] = []
    references: list[Images | None] = []
    images = _images(plan, files, batch)
    for subject, artefact in files:
        precision = artefact.header.precision
        if isinstance(target, str):
            missing.append(_not_offered(subject, text, precision, target))
            continue
        if subject.batch not in (None, batch):
            missing.append(
                _not_offered(subject, text, precision, f"the file takes batches of {subject.batch} only")
            )
            continue
        try:
            sessions.append(target.prepare(artefact, subject.name))
        except TargetError as error:
            missing.append(_not_offered(subject, text, precision, str(error)))
            continue
        inputs.append(images[artefact.header.shape])
        references.append(_reference(artefact, inputs[-1]))
    if not sessions:
        return [], []
    timed = measure_timed(sessions, inputs, effort=Effort(seconds=plan.seconds), reference=references)
    first = timed[0]
    reference_runs = (sessions[0].model, sessions[0].precision) == (
        files[0][0].name,
        files[0][1].header.precision,
    )
    against = [compare_measured(first, other) for other in timed[1:]] if reference_runs else []
    return [side.measurement for side in timed], against


def _images(plan: Plan, files: Files, batch: int) -> dict[tuple[int, int, int], Images]:
    """One batch for every input shape: test images where there are data, else noise."""
    found: dict[tuple[int, int, int], Images] = {}
    for _, artefact in files:
        header = artefact.header
        if plan.task is not None and plan.task.shape == header.shape:
            index = np.arange(batch) % len(plan.task.test)
            found[header.shape] = np.ascontiguousarray(as_pixels(plan.task.test.images[index]))
        else:
            found.setdefault(header.shape, noise(header, batch))
    return found


def _reference(artefact: Artefact, images: Images) -> Images | None:
    """What an fp32 session must answer: the module's logits, or ONNX Runtime's for a bare file."""
    if artefact.header.precision != "fp32":
        return None
    if artefact.module is not None:
        return module_logits(artefact.module, images)
    return classify(artefact.path, images)


def _accuracies(plan: Plan, files: Files) -> list[Accuracy]:
    if plan.task is None:
        return []
    return [
        Accuracy(
            model=subject.name,
            precision=artefact.header.precision,
            test_accuracy=accuracy_on_test(artefact, plan.task),
            images=len(plan.task.test),
        )
        for subject, artefact in files
        if subject.trained
    ]
