"""The table on disk: whose points it gives, what it refuses, and that nothing is lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tersa.adapt import table
from tersa.adapt.table import Machine, Point, TableFile, choose_machine
from tersa.errors import DataError, UsageError

HERE = Machine("here", "this machine", "h1", "fake")
ELSEWHERE = Machine("there", "another one", "h2", "fake")
POINTS = [Point("linear", 4, 2, 0.5, 9), Point("linear", 8, 2, 0.9, 9)]


@pytest.fixture
def file(tmp_path: Path) -> TableFile:
    return TableFile(tmp_path / "sub" / "latency.db")


def test_points_come_back(file: TableFile) -> None:
    file.add(HERE, POINTS)
    file.set_call(HERE, 0.01)
    again = TableFile(file.path)
    assert again.points("here") == {"linear": {(4, 2): 0.5, (8, 2): 0.9}}
    assert again.call("here") == 0.01
    assert again.points("there") == {}
    assert again.call("there") is None


def test_another_machines_table_is_refused_unless_allowed(file: TableFile) -> None:
    file.add(ELSEWHERE, POINTS)
    with pytest.raises(UsageError, match=r"measured elsewhere .2 layers on another one; here: this machine"):
        choose_machine(file, HERE, allow_foreign=False)
    assert choose_machine(file, HERE, allow_foreign=True) == ELSEWHERE


def test_another_runtime_on_this_hardware_gets_points_of_its_own(file: TableFile) -> None:
    file.add(HERE, POINTS)
    other = Machine("new", "this machine, another runtime", "h1", "other")
    assert choose_machine(file, other, allow_foreign=False) == other


def test_a_file_is_foreign_for_the_targets_that_it_holds_alone(file: TableFile) -> None:
    """Filled by a runtime here, or elsewhere by another runtime, it takes up a new device or machine."""
    file.add(HERE, POINTS)
    device = Machine("gpu", "this machine's other device", "h1, cuda", "fake@device=cuda")
    assert choose_machine(file, device, allow_foreign=False) == device
    file.add(ELSEWHERE, POINTS)
    remote = Machine("far", "a board", "h1, ssh://board", "ssh://board/fake")
    assert choose_machine(file, remote, allow_foreign=False) == remote
    swapped = Machine("gpu2", "another card in this machine", "h1, another", "fake@device=cuda")
    file.add(device, POINTS)
    with pytest.raises(UsageError, match=r"measured elsewhere .2 layers on this machine's other device"):
        choose_machine(file, swapped, allow_foreign=False)


def test_a_foreign_table_without_the_target(file: TableFile) -> None:
    file.add(ELSEWHERE, POINTS)
    asked = Machine("new", "this machine, another runtime", "h1", "other")
    assert choose_machine(file, asked, allow_foreign=False) == asked
    with pytest.raises(
        UsageError, match=r"has no layers on other; it has fake: .* leave out --allow-foreign"
    ):
        choose_machine(file, asked, allow_foreign=True)


def test_own_points_come_first(file: TableFile) -> None:
    file.add(ELSEWHERE, [*POINTS, Point("linear", 16, 2, 1.0, 9)])
    file.add(HERE, POINTS[:1])
    assert choose_machine(file, HERE, allow_foreign=True) == HERE
    assert choose_machine(file, HERE, allow_foreign=False) == HERE


def test_the_users_own_table_takes_up_a_new_machine(file: TableFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of the runtime the fingerprint is another one: measured again, not refused."""
    monkeypatch.setattr(table, "default_path", lambda: file.path)
    file.add(ELSEWHERE, POINTS)
    assert choose_machine(file, HERE, allow_foreign=False) == HERE


def test_a_value_that_is_no_time_is_named(file: TableFile) -> None:
    file.add(HERE, POINTS)
    with sqlite3.connect(file.path) as other:
        other.execute("UPDATE points SET ms = NULL WHERE inputs = 8")
    with pytest.raises(DataError, match="None ms for 'linear' at 8 to 2 channels"):
        file.points("here")


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a table " * 200)
    with pytest.raises(DataError, match=r"is not a latency table .* give another --table"):
        TableFile(path)


def test_a_newer_table_is_refused(file: TableFile) -> None:
    with sqlite3.connect(file.path) as other:
        other.execute("PRAGMA user_version=9")
    with pytest.raises(DataError, match="schema 9"):
        TableFile(file.path)


def test_damaged_values_are_dropped_and_others_stay(file: TableFile) -> None:
    file.add(HERE, POINTS)
    file.add(ELSEWHERE, POINTS)
    bad = [("a", "NULL"), ("b", "'x'"), ("c", "-1.0"), ("d", "9e999")]
    with sqlite3.connect(file.path) as other:
        for family, value in bad:
            other.execute(f"INSERT INTO points VALUES ('here', '{family}', 1, 1, {value}, 9)")
    file.drop_damaged("here")
    assert file.points("here") == file.points("there") == {"linear": {(4, 2): 0.5, (8, 2): 0.9}}
