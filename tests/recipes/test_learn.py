"""`tersa train --rule`: every combination of rule and storage trains, or is refused in one line."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tersa.cli.main import execute
from tersa.errors import UsageError
from tersa.models.zoo import build
from tersa.recipes.learn import LearnedRun, cell_of, plan_learning, run_learning
from tersa.records.base import read_record
from tersa.rules.registry import RULES
from tersa.study.cell import Cell

TINY = {"data": "digits", "model": "mlp:8", "epochs": 1, "batch": 256}
STORAGES = ("inplace", "latent", "accumulate", "after")


def test_a_quantiser_is_implied() -> None:
    assert cell_of({"bits": 3}).quant == "symmetric"
    assert cell_of({"rule": "bp"}).quant == "none"
    assert cell_of({"storage": "accumulate"}).extra_bits == 4
    assert cell_of({"quant": "binary"}).bits == 1
    assert cell_of({}) == Cell()


def test_all_faults_in_one_message() -> None:
    with pytest.raises(UsageError, match="2 faults") as caught:
        cell_of({"bits": 9, "epochs": 0})
    assert "bits is 9" in str(caught.value)
    with pytest.raises(UsageError, match="did you mean 'hsic'"):
        cell_of({"rule": "hsci"})
    with pytest.raises(UsageError, match="unknown setting 'bit'; did you mean 'bits'"):
        cell_of({"bit": 3})
    with pytest.raises(UsageError, match="choose storage latent"):
        cell_of({"range": "learned", "storage": "inplace"})


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_with_every_storage(rule: str, storage: str, tmp_path: Path) -> None:
    cell = cell_of({**TINY, "rule": rule, "bits": 3, "storage": storage})
    done = run_learning(cell, tmp_path / "run")
    assert done.status == "done"
    assert 0 <= done.test_accuracy <= 100
    for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items():
        if "weight" in name:
            assert len(tensor.unique()) <= 7


def test_weights_fit_the_zoo_and_give_the_accuracy(tmp_path: Path) -> None:
    cell = cell_of({**TINY, "bits": 4, "storage": "latent", "epochs": 3, "batch": 32})
    done = run_learning(cell, tmp_path / "run")
    model = build("mlp:8", (1, 8, 8), 10)
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    again = run_learning(cell, tmp_path / "run", resume=True)
    assert again == done == read_record(tmp_path / "run" / "result.json", LearnedRun)
    assert done.test_accuracy > 60


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        "--data",
        "digits",
        "--model",
        "mlp:8",
        "--rule",
        "fa",
        "--bits",
        "3",
        "--storage",
        "latent",
    ]
    words += ["--epochs", "1", "--range", "layer", "--json", "--out", str(tmp_path / "run")]
    assert execute(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["cell"]["rule"] == "fa"
    assert printed["cell"]["seed"] == 1
    assert 0 <= printed["test_accuracy"] <= 100
    assert Path(printed["report"]).is_file()
    assert execute([*words[:-2], "--out", str(tmp_path / "plan"), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["updates"] > 0
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(("words", "seed"), [([], 1), (["--seed", "0"], 0), (["--seed", "5"], 5)])
def test_a_seed_that_is_typed_is_taken(
    words: list[str], seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also 0, which is the option's default elsewhere."""
    plan = ["train", "--data", "digits", "--model", "mlp:8", "--rule", "bp", "--dry-run", "--json"]
    assert execute([*plan, "--out", str(tmp_path / "plan"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["cell"]["seed"] == seed


def test_options_of_the_other_kind_of_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        execute(["train", "--data", "digits", "--rule", "bp", "--schedule", "cosine", "--iterations", "5"])
        == 2
    )
    assert "--iterations, --schedule and a learning rule" in capsys.readouterr().err


def test_plan(tmp_path: Path) -> None:
    plan = plan_learning(cell_of(TINY))
    assert plan.parameters == 8 * 65 + 10 * 9
    assert plan.updates == -(-plan.images // 256)


def test_a_plan_counts_every_phase() -> None:
    cell = cell_of({**TINY, "rule": "hsic-document", "epochs": 3})
    plan = plan_learning(cell)
    assert plan.epochs == 3 + 20
    assert plan.updates == -(-plan.images // cell.batch) * plan.epochs
