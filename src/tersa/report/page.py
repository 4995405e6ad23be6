"""The report of one result: a single HTML file that opens anywhere and fetches nothing.

The page is template.html in shell.html, the frame that all pages share, with style.css and script.js set
into it and the charts as inline SVG. Every value
is escaped by Jinja2 or by `svg.element`. A content security policy in the page names the hashes of its one
style and its one script and allows nothing else, so that even a value that got through unescaped would
neither run nor fetch.

Example:
    >>> from tersa.records.base import read_record
    >>> from tersa.records.results import ShrinkResult
    >>> result = read_record(Path("runs/demo/result.json"), ShrinkResult)  # doctest: +SKIP
    >>> write(result, Path("runs/demo/report.html"))  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tersa.files import write_atomic
from tersa.records.adaptation import Adaptation
from tersa.records.results import ShrinkResult
from tersa.report import adapt_section, axes, confusion, curve, layers, numbers, tables, words
from tersa.report.beside import beside
from tersa.report.latency import latency_axis, latency_lines
from tersa.report.plain import cleaned
from tersa.report.verdict import headline

FULL_STEPS = 2000
"""More steps than this are thinned out evenly in the full table, so that the page stays small."""


def render(result: ShrinkResult) -> str:
    """The whole page as text.

    A result whose `verdict` or `detail` is empty gets them from `verdict.headline`.
    """
    shown = cleaned(result)
    styles = ("style.css", "adapt.css") if shown.adaptation else ("style.css",)
    return page("template.html", styles, _values(shown))


def page(template: str, styles: tuple[str, ...], values: dict[str, Any]) -> str:
    """A page of this folder: its template with style, script and the policy that names them.

    Args:
        template: file name.
        styles: file names of its style sheets, in order.
        values: what the template shows, by name.
    """
    style, script = Markup("\n".join(map(_asset, styles))), Markup(_asset("script.js"))
    shell = {"style": style, "script": script, "policy": _policy(style, script)}
    return _template(template).render(values | shell)


def write(result: ShrinkResult, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(result))


def _values(result: ShrinkResult) -> dict[str, Any]:
    """What the template shows, by name."""
    verdict, detail = headline(result)
    latency = latency_lines(result)
    return {
        "result": result,
        "verdict": result.verdict or verdict,
        "detail": result.detail or detail,
        "tiles": [(row, layers.tile_bar(row)) for row in tables.before_after_rows(result)],
        "goals": tables.goal_rows(result),
        "beside": beside(result),
        "charts": [
            (axis, axes.NAMES[axis], _sizes(result, axis), axes.left_out(result, axis))
            for axis in axes.offered(result)
        ],
        "legend": curve.legend(result),
        "step_texts": curve.step_texts(result),
        "key_steps": tables.step_rows(tables.key_steps(result)),
        "steps": tables.step_rows(_thinned(result)),
        "latency": latency,
        "options_differ": len({line.row.options for line in latency}) > 1,
        "latency_axis": latency_axis(result),
        "layers": layers.layer_lines(result),
        "fitted": _fitted(result.adaptation),
        "matrix": confusion.matrix(result),
        "matrix_reach": round(confusion.reach(result), 1),
        "cells": confusion.cell_values(result),
        "confusions": confusion.confusion_rows(result),
        "class_rows": confusion.class_rows(result),
        "environment": tables.environment_rows(result),
        "settings": [
            (name.replace("_", " "), tables.setting(value)) for name, value in result.protocol.items()
        ],
        "words": words,
    }


def _fitted(found: Adaptation | None) -> Markup:
    """The part of an adaptation, escaped by its own template; empty for other results."""
    return Markup(_template("adapt.html").render(adapt_section.values(found)) if found else "")


def _sizes(result: ShrinkResult, axis: axes.Axis) -> list[Markup]:
    return [curve.curve(result, axis, size) for size in curve.SIZES]


def _thinned(result: ShrinkResult) -> list[Any]:
    """All steps; of very many, every n-th and all key steps."""
    every = -(-len(result.steps) // FULL_STEPS)
    keys = {step.index for step in tables.key_steps(result)}
    return [
        step for place, step in enumerate(result.steps) if place % max(every, 1) == 0 or step.index in keys
    ]


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return files("tersa.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Any:
    # Escaping is on for everything, whatever a template is called.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_asset),
    )
    environment.filters["thin"] = numbers.thin
    environment.filters |= {"signed": numbers.plus_minus, "factor": numbers.factor, "si": numbers.si}
    environment.filters["digits"] = numbers.digits
    return environment.get_template(name)
