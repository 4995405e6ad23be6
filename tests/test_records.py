"""Files are written whole or not at all, and read back checked."""

import json
import math
import os
import stat
from pathlib import Path

import pytest

from tersa.errors import DataError, UsageError, faults, unknown
from tersa.files import replacing, write_atomic
from tersa.records.base import Record, read_record, write_record
from tersa.records.results import Quantiles

ROW = Quantiles(median=2.0, p10=1.0, p90=3.0)


def test_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path / "deep" / "row.json", ROW)
    assert read_record(tmp_path / "deep" / "row.json", Quantiles) == ROW


class Inner(Record):
    value: float
    known: float | None


class Outer(Record):
    rows: list[Inner]
    named: dict[str, float]


def test_numbers_that_are_none_come_back_from_strict_json(tmp_path: Path) -> None:
    path, refused = tmp_path / "row.json", list[str]()
    row = Outer(rows=[Inner(value=-math.inf, known=math.nan)], named={"a": math.inf})
    write_record(path, row)
    json.loads(path.read_text(), parse_constant=refused.append)
    assert refused == []
    back = read_record(path, Outer)
    assert (back.rows[0].value, back.named) == (-math.inf, {"a": math.inf})
    assert back.rows[0].known is not None
    assert math.isnan(back.rows[0].known)


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a readable JSON file"),
        (b"\xff\xfe", "not a readable JSON file"),
        (b"[1]", "is not a Quantiles"),
        (b'{"median": 1, "p10": 1}', "p90: Field required"),
        (b'{"median": 1, "p10": 1, "p90": 1, "extra": 1}', "extra"),
        (b'{"median": "x", "p10": 1, "p90": 1}', "median"),
        (b'{"schema_version": 99}', "schema 99, this tersa reads up to 1; install a newer tersa"),
    ],
)
def test_what_is_no_record_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_record(tmp_path / "row.json", Quantiles)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_record(tmp_path / "none.json", Quantiles)


def test_records_are_frozen() -> None:
    class Row(Record):
        a: int

    with pytest.raises(ValueError, match="frozen"):
        Row(a=1).a = 2


def test_unknown_names_the_closest() -> None:
    assert str(unknown("model", "lenett", ["lenet", "vgg"])) == (
        "unknown model 'lenett'; did you mean 'lenet'? known: lenet, vgg"
    )
    assert str(unknown("model", "zzz", ["lenet"])) == "unknown model 'zzz'; known: lenet"


def test_faults_are_told_together() -> None:
    assert str(faults("goals", ["a"])) == "goals: a"
    assert str(faults("goals", ["a", "b"])) == "goals: 2 faults\n  - a\n  - b"
    assert isinstance(faults("x", ["a"]), UsageError)
