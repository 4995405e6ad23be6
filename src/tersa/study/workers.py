"""Who trains stacks: this process, or worker processes beside it.

A worker is started afresh (`spawn`: no thread pool survives a fork), loads each data set once, trains the
stacks that it is handed and sends back what came of them. It ignores Ctrl-C, which is the parent's to answer,
and ends when the parent does, even by SIGKILL. A stack whose worker dies is begun `ATTEMPTS` times in all.

Nothing here writes to a store: `tersa.study.launch` does.

Example:
    >>> train(Shelf(None), Stack(1, (Cell(data="nowhere"),), 1.0), Launch()).trouble.splitlines()[-1]
    "tersa.errors.UsageError: unknown data set 'nowhere'; known: cifar-10, digits, ..."
"""

from __future__ import annotations

import importlib
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
from typing import Protocol, cast

import torch

from tersa.data.sources import load
from tersa.data.task import Task
from tersa.errors import TersaError
from tersa.study.cell import Cell, CellResult

ENGINE = "tersa.study.stacked"
"""The module that trains stacks."""
ATTEMPTS = 2
"""How often a stack is begun whose workers die."""
TOLD_S = 0.2
"""Least time between two words of a worker about its progress."""
GRACE_S = 3.0
"""How long a worker that is asked to end has for it."""


class Engine(Protocol):
    """What trains a stack: `tersa.study.stacked`, or a module like it."""

    def train_stack(
        self,
        cells: Sequence[Cell],
        task: Task,
        *,
        progress: Callable[[float], None] | None = None,
        threads: int = 1,
        device: str = "cpu",
    ) -> list[CellResult]:
        """Train cells of one group together; results in their order."""
        ...

    def capacity(self, cell: Cell, task: Task | None = None) -> int:
        """Most runs like this one that should share a stack."""
        ...

    def cost(self, cell: Cell, task: Task | None = None) -> float:
        """About how long the cell takes, in a unit of its own."""
        ...

    def network_for(self, cell: Cell, task: Task) -> object:
        """The network of a cell; a UsageError where it does not fit the data or the rule."""
        ...


@dataclass(frozen=True)
class Launch:
    """How a study is run; none of it decides which cells there are.

    Attributes:
        workers: processes that train at once; 1 trains in this one.
        threads: of torch in each of them.
        device: `cpu` or `cuda`.
        data_dir: where data are looked for first.
        engine: module that trains stacks.
    """

    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    data_dir: Path | None = None
    engine: str = ENGINE


@dataclass(frozen=True)
class Stack:
    """Cells that train together.

    Attributes:
        number: in the store.
        cells: those of it that are to be trained now.
        cost: of them all, in the engine's unit.
    """

    number: int
    cells: tuple[Cell, ...]
    cost: float


@dataclass(frozen=True)
class Told:
    """How far a stack is.

    Attributes:
        number: of the stack.
        share: done, 0..1.
    """

    number: int
    share: float


@dataclass(frozen=True)
class Ended:
    """What came of a stack.

    Attributes:
        number: of the stack.
        results: of its cells, in their order; empty where it failed.
        trouble: the traceback of a failure.
    """

    number: int
    results: tuple[CellResult, ...] = ()
    trouble: str = ""


Event = Told | Ended


class Shelf:
    """Data sets, each loaded once."""

    def __init__(self, data_dir: Path | None) -> None:
        self.data_dir = data_dir
        self.tasks: dict[str, Task] = {}

    def task(self, name: str) -> Task:
        """The task of that name."""
        if name not in self.tasks:
            self.tasks[name] = load(name, data_dir=self.data_dir)
        return self.tasks[name]


def engine_of(name: str) -> Engine:
    """The engine in a module."""
    return cast(Engine, importlib.import_module(name))


