"""One training run from a name to a folder: data, model, training, test, files.

    runs/NAME/spec.toml           everything asked, written first
              history.db          epochs (SQLite), growing while it runs
              checkpoint.safetensors   the state of the run after its last epoch, gone when it has ended
              model.safetensors   the weights that were kept
              portrait.json       what the page shows of the network
              report.html         the page
              result.json         written last, but for the page

The test split is read once, at the end. A killed run goes on with `resume`, bit for bit; a finished one is
handed back as it is.

Example:
    >>> import tempfile
    >>> request = TrainRequest(data="digits", model="mlp:16", settings={"epochs": 2})
    >>> result = run_training(request, Path(tempfile.mkdtemp()) / "demo")
    >>> result.status, result.parameters, result.artefacts
    ('done', 1210, ['model.safetensors'])
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from torch import nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.files import remove_leftovers
from tersa.models.load import load as load_model
from tersa.models.summary import macs, parameters
from tersa.models.zoo import bits_of
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.network_report import REPORT, write_report
from tersa.recipes.portrait import FILE as PORTRAIT
from tersa.recipes.portrait import portrait
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.train_request import TrainRequest, TrainSpec, resolve
from tersa.records.base import SCHEMA, Record, read_record, write_record
from tersa.records.results import Environment, Epoch
from tersa.targets.environment import environment
from tersa.train.baseline import save_weights
from tersa.train.config import TrainConfig, override
from tersa.train.device import choose
from tersa.train.estimate import Estimate, asking_seconds, estimate
from tersa.train.evaluation import Evaluation, evaluate
from tersa.train.history import HistoryWriter, read_history
from tersa.train.lessons import Lessons, prepare
from tersa.train.loop import Progress, Status, TrainResult, train

HISTORY, WEIGHTS, CHECKPOINT = "history.db", "model.safetensors", "checkpoint.safetensors"


class TrainedRun(Record):
    """Everything that `tersa train` found: `result.json`."""

    schema_version: int = SCHEMA
    verb: Literal["train"] = "train"
    name: str
    """Name of the run's folder."""
    command: str
    """What the user typed."""
    status: Status
    """`done`, `stopped-early` or `diverged`."""
    test_accuracy: float
    """Percent, of the kept weights on the whole test split."""
    test_loss: float
    """Mean cross-entropy there."""
    validation_accuracy: float
    """Percent, of the kept weights."""
    best_epoch: int
    """With the best validation accuracy; 0 when no epoch was finished."""
    epochs: int
    """Epochs that were evaluated."""
    parameters: int
    """Trainable values."""
    macs: int
    """Multiply-accumulates for one image."""
    task: str
    """The data as they were asked for."""
    task_note: str = ""
    """What a reader must know of the data."""
    model: str
    """The model as it was asked for."""
    bits: str = ""
    """Of a low-bit network: `1/1 (W/A), input 8, first 1/8, last 1/1`; empty for one in floating point."""
    config: TrainConfig
    """Settings of the training."""
    classes: list[str]
    """Names, in label order."""
    shape: tuple[int, int, int] | None = None
    """(C, H, W) of one image; None in a run of an older tersa, as are the next two."""
    mean: tuple[float, ...] | None = None
    """Per channel of pixels in 0..1: what the network's input is less by."""
    std: tuple[float, ...] | None = None
    """Per channel: what it is then divided by."""
    split_sizes: dict[str, int]
    """Images of train, validation and test."""
    sha256: dict[str, str]
    """Of the data's files and the model's, by name."""
    device: str
    """Where it was trained."""
    environment: Environment
    """Machine and versions."""
    artefacts: list[str]
    """Files in the run's folder."""
    report: str = ""
    """The page, in the run's folder."""
    seconds: float
    """Wall time of the training, over all attempts."""

    def absolute(self, folder: Path) -> Self:
        """The same with the whole paths of the artefacts and the page."""
        files = [str(folder / name) for name in self.artefacts]
        return self.model_copy(
            update={"artefacts": files, "report": str(folder / self.report) if self.report else ""}
        )


class TrainPlan(Record):
    """What a run would do and cost."""

    spec: TrainSpec
    """What would be done."""
    parameters: int
    """Trainable values."""
    macs: int
    """Multiply-accumulates for one image."""
    bits: str = ""
    """Of a low-bit network, in words; empty for one in floating point."""
    split_sizes: dict[str, int]
    """Images of train, validation and test."""
    device: str
    """Where it would be trained."""
    cost: Estimate
    """Time and memory, the teacher's left out."""
    teacher_seconds: float = 0.0
    """Of the teacher's answers: about its views, or about every batch."""
    teacher_bytes: int = 0
    """Of the answers to its views."""


