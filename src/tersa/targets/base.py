"""A target is a runtime on a machine: it prepares an artefact, runs it, and describes itself.

A prepared artefact is a `Session`: a function from pixels to logits with everything that a stored measurement
must name. A new target is one file with one frozen dataclass and one line in `tersa.targets.registry`.

*Precision asked is precision executed.* A runtime may compute in another precision than the one asked for
and say nothing (OpenVINO on a processor without FP16 takes `f16` and runs BF16). So every `prepare` looks at
what the runtime will execute, layer by layer (a layer is a convolution or a matrix product), and `executed`
refuses what is not there:

    >>> executed("openvino", "bf16", {"bf16": 4, "fp32": 1})
    'bf16 4 of 5 layers, fp32 1'
    >>> executed("openvino", "fp16", {"bf16": 5})
    Traceback (most recent call last):
    ...
    tersa.errors.TargetError: openvino computes 0 of 5 layers in fp16 on this machine (bf16 5)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from tersa.errors import TargetError
from tersa.export.artefact import Artefact

Pixels = npt.NDArray[np.float32]

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "packed")
"""What may be asked of a target. BF16 and FP16 have no file: the runtime converts the FP32 one."""


@dataclass(frozen=True)
class RemoteTimes:
    """Timed rounds of one session, measured on another machine by its own clock.

    Attributes:
        times_ms: mean time of one call in each round.
        calls: calls in one round.
        warmup: calls before the first timed one.
    """

    times_ms: tuple[float, ...]
    calls: int
    warmup: int


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        seconds: of timed calls per session, at most (three rounds are always made).
        rounds: at most so many.
        round_ms: calls are repeated until a round takes this long.
        warmup_seconds: per session and start, at most (three rounds, or a call that takes longer, are made).
        starts: processes of each side, one after the other; 1 for sides that cannot be started anew or whose
            calls are so long that three rounds of each start would take five times the seconds.
        start: which of them is timed, from 0; `time_sides` says it to the sides.
    """

    seconds: float = 1.0
    rounds: int = 120
    round_ms: float = 4.0
    warmup_seconds: float = 0.5
    starts: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.rounds >= 3 and self.round_ms > 0 and self.warmup_seconds > 0):
            raise ValueError(f"times must be above 0 and rounds at least 3, got {self}")
        if self.starts < 1:
            raise ValueError(f"a side starts once or more, got {self}")


class Elsewhere(Protocol):
    """What times sessions where they run, so that the network between is not measured."""

    def __call__(
        self, sessions: Sequence[Session], inputs: Sequence[Pixels], effort: Effort
    ) -> list[RemoteTimes]:
        """Interleaved rounds of sessions on one machine, in one process there, whatever `effort.starts`."""
        ...


def nothing() -> None:
    """What a session without belongings does when it is closed."""


@dataclass(frozen=True)
class Session:
    """One artefact, prepared on one target.

    Attributes:
        model: what it is called in tables (`baseline`, `result`, a path).
        target: runtime and options, as `Target.describe` gives them.
        precision: that was asked for, and is executed.
        threads: used within one call.
        runtime: name and version (`onnxruntime 1.31.1`).
        run: pixels (N, C, H, W) float32 in 0..1 to logits (N, K).
        pinned: holds process-wide settings (threads) while the session is called, and gives them back.
        device: where it runs.
        executed: layers by precision, as the runtime says (`int8 4 of 5 layers, fp32 1`), or empty.
        load_ms: of the runtime's own loading, without the checks around it; None where it was not timed.
        size_bytes: of the file that the runtime loads, where that is not the artefact itself.
        close: gives back what the session holds (a connection, a folder).
        elsewhere: times the session on the machine it runs on; None for this machine.
        hardware: (processor, cores) of the machine it runs on; None for this machine.
    """

    model: str
    target: str
    precision: str
    threads: int
    runtime: str
    run: Callable[[Pixels], Pixels]
    pinned: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)
    device: str = "cpu"
    executed: str = ""
    load_ms: float | None = None
    size_bytes: int | None = None
    close: Callable[[], None] = nothing
    elsewhere: Elsewhere | None = None
    hardware: tuple[str, int] | None = None


class Target(Protocol):
    """A runtime with its options.

    Attributes:
        name: as on the command line, without options.
        precisions: what the runtime can run, what it is made for first; a processor may have fewer, which
            `prepare` finds out.
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

    def prepare(self, artefact: Artefact, model: str, precision: str | None = None) -> Session:
        """Load an artefact.

        Args:
            artefact: what to run.
            model: what the measurement will call it.
            precision: to run it in; None for the artefact's own. `bf16` and `fp16` take the fp32 file.

        Raises:
            TargetError: the runtime is not installed, does not offer the precision or form of the artefact,
                or would execute another precision.
            ModelError: the artefact cannot be loaded.
        """
        ...


NEEDS = {
    "int8": "an INT8 file (calibrated: export --precision int8)",
    "packed": "a .tersa file (of a low-bit network: export --format tersa)",
}
"""Precisions that have a file of their own."""


def require_precision(target: Target, artefact: Artefact, precision: str | None = None) -> str:
    """The precision to run in, or a refusal: nothing falls back silently.

    Raises:
        TargetError: names what the runtime has, or the file that is needed.
    """
    stored = artefact.header.precision
    asked = precision or stored
    if asked not in target.precisions:
        raise TargetError(f"{target.name} does not offer {asked}; it has {', '.join(target.precisions)}")
    if asked != stored and not {asked, stored}.isdisjoint(NEEDS):
        needed = NEEDS.get(asked, "the fp32 file")
        raise TargetError(f"{target.name}: {asked} needs {needed}, {artefact.path.name} is {stored}")
    return asked


def executed(name: str, asked: str, layers: Mapping[str, int]) -> str:
    """What a runtime computes its layers in, as a sentence.

    INT8 and 16-bit runs may keep some layers in float, which the sentence tells; FP32 means every layer.

    Args:
        name: of the target.
        asked: the precision.
        layers: number of convolutions and matrix products by the precision that they run in.

    Raises:
        TargetError: no layer runs in the precision asked for, or a layer of an FP32 run in another one.
    """
    total = sum(layers.values())
    met = layers.get(asked, 0)
    others = ", ".join(f"{other} {count}" for other, count in sorted(layers.items()) if other != asked)
    if total and (met == 0 or (asked == "fp32" and met < total)):
        raise TargetError(f"{name} computes {met} of {total} layers in {asked} on this machine ({others})")
    return f"{asked} {met} of {total} layers" + (f", {others}" if others else "")


def described(name: str, threads: int, **options: tuple[str, str]) -> str:
    """`name@threads=N`, and each option as (value, default) that is not its default."""
    rest = "".join(f",{key}={value}" for key, (value, default) in options.items() if value != default)
    return f"{name}@threads={threads}{rest}"


def first_line(error: BaseException, *, last: bool = False) -> str:
    """The first (or last) line of a runtime's message, or the name of its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if last else 0].strip()
