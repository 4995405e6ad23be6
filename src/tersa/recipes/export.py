"""`tersa export`: one file from a model, a run or another file, checked against what it was made from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import UsageError, unknown
from tersa.models.load import kind_of
from tersa.models.zoo import parse
from tersa.recipes.formats import FORMATS, Order
from tersa.recipes.subjects import Subject, check_fits, find_point, find_subject, needs_task
from tersa.records.base import SCHEMA, Record
from tersa.records.results import Agreement


@dataclass(frozen=True)
class ExportRequest:
    """What was asked.

    Attributes:
        source: an .onnx file, a run folder or a model.
        out: the file to write.
        format: of the file, one of `formats.FORMATS`.
        precision: one of the format's; None for its first.
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
    precision: str | None = None
    data: str | None = None
    data_dir: Path | None = None
    checkpoint: Path | None = None
    overwrite: bool = False
    at: str | None = None
    network: str | None = None


class ExportResult(Record):
    """Everything that one `tersa export` found.

    Attributes:
        format: of the file.
        precision: `fp32`, `int8`, or the bits of a low-bit network.
        agreement: of the file with its source; for int8 only the classes are compared.
        float_operations: operators that ONNX Runtime computes in float, with their number (int8 only).
        test_accuracy: percent, by running the file, where data are given and the network is trained.
    """

    schema_version: int = SCHEMA
    verb: Literal["export"] = "export"
    source: str
    format: str = "onnx"
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
    chosen = FORMATS[request.format]
    made = chosen.write(Order(subject, request.precision or chosen.precisions[0], request.out, task))
    notes = [subject.note] if subject.note else []
    notes += [] if subject.trained else ["the network is not trained: no --checkpoint was given"]
    notes += made.notes
    if made.accuracy is not None and task is not None:
        notes.append(f"{made.accuracy:.2f} % of {len(task.test)} test images")
    return ExportResult(
        source=request.source,
        format=request.format,
        precision=made.precision,
        size_bytes=request.out.stat().st_size,
        agreement=made.agreement,
        float_operations=made.float_operations,
        test_accuracy=made.accuracy,
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
    found = find_point(Path(request.source), request.at, data_dir=request.data_dir)
    if task is not None:
        check_fits(found, task, request.source)
    return found


def _check(request: ExportRequest) -> None:
    if request.format not in FORMATS:
        raise unknown("format", request.format, FORMATS)
    chosen = FORMATS[request.format]
    if request.precision is not None and request.precision not in chosen.precisions:
        if chosen.precisions == ("network",):
            raise UsageError(
                f"--format {request.format} writes the bits that the network has; leave out --precision "
                f"{request.precision}, and choose bits by the model (cnv+w2a2)"
            )
        raise unknown("precision", request.precision, chosen.precisions)
    if request.out.suffix != chosen.suffix:
        raise UsageError(f"--out is a file that ends in {chosen.suffix}, not '{request.out}'")
    if request.out.exists() and not (request.overwrite and request.out.is_file()):
        raise UsageError(f"{request.out} exists; give another --out, or --overwrite")
    if request.at is not None and not Path(request.source).is_dir():
        raise UsageError(
            f"--at picks a step of a run of shrink or prune; give --run DIR: {request.source} is no folder"
        )
    if request.at is not None and request.checkpoint is not None:
        raise UsageError("--at takes the weights of a stored step; leave out --checkpoint")
    if needs_task(request.source):
        _check_model(request.source.strip())
    if request.data is None and needs_task(request.source):
        raise UsageError(
            "--model needs --data NAME: what it was trained on gives its input, classes and normalisation"
        )
    if request.data is None and request.precision == "int8":
        raise UsageError("--precision int8 needs --data NAME: training images give the ranges of activations")


def _check_model(name: str) -> None:
    """Refuse what is no folder, no file and no model either: a run's name that was typed wrong."""
    try:
        if kind_of(name) == "zoo":
            parse(name)
    except UsageError as error:
        raise UsageError(f"there is no run folder {name}; as a model: {error}") from None
