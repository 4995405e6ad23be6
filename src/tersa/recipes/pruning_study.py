"""Document 002 again: its pruning curves (figures 4.1 to 4.16) and its table 4.1, beside its numbers.

    baseline   10,000 iterations of Adam at 1e-4, 100 images each, one network per seed
    curves     all of its figures; each loses channels down to one per layer, and is read after every step
    table 4.1  the last point of Taylor with l2 and 100 iterations that is within the floor, and the same
               small network trained from nothing

`quick` removes 2 % of the channels a step, `full` one channel a step as the document did. A folder holds

    spec.toml                     what decides the numbers; a folder goes on with the same alone
    baseline-sSEED.safetensors    the trained networks
    curves/NAME-sSEED.safetensors checkpoints of curves at work
    pruning.db                    what has ended (`recipes.pruning_store`)
    points.csv table.csv          every point, and table 4.1
    result.json report.html

Curves and seeds may be added later with `resume`; curves that have ended are skipped, failed ones are tried
again. Accuracies are those of the 5,000 validation images, as in the document; the test images are read
beside, and nothing is chosen by them.

References:
    Document 002, chapters 3 and 4.

Example:
    >>> [curve.name for curve in chosen_curves(Pruning(figures=("4.16",)))]
    ['network-taylor-l2-100', 'network-taylor-l2-100-once', 'network-taylor-l2-no-retraining']
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from tersa.data.sources import load
from tersa.data.task import Task
from tersa.errors import UsageError, faults, unknown
from tersa.models import zoo
from tersa.models.summary import macs, parameters
from tersa.prune.groups import find_groups
from tersa.recipes.folder import open_folder, releasing
from tersa.recipes.pruning_cost import Clock, Size, size_of, work
from tersa.recipes.pruning_curves import FIGURES, LAYERS, TEST_EVERY, Curve, document_training, every_curve
from tersa.recipes.pruning_report import Setup, write_results
from tersa.recipes.pruning_results import TABLE_CURVE, PruningResult, scratch_spec, table_points
from tersa.recipes.pruning_store import PruningStore, Trained, Walked, key_of
from tersa.recipes.pruning_workers import Baselines, Ended, Event, Job, Walks, here, in_workers
from tersa.recipes.setting import Say, Setting, precision_of, threads_of
from tersa.records.base import Record
from tersa.study.cluster import LOCAL, Crew, check_place
from tersa.study.launch import default_workers
from tersa.targets.environment import cores
from tersa.train.baseline import Baseline, baseline, save_weights
from tersa.train.checkpoint import weights_digest
from tersa.train.config import Precision, TrainConfig
from tersa.train.device import choose
from tersa.train.estimate import in_words, iteration_seconds
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress

DATABASE = "pruning.db"
VERB = "reproduce pruning"
STEPS = {"quick": "2%", "full": "1"}
FULL_TEST_EVERY, FULL_TABLE_EVERY = 20, 5
"""Steps of `full` between two looks at the test images; the second for the curve of table 4.1."""
FAMILIES = ("lenet", "lenet5")
"""Networks with the layers that the document's figures name."""


class Pruning(Record):
    """What to run of the document."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    data: str = "mnist"
    """The data set."""
    model: str = "lenet"
    """The network; other than the document's for a trial."""
    mode: Literal["quick", "full"] = "quick"
    """2 % of the channels a step, or one channel a step."""
    figures: tuple[str, ...] = ()
    """Run the curves of these figures; empty, with no `curves`, for all."""
    curves: tuple[str, ...] = ()
    """Run these curves, by name."""
    seeds: int = Field(default=1, ge=1)
    """Seeds 0..n-1 of every curve, each with a baseline of its own."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of forward passes while training; `auto`: bf16 where the processor computes in it."""
    baseline_iterations: int | None = Field(default=None, ge=1)
    """Other than the document's 10,000, for a shorter trial."""

    @property
    def shortened(self) -> bool:
        """Not the document's network, data or training."""
        usual = document_training(0).iterations
        return (self.data, self.model) != ("mnist", "lenet") or self.baseline_iterations not in (None, usual)


class Deciding(Record):
    """`spec.toml`: what every curve of a folder shares."""

    data: str
    model: str
    mode: Literal["quick", "full"]
    precision: Precision
    baseline_iterations: int


