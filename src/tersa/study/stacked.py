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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tersa.data.task import Split, Task, pixels
from tersa.errors import UsageError
from tersa.quant.primitives import hash_uniform, stream
from tersa.quant.quantiser import quantise
from tersa.quant.ranges import calibrate
from tersa.rules.base import Batch, Draw, Extras, Phase, Rule, Turn
from tersa.rules.network import Network, Pair, Signals, Weights, network_of
from tersa.rules.registry import rule as rule_of
from tersa.study.cell import Cell, CellEpoch, CellResult, LayerState
from tersa.study.special import Special
from tersa.study.special import check as check_special
from tersa.study.update import OPTIMISERS, Moment, Settings, State, update_

LARGEST_STACK = 64
"""Most runs in one stack."""
STACK_BYTES = 96 * 2**20
"""Most memory of weights, gradients and optimiser state that a stack should have: about what caches hold."""
EVALUATED = 1000
"""Images of one evaluation batch."""
ANGLE_IMAGES = 256
"""Images on which the alignment with backpropagation is measured."""


def network_for(cell: Cell, task: Task) -> Network:
    """The line of layers that a cell trains.

    Raises:
        UsageError: the network does not fit the data or the rule.
    """
    network = network_of(cell.model, task.shape, len(task.classes))
    rule_of(cell.rule).check(network)
    check_special(cell.spec)
    return network


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


Ranges = list[tuple[float, float]]
"""Fixed low and high of each tensor of a run."""


@dataclass
class Stack:
    """Everything about a stack while it trains."""

    cells: Sequence[Cell]
    network: Network
    rule: Rule
    draw: Draw
    extras: Extras
    settings: Settings
    state: State
    special: Special
    active: npt.NDArray[np.bool_]
    calibrated: Mapping[int, Ranges]
    step: int = 0
    epochs: list[list[CellEpoch]] = field(default_factory=list[list[CellEpoch]])
    layers: list[list[LayerState]] = field(default_factory=list[list[LayerState]])
    messages: list[str] = field(default_factory=list[str])

    @property
    def weights(self) -> list[Pair]:
        """The network's weights as they are seen."""
        values = self.state.values
        return [Pair(values[2 * i], values[2 * i + 1]) for i in range(len(self.network.layers))]

    @property
    def trained(self) -> Extras:
        """The extras with the present values of those that move."""
        return Extras(self.extras.fixed, tuple(self.state.values[2 * len(self.network.layers) :]))

    def masks(self, turn: Turn) -> npt.NDArray[np.bool_]:
        """Which tensors of the state a turn moves, (T,)."""
        found = np.zeros(len(self.state.values), dtype=np.bool_)
        for i in turn.layers:
            found[2 * i : 2 * i + 2] = True
        for i in turn.extras:
            found[2 * len(self.network.layers) + i] = True
        return found


@dataclass(frozen=True)
class _Data:
    """Images on the device, normalised."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


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
        stack = start(cells, task, device)
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
    before, compiled = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # pyright: ignore[reportAttributeAccessIssue]  # set at import
    try:
        yield
    finally:
        torch.set_num_threads(before)
        numba.set_num_threads(compiled)


def start(cells: Sequence[Cell], task: Task, device: str) -> Stack:
    """Weights, extras and settings of a stack, snapped for the first time."""
    network = network_for(cells[0], task)
    rule = rule_of(cells[0].rule)
    draw = Draw([cell.seed for cell in cells], device)
    weights = _initial(network, rule, cells, draw, device)
    network = network.with_signals(_signals(network, cells, device))
    extras = rule.extras(network, weights, draw)
    tensors = [t for pair in weights for t in (pair.weight, pair.bias)] + list(extras.trained)
    values = [tensor.detach().to(device).contiguous().clone() for tensor in tensors]
    calibrated = _calibrate(cells, task, device, len(values))
    specs, decay, seeds = zip(*[(cell.spec, cell.weight_decay, cell.seed) for cell in cells], strict=True)
    settings = Settings.of(specs, decay, seeds, len(values), calibrated)
    state = State.of(values, settings, cells[0].optimizer)
    runs = len(cells)
    stack = Stack(
        cells, network, rule, draw, extras, settings, state, Special.of(settings, state),
        np.ones(runs, dtype=np.bool_),
        calibrated, epochs=[[] for _ in cells], layers=[[] for _ in cells], messages=[""] * runs,
    )  # fmt: skip
    _snap(stack, state)
    fixed = [tensor.detach().to(device).contiguous().clone() for tensor in extras.fixed]
    if fixed:
        ours = Settings.of(specs, decay, seeds, len(fixed))
        _snap(stack, State.of(fixed, ours, "sgd"), ours)
        stack.extras = Extras(tuple(fixed), extras.trained)
    return stack


def _calibrate(cells: Sequence[Cell], task: Task, device: str, tensors: int) -> dict[int, Ranges]:
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
        assert len(bounds) == tensors
        ranges[run] = [(float(low), float(high)) for low, high in bounds]
    return ranges


def _initial(network: Network, rule: Rule, cells: Sequence[Cell], draw: Draw, device: str) -> list[Pair]:
    """The network's own start as the rule wants it; uniform over the global range for runs with a gain."""
    own = network.initial([cell.seed for cell in cells])
    found = [Pair(pair.weight.clone(), pair.bias.clone()) for pair in rule.start(network, own, draw)]
    for run, cell in enumerate(cells):
        if cell.gain:
            generator = torch.Generator().manual_seed(cell.seed)
            for pair in found:
                pair.weight[run].uniform_(cell.low, cell.high, generator=generator)
                pair.bias[run].zero_()
    return [Pair(pair.weight.to(device), pair.bias.to(device)) for pair in found]


