"""The headline is true, also when the truth is not flattering."""

from __future__ import annotations

import pytest
from example import comparison, example, figures

from tersa.records.results import Agreement, Goal
from tersa.report.verdict import agreement_words, file_words, headline, summary


def verdict(**changed) -> str:
    return headline(example(**changed))[0]


def test_smaller_and_faster() -> None:
    assert verdict() == "312 times smaller and 6 times faster, for 0.21 points."


def test_smaller_but_no_faster() -> None:
    found = verdict(speedup=1.0, compression=80.0, loss_points=0.10, goals=[])
    assert found == "80 times smaller, no faster on this machine, for 0.10 points."


def test_slower_is_said_as_slower() -> None:
    assert (
        verdict(speedup=0.8, goals=[])
        == "312 times smaller, 1.2 times slower on this machine, for 0.21 points."
    )
    slightly = comparison("onnxruntime@threads=1", "int8", 0.4, 0.97).model_copy(
        update={"low": 0.96, "high": 0.98, "verdict": "slower"}
    )
    assert "slightly slower on this machine" in verdict(comparisons=[slightly], goals=[])


def test_a_gain_that_nobody_would_notice_is_no_gain() -> None:
    tiny = comparison("onnxruntime@threads=1", "int8", 0.4, 1.03).model_copy(
        update={"low": 1.01, "high": 1.05, "verdict": "faster"}
    )
    assert "no faster" in verdict(comparisons=[tiny], goals=[])


def test_a_median_without_its_interval_is_no_gain() -> None:
    unsure = comparison("onnxruntime@threads=1", "int8", 0.4, 1.4).model_copy(
        update={"low": 0.9, "high": 1.9, "verdict": "no difference"}
    )
    assert "no faster on this machine" in verdict(comparisons=[unsure], goals=[])


def test_not_measured_is_said() -> None:
    assert "speed not measured" in verdict(comparisons=[], goals=[])


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        (1.0, "No smaller"),
        (1.049, "No smaller"),
        (1.05, "1.05 times smaller"),
        (0.5, "2 times bigger"),
        (2.5, "2.5 times smaller"),
    ],
)
def test_size_words(compression: float, words: str) -> None:
    assert verdict(compression=compression, goals=[]).startswith(words)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.21, ", for 0.21 points."),
        (0.0, ", at the same accuracy."),
        (0.004, ", at the same accuracy."),
        (-0.3, ", and 0.30 points more accurate."),
    ],
)
def test_accuracy_words(loss: float, words: str) -> None:
    assert verdict(loss_points=loss).endswith(words)


def goal(name: str, asked: float, reached: float, unit: str) -> Goal:
    return Goal(
        name=name, asked=asked, reached=reached, unit=unit, met=False, text="do this", reason="because"
    )


@pytest.mark.parametrize(
    ("missed", "words"),
    [
        (goal("latency", 0.206, 0.293, "ms"), "asked for half the latency, reached 0.71×"),
        (goal("latency", 0.0824, 0.293, "ms"), "asked for 0.2× the latency, reached 0.71×"),
        (goal("latency", 0.2, 0.293, "ms"), "asked for at most 0.200 ms, reached 0.293 ms"),
        (goal("macs", 1_390_000, 2_000_000, "MACs"), "asked for a tenth of the MACs, reached 0.14×"),
        (goal("macs", 1_234_567, 2_000_000, "MACs"), "asked for at most 1.23 M MACs, reached 2.00 M"),
        (goal("size", 64_000, 81_000, "bytes"), "asked for a file of at most 64.0 kB, reached 81.0 kB"),
        (goal("max-loss", 0.24, 0.41, "points"), "asked to lose at most 0.24 points, lost 0.41 points"),
        (goal("min-accuracy", 99.0, 98.7, "%"), "asked for at least 99.00 %, reached 98.70 %"),
        (goal("energy", 1.5, 2.0, "mJ"), "asked for at most 1.50 mJ, reached 2.00 mJ"),
        (goal("patience", 1.0, 2.0, "s"), "asked to do this, reached 2 s"),
    ],
)
def test_a_missed_goal_heads_the_verdict(missed: Goal, words: str) -> None:
    assert verdict(goals=[missed]).startswith(f"Goal missed: {words}. Best found: 312 times smaller")


def test_a_missed_share_of_the_energy() -> None:
    before = example().baseline.model_copy(update={"energy_mj": 4.0, "energy_by": "package-0"})
    said = verdict(baseline=before, goals=[goal("energy", 2.0, 3.0, "mJ")])
    assert said.startswith("Goal missed: asked for half the energy, reached 0.75×.")


def test_two_missed_goals() -> None:
    pair = [goal("size", 64_000, 81_000, "bytes"), goal("max-loss", 0.24, 0.41, "points")]
    assert verdict(goals=pair).startswith("2 goals missed: asked for a file")


def test_detail_names_the_images_the_file_and_the_agreement() -> None:
    _, detail = headline(example(precision="fp32"))
    assert "on 10,000 test images." in detail
    assert "The file went from 13.1 MB to 13.8 kB." in detail
    assert detail.endswith("The exported file gave the trained network's answer on every one of them.")


def test_detail_of_an_integer_file() -> None:
    assert headline(example())[1].endswith(
        "The exported INT8 file gave the float network's answer on 9,998 of 10,000 images."
    )


def test_agreement_on_other_images_names_them() -> None:
    few = Agreement(images=300, same_class=300, largest_difference=0.0, tolerance=0.0)
    assert agreement_words(example(precision="fp32", agreement=few)).endswith("on every one of 300 images.")
    none = Agreement(images=0, same_class=0, largest_difference=0.0, tolerance=0.0)
    assert "not compared" in agreement_words(example(agreement=none))


def test_file_words() -> None:
    assert file_words(10, 20) == "The file grew from 10 B to 20 B."
    assert file_words(20, 20) == "The file still takes 20 B."


def test_summary_has_no_capital_and_no_stop() -> None:
    assert summary(example()) == "312 times smaller and 6 times faster, for 0.21 points"


def test_what_is_stored_is_not_read() -> None:
    assert headline(example(verdict="old", detail="old")) == headline(example())


def test_a_baseline_that_was_kept() -> None:
    same = figures(99.0, 100, 100, 100, 0.1, "fp32")
    found = verdict(
        baseline=same, result=same, compression=1.0, loss_points=0.0, speedup=1.0, goals=[],
        comparisons=[comparison("onnxruntime@threads=1", "fp32", 0.1, 1.0)],
    )  # fmt: skip
    assert found == "No smaller, no faster on this machine, at the same accuracy."
