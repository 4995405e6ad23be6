"""`tersa export`: one file from a model, a run or another file, checked against what it was made from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import UsageError, unknown
from tersa.export.artefact import PRECISIONS, Artefact
from tersa.export.check import agreement, classify, module_logits
from tersa.export.int8 import float_operations
from tersa.recipes.subjects import (
    Subject,
    accuracy_on_test,
    find_point,
    find_subject,
    needs_task,
    noise,
    to_artefact,
)
from tersa.records import SCHEMA, Agreement, Record, write_atomic

FORMATS = ("onnx",)
CHECKED_IMAGES = 1000
"""Images that the file is held against its source on, at most, where there are data."""


@dataclass(frozen=True)
class ExportRequest:
    """What was asked.

    Attributes:
        source: an .onnx file, a run folder or a model.
        out: the file to write.
        format: of the file; `onnx`.
        precision: `fp32` or `int8`.
        data: what a model was trained on; gives INT8 its ranges.
        data_dir: where to look for data first.
        checkpoint: weights of a model.
        overwrite: replace a file that is there.
        at: of a run of shrink or prune: an earlier point, see `trajectory.point`.
        network: the model behind a `.coded` file, where that is a user's own.
    """

    source: str
    out: Path
    format: str = "onnx"
    precision: str = "fp32"
    data: str | None = None
    data_dir: Path | None = None
    checkpoint: Path | None = None
    overwrite: bool = False
    at: str | None = None
    network: str | None = None


class ExportResult(Record):
    """Everything that one `tersa export` found.

    Attributes:
        agreement: of the file with its source; for int8 only the classes are compared.
        float_operations: operators that ONNX Runtime computes in float, with their number (int8 only).
        test_accuracy: percent, by running the file, where data are given and the network is trained.
    """

    schema_version: int = SCHEMA
    verb: Literal["export"] = "export"
    source: str
    precision: str
    size_bytes: int
    agreement: Agreement
    float_operations: dict[str, int]
    test_accuracy: float | None = None
    notes: list[str]
    artefacts: list[str]
    report: str = ""
    seconds: float


def export_subject(request: ExportRequest) -> ExportResult:
    """Write the file, and say how well it agrees with what it was made from.

    Raises:
        UsageError: anything in the request that cannot be carried out; found before work starts.
        TargetError: an INT8 file cannot become fp32.
        ModelError: the network cannot be loaded, traced or exported, or the file does not compute the same.
    """
    start = time.perf_counter()
    _check(request)
    task = load_data(request.data, data_dir=request.data_dir) if request.data else None
    subject = _subject(request, task)
    artefact = _written(subject, request, task)
    notes = [subject.note] if subject.note else []
    notes += [] if subject.trained else ["the network is not trained: no --checkpoint was given"]
    accuracy = accuracy_on_test(artefact, task) if task and subject.trained else None
    if accuracy is not None and task is not None:
        notes.append(f"{accuracy:.2f} % of {len(task.test)} test images")
    return ExportResult(
        source=request.source,
        precision=request.precision,
        size_bytes=artefact.size_bytes,
        agreement=_agreement(subject, artefact, task),
        float_operations=float_operations(artefact.path) if request.precision == "int8" else {},
        test_accuracy=accuracy,
        notes=notes,
        artefacts=[str(request.out)],
        seconds=time.perf_counter() - start,
    )


def _subject(request: ExportRequest, task: Task | None) -> Subject:
    if request.at is None:
        return find_subject(
            request.source,
            task,
            checkpoint=request.checkpoint,
            data_dir=request.data_dir,
            network=request.network,
        )
    return find_point(Path(request.source), request.at, data_dir=request.data_dir)


def _check(request: ExportRequest) -> None:
    if request.format not in FORMATS:
        raise unknown("format", request.format, FORMATS)
    if request.precision not in PRECISIONS:
        raise unknown("precision", request.precision, PRECISIONS)
    if request.out.suffix != ".onnx":
        raise UsageError(f"--out is a file that ends in .onnx, not '{request.out}'")
    if request.out.exists() and not (request.overwrite and request.out.is_file()):
        raise UsageError(f"{request.out} exists; give another --out, or --overwrite")
    if request.at is not None and not Path(request.source).is_dir():
        raise UsageError("--at picks a step of a run of shrink or prune; give --run DIR")
    if request.data is None and needs_task(request.source):
        raise UsageError(
            "--model needs --data NAME: what it was trained on gives its input, classes and normalisation"
        )
    if request.data is None and request.precision == "int8":
        raise UsageError("--precision int8 needs --data NAME: training images give the ranges of activations")


def _written(subject: Subject, request: ExportRequest, task: Task | None) -> Artefact:
    artefact = to_artefact(subject, request.precision, request.out, task)
    if artefact.path == request.out:
        return artefact
    write_atomic(request.out, artefact.path.read_bytes())
    return Artefact(request.out, artefact.header, artefact.module)


def _agreement(subject: Subject, artefact: Artefact, task: Task | None) -> Agreement:
    images = task.test.images[:CHECKED_IMAGES] if task else noise(artefact.header, 256)
    if artefact.module is not None:
        wanted = module_logits(artefact.module, images)
    else:
        assert subject.file is not None, "an artefact without a module comes from a file"
        wanted = classify(subject.file.path, images)
    return agreement(artefact.path, wanted, images, tolerance=None if _is_exact(artefact) else 0.0)


def _is_exact(artefact: Artefact) -> bool:
    """Whether the artefact must give its source's logits, and not only its classes."""
    return artefact.header.precision == "fp32"
