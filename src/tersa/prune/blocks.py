"""N of every M weights: blocks along the input dimension, and the best of each block.

The weights of one output at one kernel position are a row of I inputs (I: input channels of a convolution's
group, or inputs of a fully connected layer). A row is cut into blocks of M consecutive inputs; the last block
has r = I mod M inputs where M does not divide I, and keeps the best min(N, r) of them. A layer with at most N
inputs per output (a depthwise convolution has one) is left whole: `whole` names it.

NVIDIA's sparse tensor cores are 2:4 along the same dimension. Nothing here makes a dense runtime faster: the
weights that go are zeros in a tensor of the old size.

Example:
    >>> best(torch.tensor([[3.0, 1.0, 4.0, 2.0, 5.0, 9.0, 6.0]]), NM(2, 4)).int()
    tensor([[1, 0, 1, 0, 0, 1, 1]], dtype=torch.int32)

References:
    Mishra et al., Accelerating Sparse Deep Neural Networks (2021), section 3.
    Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch (ICLR 2021).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.errors import UsageError

LONGEST = 255
"""Largest M: it takes one byte in a file."""


@dataclass(frozen=True)
class NM:
    """N of every M consecutive weights are kept.

    Attributes:
        n: kept, at least 1.
        m: length of a block, n + 1 .. 255.

    Raises:
        UsageError: other numbers.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m <= LONGEST:
            raise UsageError(
                f"{self.n}:{self.m} keeps {self.n} of {self.m} weights; N:M needs 1 <= N < M <= {LONGEST}"
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def parse_nm(text: str) -> NM | None:
    """`2:4` as NM(2, 4); None for a text that is not two whole numbers with a colon between them.

    Raises:
        UsageError: numbers that make no pattern, such as 4:4.

    >>> parse_nm("2:4"), parse_nm("kernel")
    (NM(n=2, m=4), None)
    """
    match = re.fullmatch(r"\s*([0-9]{1,9}):([0-9]{1,9})\s*", text, re.ASCII)
    return NM(int(match.group(1)), int(match.group(2))) if match else None


def rows(weight: Tensor) -> Tensor:
    """One row of inputs for every output and kernel position, (O k k, I); a copy where it must be.

    Args:
        weight: (O, I, ...).
    """
    return weight.movedim(1, -1).reshape(-1, weight.shape[1])


def from_rows(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `rows`, (O, I, ...).

    Args:
        matrix: (O k k, I).
        shape: (O, I, ...).
    """
    return matrix.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def parts(matrix: Tensor, pattern: NM) -> list[tuple[Tensor, int]]:
    """Blocks and how many weights each of them keeps: the full ones, then the last of each row if shorter.

    Args:
        matrix: (R, I), from `rows`.
        pattern: N:M.

    Returns:
        [((R (I div M), M), N), ((R, r), min(N, r))], without the parts that are empty.
    """
    full = matrix.shape[1] // pattern.m * pattern.m
    last = matrix.shape[1] - full
    found = [
        (matrix[:, :full].reshape(-1, pattern.m), pattern.n),
        (matrix[:, full:], min(pattern.n, last)),
    ]
    return [(block, keep) for block, keep in found if block.numel()]


def best(scores: Tensor, pattern: NM) -> Tensor:
    """The weights of highest score in every block, bool, shaped like `scores`.

    Of equal scores the later ones are kept.

    Args:
        scores: of each weight, (O, I, ...); minus infinity for one that should not be kept if others can be.
        pattern: N:M.
    """
    matrix = rows(scores)
    kept = [_highest(block, keep).view(len(matrix), -1) for block, keep in parts(matrix, pattern)]
    return from_rows(torch.cat(kept, dim=1), scores.shape)  # (R, I) back to (O, I, ...)


def _highest(block: Tensor, keep: int) -> Tensor:
    """The `keep` highest entries of each row, bool, (B, m)."""
    order = torch.argsort(block, dim=1, stable=True)  # ascending
    return torch.zeros_like(block, dtype=torch.bool).scatter_(1, order[:, block.shape[1] - keep :], True)


def fits(weight: Tensor, pattern: NM) -> bool:
    """No block has more than its N (or min(N, r)) weights that are not zero; False below two dimensions."""
    if weight.dim() < 2:
        return False
    return all(bool(((block != 0).sum(dim=1) <= keep).all()) for block, keep in parts(rows(weight), pattern))


def whole(weights: Mapping[str, Tensor], pattern: NM) -> tuple[str, ...]:
    """Names of the layers that N:M leaves as they are: at most N inputs per output, as in depthwise ones."""
    return tuple(name for name, weight in weights.items() if weight.shape[1] <= pattern.n)
