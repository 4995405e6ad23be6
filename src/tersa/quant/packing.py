"""Codes as bits in memory: what a weight of b bits really takes.

Code i (a whole number 0 .. 2^b - 1) takes the bits i b .. i b + b - 1 of the stream, its lowest bit first;
bit j of the stream is bit j mod 8 of byte j div 8, counted from the lowest. The last byte is filled with
zeros:

    bytes = ceil(N b / 8)

Codes that count from the middle are shifted first: pack(codes - lowest_code(spec), spec.bits). Levels, shapes
and counts are not in the bytes; whoever stores them keeps those beside.

Example:
    >>> pack(torch.tensor([1, 0, 7]), bits=3).tolist()  # 001, 000, 111 from the lowest bit: 1 11 000 001
    [193, 1]
    >>> unpack(torch.tensor([193, 1], dtype=torch.uint8), bits=3, count=3).tolist()
    [1, 0, 7]
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.errors import UsageError

WIDEST = 16
"""Most bits of a code: 8 of a weight and 8 that collect its updates."""


def packed_bytes(count: int, bits: int) -> int:
    """ceil(N b / 8).

    >>> packed_bytes(89_610, bits=3)
    33604
    """
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes as bytes, (ceil(N b / 8),) uint8.

    Args:
        codes: whole numbers 0 .. 2^b - 1, any shape and integer type.
        bits: b, 1 to 16.

    Raises:
        UsageError: a code does not fit, or is not an integer.
    """
    _check_bits(bits)
    if codes.is_floating_point():
        raise UsageError(f"codes are {codes.dtype}; convert them to an integer type before packing")
    flat = codes.detach().flatten().to(torch.int32)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 2**bits:
        raise UsageError(
            f"codes lie in {int(flat.min())} .. {int(flat.max())}; {bits} bits hold 0 .. {2**bits - 1}: "
            "subtract lowest_code(spec) first"
        )
    stream = (flat.unsqueeze(1) >> torch.arange(bits, device=flat.device)) & 1  # (N, b)
    missing = packed_bytes(len(flat), bits) * 8 - stream.numel()
    stream = torch.nn.functional.pad(stream.flatten(), (0, missing)).view(-1, 8)  # (bytes, 8)
    return (stream << torch.arange(8, device=flat.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Codes from bytes, (N,) int32; the inverse of `pack`.

    Args:
        packed: uint8, (ceil(N b / 8),).
        bits: b, 1 to 16.
        count: N.

    Raises:
        UsageError: the bytes are not as many as N codes take.
    """
    _check_bits(bits)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (packed_bytes(count, bits),):
        raise UsageError(
            f"{count} codes of {bits} bits are {packed_bytes(count, bits)} bytes of uint8, not "
            f"{tuple(packed.shape)} of {packed.dtype}"
        )
    stream = (packed.to(torch.int32).unsqueeze(1) >> torch.arange(8, device=packed.device)) & 1  # (bytes, 8)
    stream = stream.flatten()[: count * bits].view(count, bits)
    return (stream << torch.arange(bits, device=packed.device)).sum(1).to(torch.int32)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= WIDEST:
        raise UsageError(f"bits is {bits}; a packed code has 1 to {WIDEST}")
