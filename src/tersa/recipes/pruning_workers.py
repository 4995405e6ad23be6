"""Who walks the curves of `tersa reproduce pruning`: this process, or worker processes beside it.

A worker is started afresh (`spawn`: no thread pool survives a fork), loads the data and each baseline once,
walks the curves that it is handed and sends back their points. It ignores Ctrl-C, which is the parent's to
answer, and ends when the parent does, even by SIGKILL. A walk whose worker dies goes on from its checkpoint
in another, and is given up after `ATTEMPTS`. Whatever else goes wrong with a curve is its result: its
traceback is stored and the other curves go on.

Nothing here writes to the store: `recipes.pruning_study` does.

Example:
    >>> crew = Crew("nowhere", "lenet", Path("runs"), "fp32")
    >>> walk(Shelf(crew), Job(0, Curve(criterion="random"), 5)).walked.trouble
    "tersa.errors.UsageError: unknown data set 'nowhere'; known: cifar-10, digits, ..."
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from tersa.data.sources import load
from tersa.data.task import Task
from tersa.errors import Diverged, TersaError
from tersa.models import zoo
from tersa.recipes.pruning_curves import Curve, Point, run_curve
from tersa.recipes.pruning_store import Walked
from tersa.train.checkpoint import remove_leftovers
from tersa.train.config import Precision

ATTEMPTS = 2
"""How often a curve is begun whose workers die."""
TOLD_S = 0.5
"""Least time between two words of a worker about its progress."""
GRACE_S = 3.0
"""How long a worker that is asked to end has for it."""


@dataclass(frozen=True)
class Crew:
    """What every curve of a reproduction shares, and how many walk at once.

    Attributes:
        data: name of the task.
        model: spec of the network.
        folder: of the reproduction; baselines and checkpoints lie in it.
        precision: of the forward pass while retraining.
        data_dir: where data are looked for first.
        device: `cpu` or `cuda`.
        workers: processes; 1 walks in this one.
        threads: of torch in each of them.
    """

    data: str
    model: str
    folder: Path
    precision: Precision
    data_dir: Path | None = None
    device: str = "cpu"
    workers: int = 1
    threads: int = 1

    def weights(self, seed: int) -> Path:
        """File of the baseline that the curves of a seed start from."""
        return self.folder / f"baseline-s{seed}.safetensors"

    def state(self, curve: Curve) -> Path:
        """File of a curve's checkpoint while it is walked."""
        return self.folder / "curves" / f"{curve.name}-s{curve.seed}.safetensors"


@dataclass(frozen=True)
class Job:
    """One curve to walk.

    Attributes:
        number: of the curve in this call.
        curve: how.
        test_every: steps between two looks at the test split.
    """

    number: int
    curve: Curve
    test_every: int


@dataclass(frozen=True)
class Told:
    """How far a curve is.

    Attributes:
        number: of the job.
        share: of its channels that are gone, 0..1.
    """

    number: int
    share: float


@dataclass(frozen=True)
class Ended:
    """What came of a curve.

    Attributes:
        number: of the job.
        walked: its points, or its trouble.
    """

    number: int
    walked: Walked


Event = Told | Ended


class Shelf:
    """The task and the baselines, each loaded once."""

    def __init__(self, crew: Crew, task: Task | None = None) -> None:
        self.crew = crew
        self._task = task
        self._trained: dict[int, nn.Module] = {}

    @property
    def task(self) -> Task:
        """The data."""
        if self._task is None:
            self._task = load(self.crew.data, data_dir=self.crew.data_dir)
        return self._task

    def trained(self, seed: int) -> nn.Module:
        """The baseline of a seed."""
        if seed not in self._trained:
            model = zoo.build(self.crew.model, self.task.shape, len(self.task.classes))
            model.load_state_dict(load_file(self.crew.weights(seed)))
            self._trained[seed] = model.eval()
        return self._trained[seed]


