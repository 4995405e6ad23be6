"""`tersa reproduce hardware`: document 003's networks on every runtime of this machine, beside its devices.

AlexNet and MobileNet V1 with ten outputs, at 224x224 as in the document and in their 32x32 forms, are
measured by `bench_matrix` on all targets: latency at batch 1, time and throughput against the batch, in FP32,
BF16 and INT8. Weights are those of initialisation unless a run is given: they change no time, and accuracies
are then not told. Runs of `tersa adapt` (or prune, shrink) of the same networks are measured beside the
originals in the same rounds, on every target: the document's cross evaluation.

Each network and size has a folder of its own with its artefacts and one file for every target and batch size,
so that a killed run goes on with `--resume`.

Example:
    >>> asked = HardwareRequest(networks=("alexnet",), sides=(32,), targets="torch@threads=1")
    >>> plan_hardware(asked).combinations
    9

References:
    Document 003 (master thesis, UdelaR 2024), chapter 4.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import TargetError, UsageError, unknown
from tersa.export.artefact import Artefact, Header, read_artefact
from tersa.export.onnx import Deployed, evaluation_copy
from tersa.models.load import load as load_model
from tersa.models.summary import parameters, summary
from tersa.recipes.bench import parse_targets
from tersa.recipes.bench_cross import adapted_for
from tersa.recipes.bench_matrix import Batches, File, Job, Say, alive, nothing, run_matrix, with_accuracy
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.hardware_result import Group, HardwareResult, NetworkFacts
from tersa.recipes.published_hardware import NETWORKS
from tersa.recipes.subjects import Subject, find_subject, model_of, to_artefact
from tersa.records.base import Record, write_record
from tersa.targets.base import PRECISIONS, Target
from tersa.targets.environment import environment, memory_each
from tersa.targets.lanes import Limits
from tersa.targets.registry import installed
from tersa.targets.sweep import Gap

Mode = Literal["quick", "full"]

SPECS = {"alexnet": "alexnet", "mobilenet": "mobilenet:1.0"}
SIDES = (224, 32)
"""Rows and columns of the images: the document's, and those of CIFAR-10 as they are."""
OUTPUTS = 10
BATCHES = {"quick": (1, 8, 32), "full": (1, 2, 4, 8, 16, 32)}
"""Images per call; the full run goes on doubling until memory or time ends."""
MEASURED = {"quick": ("fp32", "bf16", "int8"), "full": ("fp32", "bf16", "fp16", "int8")}
SECONDS = {"quick": 0.2, "full": 1.0}
CALL_SECONDS = {"quick": 10.0, "full": 30.0}
"""A call that takes longer ends the rise of the batch; a first call has five times as long."""
OVERHEAD = 2.5
"""Wall time over timed time: loading, first calls, warm-up, the anchor in every cell."""
MEAN, STD = 0.5, 0.25
"""Normalisation of the networks that are not trained."""


class HardwareRequest(Record):
    """What was asked; it is the `spec.toml` of the run.

    Attributes:
        mode: how many batch sizes, precisions and seconds.
        targets: runtimes; empty for all that are installed.
        networks: of `alexnet`, `mobilenet`.
        sides: rows and columns of the images.
        batches: images per call; empty for the mode's.
        precisions: empty for the mode's.
        runs: folders of adapted or trained networks.
        data: gives trained networks their test accuracy.
        data_dir: where to look for it first.
        seconds: of timed calls per combination; None for the mode's.
    """

    mode: Mode = "quick"
    targets: str = ""
    networks: tuple[str, ...] = NETWORKS
    sides: tuple[int, ...] = SIDES
    batches: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    data: str | None = None
    data_dir: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Run:
    """A folder that `--run` named.

    Attributes:
        subject: its network.
        network: `alexnet` or `mobilenet`.
        made_for: target that it was adapted for; empty where it was not.
    """

    subject: Subject
    network: str
    made_for: str


