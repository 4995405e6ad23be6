"""What `tersa reproduce adaptation` stores: `result.json`, and the sums that its tables print.

One step of NetAdapt makes a candidate of every block (a group of channels): its width is searched, the
network fine-tuned for T iterations and evaluated. The whole adaptation takes the mean step times the number
of steps.

Example:
    >>> row = BlockTimes(step=0, block=0, name="c", before=8, width=4, tries=2, bisect_tries=2, built=0,
    ...     cuts={"original": 3.0, "bisection": 1.0}, finetune_s=5.0, evaluate_s=1.0, score_s=0.1)
    >>> found = Timed(network="n", side=32, delta=0.1, steps=4, trained=1, iterations=500, blocks=[row])
    >>> found.total("original"), found.total("bisection")
    (36.0, 28.0)
"""

from __future__ import annotations

from statistics import mean
from typing import Literal

from tersa.records.base import SCHEMA, Record
from tersa.records.results import Environment

Remedy = Literal["original", "bisection", "interpolation", "bisection_interpolation", "file_interpolation"]
REMEDIES: tuple[Remedy, ...] = (
    "original", "bisection", "interpolation", "bisection_interpolation", "file_interpolation",
)  # fmt: skip


class BlockTimes(Record):
    """One candidate of one step, stage by stage.

    Attributes:
        step: place among the measured steps, 0 being the first of the way.
        block: its place in the network.
        name: of its layers.
        before: width before the step.
        width: that the original's search finds; None where none is below the constraint.
        tries: estimates of the linear search.
        bisect_tries: of the bisecting one.
        built: interpolators that the original builds in its search.
        cuts: seconds of the search for the width by remedies taken; `ours` is this package's.
        finetune_s: of T iterations.
        evaluate_s: of the accuracy after them.
        score_s: of NAS-WOT in place of both.
    """

    step: int
    block: int
    name: str
    before: int
    width: int | None
    tries: int
    bisect_tries: int
    built: int
    cuts: dict[str, float]
    finetune_s: float
    evaluate_s: float
    score_s: float


class Timed(Record):
    """The original of one network at one delta, and what each remedy takes off.

    Attributes:
        network: `alexnet`, `mobilenet` or `vgg19`.
        side: rows and columns of the images.
        delta: share of the first latency that a step takes off.
        steps: of the whole way, by estimates.
        trained: of those, in the last share that a hybrid schedule ranks by accuracy.
        iterations: T.
        blocks: of the measured steps.
    """

    network: str
    side: int
    delta: float
    steps: int
    trained: int
    iterations: int
    blocks: list[BlockTimes]

    @property
    def measured(self) -> int:
        """Steps that were measured."""
        return len({row.step for row in self.blocks})

    def of_step(self, stage: str) -> float:
        """Mean seconds of one step: a remedy's search, or `finetune_s`, `evaluate_s`, `score_s`."""
        rows = self.blocks
        each = [row.cuts[stage] if stage in row.cuts else float(getattr(row, stage)) for row in rows]
        return sum(each) / max(self.measured, 1)

    def total(self, remedy: str) -> float:
        """Seconds of the whole adaptation, every candidate fine-tuned, its widths searched in one way."""
        return self.steps * sum(self.of_step(stage) for stage in (remedy, "finetune_s", "evaluate_s"))

    def hybrid(self, remedy: str = "ours") -> float:
        """The same where NAS-WOT ranks all candidates but those of the last share of the way."""
        plain = self.steps * (self.of_step(remedy) + self.of_step("score_s"))
        return plain + self.trained * (self.of_step("finetune_s") + self.of_step("evaluate_s"))

    def of_block(self, block: int, stage: str) -> float:
        """Mean seconds of one block's stage over the measured steps."""
        rows = [row for row in self.blocks if row.block == block]
        return mean(row.cuts[stage] if stage in row.cuts else float(getattr(row, stage)) for row in rows)


class LayerPoint(Record):
    """Measured latency of a layer alone, in milliseconds, at its channels."""

    kind: Literal["conv", "linear"]
    layer: str
    inputs: int
    outputs: int
    ms: float


class ScorePoint(Record):
    """A candidate of NetAdapt under the three scores.

    Attributes:
        network: which.
        step: of the way.
        block: that is narrower.
        cost: share of the first latency.
        naswot: score.
        grad_norm: score.
        synflow: score.
        chosen: it became the step.
    """

    network: str
    step: int
    block: int
    cost: float
    naswot: float
    grad_norm: float
    synflow: float
    chosen: bool


class Searched(Record):
    """One whole adaptation that was run.

    Attributes:
        network: which.
        strategy: `original` (all fine-tuned), `H30 naswot`, ..., `budget`.
        seed: of everything random.
        search_s: seconds of the search, without the baseline and the closing fine-tune.
        accuracy: percent, on the test images.
        baseline: percent, of the network before.
        speedup: measured.
    """

    network: str
    strategy: str
    seed: int
    search_s: float
    accuracy: float
    baseline: float
    speedup: float | None


class AdaptationResult(Record):
    """Everything that one reproduction found.

    Attributes:
        mode: `quick` or `full`.
        target: whose latencies fill the tables.
        verdict: the answer in a line.
        detail: the answer in sentences.
        timed: networks and deltas.
        layers: figures 5.3 and 5.4.
        scores: figures 5.7, 5.8 and 5.10 to 5.13.
        searched: figures 5.14 and 5.15; of a full run.
        notes: what a reader must know.
        artefacts: rows as CSV, tables as Markdown.
        report: the page.
    """

    schema_version: int = SCHEMA
    verb: Literal["reproduce"] = "reproduce"
    document: Literal["adaptation"] = "adaptation"
    mode: str
    command: str
    target: str
    verdict: str = ""
    detail: str = ""
    timed: list[Timed]
    layers: list[LayerPoint]
    scores: list[ScorePoint]
    searched: list[Searched]
    environment: Environment
    notes: list[str]
    artefacts: list[str]
    report: str = ""
    seconds: float
