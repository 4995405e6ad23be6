"""The fake engine can be imported by name, here and in worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Name of a module that trains nothing."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("FAKE_ENGINE_MARK", str(tmp_path / "mark"))
    return "fake_engine"
