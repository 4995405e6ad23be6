"""What a family of networks is: a name, a grammar, the smallest image it takes, and a function.

A family file (`lenet.py`, `resnet.py`, ...) holds the plain `nn.Module` and one `Family`; `zoo.py` lists the
families and does the rest. The text after the colon of a spec (`100x100` in `mlp:100x100`) is the family's
argument; the functions here turn it into numbers and say what is allowed where it does not fit.

Example:
    >>> widths("8-16-64", "-", "lenet:8-16-64", count=3)
    (8, 16, 64)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tersa.errors import UsageError

Shape = tuple[int, int, int]
"""(C, H, W) of one image; (1, 1, F) for F features."""

LARGEST_WIDTH = 65_536
"""Widest layer that a spec may ask for: a typing error should not ask for the machine's whole memory."""


@dataclass(frozen=True)
class Family:
    """Networks that differ in one argument of their spec.

    Attributes:
        name: what stands before the colon.
        grammar: the spec as a user may write it, with every choice (`vgg:11|16|19`).
        default: the argument when the spec has none; empty where none is taken.
        takes_argument: a colon may follow the name.
        smallest: least height and width of an image.
        largest: greatest height and width that make sense.
        build: from (argument, shape, classes) to a network; raises `UsageError` for a bad argument.
        about: one line for `tersa` users: what it is and where it comes from.
    """

    name: str
    grammar: str
    default: str
    smallest: int
    build: Callable[[str, Shape, int], nn.Module]
    about: str
    largest: int = 224
    takes_argument: bool = True

    def check_size(self, spec: str, shape: Shape) -> None:
        """Refuse images that this family cannot take.

        Raises:
            UsageError: height or width outside `smallest`..`largest`, with the sizes that work.
        """
        _, height, width = shape
        if self.smallest <= min(height, width) and max(height, width) <= self.largest:
            return
        low, high = f"{self.smallest}x{self.smallest}", f"{self.largest}x{self.largest}"
        raise UsageError(
            f"model '{spec}' takes images from {low} to {high}, the data have {height}x{width}; "
            f"'mlp:100x100' takes any size"
        )


def malformed(grammar: str, argument: str, fault: str) -> UsageError:
    """The error for an argument that its family cannot read: what was asked, what is allowed."""
    name = grammar.partition(":")[0]
    return UsageError(f"model '{name}:{argument}': {fault}; write {grammar}")


def whole_number(argument: str, grammar: str) -> int:
    """A positive whole number written in digits.

    Raises:
        UsageError: anything else, or more than `LARGEST_WIDTH`.
    """
    if not re.fullmatch(r"[0-9]{1,9}", argument):
        raise malformed(grammar, argument, f"'{argument}' is not a whole number")
    if not 1 <= int(argument) <= LARGEST_WIDTH:
        raise malformed(grammar, argument, f"{int(argument)} is outside 1..{LARGEST_WIDTH}")
    return int(argument)


NARROWEST, WIDEST = 0.05, 4.0
"""Width multipliers that networks are built with."""


def multiplier(argument: str, grammar: str, number: str | None = None) -> float:
    """A width multiplier, which every layer has times its channels.

    Args:
        argument: as the user typed it.
        grammar: for the error message.
        number: the part of the argument that is the multiplier; None where it is all of it.

    Raises:
        UsageError: no plain number, or one outside `NARROWEST`..`WIDEST`.
    """
    number = argument if number is None else number
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", number):
        raise malformed(grammar, argument, f"'{number}' is not a width multiplier")
    if not NARROWEST <= float(number) <= WIDEST:
        fault = f"width multiplier {float(number)} is outside {NARROWEST}..{WIDEST:g}"
        raise malformed(grammar, argument, fault)
    return float(number)


def scaled(channels: int, by: float) -> int:
    """Channels under a width multiplier, at least 1.

    >>> scaled(64, 0.25), scaled(4, 0.05)
    (16, 1)
    """
    return max(1, round(channels * by))


def widths(argument: str, separator: str, grammar: str, count: int | None = None) -> tuple[int, ...]:
    """Layer widths written with a separator.

    Args:
        argument: as the user typed it, `100x100`.
        separator: `x` or `-`.
        grammar: for the error message.
        count: how many there must be; None for any number.

    Raises:
        UsageError: a part that is no number from 1 to `LARGEST_WIDTH`, or too many or too few parts.
    """
    parts = argument.split(separator)
    for part in parts:
        if not re.fullmatch(r"[0-9]{1,9}", part) or not 1 <= int(part) <= LARGEST_WIDTH:
            raise malformed(grammar, argument, f"'{part}' is not a width from 1 to {LARGEST_WIDTH}")
    if count is not None and len(parts) != count:
        raise malformed(grammar, argument, f"{len(parts)} widths, {count} are needed")
    return tuple(int(part) for part in parts)


def choice(argument: str, allowed: tuple[int, ...], grammar: str) -> int:
    """One of a few depths.

    Raises:
        UsageError: a depth that is not offered.
    """
    depths = {str(depth): depth for depth in allowed}
    if argument not in depths:
        raise malformed(grammar, argument, f"depth '{argument}' is not offered")
    return depths[argument]


def initialise_he_(model: nn.Module) -> None:
    """Kaiming-normal convolutions (fan out, gain of ReLU); everything else keeps PyTorch's start.

    W ~ N(0, 2 / (c_out k^2 / groups))

    The model remembers that it begins so (`draw_anew_`).

    References:
        He et al., Delving Deep into Rectifiers (2015), section 2.2.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    model.begins_he = True  # pyright: ignore[reportArgumentType] - a plain attribute


def draw_anew_(model: nn.Module) -> None:
    """Weights of a network drawn again, at the sizes that it has now.

    Each layer as PyTorch draws it, then the network as its family does: `initialise_he_` or its own `draw_`.
    Parameters that belong to no such layer keep their values, but in a traced file, which has no layers:
    there, matrices and kernels are drawn as PyTorch draws those of a layer, other weights become 1, biases 0.
    """
    drawn: set[int] = set()
    for part in model.modules():
        draw = getattr(part, "reset_parameters", None)
        if callable(draw):
            draw()
            drawn.update(id(value) for value in part.parameters(recurse=False))
    if getattr(model, "begins_he", False):
        initialise_he_(model)
    own = getattr(model, "draw_", None)
    if callable(own):
        own()
    if not drawn:
        for name, value in model.named_parameters():
            if value.dim() > 1:
                nn.init.kaiming_uniform_(value, a=math.sqrt(5))
            else:
                nn.init.constant_(value, 0.0 if name.endswith("bias") else 1.0)
