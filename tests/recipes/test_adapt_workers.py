"""Candidates that are fine-tuned by workers: the same networks, and what goes wrong in one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.recipes.in_this_process import in_this_process
from tests.recipes.test_adapt import files, spec

from tersa.errors import Diverged, TersaError
from tersa.recipes import adapt_workers, outcome
from tersa.recipes.adapt import adapt
from tersa.recipes.setting import Setting
from tersa.recipes.trajectory import Trajectory
from tersa.study import gather
from tersa.study.cluster import Crew

TWO = Crew(workers=2)


@pytest.fixture(autouse=True)
def one_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "installed", list)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(threads=1, seconds=0.02, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"score": "naswot", "hybrid": 1.0, "shortlist": 2}, id="race", marks=pytest.mark.slow),
        pytest.param({"score": "finetune"}, id="all", marks=pytest.mark.slow),
        pytest.param({"score": "finetune", "race": 0.5}, id="all race"),
    ],
)
def test_workers_make_the_same_networks(
    how: dict[str, object], tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "carry_out", in_this_process)
    wanted = spec(search="netadapt", **how)
    one = adapt(wanted, tmp_path / "one", setting=setting)
    many = adapt(wanted, tmp_path / "many", setting=setting, crew=TWO)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    rows = [Trajectory(tmp_path / name).rows("steps") for name in ("one", "many")]
    assert [row.validation_accuracy for row in rows[0]] == [row.validation_accuracy for row in rows[1]]
    assert one.adaptation is not None
    assert many.adaptation is not None
    scores = [[row.score for row in each.adaptation.candidates] for each in (one, many) if each.adaptation]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_candidate_that_diverges_is_left_out(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = adapt_workers.retrain_, list[int]()

    def first_diverges(job: Any, model: Any, iterations: int, *, seed: int) -> None:
        asked.append(seed)
        if len(asked) == 1:
            raise Diverged("the loss became NaN")
        real(job, model, iterations, seed=seed)

    monkeypatch.setattr(gather, "carry_out", in_this_process)
    monkeypatch.setattr(adapt_workers, "retrain_", first_diverges)
    result = adapt(spec(search="netadapt", score="finetune"), tmp_path / "run", setting=setting, crew=TWO)
    assert result.adaptation is not None
    first = [row for row in result.adaptation.candidates if row.step == 1]
    assert len(first) == len({row.group for row in result.adaptation.candidates}) - 1


def test_an_error_in_a_worker_ends_the_run_with_its_trace(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(gather, "carry_out", in_this_process)
    monkeypatch.setattr(adapt_workers, "retrain_", broken)
    with pytest.raises(TersaError, match=r"candidate \d of 2: Traceback[\s\S]*RuntimeError: no memory left$"):
        adapt(spec(search="netadapt", score="finetune"), tmp_path / "run", setting=setting, crew=TWO)


@pytest.mark.slow
def test_processes_make_the_same_networks(tmp_path: Path, setting: Setting) -> None:
    wanted = spec(search="netadapt", score="finetune", delta=0.3)
    adapt(wanted, tmp_path / "one", setting=setting)
    adapt(wanted, tmp_path / "many", setting=setting, crew=TWO)
    assert files(tmp_path / "one") == files(tmp_path / "many")
