"""Rows say what the record says, in words that are true for better, same and worse."""

from __future__ import annotations

import pytest
from example import comparison, example, figures

from tersa.records.results import Goal, LayerWidth
from tersa.report import tables
from tersa.report.tables import NOT_MEASURED, NOT_OFFERED

NAMES = ["Accuracy", "Parameters", "MACs", "File", "Latency"]


def row(result, label: str) -> tables.BeforeAfterRow:
    return next(each for each in tables.before_after_rows(result) if each.label == label)


def test_the_five_figures_in_order() -> None:
    rows = tables.before_after_rows(example())
    assert [each.label for each in rows] == NAMES
    assert [each.change for each in rows] == [
        "−0.21 points",
        "312× fewer",
        "34× fewer",
        "949× smaller",
        "6.1× faster",
    ]
    assert [each.tone for each in rows] == ["worse", "better", "better", "better", "better"]
    assert rows[2].after == "0.40 M"
    assert rows[1].left == pytest.approx(10_512 / 3_274_634)


def test_slower_no_difference_and_not_compared() -> None:
    assert row(example(speedup=0.8), "Latency").change == "1.25× slower"
    assert row(example(speedup=0.8), "Latency").tone == "worse"
    assert row(example(speedup=1.0), "Latency").change == "no difference"
    assert row(example(comparisons=[]), "Latency").change == "not compared"


def test_bigger_and_equal_are_said() -> None:
    result = example()
    bigger = result.model_copy(
        update={"result": figures(99.0, 4_000_000, 13_900_000, 13_000_000, 0.1, "fp32")}
    )
    assert row(bigger, "Parameters").change == "1.22× more"
    assert row(bigger, "Parameters").tone == "worse"
    assert row(bigger, "MACs").change == "the same"
    assert row(bigger, "File").change == "about the same"


def test_nothing_left_does_not_divide_by_zero() -> None:
    empty = figures(10.0, 0, 0, 0, 0.0, "fp32")
    rows = tables.before_after_rows(example(baseline=empty, result=empty, comparisons=[]))
    assert [each.left for each in rows] == [1.0] * 5


@pytest.mark.parametrize(
    ("uses", "change", "tone"),
    [(1.0, "4.0× less", "better"), (4.1, "about the same", "same"), (8.0, "2.0× more", "worse")],
)
def test_a_measured_energy_has_a_row(uses: float, change: str, tone: str) -> None:
    """And stands nowhere else: five rows are all where none was asked for."""
    before, after = (
        example().result.model_copy(update={"energy_mj": mj, "energy_by": "package-0"}) for mj in (4.0, uses)
    )
    rows = tables.before_after_rows(example(baseline=before, result=after))
    assert [each.label for each in rows] == [*NAMES, "Energy, measured"]
    assert (rows[-1].before, rows[-1].change, rows[-1].tone) == ("4.00 mJ", change, tone)
    assert rows[-1].left == pytest.approx(uses / 4.0)


def test_goals_met_and_missed() -> None:
    met, missed = tables.goal_rows(example(missed=True))
    assert (met.status, met.asked, met.reached) == ("met", "0.24 points", "0.21 points")
    assert (missed.status, missed.asked, missed.reached) == ("missed", "0.206 ms", "0.293 ms")
    assert missed.reason
    assert not met.reason


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("points", "0.50 points"),
        ("%", "0.50 %"),
        ("ms", "0.500 ms"),
        ("bytes", "0.50 B"),
        ("MACs", "0.50 MACs"),
        ("mJ", "0.500 mJ"),
        ("J", "0.50 J"),
    ],
)
def test_goal_units(unit: str, text: str) -> None:
    goal = Goal(name="any", asked=0.5, reached=0.5, unit=unit, met=True, text="")
    assert tables.goal_value(goal, 0.5) == text


def test_comparison_rows_say_every_verdict() -> None:
    rows = tables.comparison_rows(example())
    assert [each.verdict for each in rows] == [
        "6.1× faster", "4.9× faster", "4.8× faster", "no difference", "1.35× slower", NOT_OFFERED,
    ]  # fmt: skip
    assert rows[0].interval == "5.8× to 6.4×"
    assert rows[4].interval == "1.29× to 1.42×"
    assert (rows[5].before, rows[5].after, rows[5].interval) == (NOT_MEASURED, NOT_MEASURED, "")
    assert rows[5].reason


