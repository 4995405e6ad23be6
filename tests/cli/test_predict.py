"""`tersa predict` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tersa.cli.main import execute
from tersa.data import folder
from tersa.data.sources import load as load_data
from tersa.errors import DataError, UsageError
from tersa.export.artefact import Header, read_artefact
from tersa.export.onnx import export_onnx
from tersa.recipes import subjects
from tersa.recipes.predict import PHOTO_PIXELS, centre, predict, read_image, softmax
from tersa.recipes.subjects import find_subject
from tersa.recipes.train import TrainedRun, run_training
from tersa.recipes.train_request import TrainRequest
from tersa.records.base import read_record

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
    [one] = predict(read_artefact(files[1]), [Path("b.npy")], top=9).predictions
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


def test_a_larger_image_is_shrunk(files: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.kron(grey(), np.ones((2, 2), np.uint8))).save("large.png")
    assert execute(["predict", str(files[1]), "large.png"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "large.png  [shrunk from 12x8 to 6x4]"
    assert out[1].split()[0] == "many"


def test_of_a_photograph_the_centre_counts(
    files: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    doubled = np.kron(grey(), np.ones((2, 2), np.uint8))
    around = np.full((8, 32), 255, np.uint8)
    around[:, 10:22] = doubled
    Image.fromarray(around).save("photo.png")
    assert execute(["predict", str(files[1]), "photo.png", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["predictions"]
    assert found["top"][0]["label"] == "many"
    assert found["note"] == "centre 12x8 of 32x8, shrunk from 12x8 to 6x4"
    assert execute(["predict", str(files[1]), "photo.png", "--resize"]) == 0
    assert "[scaled from 32x8 to 6x4]" in capsys.readouterr().out


def test_a_smaller_image_needs_resize(files: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(grey()[:2, :3]).save("small.png")
    assert execute(["predict", str(files[1]), "small.png"]) == 1
    words = "small.png is 3x2 pixels, smaller than the network's 6x4; --resize scales it"
    assert words in capsys.readouterr().err
    assert execute(["predict", str(files[1]), "small.png", "--resize"]) == 0
    assert "[scaled from 3x2 to 6x4]" in capsys.readouterr().out


def test_one_image_has_bars(files: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(grey()).save("a.png")
    assert execute(["predict", str(files[1]), "a.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.png"
    assert len(lines) == 5
    shares = [float(line.split()[1].rstrip("%")) for line in lines[1:]]
    assert [line.count("█") for line in lines[1:]] == [round(30 * share / 100) for share in shares]


def test_a_folder_gives_a_table(files: dict[int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for place, label in (("photos/many", 2), ("photos/all", 2), ("photos/other", 0)):
        Path(place).mkdir(parents=True)
        Image.fromarray(grey(label)).save(f"{place}/a.png")
    Path("photos/notes.txt").write_text("no image")
    assert execute(["predict", str(files[1]), "photos"]) == 0
    out = capsys.readouterr().out
    assert "3 images" in out
    assert [line.split()[:2] for line in out.splitlines() if "a.png" in line] == [
        ["photos/all/a.png", "many"],
        ["photos/many/a.png", "many"],
        ["photos/other/a.png", "none"],
    ]
    assert "1 of the 2 images in folders named after a class are given that class" in out
    Path("empty").mkdir()
    assert execute(["predict", str(files[1]), "empty"]) == 1
    assert "empty holds no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "shape", "part"),
    [
        ((480, 640), (32, 32), (0, 80, 480, 480)),
        ((640, 480), (32, 32), (80, 0, 480, 480)),
        ((33, 33), (32, 32), (0, 0, 33, 33)),
        ((100, 100), (4, 6), (17, 0, 66, 100)),
        ((32, 1000), (32, 32), (0, 484, 32, 32)),
    ],
)
def test_the_centre(size: tuple[int, int], shape: tuple[int, int], part: tuple[int, ...]) -> None:
    assert centre(*size, shape) == part


def test_a_run_folder(files: dict[int, Path], work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "run").mkdir()
    (work / "run" / "net.onnx").write_bytes(files[1].read_bytes())
    (work / "run" / "result.json").write_text(json.dumps({"artefacts": ["net.onnx"]}))
    np.save("b.npy", grey(0))
    for arguments in (["--run", "run", "b.npy"], ["run", "b.npy"]):
        assert execute(["predict", *arguments]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[0] == "none"


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
        (["a.png"], "is no finished run, .onnx, .tersa or .coded file"),
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
        (np.zeros((0, 0), np.float32), "at least one pixel"),
        (np.zeros((0, 8), np.uint8), "at least one pixel"),
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


def test_an_archive_of_arrays_is_no_image() -> None:
    np.savez("x.npz", grey())
    Path("x.npz").rename("x.npy")
    with pytest.raises(DataError, match=r"x\.npy is an archive of arrays \(\.npz\), not one image"):
        read_image(Path("x.npy"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `tersa train` on 6 x 6 images in an archive, which is gone afterwards."""
    place = tmp_path_factory.mktemp("trained")
    images = np.random.default_rng(3).integers(0, 256, (80, 6, 6), dtype=np.uint8)
    labels = np.arange(80) % 2
    np.savez(place / "d.npz", images=images, labels=labels, classes=np.array(["left", "right"]))
    request = TrainRequest(data=str(place / "d.npz"), model="mlp:4", settings={"epochs": 1})
    run_training(request, place / "run")
    (place / "d.npz").rename(place / "elsewhere.npz")
    return place


