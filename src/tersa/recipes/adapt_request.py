"""What is asked of one run of adapt, whole and checked before any work.

Example:
    >>> from tersa.recipes.goals import parse_bound
    >>> goals = Goals(latency=parse_bound("0.5x", "latency"))
    >>> adapt_command(AdaptSpec(data="mnist", model="lenet", goals=goals, search="netadapt"))
    'tersa adapt --data mnist --model lenet --latency 0.5x --search netadapt'
"""

from __future__ import annotations

import shlex
from typing import Any, Literal

from pydantic import Field, ValidationError

from tersa.adapt.proxies import find as find_proxy
from tersa.errors import UsageError, faults
from tersa.recipes.goals import Goals, Kind
from tersa.recipes.pruning import STRONG, Protocol
from tersa.recipes.request import ShrinkSpec
from tersa.study.cluster import Crew

BOUNDS: tuple[Kind, ...] = ("latency", "energy", "macs", "size", "parameters")

PROTOCOL = (
    "criterion",
    "keep",
    "tune",
    "learning_rate",
    "teacher_weight",
    "arithmetic",
    "criterion_samples",
)
"""Settings of the pruning protocol that have an effect on adapt."""

CLOSING = ("learning_rate", "teacher_weight")
"""Of these, those that NetAdapt's short fine-tunes have their own of (`pruning.short`)."""

OPTIONS = ("criterion", "keep", "tune", "arithmetic")
"""Settings of the protocol that the command line has."""

STEPWISE = ("cut", "score", "hybrid", "shortlist", "race", "delta", "decay", "score_images", "check_every")
"""Settings of NetAdapt's steps, which have no effect on a solver for all widths at once."""

UNASKED = "and no --latency or --energy is asked"
"""Why a setting of what is measured has no effect."""

RACE = 0.1
"""Share of the short fine-tune after which a short list is compared, where `race` says nothing."""


class AdaptSpec(ShrinkSpec):
    """Everything that decides the result of one run of adapt; stored as `spec.toml`.

    Attributes:
        search: `netadapt`, step by step, or `budget`, all widths at once.
        cut: how NetAdapt finds a candidate's width.
        score: what NetAdapt ranks candidates by: `finetune`, or a training-free score.
        hybrid: share of NetAdapt's way, at its end, that is ranked by fine-tuned accuracy all the same.
        shortlist: candidates that a step ranked by accuracy fine-tunes, named by the score; 0 for all.
        race: share of the short fine-tune after which these are compared, the best alone going on; 1 for all
            of them to the end; None for `RACE` of a short list, and 1 where all candidates are fine-tuned.
        delta: share of the first latency that a step of NetAdapt takes off.
        decay: what every step's delta is multiplied by against the one before.
        finetune_steps: iterations of a short fine-tune.
        score_images: training images that a training-free score looks at; some look at none.
        check_every: steps of NetAdapt between two measurements of the whole network; 0 for none: estimates
            alone say when the budget is met, as published, and the last measurement if they were right.
        front: networks of a Pareto front between the baseline and the budget; 0 for none.
        table: SQLite file of the latencies and energies of layers, or None for the user's.
        allow_foreign: use a table that was measured on another machine.
    """

    verb: Literal["shrink", "prune", "adapt"] = "adapt"
    precision: str = "fp32"
    goals: Goals = Goals()
    search: Literal["netadapt", "budget"] = "budget"
    cut: Literal["linear", "bisect"] = "bisect"
    score: str = "naswot"
    hybrid: float = Field(default=0.3, ge=0, le=1)
    shortlist: int = Field(default=2, ge=0)
    race: float | None = Field(default=None, gt=0, le=1)
    delta: float = Field(default=0.025, gt=0, lt=1)
    decay: float = Field(default=1.0, gt=0, le=1)
    finetune_steps: int = Field(default=500, ge=0)
    score_images: int = Field(default=64, ge=2)
    check_every: int = Field(default=5, ge=0)
    front: int = Field(default=0, ge=0, le=100)
    table: str | None = None
    allow_foreign: bool = False

    def check(self) -> None:
        """Faults that show before any work.

        Raises:
            UsageError: settings that exclude each other, or no limit to adapt to.
        """
        super().check()
        if self.score != "finetune":
            find_proxy(self.score)
        found: list[str] = []
        if not self.goals.bounded:
            found.append(
                "nothing to adapt to: give --latency (0.5x, 2ms), --energy, --macs, --size or --parameters"
            )
        if self.precision != "fp32":
            found.append(
                f"--precision {self.precision}: latency tables hold fp32 layers; adapt in fp32, then "
                "tersa export --precision int8"
            )
        if self.front and self.search != "budget":
            found.append("--front solves for many budgets; it needs --search budget")
        idle = [name for name in STEPWISE if self.differs(name)]
        if idle and self.search != "netadapt":
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            found.append(f"{flags}: for the steps of --search netadapt, which {self.search} does not take")
        found += self._idle()
        if self.front == 1:
            found.append("--front 1 is no front; give at least 2, or leave it out")
        if self.search == "netadapt" and not self.finetune_steps and self.score == "finetune":
            found.append("--score finetune needs --finetune-steps of at least 1")
        if found:
            raise faults("adapt", found)

    def _idle(self) -> list[str]:
        """Settings without effect beside the others, where no one else says so."""
        rows = list[tuple[tuple[str, ...], bool, str]]()
        rows.append((("table", "allow_foreign"), not self.measures, f"for tables of layers, {UNASKED}"))
        still = not (self.tunes and self.finetune_steps) and self.protocol.get("tune") == 0
        if still and self.protocol.get("arithmetic", "fp32") != "fp32":
            raise UsageError("--arithmetic: no effect: nothing is fine-tuned; leave it out")
        if self.protocol.get("tune") == 0 and (self.search == "netadapt" or still):
            asked = [name for name in CLOSING if self.protocol.get(name, STRONG[name]) != STRONG[name]]
            if asked:
                raise UsageError(f"{', '.join(asked)}: no effect: for the closing fine-tune, and tune is 0")
        if self.search == "netadapt":
            plain, faithful = self.hybrid == 0, self.score == "finetune"
            every = self.hybrid == 1 and not self.shortlist and not faithful
            blind = not faithful and not every and not find_proxy(self.score).images
            rows += [
                (("check_every",), not self.measures, f"between two measurements, {UNASKED}"),
                (("hybrid", "shortlist", "score_images"), faithful, "not with --score finetune"),
                (
                    ("shortlist", "race"),
                    plain and not faithful,
                    "for fine-tuned candidates; --hybrid 0 has none",
                ),
                (
                    ("race",),
                    self.shortlist == 1 and not faithful and not plain,
                    "--shortlist 1 fine-tunes one candidate alone",
                ),
                (("race",), self.finetune_steps < 2, "--finetune-steps has no part to compare after"),
                (("score", "score_images"), every, "--hybrid 1 --shortlist 0 never scores"),
                (("score_images",), blind, f"--score {self.score} looks at the images' shape alone"),
            ]
        return [
            f"{', '.join(flags)}: no effect: {why}"
            for names, idle, why in rows
            if idle and (flags := [f"--{name.replace('_', '-')}" for name in names if self.differs(name)])
        ]

    @property
    def measures(self) -> bool:
        """A limit needs a table of layers, and measurements of whole networks."""
        return self.goals.latency is not None or self.goals.energy is not None

    def differs(self, name: str) -> bool:
        """A setting is not what it is by default."""
        return getattr(self, name) != type(self).model_fields[name].get_default()

    @property
    def tunes(self) -> bool:
        """Short fine-tunes are made: of candidates, or of a front's networks."""
        if self.search == "budget":
            return self.front > 0
        return self.score == "finetune" or self.hybrid > 0

    @property
    def heat(self) -> int:
        """Iterations of a short fine-tune after which candidates are compared: all of them without a race.

        >>> AdaptSpec(search="netadapt").heat, AdaptSpec(search="netadapt", score="finetune").heat
        (50, 500)
        >>> AdaptSpec(search="netadapt", score="finetune", race=0.2, finetune_steps=4).heat
        1
        """
        whole = 1.0 if self.score == "finetune" or not self.shortlist else RACE
        share = whole if self.race is None else self.race
        return min(self.finetune_steps, max(1, round(share * self.finetune_steps)))

    @property
    def retrains(self) -> dict[str, int | float | str]:
        """The protocol's settings, with the short fine-tune."""
        return {**self.protocol, "retrain": self.finetune_steps, "optimiser": "fresh"}