class PruningPlan(Record):
    """What `reproduce_pruning` would do with `resume`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    curves: int
    """Asked for, over all seeds."""
    ended: int
    """Of them, stored already."""
    left: int
    """Of them, to be walked."""
    steps: int
    """Of all curves that would be walked."""
    baselines: int
    """To be trained, or read from the cache."""
    mode: str
    """`quick` or `full`."""
    precision: str
    """Of forward passes while training."""
    workers: int
    """Processes that walk at once."""
    threads: int
    """Of each of them."""
    seconds: float
    """About how long it would take; off by a factor of two where the machine is busy."""
    names: list[str]
    """Of the curves that would be walked."""


@dataclass(frozen=True)
class _Work:
    """A checked request.

    Attributes:
        wanted: as asked.
        deciding: its part that decides the numbers.
        walks: what the curves share, and who walks them.
        curves: all that are asked for.
    """

    wanted: Pruning
    deciding: Deciding
    walks: Walks
    curves: list[Curve]

    def training(self, seed: int) -> TrainConfig:
        """Of a baseline, or of a small network from nothing."""
        config = document_training(seed, self.deciding.precision)
        return config.model_copy(update={"iterations": self.deciding.baseline_iterations})

    @property
    def together(self) -> int:
        """Threads of torch when this process trains alone: those of all workers, if it has the cores."""
        return min(cores(), self.walks.crew.threads * self.walks.crew.workers)


def chosen_curves(wanted: Pruning) -> list[Curve]:
    """The curves that are asked for, over all seeds.

    Raises:
        UsageError: figures or curves that the document does not have, all in one message.
    """
    known = every_curve(step=STEPS[wanted.mode], seed=0)
    numbers = {figure.number: figure for figure in FIGURES}
    found = [str(unknown("figure", name, numbers)) for name in wanted.figures if name not in numbers]
    found += [str(unknown("curve", name, known)) for name in wanted.curves if name not in known]
    if found:
        raise faults(VERB, found)
    names = set(wanted.curves)
    for name in wanted.figures:
        names |= {curve.name for panel in numbers[name].panels for _, curve in panel.lines}
    return [
        curve.model_copy(update={"seed": seed})
        for seed in range(wanted.seeds)
        for name, curve in known.items()
        if name in names or not (wanted.figures or wanted.curves)
    ]


def plan_pruning(
    wanted: Pruning, folder: Path, setting: Setting | None = None, *, workers: int | None = None
) -> PruningPlan:
    """What `reproduce_pruning` would do with `resume`; nothing is written.

    Raises:
        UsageError, DataError, ModelError: what the work would raise before it begins.
    """
    setting = setting or Setting()
    job = _checked(wanted, folder, setting, workers, resume=True)
    task = load(wanted.data, data_dir=setting.data_dir)
    size = _size(job, task)
    stored = folder / DATABASE
    ended: list[Walked] = []
    baselines: set[int] = set()
    if stored.is_file():
        with PruningStore(stored) as store:
            ended, baselines = store.curves(), set(store.baselines())
    left = _left(job.curves, ended)
    how = job.deciding.precision
    parts = [work(curve, size, _test_every(curve), how) for curve in left]
    missing = {curve.seed for curve in job.curves} - baselines
    threads = min(cores(), job.walks.crew.threads)
    with threads_of(Setting(threads=threads)):
        one = _pace(ended, size, how) or _timed(job, task)
    training = len(missing) * job.deciding.baseline_iterations * one * threads / job.together
    return PruningPlan(
        curves=len(job.curves),
        ended=len(job.curves) - len(left),
        left=len(left),
        steps=sum(map(len, parts)),
        baselines=len(missing),
        mode=wanted.mode,
        precision=how,
        workers=job.walks.crew.workers,
        threads=job.walks.crew.threads,
        seconds=training + one * sum(map(sum, parts)) / job.walks.crew.workers,
        names=[curve.name for curve in left],
    )


@releasing
def reproduce_pruning(
    wanted: Pruning,
    folder: Path,
    setting: Setting | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on: str = LOCAL,
) -> PruningResult:
    """Walk every curve that has not ended, then write the tables and the report over all that have.

    Args:
        wanted: what to run.
        folder: of the work.
        setting: data, device, threads of each worker (None: 1) and progress.
        workers: processes that walk at once; None for as many as the cores carry, 1 on a GPU.
        resume: go on with the work in `folder`.
        overwrite: start it again.
        on: `local`, or a Ray cluster (`tersa.study.cluster`) whose machines mount `folder`.

    Raises:
        UsageError, DataError, ModelError: what cannot be, before any work.
        Diverged: a baseline ended in NaN.
        KeyboardInterrupt: SIGINT; curves that have ended are stored, the others have checkpoints.
    """
    began = time.perf_counter()
    setting = setting or Setting()
    check_place(on)
    job = _checked(wanted, folder, setting, workers, on, resume=resume)
    task = load(wanted.data, data_dir=setting.data_dir)
    size = _size(job, task)
    if overwrite and (folder / DATABASE).is_file():
        PruningStore(folder / DATABASE, write=True).close()  # refused while another process writes to it
    open_folder(folder, VERB, job.deciding, resume=resume, overwrite=overwrite)
    with PruningStore(folder / DATABASE, write=True) as store:
        with threads_of(Setting(threads=job.together)):
            for seed in sorted({curve.seed for curve in job.curves}):
                _begin(job, task, store, seed, setting)
        _walk(job, task, size, store, setting.say)
        with threads_of(Setting(threads=job.together)):
            _from_scratch(job, task, store, setting)
        return write_results(
            store,
            folder,
            Setup(
                data=wanted.data,
                model=wanted.model,
                mode=wanted.mode,
                precision=job.deciding.precision,
                baseline_iterations=job.deciding.baseline_iterations,
                shortened=wanted.shortened,
                validation=len(task.validation),
                test=len(task.test),
                command=setting.command,
                threads=job.walks.crew.threads,
                workers=job.walks.crew.workers,
                device=job.walks.device,
            ),
            asked=job.curves,
            seconds=time.perf_counter() - began,
        )


def _checked(
    wanted: Pruning,
    folder: Path,
    setting: Setting,
    workers: int | None,
    on: str = LOCAL,
    *,
    resume: bool,
) -> _Work:
    """The request with its defaults filled in; with `resume` they are those that the folder began with.

    Raises:
        UsageError: figures, curves, networks or devices that cannot be.
    """
    curves = chosen_curves(wanted)
    family, _ = zoo.parse(wanted.model)
    if family.name not in FAMILIES:
        raise UsageError(
            f"--model {wanted.model}: the document's figures name the layers {', '.join(LAYERS)}; "
            f"give one of {', '.join(FAMILIES)}, with widths of your own if you like (lenet:8-16-64)"
        )
    device, threads = choose(setting.device), setting.threads or 1
    begun = folder if resume else None
    precision = precision_of(wanted.precision, device, gpu="fp32", begun=begun, verb=VERB)
    iterations = wanted.baseline_iterations or document_training(0).iterations
    assert iterations is not None
    deciding = Deciding(
        data=wanted.data,
        model=wanted.model,
        mode=wanted.mode,
        precision=precision,
        baseline_iterations=iterations,
    )
    walks = Walks(
        wanted.data,
        wanted.model,
        folder if on == LOCAL else folder.resolve(),
        precision,
        setting.data_dir,
        device,
        Crew(workers or (default_workers(threads) if device == "cpu" else 1), threads, on),
    )
    return _Work(wanted, deciding, walks, curves)


def _size(job: _Work, task: Task) -> Size:
    """The untrained network's; a network that cannot be pruned as asked is refused here."""
    model = zoo.build(job.wanted.model, task.shape, len(task.classes))
    find_groups(model, task.shape)
    return size_of(model, task)


