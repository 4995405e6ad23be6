"""Document 004 again: every row of its table II, trained here, beside the published accuracy.

Each row is one `tersa train` run in a folder of its own, so that it has a page of its own (confusion matrix,
single images, memory and operations, integrated gradients, the batch after augmentation), goes on after a
kill, and can be exported. A folder holds

    spec.toml                  what every row shares
    rows/NAME/                 the runs
    table.csv  result.json  report.html

The rows differ in method as table II says; bits of the first and last layer are those of each method's paper
and stand in the table, because they decide more than the method does:

    vgg16            VGG16 in floating point
    bvgg16           the document's network, fully binary
    bvgg16-8bit      the same with 8-bit first and last layers; not in the document
    cnv              BNN-PYNQ's CNV, fully binary
    xnor-net         VGG-small, factors of weights and inputs, first and last layer in floating point
    lab              VGG-small, loss-aware factors from Adam's second moments
    main-subsidiary  VGG-11, filters pruned by a subsidiary network
    dsq              VGG-small, soft quantisation that sharpens, first and last layer in floating point

`full` trains as long as such networks are trained (400 epochs; the document took 1,000), for a GPU. `quick`
is for a processor: few epochs, which say that everything works and little about the methods. The published
accuracies are of the original CIFAR-10; a JPEG copy gives 1 to 2 points less, and is named in the table.

Example:
    >>> [row.name for row in chosen_rows(BinaryVgg(rows=("cnv", "bvgg16")))]
    ['bvgg16', 'cnv']
    >>> row_of("cnv").published
    84.22

References:
    Document 004, tables I and II.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from torch import nn

from tersa.data.sources import load
from tersa.errors import UsageError, faults, unknown
from tersa.files import write_atomic
from tersa.models.load import load as load_model
from tersa.models.operations import operations
from tersa.models.zoo import bits_of
from tersa.quant.subsidiary import without_masked
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.published_binary import accuracies
from tersa.recipes.setting import Setting, precision_of, silent
from tersa.recipes.train import WEIGHTS, TrainedRun, plan_training, run_training
from tersa.recipes.train_request import TrainRequest
from tersa.records.base import SCHEMA, Record, read_record, write_record
from tersa.report.numbers import plural
from tersa.study.cluster import Crew, check_place
from tersa.study.gather import gather
from tersa.train.device import choose
from tersa.train.loop import Status

VERB = "reproduce binary-vgg"
TABLE = "table.csv"
ROWS_FOLDER = "rows"
EPOCHS = {"quick": 3, "full": 400}
NOTHING = "No row was trained"


@dataclass(frozen=True)
class Method:
    """One row of table II, as it is trained here.

    Attributes:
        name: of the row here.
        network: as the document prints it; empty for a row of ours.
        model: spec of the network.
        settings: of its training, beside the defaults of its kind.
        note: what differs from the paper.
    """

    name: str
    network: str
    model: str
    settings: tuple[tuple[str, Any], ...] = ()
    note: str = ""

    @property
    def published(self) -> float | None:
        """Test accuracy in percent, of the original CIFAR-10."""
        return next((row.test_accuracy for row in accuracies() if row.network == self.network), None)


METHODS: tuple[Method, ...] = (
    Method("vgg16", "VGG16", "vgg:16", note="one fully connected layer on globally averaged features"),
    Method("bvgg16", "B-VGG16", "bvgg16"),
    Method("bvgg16-8bit", "", "bvgg16+w1a1:first=8/8,last=8/8", note="not in the document"),
    Method("cnv", "BNN-PYNQ", "cnv+w1a1"),
    Method(
        "xnor-net",
        "XNOR-Net",
        "vgg-small+w1a1:first=float,last=float,scale=xnor",
        note="the factor K of the inputs is a float, which no packed program holds",
    ),
    Method(
        "lab",
        "LAB",
        "vgg-small+w1a1:scale=lab",
        note="one factor per output channel, the paper's is per layer",
    ),
    Method("main-subsidiary", "Main/Subsidiary", "vgg:11+w1a1:mask=subsidiary"),
    Method("dsq", "DSQ", "vgg-small+w1a1:first=float,last=float,by=dsq"),
)


class BinaryVgg(Record):
    """What to run of the document."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    data: str = "cifar-10"
    """The data set; the document's is CIFAR-10."""
    mode: Literal["quick", "full"] = "quick"
    """A few epochs, or hundreds."""
    rows: tuple[str, ...] = ()
    """Rows by name; empty for all."""
    epochs: int | None = Field(default=None, ge=1)
    """Other than the mode's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of forward passes while training; `auto`: bf16 on a GPU and on a processor that computes in it."""
    seed: int = Field(default=0, ge=0)
    """Of every row."""

    @property
    def length(self) -> int:
        """Epochs of a row."""
        return self.epochs or EPOCHS[self.mode]


