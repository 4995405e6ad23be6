"""Short trainings that tell which settings gain: what is compared, and what is taken together."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/gpu/binary_settings.py")


def named(script: ModuleType, words: str) -> object:
    return next(v for v in script.VARIANTS if v.words == words)


def test_changes_that_gained_are_taken_together_the_better_of_two(script: ModuleType) -> None:
    accuracies = {
        "as they are": 60.0,
        "learning rate 0.01": 66.0,
        "learning rate 0.02": 70.0,
        "batch 128": 60.5,
    }
    found = {named(script, words): value for words, value in accuracies.items()}
    both = script.together(found | {named(script, "two stages"): 64.0}, 1.0)
    assert both.words == "learning rate 0.02 + two stages"
    assert both.settings == {"learning_rate": 0.02}
    assert both.staged
    assert script.together({script.BASE: 60.0, named(script, "two stages"): 64.0}, 1.0) is None


def test_every_change_is_one_of_settings_that_there_are(script: ModuleType) -> None:
    task = script.load_task("digits")
    for variant in script.VARIANTS:
        config = script.default_config(task, "cnv+w1a1")
        asked = script.LEARNING | script.RATE | variant.settings
        made = script.override(config, asked)
        assert {name: getattr(made, name) for name in asked} == asked
        network = script.load_model((variant.spec or script.SPEC).format("cnv"), (3, 32, 32), 10).module
        assert sum(weight.numel() for weight in network.parameters() if weight.dim() > 1) == 1_542_848


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vgg"], "unknown network vgg; known: cnv, bvgg16"),
        (["--variants", "bach"], "--variants bach: no such change"),
        (["--epochs", "1"], "at least 2"),
        (["--teacher", "none.safetensors"], "no none.safetensors; train it"),
    ],
)
def test_what_cannot_be_is_told(
    script: ModuleType,
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "t.safetensors").touch()
    given = ["--teacher", str(tmp_path / "t.safetensors"), "--csv", str(tmp_path / "r.csv"), *words]
    monkeypatch.setattr(sys, "argv", ["binary_settings.py", *given])
    with pytest.raises(SystemExit):
        script.main()
    assert said in capsys.readouterr().err


def test_rows_say_what_was_gained(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "load_task", lambda name: script_task)
    monkeypatch.setattr(script, "load_model", lambda *_, **__: type("L", (), {"module": torch.nn.Flatten()}))
    gained = {"as they are": 60.0, "learning rate 0.02": 70.0, "two stages": 65.0}
    monkeypatch.setattr(script, "trained", lambda variant, *_: gained.get(variant.words, 71.0))
    script_task = type("T", (), {"shape": (3, 32, 32), "classes": tuple("abcdefghij")})
    (tmp_path / "t.safetensors").touch()
    words = ["cnv", "--variants", "learning rate 0.02,two", "--device", "cpu"]
    words += ["--teacher", str(tmp_path / "t.safetensors"), "--csv", str(tmp_path / "r.csv")]
    monkeypatch.setattr(sys, "argv", ["binary_settings.py", *words])
    script.main()
    lines = [line.split(",")[:5] for line in (tmp_path / "r.csv").read_text().splitlines()]
    assert [line[1:4] for line in lines[1:]] == [
        ["as they are", "60.00", "+0.00"],
        ["learning rate 0.02", "70.00", "+10.00"],
        ["two stages", "65.00", "+5.00"],
        ["learning rate 0.02 + two stages", "71.00", "+11.00"],
    ]