def _test_every(curve: Curve) -> int:
    """Steps between two looks at the test images."""
    table = curve.name == TABLE_CURVE
    if curve.step == STEPS["full"]:
        return FULL_TABLE_EVERY if table else FULL_TEST_EVERY
    return 1 if table else TEST_EVERY


def _left(curves: Sequence[Curve], ended: Sequence[Walked]) -> list[Curve]:
    """The curves that are not stored, or are stored as failed."""
    known = {key_of(walked.curve) for walked in ended if walked.status != "failed"}
    return [curve for curve in curves if key_of(curve) not in known]


def _pace(ended: Sequence[Walked], size: Size, precision: Precision) -> float | None:
    """Seconds of one iteration, by the curves that have ended; None before there are any."""
    walks = [walked.curve for walked in ended if walked.points]
    paid = sum(sum(work(curve, size, _test_every(curve), precision)) for curve in walks)
    return sum(walked.seconds for walked in ended) / paid if paid else None


def _timed(job: _Work, task: Task) -> float:
    """Seconds of one iteration of the whole network, from a few."""
    model = zoo.build(job.wanted.model, task.shape, len(task.classes))
    return iteration_seconds(model, task, job.training(0), device=job.walks.device)


def _begin(job: _Work, task: Task, store: PruningStore, seed: int, setting: Setting) -> None:
    """The baseline of a seed: stored in the folder, from the cache, or trained now."""
    path = job.walks.weights(seed)
    if seed in store.baselines() and path.is_file():
        return
    found, trained = _trained(job, task, job.wanted.model, seed, setting, f"baseline, seed {seed}")
    save_weights(found.module, path)
    store.keep_baseline(trained)


