"""Document 000 again: its values as published, its grid, and a tiny run of it from end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import tersa.recipes.quantized_training as recipe
from tersa.data.sources import survey
from tersa.errors import UsageError
from tersa.recipes import published, published_table
from tersa.recipes.quantized_training import (
    BITS,
    MODELS,
    RULES,
    Reproduction,
    answer_of,
    pictured,
    reproduce,
    study_of,
    summary_page,
    warning_of,
)
from tersa.recipes.study import StudyResult
from tersa.recipes.study_compare import COLUMNS, compare, summarise, to_csv
from tersa.study.cell import Cell, CellResult
from tersa.study.pairing import finished
from tersa.study.spec import expand
from tersa.study.store import StudyStore

BP = Reproduction(rules=("bp",))
LEARNED_IN_ONE_EPOCH, COLLAPSED = 93.0, 15.0
"""A trial gave 96.0 % and 9.8 %."""


def found(name: str) -> bool:
    """The data set's files are on this machine."""
    return any(state.name == name and state.state == "found" for state in survey())


def as_published(rules: tuple[str, ...] = RULES, data: str = "mnist", off: float = 0.0) -> list[CellResult]:
    """The published values as if they were ours, all `off` by so many points."""
    return [
        finished(
            Cell(
                data=data,
                model=row.model,
                rule=row.rule,
                quant=row.quant,
                bits=row.bits,
                range=row.range,
                scaling=published.SCALING[data],
            ),
            row.accuracy + off,
        )
        for row in (*published.quantised(), *published.full_precision())
        if row.data == data and row.rule in rules
    ]


def test_every_published_cell_is_there_once() -> None:
    cells = published.quantised()
    assert len(cells) == len({(c.rule, c.model, c.quant, c.bits, c.range) for c in cells}) == 672
    assert {c.rule for c in cells} == set(RULES)
    assert {c.model for c in cells} == set(MODELS)
    assert {c.bits for c in cells} == set(BITS)
    assert all(0 < c.accuracy < 100 for c in cells)


@pytest.mark.parametrize(
    ("rule", "model", "quant", "bits", "range_", "accuracy"),
    [
        ("bp", "mlp:4", "asymmetric", 2, "layer", 13.41),
        ("bp", "mlp:100x100", "symmetric", 3, "layer", 31.91),
        ("bp", "mlp:100x100", "symmetric", 8, "global", 94.88),
        ("bp", "mlp:100x100", "symmetric", 2, "layer", 12.02),
    ],
)
def test_values_that_the_document_quotes(
    rule: str, model: str, quant: str, bits: int, range_: str, accuracy: float
) -> None:
    assert published.exact(Cell(rule=rule, model=model, quant=quant, bits=bits, range=range_)) == accuracy


def test_full_precision_tables() -> None:
    assert published.exact(Cell(model="mlp:20x20x20x20x20x20", rule="dni-document")) == 9.8
    fashion = Cell(data="fashion-mnist", scaling="unit", rule="hsic-document", model="mlp:4")
    assert published.exact(fashion) == 71.22
    assert len({(r.rule, r.model, r.data) for r in published.full_precision()}) == 48


def test_other_settings_have_no_exact_value() -> None:
    cell = Cell(quant="symmetric", bits=3)
    for change in ({"epochs": 10}, {"storage": "latent"}, {"batch": 128}, {"scaling": "unit"}, {"bits": 1}):
        assert published.exact(cell.model_copy(update=change)) is None
    assert published.beside(cell.model_copy(update={"storage": "latent"})) == 31.91


def test_every_file_says_where_it_is_from() -> None:
    for name in ("quantized_training_mnist.csv", "full_precision.csv", "weight_spread.csv"):
        assert published_table.source(name).startswith("Document 000")
    assert len(published.weight_spread()) == 6


def test_the_grid_is_the_document_s() -> None:
    cells = expand(study_of(BP)).cells
    assert len(cells) == 168 + 6
    assert all(published.exact(cell) is not None for cell in cells)
    assert {(c.optimizer, c.learning_rate, c.decay, c.batch, c.epochs, c.seed) for c in cells} == {
        ("adadelta", 1.0, 0.7, 64, 30, 1)
    }
    assert {(c.storage, c.rounding) for c in cells} == {("inplace", "nearest")}


def test_the_whole_grid_is_asked_for() -> None:
    spec = study_of(Reproduction())
    size = [len(values) for values in spec.axes.values()]
    assert size == [4, 6, 2, 2, 7]
    assert [len(values) for values in spec.also[0].axes.values()] == [4, 6]


def test_fashion_mnist_is_scaled_as_in_the_document() -> None:
    cells = expand(study_of(Reproduction(data="fashion-mnist", rules=("bp",)))).cells
    assert {cell.scaling for cell in cells} == {"unit"}
    assert sum(published.exact(cell) is not None for cell in cells) == 6


def test_32_bits_alone_are_the_networks_without_quantisation() -> None:
    cells = expand(study_of(Reproduction(data="fashion-mnist", bits=(32,)))).cells
    assert len(cells) == 24
    assert {cell.quant for cell in cells} == {"none"}
    beside = expand(study_of(Reproduction(bits=(32, 8), models=("1x4",), rules=("bp",)))).cells
    assert sorted((cell.quant, cell.bits) for cell in beside) == [
        ("asymmetric", 8), ("asymmetric", 8), ("none", 8), ("symmetric", 8), ("symmetric", 8),
    ]  # fmt: skip


