"""What is stored of a machine, and what is not."""

from __future__ import annotations

import getpass
import platform
import subprocess
from pathlib import Path

import pytest

from tersa.targets import environment as module
from tersa.targets.environment import commit, environment


def test_versions_and_machine() -> None:
    found = environment(threads=3)
    assert {"tersa", "torch", "onnxruntime", "numpy"} <= set(found.versions)
    assert all(found.versions.values())
    assert found.threads == 3
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert found.python == platform.python_version()
    assert found.processor
    assert found.date.endswith("+00:00")


def test_no_names_and_no_paths() -> None:
    text = environment(1).model_dump_json()
    assert str(Path.home()) not in text.replace('"/"', "") or str(Path.home()) == "/"
    assert f'"{platform.node()}"' not in text
    assert f'"{getpass.getuser()}"' not in text


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "tersa"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(module.tersa, "__file__", str(package / "__init__.py"))
    assert commit() == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit() == ""
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    clean = commit()
    assert len(clean) == 12
    (package / "__init__.py").write_text("changed = True")
    assert commit() == f"{clean}+"