class Deciding(Record):
    """`spec.toml`: what every row of a folder shares."""

    data: str
    epochs: int
    precision: str
    seed: int


class RowResult(Record):
    """One row of the table."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Of the row."""
    network: str
    """As the document prints it, or empty."""
    model: str
    """Spec of the network."""
    bits: str
    """Of weights and activations, first and last layer."""
    published: float | None
    """Test accuracy in percent."""
    status: Status | Literal[""] = ""
    """Of the training, `diverged` where it ended in NaN; empty where it was not run."""
    test_accuracy: float | None
    """Ours, or None where it was not run; of the last good epoch where it diverged."""
    validation_accuracy: float | None
    """Likewise."""
    epochs: int
    """Ours."""
    parameters: int
    """Weights, without those that masks have removed."""
    packed_bytes: int
    """Of the weights at their bits."""
    binary_macs: int
    """For one image."""
    integer_macs: int
    """For one image."""
    float_macs: int
    """For one image."""
    seconds: float
    """Of the training."""
    device: str
    """Where it was trained."""
    folder: str
    """Of the run, within the reproduction's; empty where it was not run."""
    note: str
    """What differs, why it was not run, or that it diverged."""

    @property
    def trained(self) -> bool:
        """It was run and has an accuracy to compare."""
        return self.test_accuracy is not None and self.status != "diverged"


class BinaryVggResult(Record):
    """`result.json` of a reproduction."""

    schema_version: int = SCHEMA
    verb: Literal["reproduce"] = "reproduce"
    document: str = "binary-vgg"
    data: str
    data_note: str
    mode: str
    epochs: int
    rows: list[RowResult]
    verdict: str
    command: str
    artefacts: list[str]
    report: str
    seconds: float


class BinaryVggPlan(Record):
    """What a reproduction would train."""

    rows: list[str]
    """To be trained."""
    ended: list[str]
    """Trained already."""
    skipped: dict[str, str]
    """Name of a row that cannot be trained on these data, and why."""
    epochs: int
    """Of each row."""
    device: str
    """Where."""
    seconds: float
    """In all, about."""


def row_of(name: str) -> Method:
    """A row by name.

    Raises:
        UsageError: no such row.
    """
    known = {method.name: method for method in METHODS}
    if name not in known:
        raise unknown("row", name, known)
    return known[name]


def chosen_rows(wanted: BinaryVgg) -> list[Method]:
    """The rows that are asked for, in the table's order.

    Raises:
        UsageError: names that the table does not have, all in one message.
    """
    known = [method.name for method in METHODS]
    if found := [str(unknown("row", name, known)) for name in wanted.rows if name not in known]:
        raise faults(VERB, found)
    return [method for method in METHODS if not wanted.rows or method.name in wanted.rows]


def plan_binary_vgg(
    wanted: BinaryVgg, folder: Path, setting: Setting | None = None, crew: Crew | None = None
) -> BinaryVggPlan:
    """What `reproduce_binary_vgg` would do with `resume`; nothing is written.

    With workers the time is that of the longest row, or of an equal share, whichever is longer.

    Raises:
        UsageError, DataError, ModelError: what the work would raise before it begins.
    """
    setting, crew = setting or Setting(), crew or Crew()
    check_place(crew.on)
    wanted = _settled(wanted, setting, folder)
    alone = replace(setting, say=silent) if crew.alone else replace(setting, threads=crew.threads, say=silent)
    todo, ended, skipped, device = list[str](), list[str](), dict[str, str](), setting.device
    each = [0.0]
    chosen = chosen_rows(wanted)
    for place, method in enumerate(chosen):
        if reason := _cannot(method, wanted, setting):
            skipped[method.name] = reason
        elif (folder / ROWS_FOLDER / method.name / RESULT).is_file():
            ended.append(method.name)
        else:
            setting.say("plan", place / len(chosen), f"some updates of {method.name} are timed")
            plan = plan_training(_request(method, wanted), alone)
            todo.append(method.name)
            each.append(plan.cost.seconds)
            device = plan.device
    setting.say("plan", 1.0, plural(len(chosen), "row"))
    seconds = max(max(each), sum(each) / crew.workers)
    return BinaryVggPlan(
        rows=todo, ended=ended, skipped=skipped, epochs=wanted.length, device=device, seconds=seconds
    )


