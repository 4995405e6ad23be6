"""A teacher that is asked once, before the training, about fixed views of the images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tersa.errors import UsageError
from tersa.recipes.setting import Setting
from tersa.recipes.train import lessons_for, run_training
from tersa.recipes.train_request import TrainRequest
from tersa.train import lessons as module

FOLLOWING: dict[str, object] = {
    "epochs": 6, "distillation": "temperature", "distillation_temperature": 4.0, "pad": 1, "keep": "last",
}  # fmt: skip


class Stop(Exception):
    """A kill."""


@pytest.fixture
def request_of_views(tmp_path: Path) -> TrainRequest:
    asked = TrainRequest(data="digits", model="mlp:16", settings={"epochs": 3})
    run_training(asked, tmp_path / "teacher", setting=Setting(threads=1))
    return TrainRequest(
        data="digits",
        model="mlp:8",
        teacher="mlp:16",
        teacher_checkpoint=str(tmp_path / "teacher/model.safetensors"),
        teacher_views=3,
        settings=FOLLOWING,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_a_killed_run_goes_on_to_the_same_weights(request_of_views: TrainRequest, tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    asked: list[str] = []

    def stop(task: str, share: float, remark: str) -> None:
        asked.append(task)
        if task == "train" and share > 0.5:
            raise Stop

    run_training(request_of_views, calm, setting=Setting(threads=1))
    with pytest.raises(Stop):
        run_training(request_of_views, rough, setting=Setting(threads=1, say=stop))
    assert "teacher" in asked
    run_training(request_of_views, rough, setting=Setting(threads=1), resume=True)
    assert same(calm, rough)
    every = request_of_views.model_copy(update={"teacher_views": 0})
    run_training(every, tmp_path / "every", setting=Setting(threads=1))
    assert not same(calm, tmp_path / "every"), "about every batch it sees other views"


def test_answers_that_were_asked_for_before_are_those_of_the_run(
    request_of_views: TrainRequest, tmp_path: Path
) -> None:
    setting = Setting(threads=1)
    answers = lessons_for(request_of_views, setting)
    assert answers is not None
    assert answers.logits.shape[0] == 3
    run_training(request_of_views, tmp_path / "a", setting=setting, lessons=answers)
    run_training(request_of_views, tmp_path / "b", setting=setting)
    assert same(tmp_path / "a", tmp_path / "b")
    assert lessons_for(TrainRequest(data="digits", model="mlp:8"), setting) is None


def test_more_views_than_fit_are_refused(
    request_of_views: TrainRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2 * 4 * 1200 * 10)
    with pytest.raises(UsageError, match="--teacher-views 3: at most 2 of these images fit"):
        run_training(request_of_views, tmp_path / "run", setting=Setting(threads=1))
    assert not (tmp_path / "run").exists()


def test_answers_of_other_views_are_refused(request_of_views: TrainRequest, tmp_path: Path) -> None:
    answers = lessons_for(request_of_views, Setting(threads=1))
    for views in (0, 2):
        other = request_of_views.model_copy(update={"teacher_views": views})
        with pytest.raises(UsageError, match=f"lessons of 3 views were given, {views} are asked for"):
            run_training(other, tmp_path / "run", setting=Setting(threads=1), lessons=answers)
    assert not (tmp_path / "run").exists()


def test_a_run_without_views_has_the_spec_of_older_versions(tmp_path: Path) -> None:
    asked = TrainRequest(data="digits", model="mlp:4", settings={"epochs": 1})
    run_training(asked, tmp_path / "run", setting=Setting(threads=1))
    assert "teacher_views" not in (tmp_path / "run/spec.toml").read_text()
