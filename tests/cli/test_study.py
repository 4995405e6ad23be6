"""`tersa study`: what it trains, stores, prints and refuses; on the bundled digits with tiny networks."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tersa.cli.main import app, execute
from tersa.errors import DataError, UsageError
from tersa.recipes.study import stored_cells
from tersa.study.cell import Cell
from tersa.study.store import StudyStore

QUICK = ["--data", "digits", "--model", "mlp:6", "--epochs", "1", "--seeds", "2", "--workers", "1"]
SPEC = """
[study]
name = "tiny"
seeds = 2
[fixed]
data = "digits"
model = "mlp:6"
epochs = 1
[axes]
bits = [3, 8]
[[also]]
fixed = { quant = "none" }
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def made(*arguments: object) -> dict[str, Any]:
    """The JSON of a call that works: one object on one line, alone on standard output."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    error = call(*arguments).exception
    assert isinstance(error, UsageError)
    return str(error)


def test_a_file_becomes_a_folder_that_can_be_taken_up_and_grown(tmp_path: Path) -> None:
    file, out = tmp_path / "tiny.toml", tmp_path / "tiny"
    file.write_text(SPEC)
    said = made("run", file, "--out", out, "--workers", "1")
    assert {path.name for path in out.iterdir()} == {"study.toml", "study.db", "study.db-lock", "report.html"}
    assert (said["verb"], said["name"], said["cells"], said["done"], said["trained"]) == (
        "study run",
        "tiny",
        6,
        6,
        6,
    )
    assert said["artefacts"] == [str(out / "study.toml"), str(out / "study.db")]
    assert said["notes"] == ["quant is not given beside bits: symmetric is taken"]
    rows = stored_cells(out)
    assert [(row.cell.quant, row.cell.bits, row.cell.seed) for row in rows] == [
        ("symmetric", 3, 1), ("symmetric", 3, 2), ("symmetric", 8, 1), ("symmetric", 8, 2),
        ("none", 8, 1), ("none", 8, 2),
    ]  # fmt: skip
    assert all(row.test_accuracy is not None for row in rows)

    assert "--resume goes on with it, --overwrite starts again" in refused("run", file, "--out", out)
    assert made("run", "--out", out, "--resume", "--workers", "1")["trained"] == 0
    grown = made("run", file, "--out", out, "--resume", "--workers", "1", "--set", "bits=3,4")
    assert (grown["cells"], grown["trained"], grown["earlier"]) == (6, 2, 2)
    assert stored_cells(out)[:6] == rows
    again = made("run", file, "--out", out, "--overwrite", "--workers", "1", "--set", "seeds=1")
    assert (again["cells"], again["trained"], again["earlier"]) == (3, 3, 0)


def test_settings_make_a_study_without_a_file(tmp_path: Path) -> None:
    out = tmp_path / "flags"
    flags = ["--quant", "symmetric,binary", "--storage", "latent", "--lr", "0.5", "--batch-size", "50"]
    plan = made(
        "run", *QUICK, *flags, "--shuffle", "per-run", "--set", "decay=0.9", "--out", out, "--dry-run"
    )
    assert (plan["cells"], plan["left"], plan["epochs"], plan["ended"]) == (4, 4, 4, 0)
    assert not out.exists()
    made("run", *QUICK, *flags, "--shuffle", "per-run", "--set", "decay=0.9", "--out", out)
    common = {"data": "digits", "model": "mlp:6", "epochs": 1, "storage": "latent", "learning_rate": 0.5}
    common |= {"batch": 50, "shuffle": "per-run", "decay": 0.9}
    wanted = [
        Cell.model_validate({**common, "quant": quant, "bits": bits, "seed": seed})
        for quant, bits in (("symmetric", 8), ("binary", 1))
        for seed in (1, 2)
    ]
    assert [row.cell for row in stored_cells(out)] == wanted
    plan = made("run", "--out", out, "--resume", "--dry-run", "--set", "seeds=3", "--workers", "1")
    assert (plan["cells"], plan["left"], plan["ended"]) == (6, 2, 4)
    assert plan["seconds"] > 0


def test_the_result_is_a_table_for_people(tmp_path: Path) -> None:
    result = call("run", *QUICK, "--bits", "2,8", "--out", tmp_path / "study")
    assert result.exit_code == 0
    for text in ("bits", "±", "4 runs: 4 done, 0 diverged, 0 failed; 4 of them now", "report.html"):
        assert text in result.stdout
    plan = call("run", *QUICK, "--bits", "2,8", "--out", tmp_path / "other", "--dry-run")
    for text in ("4 runs, 4 epochs", "1 with 1 thread each", "nothing was done"):
        assert text in plan.stdout


def test_tables_as_text_csv_and_markdown(tmp_path: Path) -> None:
    out, file = tmp_path / "study", tmp_path / "table.csv"
    made("run", *QUICK, "--bits", "2,8", "--storage", "inplace,latent", "--out", out)
    lines = call("table", out, "--format", "csv").stdout.splitlines()
    assert lines[0] == "bits,storage,n,mean,std,interval_low,interval_high,diverged,failed,waiting"
    assert len(lines) == 5
    assert [line.split(",")[:3] for line in lines[1:3]] == [["2", "inplace", "2"], ["2", "latent", "2"]]
    pivot = call("table", out, "--rows", "storage", "--columns", "bits", "--format", "markdown").stdout
    assert pivot.startswith("| storage | bits=2 | bits=8 |\n| --- | ---: | ---: |\n| inplace | ")
    picked = made("table", out, "--where", "storage=latent", "--columns", "bits", "--rows", "rule")
    assert list(picked["rows"][0]) == ["rule", "bits=2", "bits=8"]
    assert "storage differ too" in refused("table", out, "--columns", "bits")
    assert made("table", out, "--format", "csv", "--out", file)["artefacts"] == [str(file)]
    assert file.read_text().splitlines() == lines
    assert "Test accuracy in %" in call("table", out).stdout


def test_tables_say_which_split_was_judged(tmp_path: Path) -> None:
    out = tmp_path / "study"
    shown = call("run", *QUICK, "--bits", "2,8", "--set", "judged_on=validation", "--out", out).stdout
    for text in (shown, call("table", out).stdout):
        assert "Validation accuracy in %" in text
        assert "Test accuracy" not in text


def test_failed_runs_give_exit_code_1_and_are_retried_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "study"
    made("run", *QUICK, "--out", out)
    cells = [row.cell for row in stored_cells(out)]
    with StudyStore(out / "study.db", write=True) as store:
        store.fail(cells[:1], "Traceback ...\nMemoryError: too large")
    result = call("run", "--out", out, "--resume", "--workers", "1")
    assert result.exit_code == 1
    assert "the first failure: MemoryError: too large" in result.stdout
    assert "--resume --retry tries again" in result.stdout
    assert made("run", "--out", out, "--resume", "--retry", "--workers", "1")["trained"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to study"),
        (["none.toml"], "no file none.toml"),
        (["--rule", "bq", "--bits", "2,9"], "bits is 9"),
        (["--rule", "bq"], "unknown rule 'bq'; did you mean 'bp'?"),
        (["--bits", "3", "--set", "bits=4"], "bits is given twice"),
        (["--set", "bit=4"], "did you mean 'bits'?"),
        (["--quant", "binary", "--bits", "2"], "binary with 2 bits has no meaning"),
        (["--data", "digits", "--model", "resnet:20"], "model 'resnet:20'"),
        (["--data", "digits", "--resume", "--overwrite"], "exclude each other"),
        (["--data", "digits", "--retry"], "--retry is given without --resume"),
        (["--data", "digits", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(arguments: list[str], said: str, tmp_path: Path) -> None:
    out = tmp_path / "study"
    assert said in refused("run", *arguments, "--out", out)
    assert not out.exists()


def test_senseless_combinations_are_left_out_and_listed_when_asked(tmp_path: Path) -> None:
    flags = [*QUICK, "--quant", "symmetric,binary", "--bits", "1,2", "--dry-run", "--out", tmp_path / "study"]
    assert "2 faults" in refused("run", *flags)
    plan = made("run", *flags, "--skip")
    assert plan["cells"] == 4
    assert len(plan["left_out"]) == 2


def test_folders_that_are_no_studies_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    assert "is not the folder of a study" in refused("run", *QUICK, "--out", tmp_path, "--overwrite")
    for verb in ("table", "report"):
        assert "it has no study.toml" in refused(verb, tmp_path)
    (tmp_path / "study.toml").write_text("")
    assert isinstance(call("table", tmp_path).exception, DataError)
    assert (tmp_path / "file.txt").exists()


def test_ray_is_named_with_its_install_line_where_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'tersa[cluster]'" in refused(
        "run", *QUICK, "--on", "ray", "--out", tmp_path / "study"
    )
    assert not (tmp_path / "study").exists()


def test_help_shows_every_axis_with_examples() -> None:
    result = call("run", "--help")
    assert result.exit_code == 0
    for text in ("--rule", "--quant", "--extra-bits", "--shuffle", "--retry", "tersa study run bits.toml"):
        assert text in result.stdout
    assert execute(["study", "table", "--help"]) == 0


def test_a_report_is_written(tmp_path: Path) -> None:
    out = tmp_path / "study"
    made("run", *QUICK, "--bits", "2,8", "--out", out)
    said = made("report", out)
    assert Path(said["report"]).read_text(encoding="utf-8").startswith("<!")
    assert said["artefacts"] == [said["report"]]


@pytest.mark.slow
def test_a_command_killed_ten_times_ends_with_the_numbers_of_an_undisturbed_one(tmp_path: Path) -> None:
    """The whole command with two workers and SIGKILL at random moments; orphans end by themselves."""
    run = [sys.executable, "-c", "from tersa.cli.main import run; run()", "study", "run", "--data", "digits"]
    run += ["--model", "mlp:20,mlp:20x20", "--epochs", "8,9,10", "--workers", "2"]
    run += ["--batch-size", "32,40,48,56,64,72,80,96", "--bits", "2,4", "--rounding", "nearest,stochastic"]
    run += ["--seeds", "1"]
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    subprocess.run([*run, "--out", calm], check=True, capture_output=True)
    chance, before = random.Random(11), 0
    for _ in range(10):
        with subprocess.Popen([*run, "--out", rough, "--resume"], stderr=subprocess.DEVNULL) as process:
            try:
                wanted = before + 4 * chance.randrange(3)  # a stack has four runs
                while ended(rough) < wanted:
                    assert process.poll() is None, "the study ended before its last kill"
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.5))
            finally:
                process.kill()
            assert process.wait() == -signal.SIGKILL
        before = ended(rough)
    assert 0 < before < 192
    subprocess.run([*run, "--out", rough, "--resume"], check=True, capture_output=True)
    with StudyStore(calm / "study.db") as a, StudyStore(rough / "study.db") as b:
        results = [[row.model_dump(exclude={"seconds"}) for row in store.results()] for store in (a, b)]
    assert len(results[0]) == 192
    assert results[0] == results[1]


def ended(folder: Path) -> int:
    """Runs that a study has stored."""
    if not (folder / "study.db").exists():
        return 0
    return sum(row.status != "waiting" for row in stored_cells(folder))
