"""What is stored of a machine, and what is not."""

from __future__ import annotations

import getpass
import platform
import subprocess
from pathlib import Path

import pytest

from tersa.targets import environment as module
from tersa.targets.environment import (
    LEAST_MEMORY,
    available_memory,
    commit,
    container,
    environment,
    governor,
    memory_each,
    memory_limit,
)


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


def test_limits_of_a_control_group(tmp_path: Path) -> None:
    assert (container(tmp_path), memory_limit(tmp_path)) == ("", None)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert container(tmp_path) == ""
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("4294967296\n")
    assert container(tmp_path) == "1.5 cpus, 4.29 GB"
    (tmp_path / "memory.current").write_text("4294967000\n")
    assert available_memory(tmp_path) == 296
    (tmp_path / "memory.stat").write_text("file 700\ninactive_file 500\nactive_file 200\n")
    assert available_memory(tmp_path) == 796


def test_limits_of_a_first_version_control_group(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert container(tmp_path) == ""
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1000000000")
    assert container(tmp_path) == "2 cpus, 1 GB"
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("999999000")
    (tmp_path / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 30\n")
    assert available_memory(tmp_path) == 1030


def test_processes_that_live_together_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda _root: 10**10)
    assert [memory_each(count) for count in (1, 2, 8, 20)] == [8 * 10**9, 4 * 10**9, 10**9, LEAST_MEMORY]
    monkeypatch.setattr(module, "available_memory", lambda _root: 5 * 10**8)
    assert memory_each(3) == 4 * 10**8


def test_governors_are_named_once_each(tmp_path: Path) -> None:
    assert governor(tmp_path) == ""
    for index, word in enumerate(("performance", "powersave", "performance")):
        folder = tmp_path / f"cpu{index}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{word}\n")
    assert governor(tmp_path) == "performance, powersave"
