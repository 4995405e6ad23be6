"""Sparse weights on disk: bytes that are written and read back, and their count for a whole network.

A tensor is written as

    "tw1", form (1 byte), number type (1 byte), dimensions (1 byte), sizes (4 bytes each), then the form

with the forms of `forms.py`: dense, bitmap, csr, relative, kernels, and N:M such as `2:4`. Decoding gives the
tensor back bit for bit (minus zero, which only `dense` tells from zero, comes back as zero), and one tensor
has one encoding per form: bytes of damaged structure are refused (a changed value is not noticed, there is no
checksum). `storage` says how long every encoding would be without writing it, header included; the tests hold
it against the bytes.

These forms make files smaller. They do not make inference faster: the runtimes that tersa measures multiply
dense tensors, and zeros cost as much as other values there (2:4 is faster on some GPUs with their own
kernels, which tersa does not call). What is faster is what `surgery.py` removes.

Values keep their number type; shared values and entropy coding are another stage, after this one.

Example:
    >>> weight = torch.zeros(20, 50)
    >>> weight[3, 7] = 0.5
    >>> [len(encode(weight, form)) for form in ("dense", "bitmap", "csr", "relative")]
    [4014, 143, 44, 24]
    >>> torch.equal(decode(encode(weight, "relative")), weight)
    True
    >>> storage({"fc.weight": weight}).layers[0].smallest
    'relative'
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersa.errors import DataError, UsageError, unknown
from tersa.prune.blocks import NM, parse_nm
from tersa.prune.forms import FORMS, Array, Form, Reader, block_form, relative_bits

MAGIC = b"tw1"
"""Format and version."""

MOST_VALUES = 2**28
"""Largest tensor that `decode` makes unless told otherwise (1 GiB of float32): few bytes can claim any."""

MOST_DIMENSIONS = 8

KINDS = {
    torch.float32: "<f4",
    torch.float16: "<f2",
    torch.float64: "<f8",
    torch.int64: "<i8",
    torch.int32: "<i4",
    torch.int16: "<i2",
    torch.int8: "|i1",
    torch.uint8: "|u1",
}
"""Number types; their place is their number in the file."""

BLOCKS = len(FORMS)
"""The form byte of N:M; the others' is their place in `FORMS`."""


def encode(tensor: Tensor, form: str) -> bytes:
    """A tensor as bytes.

    Args:
        tensor: not empty, at most 8 dimensions, a number type of `KINDS`.
        form: `dense`, `bitmap`, `csr`, `relative`, `kernels`, or N:M such as `2:4`.

    Raises:
        UsageError: an unknown form, a tensor that is empty or of another type, or one whose blocks are
            fuller than N:M says.
    """
    values, writer = _array(tensor), _form(form)
    if writer.size(values) is None:
        raise UsageError(
            f"a tensor of shape {tuple(tensor.shape)} is not {form}: a block has too many values that are "
            "not zero, or there are no blocks; choose its masks with that pattern first"
        )
    return _header(values, form) + writer.write(values)


def decode(data: bytes, *, most: int = MOST_VALUES) -> Tensor:
    """The tensor that `encode` wrote.

    Args:
        data: all of its bytes, and nothing else.
        most: values that it may have.

    Raises:
        DataError: other bytes than `encode` writes, or a larger tensor.
    """
    reader = Reader(data)
    form, kind, shape = _read_header(reader, most)
    if form == BLOCKS:
        ahead = Reader(data[len(data) - reader.left :])
        n, m = ahead.number(1), ahead.number(1)
        if not 1 <= n < m:
            raise DataError(f"sparse weights are damaged: {n} of every {m} weights")
        name = str(NM(n, m))
    else:
        name = list(FORMS)[form]
    found = torch.from_numpy(_form(name).read(reader, shape, np.dtype(kind)))
    if reader.left:
        raise DataError(f"sparse weights are damaged: {reader.left} bytes too many")
    if encode(found, name) != data:
        raise DataError(f"sparse weights are damaged: not what tersa writes for {shape} as {name}")
    return found


@dataclass(frozen=True)
class LayerStorage:
    """One tensor on disk.

    Attributes:
        name: of the parameter.
        values: how many it has.
        kept: of those, not zero.
        dense_bytes: without any form: 4 bytes per float32 value, no header.
        sizes_bytes: of each form that can hold it, header included; `dense` too.
        relative_bits: width of the index that `relative` takes.
    """

    name: str
    values: int
    kept: int
    dense_bytes: int
    sizes_bytes: Mapping[str, int]
    relative_bits: int

    @property
    def smallest(self) -> str:
        """The form of fewest bytes; of equal ones the first in the order of `FORMS`."""
        return min(self.sizes_bytes, key=self.sizes_bytes.__getitem__)

    @property
    def smallest_bytes(self) -> int:
        """Bytes of that form."""
        return self.sizes_bytes[self.smallest]


