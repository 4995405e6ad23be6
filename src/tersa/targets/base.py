"""A target is a runtime on a machine: it prepares an artefact and says what it offers.

A prepared artefact is a `Session`: a function from pixels to logits with everything that a stored measurement
must name. A new target is one file with one frozen dataclass and one line in `tersa.targets.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from tersa.errors import TargetError
from tersa.export.artefact import Artefact

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Session:
    """One artefact, prepared on one target.

    Attributes:
        model: what it is called in tables (`baseline`, `result`, a path).
        target: runtime and options, as `Target.describe` gives them.
        precision: of the artefact, `fp32` or `int8`.
        threads: used within one call.
        runtime: name and version (`onnxruntime 1.31.1`).
        run: pixels (N, C, H, W) float32 in 0..1 to logits (N, K).
        pinned: holds process-wide settings (threads) while the session is called, and gives them back.
        device: where it runs.
    """

    model: str
    target: str
    precision: str
    threads: int
    runtime: str
    run: Callable[[Pixels], Pixels]
    pinned: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)
    device: str = "cpu"


class Target(Protocol):
    """A runtime with its options.

    Attributes:
        name: as on the command line, without options.
        precisions: what the runtime can run.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]

    @property
    def threads(self) -> int:
        """Threads used within one call."""
        ...

    def describe(self) -> str:
        """Name and every option that is not the default, threads always: `onnxruntime@threads=1`."""
        ...

    def prepare(self, artefact: Artefact, model: str) -> Session:
        """Load an artefact.

        Args:
            artefact: what to run.
            model: what the measurement will call it.

        Raises:
            TargetError: the runtime is not installed, or does not offer the artefact's precision or form.
            ModelError: the artefact cannot be loaded.
        """
        ...


def require_precision(target: Target, artefact: Artefact) -> None:
    """Refuse a precision that the runtime does not have: nothing falls back silently.

    Raises:
        TargetError: names what the runtime has.
    """
    asked = artefact.header.precision
    if asked not in target.precisions:
        raise TargetError(f"{target.name} does not offer {asked}; it has {', '.join(target.precisions)}")


def described(name: str, threads: int, **options: tuple[str, str]) -> str:
    """`name@threads=N`, and each option as (value, default) that is not its default."""
    rest = "".join(f",{key}={value}" for key, (value, default) in options.items() if value != default)
    return f"{name}@threads={threads}{rest}"
