"""Files that could be shipped, and what a runtime that cannot load one means for a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tersa.data import load as load_task
from tersa.errors import ModelError
from tersa.export.onnx import export_onnx
from tersa.models.zoo import build
from tersa.recipes import deploy
from tersa.recipes.deploy import Dock, race
from tersa.targets.registry import parse


class Refuses:
    """A runtime that loads nothing."""

    def prepare(self, *_: object) -> object:
        raise ModelError("net.onnx is not an ONNX file that it can load: rank")


def test_only_the_goals_own_target_must_load_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task("digits")
    model: nn.Module = build("mlp:4", task.shape, 10).eval()
    artefact = export_onnx(model, task, tmp_path / "net.onnx")
    monkeypatch.setattr(deploy, "parse", lambda name: Refuses() if name == "beside" else parse(name))
    dock = Dock(task, ("fp32",), "onnxruntime@threads=1", 1, 0)
    assert race(dock, artefact, artefact, seconds=0.02).verdict != "not offered"
    found = race(dock, artefact, artefact, seconds=0.02, target="beside")
    assert (found.verdict, found.target, found.precision) == ("not offered", "beside", "fp32")
    assert "it can load: rank" in found.reason
    with pytest.raises(ModelError, match="it can load: rank"):
        race(Dock(task, ("fp32",), "beside", 1, 0), artefact, artefact, seconds=0.02)
