"""The quantiser's settings: every refusal in words, and no fault hides another."""

import subprocess
import sys

import pytest

from tersa.errors import UsageError
from tersa.quant.quantiser import QUANTISERS
from tersa.quant.spec import CHOICES, OWN_BITS, QuantSpec
from tersa.study.spec import StudySpec, expand

SENSIBLE = [
    {},
    {"kind": "symmetric", "bits": 2, "range": "global", "low": -0.5, "high": 0.25},
    {"kind": "asymmetric", "bits": 1, "range": "channel", "rounding": "stochastic"},
    {"kind": "binary", "rounding": "stochastic", "storage": "latent"},
    {"kind": "ternary", "bits": 8, "range": "percentile", "percentile": 99.0},
    {"kind": "power-of-two", "bits": 4, "range": "calibrated", "percentile": 100.0},
    {"kind": "clusters", "bits": 1, "storage": "after"},
    {"kind": "symmetric", "bits": 3, "storage": "accumulate", "extra_bits": 4},
    {"kind": "symmetric", "bits": 3, "storage": "latent", "range": "learned"},
    {"range": "global", "low": -2.0, "high": 2.0},  # float32 weights that start in a wider interval
]

REFUSED = [
    ({"kind": "binary", "bits": 3}, "bits is 3; a binary weight"),
    ({"kind": "ternary", "bits": 1}, "bits is 1; a ternary weight"),
    ({"kind": "symmetric", "bits": 1}, "symmetric needs at least 2"),
    ({"kind": "power-of-two", "bits": 1}, "power-of-two needs at least 2"),
    ({"kind": "asymmetric", "bits": 0}, "bits is 0; must be greater"),
    ({"kind": "asymmetric", "bits": 9}, "bits is 9; must be less"),
    ({"bits": 3}, "kind is none"),
    ({"rounding": "stochastic"}, "kind is none"),
    ({"storage": "latent"}, "kind is none"),
    ({"kind": "symmetric", "storage": "accumulate"}, "needs extra_bits"),
    ({"kind": "symmetric", "extra_bits": 2}, "extra_bits is 2, which storage inplace"),
    ({"kind": "symmetric", "range": "learned"}, "no meaning with storage inplace"),
    ({"kind": "symmetric", "range": "learned", "storage": "after"}, "no meaning with storage after"),
    ({"kind": "binary", "range": "learned", "storage": "latent"}, "not for binary"),
    ({"kind": "clusters", "range": "global"}, "range must be layer, not global"),
    ({"kind": "symmetric", "range": "global", "low": 1.0, "high": 1.0}, "low must be below high"),
    ({"kind": "symmetric", "low": -2.0}, "ends of range global, not of layer"),
    ({"kind": "symmetric", "percentile": 90.0}, "percentile is used by"),
    ({"kind": "symmetric", "range": "percentile", "percentile": 50.0}, "percentile is 50.0; must be greater"),
    ({"kind": "symmetric", "high": float("inf")}, "high is inf"),
    ({"kind": "symmetrical"}, "did you mean 'symmetric'"),
    ({"range": "local"}, "unknown range 'local'"),
    ({"bit": 3}, "unknown setting 'bit'; did you mean 'bits'"),
]


@pytest.mark.parametrize("settings", SENSIBLE, ids=str)
def test_json_round_trip(settings: dict[str, object]) -> None:
    spec = QuantSpec.model_validate(settings)
    assert QuantSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_refusal_is_one_line_that_names_the_setting(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        QuantSpec.model_validate(settings)
    assert str(caught.value).startswith("quantiser settings: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(UsageError, match="4 faults") as caught:
        QuantSpec.model_validate(
            {"kind": "clusters", "range": "channel", "extra_bits": 1, "rounding": "up", "percentile": 60.0}
        )
    assert str(caught.value).count("\n  - ") == 4


@pytest.mark.parametrize(("kind", "bits"), OWN_BITS.items())
def test_the_default_of_8_bits_means_the_kinds_own(kind: str, bits: int) -> None:
    for settings in ({}, {"bits": 8}, {"bits": bits}):
        assert QuantSpec.model_validate({"kind": kind, **settings}).bits == bits


@pytest.mark.parametrize(
    ("kind", "bits", "levels"),
    [
        ("none", 8, 0),
        ("symmetric", 2, 3),
        ("symmetric", 8, 255),
        ("asymmetric", 3, 8),
        ("binary", 1, 2),
        ("ternary", 2, 3),
        ("power-of-two", 4, 15),
        ("clusters", 5, 32),
    ],
)
def test_number_of_levels(kind: str, bits: int, levels: int) -> None:
    assert QuantSpec.model_validate({"kind": kind, "bits": bits}).levels == levels


def test_every_field_has_its_sentence() -> None:
    fields = QuantSpec.model_fields
    assert all(field.description and field.description.endswith(".") for field in fields.values())
    assert set(CHOICES) <= set(fields)


def test_a_spec_is_read_without_torch() -> None:
    code = "import sys, tersa.quant.spec; from tersa.quant import QuantSpec; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_kind_of_ones_own_is_known_once_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown kind 'odd'"):
        QuantSpec(kind="odd", bits=2)
    with pytest.raises(UsageError, match="unknown quant 'odd'"):
        expand(StudySpec(name="x", fixed={"quant": "odd"}))
    monkeypatch.setitem(QUANTISERS, "odd", QUANTISERS["asymmetric"])
    assert QuantSpec(kind="odd", bits=2).levels == 4
    assert {cell.quant for cell in expand(StudySpec(name="x", fixed={"quant": "odd"})).cells} == {"odd"}
    with pytest.raises(UsageError, match="did you mean 'odd'"):
        QuantSpec(kind="ood", bits=2)
