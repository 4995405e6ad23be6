"""The page is one file that holds everything, fetches nothing and trusts no value."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from example import CIFAR, example, png

from tersa.records.results import Goal, Sample
from tersa.report import page
from tersa.report.tables import key_steps

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); //",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title></script><svg onload=alert(1)>",
    "\u202ereversed\u2066",
    "x" * 3000,
    "&lt;b&gt;",
    "]]><!--",
)
LARGEST = 450_000
"""Bytes of the page with a hundred classes and four hundred steps; a mail takes it, and a phone opens it."""
VOID = {"meta", "link", "img", "input", "br", "path", "rect", "circle", "line"}
OPTIONAL_END = {"td", "tr", "li"}


class Structure(HTMLParser):
    """Elements in order, their attributes, and whether they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID | OPTIONAL_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL_END:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def hostile(text: str):
    """A result in which every text that comes from outside is hostile."""
    result = example(classes=[text] * 10)
    sample = Sample(png=text, label=text, predicted=text, probability=0.5)
    goal = Goal(name=text, asked=1, reached=2, unit=text, met=False, text=text, reason=text)
    layers = [layer.model_copy(update={"name": text, "kind": text, "note": text}) for layer in result.layers]
    steps = [step.model_copy(update={"what": text}) for step in result.steps]
    comparisons = [
        each.model_copy(update={"target": text, "precision": text, "reason": text})
        for each in result.comparisons
    ]
    environment = result.environment.model_copy(
        update={"machine": text, "processor": text, "system": text, "versions": {text: text}, "commit": text}
    )
    return result.model_copy(
        update={
            "name": text, "command": text, "task": text, "task_note": text, "model": text, "target": text,
            "sha256": {text: text}, "verdict": text, "detail": text, "notes": [text], "artefacts": [text],
            "protocol": {text: text}, "samples": [sample], "mistakes": [sample], "goals": [goal],
            "layers": layers, "steps": steps, "comparisons": comparisons, "environment": environment,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def text() -> str:
    return page.render(example(classes=CIFAR))


@pytest.fixture(scope="module")
def structure(text: str) -> Structure:
    return Structure(text)


def test_every_element_is_closed_and_every_id_unique(structure: Structure) -> None:
    assert structure.open == []
    ids = [attributes["id"] for _, attributes in structure.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_reference_has_its_target(structure: Structure) -> None:
    ids = {attributes.get("id") for _, attributes in structure.elements}
    for _, attributes in structure.elements:
        for key in ("aria-labelledby", "aria-describedby", "for", "data-copy"):
            for name in (attributes.get(key) or "").split():
                assert name in ids
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids


def test_nothing_is_fetched(text: str, structure: Structure) -> None:
    for _, attributes in structure.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(key) or ""
            assert value.startswith(("data:", "#")) or not value
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_policy_names_the_only_style_and_script(text: str) -> None:
    structure = Structure(text)
    policy = next(
        each for each in structure.named("meta") if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in (policy["content"] or "")
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert style is not None
    assert script is not None
    assert page._hash(style[1]) in (policy["content"] or "")  # pyright: ignore[reportPrivateUsage]
    assert page._hash(script[1]) in (policy["content"] or "")  # pyright: ignore[reportPrivateUsage]
    assert not any("style" in attributes or "onclick" in attributes for _, attributes in structure.elements)


def test_headings_are_in_order(structure: Structure) -> None:
    levels = [int(tag[1]) for tag, _ in structure.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_language_names_of_drawings_and_pictures(structure: Structure) -> None:
    assert structure.named("html")[0]["lang"] == "en"
    assert all(each.get("alt") for each in structure.named("img"))
    drawings = [index for index, (tag, _) in enumerate(structure.elements) if tag == "svg"]
    assert drawings
    for index in drawings:
        assert structure.elements[index][1].get("role") == "img"
        assert structure.elements[index + 1][0] == "title"


def test_the_story_is_told_in_order(structure: Structure) -> None:
    whole = " ".join(structure.text)
    titles = (
        "312\u00a0times smaller", "became", "Met:", "Accuracy", "What each step cost",
        "Measured, not assumed",
        "What is left of each layer", "Where it errs", "How it got there", "How to do it again", "Notes",
    )  # fmt: skip
    places = [whole.find(title) for title in titles]
    assert -1 not in places
    assert places == sorted(places)


def test_what_a_doubter_asks_for_is_there(structure: Structure) -> None:
    whole = " ".join(structure.text)
    result = example()
    for wanted in (
        result.command,
        *result.sha256.values(),
        *result.artefacts,
        "2.13.0",
        "Invented CPU 3000",
        "taylor",
    ):
        assert wanted in whole
    assert "not offered by this runtime" in whole
    assert "torch eager has no INT8 convolution on this CPU" in whole
    assert "9,998 of 10,000 images" in whole


def test_a_missed_goal_is_marked(text: str) -> None:
    missed = page.render(example(missed=True))
    assert '<li class="missed">' in missed
    assert "Goal missed: asked for half the latency, reached 0.71×." in missed
    assert '<li class="missed">' not in text


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_stay_text(bad: str) -> None:
    written = page.render(hostile(bad))
    structure, ordinary = Structure(written), Structure(page.render(hostile("ordinary")))
    assert structure.open == []
    assert [tag for tag, _ in structure.elements] == [tag for tag, _ in ordinary.elements]
    assert [sorted(a) for _, a in structure.elements] == [sorted(a) for _, a in ordinary.elements]
    assert "49" not in (structure.text[structure.text.index("Notes") :] if "{{" in bad else [])
    assert "\u202e" not in written


@pytest.mark.parametrize(
    "changed",
    [
        {"goals": []},
        {"comparisons": []},
        {"layers": []},
        {"steps": []},
        {"confusion": [], "classes": []},
        {"samples": [], "mistakes": []},
        {"sha256": {}, "protocol": {}, "notes": [], "artefacts": []},
        {"split_sizes": {}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_page_without_some_evidence_is_still_whole(changed) -> None:
    structure = Structure(page.render(example().model_copy(update=changed)))
    assert structure.open == []
    assert len(structure.named("h1")) == 1


@pytest.mark.parametrize(
    "kind", [{"classes": 3}, {"precision": "fp32"}, {"speedup": 0.7}, {"steps": 1}, {"classes": 120}]
)
def test_other_results_render(kind) -> None:
    assert Structure(page.render(example(**kind))).open == []


def test_file_size_is_a_choice_when_it_is_known() -> None:
    result = example(steps=5)
    steps = [step.model_copy(update={"size_bytes": None}) for step in result.steps]
    without = page.render(result.model_copy(update={"steps": steps}))
    some = page.render(result.model_copy(update={"steps": [*result.steps[:3], *steps[3:]]}))
    choices = [
        [each["id"] for each in Structure(text).named("input")]
        for text in (page.render(result), some, without)
    ]
    both = ["axis-parameters", "axis-macs"]
    assert choices == [[*both, "axis-size"], [*both, "axis-size"], both]
    assert '<p class="quiet left-out">5 steps without a known file size are left out.</p>' in some
    assert '<p class="quiet left-out">' not in without


def test_an_empty_verdict_is_filled_in() -> None:
    assert "312\u00a0times smaller" in page.render(example(verdict="", detail=""))
    assert "As it was stored." in page.render(example(verdict="As it was stored.", detail="d"))


def test_the_largest_page_stays_small() -> None:
    assert len(page.render(example(classes=100, steps=400)).encode()) < LARGEST


def test_very_many_steps_are_thinned_but_the_key_ones_stay() -> None:
    result = example(steps=5000)
    rows = page._thinned(result)  # pyright: ignore[reportPrivateUsage]
    assert len(rows) < 2 * page.FULL_STEPS
    assert {step.index for step in key_steps(result)} <= {step.index for step in rows}


def test_the_same_result_gives_the_same_page(text: str) -> None:
    assert page.render(example(classes=CIFAR)) == text


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    page.write(example(), path)
    assert path.read_text(encoding="utf-8") == page.render(example())
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_pictures_are_embedded(text: str) -> None:
    assert f"data:image/png;base64,{png(12, 0)}" in text
