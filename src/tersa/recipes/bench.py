"""`tersa bench`: models, runtimes, precisions and batch sizes against one another, measured side by side.

For every target and batch size all models in all precisions run in the same interleaved rounds, each in a
process of its own (`tersa.targets.sweep`), and each is compared with the first that was named, the reference,
where that is measured. What a runtime does not offer, and where memory or time ends, is listed with the
reason, never left out.

    lenet, runs/demo, net.onnx         models as elsewhere; the first is the reference
    runs/fit=openvino                  a model that was adapted for a target: gives the cross table

A run of `tersa shrink` or `tersa adapt` that had a latency goal carries the target that it was adapted for.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tersa.binary.convert import is_low_bit
from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import ModelError, TargetError, UsageError, faults, unknown
from tersa.export.artefact import PACKED
from tersa.models.load import kind_of
from tersa.recipes.bench_cross import adapted_for, cross_table, split_adapted
from tersa.recipes.bench_layers import layer_tables
from tersa.recipes.bench_matrix import (
    LARGEST_BATCH,
    Batches,
    File,
    Found,
    Job,
    alive,
    nothing,
    packs,
    run_matrix,
    suits,
    with_accuracy,
)
from tersa.recipes.bench_result import BenchResult, Reference
from tersa.recipes.bench_verdict import energy_known, fewer_starts, headline, unled
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.subjects import CODED, Subject, find_subject, needs_task, to_artefact
from tersa.records.base import Record, write_record
from tersa.report.bench_page import REPORT
from tersa.targets.base import PRECISIONS, Target
from tersa.targets.environment import environment, memory_each
from tersa.targets.lanes import Limits
from tersa.targets.packed import SLOW
from tersa.targets.registry import DEFAULT, parse, split_list
from tersa.targets.ssh import is_remote
from tersa.targets.sweep import Gap

Say = Callable[[str, float, str], None]

DEFAULT_DATA = "digits"

OVERHEAD = 2.5
"""Wall time over timed time: warm-up, and the untimed calls of every round."""
START_SECONDS = 1.0
"""Of a process, about."""
STARTS, STARTS_FROM_S = 20, 0.5
"""Processes of each network, one after the other, where this many seconds or more are timed; else one."""

FILE_OF = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp32", "int8": "int8"}
"""The precision of the file for each precision to run in: runtimes make 16 bits of FP32 as they load."""


class BenchRequest(Record):
    """What was asked, as on the command line; it is the `spec.toml` of a benchmark that is kept.

    Attributes:
        until: memory of a process, seconds of a call, or both, where raising the batch ends (`4GB,2s`).
        watts: power for estimated energy where the machine has no counter.
        cores: processors that the processes may run on (`0,1`); empty for all.
        test_images: of the test split that accuracy is measured on; None for all.
        layers: also profile every model on every target, layer by layer.
        starts: processes of each network, one after the other; None for `STARTS`, or 1 for short timing.
        network: of a `.coded` file that does not name its own.
    """

    models: list[str]
    targets: str = DEFAULT
    batch: str = "1"
    precision: str = ""
    data: str | None = None
    data_dir: str | None = None
    checkpoint: str | None = None
    seconds: float = 1.0
    seed: int = 0
    until: str = ""
    watts: float | None = None
    cores: str = ""
    test_images: int | None = None
    layers: bool = False
    network: str | None = None
    starts: int | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure, checked.

    Attributes:
        subjects: the models; every other is compared with the first.
        targets: runtimes as texts, with the runtime or the reason why it is not there.
        precisions: to run each model in; empty means as it is stored (fp32 for a model), and a low-bit
            network packed, too, on the targets that run packed programs.
        batches: images per call.
        seconds: of timed calls per combination.
        task: gives real images, INT8 ranges and test accuracy; None without data.
        made_for: the target that a model was adapted for, by model.
        limits: where raising the batch ends.
        cores: that the processes may run on.
        starts: processes of each network, one after the other.
    """

    subjects: list[Subject]
    targets: list[tuple[str, Target | str]]
    precisions: list[str]
    batches: Batches
    seconds: float = 1.0
    task: Task | None = None
    made_for: dict[str, str] = field(default_factory=dict[str, str])
    limits: Limits = field(default_factory=Limits)
    cores: tuple[int, ...] = ()
    starts: int = 1

    def wanted(self, subject: Subject) -> list[str]:
        """The precisions that one model is run in."""
        stored = subject.header.precision
        if self.precisions or stored == PACKED or subject.module is None or not is_low_bit(subject.module):
            return self.precisions or [stored]
        return [stored, PACKED] if any(packs(one) for _, one in self.targets) else [stored]

    @property
    def packable(self) -> frozenset[str]:
        """Models that are run in two forms, packed and not, each target in those that suit it."""
        if self.precisions:
            return frozenset()
        return frozenset(subject.name for subject in self.subjects if len(self.wanted(subject)) > 1)

    @property
    def processes(self) -> int:
        """How many live at the same time at most."""
        forms = [(subject.name, form) for subject in self.subjects for form in self.wanted(subject)]
        return alive(self.targets, forms, self.packable)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Every combination: model, target, precision, batch."""
        packable = self.packable
        return [
            (subject.name, text, precision, str(batch))
            for text, target in self.targets
            for batch in self.batches.sizes
            for subject in self.subjects
            for precision in self.wanted(subject)
            if suits(packable, subject.name, precision, target)
        ]

    @property
    def combinations(self) -> int:
        """How many rows the table can have."""
        return len(self.rows())

    @property
    def expected_seconds(self) -> float:
        """About how long the measuring takes."""
        processes = self.combinations / len(self.batches.sizes) + self.combinations * (self.starts - 1)
        return self.combinations * self.seconds * OVERHEAD + processes * START_SECONDS


def parse_targets(text: str) -> list[tuple[str, Target | str]]:
    """Targets separated by commas; one that is not installed gives the reason instead.

    Raises:
        UsageError: unknown names, options or values, or a target twice, in one spelling or in two.
    """
    found: list[tuple[str, Target | str]] = []
    spelt: dict[str, str] = {}
    for piece in split_list(text):
        try:
            target = parse(piece)
        except TargetError as error:
            found.append((piece, str(error)))
            continue
        name = target.describe()
        if name in spelt:
            raise UsageError(f"target '{name}' is given twice: as {spelt[name]} and as {piece}")
        spelt[name] = piece
        found.append((name, target))
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


def parse_batches(text: str) -> Batches:
    """`1,8` as it stands; `1..64` doubles from one to the other; `1..` doubles until memory or time ends.

    >>> parse_batches("1,8").sizes, parse_batches("1..8").sizes, parse_batches("4..").describe()
    ((1, 8), (1, 2, 4, 8), '4, ...')

    An open range that begins below other sizes passes them:

    >>> parse_batches("12,4..").describe()
    '4, 8, 12, 16, ...'
    """
    found: list[int] = []
    size, last = 1, ""
    for piece in (piece.strip() for piece in text.split(",") if piece.strip()):
        first, dots, last = piece.partition("..")
        number = r"[1-9][0-9]{0,5}"
        if last == "" and dots and piece != text.split(",")[-1].strip():
            raise UsageError(f"--batch '{text}': an open range stands at the end, as in 1,3,8..")
        if not re.fullmatch(number, first) or not re.fullmatch(f"({number})?", last):
            raise UsageError(
                f"--batch takes whole numbers above 0, separated by commas, 1..64 or 1.., not '{text}'"
            )
        if last and int(last) < int(first):
            raise UsageError(f"--batch '{piece}': the second number is the larger one")
        size, end = int(first), int(last or first)
        while size <= end:
            found.append(size)
            size *= 2
    if not found:
        raise UsageError(f"--batch takes whole numbers above 0, separated by commas, not '{text}'")
    endless = text.strip().endswith("..")
    while endless and size // 2 < max(found) and size <= LARGEST_BATCH:
        found.append(size)
        size *= 2
    return Batches(tuple(sorted(set(found))), open=endless)


def parse_until(text: str) -> Limits:
    """`4GB`, `2s` or both.

    >>> parse_until("4GB, 500ms")
    Limits(memory=4000000000, call_s=0.5)
    """
    memory: int | None = None
    seconds: float | None = None
    units = {"s": 1.0, "ms": 1e-3, "mb": 1e6, "gb": 1e9, "mib": 2.0**20, "gib": 2.0**30}
    for piece in filter(None, (piece.strip().lower() for piece in text.split(","))):
        found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(s|ms|[mg]i?b)", piece)
        if not found or float(found[1]) <= 0:
            raise UsageError(f"--until takes memory (4GB), time of a call (2s) or both, not '{text}'")
        value = float(found[1]) * units[found[2]]
        if found[2].endswith("b"):
            memory = int(value)
        else:
            seconds = value
    return Limits(memory, seconds)


def parse_cores(text: str) -> tuple[int, ...]:
    """`0,2` as processors.

    >>> parse_cores("0,"), parse_cores("")
    ((0,), ())
    """
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not all(piece.isdecimal() for piece in pieces):
        raise UsageError(f"--cores takes processor numbers separated by commas, not '{text}'")
    found = tuple(int(piece) for piece in pieces)
    allowed = allowed_cores() if found else []
    wrong = [core for core in found if core not in allowed]
    if found and not allowed:
        raise UsageError("--cores: this system does not bind processes to processors; leave it out")
    if wrong:
        raise UsageError(
            f"--cores: this process may not run on {wrong[0]}; it may on {', '.join(map(str, allowed))}"
        )
    return found


def make_plan(request: BenchRequest) -> Plan:
    """Check a request, and load what it names; a model without data takes its input shape from `digits`.

    Raises:
        UsageError: all that is wrong with it.
        ModelError: a file that cannot be loaded.
    """
    targets = parse_targets(request.targets)
    precisions = parse_precisions(request.precision)
    batches = parse_batches(request.batch)
    limits = parse_until(request.until)
    cores = parse_cores(request.cores)
    _check_cores(cores, targets, request.layers)
    pairs = [split_adapted(text) for text in request.models]
    models = [name for name, _ in pairs]
    twice = sorted({name for name in models if models.count(name) > 1})
    if twice:
        raise UsageError(f"model '{twice[0]}' is given twice")
    specs = [name for name in models if needs_task(name)]
    if request.checkpoint and len(specs) != 1:
        raise UsageError(f"--checkpoint belongs to one model, {len(specs)} are given")
    if request.network and not any(name.endswith(CODED) for name in models):
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
        for model in models
    ]
    given = {name: target for name, target in pairs if target}
    carried = {name: target for name in models[1:] if (target := adapted_for(Path(name)))}
    plan = Plan(
        *(subjects, targets, precisions, batches, request.seconds, task, carried | given, limits, cores),
        starts=request.starts or (STARTS if request.seconds >= STARTS_FROM_S else 1),
    )
    if limits.memory is None:
        plan = replace(plan, limits=Limits(memory_each(plan.processes), limits.call_s))
    return plan


def _check_cores(cores: tuple[int, ...], targets: list[tuple[str, Target | str]], layers: bool) -> None:
    """Refuse what `--cores` would not hold for.

    Raises:
        UsageError: everything of it.
    """
    if not cores:
        return
    wrong = [
        f"{text} asks for {target.threads} threads; name as many processors, or fewer threads"
        for text, target in targets
        if not isinstance(target, str) and not is_remote(text) and target.threads > len(cores)
    ]
    wrong += [
        f"{text} runs on another machine, whose processors it does not bind; measure it by itself"
        for text, _ in targets
        if is_remote(text)
    ]
    if layers:
        numbers = ",".join(map(str, cores))
        wrong.append(
            f"--layers profiles in a process that it does not bind; bind all: taskset -c {numbers} tersa ..."
        )
    if wrong:
        raise faults(f"--cores {','.join(map(str, cores))}", wrong)


@releasing
def run_bench(
    request: BenchRequest,
    plan: Plan,
    out: Path | None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    say: Say | None = None,
) -> BenchResult:
    """Measure, and keep the exported files, the cells, `result.json` and the report in `out` where one is
    given.

    Raises:
        UsageError: `out` exists, or not one combination is offered.
        TargetError: not one combination could be measured.
        DataError: finished cells in `out` are of other files, or of another machine.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
            found = bench(request, plan, Path(folder), say, keep=False)
        kept = [path for path in found.artefacts if Path(path).parent != Path(folder)]
        return found.model_copy(update={"artefacts": kept, "command": command})
    open_folder(out, "bench", request, resume=resume, overwrite=overwrite)
    found = bench(request, plan, out, say)
    inside = [Path(path).name if Path(path).parent == out else path for path in found.artefacts]
    found = found.model_copy(update={"artefacts": inside, "command": command, "report": REPORT})
    write_record(out / RESULT, found)
    return found


