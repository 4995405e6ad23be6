"""The book of reproductions: every published value once, ours beside it, a verdict, files that come back."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from tests.recipes import adaptation_example, hardware_example
from tests.scripts import load_script

from tersa.errors import DataError, UsageError
from tersa.recipes.binary_vgg import BinaryVggResult, RowResult
from tersa.recipes.book import BookCell, book, cells_csv, missing, write_book
from tersa.recipes.book_found import Ours, Summary, found
from tersa.recipes.book_published import Published, key_of, published, rows_of
from tersa.recipes.book_report import markdown
from tersa.recipes.book_verdict import judge
from tersa.recipes.folder import RESULT
from tersa.recipes.hours import about, planned
from tersa.recipes.published_table import rows
from tersa.recipes.quantized_training import ReproduceResult
from tersa.recipes.reproductions import EXPERIMENTS
from tersa.records.base import write_record
from tersa.study.cell import Cell, CellResult, LayerState
from tersa.study.store import StudyStore

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "results"
COMPARISON = """\
rule,data,model,quant,bits,range,published,ours,low,high,seeds,gap
bp,mnist,mlp:100x100,symmetric,8,layer,97.41,97.60,97.60,97.60,1,0.19
bp,mnist,mlp:100x100,symmetric,2,layer,11.09,10.65,10.65,10.65,1,-0.44
bp,mnist,mlp:100x100,none,,,98.18,95.00,94.00,96.00,3,-3.18
"""
PAGE = """\
Made by `tersa reproduce quantized-training --rule bp`: 174 runs.

