"""The jobs of a recipe that leave files, tables and figures: export, bench, study, reproduce.

Example:
    >>> request = study_request({"fixed": {"model": "mlp:8"}, "axes": {"bits": [2, 3]}, "data": "digits"})
    >>> request.spec.fixed
    {'data': 'digits', 'model': 'mlp:8'}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from tersa.errors import TersaError, UsageError, faults, unknown
from tersa.models import zoo
from tersa.models.load import kind_of
from tersa.recipes.adaptation import AdaptationRequest, plan_adaptation, run_adaptation
from tersa.recipes.bench import (
    BenchRequest,
    make_plan,
    parse_batches,
    parse_cores,
    parse_precisions,
    parse_targets,
    parse_until,
    run_bench,
)
from tersa.recipes.bench_cross import split_adapted
from tersa.recipes.bench_report import write_report as write_bench
from tersa.recipes.binary_vgg import BinaryVgg, chosen_rows, reproduce_binary_vgg
from tersa.recipes.export import ExportRequest, export_subject
from tersa.recipes.folder import RESULT
from tersa.recipes.formats import FORMATS
from tersa.recipes.hardware import HardwareRequest, plan_hardware, run_hardware
from tersa.recipes.pruning_study import Pruning, chosen_curves, reproduce_pruning
from tersa.recipes.quantized_training import Reproduction, reproduce, study_of
from tersa.recipes.recipe_kind import Cost, Kind, Outcome, Trial, built, trying
from tersa.recipes.setting import Setting
from tersa.recipes.study import DATABASE, launch_of, run_study
from tersa.recipes.study_verdict import verdict
from tersa.recipes.subjects import needs_task
from tersa.records.base import Record, write_record
from tersa.report.numbers import percent, plural, size
from tersa.study.launch import check
from tersa.study.spec import Block, StudySpec, Value, expand, read_spec
from tersa.study.store import StudyStore
from tersa.study.workers import Shelf

R = TypeVar("R", bound=Record)


class ExportStep(Record):
    """Settings of an `export` step."""

    run: str | None = None
    """A step or run folder whose network is exported."""
    model: str | None = None
    """Or a model by name, with `checkpoint`."""
    checkpoint: str | None = None
    """Weights of a model."""
    data: str | None = None
    """What a model was trained on; gives INT8 its ranges."""
    format: str = "onnx"
    """`onnx`, `tersa`, `qonnx` or `c`."""
    precision: str | None = None
    """Of onnx: `fp32` or `int8`."""
    at: str | None = None
    """Of a run of shrink, prune or adapt: an earlier point."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"model{FORMATS[self.format].suffix}"


def export_request(settings: Mapping[str, Any]) -> ExportStep:
    """Settings of an export, checked.

    Raises:
        UsageError: no network or two, an unknown format or precision.
    """
    step = built(lambda: ExportStep(**settings), "export")
    found: list[str] = []
    if (step.run is None) == (step.model is None):
        found.append("give run (a step or a folder) or model, one of them")
    if step.format not in FORMATS:
        found.append(str(unknown("format", step.format, FORMATS)))
    elif step.precision is not None and step.precision not in FORMATS[step.format].precisions:
        found.append(
            str(unknown(f"precision of {step.format}", step.precision, FORMATS[step.format].precisions))
        )
    if step.model is not None and step.data is None:
        found.append("model needs data: what it was trained on gives its input, classes and normalisation")
    if step.precision == "int8" and step.data is None:
        found.append("precision int8 needs data: training images give the ranges of activations")
    if found:
        raise faults("export", found)
    return step


def _try_export(step: ExportStep, trial: Trial) -> str:
    source = trial.source
    model = source.model if source else step.model or ""
    if step.at is not None and source is not None and source.job not in ("shrink", "prune", "adapt"):
        raise UsageError(f"at picks a point of shrink, prune or adapt; '{source.name}' is a {source.job}")
    if model and step.format != "onnx" and zoo.bits_of(model) is None:
        raise UsageError(
            f"format {step.format} is for a low-bit network, {model} is in floating point; give format "
            "onnx, or export a step of binary"
        )
    return model


