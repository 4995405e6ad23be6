"""How long stacks take, from a few timed updates of each kind, before any run has ended.

    seconds of a stack = sum over phases of (updates x time of one + epochs x time of a look at both splits)
    seconds of a study = those of the worker that ends last, longest stacks first

An estimate, as `tersa.train.estimate` is: off by a factor of two on a busy machine. Stacks of one shape and
number of runs are timed once; ranges that are calibrated by a run before (`range = "calibrated"`) train that
run too, which is not counted.

Example:
    >>> makespan([4.0, 3.0, 2.0], workers=2)
    5.0
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence

import torch

from tersa.data.task import Task
from tersa.rules.registry import rule as rule_of
from tersa.study.cell import Cell
from tersa.study.measure import Workload
from tersa.study.stacked import network_for
from tersa.study.workers import Shelf
from tersa.train.memory import keep_freed

WARM, TIMED = 3, 12
"""Updates before the first timed one, and timed updates, of each phase."""
ENOUGH_S = 0.5
"""Where fewer timed updates took this long, they are the measurement."""
MOST_KINDS = 60
"""Kinds of stacks that are timed; a study of more has no estimate."""


def paces(
    stacks: Sequence[Sequence[Cell]], shelf: Shelf, *, threads: int = 1, device: str = "cpu"
) -> list[float] | None:
    """Seconds of each stack; None where there are too many kinds to time."""
    kinds = {_kind(cells): cells for cells in stacks}
    if len(kinds) > MOST_KINDS:
        return None
    timed = {
        kind: stack_seconds(cells, shelf.task(cells[0].data), threads=threads, device=device)
        for kind, cells in kinds.items()
    }
    return [timed[_kind(cells)] for cells in stacks]


def stack_seconds(cells: Sequence[Cell], task: Task, *, threads: int = 1, device: str = "cpu") -> float:
    """Seconds that a stack takes, by timed updates of each of its phases."""
    keep_freed()  # as workers do: else each update takes its memory from the system anew
    network = network_for(cells[0], task)
    seconds = 0.0
    for place, phase in enumerate(rule_of(cells[0].rule).phases(network)):
        work = Workload(cells, task, device, place)
        work(WARM, threads=threads)
        one = _timed(work, threads, device)
        _wait(device)
        began = time.perf_counter()
        work.evaluate(threads=threads)
        _wait(device)
        looked = time.perf_counter() - began
        epochs = cells[0].epochs if phase.epochs is None else phase.epochs
        seconds += work.updates_per_run * one + 2 * epochs * looked
    return seconds


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last worker ends, where each takes the longest stack that is left."""
    ends = [0.0] * workers
    for each in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def _kind(cells: Sequence[Cell]) -> tuple[object, ...]:
    return (*cells[0].group, len(cells))


def _timed(work: Workload, threads: int, device: str) -> float:
    _wait(device)
    began, done = time.perf_counter(), 0
    while done < TIMED and (done == 0 or time.perf_counter() - began < ENOUGH_S):
        work(1, threads=threads)
        done += 1
    _wait(device)
    return (time.perf_counter() - began) / done


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