def test_short_names_and_seeds() -> None:
    spec = study_of(Reproduction(rules=("fa",), models=("2x100",), bits=(3,), seeds=5))
    assert spec.axes["rule"] == ["fa-document"]
    assert spec.axes["model"] == ["mlp:100x100"]
    assert spec.seeds == 5


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Reproduction(rules=("hsci",)), "unknown rule 'hsci'"),
        (Reproduction(models=("lenet",)), "unknown model 'lenet'"),
        (Reproduction(bits=(1, 9)), "1 bits are not in the document"),
        (Reproduction(seeds=0), "give 1 or more"),
    ],
)
def test_what_the_document_does_not_have_is_refused(wanted: Reproduction, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study_of(wanted)


def test_equal_numbers_agree_wholly() -> None:
    rows = compare(as_published())
    assert len(rows) == 696
    overall = summarise(rows)[-1]
    assert (overall.name, overall.agreement, overall.gap, overall.off) == ("all", 1.0, 0.0, 0.0)
    assert overall.spearman == pytest.approx(1.0)


def test_a_shift_is_a_gap_and_ranks_stay() -> None:
    overall = summarise(compare(as_published(("bp",), off=-2.0)))[-1]
    assert overall.gap == pytest.approx(-2.0)
    assert overall.off == pytest.approx(2.0)
    assert overall.spearman == pytest.approx(1.0)
    assert overall.agreement < 1.0


def test_ranks_are_taken_over_what_learned() -> None:
    rows = compare(as_published(("bp",)))
    (bp, overall) = summarise(rows)
    few = [row for row in rows if row.cell.quant != "none"]
    assert bp.learned == sum(row.published >= 15 for row in few) < bp.cells
    assert overall.cells == bp.cells == 168


def test_the_csv_has_every_row() -> None:
    found = list(csv.reader(to_csv(compare(as_published(("bp",)))).splitlines()))
    assert tuple(found[0]) == COLUMNS
    assert len(found) == 175
    last = dict(zip(found[0], found[-1], strict=True))
    assert (last["quant"], last["bits"], last["range"], last["seeds"], last["gap"]) == (
        "none",
        "",
        "",
        "1",
        "0.00",
    )


def test_the_summary_says_what_was_asked_and_found() -> None:
    results = as_published(("bp", "fa-document"))
    rows = compare(results)
    summaries = summarise(rows)
    answer = answer_of(results, summaries, BP)
    text = summary_page(BP, results, rows, summaries, answer, "tersa reproduce quantized-training")
    assert (
        answer.headline
        == "100 % of 336 published quantised cells learn or collapse alike, and their ranks agree at 1.00"
    )
    assert "| 2x100 | 98.18 (98.18) | 97.04 (97.04) |" in text
    assert "### bp, symmetric, layer range" in text
    assert "31.91 (31.91)" in text
    assert "| H3: " in text


def test_a_shortened_trial_is_labelled_everywhere() -> None:
    quick = Reproduction(quick=True, rules=("bp",))
    results = as_published(("bp",))
    summaries = summarise(compare(results))
    assert warning_of(BP) == ""
    assert "3 epochs" in warning_of(quick)
    assert answer_of(results, summaries, quick).headline.startswith("A shortened trial, not the document's")
    assert Reproduction(epochs=2).shortened
    assert not Reproduction(epochs=30).shortened


def test_one_network_of_each_rule_is_looked_at() -> None:
    chosen = pictured(as_published(("bp", "fa-document")))
    assert [(c.rule, c.model, c.bits, c.quant, c.range) for c in chosen] == [
        ("bp", "mlp:100x100", 8, "symmetric", "layer"),
        ("fa-document", "mlp:100x100", 8, "symmetric", "layer"),
    ]


def test_from_grid_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training is replaced: results stand in the store as if it had run."""

    retried: list[bool] = []

    def run(spec: object, out: Path, *_: object, retry: bool, **__: object) -> StudyResult:
        retried.append(retry)
        with StudyStore(out / "study.db", write=True) as store:
            store.add(as_published(("bp",), off=0.5))
        return StudyResult(
            name="x", cells=174, done=174, diverged=0, failed=0, trained=174, earlier=0, trouble="",
            left_out=[], notes=[], artefacts=[], report="", seconds=1.0,
        )  # fmt: skip

    monkeypatch.setattr(recipe, "run_study", run)
    out = tmp_path / "study"
    out.mkdir()
    result, rows = reproduce(BP, out, pictures=False)
    assert len(rows) == 174
    assert result.spearman == pytest.approx(1.0)
    assert result.rules[-1].gap == pytest.approx(0.5)
    assert all(Path(name).is_file() for name in (*result.artefacts, result.report))
    assert "learn or collapse alike" in Path(result.report).read_text(encoding="utf-8")
    assert (out / "summary.md").read_text(encoding="utf-8").startswith("# Document 000 on mnist\n")
    reproduce(BP, out, pictures=False, resume=True)
    assert retried == [False, True]  # failed runs are trained again


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not found("mnist"), reason="no mnist in $TERSA_DATA")
def test_a_small_part_of_the_document_is_trained(tmp_path: Path) -> None:
    wanted = Reproduction(rules=("bp",), models=("2x100",), bits=(3, 8), epochs=1)
    result, rows = reproduce(wanted, tmp_path / "study", workers=1)
    ours = {(row.cell.quant, row.cell.range, row.cell.bits): row.ours.mean for row in rows}
    assert len(rows) == result.cells == 9
    assert ours["symmetric", "layer", 8] > LEARNED_IN_ONE_EPOCH
    assert ours["symmetric", "global", 3] < COLLAPSED
    assert "what activates it" in Path(result.report).read_text(encoding="utf-8")
    again, _ = reproduce(wanted, tmp_path / "study", workers=1, resume=True, pictures=False)
    assert again.spearman == result.spearman
