"""Everything that exists of a run between two updates, as bytes: the proof that no real-valued copy is kept.

For storage `inplace` and `accumulate` on a fixed range, without momentum, a run is

    codes        b bits per weight and bias (b + e with e extra bits that collect small updates)
    position     the seed and the number of updates done: the state of the generator of stochastic rounding,
                 and of the learning rate's schedule

and nothing else: levels, gains, order of the images and rates follow from the run's settings. `save` writes
just this (and the state of a rule's own generator, where the rule draws numbers while it trains), `restore_`
puts it into a fresh stack, and the run goes on bit for bit.

The code of a symmetric level a c / q is c + q, with e extra bits F = (c 2^e + r): on the grid of
2 q 2^e + 1 places. Asymmetric levels count from the low end, binary ones are 0 and 1.

Example:
    >>> fields = {"quant": "symmetric", "bits": 3, "range": "global", "optimizer": "sgd"}
    >>> bits_of(Cell(**fields, storage="accumulate", extra_bits=4))
    7
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tersa.errors import DataError, UsageError
from tersa.files import replacing
from tersa.quant.packing import pack, unpack
from tersa.rules.base import Draw
from tersa.study.cell import Cell
from tersa.study.stack import Stack

FIXED = ("global", "calibrated")


def bits_of(cell: Cell) -> int:
    """Bits per weight that a run keeps between two updates.

    Raises:
        UsageError: the run keeps real numbers: another storage, a range that is measured, an optimiser with a
            memory.
    """
    if cell.quant not in ("symmetric", "asymmetric", "binary", "ternary") or cell.range not in FIXED:
        raise UsageError(
            f"{cell.quant} levels with range {cell.range} are not codes on a fixed grid; choose symmetric, "
            "asymmetric, binary or ternary with range global or calibrated"
        )
    if cell.storage not in ("inplace", "accumulate") or cell.optimizer != "sgd":
        raise UsageError(
            f"storage {cell.storage} with optimizer {cell.optimizer} keeps real numbers between updates; "
            "choose storage inplace or accumulate and optimizer sgd"
        )
    return cell.spec.bits + cell.extra_bits


def steps_of(cell: Cell) -> int:
    """Distance of the highest code from the lowest, in whole levels."""
    spec = cell.spec
    return {"symmetric": 2**spec.bits - 2, "asymmetric": 2**spec.bits - 1, "binary": 1, "ternary": 2}[
        spec.kind
    ]


def save(stack: Stack, run: int, path: Path) -> int:
    """Write the state of one run; returns the bits of its codes.

    Raises:
        UsageError: the run keeps more than codes, see `bits_of`, or the noise of an array.
    """
    cell, total = stack.cells[run], 0
    width = bits_of(cell)
    if cell.program_noise or cell.read_noise or cell.stuck:
        raise UsageError(
            "the noise of an array is a state of its devices, not codes; choose a run without noise"
        )
    tensors: dict[str, Tensor] = {}
    position = stack.draw.generators[run].get_state()
    if not torch.equal(position, _drawn(stack, run)):
        tensors["draw"] = position
    for t, master in enumerate(stack.state.masters):
        codes = _encode(master[run], cell, *_range(stack, run, t))
        tensors[f"codes.{t}"] = pack(codes, width)
        total += codes.numel() * width
    with replacing(path) as place:
        save_file(tensors, place, {"seed": str(cell.seed), "updates": str(stack.step), "bits": str(width)})
    return total


def restore_(stack: Stack, run: int, path: Path) -> None:
    """Put a saved state into a stack; the stack's count of updates becomes the file's.

    Raises:
        DataError: the file is of another run.
    """
    cell = stack.cells[run]
    width = bits_of(cell)
    with safe_open(path, "pt") as file:
        about = file.metadata()
        if about.get("seed") != str(cell.seed) or about.get("bits") != str(width):
            raise DataError(
                f"{path.name} holds seed {about.get('seed')} with {about.get('bits')} bits per weight, the "
                f"run has seed {cell.seed} and {width} bits"
            )
        stack.step = int(about["updates"])
        if "draw" in file.keys():  # noqa: SIM118  a file, not a dict
            stack.draw.generators[run].set_state(file.get_tensor("draw"))
        for t, (value, master) in enumerate(zip(stack.state.values, stack.state.masters, strict=True)):
            codes = unpack(file.get_tensor(f"codes.{t}"), width, master[run].numel())
            seen, kept = _decode(codes, cell, *_range(stack, run, t))
            value[run].copy_(seen.view_as(value[run]))
            master[run].copy_(kept.view_as(master[run]))


def _drawn(stack: Stack, run: int) -> Tensor:
    """State of a run's generator after its start, before its first update."""
    seed = stack.cells[run].seed
    draw, network = Draw([seed]), stack.network
    stack.rule.extras(network, stack.rule.start(network, network.initial([seed]), draw), draw)
    return draw.generators[0].get_state()


def _range(stack: Stack, run: int, tensor: int) -> tuple[Tensor, Tensor]:
    """Low and high as the update takes them."""
    low = torch.tensor(float(stack.settings.low[run, tensor]))
    high = torch.tensor(float(stack.settings.high[run, tensor]))
    if stack.cells[run].quant != "asymmetric":
        high = torch.maximum(low.abs(), high.abs())
        low = -high
    return low, high


def _encode(kept: Tensor, cell: Cell, low: Tensor, high: Tensor) -> Tensor:
    """Codes 0 .. steps 2^e of kept values."""
    places = steps_of(cell) * 2**cell.extra_bits
    return torch.round((kept.flatten().double() - low) / (high - low) * places).to(torch.int32)


def _decode(codes: Tensor, cell: Cell, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Seen and kept values of codes, in the update's own arithmetic."""
    steps, parts = steps_of(cell), 2**cell.extra_bits
    code = codes.float()
    if cell.storage == "accumulate":
        kept, seen = (code / parts) / steps, (code / parts + 0.5).floor() / steps
        return low * (1 - seen) + high * seen, low * (1 - kept) + high * kept
    if cell.quant == "asymmetric":
        t = code / steps
        value = low * (1 - t) + high * t
    elif cell.quant == "binary":
        value = torch.where(code > 0, high, low)
    else:
        q = steps / 2
        value = ((code - q) / q) * high
    return value, value