def train(shelf: Shelf, stack: Stack, launch: Launch, tell: Callable[[Told], None] | None = None) -> Ended:
    """Train a stack; whatever goes wrong is its result."""
    spoken = -TOLD_S

    def say(share: float) -> None:
        nonlocal spoken
        if tell is not None and time.monotonic() - spoken >= TOLD_S:
            spoken = time.monotonic()
            tell(Told(stack.number, share))

    try:
        results = engine_of(launch.engine).train_stack(
            stack.cells,
            shelf.task(stack.cells[0].data),
            progress=say,
            threads=launch.threads,
            device=launch.device,
        )
        assert [result.key for result in results] == [cell.key for cell in stack.cells]
    except Exception:  # noqa: BLE001  one stack must not end the study: its traceback is stored
        return Ended(stack.number, trouble=traceback.format_exc())
    return Ended(stack.number, tuple(results))


def here(
    stacks: Sequence[Stack], launch: Launch, tell: Callable[[Event], None], shelf: Shelf | None = None
) -> None:
    """Train stacks one after the other in this process, with data that may be loaded already."""
    shelf = shelf or Shelf(launch.data_dir)
    before = torch.get_num_threads()
    torch.set_num_threads(launch.threads)
    try:
        for stack in stacks:
            tell(train(shelf, stack, launch, tell))
    finally:
        torch.set_num_threads(before)


@dataclass
class _Worker:
    """A process, its end of the pipe, and what it is doing."""

    process: SpawnProcess
    channel: Connection
    ready: bool = False
    stack: Stack | None = None
    news: list[Event] = field(default_factory=list)

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


def in_workers(stacks: Sequence[Stack], launch: Launch, tell: Callable[[Event], None]) -> None:
    """Train stacks in `launch.workers` processes, in their order.

    Raises:
        TersaError: workers end before they have begun.
    """
    queue, deaths = deque(stacks), Counter[int]()
    workers: list[_Worker] = []
    try:
        while queue or any(worker.stack for worker in workers):
            busy = sum(worker.stack is not None for worker in workers)
            while len(workers) < min(launch.workers, busy + len(queue)):
                workers.append(_start(launch))
            for worker in workers:
                if queue and worker.ready and worker.stack is None:
                    _hand(worker, queue.popleft())
            wait([*(w.channel for w in workers), *(w.process.sentinel for w in workers)])
            for worker in list(workers):
                alive = worker.listen()
                for event in worker.news:
                    if isinstance(event, Ended):
                        worker.stack = None
                    tell(event)
                worker.news.clear()
                if not alive:
                    workers.remove(worker)
                    _bury(worker, queue, deaths, tell)
    finally:
        _end(workers)


def _start(launch: Launch) -> _Worker:
    """A new worker; Ctrl-C is ignored in it from its first instruction on."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, launch), daemon=True)
    count = str(launch.threads)
    with _environment(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=count, NUMBA_NUM_THREADS=count), _deaf():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _hand(worker: _Worker, stack: Stack) -> None:
    worker.stack = stack
    with suppress(OSError):  # it has just died, which is noticed when it is listened to
        worker.channel.send(stack)


def _bury(worker: _Worker, queue: deque[Stack], deaths: Counter[int], tell: Callable[[Event], None]) -> None:
    """Begin a dead worker's stack once more, or give it up."""
    worker.process.join(GRACE_S)
    worker.channel.close()
    code = worker.process.exitcode or 0
    cause = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    if not worker.ready:
        raise TersaError(
            f"a worker process ended by {cause} before it began; give --workers 1, and in a script start "
            "studies under `if __name__ == '__main__':`"
        )
    stack = worker.stack
    if stack is None:
        return
    deaths[stack.number] += 1
    if deaths[stack.number] < ATTEMPTS:
        queue.appendleft(stack)
        return
    trouble = f"its worker process ended {ATTEMPTS} times, the last time by {cause}; was the memory enough?"
    tell(Ended(stack.number, trouble=trouble))


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.channel.close()


def _work(channel: Connection, launch: Launch) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(launch.threads)
    shelf = Shelf(launch.data_dir)
    channel.send(None)
    try:
        while True:
            channel.send(train(shelf, channel.recv(), launch, channel.send))
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
