"""What a network costs and gives, and everything that a run found: the rows of `result.json`.

Example:
    >>> Quantiles(median=0.41, p10=0.40, p90=0.44).model_dump_json()
    '{"median":0.41,"p10":0.4,"p90":0.44}'
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tersa.records.adaptation import Adaptation
from tersa.records.base import SCHEMA, Record

Verdict = Literal["faster", "slower", "no difference", "not offered"]


Stage = Literal["baseline", "light", "prune", "distil", "quantise"]


class Quantiles(Record):
    """Median, 10th and 90th percentile of repeated measurements, in milliseconds."""

    median: float
    p10: float
    p90: float


class Epoch(Record):
    """One epoch of one training run.

    Accuracies are in percent; `seconds` is the wall time of this epoch with its validation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


class Figures(Record):
    """What a network costs and gives, before or after.

    Attributes:
        test_accuracy: percent, measured by running the exported artefact on the whole test set.
        validation_accuracy: percent, of the artefact, on the split that steered the choices.
        parameters: number of trainable values.
        macs: multiply-accumulates of convolutions and fully connected layers for one image.
        size_bytes: size of the artefact's file on disk.
        latency_ms: at the goal's target, batch and precision.
        precision: `fp32` or `int8`, of the artefact.
        energy_mj: measured, of one call there; None where it was not asked for.
        energy_by: the counters that measured it.
    """

    test_accuracy: float
    validation_accuracy: float
    parameters: int
    macs: int
    size_bytes: int
    latency_ms: Quantiles
    precision: str
    energy_mj: float | None = None
    energy_by: str = ""


class Goal(Record):
    """One thing that was asked, and whether the test set or the measurement says that it was reached.

    Attributes:
        name: `max-loss`, `min-accuracy`, `size`, `latency`, `macs`, `parameters`, `energy` or `coded-size`.
        asked: the bound, in `unit`.
        reached: what the result has, in `unit`.
        unit: `points`, `%`, `bytes`, `ms`, `MACs`, `parameters` or `mJ`.
        met: reached is within asked.
        text: the goal as a sentence (`lose at most 0.24 points`).
        reason: empty when met; else why not, in words.
    """

    name: str
    asked: float
    reached: float
    unit: str
    met: bool
    text: str
    reason: str = ""


class Step(Record):
    """One point of the way from the baseline to the result.

    Attributes:
        index: 0 is the baseline.
        stage: what kind of work was done.
        what: in words, for the table (`removed 37 channels, retrained 200 iterations`).
        validation_accuracy: percent.
        loss_points: of validation accuracy against the baseline, on the same images.
        standard_error: of `loss_points`.
        parameters: trainable values left.
        macs: for one image.
        size_bytes: of its exported file (fp32 for pruning steps), None where it was not exported.
        latency_ms: median at the goal's target where it was measured, else None.
        estimate_ms: what a latency table said of it, where there is one.
        within: one file of it is within every bound asked; None where none was asked.
        widths: units left in each prunable layer, by layer name.
        seconds: wall time of this step.
        kept: this is the network that became the result.
    """

    index: int
    stage: Stage
    what: str
    validation_accuracy: float
    loss_points: float
    standard_error: float
    parameters: int
    macs: int
    size_bytes: int | None = None
    latency_ms: float | None = None
    estimate_ms: float | None = None
    within: bool | None = None
    widths: dict[str, int]
    seconds: float
    kept: bool = False


class LayerWidth(Record):
    """Channels (or neurons) of one layer before and after, with its parameters and MACs."""

    name: str
    kind: str
    before: int
    after: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    note: str = ""


class Measurement(Record):
    """Latency of one artefact on one target.

    Attributes:
        model: what was run (`baseline`, `result`, or a path).
        target: runtime and options (`onnxruntime@threads=1`).
        precision: `fp32` or `int8`.
        batch: images per call.
        threads: used by the runtime within one call.
        latency_ms: time of one call, over all rounds.
        rounds: timed rounds, interleaved with the other side's.
        warmup: calls before the first timed one.
        calls: timed calls in all.
        low: lower end of the 95 % bootstrap interval of the median, ms.
        high: upper end of it, ms.
        outliers: rounds further than 3 median absolute deviations above the median.
        drift: median of the last third of the rounds over that of the first third.
        runtime: name and version (`onnxruntime 1.31.1`).
        device: where it ran (`cpu`).
    """

    model: str
    target: str
    precision: str
    batch: int
    threads: int
    latency_ms: Quantiles
    rounds: int
    warmup: int
    calls: int
    low: float
    high: float
    outliers: int
    drift: float
    runtime: str
    device: str = "cpu"


class Comparison(Record):
    """Baseline against result on one target, from interleaved rounds.

    Attributes:
        target: runtime and options.
        precision: of the result; the baseline is always run as fp32.
        before: the baseline's measurement, None when not offered.
        after: the result's measurement, None when not offered.
        speedup: median over rounds of before / after; above 1 is faster.
        low: lower end of its 95 % bootstrap interval.
        high: upper end of it.
        verdict: `faster` when low > 1, `slower` when high < 1, else `no difference`.
        reason: for `not offered`, why; for `slower` and `no difference`, the likely cause.
    """

    target: str
    precision: str
    before: Measurement | None = None
    after: Measurement | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Verdict
    reason: str = ""