@dataclass(frozen=True)
class HardwarePlan:
    """What will be measured, checked.

    Attributes:
        request: what was asked.
        targets: texts, with the runtime or the reason why it is not there.
        batches: images per call.
        precisions: FP32 first, which adapted networks are compared with, then as asked.
        seconds: of timed calls per combination.
        runs: adapted or trained networks.
        task: for test accuracies, or None.
    """

    request: HardwareRequest
    targets: Sequence[tuple[str, Target | str]]
    batches: Batches
    precisions: Sequence[str]
    seconds: float
    runs: Sequence[Run] = field(default=())
    task: Task | None = None

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(network, side), in the order in which they are measured: small images first."""
        return [(name, side) for side in sorted(self.request.sides) for name in self.request.networks]

    @property
    def combinations(self) -> int:
        """Networks x targets that are there x precisions x batch sizes."""
        there = sum(not isinstance(target, str) for _, target in self.targets)
        models = len(self.groups) * len(self.precisions) + len(self.runs)
        return models * there * len(self.batches.sizes)

    @property
    def expected_seconds(self) -> float:
        """About how long the timing takes where calls are short; large batches take longer."""
        return self.combinations * self.seconds * OVERHEAD


def plan_hardware(request: HardwareRequest) -> HardwarePlan:
    """Check a request.

    Raises:
        UsageError: all kinds of wrong names and numbers.
        DataError: data that cannot be found.
    """
    for name in request.networks:
        if name not in SPECS:
            raise unknown("network", name, SPECS)
    for side in request.sides:
        if side not in SIDES:
            raise UsageError(f"--size {side}: the sizes are {' and '.join(map(str, SIDES))}")
    asked = dict.fromkeys(request.precisions or MEASURED[request.mode])
    precisions = sorted(asked, key=lambda name: name != "fp32")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
    if any(batch < 1 for batch in request.batches):
        raise UsageError(f"--batch {request.batches}: whole numbers above 0")
    if not request.networks or not request.sides:
        raise UsageError("nothing to measure: name a network and a size")
    sizes = tuple(sorted(set(request.batches))) or BATCHES[request.mode]
    directory = Path(request.data_dir) if request.data_dir else None
    task = load_data(request.data, data_dir=directory) if request.data else None
    return HardwarePlan(
        request=request,
        targets=parse_targets(request.targets or _everything()),
        batches=Batches(sizes, open=request.mode == "full" and not request.batches),
        precisions=precisions,
        seconds=request.seconds or SECONDS[request.mode],
        runs=[_run(Path(folder), directory, request) for folder in request.runs],
        task=task,
    )


def _everything() -> str:
    """Every runtime that is installed, on one thread."""
    return ",".join(f"{each.name}@threads=1" for each in installed() if each.version)


@releasing
def run_hardware(
    plan: HardwarePlan,
    out: Path,
    *,
    command: str = "",
    resume: bool = False,
    overwrite: bool = False,
    say: Say | None = None,
) -> HardwareResult:
    """Measure what is not there yet, and write tables, rows and the report into `out`.

    Args:
        plan: what to measure.
        out: folder of the run.
        command: what the user typed.
        resume: go on with a run of the same request.
        overwrite: start again.
        say: told (task, fraction, remark) as the work goes on.

    Raises:
        UsageError: `out` exists; or not one combination is offered.
        TargetError: not one combination could be measured.
        ModelError: a network cannot be exported.
    """
    from tersa.recipes.hardware_report import write_results

    start = time.perf_counter()
    tell = say or (lambda _task, _fraction, _remark: None)
    absent = [reason for _, reason in plan.targets if isinstance(reason, str)]
    if len(absent) == len(plan.targets):
        raise UsageError(f"no target is there: {'; '.join(absent)}")
    open_folder(out, "reproduce hardware", plan.request, resume=resume, overwrite=overwrite)
    groups: list[Group] = []
    notes: list[str] = []
    for index, (network, side) in enumerate(plan.groups):
        share = index / len(plan.groups), 1 / len(plan.groups)
        name = f"{network} {side}x{side}"

        def told(
            _task: str, fraction: float, remark: str, name: str = name, share: tuple[float, float] = share
        ) -> None:
            tell("measuring", share[0] + share[1] * fraction, f"{name}, {remark}")

        groups.append(_measure_group(plan, network, side, out / f"{network}-{side}", told, notes))
    tell("measuring", 1.0, f"{sum(len(each.rows) for each in groups)} measured")
    if not any(each.rows for each in groups):
        raise nothing([gap for each in groups for gap in each.gaps])
    result = HardwareResult(
        mode=plan.request.mode,
        command=command,
        groups=groups,
        environment=environment(max(row.threads for each in groups for row in each.rows)),
        notes=list(dict.fromkeys(notes)),
        artefacts=[],
        seconds=time.perf_counter() - start,
    )
    result = write_results(result, out)
    write_record(out / RESULT, result)
    return result


def _measure_group(
    plan: HardwarePlan, network: str, side: int, folder: Path, tell: Say, notes: list[str]
) -> Group:
    """One network at one size on every target."""
    folder.mkdir(exist_ok=True)
    runs = [run for run in plan.runs if run.network == network and run.subject.header.shape[1] == side]
    files: list[File] = []
    gaps: list[Gap] = []
    networks: list[NetworkFacts] = []
    subjects = [(_original(network, side), ""), *((run.subject, run.made_for) for run in runs)]
    for place, (subject, made_for) in enumerate(subjects):
        tell("preparing", 0.0, f"exporting {subject.name}")
        wanted = plan.precisions if place == 0 else ("fp32",)
        own, missing = _files(subject, wanted, folder, place, plan.task)
        files += own
        gaps += [gap for text, _ in plan.targets for gap in missing(text)]
        networks.append(_facts(network, side, subject, made_for, own))
    if any(each.precision == "int8" for each in files):
        notes.append(
            "INT8 ranges come from noise, because the networks in INT8 are not trained: right for timing, "
            "not for use"
        )
    task = plan.task if plan.task is not None and plan.task.shape == (3, side, side) else None
    mode, forms = plan.request.mode, [(each.subject.name, each.precision) for each in files]
    job = Job(
        targets=plan.targets,
        files=files,
        batches=plan.batches,
        seconds=plan.seconds,
        limits=Limits(memory_each(alive(plan.targets, forms)), CALL_SECONDS[mode]),
        task=task,
        tested=0 if task is None else len(task.test),
        model=network,
    )
    found = run_matrix(job, folder, tell)
    notes += [f"{network} {side}x{side}: {note}" for note in found.notes]
    cells = [with_accuracy(cell, found.accuracies) for cell in found.cells]
    return Group(
        network=network,
        side=side,
        networks=networks,
        rows=[row for cell in cells for row in cell.rows],
        comparisons=[one for cell in cells for one in cell.comparisons],
        gaps=list(dict.fromkeys([*gaps, *(gap for cell in cells for gap in cell.gaps)])),
    )


def _original(network: str, side: int) -> Subject:
    """The document's network with weights of initialisation."""
    shape = (3, side, side)
    loaded = load_model(SPECS[network], shape, OUTPUTS, seed=0)
    header = Header(tuple(map(str, range(OUTPUTS))), shape, (MEAN,) * 3, (STD,) * 3)
    return Subject(network, header, loaded.module, trained=False)


