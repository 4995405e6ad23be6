"""From results to what the page shows: lines, panels, answers, tests, and files beside a study."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tersa.errors import DataError
from tersa.recipes import published
from tersa.recipes.study_curves import MOST_PANELS, epoch_panels
from tersa.recipes.study_layout import layout_of
from tersa.recipes.study_report import COSTS, PICTURES, StudyCost, read_rows, view_of, write_study_report
from tersa.recipes.study_verdict import verdict
from tersa.study.cell import Cell, CellEpoch, CellResult, LayerState
from tersa.study.pairing import finished
from tersa.study.store import StudyStore


def trained(accuracy: float, epochs: int = 3, **fields: Any) -> CellResult:
    """A result with epochs and layers."""
    cell = Cell(**fields)
    done = finished(cell, accuracy)
    rows = [
        CellEpoch(
            epoch=e,
            phase="train",
            train_loss=1.0 / e,
            train_accuracy=None,
            test_accuracy=accuracy * e / epochs,
            learning_rate=0.7**e,
        )
        for e in range(1, epochs + 1)
    ]
    layers = [
        LayerState(
            epoch=e, layer=name, tensor="weight", low=-float(e), high=2.0 * e, mean=0.0, variance=e / 4
        )
        for e in range(1, epochs + 1)
        for name in ("fc1", "fc2")
    ]
    return done.model_copy(update={"epochs": rows, "layers": layers, "seconds": 2.0})


def grid(**fields: Any) -> list[CellResult]:
    return [
        trained(30.0 + 8 * bits - 20 * (range_ == "global") + 0.1 * seed, bits=bits, range=range_, seed=seed,
                quant=quant, **fields)
        for quant in ("asymmetric", "symmetric")
        for range_ in ("global", "layer")
        for bits in (2, 4, 8)
        for seed in (1, 2, 3)
    ]  # fmt: skip


def test_ranges_are_colours_and_quantisers_dashes() -> None:
    view = view_of(grid(), "x")
    assert view.styles == (
        (0, "layer range, symmetric"),
        (1, "layer range, asymmetric"),
        (2, "global range, symmetric"),
        (3, "global range, asymmetric"),
    )
    (group,) = view.groups
    (panel,) = group.panels
    assert [line.style for line in panel.lines] == [0, 1, 2, 3]
    point = panel.lines[0].points[-1]
    assert (point.bits, point.spread is not None and point.spread.count) == (8, 3)


def test_rules_are_groups_and_networks_panels() -> None:
    rows = [*grid(), *grid(rule="fa"), *grid(model="mlp:50x50")]
    view = view_of(rows, "x")
    assert [group.title for group in view.groups] == ["bp", "fa"]
    assert [panel.title for panel in view.groups[0].panels] == ["2x100", "2x50"]


def test_published_values_stand_beside_their_line() -> None:
    (panel,) = view_of(grid(), "x").groups[0].panels
    beside = dict(panel.lines[0].published)
    assert beside == {2: 12.02, 4: 84.58, 8: 97.41}


def test_full_precision_is_the_panel_s_reference() -> None:
    (panel,) = view_of([*grid(), trained(98.0)], "x").groups[0].panels
    assert panel.reference == 98.0
    assert view_of([*grid(), trained(98.0)], "x").ranked[0].label == "bp, not quantised"


def test_storage_makes_lines_and_extra_bits_of_none_are_not_said() -> None:
    rows = [
        trained(90.0 + bits, quant="symmetric", bits=bits, storage=storage, extra_bits=extra)
        for storage, extra in (("inplace", 0), ("latent", 0), ("accumulate", 4))
        for bits in (2, 3)
    ]
    assert {label for _, label in view_of(rows, "x").styles} == {
        "inplace",
        "latent",
        "accumulate, 4 extra bits",
    }


def test_more_lines_than_can_be_told_apart_become_panels() -> None:
    rows = [
        trained(90.0, quant="symmetric", bits=bits, range=range_, rounding=rounding, storage=storage)
        for bits in (2, 3)
        for range_ in ("layer", "channel")
        for rounding in ("nearest", "stochastic")
        for storage in ("inplace", "latent", "after")
    ]
    view = view_of(rows, "x")
    panels = [panel for group in view.groups for panel in group.panels]
    assert len(panels) == 3
    assert all(len(panel.lines) == 4 for panel in panels)


def test_without_bits_there_is_no_curve_but_a_ranking() -> None:
    view = view_of([trained(97.0), trained(96.0, rule="fa")], "x")
    assert view.groups == ()
    assert [row.label for row in view.ranked] == ["bp", "fa"] or [row.label for row in view.ranked] == [
        "bp, not quantised",
        "fa, not quantised",
    ]
    assert view.verdict == "Backpropagation reaches 97.0 %, feedback alignment reaches 96.0 %"


def test_nothing_at_all() -> None:
    view = view_of([], "x")
    assert view.verdict == "No run has ended yet"
    assert view.ranked == ()


def test_failed_and_diverged_runs_are_listed_and_drawn() -> None:
    rows = grid()
    rows[0] = rows[0].model_copy(
        update={"status": "failed", "test_accuracy": None, "message": "Traceback\nMemoryError: no room"}
    )
    rows[1] = rows[1].model_copy(update={"status": "diverged", "test_accuracy": math.nan})
    view = view_of(rows, "x")
    assert [(t.status, t.message) for t in view.troubles] == [
        ("failed", "MemoryError: no room"),
        ("diverged", "no message"),
    ]
    broken = view.groups[0].panels[0].lines[3].points[0]
    assert broken.diverged == 2
    assert broken.spread is not None
    assert broken.spread.count == 1
    assert view.tiles[0].note == "1 diverged, 1 failed"


def test_paired_tests_are_corrected_and_ordered() -> None:
    view = view_of(grid(), "x")
    assert [(e.field, e.first, e.second) for e in view.effects] == [
        ("quantiser", "asymmetric", "symmetric"),
        ("range", "global", "layer"),
        ("bits", "2", "4"),
        ("bits", "2", "8"),
        ("bits", "4", "8"),
    ]
    assert view.effects[1].difference == pytest.approx(20.0)
    assert view.effects[0].p == 1.0


def test_runs_without_quantisation_are_tested_too() -> None:
    """Some of them beside quantised ones, or nothing but them."""
    plain = [
        trained(90.0 + rate + 0.1 * math.sin(seed), learning_rate=rate, seed=seed)
        for rate in (0.5, 1.0)
        for seed in (1, 2, 3)
    ]
    (effect,) = view_of(plain, "x").effects
    assert (effect.field, effect.pairs, effect.p < 0.05) == ("learning rate", 3, True)
    rates = [each for each in view_of([*plain, *grid()], "x").effects if each.field == "learning rate"]
    assert [each.pairs for each in rates] == [3]


def test_a_single_pair_is_no_test_and_is_not_corrected_for() -> None:
    rows = [
        trained(90.0 + batch / 64 + 0.1 * math.sin(seed * batch), batch=batch, seed=seed)
        for batch in (32, 64)
        for seed in (1, 2, 3)
    ]
    (alone,) = view_of(rows, "x").effects
    found = {each.field: each for each in view_of([*rows, trained(80.0, rule="fa", seed=1)], "x").effects}
    assert (found["rule"].test, found["rule"].p, found["rule"].pairs) == ("none", 1.0, 1)
    assert found["batch"].p == alone.p < 0.05


def test_networks_are_compared_where_width_or_depth_alone_differs() -> None:
    rows = [
        row
        for model in ("mlp:50x50", "mlp:100x100", "mlp:50x50x50", "mlp:100x100x100")
        for row in grid(model=model)
    ]
    found = [(e.first, e.second) for e in view_of(rows, "x").effects if e.field == "network"]
    assert set(found) == {("2x50", "2x100"), ("3x50", "3x100"), ("2x50", "3x50"), ("2x100", "3x100")}


def test_heat_maps_have_a_row_per_rule_and_float32_at_the_end() -> None:
    rows = [*grid(), *grid(rule="fa"), trained(98.0)]
    maps = view_of(rows, "x").maps
    assert [chart.title for chart in maps] == [
        "layer range, symmetric",
        "global range, symmetric",
        "layer range, asymmetric",
        "global range, asymmetric",
    ]
    assert maps[0].columns == ("2 bits", "4 bits", "8 bits", "float32")
    assert [name for name, _ in maps[0].rows] == ["bp", "fa"]
    assert maps[0].rows[0][1][-1] == 98.0
    assert maps[0].rows[1][1][-1] is None


def test_training_curves_and_weight_ranges() -> None:
    view = view_of(grid(), "x")
    assert len(view.epochs) == 4
    assert [curve.label for curve in view.epochs[0].curves] == ["2", "4", "8"]
    assert len(view.epochs[0].curves[0].values) == 3
    assert [reach.label for reach in view.reaches[0].layers] == ["fc1", "fc2"]
    assert view.reaches[0].layers[0].low == (-1.0, -2.0, -3.0)


def turned(result: CellResult, *degrees: tuple[float | None, ...]) -> CellResult:
    """A result with the given angle of each layer after each epoch."""
    every = [angle for after in degrees for angle in after]
    layers = [state.model_copy(update={"angle": a}) for state, a in zip(result.layers, every, strict=True)]
    return result.model_copy(update={"layers": layers})


def test_angles_are_means_over_the_seeds_of_most_bits() -> None:
    fa: dict[str, Any] = {"rule": "fa", "quant": "symmetric"}
    rows = [
        *grid(),
        turned(trained(90.0, 2, bits=8, seed=1, **fa), (80.0, None), (60.0, 10.0)),
        turned(trained(90.0, 2, bits=8, seed=2, **fa), (90.0, None), (64.0, 14.0)),
        turned(trained(20.0, 2, bits=2, seed=1, **fa), (120.0, 120.0), (130.0, 130.0)),
        turned(trained(98.0, 2, rule="fa"), (5.0, 5.0), (5.0, 5.0)),
    ]
    (panel,) = view_of(rows, "x").angles
    assert panel.title == "fa 2x100, layer range, symmetric, 8 bits"
    assert [layer.label for layer in panel.layers] == ["fc1", "fc2"]
    assert [layer.epochs for layer in panel.layers] == [(1, 2), (2,)]
    assert [layer.degrees for layer in panel.layers] == [(85.0, 62.0), (12.0,)]


def test_without_bits_angles_are_those_of_unquantised_runs() -> None:
    rows = [trained(97.0, 1), turned(trained(96.0, 1, rule="fa"), (70.0, 0.0))]
    (panel,) = view_of(rows, "x").angles
    assert panel.title == "fa 2x100, not quantised"
    assert view_of(grid(), "x").angles == ()


def test_of_too_many_networks_one_stands_for_each_rule() -> None:
    models = [f"mlp:{width}" for width in range(10, 10 + MOST_PANELS)]
    rows = [turned(trained(50.0 + n, 1, rule="fa", model=m), (70.0, 0.0)) for n, m in enumerate(models)]
    assert len(view_of(rows, "x").angles) == MOST_PANELS
    more = turned(trained(99.0, 1, rule="dfa", model="mlp:10"), (70.0, 0.0))
    found = [panel.title for panel in view_of([*rows, more], "x").angles]
    assert found == [f"fa 1x{9 + MOST_PANELS}, not quantised", "dfa 1x10, not quantised"]


def test_accuracies_are_those_of_the_split_that_all_are_judged_on() -> None:
    mixed = [*grid(), *grid(judged_on="validation")]
    assert [view_of(rows, "x").accuracies for rows in (mixed[:36], mixed[36:], mixed)] == [
        "test accuracy",
        "validation accuracy",
        "accuracy",
    ]
    assert ("judged on", "validation") in view_of(mixed[36:], "x").facts
    assert "judged on" not in {effect.field for effect in view_of(mixed, "x").effects}


def test_single_panels_of_groups_stand_side_by_side() -> None:
    rows = [*grid(), *grid(rule="fa", model="mlp:50x50")]
    (group,) = view_of(rows, "x").groups
    assert [panel.title for panel in group.panels] == ["bp 2x100", "fa 2x50"]


def test_the_document_s_tables_of_weights() -> None:
    rows = [
        trained(80.0, rule="bp", model="mlp:4", quant="symmetric", bits=bits, range=range_)
        for bits in (6, 7)
        for range_ in ("global", "layer")
    ]
    rows = [r.model_copy(update={"cell": r.cell.model_copy(update={"rule": "hsic-document"})}) for r in rows]
    found = {(row.label, row.bits): row for row in view_of(rows, "x").weights}
    row = found["hsic-document 1x4, global range", 6]
    assert row.variance == (0.25, 0.75)
    assert row.weight == (-3.0, 6.0)
    assert row.published == (0.1061, 0.7506, -1.0, 1.0)
    assert found["hsic-document 1x4, layer range", 7].published == (
        4331.5791,
        9098.9863,
        -1002.5652,
        1239.855,
    )


def answer(*cells: tuple[dict[str, Any], float]) -> str:
    return verdict([finished(Cell(**fields), accuracy) for fields, accuracy in cells]).headline


def test_the_answer_in_words() -> None:
    def at(rule: str, bits: int, accuracy: float) -> tuple[dict[str, Any], float]:
        return {"rule": rule, "quant": "symmetric", "bits": bits}, accuracy

    floats = [({"rule": rule}, 97.0) for rule in ("bp", "fa", "hsic")] + [({"rule": "dni"}, 14.0)]
    cells = [
        *(at("bp", bits, a) for bits, a in ((2, 12.0), (3, 96.0), (8, 97.0))),
        *(at("fa", bits, a) for bits, a in ((2, 12.0), (3, 95.1), (8, 96.0))),
        *(at("hsic", bits, a) for bits, a in ((2, 9.0), (3, 10.0), (8, 80.0))),
        *(at("dni", bits, 10.0) for bits in (2, 3, 8)),
    ]
    assert answer(*floats, *cells) == (
        "3 bits are enough for backpropagation and feedback alignment, not even 8 for HSIC, "
        "synthetic gradients falls far behind"
    )


def test_one_bit_is_singular() -> None:
    cells = [({"quant": "binary", "bits": 1}, 96.5), ({"quant": "symmetric", "bits": 2}, 97.0), ({}, 98.0)]
    assert answer(*cells) == "1 bit is enough for backpropagation"


def test_two_data_sets_have_two_answers() -> None:
    assert answer(({}, 98.0), ({"data": "fashion-mnist"}, 88.0)) == (
        "mnist: Backpropagation reaches 98.0 %; fashion-mnist: Backpropagation reaches 88.0 %"
    )


def test_a_report_from_a_store_with_what_lies_beside_it(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "study.db", write=True) as store:
        store.enter([row.cell for row in grid()])
        store.add(grid())
    row = {"rule": "bp", "microseconds_per_update": 310.0, "macs_per_update": 2e7, "order": "O(n^5)"}
    (tmp_path / COSTS).write_text(json.dumps([row]))
    picture = {"title": "bp: what activates it", "text": "Averages.", "png": "aGk=", "width": 2, "height": 1}
    (tmp_path / PICTURES).write_text(json.dumps([picture]))
    path = write_study_report(tmp_path, name="demo", command="tersa study run demo.toml")
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    for words in ("O(n^5)", "bp: what activates it", "tersa study run demo.toml", "layer range, symmetric"):
        assert words in text


@pytest.mark.parametrize("text", ["{", '{"rule": "bp"}', '[{"rule": "bp"}]'])
def test_files_beside_a_study_are_checked(tmp_path: Path, text: str) -> None:
    (tmp_path / COSTS).write_text(text)
    with pytest.raises(DataError, match="StudyCost"):
        read_rows(tmp_path / COSTS, StudyCost)


def test_published_points_are_those_of_the_rule_s_family() -> None:
    cell = Cell(rule="fa", model="mlp:100x100", quant="symmetric", bits=8)
    assert (
        published.beside(cell) == published.beside(cell.model_copy(update={"rule": "fa-document"})) == 95.47
    )
    assert published.exact(cell) is None


def test_a_diverged_run_keeps_its_accuracy_in_the_curves() -> None:
    """Three epochs of two runs, and one of a third that diverged: the curve still has three."""
    rows = [trained(60.0 + seed, bits=4, quant="symmetric", seed=seed) for seed in (1, 2, 3)]
    rows[2] = rows[2].model_copy(update={"status": "diverged", "epochs": rows[2].epochs[:1]})
    (panel,) = epoch_panels(rows, layout_of(rows))
    every = [[epoch.test_accuracy for epoch in row.epochs] for row in rows]
    assert len(every[0]) > 2
    wanted = [(a + b + every[2][0]) / 3 for a, b in zip(every[0], every[1], strict=True)]
    assert panel.curves[0].values == pytest.approx(wanted)
