"""What each step of a packed program has to do: products, and bytes from and to memory.

A step is what one kernel does: a convolution with the thresholds and the pooling behind it. Its values are
codes of k bits, 1 / 8 k bytes each; everything else has 4 bytes. With weights of w bits (ternary: 2) on codes
of k bits

    macs = N O H W (C kh kw),    work = macs w k    products of single bits

which is what bit planes are: `popcount.limit` says how many a processor makes. Layers have no names in a
program; they are numbered, `conv1`, `fc2`, in the order of their work.

Example:
    >>> import numpy as np
    >>> from tersa.binary.program import Affine, Convolution, Pixels, Program, Threshold, Weights
    >>> w = Weights.of(np.array([[1, -1], [1, 1]]).reshape(2, 1, 1, 2), bits=1)
    >>> head = (np.ones(2, np.float32), np.zeros(2, np.float32))
    >>> program = Program(("a", "b"), (2, 1, 1), (Pixels(1, (2, 1, 1)), Convolution(0, w),
    ...     Threshold(1, np.array([[0], [1]], np.int32)), Convolution(2, w), Affine(3, *head)))
    >>> [(one.name, one.kind, one.macs) for one in program_costs(program, 3, [(0,), (1, 2), (3, 4)])]
    [('Pixels', 'Pixels', 0), ('fc1', 'Convolution Threshold', 12), ('fc2', 'Convolution Affine', 12)]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from tersa.binary.program import Convolution, FloatConvolution, Operation, Program, Value, Weights
from tersa.targets.costs import NodeCost

FLOAT_BITS = 32


def program_costs(program: Program, batch: int, steps: Sequence[Sequence[int]]) -> list[NodeCost]:
    """The steps of a program in their order.

    Args:
        program: what is run.
        batch: N.
        steps: the operations of each, as `lowering.Table.names`.
    """
    found: list[NodeCost] = []
    layers = 0
    for step in steps:
        products = [i for i in step if isinstance(program.operations[i], Convolution | FloatConvolution)]
        kind = " ".join(type(program.operations[i]).__name__ for i in step)
        name = kind
        if products:
            layers += 1
            name = f"{'fc' if _whole(program, products[0]) else 'conv'}{layers}"
        weights = sum(_stored(program.operations[i]) for i in step)
        reads = {source for i in step for source in _sources(program.operations[i]) if source not in step}
        moved = sum(_bytes(program.values[i]) for i in (*reads, step[-1]))
        pixels = 0 if any(_sources(program.operations[i]) for i in step) else math.prod(program.shape)
        last = program.values[step[-1]]
        found.append(
            NodeCost(
                name=name,
                kind=kind,
                output=str(step[-1]),
                shape=(batch, *last.shape),
                macs=batch * sum(_macs(program, i) for i in products),
                weight_bytes=weights,
                moved_bytes=weights + round(batch * (moved + pixels)),
                work=batch * sum(_work(program, i) for i in products),
            )
        )
    return found


def _sources(one: Operation) -> list[int]:
    return [getattr(one, name) for name in ("source", "other") if hasattr(one, name)]


def _whole(program: Program, index: int) -> bool:
    """The kernel is as large as the map: a fully connected layer."""
    one = program.operations[index]
    assert isinstance(one, Convolution | FloatConvolution)
    kernel = one.weights.shape[1:3]
    return kernel == program.values[one.source].shape[1:] and one.padding == 0


def _macs(program: Program, index: int) -> int:
    one = program.operations[index]
    assert isinstance(one, Convolution | FloatConvolution)
    return math.prod(one.weights.shape) * math.prod(program.values[index].shape[1:])


def _work(program: Program, index: int) -> int:
    """Products of single bits; 0 where floats are multiplied."""
    one = program.operations[index]
    if not isinstance(one, Convolution):
        return 0
    return _macs(program, index) * (one.weights.bits or 2) * (program.values[one.source].bits or FLOAT_BITS)


def _stored(one: Operation) -> int:
    """Bytes of an operation's arrays."""
    arrays = [getattr(one, each.name) for each in fields(one)]
    planes = [each.planes if isinstance(each, Weights) else each for each in arrays]
    return sum(each.nbytes for each in planes if isinstance(each, np.ndarray))


def _bytes(value: Value) -> float:
    """Of one image's value."""
    return math.prod(value.shape) * (value.bits or FLOAT_BITS) / 8