def _trained(
    job: _Work, task: Task, spec: str, seed: int, setting: Setting, title: str
) -> tuple[Baseline, Trained]:
    """A network with the document's training."""
    began, config, device = time.perf_counter(), job.training(seed), job.walks.device

    def progress(at: Progress) -> None:
        remark = f"{at.iteration:,} of {at.iterations:,} iterations, {in_words(at.eta_seconds)} left"
        setting.say(title, at.iteration / at.iterations, remark)

    setting.say(title, 0.0, "")
    found = baseline(task, spec, config, device=device, cache=setting.cache, progress=progress)
    assert config.iterations is not None
    row = Trained(
        spec=spec,
        seed=seed,
        digest=weights_digest(found.module),
        parameters=parameters(found.module),
        macs=macs(found.module, task.shape),
        validation_accuracy=evaluate(found.module, task.validation, task, device=device).accuracy,
        test_accuracy=evaluate(found.module, task.test, task, device=device).accuracy,
        iterations=config.iterations,
        seconds=0.0 if found.cached else time.perf_counter() - began,
    )
    found.module.to("cpu")
    setting.say(title, 1.0, f"validation {row.validation_accuracy:.2f} %, test {row.test_accuracy:.2f} %")
    return found, row


def _walk(job: _Work, task: Task, size: Size, store: PruningStore, say: Say) -> None:
    """Walk what is left, longest first, and store each curve when it ends."""
    left, how = _left(job.curves, store.curves()), job.deciding.precision
    order = sorted(left, key=lambda curve: (curve.seed, -sum(work(curve, size, _test_every(curve), how))))
    jobs = [Job(number, curve, _test_every(curve)) for number, curve in enumerate(order)]
    parts = [work(each.curve, size, each.test_every, how) for each in jobs]
    clock = Clock(parts, say, f"{len(jobs)} curves")

    def hear(event: Event) -> None:
        if isinstance(event, Ended):
            store.add(event.walked)
            if event.walked.status == "done":  # its points are stored: the checkpoint has served
                job.walks.state(event.walked.curve).unlink(missing_ok=True)
            clock.end(event.number, failed=event.walked.status != "done")
        else:
            clock.hear(event.number, event.share)

    if not jobs:
        return
    clock.show()
    if job.walks.crew.alone:
        here(jobs, Baselines(job.walks, task), hear)
    else:
        in_workers(jobs, job.walks, hear)


def _from_scratch(job: _Work, task: Task, store: PruningStore, setting: Setting) -> None:
    """Train the networks of table 4.1 from nothing, each with the seed of the curve that gave its widths."""
    baselines, known = store.baselines(), store.scratch()
    for walked in store.curves():
        start = baselines.get(walked.curve.seed)
        if walked.curve.name != TABLE_CURVE or start is None:
            continue
        for _, point in table_points(walked, start):
            spec = scratch_spec(job.wanted.model, point.widths)
            if (spec, start.seed) not in known:
                title = f"{spec} from nothing, seed {start.seed}"
                _, row = _trained(job, task, spec, start.seed, setting, title)
                known[spec, start.seed] = row
                store.keep_scratch(row)
