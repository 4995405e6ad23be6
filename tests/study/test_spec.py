"""Studies from text: what they expand to, what is refused, all at once, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tersa.errors import UsageError
from tersa.rules.registry import RULES
from tersa.study.cell import Cell
from tersa.study.spec import Block, StudySpec, expand, override, parse, read_spec, to_toml

TEXT = """
[study]
name = "bits"
description = "which bits are enough"
seeds = [7, 3]

[fixed]
data = "digits"
epochs = 4
learning_rate = 1

[axes]
quant = ["symmetric", "asymmetric"]
bits = [3, 2]

[[also]]
fixed = { quant = "binary" }
axes = { storage = ["latent", "inplace"] }
"""


def named(cell: Cell) -> tuple[object, ...]:
    return cell.quant, cell.bits, cell.storage, cell.seed


def test_a_study_is_the_union_of_its_products_in_the_order_of_the_file() -> None:
    cells = expand(parse(TEXT)).cells
    wanted = [(q, b, "inplace", s) for q in ("symmetric", "asymmetric") for b in (3, 2) for s in (7, 3)]
    wanted += [("binary", 1, storage, s) for storage in ("latent", "inplace") for s in (7, 3)]
    assert [named(cell) for cell in cells] == wanted
    assert {(cell.data, cell.epochs, cell.learning_rate) for cell in cells} == {("digits", 4, 1.0)}
    assert expand(parse(TEXT)).cells == cells


def test_what_is_not_named_has_the_value_of_document_000() -> None:
    cells = expand(StudySpec(name="x", fixed={"model": "mlp:20"}, seeds=1)).cells
    assert cells == (Cell(model="mlp:20"),)
    assert expand(StudySpec(name="x")).cells == (Cell(seed=1), Cell(seed=2), Cell(seed=3))


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    spec = parse(TEXT)
    assert parse(to_toml(spec)) == spec
    (tmp_path / "bits.toml").write_text('axes = { rule = ["bp"] }')
    assert read_spec(tmp_path / "bits.toml").name == "bits"


def test_cells_that_are_asked_for_twice_run_once() -> None:
    spec = StudySpec(name="x", axes={"bits": [2, 3, 2]}, also=[Block(axes={"bits": [3, 4]})], seeds=1)
    assert [cell.bits for cell in expand(spec).cells] == [2, 3, 4]


def test_float32_has_no_quantiser_settings_and_is_kept_once() -> None:
    spec = StudySpec(name="x", axes={"quant": ["none", "symmetric"], "bits": [2, 3]}, seeds=1)
    found = expand(spec)
    assert [(cell.quant, cell.bits) for cell in found.cells] == [
        ("none", 8),
        ("symmetric", 2),
        ("symmetric", 3),
    ]
    assert found.notes == ("float32 (quant none) has no bits: its cells are kept once",)


def test_a_quantiser_setting_without_a_quantiser_means_the_symmetric_one_and_says_so() -> None:
    found = expand(StudySpec(name="x", fixed={"bits": 3}, seeds=1))
    assert found.cells == (Cell(quant="symmetric", bits=3),)
    assert found.notes == ("quant is not given beside bits: symmetric is taken",)


def test_another_block_takes_over_fixed_values_but_its_own_win() -> None:
    also = [Block(fixed={"epochs": 9}, axes={"data": ["mnist"]})]
    spec = StudySpec(name="x", fixed={"data": "digits", "epochs": 2, "batch": 10}, also=also, seeds=1)
    assert [(c.data, c.epochs, c.batch) for c in expand(spec).cells] == [("digits", 2, 10), ("mnist", 9, 10)]


def test_combinations_without_meaning_are_refused_together_or_left_out() -> None:
    axes = {"quant": ["symmetric", "binary"], "bits": [1, 4], "storage": ["inplace", "accumulate"]}
    spec = StudySpec(name="x", axes=axes, seeds=1)
    with pytest.raises(UsageError) as refused:
        expand(spec)
    for text in (
        "binary with 4 bits has no meaning",
        "symmetric needs at least 2",
        "storage accumulate needs",
    ):
        assert text in str(refused.value)
    found = expand(spec.model_copy(update={"skip": True}))
    assert [named(cell) for cell in found.cells] == [
        ("symmetric", 4, "inplace", 1),
        ("binary", 1, "inplace", 1),
    ]
    assert any(
        "binary with 4 bits" in line and "2 combinations, the first: bp mlp:100x100" in line
        for line in found.left_out
    )


def test_a_study_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(UsageError, match="has no run left"):
        expand(StudySpec(name="x", fixed={"quant": "binary", "bits": 4}, skip=True))


def test_an_unknown_rule_is_named_with_the_closest_one() -> None:
    assert "bp" in RULES
    with pytest.raises(UsageError, match=r"unknown rule 'bpp'; did you mean 'bp'\?"):
        expand(StudySpec(name="x", axes={"rule": ["bp", "bpp"]}))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"fixed": {"bitz": 3}}, "unknown setting 'bitz'; did you mean 'bits'?"),
        ({"axes": {"bits": []}}, "axis bits has no values"),
        ({"fixed": {"bits": 2}, "axes": {"bits": [3]}}, "bits is both fixed and an axis"),
        ({"seeds": 0}, "seeds is 0; give 1 or more"),
        ({"seeds": []}, "seeds is an empty list"),
        ({"seeds": 2, "fixed": {"seed": 1}}, "seed and seeds are both given"),
        ({"fixed": {"quant": "symetric"}}, "unknown quant 'symetric'; did you mean 'symmetric'?"),
        ({"fixed": {"bits": 9}}, "bits is 9; must be less than or equal to 8"),
        ({"fixed": {"epochs": "many"}}, "epochs is many; must be a valid integer"),
        ({"axes": {"batch": list(range(1, 1002)), "epochs": list(range(1, 1001))}}, "at most 1,000,000"),
    ],
)
def test_wrong_studies_are_refused(spec: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        expand(StudySpec.model_validate({"name": "x", **spec}))
    assert said in str(refused.value)


def test_faults_of_several_kinds_are_told_together() -> None:
    with pytest.raises(UsageError) as refused:
        expand(StudySpec(name="x", fixed={"epochs": 0, "rule": "bpp"}, axes={"bits": [2, 11]}, seeds=1))
    for text in ("epochs is 0", "bits is 11"):
        assert text in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[study", "is not TOML"),
        ("schema_version = 99", "has schema 99, this tersa reads up to"),
        ("study = 3", "write a table [study] with a name"),
        ("[fixd]\ndata = 'digits'\n[study]\nnmae = 'x'", "2 faults"),
        ("[[also]]\nfix = {}", "unknown setting 'fix'"),
        ("fixed = { bits = [2] }", "fixed.bits"),
        ("[study]\nseeds = 'five'", "seeds"),
    ],
)
def test_files_that_are_no_studies_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text, "x.toml")
    assert said in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*none\.toml"):
        read_spec(tmp_path / "none.toml")


def test_overrides_replace_fixed_values_and_axes_in_every_block() -> None:
    spec = override(parse(TEXT), ["bits=4", "epochs=1,2", "seeds=1"])
    assert spec.fixed == {"data": "digits", "learning_rate": 1, "bits": "4"}
    assert spec.axes == {"quant": ["symmetric", "asymmetric"], "epochs": ["1", "2"]}
    assert spec.also[0].axes == {"storage": ["latent", "inplace"], "epochs": ["1", "2"]}
    assert spec.seeds == 1
    cells = expand(override(parse(TEXT), ["storage=latent", "epochs=1", "seed=5"])).cells
    assert [named(cell) for cell in cells] == [
        *((q, b, "latent", 5) for q in ("symmetric", "asymmetric") for b in (3, 2)),
        ("binary", 1, "latent", 5),
    ]


def test_wrong_overrides_are_refused_together() -> None:
    with pytest.raises(UsageError) as refused:
        override(StudySpec(name="x"), ["bits", "bit=3", "epochs=1", "epochs=2", "seeds=few"])
    for text in (
        "'bits' is not KEY=VALUE",
        "did you mean 'bits'?",
        "epochs is given twice",
        "seeds is few",
    ):
        assert text in str(refused.value)


def test_an_unknown_rule_is_told_with_the_other_faults() -> None:
    with pytest.raises(UsageError, match="2 faults") as caught:
        expand(parse('axes = { rule = ["hsci"], bits = [9] }\n[study]\nname = "x"'))
    assert "did you mean 'hsic'" in str(caught.value)
    assert "bits is 9" in str(caught.value)
