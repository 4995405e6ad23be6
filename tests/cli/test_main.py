"""The command line as a whole: quick help, examples everywhere, one-line errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tersa.cli.console import Terminal
from tersa.cli.main import app, execute

VERBS = (
    "shrink",
    "prune",
    "adapt",
    "train",
    "bench",
    "export",
    "predict",
    "report",
    "compare",
    "doctor",
    "run",
    "search",
)
NESTED = ("data list", "data get", "data show", "runs list", "runs show", "runs rm")


@pytest.mark.parametrize("verb", [*VERBS, *NESTED])
def test_help_has_an_example_and_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"tersa {verb}" in out.split("Options:")[1] or f"tersa {verb}" in out.rpartition("Example")[2]
    assert "--json" in out


@pytest.mark.parametrize("verb", ["shrink", "prune", "train"])
def test_long_verbs_share_their_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    execute([verb, "--help"])
    out = capsys.readouterr().out
    shared = (
        "--data",
        "--data-dir",
        "--model",
        "--out",
        "--seed",
        "--device",
        "--threads",
        "--dry-run",
        "--resume",
    )
    assert all(option in out for option in (*shared, "--overwrite"))


def test_every_verb_is_known() -> None:
    names = {command.callback.__name__ for command in app.registered_commands}
    assert names == set(VERBS)


def test_unknown_verb_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["shrnk"]) == 2
    assert "shrnk" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tersa 0.")


def test_debug_shows_where(tmp_path: Path) -> None:
    code = "from tersa.cli.main import run; run()"
    words = [sys.executable, "-c", code, "report", str(tmp_path / "none")]
    plain = subprocess.run(words, capture_output=True, text=True)
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True)
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: ")
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in debug.stderr


def test_closed_pipe_is_quiet() -> None:
    line = f"{sys.executable} -c 'from tersa.cli.main import run; run()' --help | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Usage: " in done.stdout


def test_table_prints_markup_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().table("[bold]t", ("[red]a", "b"), [("[link=x]", "1")])
    out = capsys.readouterr().out
    assert all(text in out for text in ("[bold]t", "[red]a", "[link=x]"))


def test_json_goes_alone_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(json=True)
    terminal.table("t", ("a",), [("1",)])
    terminal.say("words")
    with terminal.progress() as say:
        say("work", 0.5, "")
    terminal.result({"path": Path("x")})
    captured = capsys.readouterr()
    assert captured.out == '{"path":"x"}\n'
    assert "words" in captured.err
