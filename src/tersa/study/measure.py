"""A stack that is stepped by hand, to be timed: what an update of its rule costs.

Example:
    >>> from tersa.data import load
    >>> work = Workload([Cell(data="digits", model="mlp:16")], load("digits"))
    >>> work(2)
    2
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tersa.data.task import Task
from tersa.study.cell import Cell
from tersa.study.stacked import Stack, batches, load_data, start, threads_of, update


class Workload:
    """Updates of a stack, as the engine makes them, without evaluation or records.

    Args:
        cells: runs with equal `Cell.group`.
        task: their data.
        device: where it trains.
    """

    def __init__(self, cells: Sequence[Cell], task: Task, device: str = "cpu") -> None:
        self.stack: Stack = start(cells, task, device)
        self.phase = self.stack.rule.phases(self.stack.network)[0]
        self.optimizer = self.phase.recipe.optimizer if self.phase.recipe else cells[0].optimizer
        self.stack.state = self.stack.state.reset(self.optimizer)
        data = load_data(cells[0], task, device)
        self.batches = [batch for _, batch in zip(range(64), batches(self.stack, data, 0), strict=False)]
        self.rate = np.array([cell.learning_rate for cell in cells], dtype=np.float32)
        self.done = 0

    def __call__(self, updates: int, *, threads: int = 1) -> int:
        """Make that many updates; returns how many were made in all."""
        with threads_of(threads):
            for _ in range(updates):
                batch = self.batches[self.done % len(self.batches)]
                self.done += 1
                update(self.stack, self.phase, batch, self.optimizer, self.rate, self.done)
        return self.done
