"""The page of a study: everything that it is given is on it, nothing that it is given can break it."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tersa.report import study_angles, study_axes, study_charts, study_curves
from tersa.report.study_page import render, write
from tersa.report.study_view import (
    AnglePanel,
    Angles,
    Compared,
    Cost,
    Curve,
    Effect,
    EpochPanel,
    Group,
    HeatMap,
    Judged,
    Line,
    Panel,
    Picture,
    Point,
    Ranked,
    Reach,
    ReachPanel,
    Spread,
    StudyView,
    Summary,
    Tile,
    Trouble,
    WeightRow,
)

HOSTILE = "</script><script>alert(1)</script>\u202e<img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "br", "input"}


def spread(mean: float, count: int = 3) -> Spread:
    return Spread(mean, mean - 1, mean + 1, count) if count > 1 else Spread(mean, mean, mean, 1)


def panel(title: str = "2x100", lines: int = 2, bits: tuple[int, ...] = (2, 4, 8)) -> Panel:
    made = [
        Line(
            f"line {style}",
            style,
            tuple(Point(b, spread(20.0 + 8 * b - style)) for b in bits),
            ((bits[0], 31.91),) if style == 0 else (),
        )
        for style in range(lines)
    ]
    return Panel(title, tuple(made), reference=98.0)


def view(**changes: Any) -> StudyView:
    values: dict[str, Any] = {
        "name": "demo",
        "verb": "study report",
        "subject": "2 networks on mnist",
        "verdict": "3 bits are enough for backpropagation, not for HSIC",
        "detail": "97.50 % with 3 bits.",
        "warning": "Only 3 epochs.",
        "tiles": (Tile("Runs", "28", "all ended well"),),
        "groups": (Group("bp", (panel("1x4"), panel())), Group("fa", (panel(),))),
        "styles": ((0, "layer range"), (1, "global range")),
        "left_out": "3 panels more are not drawn.",
        "compared": (
            Compared("bp, 8 bits", 97.41, spread(97.3)),
            Compared("bp, 2 bits", 12.02, spread(9.8, 1)),
        ),
        "summaries": (
            Summary("bp", 2, 1, 0.91, 0.5, -0.11, 0.11),
            Summary("all", 2, 0, None, 0.5, None, None),
        ),
        "source": "Document 000",
        "ranked": (Ranked("bp, 8 bits", spread(97.3), 97.41, 12.5), Ranked("fa, 8 bits", None, None, 0.0)),
        "maps": (
            HeatMap("layer range", ("2 bits", "8 bits"), (("bp 2x100", (9.8, 97.3)), ("fa", (None, 40.0)))),
        ),
        "effects": (
            Effect("quantiser", "symmetric", "asymmetric", -12.5, -16.0, -9.0, 0.0001, 84, "signed rank"),
            Effect("range", "layer", "global", 1.0, 1.0, 1.0, 1.0, 1, "none"),
        ),
        "judged": (
            Judged("H1", "All rules are equal.", "refuted", "fa −1 point", "refuted"),
            Judged("H2", "Seven bits.", "open", "needs cells", "holds"),
        ),
        "epochs": (EpochPanel("bp", (Curve("2", 0.3, (10.0, 12.0)), Curve("8", 1.0, (80.0, 97.0)))),),
        "angles": (
            AnglePanel(
                "fa", (Angles("fc1", 1.0, (1, 2), (88.0, 62.5)), Angles("fc2", 0.3, (1, 2), (0.0, 0.0)))
            ),
            AnglePanel("delta", (Angles("fc2", 1.0, (2,), (0.0,)),)),
        ),
        "reaches": (ReachPanel("bp", (Reach("fc1", 1.0, (1, 2), (-0.5, -1.5), (0.6, 2.0)),)),),
        "weights": (WeightRow("hsic 1x4", 6, (0.1, 7000.0), (-1200.0, 1300.0), (0.1061, 0.7506, -1.0, 1.0)),),
        "costs": (Cost("bp", 310.0, 2.1e7, "O(n^5)"), Cost("dni", 900.0, 4e7, "")),
        "pictures": (Picture("bp: what activates it", "Averages.", "aGk=", 20, 10),),
        "troubles": (Trouble("fa, seed 1", "failed", "MemoryError"),),
        "command": "tersa study run bits.toml",
        "facts": (("optimiser", "adadelta"),),
    }
    return StudyView(**(values | changes))


class Reader(HTMLParser):
    """Words and elements of a page; counts what is opened and not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.names: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def whole() -> Reader:
    return Reader(render(view()))


def test_the_page_is_well_formed(whole: Reader) -> None:
    assert whole.open == []
    assert len(whole.ids) == len(set(whole.ids))
    assert whole.handlers == []


