"""A stack that is stepped by hand, to be timed and counted: what an update of its rule costs.

Example:
    >>> from tersa.data import load
    >>> work = Workload([Cell(data="digits", model="mlp:16")], load("digits"))
    >>> work(2), work.macs()
    (2, 161792)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tersa.data.task import Task
from tersa.rules.products import ONEDNN, macs_of
from tersa.study.cell import Cell
from tersa.study.observe import accuracy
from tersa.study.stack import Stack, load_data, start
from tersa.study.stacked import batches, threads_of, update

KEPT = 64
"""Batches that are drawn once and stepped through in turn."""


class Workload:
    """Updates of a stack, as the engine makes them, without records.

    Args:
        cells: runs with equal `Cell.group`.
        task: their data.
        device: where it trains.
        phase: of the rule, by its place.
    """

    def __init__(self, cells: Sequence[Cell], task: Task, device: str = "cpu", phase: int = 0) -> None:
        self.stack: Stack = start(cells, task, device)
        self.phase = self.stack.rule.phases(self.stack.network)[phase]
        self.optimizer = self.phase.recipe.optimizer if self.phase.recipe else cells[0].optimizer
        self.stack.state = self.stack.state.reset(self.optimizer)
        self.data = load_data(cells[0], task, device)
        drawn = zip(range(KEPT), batches(self.stack, self.data, 0), strict=False)
        self.batches = [batch for _, batch in drawn]
        self.rate = np.array([cell.learning_rate for cell in cells], dtype=np.float32)
        self.done = 0

    @property
    def updates_per_run(self) -> int:
        """Of this phase, in a whole run."""
        cell = self.stack.cells[0]
        epochs = cell.epochs if self.phase.epochs is None else self.phase.epochs
        return epochs * math.ceil(len(self.data.labels) / cell.batch)

    def __call__(self, updates: int, *, threads: int = 1) -> int:
        """Make that many updates; returns how many were made in all."""
        with threads_of(threads):
            for _ in range(updates):
                batch = self.batches[self.done % len(self.batches)]
                self.done += 1
                update(self.stack, self.phase, batch, self.optimizer, self.rate, self.done)
        return self.done

    def macs(self) -> int:
        """Multiply-accumulates of the matrix products and convolutions of one update of one run, counted."""
        counted = {} if ONEDNN is None else {torch.ops.mkldnn._linear_pointwise: macs_of}
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            self(1)
        return counter.get_total_flops() // 2 // len(self.stack.cells)

    def evaluate(self, *, threads: int = 1) -> None:
        """The test split once, as after each epoch."""
        with threads_of(threads):
            accuracy(self.stack, self.data.test_inputs, self.data.test_labels)
