"""What is asked of a joint search over width, pruning ratio and bits, whole and checked before any work.

Example:
    >>> JointSpec(bits="2..4").bit_range, JointSpec(bits="none").bit_range
    ((2, 4), None)
    >>> JointSpec(widths=(1.0, 1.5), costs=()).check()
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: search: 2 faults
      - --widths 1.5: a share of the channels is above 0 and at most 1
      - --costs is empty; give some of latency, size, macs, parameters
"""

from __future__ import annotations

import re
import shlex
from typing import Literal

from pydantic import Field

from tersa.errors import TersaError, UsageError, faults, faults_of
from tersa.recipes.goals import CostName, Goals
from tersa.recipes.request import DEFAULT_GOALS, ShrinkSpec
from tersa.records.base import Record

COSTS: tuple[CostName, ...] = ("latency", "size", "macs", "parameters")
MOST_BITS = 8
STEP = 0.05
"""Between two pruning ratios."""
NO_BITS = "none"


class JointSpec(Record):
    """Everything that decides what is searched; stored as `spec.toml`. How many trials is not part of it."""

    data: str = "digits"
    """A known data set or a path."""
    model: str | None = None
    """A spec or `module.py:build`; None for the data's default."""
    checkpoint: str | None = None
    """Trained weights for it, or None to train the baseline here."""
    run: str | None = None
    """Folder of a run whose network is the baseline, or None."""
    goals: Goals = DEFAULT_GOALS
    """What is asked of the result."""
    costs: tuple[CostName, ...] = ("latency", "size")
    """What is set against accuracy: each an objective of its own."""
    target: str = "onnxruntime@threads=1"
    """Where latency is measured."""
    batch: int = Field(default=1, ge=1)
    """Images per call there."""
    widths: tuple[float, ...] = (1.0, 0.75, 0.5)
    """Shares of every layer's channels that a network is built and trained with."""
    scope: Literal["network", "layer"] = "network"
    """One pruning ratio for the network, by scores that compare all channels; or one for each layer."""
    most: float = Field(default=0.8, ge=0, lt=1)
    """Largest pruning ratio: share of the trained network's channels that go, in steps of `STEP`: what lies
    between two is the lower one. 0 for no pruning."""
    bits: str = "2..6"
    """Bits of a layer's weights, from .. to (2^n shared values); `none` for float weights."""
    tune: int = Field(default=300, ge=1)
    """Iterations of the fine-tune of each network that is tried; half as many again train shared values."""
    seed: int = Field(default=0, ge=0)
    """Of everything random."""
    epochs: int | None = Field(default=None, ge=1)
    """Of the training of each width, or None for the data's default."""
    validation: int | float | None = None
    """Images (or share) of train that steer, or None for the data's default."""

    @property
    def bit_range(self) -> tuple[int, int] | None:
        """Fewest and most bits; None for float weights.

        Raises:
            UsageError: not such a range.
        """
        if self.bits == NO_BITS:
            return None
        match = re.fullmatch(r"([1-8])(?:\.\.([1-8]))?", self.bits.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise UsageError(
                f"--bits '{self.bits}' is not understood; write 2..6, 4, or none for float weights"
            )
        return low, high

    @property
    def most_ratio(self) -> float:
        """The largest ratio that is tried: a whole number of steps.

        >>> f"{JointSpec(most=0.42).most_ratio:g}"
        '0.4'
        """
        return STEP * int(self.most / STEP + 1e-9)

    @property
    def timed(self) -> bool:
        """Latency is measured."""
        return "latency" in self.costs or self.goals.latency is not None

    def check(self) -> None:
        """Faults that show before any work, all together.

        Raises:
            UsageError: shares, costs, bits, goals or target that cannot be.
        """
        found: list[str] = []
        for width in self.widths:
            if not 0 < width <= 1:
                found.append(f"--widths {width:g}: a share of the channels is above 0 and at most 1")
        if not self.widths:
            found.append("--widths is empty; give 1 for the network as it is")
        if 0 < self.most < STEP:
            found.append(
                f"--most {self.most:g}: ratios go in steps of {STEP:g}; give 0 for no pruning, "
                f"or {STEP:g} or more"
            )
        if not self.costs:
            found.append(f"--costs is empty; give some of {', '.join(COSTS)}")
        try:
            _ = self.bit_range
        except UsageError as error:
            found.append(str(error))
        given = self.run or self.checkpoint
        if given and any(width != 1 for width in self.widths):
            found.append(
                f"--widths trains narrower networks anew, but {given} brings weights; give --widths 1"
            )
        try:
            self.shrinking().check()
        except TersaError as error:
            found += faults_of(error)
        if found:
            raise faults("search", found)

    def shrinking(self) -> ShrinkSpec:
        """The same as far as the baseline, its files and goals go."""
        return ShrinkSpec(
            data=self.data,
            model=self.model,
            checkpoint=self.checkpoint,
            run=self.run,
            goals=self.goals,
            target=self.target,
            batch=self.batch,
            precision="fp32",
            seed=self.seed,
            epochs=self.epochs,
            validation=self.validation,
        )


class PlacedSpec(JointSpec):
    """The same, and where the trials are, whose numbers name the files beside them: `spec.toml`."""

    storage: str | None = None
    """A database's URL without its password, or None for the file in the folder."""
    study: str | None = None
    """Name of the search there, or None for the only one of that file."""


def command_of(spec: JointSpec, trials: int) -> str:
    """The command line that does the same.

    >>> command_of(JointSpec(data="mnist", costs=("macs",), widths=(1.0,)), 10)
    'tersa search --data mnist --max-loss 1 --costs macs --widths 1 --trials 10'
    """
    words = ["tersa", "search", "--data", spec.data]
    given: dict[str, object] = {"model": spec.model, "run": spec.run, "checkpoint": spec.checkpoint}
    given |= {"max-loss": spec.goals.max_loss, "min-accuracy": spec.goals.min_accuracy}
    for kind in COSTS:
        bound = getattr(spec.goals, kind)
        given[kind] = bound.text(kind) if bound else None
    usual = JointSpec()
    given["costs"] = ",".join(spec.costs) if spec.costs != usual.costs else None
    given["widths"] = ",".join(f"{w:g}" for w in spec.widths) if spec.widths != usual.widths else None
    for name in ("target", "batch", "scope", "most", "bits", "tune", "seed", "epochs", "validation"):
        value = getattr(spec, name)
        given[name] = value if value != getattr(usual, name) else None
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, "--trials", str(trials)])
