"""What is done to a weight: a small frozen description that every quantiser reads.

A `QuantSpec` says which levels there are (`kind`, `bits`), where they lie (`range` and the fields that belong
to it), how a value goes to one of them (`rounding`) and where the weight lives while it is trained
(`storage`). It is checked as a whole; all faults are reported together, and a setting that would do nothing
is refused, because a request that does nothing misleads.

With a = max(|low|, |high|) the levels of n bits are

    symmetric      a c / (2^(n-1) - 1),  c = -(2^(n-1) - 1) .. 2^(n-1) - 1      2^n - 1 levels, 0 among them
    asymmetric     low + (high - low) c / (2^n - 1),  c = 0 .. 2^n - 1          2^n levels
    binary         -a, a                                                         2 levels
    ternary        -a, 0, a                                                      3 levels
    power-of-two   0 and +-a 2^-k,  k = 0 .. 2^(n-1) - 2                         2^n - 1 levels
    clusters       2^n centroids, found from the values

It holds no numbers of a tensor; `tersa.quant.quantiser` brings spec and tensor together.

Example:
    >>> QuantSpec(kind="symmetric", bits=3).levels
    7
    >>> QuantSpec(kind="ternary").bits
    2
    >>> QuantSpec(kind="symetric", bits=9)
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: quantiser settings: 2 faults
      - unknown kind 'symetric'; did you mean 'symmetric'? known: asymmetric, binary, clusters, ...
      - bits is 9; must be less than or equal to 8
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from tersa.errors import faults, unknown
from tersa.records.base import Record

KINDS = ("none", "symmetric", "asymmetric", "binary", "ternary", "power-of-two", "clusters")
"""Of this package; `tersa.quant.quantiser.QUANTISERS` may hold others, of a user's own."""


def known_kinds() -> tuple[str, ...]:
    """Every kind that there is now."""
    from tersa.quant.quantiser import QUANTISERS  # it reads specs

    return tuple(dict.fromkeys((*KINDS, *QUANTISERS)))


def _known(kind: str) -> str:
    if kind not in KINDS and kind not in known_kinds():
        known = {"known": ", ".join(known_kinds())}
        raise PydanticCustomError("unknown_kind", "must be one of {known}", known)
    return kind


Kind = Annotated[str, AfterValidator(_known)]
Range = Literal["global", "layer", "channel", "percentile", "calibrated", "learned"]
Rounding = Literal["nearest", "stochastic"]
Storage = Literal["inplace", "latent", "accumulate", "after"]

DEFAULT_BITS = 8
OWN_BITS: dict[str, int] = {"binary": 1, "ternary": 2}
"""Kinds whose number of bits is no choice; the default of 8 stands for it, in whatever way it was given."""


class QuantSpec(Record):
    """What is done to a tensor.

    Raises:
        UsageError: settings that cannot be or would do nothing, all in one message.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    kind: Kind = "none"
    """Which levels there are; `none` leaves the tensor real."""
    bits: int = Field(default=DEFAULT_BITS, ge=1, le=8)
    """Bits of one code; binary has 1 and ternary 2, which the default of 8 turns into."""
    range: Range = "layer"
    """Where the levels lie: a fixed interval, each tensor's or output channel's own, without the largest
    weights, as in a full-precision run, or trained (LSQ)."""
    low: float = -1.0
    """Lower end of the global range."""
    high: float = 1.0
    """Upper end of the global range; kinds that mirror around 0 take max(|low|, |high|) for both ends."""
    percentile: float = Field(default=99.9, gt=50, le=100)
    """Share of |x| that lies inside the percentile (or calibrated) range, in percent."""
    rounding: Rounding = "nearest"
    """How a value between two levels goes to one: the nearer one, or either at random, right on average."""
    storage: Storage = "inplace"
    """Where the weight lives between updates: as a code alone, as a code with a float copy (`latent`), as a
    code with extra bits that collect small updates (`accumulate`), or real until the end (`after`)."""
    extra_bits: int = Field(default=0, ge=0, le=8)
    """Bits per weight that collect small updates; of storage `accumulate` alone, which needs at least 1."""

    @model_validator(mode="wrap")
    @classmethod
    def _all_faults_at_once(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        raw = dict(value)
        if raw.get("kind") in OWN_BITS and raw.get("bits", DEFAULT_BITS) == DEFAULT_BITS:
            raw["bits"] = OWN_BITS[str(raw["kind"])]
        found: list[str] = []
        bad: set[str] = set()
        try:
            made = handler(raw)
        except ValidationError as error:
            details = error.errors()
            found = [_say(detail) for detail in details]
            bad = {str(detail["loc"][0]) for detail in details}
            made = handler({key: entry for key, entry in raw.items() if key not in bad})
        for fault in FAULTS:
            if not bad & set(fault.fields) and fault.present(made):
                found.append(fault.text.format(spec=made))
        if found:
            raise faults("quantiser settings", found)
        return made

    @property
    def active(self) -> bool:
        """Something is quantised."""
        return self.kind != "none"

    @property
    def levels(self) -> int:
        """Most values that a tensor (or channel) can hold; 0 for `none`, which sets no limit.

        >>> [QuantSpec(kind=kind).levels for kind in ("binary", "ternary", "asymmetric", "power-of-two")]
        [2, 3, 256, 255]
        """
        if not self.active:
            return 0
        return 2**self.bits - (self.kind in ("symmetric", "ternary", "power-of-two"))


CHOICES: dict[str, tuple[str, ...]] = {
    "range": get_args(Range),
    "rounding": get_args(Rounding),
    "storage": get_args(Storage),
}


def _say(detail: ErrorDetails) -> str:
    """One fault that pydantic found, in this project's words."""
    field, given = str(detail["loc"][0]), detail["input"]
    if detail["type"] == "extra_forbidden":
        return str(unknown("setting", field, QuantSpec.model_fields))
    if detail["type"] == "literal_error":
        return str(unknown(field, str(given), CHOICES[field]))
    if detail["type"] == "unknown_kind":
        return str(unknown(field, str(given), known_kinds()))
    return f"{field} is {given}; {detail['msg'].replace('Input should be', 'must be')}"


