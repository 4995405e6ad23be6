"""A stack of runs: its network, its numbers, its data, and how they start.

The weights of all runs lie in tensors with a leading axis R; one `State` holds them with the optimiser's
sums, one `Settings` what differs between the runs. `start` draws and snaps everything for the first time;
training is `tersa.study.stacked`.

Example:
    >>> from tersa.data import load
    >>> cells = [Cell(data="digits", model="mlp:16", seed=seed) for seed in (1, 2, 3)]
    >>> start(cells, load("digits")).weights[0].weight.shape
    torch.Size([3, 16, 64])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tersa.data.task import Split, Task, pixels
from tersa.errors import UsageError
from tersa.quant.ranges import calibrate
from tersa.quant.signals import gradient_quantiser, hidden_quantiser, state_quantiser
from tersa.rules.base import Draw, Extras, Phase, Rule, Turn
from tersa.rules.network import Network, Pair, Signals, network_of
from tersa.rules.registry import rule as rule_of
from tersa.rules.second_order import KINDS, SecondOrder, check_rule, check_size
from tersa.study.array import Array, asks
from tersa.study.cell import Cell, CellEpoch, LayerState
from tersa.study.device import DeviceUpdate
from tersa.study.special import Special
from tersa.study.special import check as check_special
from tersa.study.update import Moment, Settings, State, update_


def network_for(cell: Cell, task: Task) -> Network:
    """The line of layers that a cell trains.

    Raises:
        UsageError: the network does not fit the data or the rule.
    """
    network = network_of(cell.model, task.shape, len(task.classes))
    rule = rule_of(cell.rule)
    rule.check(network)
    _check_optimiser(cell, rule.phases(network))
    check_special(cell.spec)
    check_rule(cell.optimizer, cell.rule)
    check_size(cell.optimizer, network.parameters)
    _signals(network, [cell], "cpu")
    return network


def _check_optimiser(cell: Cell, phases: Sequence[Phase]) -> None:
    """Refuse an optimiser for a rule whose every phase brings its own."""
    asked = [name for name in OWN if getattr(cell, name) != Cell.model_fields[name].default]
    if asked and all(phase.recipe is not None for phase in phases):
        raise UsageError(
            f"rule {cell.rule} brings its own optimiser and rates; leave out {', '.join(asked)}, or choose "
            "another rule"
        )


OWN = ("optimizer", "learning_rate", "decay", "weight_decay")
"""Settings that a phase with a recipe does not read."""
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
    array: Array | None = None
    curved: SecondOrder | None = None
    on_device: DeviceUpdate | None = None
    step: int = 0
    epochs: list[list[CellEpoch]] = field(default_factory=list[list[CellEpoch]])
    layers: list[list[LayerState]] = field(default_factory=list[list[LayerState]])
    messages: list[str] = field(default_factory=list[str])

    @property
    def seen(self) -> list[Tensor]:
        """What the network and the rule compute with: the levels, or what the array gives back for them."""
        if self.array is None:
            return self.state.values
        return [*self.array.effective, *self.state.values[len(self.array.effective) :]]

    @property
    def weights(self) -> list[Pair]:
        """The network's weights as they are seen."""
        values = self.seen
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
class Data:
    """Images on the device, normalised."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def start(
    cells: Sequence[Cell],
    task: Task,
    device: str = "cpu",
    calibrated: Mapping[int, Ranges] | None = None,
) -> Stack:
    """Weights, extras and settings of a stack, snapped for the first time.

    Args:
        cells: runs with equal `Cell.group`.
        task: their data.
        device: of all tensors.
        calibrated: run -> fixed range of each tensor, for runs with range `calibrated`; the global range
            where it is left out.

    Raises:
        UsageError: a network or settings that cannot be trained, or two runs under a second-order optimiser.
    """
    network = network_for(cells[0], task)
    for cell in cells[1:]:
        check_special(cell.spec)
    if cells[0].optimizer in KINDS and len(cells) > 1:
        raise UsageError(
            f"optimizer {cells[0].optimizer} searches for one run, here are {len(cells)}; "
            "train them one by one"
        )
    rule = rule_of(cells[0].rule)
    draw = Draw([cell.seed for cell in cells], device)
    weights = _initial(network, rule, cells, draw, device)
    network = network.with_signals(_signals(network, cells, device))
    extras = rule.extras(network, weights, draw)
    tensors = [t for pair in weights for t in (pair.weight, pair.bias)] + list(extras.trained)
    values = [tensor.detach().to(device).contiguous().clone() for tensor in tensors]
    calibrated = calibrated or {}
    specs, decay, seeds = zip(*[(cell.spec, cell.weight_decay, cell.seed) for cell in cells], strict=True)
    settings = Settings.of(specs, decay, seeds, len(values), calibrated)
    state = State.of(values, settings, cells[0].optimizer)
    array = Array.of(cells, values[: 2 * len(weights)], calibrated) if asks(cells) else None
    if array is not None:
        network = network.with_signals(replace(network.signals, read=array.reading(network, cells)))
    runs, name = len(cells), cells[0].optimizer
    stack = Stack(
        cells, network, rule, draw, extras, settings, state, Special.of(settings, state),
        np.ones(runs, dtype=np.bool_),
        calibrated, array, SecondOrder(name) if name in KINDS else None, None,
        epochs=[[] for _ in cells], layers=[[] for _ in cells], messages=[""] * runs,
    )  # fmt: skip
    snap(stack, state)
    if extras.fixed:
        fixed = [tensor.detach().to(device).contiguous().clone() for tensor in extras.fixed]
        ours = Settings.of(specs, decay, seeds, len(fixed), _own_ranges(cells, fixed))
        theirs = State.of(fixed, ours, "sgd")
        snap(stack, theirs, ours, Special.of(ours, theirs))
        stack.extras = Extras(tuple(fixed), extras.trained)
    return stack


def _own_ranges(cells: Sequence[Cell], fixed: Sequence[Tensor]) -> dict[int, Ranges]:
    """What fixed tensors use over a full-precision run: the range they have, for they never move."""
    found: dict[int, Ranges] = {}
    for run, cell in enumerate(cells):
        if cell.range == "calibrated" and cell.quant != "none":
            bounds = [calibrate([tensor[run]], cell.percentile) for tensor in fixed]
            found[run] = [(float(low), float(high)) for low, high in bounds]
    return found


def _initial(network: Network, rule: Rule, cells: Sequence[Cell], draw: Draw, device: str) -> list[Pair]:
    """The network's own start as the rule wants it; uniform over the global range for runs with a gain."""
    own = network.initial([cell.seed for cell in cells])
    begun = rule.start(network, own, draw)
    found = [Pair(pair.weight.cpu().clone(), pair.bias.cpu().clone()) for pair in begun]
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
        make = state_quantiser if network.recurrent else hidden_quantiser
        hidden = make(torch.tensor([cell.activation_bits for cell in cells], device=device))
    if any(cell.gradient_bits for cell in cells):
        backward = gradient_quantiser(torch.tensor([cell.gradient_bits for cell in cells], device=device))
    return Signals(gain=gain, hidden=hidden, backward=backward)


