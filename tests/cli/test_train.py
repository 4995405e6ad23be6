"""`tersa train`: what it writes, prints and refuses; on the bundled digits with a network of few weights."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from tersa.cli import train as verb
from tersa.data.sources import load as load_task
from tersa.errors import DataError, UsageError
from tersa.models.load import load as load_model
from tersa.recipes.train import CHECKPOINT, Setting, history_of, run_training
from tersa.recipes.train_request import TrainRequest, merged
from tersa.train.evaluation import evaluate
from tersa.train.history import read_history

QUICK = ["--data", "digits", "--model", "mlp:16", "--epochs", "3", "--threads", "1"]

app = typer.Typer(pretty_exceptions_enable=False)
app.command(epilog=verb.EPILOG)(verb.train)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def made(*arguments: object) -> dict[str, Any]:
    """The JSON of a call that works: one object on one line, alone on standard output."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_a_run_writes_its_files_and_says_what_is_in_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = made(*QUICK, "--out", out)
    assert sorted(p.name for p in out.iterdir()) == [
        "history.db",
        "model.safetensors",
        "portrait.json",
        "report.html",
        "result.json",
        "spec.toml",
    ]
    assert said["artefacts"] == [str(out / "model.safetensors")]
    assert (said["verb"], said["status"], said["epochs"]) == ("train", "done", 3)
    assert (said["parameters"], said["macs"]) == (64 * 16 + 16 + 16 * 10 + 10, 64 * 16 + 16 * 10)
    assert said["seconds"] > 0
    stored = json.loads((out / "result.json").read_text())
    assert said["report"] == str(out / "report.html")
    assert {**stored, "artefacts": said["artefacts"], "report": said["report"]} == said
    with closing(sqlite3.connect(out / "history.db")) as database:
        assert [row[0] for row in database.execute("SELECT epoch FROM epochs ORDER BY epoch")] == [1, 2, 3]
    best = max(row.validation_accuracy for row in read_history(out / "history.db"))
    assert said["validation_accuracy"] == pytest.approx(best)


def test_the_stated_accuracy_is_that_of_the_stored_weights(tmp_path: Path) -> None:
    said = made(*QUICK, "--out", tmp_path / "run")
    task = load_task("digits")
    weights = Path(said["artefacts"][0])
    model = load_model("mlp:16", task.shape, 10, checkpoint=weights).module
    found = evaluate(model, task.test, task)
    assert (found.accuracy, found.loss) == (said["test_accuracy"], pytest.approx(said["test_loss"], abs=1e-5))
    assert said["test_accuracy"] > 50


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        states.append(load_file(made(*QUICK, "--seed", seed, "--out", tmp_path / name)["artefacts"][0]))
    assert all(states[0][key].equal(states[1][key]) for key in states[0])
    assert not all(states[0][key].equal(states[2][key]) for key in states[0])


def test_a_table_for_people_goes_to_standard_output(tmp_path: Path) -> None:
    result = call(*QUICK, "--out", tmp_path / "run")
    assert result.exit_code == 0
    for text in ("mlp:16 on digits", "test accuracy", "parameters", "1,210", "done"):
        assert text in result.stdout


def test_settings_reach_the_run(tmp_path: Path) -> None:
    said = made(
        *("--data", "digits", "--model", "mlp:16", "--out", tmp_path / "run"),
        *("--optimizer", "adam", "--lr", "0.002", "--iterations", "30", "--batch", "100"),
        *(
            "--schedule",
            "cosine",
            "--set",
            "label_smoothing=0.2",
            "--set",
            "keep=last",
            "--validation",
            "200",
        ),
    )
    config = said["config"]
    assert (config["optimizer"], config["learning_rate"], config["iterations"]) == ("adam", 0.002, 30)
    assert (config["batch"], config["schedule"], config["keep"]) == (100, "cosine", "last")
    assert config["label_smoothing"] == 0.2
    assert said["split_sizes"]["validation"] == 200


def test_training_goes_on_from_a_checkpoint_of_weights(tmp_path: Path) -> None:
    first = made(*QUICK, "--out", tmp_path / "first")
    weights = first["artefacts"][0]
    still = [*QUICK[:4], "--iterations", "1", "--optimizer", "sgd", "--lr", "1e-12", "--checkpoint", weights]
    second = made(*still, "--out", tmp_path / "second")
    assert second["test_accuracy"] == first["test_accuracy"]


