"""What `tersa bench` stores: `result.json`, and before that one file for every target and batch size.

Example:
    >>> Accuracy(model="m", target="t", precision="fp32", test_accuracy=98.5, images=200).images
    200
"""

from __future__ import annotations

from typing import Literal

from tersa.records.base import SCHEMA, Record
from tersa.records.results import Comparison, Environment, Measurement
from tersa.targets.sweep import Cell, Gap, Row


class Accuracy(Record):
    """Test accuracy of one trained model in one precision, by running its file on one target."""

    model: str
    target: str
    precision: str
    test_accuracy: float
    images: int


class Kept(Record):
    """A cell on disk, with what it depends on.

    Attributes:
        sha256: of the artefacts, by `model precision`.
        machine: that measured it (`environment.hardware`); empty in cells of an older tersa.
        cell: what was measured.
    """

    schema_version: int = SCHEMA
    sha256: dict[str, str]
    machine: str = ""
    cell: Cell


class Answers(Record):
    """The accuracies of one target on disk, with what they depend on."""

    schema_version: int = SCHEMA
    sha256: dict[str, str]
    accuracies: list[Accuracy]


class CrossRow(Record):
    """A model that was adapted for one target, on all of them.

    Attributes:
        model: as in the measurements.
        made_for: the target that it was adapted for.
        percent: its latency in percent of the original's on each target, measured in the same rounds.
        low: lower end of the 95 % interval.
        high: upper end of it.
    """

    model: str
    made_for: str
    percent: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]


class CrossTable(Record):
    """The model adapted for A measured on B, in percent of the original.

    Attributes:
        original: the model that the others were made from.
        precision: of all.
        batch: images per call.
        original_ms: its latency on each target.
        rows: the adapted models.
    """

    original: str
    precision: str
    batch: int
    original_ms: dict[str, float]
    rows: list[CrossRow]


class LayerCost(Record):
    """One layer of a network on one target.

    Attributes:
        name: as in the ONNX file, the module's path, or a number in a packed program.
        kind: operator.
        macs: multiply-accumulates of one call.
        bytes: read from and written to memory: weights, inputs, outputs.
        ms: median time in one call.
        share: of the sum over all layers, percent.
        limit: what holds it back on this machine.
        roof_ms: the least time that the machine's ceilings allow.
    """

    name: str
    kind: str
    macs: int
    bytes: int
    ms: float
    share: float
    limit: Literal["arithmetic", "memory", "call overhead", "not known"]
    roof_ms: float


class LayerTable(Record):
    """Where the time of one network goes on one target.

    Attributes:
        call_ms: median time of a whole call, without profiling.
        profiled_ms: sum over the layers, with profiling.
        overhead_ms: what a layer costs at least on this runtime: the quickest that was seen.
        macs_per_s: ceiling of arithmetic: multiply-accumulates, of a packed program products of single bits.
        bytes_per_s: ceiling of memory for a working set of this size.
        working_set_bytes: weights and the largest activations.
        how: which profiler gave the times.
    """

    model: str
    target: str
    precision: str
    batch: int
    call_ms: float
    profiled_ms: float
    overhead_ms: float
    macs_per_s: float
    bytes_per_s: float
    working_set_bytes: int
    how: str
    layers: list[LayerCost]


class Reference(Record):
    """What others are compared with: the first model, in the first precision that it is here in.

    Attributes:
        model: the first that was named, whether or not it could be measured.
        precisions: by target; of a model that is here in two forms, the form that the target has. A target
            for which it could not be made is not there.
        target: the first, on which it is the anchor of the others.
    """

    model: str
    precisions: dict[str, str]
    target: str


class BenchResult(Record):
    """Everything that one `tersa bench` found.

    Attributes:
        verdict: the answer in a line.
        detail: the answer in sentences.
        measurements: one row per combination that was measured.
        reference: what others are compared with; None in results of an older tersa.
        comparisons: of each measurement with the reference on the same target and batch, where that was
            measured.
        across: of each measurement on another target with the reference on the first target.
        not_offered: combinations without a measurement, and why.
        accuracies: of trained models, where data are given.
        cross: models that were adapted for a target, on all of them; None where none was.
        layers: where the time goes, where that was asked.
        energy: how energy was known, in a sentence.
    """

    schema_version: int = SCHEMA
    verb: Literal["bench"] = "bench"
    command: str = ""
    verdict: str = ""
    detail: str = ""
    data: str = ""
    reference: Reference | None = None
    measurements: list[Row]
    comparisons: list[Comparison]
    across: list[Comparison]
    not_offered: list[Gap]
    accuracies: list[Accuracy]
    cross: CrossTable | None = None
    layers: list[LayerTable]
    energy: str = ""
    environment: Environment
    notes: list[str]
    artefacts: list[str]
    report: str = ""
    seconds: float

    def leads(self, row: Measurement) -> bool:
        """A row is the reference on its target."""
        known, first = self.reference, self.measurements[0]
        if known is None:
            return (row.model, row.precision) == (first.model, first.precision)
        return row.model == known.model and row.precision == known.precisions.get(row.target)

    def anchors(self, row: Measurement) -> bool:
        """A row is the reference on the first target, which the rows of other targets are compared with."""
        first = self.measurements[0].target if self.reference is None else self.reference.target
        return row.target == first and self.leads(row)
