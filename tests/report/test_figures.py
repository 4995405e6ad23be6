"""Each chart draws every value it was given, in its place, and says so in words."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from example import CIFAR, comparison, confusion_of, example
from markupsafe import Markup

from tersa.records.results import Goal, ShrinkResult
from tersa.report import axes, confusion, curve, latency, layers, words


def read(drawing: Markup) -> ET.Element:
    return ET.fromstring(str(drawing))


def marks(drawing: Markup) -> list[tuple[float, float]]:
    pairs = read(drawing).get("data-marks", "").split()
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]


def without_sizes(result: ShrinkResult, keep: tuple[int, ...]) -> ShrinkResult:
    """The same result with the file sizes of some steps only."""
    steps = [
        step if step.index in keep else step.model_copy(update={"size_bytes": None}) for step in result.steps
    ]
    return result.model_copy(update={"steps": steps})


def texts(drawing: Markup) -> list[str]:
    return [each.text or "" for each in read(drawing).iter("text")]


@pytest.mark.parametrize("size", curve.SIZES)
@pytest.mark.parametrize("axis", axes.AXES)
def test_curve_has_a_mark_for_every_step_inside_the_drawing(axis: axes.Axis, size: str) -> None:
    result = example()
    drawn = curve.curve(result, axis, size)
    found = marks(drawn)
    width, height = curve.SIZES[size]
    assert len(found) == len(result.steps) == len(curve.step_texts(result))
    assert all(0 <= x <= width and 0 <= y <= height for x, y in found)
    assert read(drawn).get("class") == f"chart only-{size}"


def test_fewer_parameters_lie_to_the_right_and_more_accuracy_above() -> None:
    result = example(steps=10)
    frame = curve.frame_of(result, "parameters", 900, 400)
    first, last = result.steps[0], result.steps[8]
    assert frame.at(first)[0] < frame.at(last)[0]
    worse = first.model_copy(update={"validation_accuracy": first.validation_accuracy - 0.1})
    assert frame.at(worse)[1] > frame.at(first)[1]


def test_the_floor_is_the_stricter_goal() -> None:
    result = example()
    start = result.steps[0].validation_accuracy
    assert curve.floor(result) == pytest.approx(start - 0.24)
    strict = Goal(name="min-accuracy", asked=99.2, reached=99.3, unit="%", met=True, text="keep 99.2 %")
    assert curve.floor(example(goals=[*result.goals, strict])) == 99.2
    assert curve.floor(example(goals=[])) is None


def test_without_an_accuracy_goal_no_floor_is_drawn() -> None:
    assert 'class="floor"' in curve.curve(example(), "parameters", "wide")
    assert 'class="floor"' not in curve.curve(example(goals=[]), "parameters", "wide")


def test_steps_far_below_the_floor_are_kept_at_the_edge_and_counted() -> None:
    result = example()
    low, _ = curve.shown_range(result)
    below = [step for step in result.steps if step.validation_accuracy < low]
    drawn = curve.curve(result, "parameters", "wide")
    assert below
    assert f"▾ {len(below)} steps down to 96.77 %" in texts(drawn)
    assert 'class="below"' in drawn


def test_the_kept_network_and_the_baseline_are_named() -> None:
    found = texts(curve.curve(example(), "parameters", "wide"))
    assert "kept: 10.5 k parameters, 99.15 %" in found
    assert "baseline 99.30 %" in found
    assert "parameters (log scale), fewer to the right →" in found


def test_many_steps_are_a_line_without_dots() -> None:
    assert 'class="dots"' in curve.curve(example(steps=40), "macs", "wide")
    assert 'class="dots"' not in curve.curve(example(steps=400), "macs", "wide")


def test_curve_of_a_baseline_alone_and_of_nothing() -> None:
    only = example().steps[:1]
    assert len(marks(curve.curve(example().model_copy(update={"steps": only}), "macs", "narrow"))) == 1
    assert curve.curve(example().model_copy(update={"steps": []}), "macs", "narrow") == ""


def test_a_baseline_kept_at_the_end_is_not_part_of_the_pruned_line() -> None:
    result = example(steps=5)
    again = result.steps[0].model_copy(update={"index": 9, "kept": True, "what": "the baseline itself"})
    back = result.model_copy(update={"steps": [*result.steps[:6], again]})
    line = next(
        each
        for each in read(curve.curve(back, "parameters", "wide")).iter("path")
        if each.get("class") == "line"
    )
    assert line.get("d", "").count("L") == 5


def test_the_size_axis_has_units_and_smaller_files_to_the_right() -> None:
    result = example()
    found = texts(curve.curve(result, "size", "wide"))
    assert "file size (log scale), smaller to the right →" in found
    assert "kept: 13.8 kB, 99.15 %" in found
    assert {"100 kB", "1 MB", "10 MB"} <= set(found)
    frame = curve.frame_of(result, "size", 900, 400)
    pruned, quantised = result.steps[33], result.steps[-1]
    assert pruned.parameters == quantised.parameters
    assert frame.at(pruned)[0] < frame.at(quantised)[0]


def test_size_is_offered_when_two_steps_have_one() -> None:
    result = example(steps=5)
    assert axes.offered(result) == ["parameters", "macs", "size"]
    assert axes.offered(without_sizes(result, (0, 7))) == ["parameters", "macs", "size"]
    assert axes.offered(without_sizes(result, (7,))) == ["parameters", "macs"]
    assert axes.offered(without_sizes(result, ())) == ["parameters", "macs"]
    assert curve.curve(without_sizes(result, ()), "size", "wide") == ""


def test_steps_without_a_size_leave_a_gap_in_the_marks_and_are_counted() -> None:
    result = without_sizes(example(steps=5), (0, 2, 7))
    drawn = curve.curve(result, "size", "wide")
    spots = read(drawn).get("data-marks", "").split()
    assert [index for index, spot in enumerate(spots) if spot != "-"] == [0, 2, 7]
    assert len(spots) == len(curve.step_texts(result)) == 8
    assert "kB" not in curve.step_texts(result)[1]
    assert axes.left_out(result, "size") == "5 steps without a known file size are left out."
    assert axes.left_out(result, "macs") == ""
    assert curve.description(result, "size").startswith(
        "3 steps from 13.1 MB with 99.30 % to the kept network: 13.8 kB with 99.15 %. 5 steps without"
    )
    one = without_sizes(result.model_copy(update={"steps": result.steps[:3]}), (0, 2))
    assert axes.left_out(one, "size") == "1 step without a known file size is left out."


@pytest.mark.parametrize("keep", [(6, 7), (1, 2, 3), (0, 1)], ids=str)
def test_a_size_curve_without_its_baseline_or_kept_network_draws_the_rest(keep: tuple[int, ...]) -> None:
    drawn = curve.curve(without_sizes(example(steps=5), keep), "size", "narrow")
    found = " ".join(texts(drawn))
    assert ("baseline" in found) == (0 in keep)
    assert ("kept" in found) == (7 in keep)
    assert ('class="ring"' in drawn) == (7 in keep)
    assert str(drawn).count('class="before"') == (0 in keep)


def test_the_accuracy_axis_does_not_depend_on_the_other() -> None:
    sparse = without_sizes(example(), (0, 43))
    ranges = [(f.y.low, f.y.high) for f in (curve.frame_of(sparse, axis, 900, 400) for axis in axes.AXES)]
    assert ranges[0] == ranges[1] == ranges[2]


def test_step_texts_hold_the_hover_values() -> None:
    last = curve.step_texts(example())[-1]
    assert last.splitlines() == [
        "Step 43: quantise, kept",
        "99.15 % (−0.15 points, ± 0.04)",
        "10.5 k parameters, 403 k MACs, 13.8 kB",
        "0.067 ms",
        "INT8, per channel, 300 calibration images",
    ]


def test_latency_lines_keep_their_order_and_their_gaps() -> None:
    result = example()
    lines = latency.latency_lines(result)
    assert [line.row.precision for line in lines] == ["INT8", "FP32", "FP32", "FP32", "FP32", "INT8"]
    assert lines[-1].drawing == ""
    assert all(read(line.drawing).find("title") is not None for line in lines[:-1])


def test_latency_dots_lie_in_order_on_one_axis() -> None:
    result = example()
    circles = list(read(latency.latency_lines(result)[0].drawing).iter("circle"))
    before, after = (float(circle.get("cx", "").rstrip("%")) for circle in circles)
    assert [circle.get("class") for circle in circles] == ["before", "after"]
    assert after < before


def test_latency_axis_turns_logarithmic_when_it_must() -> None:
    near = example()
    far = example(
        comparisons=[comparison("torch", "fp32", 50.0, 2.0), comparison("onnxruntime", "fp32", 0.5, 2.0)]
    )
    assert not latency.latency_scale(near).log  # type: ignore[union-attr] - there are measurements
    assert latency.latency_scale(far).log  # type: ignore[union-attr] - there are measurements
    assert "10 ms" in texts(latency.latency_axis(far))
    assert "0 ms" in texts(latency.latency_axis(near))


def test_no_measurement_no_axis() -> None:
    none = example(comparisons=[example().comparisons[-1]])
    assert latency.latency_scale(none) is None
    assert latency.latency_axis(none) == ""
    assert words.latency_words(none) == "No runtime on this machine could be measured."


@pytest.mark.parametrize(
    ("left", "width"), [(1.0, "100.00%"), (0.5, "50.00%"), (0.0, "0.00%"), (1e-6, "0.60%")]
)
def test_bars(left: float, width: str) -> None:
    rectangles = list(read(layers.bar(left, "x", 6)).iter("rect"))
    assert rectangles[-1].get("width") == width


def test_a_bar_of_more_than_was_shows_what_was_inside() -> None:
    rectangles = {each.get("class"): each.get("width") for each in read(layers.bar(2.0, "x", 6)).iter("rect")}
    assert rectangles["left"] == "100.00%"
    assert rectangles["was"] == "50.00%"


@pytest.mark.parametrize("k", [2, 3, 10, 24, 25, 100])
def test_matrix_draws_up_to_a_hundred_classes(k: int) -> None:
    result = example(classes=k)
    drawn = confusion.matrix(result)
    cells = sum(
        each.get("d", "").count("M")
        for each in read(drawn).iter("path")
        if each.get("class", "").startswith(("diagonal", "error"))
    )
    assert cells == sum(times > 0 for row in result.confusion for times in row)
    values = confusion.cell_values(result)
    assert len(values["cells"]) == cells
    assert len(values["names"]) == k


def test_matrix_names_few_classes_and_numbers_many() -> None:
    assert "automobile" in texts(confusion.matrix(example(classes=CIFAR)))
    assert "90" in texts(confusion.matrix(example(classes=100)))
    assert confusion.matrix(example(classes=101)) == ""
    assert confusion.matrix(example(confusion=[])) == ""


def test_rows_are_the_true_classes() -> None:
    table = [[8, 2, 0], [0, 10, 0], [5, 0, 5]]
    result = example(classes=["a", "b", "c"], confusion=table)
    rows = [(row.true, row.said, row.times, row.share) for row in confusion.confusion_rows(result)]
    assert rows == [("c", "a", "5", "50 %"), ("a", "b", "2", "20 %")]
    assert [row.accuracy for row in confusion.class_rows(result)] == ["80.0 %", "100.0 %", "50.0 %"]


def test_shades_grow_with_the_count_and_a_single_error_is_light() -> None:
    one = example(classes=2, confusion=[[9, 1], [0, 10]])
    assert 'class="error e3"' in confusion.matrix(one)
    many = example(classes=2, confusion=[[9, 100], [1, 10]])
    assert 'class="error e6"' in confusion.matrix(many)
    assert 'class="error e1"' in confusion.matrix(many)


def test_a_class_without_images_and_a_missing_name() -> None:
    result = example(classes=["a", "b"], confusion=[[3, 0, 0], [0, 0, 0], [0, 1, 2]])
    assert [row.name for row in confusion.class_rows(result)] == ["a", "b", "2"]
    assert confusion.class_rows(result)[1].accuracy == "no images"


def test_error_words() -> None:
    assert words.error_words(example(confusion=[[5, 0], [0, 5]])) == "All 10 test images are named rightly."
    assert words.error_words(example(confusion=[])) == "No test image was counted."
    assert words.error_words(example()).startswith(
        "144 of 10,000 test images are named wrongly; the 5 commonest"
    )
    assert sum(map(sum, confusion_of(10, 10_000))) == 10_000


def test_curve_words_count_the_steps_above_the_floor() -> None:
    assert words.curve_words(example()).startswith(
        "34 of 41 pruning steps stayed above the floor, the smallest with "
    )
    assert "floor" not in words.curve_words(example(goals=[]))
    assert words.curve_words(example().model_copy(update={"steps": []})) == "No step was recorded."


def test_layer_words() -> None:
    assert words.layer_words(example()) == (
        "fc1 gave up most: 16 of 1,024 neurons are left. conv2 now does 59 % of the multiplications."
    )
    assert words.layer_words(example(layers=[])) == "No layer was made narrower."


def test_latency_words_name_the_protocol() -> None:
    assert words.latency_words(example()).startswith("Batch 1; 1 thread; 40 interleaved rounds")


def test_goals_line() -> None:
    assert words.goals_line(example()) == "all 2 goals were met"
    assert words.goals_line(example(missed=True)) == "1 of 2 goals missed"
    assert words.goals_line(example(goals=[])) == "no goal was asked"
    assert words.goals_line(example(goals=example().goals[:1])) == "the goal was met"


def test_agreement_lines() -> None:
    integer, twin, loss = words.agreement_lines(example())
    assert integer == "The exported INT8 file gave the float network's answer on 9,998 of 10,000 images."
    assert twin.startswith(
        "Its FP32 twin, exported from the same network, gave the same class on every image."
    )
    assert "standard error 0.06" in loss
    exact = words.agreement_lines(example(precision="fp32"))
    assert len(exact) == 2
    assert "Largest difference of any output: 4.1e-06, allowed 1.0e-04." in exact[0]


def test_notes_are_told_once() -> None:
    assert words.note_lines(example(task_note="a", notes=["b", "a"])) == ["a", "b"]


def test_way_and_samples() -> None:
    assert (
        words.way_words(example())
        == "41 pruning steps, 25 min 23 s in all. The network of step 43 became the result."
    )
    assert words.sample_words("cat", "dog", 0.611) == "cat, taken for dog (61 %)"
    assert words.sample_words("cat", "cat", 1.0) == "cat, named rightly (100 %)"


def test_legend_names_only_what_is_drawn() -> None:
    assert [name for _, name in curve.legend(example())] == ["pruned", "distilled", "quantised", "kept"]
    assert [name for _, name in curve.legend(example(precision="fp32"))] == ["pruned", "distilled", "kept"]
    assert curve.legend(example().model_copy(update={"steps": []})) == []
