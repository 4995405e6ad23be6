"""Document 003's chapter 5 on this machine: the plan, its tables, the report, and a run that goes on."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.recipes.adaptation_example import result, timed

import tersa.recipes.adaptation as recipe
from tersa.adapt.measuring import Filled, wanted
from tersa.adapt.resource import Table as CostTable
from tersa.adapt.table import Machine
from tersa.errors import UsageError
from tersa.recipes import adaptation_stages
from tersa.recipes import published_adaptation as published
from tersa.recipes.adaptation import (
    AdaptationRequest,
    layer_points,
    plan_adaptation,
    run_adaptation,
    score_points,
)
from tersa.recipes.adaptation_plan import expected_seconds
from tersa.recipes.adaptation_report import answer, rows_csv, view_of, write_results
from tersa.recipes.adaptation_stages import Subject
from tersa.recipes.adaptation_tables import tables
from tersa.recipes.hardware_tables import Table, markdown
from tersa.records.base import read_record
from tersa.report.adaptation_page import render

FOUND = result()


def found(number: str) -> Table:
    return next(table for table in tables(FOUND.timed, FOUND.searched) if table.number == number)


def ours(number: str) -> dict[str, tuple[str, ...]]:
    return {line.cells[0]: line.cells[1:] for line in found(number).rows if not line.published}


@pytest.mark.slow
def test_the_time_of_a_plan_grows_with_its_work(tmp_path: Path) -> None:
    def seconds(*deltas: float) -> float:
        request = AdaptationRequest(
            networks=("mobilenet",), deltas=deltas, target="torch", table=str(tmp_path / "none.db")
        )
        return expected_seconds(plan_adaptation(request))

    one = min(seconds(0.05) for _ in range(3))  # an eighth of all steps; timed, on a busy machine
    assert 5.0 < one < seconds(0.01, 0.025, 0.05) < 36_000.0


def test_every_row_has_a_cell_for_every_column() -> None:
    for table in tables(FOUND.timed, FOUND.searched):
        assert {len(line.cells) for line in table.rows} == {len(table.columns)}, table.number
        assert "?" in table.title


def test_every_published_value_is_shown() -> None:
    shown = {
        number: [line.cells[1:] for line in found(number).rows if line.published]
        for number in ("5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7", "5.8")
    }
    assert len(shown["5.1"]) == len(published.originals())
    for number in ("5.2", "5.3", "5.4", "5.5"):
        own = [row for row in published.totals() if row.table == number]
        assert [cells[2] for cells in shown[number]] == [f"{row.speedup:g}×" for row in own]
    for number in ("5.6", "5.7", "5.8"):
        own = [row for row in published.blocks() if row.table == number]
        assert [float(cells[0].replace(",", "")) for cells in shown[number]] == [
            row.original_s for row in own
        ]


def test_measurements_stand_in_their_columns() -> None:
    assert ours("5.1")["AlexNet 32x32"] == ("0.05", "1,440", "10", "144")
    assert ours("5.3")["32x32, delta 0.05"] == ("24.0", "7.5", "3.2×")
    assert ours("5.6")["32x32, delta 0.05, block 1"] == ("80", "0.500", "0.500", "0.500")
    assert ours("figure 5.6") == {"linear search": ("24", "10"), "bisection, threshold 1": ("24", "5")}
    assert ours("figure 5.15")["AlexNet, H30 naswot"] == ("1.0", "80.50 %", "81.00 %", "2.0×", "2")
    whole = timed()
    assert whole.hybrid() == pytest.approx(10 * (1.0 + 1.0) + 3 * 44.0)
    assert ours("figure 5.14")["AlexNet 32x32, delta 0.05: H30 with NAS-WOT, search in memory"] == ("9.5×",)


def test_the_answer_is_told_beside_the_documents() -> None:
    verdict, detail = answer(FOUND.timed)
    assert "AlexNet 9.5×" in verdict
    assert "37× in the document" in verdict
    assert "the original would take 24 min 0 s in 10 steps here" in detail
    assert "the search for widths alone is 100× as fast" in detail
    assert answer([]) == ("No network was measured", "")


def test_rows_and_page(tmp_path: Path) -> None:
    read = list(csv.DictReader(rows_csv(FOUND).splitlines()))
    assert len(read) == 8
    assert (read[1]["network"], read[1]["block"], read[1]["original_s"], read[1]["ours_s"]) == (
        *("alexnet", "1", "100", "0.5"),
    )
    page = render(view_of(FOUND))
    for text in ("Table 5.1", "Table 5.8", "Figure 5.3", "Figure 5.8", "Figure 5.14", "37×"):
        assert text in page
    assert "<i>features" not in page
    assert page.count('class="theirs"') == sum(
        line.published for table in tables(FOUND.timed, FOUND.searched) for line in table.rows
    )
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    written = write_results(FOUND, tmp_path)
    assert Path(written.report).is_file()
    assert [Path(path).is_file() for path in written.artefacts] == [True, True]
    assert "*37×*" in markdown(tables(FOUND.timed, FOUND.searched))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"networks": ("alexnett",)}, "did you mean 'alexnet'"),
        ({"deltas": (0.6,)}, "--delta 0.6: a step takes off more than 0"),
        ({"iterations": 0}, "whole numbers above 0"),
        ({"target": "tensorflow"}, "unknown target 'tensorflow'"),
    ],
)
def test_faults_of_a_request(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_adaptation(AdaptationRequest.model_validate(asked))


def test_modes_differ_in_networks_deltas_and_searches() -> None:
    quick, full = (plan_adaptation(AdaptationRequest(mode=mode)) for mode in ("quick", "full"))
    assert (quick.networks, quick.deltas, quick.searches) == (("alexnet", "mobilenet"), (0.05,), [])
    assert full.deltas == published.DELTAS
    assert len(full.searches) == 3 * 5
    assert plan_adaptation(AdaptationRequest(networks=("vgg19", "alexnet"))).networks == ("alexnet", "vgg19")


class ByMacs(CostTable):
    """A table that knows every layer."""

    def of(self, family, inputs, outputs):  # type: ignore[no-untyped-def]
        from tersa.adapt.resource import Macs

        return Macs().of(family, inputs, outputs)


def test_a_run_stores_its_parts_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[str] = []

    def table(name: str, *_: object) -> tuple[CostTable, Filled]:
        filled.append(name)
        return ByMacs({}), Filled(Machine("m", "one"), 1, 0, 0.0)

    monkeypatch.setattr(recipe, "measured_table", table)
    monkeypatch.setattr(adaptation_stages, "work_seconds", lambda *_: (0.01, 0.002, 0.5))
    monkeypatch.setattr(recipe, "SPECS", {"alexnet": "lenet:8-16-64"})
    request = AdaptationRequest(networks=("alexnet",), target="torch@threads=1")
    said: list[str] = []
    made = run_adaptation(
        plan_adaptation(request), tmp_path / "a", say=lambda task, *_: said.append(task), command="tersa x"
    )
    assert set(said) == {"stages", "scores"}
    [one] = made.timed
    assert (one.network, one.measured) == ("alexnet", 2)
    assert {row.kind for row in made.layers} == {"conv", "linear"}
    assert max(row.step for row in made.scores) == one.steps
    assert all(sum(row.chosen for row in made.scores if row.step == n + 1) == 1 for n in range(one.steps))
    assert read_record(tmp_path / "a" / "result.json", type(made)) == made
    with pytest.raises(UsageError, match="--resume goes on"):
        run_adaptation(plan_adaptation(request), tmp_path / "a")
    again = run_adaptation(plan_adaptation(request), tmp_path / "a", resume=True)
    assert again.timed == made.timed
    assert filled == ["lenet:8-16-64"], "everything was read"
    subject = Subject.of("lenet:8-16-64", (3, 32, 32), 10, ByMacs({}))
    assert len(subject.anatomy.groups) == 3


def test_figures_of_layers_have_measured_points_alone() -> None:
    """Of a table that holds what is measured for this network, and nothing between."""
    empty = Subject.of("lenet:24-56-100", (3, 32, 32), 10, ByMacs({}))
    points: dict[str, dict[tuple[int, int], float]] = {}
    for each in wanted(empty.anatomy):
        points.setdefault(each.family.key(), {})[each.inputs, each.outputs] = 1.0
    table = CostTable(points)
    subject = Subject.of("lenet:24-56-100", (3, 32, 32), 10, table)
    rows = layer_points(subject, table)
    kinds = {row.kind: row.layer for row in rows}
    families = {layer.family.text(): layer.family for layer in subject.anatomy.layers}
    assert set(kinds) == {"conv", "linear"}
    for row in rows:
        assert table.of(families[row.layer], row.inputs, row.outputs).exact
    for kind, most in (("conv", 56), ("linear", 100)):
        own = [row for row in rows if row.kind == kind]
        assert len({row.inputs for row in own}) == 3
        assert max(row.outputs for row in own) == most
    assert sorted({row.inputs for row in rows if row.kind == "conv"}) == [4, 12, 24]


def test_candidates_that_a_score_gives_no_number_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subject = Subject.of("lenet:16-32-128", (1, 8, 8), 10, ByMacs({}))
    whole = score_points(subject, "alexnet", 0.2, 2, lambda *_: None)
    scores = [-math.inf, math.nan, *range(len(whole))]
    monkeypatch.setitem(recipe.PROXIES, "synflow", SimpleNamespace(score=lambda *_: float(scores.pop(0))))
    found = score_points(subject, "alexnet", 0.2, 2, lambda *_: None)
    assert [(row.step, row.block) for row in found] == [(row.step, row.block) for row in whole[2:]]
    assert "step 1, block 0: synflow -inf; left out" in caplog.text