def plan_training(
    request: TrainRequest, setting: Setting | None = None, *, teacher_later: bool = False
) -> TrainPlan:
    """What `run_training` would do, and about what it would cost; nothing is written.

    Args:
        request: what is asked.
        setting: how it is carried out.
        teacher_later: the teacher's weights will be there when it runs.

    Raises:
        UsageError, DataError, ModelError: what the run would raise before its work.
    """
    setting = setting or Setting()
    task, spec = _prepare(request, setting)
    device = choose(setting.device)
    with threads_of(setting):
        model, teacher = _model(spec, task)[0], _teacher(spec, task, untrained=teacher_later)
        cost = estimate(model, task, spec.config, device=device)
        images, views = len(task.train), _views(spec)
        asked = views * images if views else cost.iterations * min(spec.config.batch or images, images)
        return TrainPlan(
            spec=spec,
            parameters=parameters(model),
            macs=macs(model, task.shape),
            bits=bits_in_words(spec.model),
            split_sizes=_sizes(task),
            device=device,
            cost=cost,
            teacher_seconds=asking_seconds(teacher, task, asked, device=device) if teacher else 0.0,
            teacher_bytes=4 * views * images * len(task.classes),
        )


@releasing
def run_training(
    request: TrainRequest,
    out: Path,
    *,
    setting: Setting | None = None,
    resume: bool = False,
    overwrite: bool = False,
    evaluate_every: int = 1,
    lessons: Lessons | None = None,
) -> TrainedRun:
    """Train a model and keep everything about it in a folder.

    Args:
        request: what is asked.
        out: folder for the results.
        setting: how it is carried out.
        resume: go on with the run in `out`; a finished one is returned as it is.
        overwrite: start again.
        evaluate_every: epochs between two looks at the validation split, each a row of the history.
        lessons: the teacher's answers where `lessons_for` was asked for them before, with the same views.

    Returns:
        The result; a diverged run has that status, and the weights of its last good epoch.

    Raises:
        UsageError: the request cannot be carried out, or `out` holds another run.
        DataError, ModelError: data or model do not fit.
    """
    setting = setting or Setting()
    device = choose(setting.device)
    task, spec = _prepare(request, setting)
    with threads_of(setting):
        model, files = _model(spec, task)
        teacher = _teacher(spec, task)
        if lessons is not None and len(lessons.logits) != _views(spec):
            given = len(lessons.logits)
            raise UsageError(f"lessons of {given} views were given, {_views(spec)} are asked for")
        folder = open_folder(out, "train", spec, resume=resume, overwrite=overwrite)
        if not (folder / RESULT).is_file():
            done = _train(
                *(folder, spec, setting, task, model, teacher, device),
                resume=resume,
                evaluate_every=evaluate_every,
                lessons=lessons,
            )
            setting.say("test", 0.0, "")
            result, test = _finish(folder, spec, setting, task, model, files, device, done)
            setting.say("test", 0.5, f"{test.accuracy:.2f} %, now its page")
            seen = portrait(model, task, spec.config, spec=spec.model, device=device, answers=test.logits)
            write_record(folder / PORTRAIT, seen)
            write_record(folder / RESULT, result)
            write_report(folder, result)
            setting.say("test", 1.0, f"{test.accuracy:.2f} %")
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return read_record(folder / RESULT, TrainedRun)


def _prepare(request: TrainRequest, setting: Setting) -> tuple[Task, TrainSpec]:
    """The data and the whole spec; the cut of validation follows the run's seed."""
    seed = override(TrainConfig(), request.settings).seed  # and faults show before any data are fetched
    task = load_task(request.data, data_dir=setting.data_dir, seed=seed, validation=request.validation)
    return task, resolve(request, task, choose(setting.device))


def _model(spec: TrainSpec, task: Task) -> tuple[nn.Module, dict[str, str]]:
    start = Path(spec.checkpoint) if spec.checkpoint else None
    loaded = load_model(spec.model, task.shape, len(task.classes), seed=spec.config.seed, checkpoint=start)
    return loaded.module, loaded.sha256


def _teacher(spec: TrainSpec, task: Task, *, untrained: bool = False) -> nn.Module | None:
    """The teacher with its weights; one that knows nothing is refused, unless it is to be timed alone."""
    if not spec.teacher:
        return None
    weights = Path(spec.teacher_checkpoint) if spec.teacher_checkpoint else None
    loaded = load_model(spec.teacher, task.shape, len(task.classes), checkpoint=weights)
    if not loaded.trained and loaded.kind == "zoo" and not untrained:
        raise UsageError(
            f"teacher '{spec.teacher}' is not trained; give its weights with --teacher-checkpoint FILE"
        )
    return loaded.module