def bench(
    request: BenchRequest, plan: Plan, folder: Path, say: Say | None = None, *, keep: bool = True
) -> BenchResult:
    """Measure everything in the plan.

    Args:
        request: what was asked.
        plan: the same, checked.
        folder: where exported files and finished cells go.
        say: told (task, fraction, remark) as the work goes on.
        keep: keep finished cells, and read those that are there.

    Raises:
        UsageError: not one combination is offered.
        TargetError: not one could be measured.
        DataError: finished cells in `folder` are of other files, or of another machine.
    """
    start = time.perf_counter()
    tell = say or (lambda _task, _fraction, _remark: None)
    gaps: list[Gap] = []
    notes: list[str] = []
    machine = environment(
        max((one.threads for _, one in plan.targets if not isinstance(one, str)), default=1)
    )
    files = _files(plan, folder, gaps, notes, tell)
    task = plan.task
    tested = 0 if task is None else min(len(task.test), request.test_images or len(task.test))
    job = Job(
        targets=plan.targets,
        files=files,
        batches=plan.batches,
        seconds=plan.seconds,
        limits=plan.limits,
        watts=request.watts,
        cores=plan.cores,
        task=task,
        tested=tested,
        starts=plan.starts,
        packable=plan.packable,
        model=plan.subjects[0].name,
    )
    found = run_matrix(job, folder if keep else None, tell) if files else Found([], [], 0)
    cells = [with_accuracy(cell, found.accuracies) for cell in found.cells]
    measurements = [row for cell in cells for row in cell.rows]
    gaps = list(
        {
            gap.model_dump_json(): gap for gap in [*gaps, *(gap for cell in cells for gap in cell.gaps)]
        }.values()
    )
    if not measurements:
        raise nothing(gaps)
    notes += found.notes
    if found.again:
        notes.append(f"{found.again} of {len(cells)} cells were measured by an earlier call and read back")
    slow = sorted({f"{row.target} in {row.precision}" for row in measurements if SLOW in row.runtime})
    if slow:
        notes.append(f"a slow path, not what the target is made for: {', '.join(slow)}")
    layers = layer_tables(job, measurements, notes, tell) if request.layers else []
    result = BenchResult(
        data=task.name if task else "",
        reference=_reference(job),
        measurements=measurements,
        comparisons=[pair for cell in cells for pair in cell.comparisons],
        across=[pair for cell in cells for pair in cell.across],
        not_offered=gaps,
        accuracies=found.accuracies,
        layers=layers,
        energy=energy_known(measurements),
        environment=machine,
        notes=notes,
        artefacts=list(dict.fromkeys(str(file.artefact.path) for file in files)),
        seconds=time.perf_counter() - start,
    )
    cross = cross_table(result, plan.made_for)
    notes += [*unled(result), *fewer_starts(measurements, plan.starts)]
    if plan.made_for and cross is None:
        notes.append(f"no cross table: no adapted model was timed beside the original, {job.model}")
    result = result.model_copy(update={"cross": cross, "notes": notes})
    verdict, detail = headline(result)
    return result.model_copy(update={"verdict": verdict, "detail": detail})