def walk(shelf: Shelf, job: Job, tell: Callable[[Told], None] | None = None) -> Ended:
    """Walk a curve; whatever goes wrong is its result."""
    spoken = -TOLD_S
    crew, curve = shelf.crew, job.curve

    def say(share: float, point: Point) -> None:
        nonlocal spoken
        if tell is not None and time.monotonic() - spoken >= TOLD_S:
            spoken = time.monotonic()
            tell(Told(job.number, share))

    state = crew.state(curve)
    remove_leftovers(state)
    try:
        points = run_curve(
            curve,
            shelf.task,
            shelf.trained(curve.seed),
            state=state,
            precision=crew.precision,
            device=crew.device,
            test_every=job.test_every,
            progress=say,
        )
    except Diverged:
        return Ended(job.number, Walked(curve=curve, status="diverged", message=traceback.format_exc()))
    except Exception:  # noqa: BLE001  one curve must not end the others: its traceback is stored
        return Ended(job.number, Walked(curve=curve, status="failed", message=traceback.format_exc()))
    return Ended(job.number, Walked(curve=curve, status="done", points=tuple(points)))


def here(jobs: Sequence[Job], shelf: Shelf, tell: Callable[[Event], None]) -> None:
    """Walk curves one after the other in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(shelf.crew.threads)
    try:
        for job in jobs:
            tell(walk(shelf, job, tell))
    finally:
        torch.set_num_threads(before)


@dataclass
class _Worker:
    """A process, its end of the pipe, and what it is doing."""

    process: SpawnProcess
    channel: Connection
    ready: bool = False
    job: Job | None = None
    news: list[Event] = field(default_factory=list[Event])

    def listen(self) -> bool:
        """Take what it has sent; False when it will send nothing more."""
        try:
            while self.channel.poll():
                message = self.channel.recv()
                self.ready = True
                if message is not None:
                    self.news.append(message)
        except (EOFError, OSError):
            return False
        return self.process.is_alive() or self.channel.poll()


def in_workers(jobs: Sequence[Job], crew: Crew, tell: Callable[[Event], None]) -> None:
    """Walk curves in `crew.workers` processes, in their order.

    Raises:
        TersaError: workers end before they have begun.
    """
    queue, deaths = deque(jobs), Counter[int]()
    workers: list[_Worker] = []
    try:
        while queue or any(worker.job for worker in workers):
            busy = sum(worker.job is not None for worker in workers)
            while len(workers) < min(crew.workers, busy + len(queue)):
                workers.append(_start(crew))
            for worker in workers:
                if queue and worker.ready and worker.job is None:
                    _hand(worker, queue.popleft())
            wait([*(w.channel for w in workers), *(w.process.sentinel for w in workers)])
            for worker in list(workers):
                alive = worker.listen()
                for event in worker.news:
                    if isinstance(event, Ended):
                        worker.job = None
                    tell(event)
                worker.news.clear()
                if not alive:
                    workers.remove(worker)
                    _bury(worker, queue, deaths, tell)
    finally:
        _end(workers)


def _start(crew: Crew) -> _Worker:
    """A new worker; Ctrl-C is ignored in it from its first instruction on."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, crew), daemon=True)
    with _environment(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=str(crew.threads)), _deaf():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _hand(worker: _Worker, job: Job) -> None:
    worker.job = job
    with suppress(OSError):  # it has just died, which is noticed when it is listened to
        worker.channel.send(job)


def _bury(worker: _Worker, queue: deque[Job], deaths: Counter[int], tell: Callable[[Event], None]) -> None:
    """Hand a dead worker's curve to another, or give it up."""
    worker.process.join(GRACE_S)
    worker.channel.close()
    code = worker.process.exitcode or 0
    cause = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    if not worker.ready:
        raise TersaError(
            f"a worker process ended by {cause} before it began; give --workers 1, and in a script start "
            "the work under `if __name__ == '__main__':`"
        )
    job = worker.job
    if job is None:
        return
    deaths[job.number] += 1
    if deaths[job.number] < ATTEMPTS:
        queue.appendleft(job)
        return
    trouble = f"its worker process ended {ATTEMPTS} times, the last time by {cause}; was the memory enough?"
    tell(Ended(job.number, Walked(curve=job.curve, status="failed", message=trouble)))


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.channel.close()


def _work(channel: Connection, crew: Crew) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(crew.threads)
    shelf = Shelf(crew)
    channel.send(None)
    try:
        while True:
            channel.send(walk(shelf, channel.recv(), channel.send))
    except (EOFError, OSError):
        return  # the parent has gone


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _environment(**values: str) -> Generator[None]:
    """Variables that a process started in this block sees."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf() -> Generator[None]:
    """Processes started in this block ignore SIGINT; the main thread alone may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