@releasing
def reproduce_binary_vgg(
    wanted: BinaryVgg,
    folder: Path,
    setting: Setting | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    crew: Crew | None = None,
) -> BinaryVggResult:
    """Train the rows that have not ended, then write the table and the report over all that have.

    Args:
        wanted: what to run.
        folder: of the work.
        setting: data, device, threads and progress.
        resume: go on with the work in `folder`; rows may be added.
        overwrite: start it again.
        crew: workers that train rows at once, each with `threads` of it; none, this process does.

    Raises:
        UsageError, DataError, ModelError: what cannot be, before any work.
        TersaError: a row broke in a worker; the message is its traceback.
        KeyboardInterrupt: SIGINT; the rows at work have their checkpoints.
    """
    from tersa.recipes.binary_vgg_report import write_report  # it draws what is made here

    began = time.perf_counter()
    setting, crew = setting or Setting(), crew or Crew()
    check_place(crew.on)
    wanted = _settled(wanted, setting, folder if resume else None)
    chosen = chosen_rows(wanted)
    task = load(wanted.data, data_dir=setting.data_dir)
    deciding = Deciding(data=wanted.data, epochs=wanted.length, precision=wanted.precision, seed=wanted.seed)
    open_folder(folder, VERB, deciding, resume=resume, overwrite=overwrite)
    reasons = {m.name: reason for m in chosen if (reason := _cannot(m, wanted, setting))}
    work = [Row(m.name, _request(m, wanted)) for m in chosen if m.name not in reasons]
    if crew.alone:
        for row in work:
            _train(folder, replace(setting, say=_said(setting.say, row.name)), row)
    else:
        _train_at_once(folder, setting, work, crew)
    rows = [_row(method, folder, reasons.get(method.name, "not run"), task.shape) for method in METHODS]
    write_atomic(folder / TABLE, _table(rows))
    result = BinaryVggResult(
        data=wanted.data,
        data_note=task.provenance.note,
        mode=wanted.mode,
        epochs=wanted.length,
        rows=rows,
        verdict=_verdict(rows, wanted),
        command=setting.command or f"tersa {VERB} --{wanted.mode}",
        artefacts=[str(folder / TABLE)],
        report=str(folder / "report.html"),
        seconds=time.perf_counter() - began,
    )
    write_record(folder / RESULT, result)
    write_report(folder, result)
    return result


@dataclass(frozen=True)
class Row:
    """A row to be trained: its name, which is its folder's, and how."""

    name: str
    request: TrainRequest


def _train(folder: Path, setting: Setting, row: Row) -> None:
    """A row, from where an earlier call left it."""
    run_training(row.request, folder / ROWS_FOLDER / row.name, setting=setting, resume=True)


def _train_at_once(folder: Path, setting: Setting, work: Sequence[Row], crew: Crew) -> None:
    """Rows by workers, each in its folder, where one that diverged says so itself."""
    left = [row for row in work if not (folder / ROWS_FOLDER / row.name / RESULT).is_file()]
    if not left:
        return
    title = f"rows {', '.join(row.name for row in left)}"
    setting.say(title, 0.0, f"{min(crew.workers, len(left))} at once")
    bare = Setting(setting.data_dir, setting.device, crew.threads, command=setting.command)
    gather(left, partial(_begin, folder.absolute(), bare), crew, what="row")
    setting.say(title, 1.0, "trained")


def _begin(folder: Path, setting: Setting) -> Callable[[Row], None]:
    return partial(_train, folder, setting)


