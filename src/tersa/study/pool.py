"""Worker processes that do jobs: a study's stacks, a reproduction's curves.

A worker is started afresh (`spawn`: no thread pool survives a fork), prepares itself once, does the jobs that
it is handed in their order, and sends back what comes of them. It ignores Ctrl-C, which is the parent's to
answer, and ends when the parent does, even by SIGKILL. A job whose worker dies is begun `ATTEMPTS` times in
all, then given up.

Example:
    >>> with environment(TERSA_EXAMPLE="1"):
    ...     os.environ["TERSA_EXAMPLE"]
    '1'
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
from typing import Generic, TypeVar

import torch

from tersa.errors import TersaError
from tersa.train.memory import keep_freed

ATTEMPTS = 2
"""How often a job is begun whose workers die."""
GRACE_S = 3.0
"""How long a worker that is asked to end has for it."""

J = TypeVar("J")
E = TypeVar("E")
Do = Callable[[J, Callable[[E], None]], E]
"""Does a job; told of progress by events, and returns the event that ends it."""


@dataclass(frozen=True)
class Told:
    """How far a job is.

    Attributes:
        number: of the job.
        share: done, 0..1.
    """

    number: int
    share: float


def seldom(tell: Callable[[Told], None] | None, number: int, *, every_s: float) -> Callable[[float], None]:
    """Tells how far a job is, at most once in so many seconds: each word crosses a pipe."""
    spoken = -every_s

    def say(share: float) -> None:
        nonlocal spoken
        if tell is not None and time.monotonic() - spoken >= every_s:
            spoken = time.monotonic()
            tell(Told(number, share))

    return say


@dataclass(frozen=True)
class Pool(Generic[J, E]):
    """How jobs are done beside this process.

    Attributes:
        workers: processes, at most.
        threads: of torch in each of them.
        begin: called once in each worker, gives what does its jobs; it crosses a pipe, so it is a function of
            a module or a `functools.partial` of one.
        ends: whether an event is the last one of its job.
        lost: the event of a job that is given up, from the reason.
        script: what a script starts under `if __name__ == "__main__"`, in words.
    """

    workers: int
    threads: int
    begin: Callable[[], Do[J, E]]
    ends: Callable[[E], bool]
    lost: Callable[[J, str], E]
    script: str = "the work"


@dataclass(frozen=True)
class _Broken:
    """What a worker sends that cannot begin: the traceback."""

    trouble: str


@dataclass
class _Worker(Generic[J, E]):
    """A process, its end of the pipe, and what it is doing: a job with its place."""

    process: SpawnProcess
    channel: Connection
    ready: bool = False
    broken: str = ""
    job: tuple[int, J] | None = None
    news: list[E] = field(default_factory=list)

    def listen(self) -> bool:
        """Take what it has sent; False when it will send nothing more."""
        try:
            while self.channel.poll():
                message = self.channel.recv()
                if isinstance(message, _Broken):
                    self.broken = message.trouble
                    return False
                self.ready = True
                if message is not None:
                    self.news.append(message)
        except (EOFError, OSError):
            return False
        return self.process.is_alive() or self.channel.poll()


def in_processes(jobs: Sequence[J], pool: Pool[J, E], tell: Callable[[E], None]) -> None:
    """Do all jobs, begun in their order.

    Args:
        jobs: what is to be done.
        pool: how.
        tell: called in this process with every event.

    Raises:
        TersaError: workers end before they have begun; the message has the traceback of what begins them.
    """
    queue, deaths = deque(enumerate(jobs)), Counter[int]()
    workers: list[_Worker[J, E]] = []
    try:
        while queue or any(worker.job for worker in workers):
            busy = sum(worker.job is not None for worker in workers)
            while len(workers) < min(pool.workers, busy + len(queue)):
                workers.append(_start(pool))
            for worker in workers:
                if queue and worker.ready and worker.job is None:
                    _hand(worker, queue.popleft())
            wait([*(w.channel for w in workers), *(w.process.sentinel for w in workers)])
            for worker in list(workers):
                alive = worker.listen()
                for event in worker.news:
                    if pool.ends(event):
                        worker.job = None
                    tell(event)
                worker.news.clear()
                if not alive:
                    workers.remove(worker)
                    _bury(worker, pool, queue, deaths, tell)
    finally:
        _end(workers)


def _start(pool: Pool[J, E]) -> _Worker[J, E]:
    """A new worker; Ctrl-C is ignored in it from its first instruction on."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, pool.begin, pool.threads), daemon=True)
    count = str(pool.threads)
    with environment(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=count, NUMBA_NUM_THREADS=count), _deaf():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _hand(worker: _Worker[J, E], job: tuple[int, J]) -> None:
    worker.job = job
    with suppress(OSError):  # it has just died, which is noticed when it is listened to
        worker.channel.send(job[1])


def _bury(
    worker: _Worker[J, E],
    pool: Pool[J, E],
    queue: deque[tuple[int, J]],
    deaths: Counter[int],
    tell: Callable[[E], None],
) -> None:
    """Begin a dead worker's job once more, or give it up.

    Raises:
        TersaError: it had not begun.
    """
    worker.process.join(GRACE_S)
    worker.channel.close()
    if worker.broken:
        last = worker.broken.rstrip().rpartition("\n")[2]
        raise TersaError(f"a worker process could not begin: {last}\n{worker.broken.rstrip()}")
    code = worker.process.exitcode or 0
    cause = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    if not worker.ready:
        raise TersaError(
            f"a worker process ended by {cause} before it began; give --workers 1, and in a script start "
            f"{pool.script} under `if __name__ == '__main__':`"
        )
    if worker.job is None:
        return
    place, job = worker.job
    deaths[place] += 1
    if deaths[place] < ATTEMPTS:
        queue.appendleft(worker.job)
        return
    reason = f"its worker process ended {ATTEMPTS} times, the last time by {cause}; was the memory enough?"
    tell(pool.lost(job, reason))


def _end(workers: Sequence[_Worker[J, E]]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.channel.close()


def _work(channel: Connection, begin: Callable[[], Do[J, E]], threads: int) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed()
    try:
        do = begin()
    except Exception:  # noqa: BLE001  raised again by the parent, with its traceback
        channel.send(_Broken(traceback.format_exc()))
        return
    channel.send(None)
    try:
        while True:
            channel.send(do(channel.recv(), channel.send))
    except (EOFError, OSError):
        return  # the parent has gone


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def environment(**values: str) -> Generator[None]:
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
