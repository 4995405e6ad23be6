"""Run folders: nothing of anybody's is overwritten without being asked, nothing else is ever removed."""

from pathlib import Path

import pytest
from pydantic import Field

from tersa.errors import UsageError
from tersa.recipes.folder import open_folder, read_spec
from tersa.records.base import Record


class Spec(Record):
    seed: int = 0
    note: str | None = None
    table: dict[str, int] = Field(default_factory=dict)


def start(out: Path, spec: Spec | None = None, **flags: bool) -> Path:
    return open_folder(out, "shrink", spec or Spec(), **({"resume": False, "overwrite": False} | flags))


def test_spec_is_written_first(tmp_path: Path) -> None:
    start(tmp_path / "a" / "b", Spec(seed=3, note='quote " and \\ and é'))
    assert read_spec(tmp_path / "a" / "b") == {
        "schema_version": 1,
        "verb": "shrink",
        "seed": 3,
        "note": 'quote " and \\ and é',
    }


def test_existing_run_is_refused_and_unchanged(tmp_path: Path) -> None:
    (start(tmp_path / "a") / "precious").write_text("x")
    with pytest.raises(UsageError, match="--resume goes on with it, --overwrite starts again"):
        start(tmp_path / "a")
    assert (tmp_path / "a" / "precious").read_text() == "x"


def test_resume_needs_the_same_spec(tmp_path: Path) -> None:
    start(tmp_path / "a")
    assert start(tmp_path / "a", resume=True) == tmp_path / "a"
    with pytest.raises(UsageError, match="seed was 0, is now 1"):
        start(tmp_path / "a", Spec(seed=1), resume=True)
    with pytest.raises(UsageError, match="verb was shrink, is now train"):
        open_folder(tmp_path / "a", "train", Spec(), resume=True, overwrite=False)


def test_overwrite_removes_the_old_run(tmp_path: Path) -> None:
    (start(tmp_path / "a") / "old").write_text("x")
    start(tmp_path / "a", Spec(seed=2), overwrite=True)
    assert not (tmp_path / "a" / "old").exists()
    assert read_spec(tmp_path / "a")["seed"] == 2


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_folder_of_somebody_else_is_never_touched(tmp_path: Path, flag: str) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a folder that tersa made"):
        start(tmp_path, **{flag: True})
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder that tersa made"):
        start(tmp_path / "file", **{flag: True})
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_both_flags_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        start(tmp_path / "a", resume=True, overwrite=True)


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert start(tmp_path) == tmp_path


def test_a_damaged_spec_is_one_line(tmp_path: Path) -> None:
    start(tmp_path / "a")
    (tmp_path / "a" / "spec.toml").write_bytes(b"\xff\x00=")
    with pytest.raises(UsageError, match=r"spec\.toml cannot be read"):
        start(tmp_path / "a", resume=True)


def test_a_kill_while_overwriting_blocks_nothing(tmp_path: Path) -> None:
    """The old run is out of the way before anything in it is removed; what is left of it goes later."""
    start(tmp_path / "a")
    trash = tmp_path / ".a.123.removed"
    (tmp_path / "a").rename(trash)  # the kill came here
    (trash / "old").write_text("x")
    start(tmp_path / "a", Spec(seed=2))
    assert read_spec(tmp_path / "a")["seed"] == 2
    assert not trash.exists()


def test_a_kill_before_the_spec_was_whole_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".spec.toml.x1y2.part").write_text("schema_")
    start(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["spec.toml"]


def test_folders_of_similar_names_stay(tmp_path: Path) -> None:
    for name in (".ab.1.removed", "a.removed", ".a.keep"):
        (tmp_path / name).mkdir()
    start(tmp_path / "a")
    assert all((tmp_path / name).is_dir() for name in (".ab.1.removed", "a.removed", ".a.keep"))