def _settled(wanted: BinaryVgg, setting: Setting, begun: Path | None) -> BinaryVgg:
    """With the precision that `auto` is here, or was in the folder that goes on."""
    precision = precision_of(wanted.precision, choose(setting.device), gpu="bf16", begun=begun, verb=VERB)
    return wanted.model_copy(update={"precision": precision})


def _request(method: Method, wanted: BinaryVgg) -> TrainRequest:
    settings: dict[str, Any] = {
        "epochs": wanted.length,
        "precision": wanted.precision,
        "seed": wanted.seed,
        **dict(method.settings),
    }
    return TrainRequest(data=wanted.data, model=method.model, settings=settings)


def _cannot(method: Method, wanted: BinaryVgg, setting: Setting) -> str:
    """Why a row cannot be trained on these data; empty where it can."""
    task = load(wanted.data, data_dir=setting.data_dir)
    try:
        load_model(method.model, task.shape, len(task.classes))
    except UsageError as error:
        return str(error)
    return ""


def _said(say: Callable[[str, float, str], None], name: str) -> Callable[[str, float, str], None]:
    return lambda task, share, remark: say(f"{name}: {task}", share, remark)


def _row(method: Method, folder: Path, reason: str, shape: tuple[int, int, int]) -> RowResult:
    """A row of the table, with its run where there is one."""
    place = folder / ROWS_FOLDER / method.name
    run = read_record(place / RESULT, TrainedRun) if (place / RESULT).is_file() else None
    bits = bits_of(method.model)
    total = None
    if run is not None:
        total = operations(_trained(method, place, shape, len(run.classes)), shape, method.model).total
    return RowResult(
        name=method.name,
        network=method.network,
        model=method.model,
        bits=bits.describe() if bits else "32/32",
        published=method.published,
        status=run.status if run else "",
        test_accuracy=run.test_accuracy if run else None,
        validation_accuracy=run.validation_accuracy if run else None,
        epochs=run.epochs if run else 0,
        parameters=total.weights if total else 0,
        packed_bytes=total.size_bytes if total else 0,
        binary_macs=total.binary if total else 0,
        integer_macs=total.integer if total else 0,
        float_macs=total.real if total else 0,
        seconds=run.seconds if run else 0.0,
        device=run.device if run else "",
        folder=f"{ROWS_FOLDER}/{method.name}" if run else "",
        note="; ".join(filter(None, [method.note, _ending(run) if run else reason])),
    )


def _trained(method: Method, place: Path, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A row's network; one with masks as it was trained, without the filters that they remove."""
    bits = bits_of(method.model)
    if bits is None or not bits.masked:
        return load_model(method.model, shape, classes).module
    model = load_model(method.model, shape, classes, checkpoint=place / WEIGHTS).module
    try:
        return without_masked(model)
    except UsageError:  # a mask that keeps nothing: the masks stay
        return model


def _ending(run: TrainedRun) -> str:
    """What a reader of its accuracy must know; empty for a training that went well."""
    return f"diverged after {plural(run.epochs, 'epoch')}" if run.status == "diverged" else ""


def _table(rows: list[RowResult]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RowResult.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()


def _verdict(rows: list[RowResult], wanted: BinaryVgg) -> str:
    """The answer in one line: what our runs say, and no more."""
    ours = {row.name: row.test_accuracy for row in rows if row.trained and row.test_accuracy is not None}
    diverged = [row.name for row in rows if row.status == "diverged"]
    if not ours:
        return f"No row was trained to its end: {', '.join(diverged)} diverged" if diverged else NOTHING
    own, length = ours.get("bvgg16"), f"after {plural(wanted.length, 'epoch')}"
    if own is None:
        best = max(ours, key=lambda name: ours[name])
        end = "diverged" if "bvgg16" in diverged else "was not trained"
        return f"{row_of(best).network or best} reaches {ours[best]:.2f} % {length}; B-VGG16 {end}"
    published = row_of("bvgg16").published
    assert published is not None
    if wanted.data != "cifar-10":
        return f"B-VGG16 reaches {own:.2f} % on {wanted.data} {length}"
    if own >= published:
        return f"B-VGG16 reaches {own:.2f} % {length}: {own - published:.2f} points above the document"
    return f"B-VGG16 reaches {own:.2f} % {length}; the document's 1,000 epochs gave {published} %"
