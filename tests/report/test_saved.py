"""Tables as files: each format read back by something that was not written here."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tersa.errors import UsageError
from tersa.report.saved import ENDS, Saved, check, latex, markdown, number, save

TABLE = Saved(
    "Runs & files",
    ("run", "MACs", "loss, points", "size"),
    (("007", "1,024", "−0.21", "12 kB"), ("a_b|c", "–", "3", "1 MB")),
    caption="two",
)


def test_csv_has_numbers_and_no_dashes(tmp_path: Path) -> None:
    save(TABLE, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["run", "MACs", "loss, points", "size"],
            ["007", "1024", "-0.21", "12 kB"],
            ["a_b|c", "", "3", "1 MB"],
        ]


def test_markdown_escapes_its_own_bars() -> None:
    lines = markdown(TABLE).splitlines()
    assert lines[1] == "|---|---:|---:|---:|"
    assert lines[3] == "| a_b\\|c | – | 3 | 1 MB |"


def test_latex_escapes_what_it_reads_as_something_else() -> None:
    text = latex(TABLE)
    assert r"\caption{Runs \& files}" in text
    assert r"007 & 1,024 & $-$0.21 & 12 kB \\" in text
    assert r"a\_b|c & -- & 3 & 1 MB \\" in text
    assert r"\begin{tabular}{lrrr}" in text


def test_parquet_has_columns_of_numbers(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    save(TABLE, tmp_path / "it's.parquet")
    with duckdb.connect() as connection:
        found = connection.execute("SELECT * FROM read_parquet(?)", [str(tmp_path / "it's.parquet")])
        assert [each[0] for each in found.description] == list(TABLE.columns)
        assert found.fetchall() == [("007", 1024.0, -0.21, "12 kB"), ("a_b|c", None, 3.0, "1 MB")]
    assert [path.name for path in tmp_path.iterdir()] == ["it's.parquet"]


def test_parquet_of_no_rows_and_of_headers_that_repeat(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    save(Saved("t", ("", 'a "b"', "A", "a"), ()), tmp_path / "t.parquet")
    with duckdb.connect() as connection:
        found = connection.execute("SELECT * FROM read_parquet(?)", [str(tmp_path / "t.parquet")])
        assert [each[0] for each in found.description] == ["column", 'a "b"', "A", "a 2"]
        assert found.fetchall() == []


def test_parquet_without_duckdb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(UsageError, match=r"Parquet needs duckdb; pip install 'tersa\[tables\]'"):
        save(TABLE, tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1,024", 1024.0),
        ("12,34", None),
        ("1e-3", 0.001),
        ("", None),
        ("99 %", None),
        ("+2", 2.0),
        ("1.", None),
    ],
)
def test_what_is_a_number(cell: str, value: float | None) -> None:
    assert number(cell) == value


def test_unknown_formats_and_files_that_are_there_are_refused(tmp_path: Path) -> None:
    for end in ENDS:
        check(tmp_path / f"t{end}")
    with pytest.raises(
        UsageError, match=r"format '.doc' is not known; end the name in .csv, .md, .tex, .parquet"
    ):
        check(tmp_path / "t.doc")
    (tmp_path / "t.csv").touch()
    with pytest.raises(UsageError, match="it exists; give another name, or remove it"):
        check(tmp_path / "t.csv")