def _export(step: ExportStep, folder: Path, setting: Setting) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    result = export_subject(
        ExportRequest(
            step.run or str(step.model),
            folder / step.file,
            step.format,
            step.precision,
            step.data,
            setting.data_dir,
            Path(step.checkpoint) if step.checkpoint else None,
            overwrite=True,
            at=step.at,
        )
    )
    write_record(folder / RESULT, result)
    accuracy = "" if result.test_accuracy is None else f", {percent(result.test_accuracy)} on test"
    return Outcome(
        verdict=(
            f"{step.file}, {result.precision}, {size(result.size_bytes)}{accuracy}; same class on "
            f"{result.agreement.same_class} of {result.agreement.images} images"
        ),
        after=Cost(test_accuracy=result.test_accuracy, size_bytes=result.size_bytes),
        artefacts=result.artefacts,
    )


BENCH = frozenset(BenchRequest.model_fields) - {"data_dir"}


def bench_request(settings: Mapping[str, Any]) -> BenchRequest:
    """The request of `tersa bench`.

    Raises:
        UsageError: values that cannot be, all together.
    """
    found: list[str] = []
    request = trying(found, lambda: BenchRequest(**settings))
    if request is not None:
        if not request.models:
            found.append("models is empty; name steps, run folders, files or models")
        parts: list[Callable[[], Any]] = [
            partial(parse_targets, request.targets),
            partial(parse_precisions, request.precision),
            partial(parse_batches, request.batch),
            partial(parse_until, request.until),
            partial(parse_cores, request.cores),
        ]
        for part in parts:
            trying(found, part)
    if request is None or found:
        raise faults("bench", found)
    return request


def _try_bench(request: BenchRequest, trial: Trial) -> str:
    """Models by name must be known; folders and files were looked for before."""
    found: list[str] = []
    for text in request.models:
        name = split_adapted(text)[0]
        if needs_task(name) and not Path(name).is_relative_to(trial.out):
            kind = trying(found, partial(kind_of, name))
            if kind == "zoo":
                trying(found, partial(zoo.parse, name.partition("+")[0]))
    if found:
        raise faults("bench", found)
    return ""


def _bench(request: BenchRequest, folder: Path, setting: Setting) -> Outcome:
    placed = request.model_copy(update={"data_dir": str(setting.data_dir) if setting.data_dir else None})
    plan = make_plan(placed)
    result = run_bench(placed, plan, folder, resume=True, command=setting.command, say=setting.say)
    write_bench(folder, result)
    wrong = [gap for gap in result.not_offered if gap.kind in ("wrong outputs", "failed")]
    if wrong:
        first = wrong[0]
        raise TersaError(
            f"{len(wrong)} combinations went wrong, first: {first.model} on {first.target}: {first.reason}"
        )
    return Outcome(
        verdict=result.verdict,
        artefacts=[str(folder / name) for name in result.artefacts if (folder / name).is_file()],
        report=str(folder / result.report),
    )


def _estimate_bench(request: BenchRequest, trial: Trial) -> float | None:
    targets = [one for _, one in parse_targets(request.targets) if not isinstance(one, str)]
    rows = len(targets) * len(request.models) * max(1, len(parse_precisions(request.precision)))
    sizes = len(parse_batches(request.batch).sizes)
    return rows * (sizes * request.seconds * 1.6 + 1.5)


@dataclass(frozen=True)
class StudyOrder:
    """A study and how it is run."""

    spec: StudySpec
    workers: int | None = None