def test_the_answer_comes_first(whole: Reader) -> None:
    start = whole.text.index("3 bits are enough for backpropagation, not for HSIC")
    assert start < whole.text.index("How many bits are enough?")


@pytest.mark.parametrize(
    "question",
    [
        "How many bits are enough?",
        "Does it agree with what was published?",
        "Which settings do best?",
        "Where does each rule work?",
        "What makes the difference?",
        "What holds of the document's five expectations?",
        "How did the training go?",
        "Does each rule point where backpropagation does?",
        "Where do the weights go?",
        "What does a rule cost?",
        "What does each rule's network look at?",
        "What went wrong?",
    ],
)
def test_every_part_is_a_question(whole: Reader, question: str) -> None:
    assert question in whole.text


@pytest.mark.parametrize(
    "words",
    [
        "Only 3 epochs.",
        "3 panels more are not drawn.",
        "97.41",
        "96.30 – 98.30",
        "one seed",
        "−12.50",
        "< 0.001",
        "one pair",
        "1 left open by these cells",
        "MemoryError",
        "O(n^5)",
        "88.0 → 62.5",
        "2.9×",
        "−1,200.0",
        "0.7506",
        "not quantised",
        "tersa study run bits.toml",
    ],
)
def test_what_was_given_is_there(whole: Reader, words: str) -> None:
    assert words in whole.text


def test_only_parts_with_something_in_them_are_shown() -> None:
    reader = Reader(render(StudyView("demo", "study report", "nothing", "No run has ended yet", "")))
    assert "How to do it again" in reader.text
    assert "How many bits" not in reader.text
    assert "Does each rule point" not in reader.text
    assert "img" not in reader.names


def test_nothing_given_can_become_markup() -> None:
    text = render(
        view(
            name=HOSTILE,
            verdict=HOSTILE,
            groups=(Group(HOSTILE, (panel(HOSTILE),)),),
            styles=((0, HOSTILE),),
            troubles=(Trouble(HOSTILE, "failed", HOSTILE),),
            compared=(Compared(HOSTILE, 50.0, spread(50.0)),),
            ranked=(Ranked(HOSTILE, spread(50.0), None, 1.0),),
            maps=(HeatMap(HOSTILE, (HOSTILE,), ((HOSTILE, (50.0,)),)),),
            command=HOSTILE,
        )
    )
    reader = Reader(text)
    assert reader.names.count("img") == 1  # the picture of the view
    assert reader.handlers == []
    assert "\u202e" not in text
    assert "<script>alert" not in text


def test_accuracies_are_called_by_their_split(whole: Reader) -> None:
    assert whole.text.count("est accuracy in percent") == 3
    assert "one seed, test accuracy" not in whole.text
    text = Reader(render(view(accuracies="validation accuracy"))).text
    assert "Validation accuracy in percent over the bits" in text
    assert "Mean validation accuracy in percent for each rule" in text
    assert "Validation accuracy in percent after each epoch" in text
    assert "published, in place, one seed, test accuracy" in text
    assert "rings are published values on the test images" in text
    assert "est accuracy in percent" not in text


@pytest.mark.parametrize(("panels", "large"), [(1, True), (2, True), (3, False), (4, True), (5, False)])
def test_few_panels_are_large_and_stand_in_two_columns(panels: int, large: bool) -> None:
    text = render(view(groups=(Group("", tuple(panel(str(n)) for n in range(panels))),)))
    assert ('<div class="multiples lone">' in text) is large
    assert '<div class="multiples lone">' not in render(view())  # two groups


def test_hundreds_of_cells_stay_a_small_page() -> None:
    groups = tuple(
        Group(rule, tuple(panel(f"{n}", 4, (2, 3, 4, 5, 6, 7, 8)) for n in range(6))) for rule in "abcd"
    )
    compared = tuple(Compared(f"cell {n}", n % 100, spread(n % 100, 1)) for n in range(672))
    ranked = tuple(Ranked(f"cell {n}", spread(n % 100), None, 1.0) for n in range(672))
    text = render(view(groups=groups, compared=compared, ranked=ranked))
    reader = Reader(text)
    assert len(reader.ids) == len(set(reader.ids))
    assert len(text) < 1_000_000
    assert "The 12 most accurate of 672 settings" in reader.text