def load_data(cell: Cell, task: Task, device: str = "cpu") -> Data:
    """What is learned from and what is judged on, as the cell scales them."""

    def inputs(images: Tensor) -> Tensor:
        return (task.normalise(images) if cell.scaling == "standard" else pixels(images)).to(device)

    learned, judged = task.train, task.validation
    if cell.judged_on == "test":
        parts = (task.train, task.validation)
        learned = Split(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
        judged = task.test
    return Data(
        inputs(learned.images), learned.labels.to(device), inputs(judged.images), judged.labels.to(device)
    )


def snap(
    stack: Stack, state: State, settings: Settings | None = None, special: Special | None = None
) -> None:
    """Snap every tensor without moving it: the stack's own, or others under settings of their own."""
    count = len(state.values)
    moment = Moment(
        "sgd", np.zeros(len(stack.cells), dtype=np.float32), 0, 1, stack.active,
        np.zeros(count, dtype=np.bool_), np.ones(count, dtype=np.bool_),
    )  # fmt: skip
    update_(state, [None] * count, settings or stack.settings, moment)
    (special or stack.special).after_(state, settings or stack.settings, moment)
    if settings is None:
        program(stack, np.ones(count, dtype=np.bool_))


def program(stack: Stack, touched: npt.NDArray[np.bool_]) -> None:
    """Write what has changed into the array, where there is one."""
    if stack.array is not None:
        inside = touched[: len(stack.array.effective)]
        stack.array.write_(stack.state.values, [int(t) for t in np.flatnonzero(inside)], stack.step)
