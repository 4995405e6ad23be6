"""What README and examples say is what runs."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tersa.cli.main import execute

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_the_examples_that_run() -> None:
    for name in ("shrink_digits.py", "few_bits_digits.py"):
        assert (ROOT / "examples" / name).read_text() in README


def test_readme_opens_with_its_two_commands_and_a_picture() -> None:
    head = README[: README.index("![")]
    assert "make demo" in head
    assert "make test" in head
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_every_command_of_the_readme_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Each `tersa ...` line names a verb and options that its help knows."""
    lines = re.findall(r"^ {4}tersa (.+?)(?:\s{2,}#.*)?$", README, flags=re.M)
    assert len(lines) >= 8
    for line in lines:
        words = line.split()
        verb = words[:2] if words[0] in ("data", "runs", "study", "reproduce") else words[:1]
        assert execute([*verb, "--help"]) == 0, line
        known = capsys.readouterr().out
        assert all(word.split("=")[0] in known for word in words if word.startswith("--")), line


def test_links_of_the_readme_are_there() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_few_bits_example(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "few_bits_digits.py"))
    lines = capsys.readouterr().out.splitlines()
    accuracy = {tuple(line.split()[:2]): float(line.split()[-2]) for line in lines}
    assert len(accuracy) == 10
    assert accuracy["latent", "3"] > 90 > accuracy["inplace", "3"], "a float copy is what 3 bits need"


@pytest.mark.slow
def test_python_example(tmp_path: Path) -> None:
    environment = {**os.environ, "TERSA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, str(ROOT / "examples" / "shrink_digits.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    result = json.loads((tmp_path / "runs" / "digits" / "result.json").read_text())
    assert done.stdout.startswith(result["verdict"])
    assert f"{result['compression']:.0f}x fewer parameters" in done.stdout
    assert result["compression"] >= 20, "the digits leave room for a network of a twentieth"


@pytest.mark.slow
def test_own_model_is_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "cache"))
    words = ["--data", "digits", "--model", f"{ROOT / 'examples' / 'own_model.py'}:build", "--macs", "0.5x"]
    quick = ["--epochs", "4", "--retrain", "10", "--tune", "60", "--measure-seconds", "0.1"]
    assert execute(["shrink", *words, *quick, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    widths = {layer["name"]: layer["after"] for layer in result["layers"]}
    assert widths["stem"] == widths["body"] < 32, "the shortcut ties both layers"
