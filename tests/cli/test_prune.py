"""`tersa prune` as a user runs it: a newcomer's commands, exit codes, one line for every fault."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tersa.cli.main import execute

LENET = ["--data", "digits", "--model", "lenet:4-8-16", "--epochs", "3"]
LITTLE = [
    "--retrain",
    "3",
    "--tune",
    "10",
    "--criterion-samples",
    "60",
    "--threads",
    "1",
    "--measure-seconds",
    "0.05",
]
HALF = ["--schedule", "steady", "--amount", "50%", "--steps", "2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def work(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but the bundled ones, a working folder of its own, one cache of baselines for all tests."""
    monkeypatch.setenv("TERSA_CACHE", str(home / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_file_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are weighed without a file each; what is shipped is exported as ever."""
    from tersa.recipes import descent

    monkeypatch.setattr(descent, "export_exact", lambda *_: SimpleNamespace(size_bytes=5000))


@pytest.mark.usefixtures("no_file_per_step")
def test_prune_then_look_then_export_an_earlier_point(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    """The keys of the design, on one line; then every other verb understands the folder."""
    words = [
        "--parameters",
        "0.5x",
        "--step",
        "40%left",
        "--criterion",
        "taylor-weight",
        "--out",
        "run",
        "--json",
    ]
    assert execute(["prune", *LENET, *LITTLE, *words]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    found = json.loads(captured.out)
    for side in ("baseline", "result"):
        assert {"test_accuracy", "parameters", "macs", "size_bytes", "latency_ms"} <= found[side].keys()
        assert {"median", "p10", "p90"} == found[side]["latency_ms"].keys()
    assert {"compression", "acceleration", "size_ratio", "speedup", "goals", "seconds"} <= found.keys()
    assert found["verb"] == "prune"
    assert found["protocol"]["criterion"] == "taylor-weight"
    assert found["protocol"]["step"] == "40%left"
    assert found["compression"] > 1
    assert [set(goal) >= {"name", "asked", "reached", "met"} for goal in found["goals"]] == [True]
    assert all(Path(path).is_file() for path in [*found["artefacts"], found["report"]])
    assert found["scratch"]["epochs"] == 3
    assert found["result"]["precision"] == "fp32"

    assert execute(["runs", "show", "run", "--root", "."]) == 0
    told = capsys.readouterr().out
    assert found["verdict"] in told.replace("\n", " ")
    assert "trained from scratch" in told
    assert execute(["runs", "list", "--root", ".", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["verb"], row["status"]) == ("prune", "done")

    assert execute(["export", "--run", "run", "--at", "1", "--format", "onnx", "--out", "one.onnx"]) == 0
    assert "step 1:" in capsys.readouterr().out
    assert Path("one.onnx").stat().st_size > Path("run/model.onnx").stat().st_size
    assert execute(["export", "--run", "run", "--at", "99.99%", "--out", "no.onnx"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --at 99.99%: no step has 99.99 % on validation; the best has")
    assert told.count("\n") == 1

    again = ["prune", *LENET, *LITTLE, *words, "--resume"]
    assert execute(again) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == found["verdict"]


@pytest.mark.usefixtures("no_file_per_step")
def test_the_network_of_a_training_run_loses_its_channels_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert execute(["train", "--data", "digits", "--model", "mlp:12", "--epochs", "2", "--out", "t"]) == 0
    capsys.readouterr()
    words = ["--run", "t", "--retrain-scope", "layer", "--no-scratch", "--out", "p"]
    assert execute(["prune", *words, *HALF, *LITTLE]) == 0
    captured = capsys.readouterr()
    for word in ("mlp:12 on digits", "Accuracy", "Parameters", "MACs", "ONNX Runtime", "p/report.html"):
        assert word in captured.out
    assert "pruning t on digits by taylor" in captured.err
    assert "no goal given" not in captured.err, "a schedule needs none"
    assert "Goals" not in captured.out
    assert execute(["prune", "--run", "t", "--out", "q", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"] == "mlp:12"
    assert (plan["steps"][0]["what"], plan["steps"][0]["seconds"]) == ("weights from t", 0.0)


@pytest.mark.usefixtures("no_file_per_step")
def test_a_target_out_of_reach_keeps_the_best_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--parameters", "30", "--step", "60%left", "--no-scratch", "--out", "run"]
    assert execute(["prune", *LENET, *LITTLE, *words]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "Goal missed" in out
    assert "missed: at most 30 parameters: pruning ended at" in out
    assert "every layer is down to one channel or must stay" in out
    assert Path("run/model.onnx").is_file()


def test_dry_run_does_nothing(capsys: pytest.CaptureFixture[str], work: Path, home: Path) -> None:
    before = sorted(path.name for path in home.rglob("*"))
    assert execute(["prune", *LENET, *LITTLE, "--out", "run", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out)["model"] == "lenet:4-8-16"
    assert list(work.iterdir()) == []
    assert sorted(path.name for path in home.rglob("*")) == before


FAULTS = [
    ("--criterion tailor", "unknown criterion 'tailor'; did you mean 'taylor'?"),
    (
        "--criterion bn-scale",
        "needs a batch norm with a scale behind every prunable layer, got none for conv1",
    ),
    ("--scope conv9", "unknown prunable layer 'conv9'; did you mean 'conv"),
    ("--scope fc2", "the channels of layer 'fc2' stay: it gives the output"),
    ("--keep convx", "unknown layer to keep 'convx'; did you mean 'conv"),
    ("--keep *", "the network has no channels that can be removed"),
    ("--step none", "--step 'none' is not understood"),
    ("--step 0", "--step '0' is not understood"),
    ("--step 100%", "--step '100%' is not understood"),
    ("--step 2 --schedule cubic --amount 50%", "both say how many go at a step"),
    ("--schedule cubic", "--schedule cubic needs --amount"),
    ("--schedule quick --amount 50%", "'quick' is not one of"),
    ("--amount 50%", "--amount belongs to a schedule"),
    ("--amount much --schedule cubic", "--amount 'much' is not a share; write 90% or 0.9"),
    ("--amount 100% --schedule cubic", "--amount '100%' is not a share"),
    ("--amount 99% --schedule cubic", "at most 25 can go"),
    ("--steps 3", "--steps belongs to a schedule"),
    ("--steps 0 --schedule cubic --amount 50%", "--steps"),
    ("--normalize l3", "'l3' is not one of 'none', 'l1', 'l2'"),
    ("--recompute never", "--recompute"),
    ("--regrow 1.5", "--regrow"),
    ("--round-to 0", "--round-to"),
    ("--round-to 1000", "--round-to 1000: nothing can be removed"),
    ("--regrow 0.5 --recompute once", "--regrow compares fresh scores"),
    ("--retrain -1", "--retrain"),
    ("--learning-rate 0", "learning_rate is 0.0: input should be greater than 0"),
    ("--criterion-samples 0", "--criterion-samples"),
    ("--granularity channel", "unknown granularity 'channel'"),
    ("--granularity 4:2 --criterion l1", "4:2 keeps 4 of 2 weights"),
    (
        "--granularity weight",
        "--criterion taylor scores whole channels; with --granularity weight choose one of",
    ),
    ("--granularity weight --criterion l1 --macs 0.5x", "--macs is out of reach of --granularity weight"),
    ("--parameters few", "--parameters 'few' is not understood"),
    ("--parameters 2x", "--parameters 2x asks for nothing smaller"),
    ("--max-loss 200", "--max-loss 200 is not in 0..100 points"),
    ("--light lite", "unknown light module 'lite'"),
    ("--run nowhere", "--run brings a trained network; leave out --model"),
    ("--cluster many", "--cluster 'many' is not understood"),
    ("--cluster ²", "--cluster '²' is not understood"),
    ("--coder zip", "--coder"),
    ("--coder huffman", "--coder huffman is of the file that --cluster writes"),
    ("--scope ,", "--scope ',' names no layer"),
    ("--keep ,", "--keep ',' names no layer"),
    ("--learning-rate inf", "learning_rate is inf: input should be a finite number"),
    ("--criterion l1 --criterion-samples 5", "--criterion l1 looks at no images"),
    ("--granularity weight --criterion l1 --mac-penalty 3", "--mac-penalty is of channels"),
    ("--granularity 2:4 --criterion l1 --normalize l1", "--normalize compares layers"),
    ("--retrain 0 --tune 0 --learning-rate 0.3 --teacher-weight 0.9", "--learning-rate: nothing is trained"),
    ("--retrain 0 --retrain-scope layer", "--retrain-scope layer is of what --retrain 0 leaves out"),
    ("--schedule one-shot --amount 1% --steps 1", "--amount 1% of the 28 channels in scope is none"),
    ("--coded-size 1500", "--coded-size is of the file that --cluster writes"),
]


@pytest.mark.parametrize(("words", "message"), FAULTS, ids=[words for words, _ in FAULTS])
def test_every_fault_is_one_line_and_exit_code_2(
    words: str, message: str, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    """And it is found before any work: no folder, no training."""
    assert execute(["prune", *LENET, *words.split(), "--out", "run", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert captured.err.endswith(line + "\n"), "nothing after it"
    assert list(work.iterdir()) == []


def test_faults_that_are_several_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--schedule", "cubic", "--step", "2", "--regrow", "0.5", "--recompute", "once"]
    assert execute(["prune", *LENET, *words, "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert "pruning settings: 3 faults" in told
    assert told.count("\n  - ") == 3


OWN = """
import torch


def build(shape, classes):
    flat = shape[0] * shape[1] * shape[2]
    layers = torch.nn.Linear(flat, 12), torch.nn.ReLU(), torch.nn.Linear(12, classes)
    return torch.nn.Sequential(torch.nn.Flatten(), *layers)
"""


@pytest.mark.slow
def test_a_coded_file_of_ones_own_network_is_used_where_it_is_named(
    capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    Path("net.py").write_text(OWN)
    asked = "--data digits --model net.py:build --epochs 1 --schedule one-shot --amount 50% --steps 1"
    asked += (
        " --retrain 2 --tune 4 --cluster 3 --coded-size 9kB --no-scratch --measure-seconds 0.05 --threads 1"
        " --out run --json"
    )
    assert execute(["prune", *asked.split()]) in (0, 3)
    result = json.loads(capsys.readouterr().out)
    assert result["coded"]["size_bytes"] <= 9000
    (goal,) = [each for each in result["goals"] if each["name"] == "coded-size"]
    assert (goal["asked"], goal["reached"], goal["met"]) == (9000, result["coded"]["size_bytes"], True)
    np.save("a.npy", np.full((8, 8), 0.5, np.float32))
    coded, named = "run/model.coded", ["--model", "net.py:build"]
    verbs = [["predict", coded, "a.npy"], ["bench", coded, "--seconds", "0.05"]]
    verbs.append(["export", coded, "--data", "digits", "--out", "coded.onnx"])
    for verb in verbs:
        assert execute([*verb, "--json"]) == 1
        assert "name it: --model net.py:build" in capsys.readouterr().err
        assert execute([*verb, *named, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["verb"] == verb[0]
    assert told["test_accuracy"] == pytest.approx(result["coded"]["test_accuracy"])
    for verb in (["predict", "run/model.onnx", "a.npy"], ["bench", "run/model.onnx"]):
        assert execute([*verb, *named]) == 2
        assert "--model names the network of a .coded file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_coded_file_that_is_too_large_is_a_goal_missed(
    capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    """And one that loses more than allowed says so."""
    asked = "--data digits --model mlp:12 --epochs 1 --schedule one-shot --amount 50% --steps 1 --retrain 2"
    asked += (
        " --tune 4 --cluster auto --coded-size 40 --no-scratch --measure-seconds 0.05 --threads 1 --out run"
    )
    assert execute(["prune", *asked.split()]) == 3
    told = " ".join(capsys.readouterr().out.split())
    assert "at most 40 bytes of entropy-coded file" in told
    result = json.loads(Path("run/result.json").read_text())
    (goal,) = result["goals"]
    assert not goal["met"]
    assert goal["reached"] == result["coded"]["size_bytes"] > 40
    assert "the smallest file that training gave" in goal["reason"]


def test_help_names_every_criterion(capsys: pytest.CaptureFixture[str]) -> None:
    from tersa.prune.criteria import CRITERIA
    from tersa.prune.schedules import SCHEDULES

    assert execute(["prune", "--help"]) == 0
    told = "".join(capsys.readouterr().out.split())  # lines may end within a name
    for name in (*CRITERIA, *SCHEDULES):
        assert name in told, name