@dataclass(frozen=True)
class Fault:
    """A fault that lies between settings.

    Attributes:
        fields: the settings it reads; it is not looked at when one of them is at fault itself.
        present: whether a spec has the fault.
        text: what is wrong and what to do; `spec` is filled in.
    """

    fields: tuple[str, ...]
    present: Callable[[QuantSpec], bool]
    text: str


FAULTS: tuple[Fault, ...] = (
    Fault(
        ("kind", "bits"),
        lambda s: s.bits != OWN_BITS.get(s.kind, s.bits),
        "bits is {spec.bits}; a {spec.kind} weight has a number of its own: leave bits out",
    ),
    Fault(
        ("kind", "bits"),
        lambda s: s.kind in ("symmetric", "power-of-two") and s.bits < 2,
        "bits is 1; {spec.kind} needs at least 2, one of them for the sign; choose binary for 1 bit",
    ),
    Fault(
        ("kind", "bits", "rounding", "storage", "extra_bits"),
        lambda s: (
            not s.active
            and (s.bits, s.rounding, s.storage, s.extra_bits) != (DEFAULT_BITS, "nearest", "inplace", 0)
        ),
        "kind is none, for which bits, rounding, storage and extra_bits do nothing; leave them out or choose "
        "a kind such as symmetric",
    ),
    Fault(
        ("storage", "extra_bits"),
        lambda s: s.storage == "accumulate" and s.extra_bits == 0,
        "storage accumulate needs extra_bits, 1 to 8, to collect small updates in; choose inplace for none",
    ),
    Fault(
        ("storage", "extra_bits"),
        lambda s: s.storage != "accumulate" and s.extra_bits > 0,
        "extra_bits is {spec.extra_bits}, which storage {spec.storage} has no use for; leave it out or "
        "choose storage accumulate",
    ),
    Fault(
        ("range", "storage"),
        lambda s: s.range == "learned" and s.storage != "latent",
        "range learned has no meaning with storage {spec.storage}: its step learns from how far weights are "
        "from their levels; choose storage latent, which keeps them",
    ),
    Fault(
        ("kind", "range"),
        lambda s: s.range == "learned" and s.kind != "symmetric",
        "range learned is offered for kind symmetric alone, not for {spec.kind}; choose range layer",
    ),
    Fault(
        ("kind", "range"),
        lambda s: s.kind == "clusters" and s.range != "layer",
        "kind clusters finds its levels among the tensor's own values; range must be layer, not {spec.range}",
    ),
    Fault(
        ("low", "high"),
        lambda s: s.low >= s.high,
        "low is {spec.low} and high {spec.high}; low must be below high",
    ),
    Fault(
        ("kind", "range", "low", "high"),
        lambda s: s.active and s.range != "global" and (s.low, s.high) != (-1.0, 1.0),
        "low and high are the ends of range global, not of {spec.range}; leave them out or choose global",
    ),
    Fault(
        ("kind", "range", "percentile"),
        lambda s: s.active and s.range not in ("percentile", "calibrated") and s.percentile != 99.9,
        "percentile is used by the ranges percentile and calibrated alone; leave it out or choose one",
    ),
)
