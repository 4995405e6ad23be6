"""What the site adds to its pages: tables and numbers from result files, notes on snippets, the API pages.

    {{ table("benchmarks/results/x.csv", "column | heading", ..., where="kind=time") }}   rows of a CSV file
    {{ value("benchmarks/results/x.csv", "{mean:.2f} ± {half:.2f}", where="seed=1") }}    cells of one row
    {{ count("benchmarks/results/x.csv", where="good=True") }}                        how many rows there are
    {{ scatter("benchmarks/results/x.csv", "macs", "accuracy", taken="chosen=True") }}  dots of rows
    <!-- snippet: within=2% -->      before a fence: its numbers may differ by so much on another machine
    <!-- snippet: slow 3 minutes within=2% -->   it is run by the slow tier of the tests alone
    <!-- snippet: not-run needs a GPU -->    it is not run by the tests, and why

`tests/test_docs.py` reads the same notes. Numbers are taken from committed files when the site is built, so
that they cannot drift; a file, column or row that is not there stops the build.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from tersa.report.adapt_charts import Spot
from tersa.report.adapt_charts import scatter as chart

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tersa"
PACKAGES = {
    "records": "The rows that get stored.",
    "data": "Data sets and tasks.",
    "models": "Networks by name, your own, light modules, what a network costs.",
    "quant": "Quantisers, ranges, rounding, the crossbar.",
    "rules": "Learning rules.",
    "train": "One run: settings, loop, checkpoints, evaluation.",
    "study": "Many runs: cells, the stacked engine, the store, statistics.",
    "prune": "Channel groups, criteria, surgery, coding.",
    "binary": "Packed programs.",
    "export": "ONNX, QONNX, packed and C files.",
    "targets": "Runtimes, measuring, energy.",
    "adapt": "Latency tables and the search for widths.",
    "report": "Reports.",
    "recipes": "Whole jobs.",
}
CHOSEN = {
    "recipes": (
        *("shrink", "request", "goals", "setting", "pruning", "adapt", "bench", "train"),
        *("train_request", "study", "export", "predict", "reproductions", "published_table"),
    ),
    "report": ("page", "tables", "numbers", "words", "curve", "svg"),
}
"""Modules of packages whose other ones serve these."""
CALL = re.compile(r"\{\{ *(table|value|count|scatter)\((.*?)\) *\}\}", re.S)
NOTE = re.compile(r"^<!-- snippet: (within=\S+|slow|not-run)(?: (.*?))? ?-->$", re.M)

Rows = list[dict[str, str]]


def rows(path: str, where: str = "") -> Rows:
    """Rows of a CSV file whose cells are as `where` (`a=1,b=x`) says; lines with # in front are remarks."""
    lines = [line for line in (ROOT / path).read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    wanted = [piece.split("=", 1) for piece in where.split(",") if piece]
    found = [row for row in csv.DictReader(lines) if all(row[key] == text for key, text in wanted)]
    if not found:
        raise PluginError(f"{path}: no row with {where or 'anything'}")
    return found


def value(path: str, column: str, where: str = "") -> str:
    """The one cell that is meant."""
    found = rows(path, where)
    if len(found) != 1:
        raise PluginError(f"{path}: {len(found)} rows with {where}, one is meant")
    return shown(found[0], column)


def count(path: str, where: str = "") -> str:
    """How many rows are meant; none is an error, as everywhere."""
    return str(len(rows(path, where)))


def table(path: str, *columns: str, where: str = "") -> str:
    """A Markdown table; all columns where none is named."""
    found = rows(path, where)
    pairs = [[part.strip() for part in column.split("|")] for column in columns or found[0]]
    head = "| " + " | ".join(pair[-1] for pair in pairs) + " |"
    body = ["| " + " | ".join(shown(row, pair[0]) for pair in pairs) + " |" for row in found]
    return "\n".join([head, "|" + " --- |" * len(pairs), *body])


def scatter(path: str, x: str, y: str, *, where: str = "", taken: str = "") -> str:
    """One column (`column | name of the axis`) over another, as reports draw it; rows `taken` in colour."""
    (across, name), (up, other) = (
        [part.strip() for part in f"{each}|{each}".split("|")[:2]] for each in (x, y)
    )
    key, _, text = taken.partition("=")
    spots = [
        Spot(float(row[across]), float(row[up]), "", bool(key) and row[key] == text)
        for row in rows(path, where)
    ]
    identity = re.sub(r"\W+", "-", f"{Path(path).stem}-{across}-{up}-{where}")
    drawing = chart(identity, f"{other} over {name}", spots, (name, other))
    return f'<div class="dots">{drawing}</div>'


def shown(row: dict[str, str], column: str) -> str:
    """A cell as it stands, or a format of the row's numbers; `half` is half of its interval."""
    if "{" not in column:
        return row[column].replace("|", "\\|")
    numbers: dict[str, str | float] = {key: number(cell) for key, cell in row.items()}
    if row.get("interval_high"):
        numbers["half"] = (float(row["interval_high"]) - float(row["interval_low"])) / 2
    return column.format_map(numbers)


def number(cell: str) -> str | float:
    """A cell as a number where it is one."""
    try:
        return float(cell)
    except ValueError:
        return cell


def said(found: re.Match[str]) -> str:
    """A note on a snippet, for readers."""
    kind, text = found.group(1), found.group(2) or ""
    share = re.search(r"within=([\d.]+)%", f"{kind} {text}")
    words: list[str] = []
    if kind == "slow":
        words.append(f"Takes {re.sub(' within=.*', '', text)}.")
    if kind == "not-run":
        words.append(f"Not run when these pages are tested: {text}.")
    if share:
        words.append(
            f"Numbers may differ by {share[1]} % between machines; ... stands for what depends on them."
        )
    return f'<p class="snippet">{" ".join(words)}</p>'


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in tables and numbers, say what the notes on snippets mean."""
    names: dict[str, Callable[..., str]] = {
        "table": table, "value": value, "count": count, "scatter": scatter,
    }  # fmt: skip

    def filled(found: re.Match[str]) -> str:
        return eval(f"{found.group(1)}({found.group(2)})", {"__builtins__": {}}, names)

    return NOTE.sub(said, CALL.sub(filled, markdown))


def modules(package: str) -> Iterator[str]:
    """Modules of a package that have a docstring, dotted."""
    for path in sorted((SOURCE / package).rglob("*.py")):
        if path.stem not in CHOSEN.get(package, (path.stem,)):
            continue
        if path.stem[0] != "_" and path.read_text(encoding="utf-8").lstrip().startswith('"""'):
            yield ".".join(["tersa", *path.relative_to(SOURCE).with_suffix("").parts])


def api_pages() -> dict[str, str]:
    """Path of each page of the API reference, and its Markdown."""
    pages = {f"api/{name}.md": f"# tersa.{name}\n\n{about}\n" for name, about in PACKAGES.items()}
    for name in PACKAGES:
        pages[f"api/{name}.md"] += "".join(f"\n::: {module}\n" for module in modules(name))
    ground = "# Errors, numerics\n\nThey lie under everything else.\n"
    pages["api/ground.md"] = ground + "".join(f"\n::: tersa.{name}\n" for name in ("errors", "numerics"))
    return pages


def on_files(files: Any, config: Any) -> Any:
    """The API pages are made, not written."""
    for path, text in api_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """Put pages that the navigation does not name at its end, and the API reference."""
    named = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    docs = ROOT / "docs"
    others = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    more = [path for path in others if path not in named and not path.startswith("api/")]
    results = [path for path in more if path.startswith("results/")]
    config.nav += [path for path in more if path not in results]
    if results:
        config.nav.append({"Results": results})
    reference: list[Any] = [{"Overview": "api/index.md"}]
    reference += [{name: f"api/{name}.md"} for name in PACKAGES]
    config.nav.append({"API reference": [*reference, {"errors, numerics": "api/ground.md"}]})
    return config