def _signals(network: Network, cells: Sequence[Cell], device: str) -> Signals:
    """What the cells ask for between layers."""
    gain = hidden = backward = None
    if any(cell.gain for cell in cells):
        rows = [
            [cell.gain / math.sqrt(layer.fan_in) if cell.gain else 1.0 for layer in network.layers]
            for cell in cells
        ]
        gain = torch.tensor(rows, device=device)
    if any(cell.activation_bits for cell in cells):
        hidden = (
            None  # hidden_quantiser(torch.tensor([cell.activation_bits for cell in cells], device=device))
        )
    if any(cell.gradient_bits for cell in cells):
        backward = (
            None  # gradient_quantiser(torch.tensor([cell.gradient_bits for cell in cells], device=device))
        )
    return Signals(gain=gain, hidden=hidden, backward=backward)


def load_data(cell: Cell, task: Task, device: str) -> _Data:
    """What is learned from and what is judged on, as the cell scales them."""

    def inputs(images: Tensor) -> Tensor:
        return (task.normalise(images) if cell.scaling == "standard" else pixels(images)).to(device)

    learned, judged = task.train, task.validation
    if cell.judged_on == "test":
        parts = (task.train, task.validation)
        learned = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
        judged = task.test
    return _Data(
        inputs(learned.images), learned.labels.to(device), inputs(judged.images), judged.labels.to(device)
    )


def _length(phase: Phase, cell: Cell) -> int:
    return cell.epochs if phase.epochs is None else phase.epochs


def _phase(stack: Stack, phase: Phase, data: _Data, done: int, total: int, progress: Report | None) -> int:
    """All epochs of one phase; returns the number of epochs done in all."""
    cells = stack.cells
    recipe = phase.recipe
    optimizer = recipe.optimizer if recipe else cells[0].optimizer
    start = np.array(
        [recipe.learning_rate if recipe else cell.learning_rate for cell in cells], dtype=np.float32
    )
    fall = np.array([recipe.decay if recipe else cell.decay for cell in cells], dtype=np.float32)
    if recipe and recipe.weight_decay:
        decay = np.full(len(cells), recipe.weight_decay, dtype=np.float32)
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
        _mask(stack, losses, done)
        _record(stack, phase, data, done, losses / updates, rate)
    return done


def batches(stack: Stack, data: _Data, epoch: int) -> Iterator[Batch]:
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
    values = stack.state.values
    late = np.zeros(len(values), dtype=np.bool_)
    for turn in phase.turns:
        moved = stack.masks(turn)
        leaves = [value.requires_grad_(bool(go)) for value, go in zip(values, moved, strict=True) if go]
        losses = stack.rule.loss(turn, stack.network, stack.weights, stack.trained, batch, stack.draw)
        found = iter(torch.autograd.grad(losses.sum(), leaves))
        grads = [next(found) if go else None for go in moved]
        for value in values:
            value.requires_grad_(False)
        last = turn is phase.turns[-1]
        snapped = (moved | late) if last else (moved if turn.snap else np.zeros_like(moved))
        late = np.zeros_like(late) if last else late | (moved & ~snapped)
        moment = Moment(optimizer, rate, stack.step, time_of_optimiser, stack.active, moved, snapped)
        _carry_out(stack, grads, moment)
        total += losses.detach()
    return total


