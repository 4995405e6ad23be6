"""Compression of a network (`recipes.compress`) as records: what is asked, and what came of it.

Example:
    >>> Compression(bits=9).check()
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: 9 bits for shared values; allowed: 1 to 8, or auto
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tersa.errors import UsageError
from tersa.prune.clustering import BIAS_BITS, Codebook
from tersa.records.base import SCHEMA, Record

FEWEST_BITS, MOST_BITS = 2, 8
"""Widths that `auto` tries, and that may be asked for (1 bit too)."""


class Compression(Record):
    """How a network is compressed."""

    bits: int | Literal["auto"] = "auto"
    """n, 1 to 8: a codebook has at most 2^n values; `auto` for the fewest that keep the floor."""
    coder: Literal["auto", "huffman", "arithmetic", "raw"] = "auto"
    """`auto` for the shortest of all."""
    codebook: Literal["layer", "network", "auto"] = "auto"
    """One for each layer or one for the network; `auto` for the latter where it saves 2 % of the file."""
    bias_bits: int = Field(default=BIAS_BITS, ge=2, le=16)
    """m, of the biases of convolutions and fully connected layers."""
    floor: float | None = Field(default=None, ge=0, le=100)
    """Validation accuracy in percent that `auto` keeps; None: that of the network handed in."""
    most_bytes: int | None = Field(default=None, ge=1)
    """Size of the file that must not be exceeded: the most accurate one within it is looked for."""
    iterations: int = Field(default=2000, ge=0)
    """Updates that each width is trained for; 0 for k-means alone."""
    reassign: bool = True
    """Weights may change their centroid while it is trained (straight-through); false: the paper's way."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of AdamW with one cycle."""
    batch: int = Field(default=128, ge=1)
    """Images an update."""
    temperature: float = Field(default=4.0, gt=0)
    """Of the distillation."""
    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the teacher's term in the loss, where there is a teacher."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of the labels."""
    seed: int = Field(default=0, ge=0)
    """Of the order of images and their augmentation."""

    def check(self) -> None:
        """Refuse what no network can be given.

        Raises:
            UsageError: a width outside what is offered.
        """
        if self.bits != "auto" and not 1 <= self.bits <= MOST_BITS:
            raise UsageError(f"{self.bits} bits for shared values; allowed: 1 to {MOST_BITS}, or auto")
        if self.most_bytes is not None and not (self.reassign and self.iterations):
            raise UsageError(
                "a limit in bytes is reached by training which weight takes which value; give reassign and "
                "iterations above 0"
            )


class Tried(Record):
    """One training of shared values, at the moment of it that was kept."""

    bits: int
    """n: a codebook has at most 2^n values."""
    trade: float
    """lambda at that moment; 0 where bytes were not traded."""
    size_bytes: int
    """Of the file."""
    accuracy: float
    """Percent of the validation split."""


class CompressedLayer(Record):
    """One clustered tensor in a coded file."""

    name: str
    """As in the state dict."""
    shape: tuple[int, ...]
    """Sizes after pruning."""
    zeros: int
    """Weights that were pruned to exactly zero."""
    values: int
    """Different values that its weights take, zero among them."""
    entropy_bits: float
    """Of one of its weights."""


class Compressed(Record):
    """What compression made of a network, and what it cost."""

    schema_version: int = SCHEMA
    spec: str
    """The network before pruning."""
    bits: int
    """n: a codebook has at most 2^n values."""
    codebook: Codebook
    """One for each layer, or one for the network."""
    coder: str
    """As asked for."""
    layers: tuple[CompressedLayer, ...]
    """The clustered tensors."""
    header_bytes: int
    """Spec, sizes, classes, normalisation, checksum."""
    codebook_bytes: int
    """Centroids and scales."""
    code_bytes: int
    """Of the clustered weights."""
    bias_bytes: int
    """Of biases, normalisation layers and small tensors."""
    entropy_bytes: float
    """What the counts of each layer's codes allow for `code_bytes`, without storing the counts."""
    size_bytes: int
    """Of the file on disk."""
    original_bytes: int
    """4 bytes for each parameter of the network before pruning."""
    ratio: float
    """Original over file."""
    parameters: int
    """Of the network after pruning."""
    accuracy_before: float
    """Percent of the validation split, of the network that was handed in."""
    accuracy_clustered: float
    """The same after k-means, before training."""
    validation_accuracy: float
    """The same of the network read back from the file."""
    floor: float | None
    """Validation accuracy that `auto` was to keep."""
    floor_met: bool
    """It was, or none was given."""
    most_bytes: int | None = None
    """Size that was not to be exceeded."""
    size_met: bool = True
    """It was not, or none was given."""
    trade: float = 0.0
    """lambda of the file that was taken."""
    tried: tuple[Tried, ...]
    """Every training, in order."""
    seconds: float
    """Wall time."""
