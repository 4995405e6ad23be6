"""Two processes on one run, store, table or file: one works, the other is told or waits; nothing mixes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.hardening.stage import Stage
from tests.hardening.test_disk_full import STUDY, TRAIN
from tests.hardening.trials import trials

from tersa.adapt.table import Machine, TableFile
from tersa.errors import UsageError
from tersa.recipes.folder import hold, open_folder, release, releasing
from tersa.recipes.runs import remove_run
from tersa.records.base import Record

HOLD = """
import sys, time
from pathlib import Path
from tersa.recipes.folder import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


class Spec(Record):
    seed: int = 0


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process at work in a folder; killed at the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("resume", "overwrite"), [(True, False), (False, True), (False, False)])
def test_a_run_at_work_is_left_alone(resume: bool, overwrite: bool, tmp_path: Path) -> None:
    out = open_folder(tmp_path / "run", "train", Spec(), resume=False, overwrite=False)
    release(out)
    (out / ".model.safetensors.x.part").touch()
    with held(out):
        with pytest.raises(UsageError, match="another process is at work in"):
            open_folder(out, "train", Spec(), resume=resume, overwrite=overwrite)
        with pytest.raises(UsageError, match="another process is at work in"):
            remove_run("run", tmp_path)
        assert sorted(os.listdir(out)) == [".model.safetensors.x.part", "spec.toml"]
    open_folder(out, "train", Spec(), resume=True, overwrite=False)  # the lock fell with its process
    assert os.listdir(out) == ["spec.toml"]  # and what it was writing is gone
    release(out)
    assert remove_run("run", tmp_path) == out


def test_a_job_lets_go_of_its_folder_also_when_it_fails(tmp_path: Path) -> None:
    @releasing
    def job() -> None:
        open_folder(tmp_path / "run", "train", Spec(), resume=True, overwrite=False)
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            job()
        with held(tmp_path / "run"):
            pass


def test_one_process_may_enter_its_folder_again(tmp_path: Path) -> None:
    for _ in range(3):
        hold(tmp_path)
    release(tmp_path)
    release(tmp_path)


def test_a_second_training_in_one_folder_is_refused(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with held(out):
        assert "another process is at work in" in stage.run(*TRAIN, "--out", out).refused()
        assert os.listdir(out) == []
    stage.run(*TRAIN, "--out", out, "--json").json()


def test_a_second_study_in_one_folder_is_refused_and_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    out = tmp_path / "study"
    stage.run(*STUDY, "--out", out, "--json").json()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with held(out):
        said = stage.run(*STUDY, "--rule", "fa", "--out", out, "--resume").refused()
    assert "another process is at work in" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


WRITERS = """
import os
from pathlib import Path
from tersa.adapt.table import Machine, Point, TableFile
from tersa.files import write_atomic
place, writers, rounds = Path({place!r}), {writers}, {rounds}
children = []
for writer in range(writers):
    children.append(os.fork())
    if children[-1] == 0:
        for number in range(rounds):
            with TableFile(place / "latency.db") as file:
                points = [Point(f"linear-{{writer}}", number, outputs, 0.5, 7) for outputs in range(3)]
                file.add(Machine(f"m{{writer % 2}}", "one"), points)
            write_atomic(place / "whole.txt", str(writer) * 10_000)
        os._exit(0)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
os._exit(0 if not any(codes) else 1)
"""


@trials(4)
def test_four_processes_write_one_table_and_one_file(stage: Stage, tmp_path: Path) -> None:
    before = WRITERS.format(place=str(tmp_path), writers=4, rounds=12)
    done = stage.run("doctor", before=before)
    assert done.code == 0, done.err
    with TableFile(tmp_path / "latency.db") as file:
        assert sorted((machine.key, count) for machine, count in file.machines()) == [("m0", 72), ("m1", 72)]
        assert set(file.points(Machine("m0", "one").key)) == {"linear-0", "linear-2"}
    text = (tmp_path / "whole.txt").read_text()
    assert len(text) == 10_000
    assert len(set(text)) == 1
    assert not list(tmp_path.glob(".*.part"))


def test_a_reader_sees_a_table_while_it_is_written(tmp_path: Path) -> None:
    from tersa.adapt.table import Point

    with TableFile(tmp_path / "latency.db") as writer, TableFile(tmp_path / "latency.db") as reader:
        machine = Machine("m", "one")
        writer.add(machine, [Point("linear", 1, 1, 0.5, 7)])
        with writer._open() as connection:
            connection.execute("INSERT INTO points VALUES ('m', 'linear', 2, 2, 0.5, 7)")
            began = time.perf_counter()
            assert reader.points("m") == {"linear": {(1, 1): 0.5}}
            assert time.perf_counter() - began < 20  # it does not wait for the writer (30 s)
        assert len(reader.points("m")["linear"]) == 2