def _train(
    folder: Path,
    spec: TrainSpec,
    setting: Setting,
    task: Task,
    model: nn.Module,
    teacher: nn.Module | None,
    device: str,
    *,
    resume: bool,
    evaluate_every: int,
    lessons: Lessons | None,
) -> TrainResult:
    """Train with history, checkpoint and progress."""

    def show(at: Progress) -> None:
        accuracy = "" if at.validation_accuracy is None else f", {at.validation_accuracy:.2f} % on validation"
        remark = f"epoch {at.epoch}/{at.epochs}, loss {at.loss:.3f}{accuracy}"
        setting.say("train", at.iteration / at.iterations, remark)

    lessons = lessons or _lessons(teacher, task, spec, setting, device)
    setting.say("train", 0.0, "")
    with HistoryWriter(folder / HISTORY) as history:
        done = train(
            model,
            task,
            spec.config,
            teacher=lessons or teacher,
            device=device,
            checkpoint=folder / CHECKPOINT,
            resume=resume,
            progress=show,
            on_epoch=history.add,
            evaluate_every=evaluate_every,
        )
    setting.say("train", 1.0, _remark(done))
    return done


def _views(spec: TrainSpec) -> int:
    """Views that there will be: one where nothing is augmented, none where the teacher is asked otherwise."""
    if not spec.teacher_views:
        return 0
    return spec.teacher_views if spec.config.augments else 1


def lessons_for(request: TrainRequest, setting: Setting | None = None) -> Lessons | None:
    """The answers of a request's teacher to its views, for `run_training`; None where it asks for no views.

    Every request with the same data, validation, teacher, views, augmentation, seed, precision and device has
    the same answers.

    Raises:
        UsageError, DataError, ModelError: what the run would raise before its work.
    """
    setting = setting or Setting()
    task, spec = _prepare(request, setting)
    with threads_of(setting):
        return _lessons(_teacher(spec, task), task, spec, setting, choose(setting.device))


def _lessons(
    teacher: nn.Module | None, task: Task, spec: TrainSpec, setting: Setting, device: str
) -> Lessons | None:
    """The teacher's answers, where views are asked for."""
    if teacher is None or not spec.teacher_views:
        return None
    setting.say("teacher", 0.0, "")
    return prepare(
        teacher,
        task,
        flip=spec.config.flip,
        pad=spec.config.pad,
        views=spec.teacher_views,
        seed=spec.config.seed,
        device=device,
        precision=spec.config.precision,
        progress=lambda share: setting.say("teacher", share, ""),
    )


def _remark(done: TrainResult) -> str:
    best = [row.validation_accuracy for row in done.history if row.epoch == done.best_epoch]
    return f"{done.status}, {best[0]:.2f} % on validation" if best else done.status


def _finish(
    folder: Path,
    spec: TrainSpec,
    setting: Setting,
    task: Task,
    model: nn.Module,
    files: dict[str, str],
    device: str,
    done: TrainResult,
) -> tuple[TrainedRun, Evaluation]:
    """Write the weights, read the test split once, and put together what is known of the run."""
    remove_leftovers(folder / WEIGHTS)
    save_weights(model, folder / WEIGHTS)
    validation = evaluate(model, task.validation, task, device=device)
    test = evaluate(model, task.test, task, device=device)
    model.to("cpu")
    found = TrainedRun(
        name=folder.name,
        command=setting.command or f"tersa train --data {spec.data} --model {spec.model}",
        status=done.status,
        test_accuracy=test.accuracy,
        test_loss=test.loss,
        validation_accuracy=validation.accuracy,
        best_epoch=done.best_epoch,
        epochs=len(done.history),
        parameters=parameters(model),
        macs=macs(model, task.shape),
        task=task.name,
        task_note=task.provenance.note,
        model=spec.model,
        bits=bits_in_words(spec.model),
        config=spec.config,
        classes=list(task.classes),
        shape=task.shape,
        mean=task.mean,
        std=task.std,
        split_sizes=_sizes(task),
        sha256={**task.provenance.sha256, **{Path(name).name: value for name, value in files.items()}},
        device=device,
        environment=environment(torch.get_num_threads()),
        artefacts=[WEIGHTS],
        report=REPORT,
        seconds=done.seconds,
    )
    return found, test


def history_of(folder: Path) -> list[Epoch]:
    """The epochs of a run, finished or not.

    Raises:
        DataError: the folder has none.
    """
    return read_history(folder / HISTORY)


def bits_in_words(model: str) -> str:
    """What `LowBits.describe` says of a spec's network; empty for one in floating point.

    >>> bits_in_words("sfc+w1a1:in=1"), bits_in_words("lenet")
    ('1/1 (W/A), input 1, first 1/1, last 1/1', '')
    """
    bits = bits_of(model)
    return "" if bits is None else bits.describe()


def _sizes(task: Task) -> dict[str, int]:
    return {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)}