def specified(**given: Any) -> AdaptSpec:
    """A spec from plain values.

    Raises:
        UsageError: values outside their range, all of them together.
    """
    try:
        return AdaptSpec(**given)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, each['loc']))} is {each['input']}: {each['msg'].lower()}"
            for each in error.errors()
        ]
        raise faults("adapt", found) from None


def checked(spec: AdaptSpec) -> AdaptSpec:
    """The spec with its short fine-tune in the protocol, checked.

    Raises:
        UsageError: see `AdaptSpec.check`; protocol settings that belong to other verbs.
    """
    spec = spec.model_copy(update={"protocol": spec.retrains})
    spec.check()
    plain = Protocol(retrain=0, tune=0)
    for name in ("granularity", "schedule", "step", "regrow", "round_to"):
        if spec.protocol.get(name, getattr(plain, name)) != getattr(plain, name):
            raise UsageError(f"adapt chooses widths itself; leave out the protocol's {name}")
    return spec


def check_call(spec: AdaptSpec, *, fresh_table: bool = False, crew: Crew | None = None) -> None:
    """What is no part of a spec must have an effect too.

    Raises:
        UsageError: by name, what has none.
    """
    found: list[str] = []
    if fresh_table and not spec.measures:
        found.append(f"--fresh-table: no effect: for tables of layers, {UNASKED}")
    if crew and not crew.alone and (spec.search != "netadapt" or not spec.tunes):
        flag = f"--workers {crew.workers}" if crew.workers > 1 else f"--on {crew.on}"
        found.append(f"{flag}: no effect: for candidates that --search netadapt fine-tunes, and none is")
    if found:
        raise faults("adapt", found)


def adapt_command(spec: AdaptSpec) -> str:
    """The command line that does the same (settings of the protocol that it lacks are in the report)."""
    words = ["tersa", "adapt", "--data", spec.data]
    limits = {name: bound.text(name) for name in BOUNDS if (bound := getattr(spec.goals, name))}
    floors = {"max-loss": spec.goals.max_loss, "min-accuracy": spec.goals.min_accuracy}
    given: dict[str, object] = {"model": spec.model, "run": spec.run, "checkpoint": spec.checkpoint}
    given |= {**limits, **floors}
    for name in (
        *("target", "batch", "seed", "epochs", "validation", "search", "cut", "score", "hybrid"),
        *("shortlist", "race", "delta", "decay", "finetune_steps", "score_images", "check_every", "front"),
        "table",
    ):
        usual = AdaptSpec.model_fields[name].get_default()
        given[name.replace("_", "-")] = None if getattr(spec, name) == usual else getattr(spec, name)
    given |= {name: spec.protocol.get(name) for name in OPTIONS}
    given["keep"] = given["keep"] or None
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    words += ["--allow-foreign"] if spec.allow_foreign else []
    for name, value in spec.training.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)
