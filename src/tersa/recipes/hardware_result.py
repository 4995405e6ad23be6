"""What `tersa reproduce hardware` stores: `result.json`.

Example:
    >>> NetworkFacts(network="alexnet", side=32, model="alexnet", parameters=10).parameters
    10
"""

from __future__ import annotations

from typing import Literal

from tersa.records.base import SCHEMA, Record
from tersa.records.results import Comparison, Environment
from tersa.targets.sweep import Gap, Row


class NetworkFacts(Record):
    """One network of a group; what is not known of a bare file is None.

    Attributes:
        network: `alexnet` or `mobilenet`.
        side: rows and columns of its images.
        model: as in the measurements.
        made_for: target that it was adapted for; empty where it was not.
        trained: its answers mean something.
        parameters: trainable values.
        macs: multiply-accumulates of one image.
        state_bytes: of weights and running statistics in float32.
        fp32_bytes: of the ONNX file.
        int8_bytes: of the INT8 file.
        convolutions: layers.
        fully_connected: layers.
        most_inputs: of a fully connected layer.
        most_outputs: of a fully connected layer.
        poolings: layers, adaptive ones too.
        activations: layers.
    """

    network: str
    side: int
    model: str
    made_for: str = ""
    trained: bool = False
    parameters: int | None = None
    macs: int | None = None
    state_bytes: int | None = None
    fp32_bytes: int | None = None
    int8_bytes: int | None = None
    convolutions: int = 0
    fully_connected: int = 0
    most_inputs: int = 0
    most_outputs: int = 0
    poolings: int = 0
    activations: int = 0


class Group(Record):
    """One network at one size on every target.

    Attributes:
        network: `alexnet` or `mobilenet`.
        side: rows and columns of the images.
        networks: the original, then the runs.
        rows: what was measured.
        comparisons: of each row with the original in the first precision, from the same rounds.
        gaps: what was not, and why.
    """

    network: str
    side: int
    networks: list[NetworkFacts]
    rows: list[Row]
    comparisons: list[Comparison]
    gaps: list[Gap]

    @property
    def name(self) -> str:
        """`alexnet 224x224`."""
        return f"{self.network} {self.side}x{self.side}"


class HardwareResult(Record):
    """Everything that one reproduction found.

    Attributes:
        mode: `quick` or `full`.
        verdict: the answer in a line.
        detail: the answer in sentences.
        groups: networks at their sizes.
        notes: what a reader must know.
        artefacts: rows as CSV, tables as Markdown.
        report: the page.
    """

    schema_version: int = SCHEMA
    verb: Literal["reproduce"] = "reproduce"
    document: Literal["hardware"] = "hardware"
    mode: str
    command: str
    verdict: str = ""
    detail: str = ""
    groups: list[Group]
    environment: Environment
    notes: list[str]
    artefacts: list[str]
    report: str = ""
    seconds: float
