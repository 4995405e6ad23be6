"""The page of a finished run, written again from what its folder holds: by the verb that made it.

`study run` and `reproduce quantized-training` have `tersa study report`; `reproduce pruning` writes its page
with `--resume`.

Example:
    >>> " ".join(sorted(PAGES))
    'adapt adaptation bench binary-vgg hardware prune run search shrink train train --rule'
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tersa.errors import UsageError
from tersa.recipes.folder import RESULT
from tersa.recipes.runs import read_run, read_shrink
from tersa.records.base import read_record

REPORT = "report.html"
LEARNED = "train --rule"
"""A training under a learning rule or a quantiser: its result is of another kind."""


def rewrite(folder: Path) -> str:
    """Write `report.html` again; the headline.

    Raises:
        UsageError: the run is not finished, or its verb has no such page.
        DataError: a damaged result.
    """
    if not (folder / RESULT).is_file():
        raise UsageError(f"{folder} is not finished: it has no {RESULT}; run its command again with --resume")
    verb = _kind(folder)
    if verb not in PAGES:
        raise UsageError(
            f"{folder} was made by 'tersa {verb}', whose page is not written this way; those of "
            f"{', '.join(PAGES)} are"
        )
    return PAGES[verb](folder)


def _kind(folder: Path) -> str:
    """The verb, the document's experiment, or `LEARNED`; `shrink` for a result that names none or cannot be
    read."""
    verb = read_run(folder).verb
    if verb in ("reproduce", "train"):
        raw = _raw(folder / RESULT)
        return LEARNED if verb == "train" and "cell" in raw else str(raw.get("document", verb))
    return verb or "shrink"


def _raw(path: Path) -> dict[str, Any]:
    """A result as it lies there; empty where it cannot be read, which its own reader says."""
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _shrunk(folder: Path) -> str:
    from tersa.report.page import write

    result = read_shrink(folder)
    write(result, folder / REPORT)
    return result.verdict


def _trained(folder: Path) -> str:
    from tersa.recipes.network_report import write_report
    from tersa.recipes.train import TrainedRun

    result = read_record(folder / RESULT, TrainedRun)
    write_report(folder, result)
    return f"{result.test_accuracy:.2f} % of {result.split_sizes['test']:,} test images are named rightly"


def _learned(folder: Path) -> str:
    from tersa.recipes.learn import LearnedRun
    from tersa.recipes.learn_report import write_report

    return write_report(folder, read_record(folder / RESULT, LearnedRun))


def _searched(folder: Path) -> str:
    from tersa.recipes.joint_report import write_report
    from tersa.recipes.joint_result import SearchResult

    result = read_record(folder / RESULT, SearchResult)
    write_report(folder, result)
    return result.verdict


def _carried_out(folder: Path) -> str:
    from tersa.recipes.recipe import read_recipe
    from tersa.recipes.recipe_report import write_report
    from tersa.recipes.recipe_result import RecipeResult

    result = read_record(folder / RESULT, RecipeResult)
    write_report(folder, read_recipe(folder, result.description), result)
    return result.verdict


def _benched(folder: Path) -> str:
    from tersa.recipes.bench_report import write_report
    from tersa.recipes.bench_result import BenchResult

    result = read_record(folder / RESULT, BenchResult)
    write_report(folder, result)
    return result.verdict


def _measured(folder: Path) -> str:
    from tersa.recipes.hardware_report import write_results
    from tersa.recipes.hardware_result import HardwareResult

    return write_results(read_record(folder / RESULT, HardwareResult), folder).verdict


def _adapted(folder: Path) -> str:
    from tersa.recipes.adaptation_report import write_results
    from tersa.recipes.adaptation_result import AdaptationResult

    return write_results(read_record(folder / RESULT, AdaptationResult), folder).verdict


def _binary(folder: Path) -> str:
    from tersa.recipes.binary_vgg import BinaryVggResult
    from tersa.recipes.binary_vgg_report import write_report

    result = read_record(folder / RESULT, BinaryVggResult)
    write_report(folder, result)
    return result.verdict


PAGES: dict[str, Callable[[Path], str]] = {
    "train": _trained,
    LEARNED: _learned,
    "shrink": _shrunk,
    "prune": _shrunk,
    "adapt": _shrunk,
    "search": _searched,
    "run": _carried_out,
    "bench": _benched,
    "hardware": _measured,
    "adaptation": _adapted,
    "binary-vgg": _binary,
}
"""By verb, or by the document's experiment."""
