"""The job `search` of a recipe."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tersa.cli.main import execute
from tersa.errors import UsageError
from tersa.recipes.recipe_jobs import JOBS
from tersa.recipes.recipe_search import SearchRequest, search_request
from tersa.study.cluster import Crew

pytest.importorskip("optuna")

RECIPE = """
name = "job"
description = "A network, then the best of a few of its kind."

[common]
data = "digits"

[[step]]
job = "train"
name = "base"
model = "mlp:16x8"
epochs = 2

[[step]]
job = "search"
name = "best"
run = "base"
widths = "1"
costs = "size,macs"
size = "0.5x"
tune = 4
trials = 2

[[step]]
job = "bench"
models = ["base", "best"]
targets = "onnxruntime@threads=1"
seconds = 0.05
"""


@pytest.mark.slow
def test_a_search_is_a_step_that_others_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "job.toml", tmp_path / "out"
    file.write_text(RECIPE)
    assert execute(["run", str(file), "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()
    assert execute(["run", str(file), "--out", str(out), "--measure-seconds", "0.05"]) in (0, 3)
    folder = next(path for path in out.iterdir() if path.name.endswith("best"))
    assert (folder / "model.onnx").is_file()
    assert (folder / "result.json").is_file()
    for page in (out / "report.html", folder / "report.html"):  # of the recipe, and of the search in it
        first = page.read_text(encoding="utf-8")
        assert "best" in first
        page.unlink()
        assert execute(["report", str(page.parent)]) == 0
        assert page.read_text(encoding="utf-8") == first


def test_settings_are_those_of_the_verb_and_may_be_lists() -> None:
    asked = search_request({"widths": [1.0, 0.5], "costs": ["macs"], "max_loss": 2, "workers": 2})
    assert isinstance(asked, SearchRequest)
    assert (asked.spec.widths, asked.spec.costs, asked.workers, asked.trials) == (
        (1.0, 0.5),
        ("macs",),
        2,
        40,
    )
    assert {"trials", "workers", "latency", "bits", "most"} <= JOBS["search"].settings


def test_the_time_of_a_step_is_that_of_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from tersa.recipes import recipe_search
    from tersa.recipes.recipe import parse
    from tersa.recipes.recipe_check import check
    from tersa.recipes.recipe_run import estimate
    from tersa.recipes.setting import Setting

    asked = list[Any]()
    monkeypatch.setattr(
        recipe_search, "plan_search", lambda *given: asked.append(given[-1]) or SimpleNamespace(seconds=7.0)
    )
    recipe = parse('step = [{job = "search", model = "mlp:8", workers = 3}]', "x.toml", [])
    (step,) = check(recipe, Path("nowhere"), Setting(threads=2), [])
    assert estimate(step) == 7.0
    assert asked == [Crew(workers=3, threads=2)]


def test_all_faults_come_together() -> None:
    with pytest.raises(UsageError) as caught:
        search_request({"trials": 0, "workers": "two", "size": "half", "bits": "9..2", "costs": "speed"})
    told = str(caught.value)
    for part in ("trials is 0", "workers is 'two'", "half", "costs.0 is 'speed'"):
        assert part in told, told