def test_slower_interval_holds_its_factor() -> None:
    (found,) = tables.comparison_rows(example(comparisons=[comparison("torch", "fp32", 1.0, 0.5)]))
    low, high = (float(text.rstrip("×")) for text in found.interval.split(" to "))
    assert found.verdict == "2.0× slower"
    assert low < 2.0 < high


def test_a_measured_verdict_without_numbers_is_still_said() -> None:
    bare = comparison("torch", "fp32", 1.0, 2.0).model_copy(
        update={"speedup": None, "low": None, "high": None}
    )
    assert tables.comparison_rows(example(comparisons=[bare]))[0].verdict == "faster"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("onnxruntime", ("ONNX Runtime", "")),
        ("openvino@threads=2", ("OpenVINO", "threads=2")),
        ("torch-compile", ("torch compiled", "")),
        ("ssh://pi/onnxruntime@threads=4", ("ONNX Runtime on pi", "threads=4")),
        ("own", ("own", "")),
    ],
)
def test_target_names(target: str, name: tuple[str, str]) -> None:
    assert tables.target_name(target) == name


def test_main_comparison_is_of_the_goal_target_and_the_result_precision() -> None:
    result = example()
    assert tables.main_comparison(result) is result.comparisons[0]
    other = result.model_copy(update={"target": "openvino@threads=9"})
    assert tables.main_comparison(other) is None


def test_layers_with_their_share_of_what_is_left() -> None:
    rows = tables.layer_rows(example())
    assert [each.kept for each in rows] == ["5 of 32", "12 of 64", "16 of 1,024", "10 of 10"]
    assert rows[2].parameters == "3.21 M → 9.42 k"
    assert rows[2].parameter_share == "84 %"
    assert rows[3].mac_share == "under 0.1 %"


def test_key_steps_tell_the_way() -> None:
    result = example(steps=41)
    stages = [(step.index, step.stage) for step in tables.key_steps(result)]
    assert stages == [(0, "baseline"), (33, "prune"), (41, "prune"), (42, "distil"), (43, "quantise")]
    kept = tables.kept_step(result)
    assert kept is not None
    assert kept.index == 43
    pruned = tables.pruned_step(result)
    assert pruned is not None
    assert pruned.index == 33


def test_key_steps_without_a_kept_one() -> None:
    steps = [step.model_copy(update={"kept": False}) for step in example(steps=5).steps]
    result = example().model_copy(update={"steps": steps})
    assert tables.kept_step(result) is None
    assert tables.pruned_step(result) is None
    assert [step.index for step in tables.key_steps(result)] == [0, 5, 6, 7]


def test_step_rows() -> None:
    result = example(steps=5)
    rows = tables.step_rows(result.steps)
    assert rows[0].loss == "–"
    assert rows[1].loss.endswith("± 0.04")
    assert (rows[0].size, rows[-1].size) == ("13.1 MB", "13.8 kB")
    assert rows[1].latency == ""
    unknown = result.steps[1].model_copy(update={"size_bytes": None})
    assert tables.step_rows([unknown])[0].size == ""
    assert (rows[-1].size, rows[-1].latency, rows[-1].kept) == ("13.8 kB", "0.067", True)


def test_settings_and_environment() -> None:
    values = [tables.setting(each) for each in (True, False, 0.001, 10_000, 3, "taylor")]
    assert values == ["yes", "no", "0.001", "10,000", "3", "taylor"]
    names = dict(tables.environment_rows(example()))
    assert names["processor"] == "Invented CPU 3000, 2 cores"
    assert "commit" not in names


@pytest.mark.parametrize(
    ("kind", "unit"), [("Linear", "neurons"), ("Conv2d", "channels"), ("conv", "channels")]
)
def test_layer_units(kind: str, unit: str) -> None:
    layer = LayerWidth(
        name="a",
        kind=kind,
        before=2,
        after=1,
        parameters_before=2,
        parameters_after=1,
        macs_before=2,
        macs_after=1,
    )
    assert tables.layer_unit(layer) == unit
