"""Train the cells of a study: cut them into stacks, and run those here or in worker processes.

Cells of equal shape (`Cell.group`) train together. A group is cut into equal parts of at most the engine's
`capacity`, and further where a part would take longer than its worker's share of all the work:

    parts = max(ceil(n / capacity), ceil(cost of the group / (cost of all / workers)))        at most n

The cut is stored before anything runs (`StudyStore.assign`) and never changed: cells of a study that is
killed and taken up again, on however many workers, have the same neighbours and the same numbers. A study
that grows gets new stacks for its new cells.

The longest stacks go first. Worker processes are started afresh (`spawn`), load each data set once, and end
when this process does, whichever way it ends. A worker that is killed has its stack tried once more, then
marked as failed. Only this process writes to the store. One worker means no process at all.

Several machines: `tersa.study.cluster`.

Example:
    >>> [len(stack) for stack in cut([Cell(seed=s) for s in range(7)], lambda cell: 3, lambda cell: 1.0, 1)]
    [2, 3, 2]
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

from tersa.errors import UsageError, faults
from tersa.study.cell import Cell
from tersa.study.cluster import LOCAL
from tersa.study.pool import Told
from tersa.study.store import CellSummary, StudyStore
from tersa.study.workers import Ended, Event, Launch, Shelf, Stack, engine_of, here, in_workers
from tersa.train.estimate import in_words

Progress = Callable[[float, str], None]
"""Told the share of the work that is done, 0..1, and a remark."""
Launcher = Callable[[Sequence[Stack], Launch, Callable[[Event], None]], None]
"""Trains stacks and tells of each; `here`, `in_workers`."""


def default_workers(threads: int = 1) -> int:
    """As many as keep every core that this process may use busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // threads, 1)


def cut(
    cells: Sequence[Cell], capacity: Callable[[Cell], int], cost: Callable[[Cell], float], workers: int
) -> list[tuple[Cell, ...]]:
    """Cells as stacks of equal shape, in their order.

    Args:
        cells: that are to train.
        capacity: most runs like a cell that should share a stack.
        cost: of one cell, in any unit.
        workers: that the stacks are shared among.
    """
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    fair = sum(cost(cell) for cell in cells) / workers
    stacks: list[tuple[Cell, ...]] = []
    for group in groups.values():
        load = sum(cost(cell) for cell in group)
        balanced = math.ceil(load / fair - 1e-9) if fair > 0 else 1
        parts = min(max(math.ceil(len(group) / capacity(group[0])), balanced, 1), len(group))
        ends = [round(len(group) * i / parts) for i in range(parts + 1)]
        stacks += [tuple(group[a:b]) for a, b in itertools.pairwise(ends)]
    return stacks


def check(cells: Sequence[Cell], shelf: Shelf, launch: Launch) -> None:
    """Ask the engine whether every cell can train.

    Raises:
        UsageError: networks that do not fit their data or rule, all in one message.
    """
    engine = engine_of(launch.engine)
    found: list[str] = []
    kinds = {
        (c.data, c.model, c.rule, c.optimizer, c.activation_bits, c.gradient_bits, c.spec): c for c in cells
    }
    for cell in kinds.values():
        try:
            engine.network_for(cell, shelf.task(cell.data))
        except UsageError as error:
            found.append(f"rule {cell.rule}, model {cell.model}, data {cell.data}: {error}")
    if found:
        raise faults("cells that cannot train", found)


def prepare(
    store: StudyStore, cells: Sequence[Cell], shelf: Shelf, launch: Launch, *, retry: bool = False
) -> list[Stack]:
    """Enter cells into the store, cut those that are new, and say what is left to train, longest first.

    Args:
        store: of the study, open for writing.
        cells: of the study.
        shelf: their data.
        launch: how it will be run.
        retry: train failed cells again.
    """
    engine, cost = engine_of(launch.engine), costs(shelf, launch)
    store.enter(cells)
    wanted = {cell.key for cell in cells}
    rows = [row for row in store.summaries() if row.key in wanted]
    loose = [row.cell for row in rows if row.stack is None]
    if loose:
        store.assign(cut(loose, lambda c: engine.capacity(c, shelf.task(c.data)), cost, launch.workers))
        rows = [row for row in store.summaries() if row.key in wanted]
    return pending(rows, cost, retry=retry)


