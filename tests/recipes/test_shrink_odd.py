"""The main job on what users bring: other shapes, other networks, other goals, and other accidents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tersa.cli.console import Terminal
from tersa.cli.runs import tell
from tersa.data import load as load_task
from tersa.errors import ModelError, UsageError
from tersa.models.zoo import build
from tersa.recipes.goals import Bound, Goals
from tersa.recipes.request import ShrinkSpec, command_of
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import shrink
from tersa.report.words import GUESSES
from tersa.targets import registry

QUICK = {"retrain": 4, "tune": 10, "share": 0.5, "criterion_samples": 60}


def quick(data: str = "digits", **changes: object) -> ShrinkSpec:
    settings = {
        "data": data,
        "epochs": 2,
        "protocol": QUICK,
        "goals": Goals(macs=Bound(value=0.6, relative=True)),
    }
    return ShrinkSpec.model_validate({**settings, "precision": "fp32", **changes})


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(threads=1, seconds=0.03, cache=tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", pytest.param("int8", marks=pytest.mark.slow)])
def test_features_of_two_classes(precision: str, tmp_path: Path, setting: Setting) -> None:
    """Not pixels: normal deviates of both signs, (N, F)."""
    generator = np.random.default_rng(0)
    x = generator.normal(0, 3, size=(300, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    np.savez(tmp_path / "t.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    spec = quick(str(tmp_path / "t.npz"), model="mlp:12x6", precision=precision)
    result = shrink(spec, tmp_path / "run", setting=setting)
    assert np.array(result.confusion).shape == (2, 2)
    assert result.result.parameters < result.baseline.parameters
    assert result.agreement.images == 100


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["mobilenet:0.25", "mlp:16x12"])
def test_other_families(spec: str, tmp_path: Path, setting: Setting) -> None:
    result = shrink(quick(model=spec), tmp_path / "run", setting=setting)
    assert result.acceleration >= 1 / 0.6
    assert result.reference_agreement.same_class == result.reference_agreement.images


@pytest.mark.slow
def test_own_weights_are_the_baseline(tmp_path: Path, setting: Setting) -> None:
    model = build("mlp:16", (1, 8, 8), 10, seed=3)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    spec = quick(model="mlp:16", checkpoint=str(tmp_path / "w.safetensors"), epochs=None)
    result = shrink(spec, tmp_path / "run", setting=setting)
    task = load_task("digits")
    with torch.inference_mode():
        right = (model(task.normalise(task.test.images)).argmax(1) == task.test.labels).double().mean()
    assert result.baseline.test_accuracy == pytest.approx(100 * float(right))
    assert any("weights were given" in note for note in result.notes)


@pytest.mark.slow
def test_resume_with_other_weights_is_refused(tmp_path: Path, setting: Setting) -> None:
    def write(seed: int) -> None:
        state = build("mlp:16", (1, 8, 8), 10, seed=seed).state_dict()
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")

    write(1)
    spec = quick(model="mlp:16", checkpoint=str(tmp_path / "w.safetensors"), epochs=None)
    shrink(spec, tmp_path / "run", setting=setting)
    (tmp_path / "run" / "result.json").unlink()
    write(2)
    with pytest.raises(UsageError, match="was started with another baseline"):
        shrink(spec, tmp_path / "run", setting=setting, resume=True)


@pytest.mark.slow
def test_a_result_without_its_files_is_not_believed(tmp_path: Path, setting: Setting) -> None:
    first = shrink(quick(model="mlp:16"), tmp_path / "run", setting=setting)
    (tmp_path / "run" / "model.onnx").unlink()
    again = shrink(quick(model="mlp:16"), tmp_path / "run", setting=setting, resume=True)
    assert (tmp_path / "run" / "model.onnx").is_file()
    assert again.result.parameters == first.result.parameters


@pytest.mark.slow
def test_a_typo_costs_no_finished_run(tmp_path: Path, setting: Setting) -> None:
    shrink(quick(model="mlp:16"), tmp_path / "run", setting=setting)
    for wrong in (
        {"model": "mlpp:16"},
        {"model": "mlp:16", "checkpoint": "none.safetensors", "epochs": None},
    ):
        with pytest.raises((UsageError, ModelError)):
            shrink(quick(**wrong), tmp_path / "run", setting=setting, overwrite=True)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["model"] == "mlp:16"
    with pytest.raises(UsageError):
        shrink(quick(model="mlpp:16"), tmp_path / "new", setting=setting)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_only_installed_runtimes_are_measured(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.package_version
    monkeypatch.setattr(registry, "package_version", lambda name: "" if name == "openvino" else real(name))
    result = shrink(quick(model="mlp:16"), tmp_path / "run", setting=setting)
    assert {row.target.split("@")[0] for row in result.comparisons} == {"onnxruntime", "torch"}


@pytest.mark.slow
def test_latency_goal_is_steered_and_judged(tmp_path: Path, setting: Setting) -> None:
    goals = Goals(latency=Bound(value=0.7, relative=True))
    result = shrink(quick(model="mlp:512x512", goals=goals), tmp_path / "run", setting=setting)
    (goal,) = result.goals
    assert goal.unit == "ms"
    assert goal.reached == result.result.latency_ms.median
    assert goal.asked == pytest.approx(0.7 * result.baseline.latency_ms.median)
    assert all(step.latency_ms is not None for step in result.steps if step.stage == "prune")


@pytest.mark.slow
def test_size_goal_may_be_met_by_int8(tmp_path: Path, setting: Setting) -> None:
    goals = Goals(size=Bound(value=0.3, relative=True))
    result = shrink(
        quick(model="mlp:256x128", goals=goals, precision="auto"), tmp_path / "run", setting=setting
    )
    assert [goal.met for goal in result.goals] == [True]
    assert result.result.size_bytes <= 0.3 * result.baseline.size_bytes


@pytest.mark.slow
def test_a_bound_that_is_met_already_changes_nothing(tmp_path: Path, setting: Setting) -> None:
    for name, goals in (
        ("size", Goals(size=Bound(value=1e8, relative=False))),
        ("macs", Goals(macs=Bound(value=1e9, relative=False))),
    ):
        result = shrink(quick(model="mlp:16", goals=goals), tmp_path / name, setting=setting)
        assert result.compression == 1.0
        assert [goal.met for goal in result.goals] == [True]


def test_min_accuracy_above_the_baseline_says_so(tmp_path: Path, setting: Setting) -> None:
    goals = Goals(min_accuracy=100.0)
    result = shrink(quick(model="mlp:4", goals=goals), tmp_path / "run", setting=setting)
    assert result.compression == 1.0
    assert not result.goals[0].met
    assert "the baseline itself has" in result.goals[0].reason


@pytest.mark.slow
def test_no_goal_is_one_point(tmp_path: Path, setting: Setting) -> None:
    result = shrink(quick(model="mlp:16", goals=Goals()), tmp_path / "run", setting=setting)
    assert [(goal.name, goal.asked) for goal in result.goals] == [("max-loss", 1.0)]


@pytest.mark.slow
def test_batch_beyond_the_split_is_measured_as_asked(tmp_path: Path, setting: Setting) -> None:
    result = shrink(quick(model="mlp:16", batch=400), tmp_path / "run", setting=setting)
    assert {row.after.batch for row in result.comparisons if row.after} == {400}


def test_retraining_that_diverges_keeps_what_there_is(tmp_path: Path, setting: Setting) -> None:
    spec = quick(model="mlp:16", protocol={**QUICK, "learning_rate": 1e30})
    result = shrink(spec, tmp_path / "run", setting=setting)
    assert result.compression == 1.0
    assert not result.goals[0].met


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"criterion": "tailor"}}, "unknown criterion 'tailor'; did you mean 'taylor'"),
        ({"protocol": {"share": "much"}}, "share is much"),
        ({"protocol": {"retrain": -2, "tune": -1}}, "2 faults"),
        ({"epochs": 2, "checkpoint": "w.safetensors"}, "leave out one of them"),
    ],
)
def test_settings_are_checked_first(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        shrink(quick(**changes), tmp_path / "run")


def test_network_without_anything_to_remove(tmp_path: Path, setting: Setting) -> None:
    lines = (
        "from torch import nn",
        "def build(shape, classes):",
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))",
    )
    (tmp_path / "net.py").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="no channels that can be removed"):
        shrink(quick(model=f"{tmp_path / 'net.py'}:build"), tmp_path / "run", setting=setting)


def test_command_is_one_that_the_command_line_takes(capsys: pytest.CaptureFixture[str]) -> None:
    from tersa.cli.main import execute

    goals = Goals(max_loss=0.5, latency=Bound(value=2, relative=False), size=Bound(value=0.5, relative=True))
    text = command_of(quick(goals=goals, seed=4, model="mlp:16"))
    execute(["shrink", "--help"])
    known = capsys.readouterr().out
    assert all(word in known for word in text.split() if word.startswith("--"))
    assert "--latency 2ms" in text
    assert "--size 0.5x" in text


def test_untraceable_network_is_refused_before_any_work(tmp_path: Path, setting: Setting) -> None:
    lines = (
        "from torch import nn",
        "class Net(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.fc = nn.Linear(64, 10)",
        "    def forward(self, x):",
        "        x = x.flatten(1)",
        "        return self.fc(x if float(x.sum()) > 1e9 else -x)",
        "def build():",
        "    return Net()",
    )
    (tmp_path / "net.py").write_text("\n".join(lines))
    with pytest.raises(ModelError, match="cannot trace the network"):
        shrink(quick(model=f"{tmp_path / 'net.py'}:build"), tmp_path / "run", setting=setting)
    assert not (tmp_path / "run").exists()


def test_exported_network_brings_its_weights(
    tmp_path: Path, setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("mlp:16", (1, 8, 8), 10, seed=3)
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    spec = quick(model=str(tmp_path / "net.pt2"), epochs=None)
    result = shrink(spec, tmp_path / "run", setting=setting)
    assert result.baseline.parameters == sum(p.numel() for p in model.parameters())
    assert GUESSES in result.notes
    tell(Terminal(json=False), result, tmp_path / "run")
    assert GUESSES in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(UsageError, match="brings its weights"):
        shrink(spec.model_copy(update={"epochs": 3}), tmp_path / "other", setting=setting)
