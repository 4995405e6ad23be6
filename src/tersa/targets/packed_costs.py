"""What each step of a packed program has to do: products, and bytes from and to memory.

A step is what one kernel does: a convolution with the thresholds and the pooling behind it. Where it works on
bits, its weights have w (ternary: 2) and the codes that it reads k,

    macs = N O H W (C kh kw),    work = macs w k    products of single bits

and `popcount.limit` says how many of these a processor makes; the tables of layers that look products up are
not counted. Layers of few channels or many bits run on numbers of 8 or 16 bits instead, some on floats: their
work has no such limit and is 0. Codes take their bits in words of 64 channels, numbers of 8 and 16 bits one
byte and two, everything else four. Layers have no names in a program; they are numbered, `conv1`, `fc2`, in
the order of their work.

Example:
    >>> import numpy as np
    >>> from tersa.binary.program import Affine, Convolution, Pixels, Program, Threshold, Weights
    >>> w = Weights.of(np.array([[1, -1], [1, 1]]).reshape(2, 1, 1, 2), bits=1)
    >>> head = (np.ones(2, np.float32), np.zeros(2, np.float32))
    >>> program = Program(("a", "b"), (2, 1, 1), (Pixels(1, (2, 1, 1)), Convolution(0, w),
    ...     Threshold(1, np.array([[0], [1]], np.int32)), Convolution(2, w), Affine(3, *head)))
    >>> [(one.name, one.kind, one.macs) for one in program_costs(program, 3, [(0,), (1, 2), (3, 4)])]
    [('Pixels', 'Pixels', 0), ('fc1', 'Conv+Threshold', 12), ('fc2', 'Conv+Affine', 12)]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from tersa.binary.bitpack import words_for
from tersa.binary.lowering import form_read
from tersa.binary.program import (
    Convolution,
    FloatConvolution,
    Operation,
    Program,
    Value,
    Weights,
    sources,
)
from tersa.targets.costs import NodeCost

SHORT, FLOAT, WORD = 2, 4, 8
"""Bytes."""
INTEGERS = {"shorts": SHORT, "bytes": 1}
"""Bytes of a code where it is a number of its own."""


def program_costs(program: Program, batch: int, steps: Sequence[Sequence[int]]) -> list[NodeCost]:
    """The steps of a program in their order.

    Args:
        program: what is run.
        batch: N.
        steps: the operations of each, as `step_table.Table.names`.
    """
    found: list[NodeCost] = []
    layers, made = 0, set[int]()
    for step in steps:
        if step[-1] in made:  # the same codes in another form
            found.append(_unpacking(program.values[step[-1]], step[-1], batch))
            continue
        made.add(step[-1])
        products = [i for i in step if isinstance(program.operations[i], Convolution | FloatConvolution)]
        kinds = [type(program.operations[i]).__name__.replace("Convolution", "Conv") for i in step]
        name = kinds[0]
        if products:
            layers += 1
            name = f"{'fc' if _whole(program, products[0]) else 'conv'}{layers}"
        weights = sum(_stored(program.operations[i]) for i in step)
        reads = [(source, i) for i in step for source in sources(program.operations[i]) if source not in step]
        moved = sum(_read(program, source, i) for source, i in reads) + _bytes(program.values[step[-1]])
        pixels = 0 if any(sources(program.operations[i]) for i in step) else math.prod(program.shape)
        last = program.values[step[-1]]
        found.append(
            NodeCost(
                name=name,
                kind="+".join(kinds),
                output=str(step[-1]),
                shape=(batch, *last.shape),
                macs=batch * sum(_macs(program, i) for i in products),
                weight_bytes=weights,
                moved_bytes=weights + batch * (moved + pixels),
                work=batch * sum(_work(program, i) for i in products),
            )
        )
    return found


def _unpacking(value: Value, index: int, batch: int) -> NodeCost:
    """Codes made of codes, for a layer that reads them as numbers of 16 bits or floats."""
    moved = batch * (_bytes(value) + SHORT * math.prod(value.shape))
    return NodeCost("Unpack", "Unpack", str(index), (batch, *value.shape), 0, 0, moved)


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
    """Products of single bits; 0 where numbers are multiplied."""
    one = program.operations[index]
    if not isinstance(one, Convolution) or form_read(program, index) != "words":
        return 0
    return _macs(program, index) * (one.weights.bits or 2) * program.values[one.source].bits


def _stored(one: Operation) -> int:
    """Bytes of an operation's arrays."""
    arrays = [getattr(one, each.name) for each in fields(one)]
    planes = [each.planes if isinstance(each, Weights) else each for each in arrays]
    return sum(each.nbytes for each in planes if isinstance(each, np.ndarray))


def _read(program: Program, source: int, index: int) -> int:
    """Bytes of one image's value, in the form in which an operation reads it."""
    value = program.values[source]
    form = form_read(program, index) if isinstance(program.operations[index], Convolution) else ""
    return INTEGERS[form] * math.prod(value.shape) if form in INTEGERS else _bytes(value)


def _bytes(value: Value) -> int:
    """Of one image's value."""
    channels, rows, columns = value.shape
    if value.kind != "codes":
        return FLOAT * math.prod(value.shape)
    return WORD * words_for(channels) * rows * columns * value.bits
