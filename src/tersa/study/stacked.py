"""The engine: runs of equal shape train at once, with a leading axis R on every tensor.

    for phase in rule.phases:  for epoch:  for batch:  for turn in phase.turns:
        losses (R,) = rule.loss(turn, ...)                one graph for the whole stack
        grads = d sum(losses) / d (tensors of the turn)    runs do not mix: each gets its own gradient
        update_(...)                                       one pass: optimiser step and quantisation

All runs share the batches (the first layer is then one matrix product for the whole stack), unless they ask
for an order of their own. A run whose loss is no longer finite is masked: it keeps its last weights, is
reported as diverged, and the others go on. A run draws from generators of its own, so it gives the same
numbers alone: exactly where the matrix products do, else to their rounding.

The training images are train and validation together, as in document 000, and the test split is evaluated
after each epoch and selects nothing; or, to choose settings, train alone and the validation split.

Example:
    >>> from tersa.data import load
    >>> cells = [Cell(data="digits", model="mlp:16", epochs=2, quant="symmetric", bits=b) for b in (2, 8)]
    >>> [len(result.epochs) for result in train_stack(cells, load("digits"))]
    [2, 2]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.quant.primitives import hash_uniform, stream
from tersa.quant.quantiser import quantise
from tersa.quant.ranges import calibrate
from tersa.rules.base import Batch, Extras, Phase, Turn
from tersa.rules.network import Pair, Weights, network_of
from tersa.rules.registry import rule as rule_of
from tersa.rules.second_order import curvature_of
from tersa.study.cell import Cell, CellResult
from tersa.study.device import DeviceUpdate
from tersa.study.observe import accuracy, record, record_layers
from tersa.study.stack import Data, Ranges, Stack, load_data, network_for, program, start
from tersa.study.update import OPTIMISERS, Moment, update_
from tersa.train.device import torch_threads

__all__ = ["batches", "capacity", "cost", "network_for", "start", "threads_of", "train_stack", "update"]

LARGEST_STACK = 64
"""Most runs in one stack."""
STACK_BYTES = 96 * 2**20
"""Most memory of weights, gradients and optimiser state that a stack should have: about what caches hold."""


def capacity(cell: Cell, task: Task | None = None) -> int:
    """Most runs like this one that should share a stack.

    Second-order optimisers and convolutional networks gain nothing from a stack: 1.
    """
    shape, classes = (task.shape, len(task.classes)) if task is not None else ((1, 28, 28), 10)
    network = network_of(cell.model, shape, classes)
    if cell.optimizer not in OPTIMISERS or not network.dense:
        return 1
    per_run = 4 * 5 * network.parameters  # value, copy, gradient, two sums
    return max(1, min(LARGEST_STACK, STACK_BYTES // per_run))


def cost(cell: Cell, task: Task | None = None) -> float:
    """About how long a run takes, in arbitrary units that compare cells of one machine.

    Multiply-accumulates of all epochs, plus an equal share for what does not grow with the network.
    """
    shape, classes = (task.shape, len(task.classes)) if task is not None else ((1, 28, 28), 10)
    network = network_of(cell.model, shape, classes)
    rule = rule_of(cell.rule)
    turns = sum(len(p.turns) * (p.epochs or cell.epochs) for p in rule.phases(network))
    return float(turns * (3 * network.parameters + 10_000))


Report = Callable[[float], None]
"""Called with the share of the work that is done, 0..1."""


def train_stack(
    cells: Sequence[Cell],
    task: Task,
    *,
    progress: Report | None = None,
    threads: int = 1,
    device: str = "cpu",
    keep: Callable[[int, Weights, Extras], None] | None = None,
) -> list[CellResult]:
    """Train the runs of one stack.

    Args:
        cells: runs with equal `Cell.group`.
        task: their data.
        progress: told the share that is done.
        threads: of matrix products and of the fused update.
        device: `cpu`, or a torch device.
        keep: called at the end as keep(index of the cell, its weights, its extras), both with R = 1.

    Returns:
        One result per cell, in order; `seconds` is the stack's time divided by its runs.

    Raises:
        UsageError: the network does not fit the rule, or the cells cannot share a stack.
    """
    if len({cell.group for cell in cells}) != 1:
        raise UsageError(
            "these cells differ in data, model, rule, optimizer, batch, epochs or shuffle: no stack"
        )
    started = time.perf_counter()
    with threads_of(threads):
        stack = start(cells, task, device, _calibrate(cells, task, device))
        data = load_data(cells[0], task, device)
        phases = stack.rule.phases(stack.network)
        total = sum(_length(phase, cells[0]) for phase in phases)
        done = 0
        for phase in phases:
            done = _phase(stack, phase, data, done, total, progress)
        _snap_after(stack, data, done)
        if keep is not None:
            for run in range(len(cells)):
                keep(run, *_one(stack, run))
    seconds = (time.perf_counter() - started) / len(cells)
    return [_result(stack, run, seconds) for run in range(len(cells))]


@contextmanager
def threads_of(count: int) -> Generator[None]:
    """That many threads for torch and for the compiled update, then as before."""
    compiled = numba.get_num_threads()
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # pyright: ignore[reportAttributeAccessIssue]  # set at import
    try:
        with torch_threads(count):
            yield
    finally:
        numba.set_num_threads(compiled)


def _calibrate(cells: Sequence[Cell], task: Task, device: str) -> dict[int, Ranges]:
    """Fixed ranges, run by run, from the end of a full-precision run with the same settings.

    Tensors that a rule adds to the network (decoders, classifiers) are calibrated like the rest.
    """
    chosen = [run for run, cell in enumerate(cells) if cell.range == "calibrated" and cell.quant != "none"]
    real = {"quant": "none", "bits": 8, "rounding": "nearest", "storage": "inplace", "extra_bits": 0}
    twins: dict[str, Cell] = {}
    for run in chosen:
        twin = cells[run].model_copy(update={**real, "range": "layer", "percentile": 99.9})
        twins.setdefault(twin.key, twin)
    found: dict[str, list[Tensor]] = {}
    keys = list(twins)

    def keep(index: int, weights: Weights, extras: Extras) -> None:
        found[keys[index]] = [t for pair in weights for t in (pair.weight, pair.bias)] + list(extras.trained)

    if twins:
        train_stack(list(twins.values()), task, threads=torch.get_num_threads(), device=device, keep=keep)
    ranges: dict[int, Ranges] = {}
    for run in chosen:
        twin = cells[run].model_copy(update={**real, "range": "layer", "percentile": 99.9})
        bounds = [calibrate([tensor[0]], cells[run].percentile) for tensor in found[twin.key]]
        ranges[run] = [(float(low), float(high)) for low, high in bounds]
    return ranges


def _length(phase: Phase, cell: Cell) -> int:
    return cell.epochs if phase.epochs is None else phase.epochs


def _phase(stack: Stack, phase: Phase, data: Data, done: int, total: int, progress: Report | None) -> int:
    """All epochs of one phase; returns the number of epochs done in all."""
    cells = stack.cells
    recipe = phase.recipe
    optimizer = recipe.optimizer if recipe else cells[0].optimizer
    start = np.array(
        [recipe.learning_rate if recipe else cell.learning_rate for cell in cells], dtype=np.float32
    )
    fall = np.array([recipe.decay if recipe else cell.decay for cell in cells], dtype=np.float32)
    pull = [recipe.weight_decay if recipe else cell.weight_decay for cell in cells]
    decay = np.array(pull, dtype=np.float32)
    if not np.array_equal(decay, stack.settings.decay):
        stack.settings = replace(stack.settings, decay=decay)
    stack.state = stack.state.reset(optimizer)
    count = len(data.labels)
    updates = math.ceil(count / cells[0].batch)
    time_of_optimiser = 0
    for epoch in range(_length(phase, cells[0])):
        rate = start * fall**epoch
        losses = torch.zeros(len(cells), device=data.labels.device)
        for number, batch in enumerate(batches(stack, data, done)):
            time_of_optimiser += 1
            losses += update(stack, phase, batch, optimizer, rate.astype(np.float32), time_of_optimiser)
            if progress is not None and number % 50 == 0:
                progress((done + number / updates) / total)
        done += 1
        trained = stack.active.copy()
        _mask(stack, losses, done)
        record(stack, phase, data, done, losses / updates, rate, trained)
    return done


def batches(stack: Stack, data: Data, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch, in the order that its seed and number give."""
    cell, count = stack.cells[0], len(data.labels)

    def order(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(count, generator=generator).to(data.labels.device)

    if cell.shuffle == "shared":
        index = order(cell.shuffle_seed)
    else:
        index = torch.stack([order(each.seed) for each in stack.cells])  # (R, N)
    for part in index.split(cell.batch, dim=-1):
        yield Batch(data.inputs[part], data.labels[part])


def update(
    stack: Stack,
    phase: Phase,
    batch: Batch,
    optimizer: str,
    rate: npt.NDArray[np.float32],
    time_of_optimiser: int,
) -> Tensor:
    """One update: all turns of the phase. Returns the losses (R,), summed over turns, before it."""
    stack.step += 1
    total = torch.zeros(len(stack.cells), device=batch.labels.device)
    values = stack.seen
    late = np.zeros(len(values), dtype=np.bool_)
    for turn in phase.turns:
        moved = stack.masks(turn)
        leaves = [value.requires_grad_(bool(go)) for value, go in zip(values, moved, strict=True) if go]
        if stack.curved is not None:
            losses = _curved_step(stack, turn, batch, leaves, moved)
            grads: list[Tensor | None] = [None] * len(values)
        else:
            losses = stack.rule.loss(turn, stack.network, stack.weights, stack.trained, batch, stack.draw)
            found = iter(torch.autograd.grad(losses.sum(), leaves))
            grads = [next(found) if go else None for go in moved]
        for value in values:
            value.requires_grad_(False)
        last = turn is phase.turns[-1]
        snapped = (moved | late) if last else (moved if turn.snap else np.zeros_like(moved))
        late = np.zeros_like(late) if last else late | (moved & ~snapped)
        name = optimizer if stack.curved is None else "sgd"
        stepped = moved if stack.curved is None else np.zeros_like(moved)
        moment = Moment(name, rate, stack.step, time_of_optimiser, stack.active, stepped, snapped)
        _carry_out(stack, grads, moment)
        total += losses.detach()
    return total


def _curved_step(
    stack: Stack, turn: Turn, batch: Batch, leaves: list[Tensor], moved: npt.NDArray[np.bool_]
) -> Tensor:
    """One update of a second-order optimiser, which evaluates the loss several times; its loss (1,).

    What the network sees moves while the optimiser searches; then the kept weights take the same step.
    """
    assert stack.curved is not None
    before = [leaf.detach().clone() for leaf in leaves]

    def closure() -> Tensor:
        return stack.rule.loss(turn, stack.network, stack.weights, stack.trained, batch, stack.draw).sum()

    loss = stack.curved.update_(leaves, closure, curvature_of(stack.network, stack.weights, batch))
    with torch.no_grad():
        for t, leaf, old in zip(np.flatnonzero(moved), leaves, before, strict=True):
            step = leaf - old
            leaf.copy_(old)
            stack.state.masters[t].add_(step)
    return torch.tensor([loss], device=batch.labels.device)


def _carry_out(stack: Stack, grads: list[Tensor | None], moment: Moment) -> None:
    """Move and snap, and what single runs need besides."""
    if stack.special.steps:
        first = [cell.learning_rate for cell in stack.cells]
        share = [float(now) / then for now, then in zip(moment.rate, first, strict=True)]
        stack.special.before_(grads, stack.state, stack.settings, share)
    if stack.state.values[0].device.type == "cpu":
        update_(stack.state, grads, stack.settings, moment)
    else:
        _on_device(stack)(grads, moment)
    if stack.special.runs:
        stack.special.after_(stack.state, stack.settings, moment)
    program(stack, moment.moved | moment.snapped)


def _on_device(stack: Stack) -> DeviceUpdate:
    """The update of a stack that is not on the CPU, made anew where a phase has other sums or settings."""
    held = stack.on_device
    if held is None or held.state is not stack.state or held.settings is not stack.settings:
        held = stack.on_device = DeviceUpdate(stack.state, stack.settings)
    return held


def _mask(stack: Stack, losses: Tensor, epoch: int) -> None:
    """Take runs whose loss or weights are no longer finite out of the training."""
    sound = torch.isfinite(losses)
    whole = torch.ones_like(sound)
    for tensor in [*stack.state.values, *stack.state.masters]:
        whole &= tensor.isfinite().flatten(1).all(1)
    for run in np.flatnonzero(~(sound & whole).cpu().numpy() & stack.active):
        what = "a weight" if sound[run] else "the loss"
        stack.active[run] = False
        stack.messages[run] = f"{what} was not finite in epoch {epoch}; the last weights are kept"


@torch.no_grad()
def _snap_after(stack: Stack, data: Data, done: int) -> None:
    """Runs with storage `after`: their trained weights are snapped once, and judged again."""
    chosen = [r for r, spec in enumerate(stack.settings.specs) if spec.storage == "after" and stack.active[r]]
    for run in chosen:
        spec = stack.settings.specs[run]
        bounds = stack.calibrated.get(run)
        for t, value in enumerate(stack.state.values):
            given = (
                None if bounds is None else (value.new_tensor(bounds[t][0]), value.new_tensor(bounds[t][1]))
            )
            uniform = None
            if spec.rounding == "stochastic":
                key = stream(torch.tensor([stack.cells[run].seed], device=value.device), stack.step + 1, t)
                uniform = hash_uniform(key, value[run].numel()).view_as(value[run])
            value[run] = quantise(value[run], spec, bounds=given, uniform=uniform).values
    if chosen:
        program(stack, np.ones(len(stack.state.values), dtype=np.bool_))
        snapped = accuracy(stack, data.test_inputs, data.test_labels)
        for run in chosen:
            before = stack.epochs[run][-1]
            changes = {"epoch": done + 1, "phase": "snapped", "test_accuracy": float(snapped[run])}
            stack.epochs[run].append(before.model_copy(update={**changes, "train_accuracy": None}))
        record_layers(stack, done + 1, chosen)


def _one(stack: Stack, run: int) -> tuple[list[Pair], Extras]:
    """Weights and extras of one run, with R = 1."""

    def pick(tensor: Tensor) -> Tensor:
        return tensor[run : run + 1].detach().clone()

    pairs = [Pair(pick(pair.weight), pick(pair.bias)) for pair in stack.weights]
    extras = stack.trained
    return pairs, Extras(tuple(map(pick, extras.fixed)), tuple(map(pick, extras.trained)))


def _result(stack: Stack, run: int, seconds: float) -> CellResult:
    """What came of one run."""
    cell, epochs = stack.cells[run], stack.epochs[run]
    return CellResult(
        key=cell.key,
        cell=cell,
        status="done" if stack.active[run] else "diverged",
        test_accuracy=epochs[-1].test_accuracy if epochs else None,
        epochs=epochs,
        layers=stack.layers[run],
        seconds=seconds,
        stacked=len(stack.cells),
        message=stack.messages[run],
    )