class Agreement(Record):
    """An artefact held against the trained network on the same images.

    Attributes:
        images: how many were compared (the whole split).
        same_class: on how many both name the same class.
        largest_difference: of any logit, absolute.
        tolerance: the largest difference that was allowed (0 when only classes are compared).
    """

    images: int
    same_class: int
    largest_difference: float
    tolerance: float


class Sample(Record):
    """One test image with the result's answer; `png` is base64."""

    png: str
    label: str
    predicted: str
    probability: float


class Environment(Record):
    """The machine and the versions a number belongs to.

    Attributes:
        governor: of the processor's frequency (`performance`), empty where the system does not tell.
        load: processes that wanted to run, mean of the minute before, or None where the system does not tell.
        container: limits of a control group (`2 cpus, 4.29 GB`), empty where there are none.
    """

    machine: str
    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]
    threads: int
    date: str
    commit: str = ""
    governor: str = ""
    load: float | None = None
    container: str = ""


class Twin(Record):
    """A network of the result's sizes that was trained from scratch, to show what pruning is worth.

    Attributes:
        test_accuracy: percent.
        validation_accuracy: percent.
        loss_points: of test accuracy against the baseline.
        epochs: it was trained for, with the settings of the baseline.
        seconds: of its training.
    """

    test_accuracy: float
    validation_accuracy: float
    loss_points: float
    epochs: int
    seconds: float


class SparseSize(Record):
    """What a network with zeroed weights takes on disk when zeros are not stored (`prune.sparse`).

    Its ONNX file stores zeros like other values and does not shrink; neither do its MACs.

    Attributes:
        zeros: values that are zero.
        values: all values.
        dense_bytes: of all values in float32.
        smallest_bytes: of each tensor in its smallest form, headers included.
        forms: tensor -> that form.
    """

    zeros: int
    values: int
    dense_bytes: int
    smallest_bytes: int
    forms: dict[str, str]


class CodedFile(Record):
    """The result with its weights clustered and entropy coded, as one file (`tersa.export.coded`).

    Attributes:
        file: its name in the run's folder.
        bits: of each weight, before coding.
        size_bytes: on disk.
        ratio: 4 bytes for each parameter of the baseline, over `size_bytes`.
        test_accuracy: percent, by running what the decoder gives.
        loss_points: of test accuracy against the baseline.
        same: on how many test images the decoder's network gives the very logits of the network that was
            coded.
        images: of the test split.
        parts: bytes by what they hold.
        most_bytes: the limit that was asked, or None.
        size_met: the file is within it; true where none was asked.
        floor: percent of the validation split that it was to keep, or None.
        floor_met: it kept that; true where none was asked.
    """

    file: str
    bits: int
    size_bytes: int
    ratio: float
    test_accuracy: float
    loss_points: float
    same: int
    most_bytes: int | None = None
    size_met: bool = True
    floor: float | None = None
    floor_met: bool = True
    images: int
    parts: dict[str, int]


class ShrinkResult(Record):
    """Everything that `tersa shrink`, `prune` or `adapt` found: `result.json`, and all that its report shows.

    Attributes:
        compression: parameters of the baseline over the result's (document 002's word).
        acceleration: MACs of the baseline over the result's (document 002's word).
        size_ratio: file size of the baseline over the result's.
        speedup: measured, at the goal's target; above 1 is faster.
        shape, mean, std: of the images, and how they are normalised; None from an older tersa.
        agreement: `artefacts[0]` against the trained network, on the test set.
        reference_agreement: the result's fp32 file against the trained network, logit by logit.
        confusion: counts, rows are true classes, columns what the file said.
        scratch: the same sizes trained from scratch, where that was asked.
        sparse: bytes without the zeros, where weights were zeroed.
        coded: the entropy-coded file, where that was asked.
        adaptation: how the network was fitted to its target, where `tersa adapt` did it.
        artefacts: file names in the run's folder, the one to ship first.
    """

    schema_version: int = SCHEMA
    verb: Literal["shrink", "prune", "adapt"] = "shrink"
    name: str
    command: str
    task: str
    task_note: str = ""
    model: str
    target: str
    batch: int
    precision: str
    seed: int
    split_sizes: dict[str, int]
    classes: list[str]
    shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sha256: dict[str, str]
    baseline: Figures
    result: Figures
    compression: float
    acceleration: float
    size_ratio: float
    speedup: float
    loss_points: float
    loss_standard_error: float
    goals: list[Goal]
    verdict: str
    detail: str
    agreement: Agreement
    reference_agreement: Agreement
    comparisons: list[Comparison]
    layers: list[LayerWidth]
    steps: list[Step]
    confusion: list[list[int]]
    samples: list[Sample]
    mistakes: list[Sample]
    protocol: dict[str, str | int | float | bool]
    environment: Environment
    scratch: Twin | None = None
    sparse: SparseSize | None = None
    coded: CodedFile | None = None
    adaptation: Adaptation | None = None
    notes: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    artefacts: list[str]
    report: str
    seconds: float

    def absolute(self, folder: Path) -> ShrinkResult:
        """The same with artefacts and report as paths from the working folder, as scripts want them."""
        paths = [str(folder / name) for name in self.artefacts]
        return self.model_copy(update={"artefacts": paths, "report": str(folder / self.report)})
