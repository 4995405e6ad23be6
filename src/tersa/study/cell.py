"""One cell of a study: everything that decides the numbers of one run.

A cell is named by the hash of its fields, so that a study can be killed, grown and reordered and still know
what is done. Defaults are those of document 000: Adadelta with rate 1, times 0.7 after each epoch, batch 64,
30 epochs, seed 1, weights snapped in place to levels of each layer's own range.

Cells whose `group` is equal have equal shapes and can train in one stack; everything else (bits, range,
quantiser, rounding, storage, rate, gain, seed) varies per run inside it.

Example:
    >>> cell = Cell(model="mlp:100x100", quant="symmetric", bits=3)
    >>> cell.describe()
    'bp mlp:100x100 on mnist, symmetric 3 bits layer nearest inplace, seed 1'
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, model_validator

from tersa.numerics import digest
from tersa.quant.spec import OWN_BITS, Kind, QuantSpec, Range, Rounding, Storage
from tersa.records.base import Record

OptimiserName = Literal[
    "sgd",
    "momentum",
    "nesterov",
    "adagrad",
    "adadelta",
    "adam",
    "lbfgs",
    "cg",
    "newton",
    "levenberg-marquardt",
]
OPTIMISERS: tuple[str, ...] = get_args(OptimiserName)
Status = Literal["done", "diverged", "failed"]

GROUP_FIELDS = (
    "data", "model", "rule", "optimizer", "batch", "epochs", "shuffle", "shuffle_seed", "scaling",
    "judged_on",
)  # fmt: skip


class Cell(Record):
    """Settings of one run of a study."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    data: str = "mnist"
    """A known data set or a path."""
    model: str = "mlp:100x100"
    """A network of the zoo that is a line of layers."""
    rule: str = "bp"
    """How it learns; a name of `tersa.rules.registry`."""
    quant: Kind = "none"
    """Quantiser of weights and biases; `none` is float32."""
    bits: int = Field(default=8, ge=1, le=8)
    """Of one weight."""
    range: Range = "layer"
    """Where the levels lie."""
    low: float = -1.0
    """Lower end of the global range."""
    high: float = 1.0
    """Upper end of it."""
    percentile: float = Field(default=99.9, gt=50, le=100)
    """Share of |weights| inside the percentile range, in percent."""
    rounding: Rounding = "nearest"
    """How a value between two levels goes to one."""
    storage: Storage = "inplace"
    """Where the weight lives between updates."""
    extra_bits: int = Field(default=0, ge=0, le=8)
    """Bits per weight that collect small updates, with storage `accumulate`."""
    activation_bits: int = Field(default=0, ge=0, le=8)
    """Of hidden outputs; 0 leaves them real."""
    gradient_bits: int = Field(default=0, ge=0, le=8)
    """Of the errors that travel back; 0 leaves them real."""
    gain: float = Field(default=0.0, ge=0)
    """c of the output gain c / sqrt(fan-in) of each layer, whose weights start uniform in the global range;
    0: gain 1 and the network's own start."""
    program_noise: float = Field(default=0.0, ge=0)
    """Deviation of a written weight from its level, as a share of the range's half width."""
    read_noise: float = Field(default=0.0, ge=0)
    """Deviation of a weight at each read, as a share of the range's half width."""
    stuck: float = Field(default=0.0, ge=0, lt=1)
    """Share of devices that are stuck at a random level."""
    optimizer: OptimiserName = "adadelta"
    """Update rule."""
    learning_rate: float = Field(default=1.0, gt=0)
    """At the start."""
    decay: float = Field(default=0.7, gt=0, le=1)
    """The rate is multiplied by it after each epoch."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 pull on every weight, added to the gradient."""
    batch: int = Field(default=64, ge=1)
    """Images of one update."""
    epochs: int = Field(default=30, ge=1)
    """Passes over the training images."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Of the start, the rule's random numbers and stochastic rounding."""
    shuffle: Literal["shared", "per-run"] = "shared"
    """Order of the images: one for all runs (from `shuffle_seed`), or one per run (from `seed`)."""
    shuffle_seed: int = Field(default=1, ge=0, lt=2**31)
    """Of the shared order."""
    scaling: Literal["standard", "unit"] = "standard"
    """Pixels: mean 0 and deviation 1 per channel, or left in 0..1."""
    judged_on: Literal["test", "validation"] = "test"
    """Split of the accuracies: `test`, with train and validation to learn from; or `validation`, with train
    alone, for studies that choose settings."""

    @model_validator(mode="before")
    @classmethod
    def _own_bits(cls, value: Any) -> Any:
        """Binary and ternary weights have a number of bits of their own, where none is given."""
        if isinstance(value, dict) and value.get("quant") in OWN_BITS and "bits" not in value:
            return {**value, "bits": OWN_BITS[value["quant"]]}
        return value

    @property
    def spec(self) -> QuantSpec:
        """What is done to the weights."""
        return QuantSpec(
            kind=self.quant,
            bits=self.bits,
            range=self.range,
            low=self.low,
            high=self.high,
            percentile=self.percentile,
            rounding=self.rounding,
            storage=self.storage,
            extra_bits=self.extra_bits,
        )

    @property
    def key(self) -> str:
        """Hash of every field: the cell's name in a store."""
        return digest(self.model_dump(mode="json"))[:16]

    @property
    def group(self) -> tuple[object, ...]:
        """Cells with equal groups can train in one stack."""
        return tuple(getattr(self, name) for name in GROUP_FIELDS)

    def describe(self) -> str:
        """One line for people."""
        weights = "float32"
        if self.quant != "none":
            weights = f"{self.quant} {self.bits} bits {self.range} {self.rounding} {self.storage}"
            weights += f" +{self.extra_bits}" if self.extra_bits else ""
        return f"{self.rule} {self.model} on {self.data}, {weights}, seed {self.seed}"


class CellEpoch(Record):
    """One epoch of one run."""

    epoch: int
    """1 for the first."""
    phase: str
    """Of the rule (`train`, `unformatted`, `classifier`)."""
    train_loss: float | None
    """Mean over the epoch of what the rule differentiates; None where it was not finite."""
    train_accuracy: float | None
    """Percent, after the epoch, on as many training images as are judged on; None where not taken."""
    test_accuracy: float
    """Percent, after the epoch, on the split that the cell is judged on."""
    learning_rate: float
    """During the epoch."""


class LayerState(Record):
    """What the numbers of one tensor looked like after an epoch."""

    epoch: int
    layer: str
    """`fc1`, ..."""
    tensor: Literal["weight", "bias"]
    low: float
    high: float
    mean: float
    variance: float
    angle: float | None = None
    """Degrees between the rule's update and backpropagation's, on one batch; None where not taken."""


class CellResult(Record):
    """What came of one cell."""

    key: str
    cell: Cell
    status: Status
    test_accuracy: float | None
    """Percent, after the last epoch; None where the cell failed."""
    epochs: list[CellEpoch]
    layers: list[LayerState]
    seconds: float
    """Wall time of its stack over the runs in it."""
    stacked: int
    """Runs that trained together."""
    message: str = ""
    """Why it diverged or failed, with the traceback of a failure."""