class StudyStep(Record):
    """Settings of a `study` step: a file, or what the file would say."""

    file: str | None = None
    """A study.toml; the others say nothing then."""
    title: str = "study"
    """Of the study, for people."""
    description: str = ""
    """What it is to find out."""
    seeds: int | list[int] | None = None
    """Seeds 1..n of every setting, or these; None: `seed`, or else 3."""
    seed: int | None = None
    """The one seed of every setting, where `seeds`, `fixed` and `axes` say nothing of it."""
    skip: bool = False
    """Leave combinations without meaning out."""
    fixed: dict[str, Value] = Field(default_factory=dict[str, Value])
    """Settings of every run."""
    axes: dict[str, list[Value]] = Field(default_factory=dict[str, list[Value]])
    """Settings that are multiplied."""
    also: list[Block] = Field(default=[])
    """More products."""
    data: str | None = None
    """The data set, where `fixed` and `axes` say nothing of it."""
    model: str | None = None
    """The network, likewise."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that train at once; None for as many as the cores carry."""


def study_request(settings: Mapping[str, Any]) -> StudyOrder:
    """A study from settings; every run of it is known afterwards.

    Raises:
        UsageError: settings that cannot be, all together; both a file and settings.
    """
    step = built(lambda: StudyStep(**settings), "study")
    if step.file is not None:
        idle = [name for name in ("seeds", "seed", "skip", "fixed", "axes", "also") if name in settings]
        if idle:
            raise UsageError(
                f"file brings the study; leave out {', '.join(idle)}, or write them without file"
            )
        spec = read_spec(Path(step.file))
    else:
        named = {*step.fixed, *step.axes}
        more: dict[str, Value] = {
            key: value
            for key, value in (("data", step.data), ("model", step.model))
            if value is not None and key not in named
        }
        spec = StudySpec(
            name=step.title,
            description=step.description,
            seeds=_seeds(step),
            skip=step.skip,
            fixed={**more, **step.fixed},
            axes=step.axes,
            also=step.also,
        )
    expand(spec)
    return StudyOrder(spec, step.workers)


def _seeds(step: StudyStep) -> int | list[int] | None:
    named = step.seeds is not None or "seed" in {*step.fixed, *step.axes}
    return step.seeds if named or step.seed is None else [step.seed]


def _try_study(order: StudyOrder, trial: Trial) -> str:
    launch = launch_of(trial.setting, order.workers)
    check(expand(order.spec).cells, Shelf(trial.setting.data_dir), launch)
    return ""


def _study(order: StudyOrder, folder: Path, setting: Setting) -> Outcome:
    result = run_study(order.spec, folder, setting, workers=order.workers, resume=True, retry=True)
    if result.failed:
        raise TersaError(f"{result.failed} of {result.cells} runs failed, the first: {result.trouble}")
    diverged = f", {result.diverged} diverged" if result.diverged else ""
    with StudyStore(folder / DATABASE) as store:
        answer = verdict(store.results())
    return Outcome(
        verdict=f"{answer.headline} ({plural(result.cells, 'run')}{diverged})",
        artefacts=result.artefacts,
        report=result.report,
    )


@dataclass(frozen=True)
class Again:
    """An experiment of a document that a recipe can name.

    Attributes:
        request: its settings.
        trial: checks them. Raises TersaError.
        work: does it.
    """

    request: type[Record]
    trial: Callable[[Any], object]
    work: Callable[[Any, Path, Setting], Outcome]


def _said(result: Any, folder: Path) -> Outcome:
    """What every reproduction's result has; paths inside the folder, or whole."""

    def whole(name: str) -> str:
        return str(folder / name) if (folder / name).exists() else name

    failed, trouble = getattr(result, "failed", 0), getattr(result, "trouble", "")
    if failed:
        raise TersaError(f"{plural(failed, 'run')} failed" + (f", the first: {trouble}" if trouble else ""))
    return Outcome(
        verdict=result.verdict,
        artefacts=[whole(name) for name in result.artefacts],
        report=whole(result.report) if result.report else "",
    )


def _quantized(wanted: Reproduction, folder: Path, setting: Setting) -> Outcome:
    return _said(reproduce(wanted, folder, setting, resume=True)[0], folder)


def _pruning(wanted: Pruning, folder: Path, setting: Setting) -> Outcome:
    return _said(reproduce_pruning(wanted, folder, setting, resume=True), folder)


def _binary_vgg(wanted: BinaryVgg, folder: Path, setting: Setting) -> Outcome:
    return _said(reproduce_binary_vgg(wanted, folder, setting, resume=True), folder)