| H2: Six or seven bits are the limit. | refuted | holds | the median curve needs 8 bits |
| H3: Both do equally well. | refuted | refuted | -19.82 points |
| H4: HSIC withstands best. | open | refuted | needs quantised cells |
"""


def value(text: str, unit: str = "%") -> Published:
    """The first published value whose words begin so."""
    return next(each for each in published() if each.what.startswith(text) and each.unit == unit)


def summary(*values: Ours, name: str = "t", **more: object) -> Summary:
    fields: dict[str, object] = {
        "experiment": "binary-vgg",
        "name": name,
        "command": "c",
        "values": list(values),
    }
    return Summary.model_validate(fields | more)


def cell(text: str, *summaries: Summary) -> BookCell:
    key = value(text).key
    return next(each for each in book(summaries).cells if each.key == key)


def test_every_published_number_is_there_once() -> None:
    own = published()
    assert len({each.key for each in own}) == len(own)
    for experiment in EXPERIMENTS:
        numbers = [each for each in own if each.experiment == experiment.name and each.value is not None]
        assert len(numbers) == experiment.published
    assert Counter(each.experiment for each in own if each.value is None) == {
        "pruning": 16,
        "quantized-training": 5,
    }


def test_what_needs_another_machine_names_it() -> None:
    assert all(bool(each.needs) == (each.kind == "elsewhere") for each in published())
    assert value("alexnet, Xavier, original, TensorRT, int8", "ms").needs == "Jetson Xavier"
    assert value("alexnet, delta 0.01, interpolation: speedup", "times").kind == "result"


def test_headers_of_units_are_read_as_such() -> None:
    found = {each.unit for each in published() if each.experiment == "adaptation" and each.kind != "setting"}
    assert found == {"s", "min", "times", "points"}


@pytest.mark.parametrize(
    ("ours", "low", "high", "word"),
    [
        (88.21, None, None, "holds"),
        (87.25, None, None, "holds"),
        (87.1, None, None, "falls short"),
        (89.3, None, None, "surpassed"),
        (80.0, 70.0, 90.0, "holds"),
    ],
)
def test_an_accuracy_is_judged_by_a_point_or_its_interval(
    ours: float, low: float | None, high: float | None, word: str
) -> None:
    theirs = value("B-VGG16")
    assert judge(theirs, Ours(key=theirs.key, value=ours, low=low, high=high)) == word


def test_losses_are_better_where_they_are_lower() -> None:
    theirs = next(each for each in published() if each.what == "pruned loss")
    words = [judge(theirs, Ours(key=theirs.key, value=value)) for value in (0.3, 0.05, 0.5)]
    assert words == ["holds", "surpassed", "falls short"]


def test_what_collapses_on_both_sides_holds() -> None:
    theirs = next(
        each for each in published() if each.experiment == "quantized-training" and each.value == 5.56
    )
    assert judge(theirs, Ours(key=theirs.key, value=14.9)) == "holds"
    assert judge(theirs, Ours(key=theirs.key, value=15.1)) == "surpassed"


def test_weights_and_variances_are_not_accuracies() -> None:
    """A weight of -4e7 beside one of -984 has not collapsed alike."""
    low = next(each for each in published() if "weight low" in each.what and (each.value or 0.0) < -100)
    small = next(each for each in published() if "range global" in each.what and "variance low" in each.what)
    assert judge(low, Ours(key=low.key, value=-4e7)) == "differs"
    assert judge(small, Ours(key=small.key, value=0.7 * (small.value or 0.0))) == "differs"


def test_nothing_of_ours_is_said_with_the_command() -> None:
    made = book([])
    assert made.carried == 0
    assert set(made.counts) == {"not run", "other hardware", "setting"}
    assert cell("B-VGG16").reason.startswith("not run: tersa reproduce binary-vgg --full")
    assert "tersa reproduce quantized-training --rule hsic" in missing(made)
    assert made.verdict.startswith("None of the ")


def test_every_command_that_was_not_run_has_its_hours() -> None:
    """By its own plan; `python benchmarks/reproduction_hours.py` writes them."""
    assert not [command for command in missing(book([])) if not about(command)]
    hours = about("tersa reproduce binary-vgg --full")
    assert cell("B-VGG16").reason == f"not run: tersa reproduce binary-vgg --full, {hours}"
    assert all(each.seconds > 0 for each in planned().values())


def test_spreads_of_weights_are_read_from_the_store(tmp_path: Path) -> None:
    states = [
        LayerState(epoch=1, layer="fc1", tensor="weight", low=-3.0, high=2.0, mean=0.0, variance=0.5),
        LayerState(epoch=2, layer="fc2", tensor="weight", low=-1.0, high=4.0, mean=0.0, variance=0.1),
        LayerState(epoch=2, layer="fc2", tensor="bias", low=-9.0, high=9.0, mean=0.0, variance=9.0),
    ]

    def result(**changes: object) -> CellResult:
        cell = Cell.model_validate(
            {"data": "mnist", "model": "mlp:4", "rule": "hsic-document", "quant": "symmetric", "bits": 6}
            | {"range": "global"}
            | changes
        )
        return CellResult(
            key=cell.key, cell=cell, status="done", test_accuracy=50.0, epochs=[], layers=states, seconds=1.0,
            stacked=1, message="",
        )  # fmt: skip

    with StudyStore(tmp_path / "study.db", write=True) as store:
        results = [result(), result(bits=7), result(model="mlp:100"), result(range="layer", bits=2)]
        store.enter([each.cell for each in results])
        store.add(results)
    (tmp_path / "comparison.csv").write_text(COMPARISON)
    (tmp_path / "summary.md").write_text(PAGE)
    write_record(
        tmp_path / RESULT,
        ReproduceResult(
            data="mnist", quick=False, verdict="v", cells=4, failed=0, diverged=0, spearman=None,
            agreement=None, rules=[], artefacts=[], report="", seconds=1.0,
        ),
    )  # fmt: skip
    (read,) = found([tmp_path])
    spread = {each.key.split("/", 1)[1]: each.value for each in read.values if "weight_spread" in each.key}
    assert spread == {
        f"5.1/hsic-document/mlp:4/global/{bits}/{name}": value
        for bits in (6, 7)
        for name, value in (
            ("variance_low", 0.1), ("variance_high", 0.5), ("weight_low", -3.0), ("weight_high", 4.0),
        )
    }  # fmt: skip


def test_the_longer_run_counts_then_more_seeds_then_the_later() -> None:
    key = value("B-VGG16").key
    short = summary(Ours(key=key, value=80.0, seeds=9), name="a", shortened=True)
    one = summary(Ours(key=key, value=81.0), name="b", date="2026-01-02")
    early = summary(Ours(key=key, value=82.0), name="c", date="2026-01-01")
    three = summary(Ours(key=key, value=83.0, seeds=3), name="d")
    assert cell("B-VGG16", short, one, early).ours == 81.0
    assert cell("B-VGG16", short, one, early, three).ours == 83.0
    assert cell("B-VGG16", short).reason.startswith("a shortened run")


def test_own_methods_count_where_they_surpass() -> None:
    key = value("B-VGG16").key
    faithful = summary(Ours(key=key, value=88.0), name="a")
    better = summary(Ours(key=key, value=91.0), name="b", own=True)
    worse = summary(Ours(key=key, value=88.5), name="c", own=True)
    told = cell("B-VGG16", faithful, better)
    assert (told.ours, told.verdict, told.gap) == (91.0, "surpassed", pytest.approx(2.79))
    assert told.reason == "own methods; with the document's settings 88 % (holds)"
    assert cell("B-VGG16", faithful, worse).ours == 88.0
    assert cell("B-VGG16", worse).ours == 88.5


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    (tmp_path / "bp.csv").write_text(COMPARISON)
    (tmp_path / "bp.md").write_text(PAGE)
    return tmp_path / "bp.csv"


def test_a_comparison_and_its_page_are_read(compared: Path) -> None:
    (read,) = found([compared])
    assert read.command == "tersa reproduce quantized-training --rule bp"
    made = {each.key: each for each in book([read]).cells if each.source or each.published is None}
    words = {each.what: (each.ours, each.verdict) for each in made.values()}
    assert words["bp mlp:100x100, mnist, symmetric layer, 8 bits"] == (97.60, "holds")
    assert words["bp mlp:100x100, mnist, symmetric layer, 2 bits"] == (10.65, "holds")
    assert words["bp mlp:100x100, mnist, not quantised"] == (95.00, "falls short")
    by_number = {each.what[:2]: each for each in made.values() if each.published is None}
    assert [by_number[number].verdict for number in ("H2", "H3", "H4")] == ["differs", "holds", "open"]
    assert by_number["H2"].reason.startswith("here refuted: the median curve needs 8 bits")


def test_a_damaged_comparison_is_one_line(compared: Path) -> None:
    compared.write_text(COMPARISON.replace("97.60,97.60,97.60,1", "much,97.60,97.60,1"))
    with pytest.raises(DataError, match="is not a comparison of reproduce quantized-training"):
        found([compared])
    compared.write_text("command,seconds\nx,1\n")
    with pytest.raises(DataError, match="it has no column 'rule'"):
        found([compared])


def test_hardware_gives_sizes_and_facts(tmp_path: Path) -> None:
    write_record(tmp_path / RESULT, hardware_example.result())
    (read,) = found([tmp_path])
    made = {each.what: each for each in book([read]).cells if each.source}
    assert made["alexnet, original: size"].ours == pytest.approx(217.6, abs=0.05)
    assert made["alexnet, original: size"].verdict == "holds"
    assert made["alexnet: convolutional layers"].verdict == "holds"
    assert made["alexnet: parameters"].verdict == "holds"
    assert "alexnet on NCS2, original" not in made
    assert read.shortened


def test_adaptation_gives_what_each_remedy_is_worth(tmp_path: Path) -> None:
    write_record(tmp_path / RESULT, adaptation_example.result())
    (read,) = found([tmp_path])
    made = {each.what: each for each in book([read]).cells if each.source}
    # ten steps of 100 + 40 + 4 seconds; a search of any remedy takes 1 of the 100
    assert made["alexnet, delta 0.05, bisection: original minutes"].ours == pytest.approx(24.0)
    assert made["alexnet, delta 0.05, interpolation: speedup"].ours == pytest.approx(144 / 45)
    assert made["alexnet, delta 0.05, bisection: original minutes"].verdict == "other hardware"
    assert made["alexnet, h30 naswot loss"].ours == pytest.approx(0.0)
    assert made["alexnet, h30 naswot loss"].verdict == "holds"


def binary_row(network: str, accuracy: float | None) -> RowResult:
    return RowResult(
        name="cnv", network=network, model="cnv+w1a1", bits="1/1", published=84.22, test_accuracy=accuracy,
        validation_accuracy=None, epochs=3, parameters=1, packed_bytes=1, binary_macs=1, integer_macs=0,
        float_macs=0, seconds=1.0, device="cpu", folder="", note="JPEG copy",
    )  # fmt: skip


def binary_result(*rows: RowResult) -> BinaryVggResult:
    return BinaryVggResult(
        data="cifar-10", data_note="", mode="quick", epochs=3, rows=list(rows), verdict="v", command="c",
        artefacts=[], report="", seconds=1.0,
    )  # fmt: skip


def test_binary_rows_that_were_run_are_read(tmp_path: Path) -> None:
    write_record(tmp_path / RESULT, binary_result(binary_row("BNN-PYNQ", 70.0), binary_row("LAB", None)))
    (read,) = found([tmp_path])
    assert read.seconds == 2.0, "of the trainings, not of putting a table together"
    told = cell("BNN-PYNQ", read)
    assert (told.ours, told.verdict) == (70.0, "falls short")
    assert told.reason.startswith("a shortened run; 3 epochs on cpu; JPEG copy; ")
    assert cell("LAB", read).verdict == "not run"


def test_binary_rows_that_diverged_are_left_out(tmp_path: Path) -> None:
    row = binary_row("BNN-PYNQ", 70.0).model_copy(update={"status": "diverged"})
    write_record(tmp_path / RESULT, binary_result(row))
    (read,) = found([tmp_path])
    assert read.values == []


def test_other_runs_and_missing_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RESULT).write_text('{"verb": "prune"}')
    with pytest.raises(UsageError, match="is a run of tersa prune, not of tersa reproduce"):
        found([tmp_path / "run"])
    with pytest.raises(UsageError, match=r"a, .*b: no ended reproduction and no summary"):
        found([tmp_path / "a", tmp_path / "b"])


def test_a_book_comes_back_from_its_own_folder(compared: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "book", tmp_path / "again"
    summaries = found([compared])
    paths = write_book(book(summaries), summaries, out)
    assert [path.name for path in paths] == [
        "book.html",
        "README.md",
        "cells.csv",
        "quantized-training-bp.json",
    ]
    read = found([out])
    write_book(book(read), read, again)
    for path in paths:
        assert (again / path.name).read_bytes() == path.read_bytes()
    lines = list(csv.DictReader((out / "cells.csv").read_text().splitlines()))
    assert len(lines) == len(published())
    assert "97.60 %" in (out / "book.html").read_text()


def test_a_folder_with_something_in_it_and_two_of_one_name_are_refused(
    compared: Path, tmp_path: Path
) -> None:
    summaries = found([compared])
    with pytest.raises(UsageError, match="exists and is not empty; give another --out, or --overwrite"):
        write_book(book(summaries), summaries, tmp_path)
    with pytest.raises(UsageError, match="two runs of one name: quantized-training-bp"):
        write_book(book(summaries * 2), summaries * 2, tmp_path / "new")


def test_names_from_files_cannot_write_markup(tmp_path: Path) -> None:
    key = value("B-VGG16").key
    read = summary(Ours(key=key, value=80.0, remark="<script>alert(1)</script>|x"))
    out = tmp_path / "book"
    write_book(book([read]), [read], out)
    assert "<script>alert" not in (out / "book.html").read_text()
    assert "\\|x" in (out / "README.md").read_text()


def test_the_committed_book_is_that_of_its_summaries() -> None:
    summaries = found([KEPT])
    made = book(summaries)
    assert (KEPT / "cells.csv").read_text() == cells_csv(made), "tersa reproduce book docs/results --out ..."
    assert (KEPT / "README.md").read_text() == markdown(made)


def test_the_committed_summaries_of_own_methods_are_those_of_the_benchmarks(tmp_path: Path) -> None:
    script = load_script("benchmarks/own_results.py")
    for each in (script.pruned(), script.trained(), script.binary()):
        write_record(tmp_path / each.file, each)
        assert (tmp_path / each.file).read_text() == (KEPT / each.file).read_text()


def test_keys_leave_out_nothing_that_tells_rows_apart() -> None:
    for experiment in EXPERIMENTS:
        for file in experiment.files:
            keys = [key_of(file, row, "x") for row in rows_of(file)]
            assert len(set(keys)) == len(keys), file
    assert rows_of("pruning.csv") == rows("pruning.csv")
