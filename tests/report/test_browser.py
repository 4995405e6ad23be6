"""The page in a real browser: quiet, alone, readable in every width and light, and usable without a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from example import CIFAR, example
from test_page import HOSTILE, hostile

from tersa.report import curve
from tersa.report.page import render

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LEAST_CONTRAST, LEAST_CONTRAST_LARGE = 4.5, 3.0
"""WCAG 2.2, success criterion 1.4.3, level AA."""

CONTRASTS = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = parse(getComputedStyle(each).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("main *:not(svg *)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(".unseen, [aria-hidden]")) continue;
    const style = getComputedStyle(element);
    const [one, two] = [light(parse(style.color)), light(ground(element))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    found.push([(one + 0.05) / (two + 0.05), size >= 24 || (size >= 18.66 && style.fontWeight >= 700),
      element.textContent.trim().slice(0, 40)]);
  }
  return found;
}
"""


@dataclass
class Heard:
    """What the page did that it should not have done."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Opens a rendered result and listens; `visit(result, width=..., scheme=...)` gives (page, heard)."""
    opened: list[Page] = []

    def open_(result: Any, width: int = 1100, scheme: Any = "light") -> tuple[Page, Heard]:
        path = tmp_path / f"report-{len(opened)}.html"
        path.write_text(render(result), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        heard = Heard()
        page.on("console", lambda message: heard.console.append(message.text))
        page.on("pageerror", lambda error: heard.console.append(str(error)))
        page.on("dialog", lambda dialog: (heard.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: heard.requests.append(request.url))
        page.goto(path.as_uri())
        opened.append(page)
        return page, heard

    yield open_
    for page in opened:
        page.close()


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


RESULTS = {
    "ten": {"classes": CIFAR},
    "hundred": {"classes": [f"a class with a long name {i}" for i in range(100)], "steps": 300},
    "missed": {"missed": True},
    "slower": {"speedup": 0.7, "precision": "fp32"},
}


@pytest.mark.parametrize("name", RESULTS)
def test_quiet_and_alone(visit, name: str) -> None:
    page, heard = visit(example(**RESULTS[name]))
    assert heard.console == []
    outside = [url for url in heard.requests if not url.startswith("data:")]
    assert len(outside) == 1  # the page itself
    assert outside[0].startswith("file:")
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("width", [320, 360, 599, 760, 900, 1280])
@pytest.mark.parametrize("name", ["ten", "hundred", "missed"])
def test_the_page_never_scrolls_sideways(visit, name: str, width: int) -> None:
    page, _ = visit(example(**RESULTS[name]), width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert overflow(page) == 0


def test_tables_are_there(visit) -> None:
    page, _ = visit(example(steps=41))
    assert page.locator("dl.tiles .tile").count() == 5
    assert page.locator("table.latency tbody tr").count() == 6
    assert page.locator("table.layers tbody tr").count() == 4
    assert page.locator("#key-steps tbody tr").count() == 5
    assert page.locator("#every-step tbody tr").count() == 44
    assert page.locator("table.confusions tbody tr").count() == 8


@pytest.mark.parametrize("width", [360, 760, 1100])
def test_one_curve_is_shown_at_every_width_and_its_text_is_readable(visit, width: int) -> None:
    page, _ = visit(example(), width)
    assert page.locator("figure.switch svg:visible").count() == 1
    height = page.evaluate(
        "document.querySelector('figure.switch svg:not([hidden])') && "
        "[...document.querySelectorAll('figure.switch svg')].find((e) => e.checkVisibility())"
        ".querySelector('text').getBoundingClientRect().height"
    )
    assert height >= 11


def test_dark_is_another_page_colour(visit) -> None:
    colour = "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
    light, dark = (visit(example(), scheme=scheme)[0].evaluate(colour) for scheme in ("light", "dark"))
    assert light != dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["ten", "missed"])
def test_contrast(visit, name: str, scheme: str) -> None:
    page, _ = visit(example(**RESULTS[name]), scheme=scheme)
    measured = page.evaluate(CONTRASTS)
    assert len(measured) > 100
    poor = [each for each in measured if each[0] < (LEAST_CONTRAST_LARGE if each[1] else LEAST_CONTRAST)]
    assert poor == []


def test_red_is_only_for_a_missed_goal(visit) -> None:
    reds = (
        "[...document.querySelectorAll('main *:not(svg *)')].filter((e) => getComputedStyle(e).color === "
        "'rgb(179, 38, 30)').map((e) => !!e.closest('.missed'))"
    )
    assert visit(example())[0].evaluate(reds) == []
    missed = visit(example(missed=True))[0].evaluate(reds)
    assert missed
    assert all(missed)


def test_hover_shows_the_values_of_a_step(visit) -> None:
    page, _ = visit(example())
    chart = page.locator("#curve-parameters-wide, svg.only-wide").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert page.locator("#tip").is_hidden()
    page.mouse.move(box["x"] + box["width"] * 0.073, box["y"] + box["height"] * 0.1)
    assert page.locator("#tip").is_visible()
    assert "Step 0: baseline" in page.locator("#tip").inner_text()
    assert chart.locator(".cursor").count() == 1
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()


def test_arrow_keys_walk_along_the_steps_and_are_announced(visit) -> None:
    page, _ = visit(example())
    page.locator("svg.only-wide").first.focus()
    page.keyboard.press("End")
    assert "quantise, kept" in page.locator("#tip").inner_text()
    assert "quantise, kept" in page.locator("#said").inner_text()
    page.keyboard.press("ArrowLeft")
    assert "distil" in page.locator("#said").inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert "Step 1: prune" in page.locator("#said").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_axis_is_switched_by_keyboard(visit) -> None:
    page, _ = visit(example())
    page.locator("#axis-parameters").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".panel.macs").is_visible()
    assert page.locator(".panel.parameters").is_hidden()
    page.keyboard.press("ArrowRight")
    assert page.locator(".panel.size").is_visible()
    assert page.locator(".panel.macs").is_hidden()


def test_hover_and_keys_give_the_values_on_the_size_axis(visit) -> None:
    page, _ = visit(example())
    page.locator("label[for='axis-size']").click()
    chart = page.locator(".panel.size svg.only-wide")
    chart.scroll_into_view_if_needed()
    box, spot = chart.bounding_box(), chart.get_attribute("data-marks").split()[10]
    x, y = map(float, spot.split(","))
    scale = box["width"] / curve.SIZES["wide"][0]
    page.mouse.move(box["x"] + scale * x, box["y"] + scale * y)
    assert page.locator("#tip").inner_text() == curve.step_texts(example())[10]
    chart.focus()
    page.keyboard.press("End")
    assert "10.5 k parameters, 403 k MACs, 13.8 kB" in page.locator("#said").inner_text()


def test_keys_walk_over_the_steps_without_a_size(visit) -> None:
    result = example(steps=5)
    gaps = {1, 2, 4}
    steps = [
        step.model_copy(update={"size_bytes": None}) if step.index in gaps else step for step in result.steps
    ]
    page, heard = visit(result.model_copy(update={"steps": steps}))
    page.locator("label[for='axis-size']").click()
    page.locator(".panel.size svg.only-wide").focus()
    said = []
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
        said.append(page.locator("#said").inner_text().split(":")[0])
    assert said == ["Step 0", "Step 3", "Step 5"]
    assert page.locator(".left-out").is_visible()
    assert heard.console == []


def test_the_choices_stand_in_one_row_on_a_phone_and_keep_their_names(visit) -> None:
    page, _ = visit(example(), 320)
    labels = page.locator(".switch label")
    assert len({labels.nth(index).bounding_box()["y"] for index in range(3)}) == 1
    assert page.get_by_role("radio", name="against file size").count() == 1


def test_hover_names_the_classes_of_a_confusion(visit) -> None:
    page, _ = visit(example(classes=["cat", "dog"], confusion=[[90, 10], [1, 99]]))
    matrix = page.locator("svg.matrix")
    matrix.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() == "cat taken for dog: 10 times"
    page.keyboard.press("End")
    assert page.locator("#tip").inner_text() == "dog: 99 of 100 images right"


def test_the_tip_stays_on_a_phone_screen(visit) -> None:
    page, _ = visit(example(), 360)
    page.locator("svg.only-narrow").first.focus()
    for key in ("Home", "End"):
        page.keyboard.press(key)
        box = page.locator("#tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_the_command_is_copied_or_selected(visit) -> None:
    page, heard = visit(example())
    page.locator("button[data-copy]").click()
    page.wait_for_function("document.querySelector('button[data-copy]').textContent !== 'Copy'")
    assert page.locator("button[data-copy]").inner_text() in ("Copied", "Selected")
    assert heard.console == []


def test_the_link_opens_the_full_table(visit) -> None:
    page, _ = visit(example())
    assert page.locator("#every-step").is_hidden()
    page.locator("a[href='#every-step']").click()
    page.wait_for_function("document.querySelector('#every-step').checkVisibility()")


def test_names_of_drawings_roles_and_controls(visit) -> None:
    page, _ = visit(example())
    names = "[...document.querySelectorAll('svg')].map((e) => e.querySelector('title')?.textContent.trim())"
    assert all(page.evaluate(names))
    assert page.evaluate("[...document.images].filter((e) => !e.alt.trim()).length") == 0
    assert (
        page.evaluate("[...document.querySelectorAll('table')].filter((e) => !e.querySelector('th')).length")
        == 0
    )
    assert (
        page.evaluate("[...document.querySelectorAll('input')].filter((e) => !e.labels.length).length") == 0
    )


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_are_inert(visit, bad: str) -> None:
    page, heard = visit(hostile(bad), 360)
    assert heard.dialogs == []
    assert [line for line in heard.console if "Content Security Policy" in line or "Error" in line] == []
    assert [url for url in heard.requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.scripts.length") == 3
    assert page.locator("img[onerror], svg[onload]").count() == 0
    assert overflow(page) == 0
    page.locator("svg.only-narrow").first.focus()
    page.keyboard.press("End")
    assert page.locator("#tip script, #tip img").count() == 0


def test_without_scripts_everything_can_still_be_read(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(example()), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    page.locator("label[for='axis-macs']").click()
    assert page.locator(".panel.macs").is_visible()
    page.locator("summary").first.click()
    assert page.locator("#every-step").is_visible()
    context.close()


def test_print_has_every_axis_and_no_buttons(visit) -> None:
    page, _ = visit(example())
    page.emulate_media(media="print")
    assert page.locator(".panel.parameters").is_visible()
    assert page.locator(".panel.macs").is_visible()
    assert page.locator(".panel.size").is_visible()
    assert page.locator("button").is_hidden()
