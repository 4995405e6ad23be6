"""`tersa bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tersa import data
from tersa.cli.main import execute
from tersa.errors import UsageError
from tersa.export.artefact import Header
from tersa.export.onnx import export_onnx
from tersa.recipes.bench import parse_batches, parse_cores, parse_targets, parse_until
from tersa.recipes.bench_result import BenchResult
from tersa.recipes.bench_verdict import short
from tersa.records.base import read_record
from tersa.targets import registry
from tersa.targets.lanes import Limits

QUICK = ("--seconds", "0.02")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but the bundled ones, and a working folder of its own."""
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network for the digits that is right on some of them."""
    task = data.load("digits")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    inputs = task.normalise(task.train.images)
    with torch.no_grad():
        for label in range(10):
            network[1].weight[label] = inputs[task.train.labels == label].mean(0).reshape(-1)
    return export_onnx(network, Header.of(task), tmp_path_factory.mktemp("bench") / "net.onnx").path


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert execute(["bench", *arguments, *QUICK, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_models_targets_precisions_and_batches(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(
        capsys,
        "mlp:8",
        "mlp:16",
        "--targets",
        "torch,onnxruntime@threads=1",
        "--batch",
        "1,4",
        "--precision",
        "fp32,int8",
    )
    rows = {(row["model"], row["target"], row["precision"], row["batch"]) for row in found["measurements"]}
    models, batches = ("mlp:8", "mlp:16"), (1, 4)
    assert rows == {
        *((m, "torch@threads=1", "fp32", b) for m in models for b in batches),
        *((m, "onnxruntime@threads=1", p, b) for m in models for b in batches for p in ("fp32", "int8")),
    }
    for row in found["measurements"]:
        assert {"model", "target", "precision", "batch", "threads", "latency_ms"} <= set(row)
        assert 0 < row["latency_ms"]["p10"] <= row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        assert row["threads"] == 1
    assert len(found["comparisons"]) == 2 * 1 + 2 * 3
    assert all(pair["before"]["model"] == "mlp:8" for pair in found["comparisons"])
    assert {(row["model"], row["precision"]) for row in found["not_offered"]} == {(m, "int8") for m in models}
    assert found["artefacts"] == []
    assert found["seconds"] > 0


def test_the_table_tells_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        execute(["bench", "mlp:8", "--targets", "torch,onnxruntime", "--precision", "fp32,int8", *QUICK]) == 0
    )
    found = capsys.readouterr()
    for words in ("reference", "not offered", "torch@threads=1", "speed-up", "it has fp32"):
        assert words in found.out
    assert "combinations" in found.err
    assert "Traceback" not in found.err


def test_a_file_with_data_is_answered_for(digits_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, str(digits_file), "--precision", "fp32,int8", "--data", "digits")
    exact, integer = found["accuracies"]
    assert (exact["precision"], integer["precision"], exact["images"]) == ("fp32", "int8", 360)
    assert exact["test_accuracy"] > 80
    assert abs(exact["test_accuracy"] - integer["test_accuracy"]) < 3
    assert found["notes"] == []


def test_int8_without_data_is_said_to_be_for_timing(
    digits_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench(capsys, str(digits_file), "--precision", "int8")
    assert "noise" in found["notes"][0]
    assert found["accuracies"] == []


def test_out_keeps_a_result_that_reads_back(
    digits_file: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(capsys, str(digits_file), "mlp:4", "--out", "runs/b")
    kept = read_record(work / "runs" / "b" / "result.json", BenchResult)
    assert kept.artefacts == [str(digits_file), "1-fp32.onnx"]
    assert (work / "runs" / "b" / "1-fp32.onnx").is_file()
    assert execute(["bench", "mlp:4", "--out", "runs/b", *QUICK]) == 2
    assert "exists" in capsys.readouterr().err
    assert execute(["bench", "mlp:4", "--out", "runs/b", "--overwrite", *QUICK]) == 0


def test_a_run_goes_on_where_it_was(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("mlp:4", "--batch", "1..2", "--out", "runs/m")
    first = bench(capsys, *asked)
    assert (work / "runs/m" / first["report"]).read_text().startswith("<!doctype html>")
    again = bench(capsys, *asked, "--resume")
    assert again["measurements"] == first["measurements"]
    assert "2 of 2 cells were measured by an earlier call" in again["notes"][0]
    assert execute(["bench", "mlp:4", "--batch", "1", "--out", "runs/m", "--resume", *QUICK]) == 2
    assert "other settings: batch was 1..2, is now 1" in capsys.readouterr().err


def test_memory_that_ends_is_a_row_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "lenet", "--batch", "1,200000", "--until", "700MB")
    assert [row["batch"] for row in found["measurements"]] == [1]
    assert [(gap["kind"], gap["batch"]) for gap in found["not_offered"]] == [("out of memory", 200000)]


def test_models_made_for_a_target_give_the_cross_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "mlp:16", "mlp:4=onnxruntime", "--targets", "onnxruntime")
    [row] = found["cross"]["rows"]
    assert (row["model"], row["made_for"]) == ("mlp:4", "onnxruntime@threads=1")
    assert row["percent"]["onnxruntime@threads=1"] > 0


def test_what_the_first_target_cannot_load_stays_the_reference(
    digits_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch has no module of a bare .onnx file."""
    found = bench(capsys, str(digits_file), "mlp:8", "mlp:4=onnxruntime", "--targets", "torch,onnxruntime")
    assert {(pair["before"]["model"], pair["target"]) for pair in found["comparisons"]} == {
        (str(digits_file), "onnxruntime@threads=1")
    }
    assert found["reference"]["model"] == str(digits_file)
    assert found["cross"]["original"] == str(digits_file)
    assert set(found["cross"]["rows"][0]["percent"]) == {"onnxruntime@threads=1"}
    assert "nothing is compared on torch@threads=1: the reference" in found["notes"][0]
    assert {row["starts"] for row in found["measurements"]} == {1}