def _hardware(wanted: HardwareRequest, folder: Path, setting: Setting) -> Outcome:
    plan = plan_hardware(_placed(wanted, setting))
    return _said(run_hardware(plan, folder, command=setting.command, resume=True, say=setting.say), folder)


def _adaptation(wanted: AdaptationRequest, folder: Path, setting: Setting) -> Outcome:
    plan = plan_adaptation(_placed(wanted, setting))
    return _said(run_adaptation(plan, folder, command=setting.command, resume=True, say=setting.say), folder)


def _placed(wanted: R, setting: Setting) -> R:
    """With the folder that data are looked for in first."""
    return wanted.model_copy(update={"data_dir": str(setting.data_dir) if setting.data_dir else None})


AGAIN = {
    "quantized-training": Again(Reproduction, lambda wanted: expand(study_of(wanted)), _quantized),
    "pruning": Again(Pruning, chosen_curves, _pruning),
    "hardware": Again(HardwareRequest, plan_hardware, _hardware),
    "adaptation": Again(AdaptationRequest, plan_adaptation, _adaptation),
    "binary-vgg": Again(BinaryVgg, chosen_rows, _binary_vgg),
}


@dataclass(frozen=True)
class AgainOrder:
    """An experiment with its settings."""

    experiment: str
    wanted: Record


def again_request(settings: Mapping[str, Any]) -> AgainOrder:
    """An experiment of `tersa reproduce`.

    Raises:
        UsageError: none named, an unknown one, or settings that it does not have.
    """
    given = dict(settings)
    experiment = given.pop("experiment", None)
    if experiment is None:
        raise UsageError(f"experiment is not given; known: {', '.join(sorted(AGAIN))} (tersa reproduce list)")
    if experiment not in AGAIN:
        raise unknown("experiment", str(experiment), AGAIN)
    kind = AGAIN[experiment].request
    found = [
        str(unknown(f"setting of {experiment}", key, kind.model_fields))
        for key in given
        if key not in kind.model_fields
    ]
    known = {key: value for key, value in given.items() if key in kind.model_fields}
    wanted = trying(found, lambda: kind(**known))
    if wanted is None or found:
        raise faults(str(experiment), found)
    return AgainOrder(str(experiment), wanted)


def _try_again(order: AgainOrder, trial: Trial) -> str:
    AGAIN[order.experiment].trial(order.wanted)
    return ""


def _again(order: AgainOrder, folder: Path, setting: Setting) -> Outcome:
    return AGAIN[order.experiment].work(order.wanted, folder, setting)


REPRODUCE = frozenset({"experiment"}).union(*(each.request.model_fields for each in AGAIN.values())) - {
    "data_dir"
}


def _of_experiment(settings: Mapping[str, Any]) -> frozenset[str]:
    """What the chosen experiment knows; everything where there is no such experiment."""
    chosen = AGAIN.get(str(settings.get("experiment")))
    return REPRODUCE if chosen is None else REPRODUCE & {"experiment", *chosen.request.model_fields}


TABLES = (
    Kind(
        "export",
        "one checked file in a format and precision",
        "file",
        frozenset(ExportStep.model_fields),
        {"run": ("network", "file")},
        export_request,
        _try_export,
        _export,
        file=lambda step: step.file,
    ),
    Kind(
        "bench",
        "measured side by side on runtimes",
        "table",
        BENCH,
        {"models": ("network", "file")},
        bench_request,
        _try_bench,
        _bench,
        _estimate_bench,
    ),
    Kind(
        "study",
        "hundreds of runs over rules, bits, storage, seeds",
        "table",
        frozenset(StudyStep.model_fields),
        {},
        study_request,
        _try_study,
        _study,
    ),
    Kind(
        "reproduce",
        "a document's experiment again, beside its numbers",
        "table",
        REPRODUCE,
        {"runs": ("network",)},
        again_request,
        _try_again,
        _again,
        shared=_of_experiment,
    ),
)
