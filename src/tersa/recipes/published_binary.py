"""What document 004 published of binary networks on CIFAR-10, as files of the package.

    binary_vgg.csv           table II: accuracies of seven networks
    binary_vgg_training.csv  table I: how B-VGG16 was trained

References:
    Document 004 (Elektron 6(2), pages 107-114, 2022).

Example:
    >>> next(row.test_accuracy for row in accuracies() if row.network == "B-VGG16")
    88.21
    >>> training()["epochs"]
    '1000'
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tersa.recipes.published_table import rows


@dataclass(frozen=True)
class PublishedBinary:
    """One row of table II.

    Attributes:
        network: or the method's name.
        approach: how it deals with the binary weights, in words.
        architecture: the network that it was measured on.
        weight_bits: of a weight.
        activation_bits: of an activation.
        test_accuracy: on CIFAR-10, percent.
    """

    network: str
    approach: str
    architecture: str
    weight_bits: int
    activation_bits: int
    test_accuracy: float


@cache
def accuracies() -> tuple[PublishedBinary, ...]:
    """Table II."""
    return tuple(
        PublishedBinary(
            row["network"],
            row["approach"],
            row["architecture"],
            int(row["weight_bits"]),
            int(row["activation_bits"]),
            float(row["test_accuracy_percent"]),
        )
        for row in rows("binary_vgg.csv")
    )


def training() -> dict[str, str]:
    """Table I, setting by setting."""
    return {row["setting"]: row["value"] for row in rows("binary_vgg_training.csv")}