def test_a_trained_run_needs_no_data(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("b.npy", np.zeros((6, 6), np.uint8))
    assert execute(["predict", str(trained / "run"), "b.npy", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["predictions"]
    task = load_data(str(trained / "elsewhere.npz"))
    stored = read_record(trained / "run" / "result.json", TrainedRun)
    assert (stored.shape, stored.mean, stored.std) == (task.shape, task.mean, task.std)
    subject = find_subject(str(trained / "run"), None)
    assert subject.header == Header.of(task)
    assert subject.module is not None
    logits = subject.module(task.normalise(torch.zeros(1, 1, 6, 6))).detach().numpy()
    wanted = dict(zip(task.classes, softmax(logits)[0], strict=True))
    assert {each["label"]: each["probability"] for each in found["top"]} == pytest.approx(wanted, abs=1e-6)


def test_a_run_of_an_older_tersa_takes_it_from_its_data(
    trained: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", "old")
    stored = json.loads(Path("old/result.json").read_text())
    Path("old/result.json").write_text(
        json.dumps({key: value for key, value in stored.items() if key not in ("shape", "mean", "std")})
    )
    np.save("b.npy", np.zeros((6, 6), np.uint8))
    assert execute(["predict", "old", "b.npy"]) == 2
    assert "d.npz" in capsys.readouterr().err
    shutil.copy(trained / "elsewhere.npz", stored["task"])
    try:
        answers = []
        for run in ("old", str(trained / "run")):
            assert execute(["predict", run, "b.npy", "--json"]) == 0
            answers.append(json.loads(capsys.readouterr().out)["predictions"])
    finally:
        Path(stored["task"]).unlink()
    assert answers[0] == answers[1]


def test_data_of_an_old_run_are_looked_for_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    asked: list[object] = []

    def find(*_: object, **given: object) -> None:
        asked.append(given["data_dir"])
        raise UsageError("enough")

    monkeypatch.setattr(subjects, "find_subject", find)
    assert execute(["predict", str(trained / "run"), "b.npy", "--data-dir", "there"]) == 2
    assert asked == [Path("there")]


def test_a_run_whose_normalisation_is_damaged_is_told(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", "bad")
    stored = json.loads(Path("bad/result.json").read_text())
    Path("bad/result.json").write_text(json.dumps(stored | {"mean": "none"}))
    assert execute(["predict", "bad", "b.npy"]) == 1
    assert "bad/result.json has damaged tersa metadata: mean is no list" in capsys.readouterr().err


def test_a_turned_photograph_is_upright_and_it_is_said(
    files: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(grey()).transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    assert execute(["predict", str(files[1]), "turned.png"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "turned.png  [turned as its EXIF says]"
    assert out[1].split()[0] == "many"


def test_a_bad_file_in_a_folder_is_left_out_and_it_is_said(
    files: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("photos", "photos/.hidden", "photos/__MACOSX"):
        Path(place).mkdir()
        Path(place, "bad.png").write_bytes(b"nothing")
    Path("photos/._a.png").write_bytes(b"\x00\x05\x16\x07")
    Image.fromarray(grey()[:2]).save("photos/small.png")
    Image.fromarray(grey()).save("photos/a.png")
    assert execute(["predict", str(files[1]), "photos"]) == 0
    out = capsys.readouterr().out
    assert "left out: photos/bad.png: cannot be decoded: not a PNG or JPEG image" in out
    assert execute(["predict", str(files[1]), "photos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["image"] for one in found["predictions"]] == ["photos/a.png"]
    assert [one["image"] for one in found["skipped"]] == ["photos/bad.png", "photos/small.png"]
    assert execute(["predict", str(files[1]), "photos", "photos/bad.png"]) == 1  # named, so it must be taken
    Path("photos/a.png").unlink()
    capsys.readouterr()
    assert execute(["predict", str(files[1]), "photos"]) == 1
    assert "none of the 2 images can be taken; the first: photos/bad.png" in capsys.readouterr().err


def test_transparency_that_is_dropped_is_said(files: dict[int, Path]) -> None:
    seen = np.dstack([grey()] * 4)
    whole = seen.copy()
    whole[:, :, 3] = 255
    Image.fromarray(seen).save("seen.png")
    Image.fromarray(whole).save("whole.png")
    Image.fromarray(grey()).save("key.png", transparency=40)
    found = predict(read_artefact(files[1]), [Path(f"{name}.png") for name in ("seen", "whole", "key")])
    assert [one.note for one in found.predictions] == [
        "transparency dropped, colour to grey",
        "colour to grey",
        "transparency dropped",
    ]


def test_a_photograph_may_be_larger_than_an_image_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PHOTO_PIXELS >= 6000 * 4000
    monkeypatch.setattr(folder, "MAX_PIXELS", 5)
    Image.fromarray(grey()).save("a.png")
    assert read_image(Path("a.png")).shape == (1, 4, 6)