def costs(shelf: Shelf, launch: Launch) -> Callable[[Cell], float]:
    """The engine's estimate, asked once for cells that differ in nothing but numbers."""
    engine = engine_of(launch.engine)
    known: dict[tuple[object, ...], float] = {}

    def cost(cell: Cell) -> float:
        kind = (*cell.group, cell.quant, cell.storage, cell.range, cell.rounding)
        if kind not in known:
            known[kind] = engine.cost(cell, shelf.task(cell.data))
        return known[kind]

    return cost


def pending(rows: Sequence[CellSummary], cost: Callable[[Cell], float], *, retry: bool) -> list[Stack]:
    """The stacks that are not finished, longest first; of each only the cells that have not ended."""
    left = ("waiting", "failed") if retry else ("waiting",)
    found: dict[int, list[Cell]] = {}
    for row in rows:
        if row.status in left:
            assert row.stack is not None, "cells are cut before they are looked up"
            found.setdefault(row.stack, []).append(row.cell)
    stacks = [Stack(n, tuple(cells), sum(cost(cell) for cell in cells)) for n, cells in found.items()]
    return sorted(stacks, key=lambda stack: (-stack.cost, stack.number))


def run(
    store: StudyStore,
    stacks: Sequence[Stack],
    launch: Launch,
    progress: Progress | None = None,
    *,
    launcher: Launcher | None = None,
) -> Counter[str]:
    """Train stacks and store what comes of them; returns when all have ended.

    Args:
        store: of the study, open for writing.
        stacks: from `prepare`.
        launch: how.
        progress: told of the whole work, with the time left.
        launcher: what trains; by default this process for one worker, else worker processes or a cluster.

    Returns:
        How many cells ended in each way.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; finished stacks are stored, workers are gone.
    """
    clock = _Clock(stacks, progress)
    cells = {stack.number: stack.cells for stack in stacks}

    def hear(event: Event) -> None:
        if isinstance(event, Ended):
            if event.trouble:
                store.fail(cells[event.number], event.trouble)
            else:
                store.add(event.results)
        clock.hear(event)

    if stacks:
        with _terminable():
            alone = launch.workers == 1 and launch.on == LOCAL
            (launcher or (here if alone else in_workers))(stacks, launch, hear)
    return clock.ways


class _Clock:
    """Share of the work that is done, by cost, and the time that is left."""

    def __init__(self, stacks: Sequence[Stack], progress: Progress | None) -> None:
        self.stacks = {stack.number: stack for stack in stacks}
        self.progress = progress
        self.total = sum(stack.cost for stack in stacks)
        self.runs = sum(len(stack.cells) for stack in stacks)
        self.shares: dict[int, float] = {}
        self.ways: Counter[str] = Counter()
        self.began = time.monotonic()

    def hear(self, event: Event) -> None:
        """Take note of an event and tell of it."""
        if isinstance(event, Told):
            self.shares[event.number] = min(event.share, 1.0)
        else:
            self.shares[event.number] = 1.0
            lost = Counter(failed=len(self.stacks[event.number].cells)) if event.trouble else Counter[str]()
            self.ways += lost + Counter(result.status for result in event.results)
        if self.progress is not None:
            self.progress(self.share, self.remark())

    @property
    def share(self) -> float:
        """Of all the work, 0..1."""
        if self.ways.total() == self.runs:
            return 1.0
        done = sum(self.stacks[number].cost * share for number, share in self.shares.items())
        return min(done / self.total, 1.0) if self.total > 0 else self.ways.total() / self.runs

    def remark(self) -> str:
        """Runs that have ended, and the time left at the pace so far."""
        words = [f"{self.ways.total():,} of {self.runs:,} runs"]
        words += [f"{self.ways[way]} {way}" for way in ("diverged", "failed") if self.ways[way]]
        if 0 < self.share < 1:
            spent = time.monotonic() - self.began
            words.append(f"{in_words(spent / self.share * (1 - self.share))} left")
        return ", ".join(words)


@contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM ends a block like Ctrl-C does; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
