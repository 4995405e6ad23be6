"""`docs/reliability.md` names tests that exist, and runs that they make."""

from __future__ import annotations

import re

import pytest
from tests.hardening.table import DOCS, ROOT, Row, rows, runs_of

TEXT = DOCS.read_text(encoding="utf-8")
ROWS = rows(TEXT)
MENTIONED = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT))
COMMANDS = (
    "train",
    "study run",
    "shrink",
    "prune",
    "adapt",
    "bench",
    "search",
    "run",
    "reproduce",
    "data get",
)


def test_the_tables_are_read() -> None:
    assert len(ROWS) > 60
    assert {(row.path, row.test) for row in ROWS} == MENTIONED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.test)
def test_a_row_has_its_test_and_its_runs(row: Row) -> None:
    assert row.test.startswith("test_")
    assert (ROOT / row.path).name.startswith("test_")
    found = runs_of(row.path, row.test)
    assert row.runs, f"{row.fault}: no runs; python -m tests.hardening.table writes them"
    if found is not None:
        assert int(row.runs) == found, "python -m tests.hardening.table writes them"
    assert row.losses == "0"


def test_a_name_that_is_not_there_is_noticed() -> None:
    for path in ("tests/hardening/test_kill.py", "tests/train/test_kill.py"):
        with pytest.raises(LookupError):
            runs_of(path, "test_that_is_not_there")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_long_command_has_a_kill_in_the_table(command: str) -> None:
    assert any(row.fault.startswith(f"`{command}`") for row in ROWS)
