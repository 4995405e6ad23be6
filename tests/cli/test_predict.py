"""`tersa predict` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tersa.cli.main import execute
from tersa.errors import DataError, UsageError
from tersa.export.artefact import Header, read_artefact
from tersa.export.onnx import export_onnx
from tersa.recipes.predict import predict, read_image

ROUNDING = 1e-6
"""Probabilities in float64 from float32 logits."""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A grey and a colour network on 4x6 images: class k sums every fourth pixel from the k-th on."""
    made: dict[int, Path] = {}
    for channels in (1, 3):
        network = nn.Sequential(nn.Flatten(), nn.Linear(channels * 24, 4, bias=False))
        with torch.no_grad():
            for label in range(4):
                network[1].weight[label] = 0.0
                network[1].weight[label, label::4] = 1.0
        header = Header(
            ("none", "some", "many", "all"), (channels, 4, 6), (0.5,) * channels, (0.5,) * channels
        )
        made[channels] = export_onnx(network, header, tmp_path_factory.mktemp("predict") / "net.onnx").path
    return made


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grey(label: int = 2) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = np.full(24, 40, np.uint8)
    image[label::4] = 220
    return image.reshape(4, 6)


def test_png_and_npy_in_bytes_and_floats_agree(
    files: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(grey()).save("a.png")
    np.save("b.npy", grey())
    np.save("c.npy", (grey() / 255).astype(np.float32)[:, :, None])
    assert execute(["predict", str(files[1]), "a.png", "b.npy", "c.npy", "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["image"] for one in found["predictions"]] == ["a.png", "b.npy", "c.npy"]
    tops = [[(g["label"], round(g["probability"], 5)) for g in one["top"]] for one in found["predictions"]]
    assert tops[0] == tops[1] == tops[2]
    assert tops[0][0][0] == "many"
    assert len(tops[0]) == 2
    assert found["model"] == str(files[1])


def test_probabilities_sum_to_one(files: dict[int, Path]) -> None:
    np.save("b.npy", grey())
    [one] = predict(read_artefact(files[1]), [Path("b.npy")], top=9)
    assert sum(guess.probability for guess in one.top) == pytest.approx(1.0, abs=ROUNDING)
    assert [guess.probability for guess in one.top] == sorted((g.probability for g in one.top), reverse=True)
    assert one.note == ""


def test_colours_are_converted_and_it_is_said(
    files: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.repeat(grey()[:, :, None], 3, axis=2)).save("colour.png")
    Image.fromarray(grey()).save("grey.png")
    assert execute(["predict", str(files[1]), "colour.png"]) == 0
    assert "many" in (first := capsys.readouterr().out)
    assert "[colour to grey]" in first
    assert execute(["predict", str(files[3]), "grey.png"]) == 0
    assert "[grey to colour]" in capsys.readouterr().out


def test_another_size_needs_resize(files: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.kron(grey(), np.ones((2, 2), np.uint8))).save("large.png")
    assert execute(["predict", str(files[1]), "large.png"]) == 1
    assert "large.png is 12x8 pixels, the network takes 6x4; --resize scales it" in capsys.readouterr().err
    assert execute(["predict", str(files[1]), "large.png", "--resize"]) == 0
    out = capsys.readouterr().out
    assert "large.png: many" in out
    assert "[scaled from 12x8 to 6x4]" in out


def test_a_run_folder(files: dict[int, Path], work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "run").mkdir()
    (work / "run" / "net.onnx").write_bytes(files[1].read_bytes())
    (work / "run" / "result.json").write_text(json.dumps({"artefacts": ["net.onnx"]}))
    np.save("b.npy", grey(0))
    assert execute(["predict", "--run", "run", "b.npy"]) == 0
    assert "b.npy: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "damaged"),
        ("not json", "damaged"),
        ('{"artefacts": ["run.py"]}', "neither an ONNX file"),
        ('{"artefacts": ["gone.onnx"]}', "no such file"),
    ],
)
def test_a_damaged_run_folder(
    content: str, words: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "run").mkdir()
    (work / "run" / "result.json").write_text(content)
    assert execute(["predict", "--run", "run", "b.npy"]) in (1, 2)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png"], "is not an .onnx or .coded file"),
        (["none.onnx", "a.png"], "no file none.onnx"),
        ([], "Missing argument"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["predict", *arguments]) != 0
    assert words in capsys.readouterr().err


def test_no_image_and_no_class(files: dict[int, Path]) -> None:
    with pytest.raises(UsageError, match="no image given"):
        predict(read_artefact(files[1]), [])
    with pytest.raises(UsageError, match="at least 1"):
        predict(read_artefact(files[1]), [Path("a.png")], top=0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), "has shape"),
        (np.zeros((4, 6), np.int64), "holds int64"),
        (np.full((4, 6), 1.5), "floats in 0..1"),
        (np.full((4, 6), np.nan), "floats in 0..1"),
    ],
)
def test_arrays_that_are_no_image(array: np.ndarray[Any, Any], words: str) -> None:
    np.save("x.npy", array)
    with pytest.raises(DataError, match=words):
        read_image(Path("x.npy"))


def test_files_that_are_no_image() -> None:
    Path("x.npy").write_bytes(b"nothing")
    Path("x.png").write_bytes(b"nothing")
    for name in ("x.npy", "x.png", "gone.png"):
        with pytest.raises(DataError, match=name):
            read_image(Path(name))
