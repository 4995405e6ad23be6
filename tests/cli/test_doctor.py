"""`tersa doctor` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tersa.cli.main import execute
from tersa.export.processor import FEATURES
from tersa.recipes import doctor
from tersa.recipes.doctor import MEANING, NO_INT8, folder_bytes, int8_outlook
from tersa.targets import registry


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but the bundled ones."""
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_everything_is_there_for_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kept").write_bytes(b"12345")
    assert execute(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    runtimes = {one["name"]: one for one in found["runtimes"]}
    assert set(runtimes) == set(registry.KINDS)
    assert runtimes["onnxruntime"]["version"]
    assert runtimes["onnxruntime"]["precisions"] == ["fp32", "int8"]
    assert runtimes["onnxruntime"]["options"] == ["threads=1|N|all", "graph=all|extended|basic|disabled"]
    for one in runtimes.values():
        assert one["install"], "every runtime says how to get it"
    assert "oneDNN" in runtimes["torch"]["features"]
    assert found["remote"]["form"].startswith("ssh://")
    assert found["remote"]["runtimes"] == ["onnxruntime", "openvino", "litert"]
    assert {one["name"]: one["state"] for one in found["data"]}["digits"] == "bundled"
    assert found["cache_bytes"] == 5
    assert found["threads"] >= 1
    assert found["memory_bytes"] > found["memory_free_bytes"] > 0
    assert set(found["features"]) <= set(FEATURES)


def test_the_tables_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["doctor"]) == 0
    out = capsys.readouterr().out
    for words in (
        "Machine",
        "processor",
        "INT8",
        "Runtimes",
        "onnxruntime",
        "Other machines",
        "ssh://[USER@]HOST[:PORT]/RUNTIME",
        "Packages",
        "Data",
        "digits",
        "cache",
    ):
        assert words in out


def test_missing_packages_are_shown_with_their_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "package_version", lambda _: "")
    monkeypatch.setattr(doctor, "package_version", lambda _: "")
    assert execute(["doctor"]) == 0
    out = capsys.readouterr().out
    assert 'pip install "openvino>=2025.0"' in out
    assert "not installed" in out


def test_every_feature_has_a_meaning() -> None:
    assert set(MEANING) == set(FEATURES)
    assert int8_outlook(("avx2",)) == NO_INT8
    assert int8_outlook(("avx2", "vnni", "amx")).startswith("amx")


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path / "none") == 0
