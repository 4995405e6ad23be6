"""The main job, small: a LeNet of 28 channels on the digits, every promise held against files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from tersa.data import load as load_task
from tersa.errors import TargetError, UsageError
from tersa.models.zoo import build
from tersa.prune.surgery import resize_
from tersa.recipes.goals import Bound, Goals
from tersa.recipes.request import ShrinkSpec
from tersa.recipes.setting import Setting
from tersa.recipes.shrink import shrink
from tersa.recipes.subjects import find_subject
from tersa.records.base import read_record
from tersa.records.results import ShrinkResult

QUICK = {"retrain": 8, "tune": 60, "share": 0.2, "criterion_samples": 200}
MODEL = "lenet:4-8-16"
LOGIT = 1e-3
"""Float sums in another order, with the normalisation folded into the first layer."""


def spec(**changes: object) -> ShrinkSpec:
    settings = {
        "data": "digits",
        "model": MODEL,
        "epochs": 6,
        "protocol": QUICK,
        "goals": Goals(max_loss=10.0),
        "precision": "fp32",
    }
    return ShrinkSpec.model_validate({**settings, **changes})


def setting(**changes: object) -> Setting:
    return Setting(**{"threads": 1, "seconds": 0.1, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, ShrinkResult]:
    out = tmp_path_factory.mktemp("runs") / "demo"
    return out, shrink(spec(), out, setting=setting(cache=cache, command="tersa shrink ..."))


def outside(folder: Path, name: str) -> np.ndarray:
    """Answers of an exported file, by onnxruntime alone, on pixels in 0..1."""
    task = load_task("digits")
    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: task.test.images.numpy()})[0]


def test_the_file_reaches_the_stated_accuracy_to_the_image(done: tuple[Path, ShrinkResult]) -> None:
    out, result = done
    labels = load_task("digits").test.labels.numpy()
    for name, figures in ((result.artefacts[0], result.result), ("baseline.onnx", result.baseline)):
        right = int((outside(out, name).argmax(axis=1) == labels).sum())
        assert figures.test_accuracy == pytest.approx(100.0 * right / len(labels), abs=1e-9)
        assert figures.size_bytes == (out / name).stat().st_size
    table = np.array(result.confusion)
    assert table.sum() == len(labels)
    assert 100.0 * table.trace() / len(labels) == pytest.approx(result.result.test_accuracy, abs=1e-9)
    assert table.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()


def test_weights_and_file_are_the_same_network(done: tuple[Path, ShrinkResult]) -> None:
    out, result = done
    task = load_task("digits")
    model = build(MODEL, task.shape, 10)
    resize_(model, load_file(out / "model.safetensors"))
    assert sum(p.numel() for p in model.parameters()) == result.result.parameters
    exact = "model.onnx" if result.result.precision == "fp32" else "model-fp32.onnx"
    with torch.inference_mode():
        logits = model.eval()(task.normalise(task.test.images)).numpy()
    np.testing.assert_allclose(outside(out, exact), logits, atol=LOGIT * max(1.0, np.abs(logits).max()))
    again = find_subject(str(out), None).module
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_ratios_follow_from_the_figures(done: tuple[Path, ShrinkResult]) -> None:
    _, r = done
    assert r.compression == r.baseline.parameters / r.result.parameters > 1.5
    assert r.acceleration == r.baseline.macs / r.result.macs > 1.2
    assert r.size_ratio == r.baseline.size_bytes / r.result.size_bytes
    assert r.loss_points == pytest.approx(r.baseline.test_accuracy - r.result.test_accuracy)
    assert [goal.met for goal in r.goals] == [r.loss_points <= 10.0]
    main = r.comparisons[0]
    assert (main.target, main.precision) == ("onnxruntime@threads=1", r.result.precision)
    assert r.speedup == main.speedup
    assert r.result.latency_ms == main.after.latency_ms


@pytest.mark.slow
def test_every_runtime_and_precision_has_a_row(cache: Path, tmp_path: Path) -> None:
    r = shrink(spec(precision="auto"), tmp_path / "run", setting=setting(cache=cache))
    rows = {(row.target.split("@")[0], row.precision): row.verdict for row in r.comparisons}
    assert {
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("torch", "fp32"),
        ("torch", "int8"),
    } <= rows.keys()
    assert rows["torch", "int8"] == "not offered"


def test_steps_tell_the_way(done: tuple[Path, ShrinkResult]) -> None:
    _, r = done
    assert [step.index for step in r.steps] == list(range(len(r.steps)))
    assert r.steps[0].stage == "baseline"
    pruned = [step.parameters for step in r.steps if step.stage == "prune"]
    assert pruned == sorted(pruned, reverse=True)
    assert len(set(pruned)) == len(pruned) >= 4
    kept = [step for step in r.steps if step.kept]
    assert len(kept) == 1
    assert kept[0].parameters == r.result.parameters
    assert {layer.name: layer.after for layer in r.layers if layer.name != "fc2"} == kept[0].widths


def test_folder_holds_what_the_design_names(done: tuple[Path, ShrinkResult]) -> None:
    out, result = done
    names = {path.name for path in out.iterdir()}
    assert {
        "spec.toml",
        "history.db",
        "model.safetensors",
        "model.onnx",
        "run.py",
        "result.json",
        "report.html",
    } <= names
    assert read_record(out / "result.json", ShrinkResult) == result
    assert not list(out.rglob("*.part"))
    text = (out / "report.html").read_text()
    assert result.verdict in text
    assert all(
        key in json.loads((out / "result.json").read_text()) for key in ("baseline", "compression", "speedup")
    )


def test_run_script_classifies_with_onnxruntime_alone(
    done: tuple[Path, ShrinkResult], tmp_path: Path
) -> None:
    out, _ = done
    task = load_task("digits")
    np.save(tmp_path / "one.npy", task.test.images[0].numpy().transpose(1, 2, 0))
    command = [sys.executable, str(out / "run.py"), str(tmp_path / "one.npy")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert task.classes[int(outside(out, "model.onnx")[0].argmax())] in found.stdout
    assert "tersa" not in (out / "run.py").read_text()


def test_finished_run_is_returned_as_it_is(done: tuple[Path, ShrinkResult], cache: Path) -> None:
    out, result = done
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert shrink(spec(), out, setting=setting(cache=cache), resume=True) == result
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps
    with pytest.raises(UsageError, match="exists; --resume"):
        shrink(spec(), out, setting=setting(cache=cache))


@pytest.mark.slow
def test_same_seed_same_weights_and_another_seed_others(
    done: tuple[Path, ShrinkResult], cache: Path, tmp_path: Path
) -> None:
    out, _ = done
    shrink(spec(), tmp_path / "again", setting=setting(cache=cache))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "baseline.onnx").read_bytes() == (out / "baseline.onnx").read_bytes()


@pytest.mark.slow
def test_interrupted_run_goes_on_to_the_same_weights(
    done: tuple[Path, ShrinkResult], cache: Path, tmp_path: Path
) -> None:
    """Stop after the third pruning step, as a kill would, and resume."""
    out, result = done

    class Stop(Exception):
        pass

    calls: list[str] = []

    def stop(task: str, share: float, remark: str) -> None:
        calls.extend([remark] if task == "prune" else [])
        if len(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        shrink(spec(), tmp_path / "run", setting=setting(cache=cache, say=stop))
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = shrink(spec(), tmp_path / "run", setting=setting(cache=cache), resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert [s.parameters for s in resumed.steps] == [s.parameters for s in result.steps]


@pytest.mark.slow
def test_impossible_goal_keeps_the_best_and_says_why(cache: Path, tmp_path: Path) -> None:
    goals = Goals(max_loss=0.0, size=Bound(value=700, relative=False))
    result = shrink(spec(goals=goals), tmp_path / "run", setting=setting(cache=cache))
    size = next(goal for goal in result.goals if goal.name == "size")
    assert not size.met
    assert size.reached == (tmp_path / "run" / "model.onnx").stat().st_size
    assert "parameters" in size.reason
    assert result.verdict.startswith("Goal missed")


@pytest.mark.slow
def test_cost_goals_stop_as_soon_as_they_are_met(cache: Path, tmp_path: Path) -> None:
    goals = Goals(macs=Bound(value=0.6, relative=True))
    result = shrink(spec(goals=goals), tmp_path / "run", setting=setting(cache=cache))
    assert [goal.met for goal in result.goals] == [True]
    assert 0.2 < result.result.macs / result.baseline.macs <= 0.6
    inside = [s for s in result.steps if s.stage == "prune" and s.macs <= 0.6 * result.baseline.macs]
    assert [step.within for step in inside] == [True], "pruning stops at the first step within the bound"


@pytest.mark.slow
def test_int8_is_what_is_shipped_when_asked(cache: Path, tmp_path: Path) -> None:
    result = shrink(spec(precision="int8"), tmp_path / "run", setting=setting(cache=cache))
    assert result.result.precision == "int8"
    assert (tmp_path / "run" / "model-fp32.onnx").is_file()
    assert result.agreement.same_class >= 0.9 * result.agreement.images
    assert result.reference_agreement.largest_difference <= result.reference_agreement.tolerance
    assert [step.stage for step in result.steps if step.kept] == ["quantise"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"precision": "int4"}, UsageError, "unknown precision 'int4'"),
        ({"precision": "int8", "target": "torch"}, TargetError, "does not offer int8; it has fp32"),
        ({"target": "onxruntime"}, UsageError, "did you mean 'onnxruntime'"),
        ({"data": "digit"}, UsageError, "did you mean 'digits'"),
        ({"protocol": {"tone": 3}}, UsageError, "did you mean 'tune'"),
        ({"protocol": {"share": 1.5}}, UsageError, "share is 1.5: input should be less than 1"),
        ({"batch": 0}, UsageError, "must be 1 or more"),
        ({"model": "mlp:"}, UsageError, "mlp"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(
    changes: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        shrink(spec(**changes), tmp_path / "run", setting=setting(cache=tmp_path / "cache"))
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_killed_anywhere_and_resumed_ends_the_same(
    done: tuple[Path, ShrinkResult], cache: Path, tmp_path: Path
) -> None:
    """SIGKILL after growing delays, then to the end: every file is whole, the weights are equal."""
    out, _ = done
    words = "shrink --data digits --model lenet:4-8-16 --epochs 6 --max-loss 10 --precision fp32"
    more = "--retrain 8 --tune 60 --share 0.2 --criterion-samples 200 --threads 1 --resume --out"
    command = [sys.executable, "-c", "from tersa.cli.main import run; run()"]
    command += [*words.split(), *more.split(), str(tmp_path / "run")]
    environment = {**os.environ, "TERSA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    for delay in (3.0, 5.0, 7.0, 9.0):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "run").rglob("*.safetensors"):
            load_file(path)
    assert subprocess.run(command, env=environment, capture_output=True).returncode in (0, 3)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert read_record(tmp_path / "run" / "result.json", ShrinkResult).schema_version == 1
