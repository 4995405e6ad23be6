"""Places that are not as usual: no home folder, a read-only folder, names that are no UTF-8."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.hardening.stage import Stage
from tests.hardening.test_data_files import picture, zip_file
from tests.hardening.test_disk_full import TRAIN, weights

from tersa.adapt.table import TableFile
from tersa.data import cache as data_cache
from tersa.errors import DataError
from tersa.export.artefact import Header
from tersa.export.onnx import export_onnx
from tersa.models import zoo
from tersa.recipes.predict import image_files, read_image

NOBODY = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown"
NO_HOME = {"HOME": "", "XDG_CACHE_HOME": "", "TERSA_CACHE": "", "TERSA_DATA": ""}
BAD = os.fsdecode(b"caf\xe9")
"""A name in Latin-1, as old archives and discs have them."""


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder in which nothing can be made."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    return folder


def test_without_a_home_folder_a_network_is_trained(stage: Stage, tmp_path: Path) -> None:
    temporary = {"TMPDIR": str(tmp_path)}
    out = tmp_path / "run"
    done = stage.run(*TRAIN, "--out", out, "--json", env=NO_HOME | temporary, before=NOBODY)
    assert done.json()["test_accuracy"] > 50
    assert not (tmp_path / "~").exists()


def test_without_a_home_folder_the_cache_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TERSA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert data_cache.cache_dir() == tmp_path / f"tersa-{os.getuid()}"
    assert data_cache.at_home("~nobody-here/data") == Path("~nobody-here/data")


def test_a_home_folder_that_is_not_there(stage: Stage, tmp_path: Path, closed: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(zip_file(pictures=20))
    home = {"HOME": str(closed / "none"), "XDG_CACHE_HOME": "", "TERSA_CACHE": ""}
    done = stage.run("data", "show", tmp_path / "pets.zip", "--json", env=home, obey=True)
    assert done.json()
    assert "decoded images are not kept" in done.err


def test_a_read_only_output_folder(stage: Stage, closed: Path) -> None:
    said = stage.run(*TRAIN, "--out", closed / "run", obey=True).refused()
    assert "Permission denied" in said
    assert str(closed / "run") in said


def test_a_run_that_becomes_read_only_keeps_its_weights(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stage.run(*TRAIN, "--out", out, "--json").json()
    before = weights(out)
    (out / "result.json").unlink()
    for path in (*out.iterdir(), out):
        path.chmod(0o555 if path.is_dir() else 0o444)
    said = stage.run(*TRAIN, "--out", out, "--resume", obey=True).refused()
    assert str(out) in said
    assert weights(out) == before
    out.chmod(0o755)


def test_a_read_only_study_is_still_shown(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "study"
    words = ["study", "run", "--data", "digits", "--model", "mlp:8", "--epochs", "1", "--workers", "1"]
    stage.run(*words, "--bits", "2,4", "--seeds", "1", "--out", out, "--json").json()
    for path in (*out.iterdir(), out):
        path.chmod(0o555 if path.is_dir() else 0o444)
    shown = stage.run("study", "table", out, "--json", obey=True)
    assert shown.code == 0 or "error:" in shown.refused()
    said = stage.run(*words, "--bits", "2,8", "--seeds", "1", "--out", out, "--resume", obey=True).refused()
    assert str(out) in said
    out.chmod(0o755)


def test_a_read_only_cache_is_named_with_what_to_do(stage: Stage, tmp_path: Path, closed: Path) -> None:
    words = ["shrink", "--data", "digits", "--model", "lenet:4-8-16", "--epochs", "1", "--threads", "1"]
    env = {"TERSA_CACHE": str(closed / "cache")}
    said = stage.run(*words, "--out", tmp_path / "run", env=env, obey=True).refused()
    assert "the cache cannot be written: Permission denied" in said
    assert "set TERSA_CACHE" in said


def test_a_latency_table_in_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be made: .* give another --table"):
        TableFile(tmp_path / "file" / "latency.db")


def test_a_run_folder_whose_name_is_no_utf8(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / BAD
    said = stage.run(*TRAIN, "--out", out).refused()
    assert said.endswith(r"caf\xe9 has a name that is not UTF-8; rename it")
    assert not out.exists()


def test_classes_whose_names_are_no_utf8(stage: Stage, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for split in ("train", "test"):
        for label in ("cat", BAD):
            (root / split / label).mkdir(parents=True)
            for number in range(12):
                (root / split / label / f"{number}.png").write_bytes(picture("PNG", number + len(label)))
    said = stage.run("data", "show", root).refused()
    assert r"the class caf\xe9 has a name that is not UTF-8" in said


def test_data_and_images_whose_names_are_no_utf8(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / f"{BAD}.zip"
    path.write_bytes(zip_file(pictures=20))
    assert r"caf\xe9.zip has a name that is not UTF-8" in stage.run("data", "show", path).refused()
    image = tmp_path / f"{BAD}.png"
    image.write_bytes(picture("PNG"))
    assert image_files([tmp_path]) == [image]
    assert read_image(image).shape == (1, 4, 4)
    header = Header(("cat", "dog", "owl"), (1, 4, 4), (0.5,), (0.25,))
    export_onnx(zoo.build("mlp:3", (1, 4, 4), 3).eval(), header, tmp_path / "net.onnx")
    assert stage.run("predict", tmp_path / "net.onnx", image).code == 0
    found = stage.run("predict", tmp_path / "net.onnx", image, "--json").json()
    assert r"caf\xe9.png" in json.dumps(found).replace("\\\\", "\\")


def test_a_name_with_line_breaks_and_escapes_stays_one_line(stage: Stage, tmp_path: Path) -> None:
    said = stage.run("data", "show", tmp_path / "a\nb\x1b[2J.npz").refused()
    assert "\x1b" not in said


def test_the_working_folder_is_removed_under_the_command(stage: Stage, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    before = f"import os\nos.chdir({str(gone)!r})\nos.rmdir({str(gone)!r})"
    done = stage.run("runs", "list", "--json", before=before)
    assert done.code == 0 or done.refused()