def test_a_run_folder_gives_its_file(
    digits_file: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = work / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "small.onnx").write_bytes(digits_file.read_bytes())
    (run / "result.json").write_text(json.dumps({"artefacts": ["small.onnx", "run.py"]}))
    found = bench(capsys, "--run", "runs/demo")
    assert [row["model"] for row in found["measurements"]] == ["runs/demo"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mlp:8", "--targets", "torch", "--precision", "int8"], 2, "torch does not offer int8; it has fp32"),
        (["mlp:8", "--targets", "tensorflow"], 2, "unknown target 'tensorflow'"),
        (["mlp:8", "--precision", "int4"], 2, "did you mean 'int8'"),
        (["mlp:8", "--batch", "0"], 2, "whole numbers above 0"),
        (["mlp:8", "mlp:8"], 2, "given twice"),
        (["nothing"], 2, "unknown"),
        (["none.onnx"], 1, "no file none.onnx"),
        ([], 2, "at least one model"),
        (["--run", "."], 2, "not a finished run"),
        (["mlp:8", "--seconds", "0"], 2, "seconds"),
        (["x.onnx", "--checkpoint", "w.pt"], 2, "--checkpoint belongs to one model"),
        (["mlp:8", "--batch", "8..2"], 2, "the second number is the larger one"),
        (["mlp:8", "--batch", "1..,4"], 2, "an open range stands at the end"),
        (["mlp:8", "--until", "4 apples"], 2, "--until takes memory (4GB)"),
        (["mlp:8", "--cores", "x"], 2, "--cores takes processor numbers"),
        (["mlp:8", "--cores", "99999"], 2, "may not run on 99999"),
        (["mlp:8", "--resume"], 2, "name it with --out"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["bench", *arguments]) == code
    found = capsys.readouterr()
    assert words in found.err
    assert found.out == ""


def test_a_file_of_another_data_set_is_refused(
    digits_file: Path, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    images = (np.arange(40 * 36) % 251).astype(np.uint8).reshape(40, 6, 6)
    labels = np.arange(40) % 2
    np.savez(work / "other.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    assert execute(["bench", str(digits_file), "--data", "other.npz"]) == 2
    assert "takes images (1, 8, 8)" in capsys.readouterr().err


def test_dry_run_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        execute(["bench", "mlp:8", "--batch", "1,2", "--targets", "torch,onnxruntime", "--dry-run", "--json"])
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["plan"]) == 4
    assert plan["plan"][0] == {
        "model": "mlp:8",
        "target": "torch@threads=1",
        "precision": "fp32",
        "batch": "1",
    }
    assert plan["expected_seconds"] > 0


def test_a_missing_runtime_is_listed_beside_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = registry.package_version
    monkeypatch.setattr(registry, "package_version", lambda name: "" if name == "openvino" else known(name))
    found = bench(capsys, "mlp:8", "--targets", "onnxruntime,openvino")
    assert [row["target"] for row in found["measurements"]] == ["onnxruntime@threads=1"]
    assert "pip install" in found["not_offered"][0]["reason"]


def test_files_of_other_programs_are_timed_as_they_are(
    work: Path, digits_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx
    from onnx import helper

    x = helper.make_tensor_value_info("image", 1, [2, 1, 8, 8])
    y = helper.make_tensor_value_info("scores", 1, [2, 64])
    graph = helper.make_graph([helper.make_node("Flatten", ["image"], ["scores"])], "g", [x], [y])
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), "other.onnx"
    )
    found = bench(capsys, str(digits_file), "other.onnx", "--batch", "1,2", "--data", "digits")
    assert [(row["model"], row["batch"]) for row in found["measurements"]] == [
        *((str(digits_file), 1), (str(digits_file), 2), ("other.onnx", 2))
    ]
    assert found["not_offered"][0]["reason"] == "the file takes batches of 2 only"
    assert [row["model"] for row in found["accuracies"]] == [str(digits_file)]
    assert execute(["bench", "other.onnx", "--precision", "int8"]) == 2
    assert "was not written by tersa" in capsys.readouterr().err
    assert execute(["predict", "other.onnx", "x.png"]) == 1


def test_parsing() -> None:
    assert parse_batches("8,1,8").sizes == (1, 8)
    assert (parse_batches("3..").sizes, parse_batches("3..").open) == ((3,), True)
    assert list(parse_batches("64,1.."))[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert list(parse_batches("100,3,16.."))[:7] == [3, 16, 32, 64, 100, 128, 256]
    assert parse_batches("1,3,8..").sizes == (1, 3, 8)
    assert parse_batches("100000,1..").sizes[-2:] == (65536, 100000)
    assert parse_until("2GiB,500ms") == Limits(2**31, 0.5)
    assert parse_cores("") == ()
    assert [text for text, _ in parse_targets("torch,onnxruntime")] == [
        "torch@threads=1",
        "onnxruntime@threads=1",
    ]
    words = "'onnxruntime@threads=1' is given twice: as onnxruntime and as onnxruntime@threads=1"
    with pytest.raises(UsageError, match=words):
        parse_targets("onnxruntime,torch,onnxruntime@threads=1")
    assert short("/a/b/runs/demo/model.onnx") == "demo/model.onnx"


def test_runs_bring_their_network_along(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        execute(["train", "--data", "digits", "--model", "mlp:8", "--epochs", "1", "--out", "runs/first"])
        == 0
    )
    capsys.readouterr()
    found = bench(capsys, "runs/first", "--targets", "torch,onnxruntime", "--data", "digits")
    assert {row["target"] for row in found["measurements"]} == {"torch@threads=1", "onnxruntime@threads=1"}
    trained = json.loads((work / "runs/first/result.json").read_text())["test_accuracy"]
    assert found["accuracies"][0]["test_accuracy"] == pytest.approx(trained)
    np.save("zero.npy", np.zeros((8, 8), np.uint8))
    assert execute(["predict", "--run", "runs/first", "zero.npy"]) == 0
    assert "zero.npy" in capsys.readouterr().out
    assert (
        execute(
            ["export", "--run", "runs/first", "--data", "digits", "--precision", "int8", "--out", "a.onnx"]
        )
        == 0
    )
    assert "int8" in capsys.readouterr().out