def _reference(job: Job) -> Reference:
    names = {text: text if isinstance(one, str) else one.describe() for text, one in job.targets}
    found = {names[text]: job.reference_on(one) for text, one in job.targets}
    return Reference(
        model=job.model,
        precisions={target: precision for target, precision in found.items() if precision},
        target=names[job.targets[0][0]],
    )


def allowed_cores() -> list[int]:
    """Processors that this process may run on."""
    import psutil

    return list(psutil.Process().cpu_affinity() or []) if hasattr(psutil.Process, "cpu_affinity") else []


def _files(plan: Plan, folder: Path, gaps: list[Gap], notes: list[str], tell: Say) -> list[File]:
    """Every model in every precision as a file; what cannot be made is a gap on the targets it suits."""
    found: list[File] = []
    made: dict[tuple[int, str], File] = {}
    for index, subject in enumerate(plan.subjects):
        tell("preparing", index / len(plan.subjects), subject.name)
        for precision in plan.wanted(subject):
            stored = FILE_OF.get(precision, precision)
            path = folder / f"{index}-{stored}.onnx"
            try:
                if (index, stored) not in made:
                    artefact = to_artefact(subject, stored, path, plan.task)
                    made[index, stored] = File(subject, stored, artefact)
                    if path.exists() and stored == "int8" and plan.task is None:
                        notes.append(
                            f"{subject.name}: INT8 ranges come from noise (no --data): "
                            "right for timing, not for use"
                        )
            except (TargetError, ModelError) as error:
                gaps += [
                    Gap(model=subject.name, target=text, precision=precision, reason=str(error))
                    for text, target in plan.targets
                    if suits(plan.packable, subject.name, precision, target)
                ]
                continue
            found.append(File(subject, precision, made[index, stored].artefact))
    tell("preparing", 1.0, "")
    return found