def test_written_whole(tmp_path: Path) -> None:
    write(view(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(view())


def marks(drawing: str) -> list[str]:
    found = re.search(r'data-marks="([^"]*)"', drawing)
    assert found is not None
    return found[1].split()


def test_every_mark_has_its_text() -> None:
    drawn = panel()
    assert len(marks(study_curves.bits_panel(drawn, "p", (2, 8), (0, 100)))) == len(
        study_curves.bits_texts(drawn)
    )
    epochs = view().epochs[0]
    assert len(marks(study_curves.epoch_panel(epochs, "e", (0, 100)))) == len(
        study_curves.epoch_texts(epochs)
    )
    for angles in view().angles:
        drawing = study_angles.angle_panel(angles, "a", (0, 120))
        assert len(marks(drawing)) == len(study_angles.angle_texts(angles))
    compared = view().compared
    assert len(marks(study_charts.scatter(compared, "s"))) == len(study_charts.scatter_texts(compared))


def test_a_right_angle_is_a_line_of_its_own() -> None:
    fa, delta = view().angles
    drawing = study_angles.angle_panel(fa, "a", (0, 120))
    (line,) = re.findall(r'<path d="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)" class="right-angle"', drawing)
    written = {
        float(y) - 4: text for y, text in re.findall(r'y="([\d.]+)" class="end quiet">(\d+)°<', drawing)
    }
    assert written[float(line[0])] == written[float(line[1])] == "90"
    assert sorted(written.values(), key=int) == ["0", "30", "60", "90", "120"]
    assert study_angles.angle_panel(delta, "d", (0, 120)).count("<circle") == 1  # one epoch is a dot


def test_the_axis_of_degrees_and_the_order_of_layers() -> None:
    fa, delta = view().angles
    away = AnglePanel("x", (Angles("fc1", 1.0, (1,), (120.5,)),))
    assert study_angles.degree_range([fa, delta]) == (0.0, 120.0)
    assert study_angles.degree_range([fa, away]) == (0.0, 180.0)
    assert study_angles.angle_table([delta, fa]) == (
        ["fc1", "fc2"],
        [("delta", ["–", "0.0"]), ("fa", ["88.0 → 62.5", "0.0 → 0.0"])],
    )
    assert study_angles.angle_texts(delta) == ["fc2: 0.0° after epoch 2"]


def test_intervals_are_drawn_for_several_seeds_only() -> None:
    one = Panel("x", (Line("", 0, (Point(2, spread(50.0, 1)), Point(3, spread(60.0, 1)))),))
    several = Panel("x", (Line("", 0, (Point(2, spread(50.0)), Point(3, spread(60.0)))),))
    assert "interval" not in study_curves.bits_panel(one, "p", (2, 3), (0, 100))
    assert "interval" in study_curves.bits_panel(several, "p", (2, 3), (0, 100))


def test_failed_and_diverged_runs_are_crosses() -> None:
    broken = Panel("x", (Line("", 0, (Point(2, None, 1), Point(3, spread(60.0), 1))),))
    drawing = study_curves.bits_panel(broken, "p", (2, 3), (0, 100))
    assert drawing.count('class="diverged"') == 2
    assert study_curves.bits_texts(broken)[0].splitlines()[1:] == ["no run ended", "1 diverged or failed"]


def test_a_single_bit_width_still_has_an_axis() -> None:
    drawing = study_curves.bits_panel(panel(bits=(3,)), "p", (3, 3), (0, 100))
    assert ">3</text>" in drawing


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9.8, 97.0], (0.0, 100.0)),
        ([71.0, 97.0], (70.0, 100.0)),
        ([96.5, 97.9], (96.0, 100.0)),
        ([], (0.0, 100.0)),
    ],
)
def test_the_accuracy_axis(values: list[float], expected: tuple[float, float]) -> None:
    assert study_curves.accuracy_range(values) == expected


def test_names_at_the_ends_never_touch() -> None:
    curves = tuple(Curve(str(bits), 1.0, (10.0, 10.0 + bits / 100)) for bits in range(2, 9))
    drawing = study_curves.epoch_panel(EpochPanel("x", curves), "e", (0, 100))
    heights = sorted(
        float(y)
        for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="quiet"', drawing)
        if float(x) > 250
    )
    gaps = [b - a for a, b in itertools.pairwise(heights)]
    assert len(heights) == 7
    assert min(gaps) >= study_axes.LINE_HEIGHT - 0.01
    assert max(heights) <= study_axes.HEIGHT - study_axes.BOTTOM + 5


@pytest.mark.parametrize(
    ("accuracy", "opacity"), [(14.99, 0.0), (15.0, 0.1), (50.0, 0.2), (94.9, 0.48), (95.0, 1.0), (100.0, 1.0)]
)
def test_the_steps_of_a_heat_map(accuracy: float, opacity: float) -> None:
    assert study_charts.shade(accuracy) == opacity


def test_a_heat_map_says_where_there_is_nothing() -> None:
    chart = HeatMap("x", ("2", "8"), (("bp", (None, 97.3)),))
    drawing = study_charts.heat_map(chart, "h")
    assert "none" in drawing
    assert drawing.count("<rect") == 1