def test_a_student_needs_a_trained_teacher_and_a_form(tmp_path: Path) -> None:
    weights = made(*QUICK, "--out", tmp_path / "teacher")["artefacts"][0]
    student = ["--model", "mlp:8", "--epochs", "2", "--out", tmp_path / "student", "--teacher", "mlp:16"]
    form = ["--set", "distillation=temperature", "--set", "distillation_temperature=3"]
    refused = call(*student, "--teacher-checkpoint", weights)
    assert isinstance(refused.exception, UsageError)
    assert "add --set distillation=temperature" in str(refused.exception)
    refused = call(*student, *form)
    assert isinstance(refused.exception, UsageError)
    assert "teacher 'mlp:16' is not trained" in str(refused.exception)
    assert not (tmp_path / "student").exists()
    said = made(*student, *form, "--teacher-checkpoint", weights)
    assert said["config"]["distillation"] == "temperature"
    plan = made(*student, *form, "--teacher-checkpoint", weights, "--teacher-views", "5", "--dry-run")
    images, classes = plan["split_sizes"]["train"], 10
    assert plan["teacher_seconds"] > 0
    assert plan["teacher_bytes"] == 4 * 1 * images * classes, "a fully connected network sees one view"
    untaught = made("--data", "digits", "--model", "mlp:8", "--epochs", "2", "--dry-run")
    assert (untaught["teacher_seconds"], untaught["teacher_bytes"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "lr=1"], "unknown setting 'lr'"),
        (["--set", "pad"], "--set: 'pad' is not key=value"),
        (["--set", "pad=1", "--set", "pad=2"], "pad is given twice"),
        (["--lr", "0.1", "--set", "learning_rate=0.2"], "learning_rate is given as an option and with --set"),
        (["--optimizer", "adm"], "unknown optimizer 'adm'; did you mean 'adam'?"),
        (["--lr", "-1", "--batch", "-2"], "2 faults"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--set", "distillation=document"], "needs --teacher MODEL"),
        (["--teacher-checkpoint", "x"], "without --teacher"),
        (["--teacher-views", "3"], "--teacher-views is given without --teacher"),
        (["--rule", "bp", "--teacher-views", "3"], "--teacher-views"),
        (["--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(arguments: list[str], said: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "run").mkdir()
    (out / "spec.toml").write_text("")
    result = call(*QUICK[:4], "--out", out, *arguments)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
    assert [p.name for p in out.iterdir()] == ["spec.toml"]


def test_an_existing_folder_is_refused_resumed_or_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = made(*QUICK, "--out", out)
    refused = call(*QUICK, "--out", out)
    assert isinstance(refused.exception, UsageError)
    assert "--resume goes on with it, --overwrite starts again" in str(refused.exception)
    assert made(*QUICK, "--out", out, "--resume") == first
    other = call(*QUICK, "--out", out, "--resume", "--lr", "0.01")
    assert isinstance(other.exception, UsageError)
    assert "learning_rate" in str(other.exception)
    again = made(*QUICK, "--out", out, "--overwrite", "--lr", "0.01")
    assert again["config"]["learning_rate"] == 0.01


def test_a_dry_run_makes_nothing_and_tells_time_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call(*QUICK, "--out", out, "--dry-run")
    assert result.exit_code == 0
    assert "GB of memory; nothing was done" in result.stdout
    assert not out.exists()
    plan = made(*QUICK, "--out", out, "--dry-run")
    assert plan["cost"]["epochs"] == 3
    assert plan["cost"]["iterations"] == 3 * -(
        -plan["split_sizes"]["train"] // plan["spec"]["config"]["batch"]
    )
    assert 0 < plan["cost"]["seconds"] < 60
    assert 10**7 < plan["cost"]["memory_bytes"] < 10**10


def test_a_diverged_run_keeps_its_result_and_exits_with_1(tmp_path: Path) -> None:
    out = tmp_path / "run"
    wild = ["--optimizer", "sgd", "--lr", "3e38", "--schedule", "constant", "--set", "clip_norm=0"]
    result = call(*QUICK, *wild, "--out", out, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["status"] == "diverged"
    assert 0 <= said["test_accuracy"] < 50
    assert json.loads((out / "result.json").read_text())["status"] == "diverged"


def test_every_option_is_shown_with_examples() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for text in ("--optimizer", "--set", "--resume", "--dry-run", "--json", "tersa train --data digits"):
        assert text in result.stdout
    assert "Apprentice" in result.stdout


def test_merged_leaves_out_what_was_not_given() -> None:
    assert merged({"a": None, "b": 0}, ["c=x=y"]) == {"b": 0, "c": "x=y"}


def test_a_folder_without_history_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        history_of(tmp_path)


JOB = """
import sys
from pathlib import Path
from tersa.recipes.train import Setting, run_training
from tersa.recipes.train_request import TrainRequest
request = TrainRequest(data="digits", model="mlp:16", settings={"epochs": 25, "seed": 3})
told = lambda task, done, remark: print(done, flush=True)
run_training(request, Path(sys.argv[1]), setting=Setting(threads=1, say=told), resume=True)
"""


def test_a_killed_job_resumed_ends_like_one_that_was_not(tmp_path: Path) -> None:
    rough = tmp_path / "rough"
    process = subprocess.Popen([sys.executable, "-c", JOB, rough], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout:
        for told, _ in enumerate(process.stdout):
            if told == 9:
                time.sleep(0.004)
                process.kill()
    assert process.wait(timeout=60) == -9
    assert not (rough / "result.json").exists()
    assert (rough / CHECKPOINT).exists()
    assert 0 < len(history_of(rough)) < 25

    request = TrainRequest(data="digits", model="mlp:16", settings={"epochs": 25, "seed": 3})
    setting = Setting(threads=1)
    resumed = run_training(request, rough, setting=setting, resume=True)
    calm = run_training(request, tmp_path / "calm", setting=setting)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("rough", "calm"))
    assert all(a[key].equal(b[key]) for key in a)
    assert (resumed.test_accuracy, resumed.test_loss) == (calm.test_accuracy, calm.test_loss)
    assert not (rough / CHECKPOINT).exists()


TINY = ["--data", "digits", "--epochs", "3", "--threads", "1"]


def test_a_low_bit_network_says_its_bits_and_comes_back_the_same(tmp_path: Path) -> None:
    spec = "tfc+w1a1:in=1,by=tanh"
    said = made(*TINY, "--model", spec, "--out", tmp_path / "run")
    assert said["bits"] == "1/1 (W/A), input 1, first 1/1, last 1/1, by=tanh"
    assert said["config"]["optimizer"] == "adam"
    task = load_task("digits")
    again = load_model(spec, task.shape, 10, checkpoint=tmp_path / "run" / "model.safetensors").module
    assert evaluate(again, task.test, task).accuracy == said["test_accuracy"] > 40  # chance is 10
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(t.abs().max() <= 1 for name, t in weights.items() if t.ndim == 2)


def test_two_stages_are_two_commands(tmp_path: Path) -> None:
    made(*TINY, "--model", "tfc+w32a1", "--out", tmp_path / "first")
    weights = tmp_path / "first" / "model.safetensors"
    said = made(*TINY, "--model", "tfc+w1a1", "--checkpoint", weights, "--out", tmp_path / "second")
    assert said["bits"].startswith("1/1")


def test_bits_are_shown_to_people(tmp_path: Path) -> None:
    shown = call(*TINY, "--model", "tfc+w2a2", "--out", tmp_path / "run", "--dry-run")
    assert "2/2 (W/A), input 8, first 2/8, last 2/2" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "tfc+w1a1:scale=lab", "--optimizer", "sgd"], "scale=lab follows Adam's second moments"),
        (["--model", "lenet+w1a1"], "'lenet' has no low-bit form"),
        (["--model", "tfc+w1a1:first=8"], "neither W/A"),
    ],
)
def test_low_bits_that_cannot_be_are_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = call(*TINY, *arguments, "--out", tmp_path / "run")
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
    assert not (tmp_path / "run").exists()