@dataclass(frozen=True)
class Storage:
    """All tensors of a network on disk.

    Attributes:
        layers: one per tensor, in the order given.
    """

    layers: tuple[LayerStorage, ...]

    @property
    def values(self) -> int:
        """Values of all tensors."""
        return sum(layer.values for layer in self.layers)

    @property
    def kept(self) -> int:
        """Values that are not zero."""
        return sum(layer.kept for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """All values without headers: what a network that is not pruned takes."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def smallest_bytes(self) -> int:
        """Each tensor in its own smallest form."""
        return sum(layer.smallest_bytes for layer in self.layers)

    def total_bytes(self, form: str) -> int:
        """All tensors in one form; those that it cannot hold (biases have no blocks) as `dense`.

        Raises:
            UsageError: a form that was not counted.
        """
        known = dict.fromkeys(name for layer in self.layers for name in layer.sizes_bytes)
        if form not in known:
            raise unknown("form", form, known)
        return sum(layer.sizes_bytes.get(form, layer.sizes_bytes["dense"]) for layer in self.layers)


def storage(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, pattern: str = "2:4"
) -> Storage:
    """What a network takes on disk in each form.

    What counts is which values are not zero: a living weight that happens to be zero is not stored.

    Args:
        tensors: such as `model.state_dict()`; biases and statistics count like weights.
        masks: weights that are dead where False, counted as zeros; None where they are zero already.
        pattern: N:M, counted for the tensors that fit it.

    Raises:
        UsageError: no tensors, one that cannot be written, a mask without its tensor or of another shape,
            or a pattern that is none.
    """
    masks = masks or {}
    if not tensors:
        raise UsageError("storage of no tensors was asked for; give model.state_dict()")
    blocks = parse_nm(pattern)
    if blocks is None:
        raise UsageError(f"pattern '{pattern}' is not N:M; write 2:4")
    for name in masks:
        if name not in tensors:
            raise unknown("mask's parameter", name, tensors)
        if masks[name].shape != tensors[name].shape:
            raise UsageError(
                f"the mask of {name} is {tuple(masks[name].shape)}, its tensor {tuple(tensors[name].shape)}"
            )
    return Storage(tuple(_count(name, tensors[name], masks.get(name), str(blocks)) for name in tensors))


def _count(name: str, tensor: Tensor, mask: Tensor | None, pattern: str) -> LayerStorage:
    if mask is not None:
        tensor = tensor.detach().masked_fill(~mask.to(tensor.device), 0)
    try:
        values = _array(tensor)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    head = len(_header(values, "dense"))
    found = {form: _form(form).size(values) for form in (*FORMS, pattern)}
    return LayerStorage(
        name=name,
        values=values.size,
        kept=int(np.count_nonzero(values)),
        dense_bytes=values.nbytes,
        sizes_bytes={form: head + size for form, size in found.items() if size is not None},
        relative_bits=relative_bits(values),
    )


def _form(name: str) -> Form:
    if name in FORMS:
        return FORMS[name]
    pattern = parse_nm(name)
    if pattern is None:
        raise unknown("form", name, (*FORMS, "N:M (such as 2:4)"))
    return block_form(pattern)


def _array(tensor: Tensor) -> Array:
    """The values in C order, little-endian."""
    if not tensor.numel():
        raise UsageError(f"a tensor of shape {tuple(tensor.shape)} is empty; there is nothing to store")
    if tensor.dtype not in KINDS or tensor.dim() > MOST_DIMENSIONS:
        raise UsageError(
            f"a tensor of {tensor.dim()} dimensions and {tensor.dtype} cannot be stored; at most "
            f"{MOST_DIMENSIONS} dimensions of {', '.join(str(kind) for kind in KINDS)}"
        )
    return tensor.detach().cpu().contiguous().numpy().astype(KINDS[tensor.dtype], order="C", copy=False)


def _header(values: Array, form: str) -> bytes:
    number = list(FORMS).index(form) if form in FORMS else BLOCKS
    kind = list(KINDS.values()).index(values.dtype.newbyteorder("<").str)
    shape = values.shape
    return MAGIC + struct.pack(f"<3B{len(shape)}I", number, kind, len(shape), *shape)


def _read_header(reader: Reader, most: int) -> tuple[int, str, tuple[int, ...]]:
    """Number of the form, number type, shape."""
    if reader.take(len(MAGIC)) != MAGIC:
        raise DataError(f"these are no sparse weights of tersa: they do not begin with {MAGIC.decode()}")
    form, kind, dimensions = reader.take(3)
    kinds = list(KINDS.values())
    if form > BLOCKS or kind >= len(kinds) or dimensions > MOST_DIMENSIONS:
        raise DataError(
            f"sparse weights are damaged: form {form}, number type {kind}, {dimensions} dimensions; known "
            f"are forms 0 to {BLOCKS}, types 0 to {len(kinds) - 1}, up to {MOST_DIMENSIONS} dimensions"
        )
    shape = tuple(reader.number(4) for _ in range(dimensions))
    if not 1 <= math.prod(shape) <= most:
        raise DataError(f"sparse weights claim the shape {shape}; 1 to {most} values are allowed")
    return form, kinds[kind], shape
