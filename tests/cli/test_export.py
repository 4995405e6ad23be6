"""`tersa export` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tersa.cli.main import execute
from tersa.export.artefact import read_artefact
from tersa.models import build

MODEL = ("--model", "mlp:8", "--data", "digits")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data but the bundled ones, a working folder of its own, and trained weights in it."""
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    save_file(build("mlp:8", (1, 8, 8), 10, seed=5).state_dict(), "mlp.safetensors")
    return tmp_path / "work"


def export(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert execute(["export", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_model_with_its_weights(precision: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = export(
        capsys, *MODEL, "--checkpoint", "mlp.safetensors", "--precision", precision, "--out", "out/net.onnx"
    )
    assert found["artefacts"] == ["out/net.onnx"]
    assert found["size_bytes"] == (work / "out/net.onnx").stat().st_size
    assert found["agreement"]["images"] == 360
    assert found["agreement"]["same_class"] > 340
    assert found["test_accuracy"] is not None
    assert read_artefact(work / "out/net.onnx").header.precision == precision
    assert [path.name for path in (work / "out").iterdir()] == ["net.onnx"]


def test_a_file_becomes_int8(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, *MODEL, "--out", "net.onnx")
    found = export(capsys, "net.onnx", "--data", "digits", "--precision", "int8", "--out", "int8.onnx")
    assert found["float_operations"] == {}
    assert found["agreement"]["tolerance"] == 0.0
    assert execute(["export", "int8.onnx", "--out", "back.onnx"]) == 1
    assert "its fp32 weights are gone" in capsys.readouterr().err
    assert not (work / "back.onnx").exists()


def test_a_run_folder_and_a_file_as_it_is(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, *MODEL, "--out", "net.onnx")
    (work / "result.json").write_text(json.dumps({"artefacts": ["net.onnx"]}))
    export(capsys, "--run", ".", "--out", "copy.onnx")
    assert (work / "copy.onnx").read_bytes() == (work / "net.onnx").read_bytes()


def test_an_untrained_model_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["export", *MODEL, "--out", "net.onnx"]) == 0
    out = capsys.readouterr().out
    assert "not trained" in out
    assert "360 of 360 images in the same class" in out


def test_a_file_that_is_there_is_kept(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "net.onnx").write_bytes(b"mine")
    (work / "net-fp32.onnx").write_bytes(b"mine too")
    assert execute(["export", *MODEL, "--out", "net.onnx"]) == 2
    assert (work / "net.onnx").read_bytes() == b"mine"
    assert execute(["export", *MODEL, "--out", "net.onnx", "--overwrite", "--precision", "int8"]) == 0
    assert read_artefact(work / "net.onnx").header.precision == "int8"
    assert (work / "net-fp32.onnx").read_bytes() == b"mine too"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.onnx"], "name one of FILE.onnx, --run DIR and --model SPEC, not 0"),
        (["a.onnx", "--model", "lenet", "--out", "x.onnx"], "not 2"),
        ([*MODEL], "--out FILE.onnx says where to write"),
        ([*MODEL, "--out", "x.txt"], "ends in .onnx"),
        ([*MODEL, "--out", "x.onnx", "--format", "tflite"], "unknown format 'tflite'"),
        ([*MODEL, "--out", "x.onnx", "--precision", "int4"], "unknown precision 'int4'"),
        (["--model", "lenet", "--out", "x.onnx"], "--model needs --data NAME"),
        (
            ["--run", "gone", "--out", "x.onnx"],
            "there is no run folder gone; as a model: unknown model 'gone'",
        ),
        (["--run", "runs/gone", "--data", "digits", "--out", "x.onnx"], "there is no run folder runs/gone"),
        (["--run", "gone", "--at", "3", "--out", "x.onnx"], "give --run DIR: gone is no folder"),
        (["a.onnx", "--precision", "int8", "--out", "x.onnx"], "int8 needs --data NAME"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    assert execute(["export", *arguments]) == 2
    found = capsys.readouterr()
    assert words in found.err
    assert found.out == ""
    assert not (work / "x.onnx").exists()


def test_an_onnx_file_of_another_program(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import helper

    x, y = (helper.make_tensor_value_info(name, 1, ["batch", 2]) for name in "xy")
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 18)],
    )
    onnx.save(model, work / "other.onnx")
    assert execute(["export", "other.onnx", "--out", "x.onnx"]) == 1
    assert "was not written by tersa" in capsys.readouterr().err


def test_a_low_bit_network_as_c(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiled by the command itself, and held against the network bit for bit."""
    found = export(capsys, "--model", "tfc", "--data", "digits", "--format", "c", "--out", "my-net.c")
    assert found["agreement"] == {
        "images": 360,
        "same_class": 360,
        "largest_difference": 0.0,
        "tolerance": 0.0,
    }
    assert (found["format"], found["precision"]) == ("c", "1/1 (W/A), input 8, first 1/8, last 1/1")
    text = (work / "my-net.c").read_text()
    assert found["size_bytes"] == len(text)
    assert "void my_net_predict(const uint8_t *pixels, float *logits)" in text


@pytest.mark.runtime
def test_a_low_bit_network_as_qonnx(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qonnx")
    found = export(
        capsys, "--model", "tfc+w2a2", "--data", "digits", "--format", "qonnx", "--out", "net.onnx"
    )
    assert found["agreement"]["largest_difference"] == 0.0
    assert found["agreement"]["images"] == 128
    assert execute(["export", "net.onnx", "--out", "back.onnx"]) == 1
    assert "is not an ONNX file that onnxruntime can load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("--model", "mlp:8", "--format", "c", "--out", "x.c"),
            1,
            "needs low-bit layers and the network has none",
        ),
        (("--model", "tfc", "--format", "c", "--out", "x.onnx"), 2, "a file that ends in .c, not 'x.onnx'"),
        (
            ("--model", "tfc", "--format", "qonnx", "--precision", "int8", "--out", "x.onnx"),
            2,
            "leave out --precision",
        ),
        (("--model", "tfc", "--format", "qnnx", "--out", "x.onnx"), 2, "did you mean 'qonnx'"),
    ],
)
def test_what_a_format_cannot_do(
    arguments: tuple[str, ...], code: int, words: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["export", *arguments, "--data", "digits"]) == code
    assert words in capsys.readouterr().err
    assert not list(work.glob("x.*"))