def _carry_out(stack: Stack, grads: list[Tensor | None], moment: Moment) -> None:
    """Move and snap, and what single runs need besides."""
    if stack.special.steps:
        first = [cell.learning_rate for cell in stack.cells]
        share = [float(now) / then for now, then in zip(moment.rate, first, strict=True)]
        stack.special.before_(grads, stack.state, stack.settings, share)
    update_(stack.state, grads, stack.settings, moment)
    if stack.special.runs:
        stack.special.after_(stack.state, stack.settings, moment)


def _snap(stack: Stack, state: State, settings: Settings | None = None) -> None:
    """Snap every tensor without moving it."""
    count = len(state.values)
    moment = Moment(
        "sgd", np.zeros(len(stack.cells), dtype=np.float32), 0, 1, stack.active,
        np.zeros(count, dtype=np.bool_), np.ones(count, dtype=np.bool_),
    )  # fmt: skip
    update_(state, [None] * count, settings or stack.settings, moment)
    if settings is None:
        stack.special.after_(state, stack.settings, moment)


def _mask(stack: Stack, losses: Tensor, epoch: int) -> None:
    """Take runs whose loss is no longer finite out of the training."""
    for run in np.flatnonzero(~torch.isfinite(losses).cpu().numpy() & stack.active):
        stack.active[run] = False
        stack.messages[run] = f"the loss was not finite in epoch {epoch}; the last weights are kept"


@torch.no_grad()
def accuracy(
    rule: Rule, network: Network, weights: Weights, extras: Extras, inputs: Tensor, labels: Tensor
) -> Tensor:
    """Right answers in percent, (R,) float64."""
    right = torch.zeros(len(weights[0].bias), dtype=torch.int64, device=labels.device)
    for x, y in zip(inputs.split(EVALUATED), labels.split(EVALUATED), strict=True):
        right += (rule.predict(network, weights, extras, x).argmax(-1) == y).sum(-1)
    return 100.0 * right.double() / len(labels)


def _record(
    stack: Stack,
    phase: Phase,
    data: _Data,
    epoch: int,
    losses: Tensor,
    rate: npt.NDArray[np.float32],
) -> None:
    """What is known after an epoch, for every run that still trains or has just diverged."""
    test = accuracy(
        stack.rule, stack.network, stack.weights, stack.trained, data.test_inputs, data.test_labels
    )
    sample = slice(0, len(data.test_labels))
    train = accuracy(
        stack.rule, stack.network, stack.weights, stack.trained, data.inputs[sample], data.labels[sample]
    )
    for run, rows in enumerate(stack.epochs):
        if stack.active[run] or not stack.messages[run] or not rows or rows[-1].epoch == epoch - 1:
            rows.append(
                CellEpoch(
                    epoch=epoch,
                    phase=phase.name,
                    train_loss=_finite(float(losses[run])),
                    train_accuracy=float(train[run]),
                    test_accuracy=float(test[run]),
                    learning_rate=float(rate[run]),
                )
            )
    _record_layers(stack, epoch)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _record_layers(stack: Stack, epoch: int, runs: Sequence[int] | None = None) -> None:
    """Extremes, mean and variance of every tensor of the network."""
    for layer, pair in zip(stack.network.layers, stack.weights, strict=True):
        named: list[tuple[Literal["weight", "bias"], Tensor]] = [("weight", pair.weight), ("bias", pair.bias)]
        for name, tensor in named:
            flat = tensor.flatten(1)
            low, high, mean = flat.amin(1).tolist(), flat.amax(1).tolist(), flat.mean(1).tolist()
            variance = flat.var(1, correction=0).tolist()
            for run, rows in enumerate(stack.layers):
                if stack.active[run] and (runs is None or run in runs):
                    rows.append(
                        LayerState(
                            epoch=epoch,
                            layer=layer.name,
                            tensor=name,
                            low=low[run],
                            high=high[run],
                            mean=mean[run],
                            variance=variance[run],
                        )
                    )


@torch.no_grad()
def _snap_after(stack: Stack, data: _Data, done: int) -> None:
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
        snapped = accuracy(
            stack.rule, stack.network, stack.weights, stack.trained, data.test_inputs, data.test_labels
        )
        for run in chosen:
            before = stack.epochs[run][-1]
            changes = {"epoch": done + 1, "phase": "snapped", "test_accuracy": float(snapped[run])}
            stack.epochs[run].append(before.model_copy(update={**changes, "train_accuracy": None}))
        _record_layers(stack, done + 1, chosen)


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
