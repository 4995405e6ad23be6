"""Reading bytes that nobody has vouched for: every read is bounded before anything is allocated.

A `Reader` goes forward through bytes; what they lack, and what is larger than the caller allows, is one
`DataError`. It knows numbers, texts, floats and coded sequences, and nothing of the file that they make up.

Example:
    >>> reader = Reader(bytes([3, 97, 98, 99, 172, 2]), "x.coded")
    >>> reader.text(), reader.number(300, "size")
    ('abc', 300)
    >>> reader.byte()
    Traceback (most recent call last):
    ...
    tersa.errors.DataError: x.coded is cut off: it has 6 bytes, byte 7 is needed
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tersa.errors import DataError
from tersa.prune.coding import unpack
from tersa.prune.symbols import read_varint

LONGEST_TEXT = 4096
"""Bytes of a text."""


@dataclass
class Reader:
    """Bytes, and how far they have been read.

    Attributes:
        data: all of them.
        name: of the file, for messages.
        at: the next one.
    """

    data: bytes
    name: str
    at: int = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            DataError: there are fewer.
        """
        if count > self.left:
            raise DataError(
                f"{self.name} is cut off: it has {len(self.data):,} bytes, byte {self.at + count:,} is needed"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        """0 .. 255."""
        return self.take(1)[0]

    def number(self, most: int, what: str) -> int:
        """A whole number of seven bits a byte, `symbols.varint`.

        Raises:
            DataError: above `most`; `what` says what it stands for.
        """
        value, self.at = read_varint(self.data, self.at)
        if value > most:
            raise DataError(f"{self.name} gives {value:,} as {what}; at most {most:,} is read")
        return value

    def text(self) -> str:
        """Length and UTF-8.

        Raises:
            DataError: too long, or no UTF-8.
        """
        raw = self.take(self.number(LONGEST_TEXT, "length of a text"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(
                f"{self.name} has a text at byte {self.at - len(raw):,} that is no UTF-8"
            ) from None

    def floats(self, count: int, *, halves: bool) -> Tensor:
        """Finite numbers as float32, (count,).

        Raises:
            DataError: fewer are there, or one is NaN or infinite.
        """
        raw = self.take(count * (2 if halves else 4))
        values = np.frombuffer(raw, "<f2" if halves else "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{self.name} holds a value that is NaN or infinite")
        return torch.from_numpy(values)

    def symbols(self, count: int, alphabet: int) -> Tensor:
        """A coded sequence, int64 (count,); see `prune.coding`."""
        found, self.at = unpack(self.data, self.at, count, alphabet)
        return torch.from_numpy(found.astype(np.int64))
