"""`tersa data list|get|show` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tersa.cli.main import execute


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but the bundled ones, and a working folder of its own."""
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert execute(["data", *arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_list_tells_what_is_here_and_how_to_get_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "list"]) == 0
    out = capsys.readouterr().out
    for words in (
        "digits",
        "bundled",
        "missing",
        "tersa data get cifar-10",
        "170 MB",
        "looked in:",
        "Your own",
    ):
        assert words in out


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, "list")
    found = {one["name"]: one for one in answer["data"]}
    assert set(found) == {"digits", "mnist", "fashion-mnist", "cifar-10"}
    assert found["digits"]["state"] == "bundled"
    assert found["mnist"]["state"] == "missing"


def test_get_of_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "get", "digits"]) == 0
    assert "digits: ready" in capsys.readouterr().out
    answer = run_json(capsys, "get", "digits")
    assert answer["split_sizes"] == {"train": 1150, "validation": 287, "test": 360}


def test_show_prints_the_facts_and_draws_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "show", "digits"]) == 0
    out = capsys.readouterr().out
    for words in (
        "1 x 8 x 8",
        "0.3053",
        "scikit-learn",
        "1,150",
        "287",
        "samples: digits-samples.png",
        "fixed stratified",
    ):
        assert words in out
    assert Path("digits-samples.png").read_bytes().startswith(b"\x89PNG")


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, "show", "digits", "--out", "picture.png")
    assert answer["shape"] == [1, 8, 8]
    assert answer["artefacts"] == ["picture.png"]
    assert sum(answer["class_counts"]["test"]) == 360
    assert len(answer["fingerprint"]) == 16
    assert answer["provenance"]["source"] == "digits"
    assert Path("picture.png").exists()


def test_show_of_a_users_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8)
    np.savez(tmp_path / "own.npz", x=rng, y=np.arange(40) % 2)
    answer = run_json(capsys, "show", str(tmp_path / "own.npz"))
    assert answer["artefacts"] == ["own-samples.png"]
    assert answer["split_sizes"] == {"train": 26, "validation": 6, "test": 8}


def test_an_existing_picture_is_kept_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("digits-samples.png").write_text("mine")
    assert execute(["data", "show", "digits"]) == 2
    assert "digits-samples.png exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert Path("digits-samples.png").read_text() == "mine"
    assert execute(["data", "show", "digits", "--overwrite"]) == 0
    assert Path("digits-samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("digit", 2, "did you mean 'digits'?"), ("no/such.zip", 2, "no file or folder 'no/such.zip'")],
)
def test_errors_are_one_line(name: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "show", name]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_damaged_file_is_said_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK damaged")
    assert execute(["data", "get", str(tmp_path / "own.zip")]) == 1
    assert "own.zip: damaged zip file" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "decoded").exists()
