"""Who trains stacks: this process, or worker processes beside it.

A worker loads each data set once, trains the stacks that it is handed and sends back what came of them; how
it lives and dies is in `pool.py`.

Nothing here writes to a store: `tersa.study.launch` does.

Example:
    >>> train(Shelf(None), Stack(1, (Cell(data="nowhere"),), 1.0), Launch()).trouble.splitlines()[-1]
    "tersa.errors.UsageError: unknown data set 'nowhere'; known: cifar-10, digits, ..."
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from tersa.data.sources import load
from tersa.data.task import Task
from tersa.study.cell import Cell, CellResult
from tersa.study.cluster import LOCAL, carry_out
from tersa.study.pool import Pool, Told, seldom
from tersa.train.device import torch_threads

ENGINE = "tersa.study.stacked"
"""The module that trains stacks."""
TOLD_S = 0.2
"""Least time between two words of a worker about its progress."""


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
        on: where, as `tersa.study.cluster` reads it.
    """

    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    data_dir: Path | None = None
    engine: str = ENGINE
    on: str = LOCAL


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
    try:
        results = engine_of(launch.engine).train_stack(
            stack.cells,
            shelf.task(stack.cells[0].data),
            progress=seldom(tell, stack.number, every_s=TOLD_S),
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
    with torch_threads(launch.threads):
        for stack in stacks:
            tell(train(shelf, stack, launch, tell))


def in_workers(stacks: Sequence[Stack], launch: Launch, tell: Callable[[Event], None]) -> None:
    """Train stacks in `launch.workers` processes or on a cluster, in their order.

    Raises:
        TersaError: workers end before they have begun.
        UsageError: no cluster answers.
    """
    pool = Pool[Stack, Event](
        launch.workers, launch.threads, partial(_worker, launch), _ended, _lost, script="studies"
    )
    carry_out(stacks, pool, tell, launch.on)


def _worker(launch: Launch) -> Callable[[Stack, Callable[[Event], None]], Event]:
    """What trains the stacks of one worker, which loads each data set once."""
    shelf = Shelf(launch.data_dir)
    return lambda stack, tell: train(shelf, stack, launch, tell)


def _ended(event: Event) -> bool:
    return isinstance(event, Ended)


def _lost(stack: Stack, reason: str) -> Event:
    return Ended(stack.number, trouble=reason)
