"""Text files and data bases of any content are read, or refused in one line: TOML, JSON, SQLite, settings."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st
from tests.hardening.trials import damaged, fuzz, one_line

from tersa.adapt.table import Machine, Point, TableFile
from tersa.errors import TersaError
from tersa.recipes.adapt_store import AdaptStore
from tersa.recipes.book_found import found
from tersa.recipes.folder import open_folder, read_spec
from tersa.recipes.pruning_curves import Curve
from tersa.recipes.pruning_store import PruningStore, Trained, Walked
from tersa.recipes.runs import compare_runs, read_run, read_shrink
from tersa.recipes.subjects import find_subject
from tersa.recipes.trajectory import Trajectory
from tersa.records.base import Record
from tersa.records.results import Epoch
from tersa.study.cell import Cell
from tersa.study.spec import expand, parse
from tersa.study.spec import read_spec as read_study
from tersa.study.store import StudyStore
from tersa.train.history import HistoryWriter, read_history

STUDY = """schema_version = 1
[study]
name = "bits"
seeds = 2
[fixed]
data = "digits"
model = "mlp:20"
[axes]
rule = ["bp", "fa"]
bits = [2, 3]
[[also]]
fixed = { quant = "none" }
"""
COMPARISON = """rule,data,model,quant,bits,range,published,ours,low,high,seeds,gap
bp,mnist,mlp:100x100,symmetric,8,layer,97.41,97.60,97.60,97.60,1,0.19
bp,mnist,mlp:100x100,none,,,98.18,95.00,94.00,96.00,3,-3.18
"""
RESULT = '{"schema_version": 1, "verb": "train", "model": "mlp:3", "artefacts": ["a.onnx"], "goals": []}'


class Spec(Record):
    """A spec such as a run has."""

    data: str = "digits"
    seed: int = 0


def study_db(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.enter([Cell(seed=1), Cell(seed=2)])
        store.assign([[Cell(seed=1)]])
        store.fail([Cell(seed=2)], "out of memory")


def read_study_db(path: Path) -> None:
    with StudyStore(path) as store:
        store.summaries()
        store.results()


def grow_study_db(path: Path) -> None:
    with StudyStore(path, write=True) as store:
        store.enter([Cell(seed=3)])
        store.fail([Cell(seed=1)], "again")
        store.results()


def pruning_db(path: Path) -> None:
    with PruningStore(path, write=True) as store:
        store.add(Walked(curve=Curve(criterion="random"), status="failed", message="out of memory"))
        store.keep_baseline(
            Trained(
                spec="lenet",
                seed=0,
                digest="0",
                parameters=1,
                macs=1,
                validation_accuracy=9.0,
                test_accuracy=9.0,
                iterations=1,
                seconds=1.0,
            )
        )


def read_pruning_db(path: Path) -> None:
    with PruningStore(path) as store:
        store.curves()
        store.baselines()
        store.scratch()


def history_db(path: Path) -> None:
    with HistoryWriter(path) as history:
        for epoch in range(3):
            row = dict.fromkeys(("train_loss", "train_accuracy", "validation_loss"), 1.0)
            history.add(Epoch(epoch=epoch, **row, validation_accuracy=2.0, learning_rate=0.1, seconds=1.0))


def latency_db(path: Path) -> None:
    with TableFile(path) as file:
        machine = Machine("m1", "one", "h", "torch")
        file.add(machine, [Point("linear", 4, 2, 0.5, 7), Point("linear", 8, 2, 0.75, 7)])
        file.set_call(machine, 0.25)


def read_latency_db(path: Path) -> None:
    with TableFile(path) as file:
        file.machines()
        file.points("m1")
        file.call("m1")
        file.add(Machine("m2", "two"), [Point("linear", 4, 2, 0.5, 7)])


def run_db(path: Path) -> None:
    Trajectory(path.parent, {"data": "d1"})
    store = AdaptStore(path.parent)
    store.spend("cut", 0.5)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO steps VALUES (0, '{}', '[1, 2]')")
        connection.execute("INSERT INTO checks VALUES (0, '{}')")
    connection.close()


def read_run_db(path: Path) -> None:
    Trajectory(path.parent).rows("steps")
    Trajectory(path.parent).gone()
    AdaptStore(path.parent).checks()
    AdaptStore(path.parent).candidates()
    AdaptStore(path.parent).seconds()
    AdaptStore(path.parent).spend("cut", 1.0)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8") and None


def summary(path: Path) -> None:
    compare_runs([read_run(path.parent), read_run(path.parent)])


@dataclass(frozen=True)
class Kind:
    """How a file is made and read; `lenient` where damage is shown as a status, not refused."""

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    lenient: bool = False


KINDS = {
    "spec.toml": Kind(
        "spec.toml",
        lambda path: (
            open_folder(path.parent / "run", "train", Spec(), resume=False, overwrite=False)
            and (path.parent / "run" / "spec.toml").rename(path)
            and None
        ),
        lambda path: read_spec(path.parent),
    ),
    "study.toml": Kind("study.toml", text(STUDY), lambda path: expand(read_study(path))),
    "result.json": Kind("result.json", text(RESULT), lambda path: find_subject(str(path.parent), None)),
    "result.json of shrink": Kind("result.json", text(RESULT), lambda path: read_shrink(path.parent)),
    "result.json in a list": Kind("result.json", text(RESULT), summary, lenient=True),
    "study.db": Kind("study.db", study_db, read_study_db),
    "study.db written": Kind("study.db", study_db, grow_study_db),
    "pruning.db": Kind("pruning.db", pruning_db, read_pruning_db),
    "history.db": Kind("history.db", history_db, read_history),
    "history.db of steps": Kind("history.db", run_db, read_run_db),
    "comparison.csv": Kind("comparison.csv", text(COMPARISON), lambda path: found([path]), lenient=True),
    "latency.db": Kind("latency.db", latency_db, read_latency_db),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, kind in KINDS.items():
        path = tmp_path_factory.mktemp("whole") / kind.name
        kind.make(path)
        if path.suffix == ".db":
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA journal_mode=DELETE")  # everything in the one file
            connection.close()
        files[name] = path.read_bytes()
    return files


def told(path: Path, content: bytes, read: Callable[[Path], object]) -> bool:
    for left in path.parent.iterdir():
        if left.is_file():
            left.unlink()  # an old write-ahead log is no part of this file
    path.write_bytes(content)
    try:
        read(path)
    except TersaError as error:
        for line in str(error).splitlines() or [""]:  # the faults of a spec are told together
            one_line(ValueError(line))
        return True
    return False


@pytest.mark.parametrize("kind", [name for name in KINDS if not name.startswith(("result", "history.db of"))])
def test_a_whole_file_is_read(kind: str, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert not told(tmp_path / KINDS[kind].name, whole[kind], KINDS[kind].read)


@pytest.mark.parametrize("kind", KINDS)
@fuzz(60)
@given(draw=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    kind: str, whole: dict[str, bytes], tmp_path: Path, draw: st.DataObject
) -> None:
    told(tmp_path / KINDS[kind].name, draw.draw(damaged(whole[kind])), KINDS[kind].read)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.lenient])
@fuzz(40)
@given(content=st.binary(min_size=1, max_size=200), keep=st.integers(1, 16))
def test_any_bytes_are_refused_in_one_line(
    kind: str, whole: dict[str, bytes], tmp_path: Path, content: bytes, keep: int
) -> None:
    told(tmp_path / KINDS[kind].name, whole[kind][:keep] + content, KINDS[kind].read)


SCALARS = st.one_of(
    st.integers(-(10**12), 10**12), st.floats(), st.booleans(), st.text(max_size=8), st.none(), st.just([])
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "verb",
                    "model",
                    "result",
                    "artefacts",
                    "goals",
                    "environment",
                    "test_accuracy",
                    "date",
                    "schema_version",
                    "met",
                    "median",
                    "latency_ms",
                    "seconds",
                    "size_bytes",
                    "data",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
"""JSON values under the keys that readers look for."""


@fuzz(150)
@given(tree=TREES)
def test_any_json_as_a_result_is_a_status_or_one_line(tree: object, tmp_path: Path) -> None:
    content = json.dumps(tree).encode()
    told(tmp_path / "result.json", content, summary)
    told(tmp_path / "result.json", content, lambda path: read_shrink(path.parent))
    told(tmp_path / "result.json", content, lambda path: find_subject(str(path.parent), None))


@pytest.mark.parametrize(
    "field",
    ["9" * 200_000, "\x00", '"', "1e999", "\ud800"],
    ids=["long", "nul", "quote", "infinite", "surrogate"],
)
def test_a_comparison_of_odd_fields_is_read_or_refused_in_one_line(field: str, tmp_path: Path) -> None:
    content = COMPARISON.replace("97.60", field).encode("utf-8", "surrogatepass")
    told(tmp_path / "comparison.csv", content, lambda path: found([path]))


def toml_of(value: dict[str, object]) -> str:
    return tomlkit.dumps(value)


SETTINGS = st.dictionaries(
    st.sampled_from(["data", "model", "rule", "bits", "quant", "seed", "epochs", "rounding", "batch_size"]),
    st.one_of(
        st.integers(-(10**18), 10**18),
        st.floats(),
        st.booleans(),
        st.text(max_size=8),
        st.lists(st.integers(-2, 9) | st.sampled_from(["bp", "fa", "nearest"]), max_size=3),
    ),
    max_size=4,
)


@fuzz(150)
@given(fixed=SETTINGS, axes=SETTINGS, seeds=st.integers(-5, 10**15) | st.lists(st.integers(), max_size=3))
def test_any_study_expands_or_is_refused(fixed: object, axes: object, seeds: object) -> None:
    told_text(toml_of({"study": {"name": "x", "seeds": seeds}, "fixed": fixed, "axes": axes}))


def told_text(content: str) -> bool:
    try:
        expand(parse(content, "x.toml"))
    except TersaError:
        return True
    return False


def test_a_study_of_more_seeds_than_can_be_counted_is_refused_at_once() -> None:
    assert told_text('[study]\nname = "x"\nseeds = 1000000000000')
    assert told_text('[study]\nname = "x"\nseeds = 600000\n[axes]\nbits = [2, 3]')