def _files(
    subject: Subject, precisions: Sequence[str], folder: Path, place: int, task: Task | None
) -> tuple[list[File], Any]:
    """A subject in each precision; and, for a target's text, the gaps of those that it does not have."""
    found: list[File] = []
    missing: list[tuple[str, str]] = []
    known = task if task is not None and task.shape == subject.header.shape and subject.trained else None
    for precision in precisions:
        stored = "int8" if precision == "int8" else "fp32"
        try:
            artefact = next((one.artefact for one in found if one.artefact.header.precision == stored), None)
            if artefact is None:
                path = folder / f"{place}-{stored}.onnx"
                artefact = _again(subject, path) or to_artefact(subject, stored, path, known)
        except TargetError as error:
            missing.append((precision, str(error)))
            continue
        found.append(File(subject, precision, artefact))

    def gaps(target: str) -> list[Gap]:
        return [Gap(model=subject.name, target=target, precision=p, reason=why) for p, why in missing]

    return found, gaps


def _again(subject: Subject, path: Path) -> Artefact | None:
    """The file that an earlier call of the same run made of a network that is not trained, or None."""
    if subject.trained or subject.module is None or not path.is_file():
        return None
    return replace(read_artefact(path), module=Deployed(evaluation_copy(subject.module), subject.header))


def _facts(network: str, side: int, subject: Subject, made_for: str, files: Sequence[File]) -> NetworkFacts:
    sizes = {one.artefact.header.precision: one.artefact.path.stat().st_size for one in files}
    module = subject.module
    rows = summary(module, subject.header.shape).rows if module is not None else ()
    dense = [one for one in module.modules() if isinstance(one, nn.Linear)] if module is not None else []
    return NetworkFacts(
        network=network,
        side=side,
        model=subject.name,
        made_for=made_for,
        trained=subject.trained,
        parameters=parameters(module) if module is not None else None,
        macs=sum(row.macs for row in rows) if rows else None,
        state_bytes=_state_bytes(module),
        fp32_bytes=sizes.get("fp32"),
        int8_bytes=sizes.get("int8"),
        convolutions=sum(row.kind == "Conv2d" for row in rows),
        fully_connected=sum(row.kind == "Linear" for row in rows),
        most_inputs=max((one.in_features for one in dense), default=0),
        most_outputs=max((one.out_features for one in dense), default=0),
        poolings=sum("Pool" in row.kind for row in rows),
        activations=sum(row.kind == "ReLU" for row in rows),
    )


def _state_bytes(module: Any) -> int | None:
    """Of weights and running statistics, counters left out."""
    if module is None:
        return None
    values = module.state_dict().values()
    return sum(value.numel() * value.element_size() for value in values if value.is_floating_point())


def _run(folder: Path, directory: Path | None, request: HardwareRequest) -> Run:
    """A run folder as a subject, with the network that it is of.

    Raises:
        UsageError: not a finished run, or of another network or size than those asked for.
    """
    if not folder.is_dir():
        raise UsageError(f"--run {folder}: no such folder; give the folder of a finished run")
    subject = find_subject(str(folder), None, data_dir=directory)
    network = model_of(folder).partition(":")[0].partition("+")[0]
    if network not in request.networks:
        raise UsageError(f"{folder} is of {network}; this run measures {', '.join(request.networks)}")
    shape = subject.header.shape
    if shape[1] not in request.sides or shape[0] != 3:
        raise UsageError(f"{folder} takes images {shape}; this run measures 3 x {request.sides}")
    return Run(subject, network, adapted_for(folder))
