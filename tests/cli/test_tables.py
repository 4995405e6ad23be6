"""`--tables FILE` after any verb: each printed table in a file, numbered, and nothing before the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from tersa.cli.console import Kept, Terminal
from tersa.cli.main import execute, taken
from tersa.errors import UsageError


def test_every_table_of_a_command_has_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "new" / "t.csv", tmp_path / "t.md"]
    Kept.ask(paths)
    try:
        for row in ("x", "y"):
            Terminal().table("T", ("a", "b"), [(row, "1")])
    finally:
        Kept.ask([])
    found = {path.name: path.read_text() for path in tmp_path.rglob("*.*")}
    assert found["t.csv"] == "a,b\nx,1\n"
    assert found["t-2.csv"] == "a,b\ny,1\n"
    assert set(found) == {"t.csv", "t-2.csv", "t.md", "t-2.md"}
    assert "t-2.md" in capsys.readouterr().err


def test_it_may_stand_anywhere_and_with_a_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.tex"
    assert execute(["--tables", str(first), "reproduce", f"--tables={second}", "list"]) == 0
    assert "quantized-training" in first.read_text()
    assert r"\hline" in second.read_text()
    assert execute(["reproduce", "list"]) == 0  # the next command has none
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.tex"]


def test_what_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["reproduce", "list", "--tables", str(tmp_path / "t.xls")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "format '.xls' is not known" in told.err
    with pytest.raises(UsageError, match="--tables needs a file"):
        taken(["compare", "--tables", "--json"])


def test_long_names_are_folded_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "onnx-reference@threads=1," + "x" * 90
    Terminal().table("T", ("target", "ms", "what it is, in many words"), [(name, "1.0", "long " * 30)])
    printed = "".join(capsys.readouterr().out.split())
    assert "…" not in printed
    assert printed.count("x") >= 90


def test_nothing_of_it_is_left_for_the_next_command(tmp_path: Path) -> None:
    for path in (tmp_path / "t.xls", tmp_path / "t.csv"):
        execute(["reproduce", "list", "--tables", str(path)])
        assert Kept.paths == ()
