"""A user's own Python file: how it is called, what it may import, and how its errors are told."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch

from tersa.errors import ModelError, UsageError
from tersa.models import builder

SHAPE = (1, 8, 8)
HEAD = "import torch\nfrom torch import nn\n"
NET = "nn.Sequential(nn.Flatten(), nn.Linear(64, {}))"


def write(folder: Path, body: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(HEAD + body)
    return path


@pytest.mark.parametrize(
    "body",
    [
        f"def build(shape, classes):\n    return {NET.format('classes')}\n",
        f"def build(s, k):\n    return {NET.format('k')}\n",
        f"def build(classes=3):\n    return {NET.format('classes')}\n",
        f"def build(*, num_classes, width=4):\n    return {NET.format('num_classes')}\n",
        f"def build():\n    return {NET.format('10')}\n",
        f"def build(width=3, **options):\n    return {NET.format('10')}\n",
        f"build = lambda classes: {NET.format('classes')}\n",
        "class build(nn.Linear):\n    def __init__(self, classes):\n        super().__init__(64, classes)\n"
        "    def forward(self, x):\n        return super().forward(x.flatten(1))\n",
    ],
)
def test_forms_of_call(body: str, tmp_path: Path) -> None:
    model, files = builder.build(f"{write(tmp_path, body)}:build", SHAPE, 10)
    assert model(torch.zeros(2, *SHAPE)).shape == (2, 10)
    digest = hashlib.sha256((HEAD + body).encode()).hexdigest()
    assert files == {str(tmp_path / "mine.py"): digest}


def test_the_function_may_have_another_name_or_none(tmp_path: Path) -> None:
    path = write(tmp_path, f"def small(): return {NET.format(3)}\ndef build(): return {NET.format(5)}\n")
    assert builder.build(f"{path}:small", SHAPE, 3)[0][1].out_features == 3  # type: ignore[index, union-attr]
    assert builder.build(str(path), SHAPE, 5)[0][1].out_features == 5  # type: ignore[index, union-attr]


def test_the_seed_decides_and_the_global_state_stays(tmp_path: Path) -> None:
    spec = f"{write(tmp_path, f'def build(): return {NET.format(10)}')}:build"
    torch.manual_seed(3)
    weights = [builder.build(spec, SHAPE, 10, seed=seed)[0].state_dict()["1.weight"] for seed in (1, 1, 2)]
    found = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(1))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_neighbours_are_imported_and_hashed(tmp_path: Path) -> None:
    write(tmp_path, f"def net(k):\n    return {NET.format('k')}\n", "neighbour_of_a_test.py")
    path = write(tmp_path, "from neighbour_of_a_test import net\ndef build(classes): return net(classes)\n")
    before = list(sys.path)
    try:
        _, files = builder.build(f"{path}:build", SHAPE, 10)
    finally:
        sys.modules.pop("neighbour_of_a_test", None)
    assert sorted(Path(name).name for name in files) == ["mine.py", "neighbour_of_a_test.py"]
    assert sys.path == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def build(:\n", r"mine.py:3: SyntaxError: "),
        ("import no_such_module_here\n", r"mine.py:3: ModuleNotFoundError: No module named"),
        ("def build():\n    x = 1\n    return 1 / 0\n", r"mine.py:5: ZeroDivisionError: division by zero"),
        ("def build():\n    raise SystemExit(3)\n", r"mine.py:4: SystemExit: 3"),
        ("def build():\n    return nn.Linear(2, 'x')\n", r"mine.py:4: TypeError"),
        ("def build(): return 5\n", r"build returned a int, not a torch.nn.Module"),
        (
            "def build(a, b, c): return a\n",
            r"needs a, b, c, which tersa cannot give; write it to be called as",
        ),
        ("def build(classes, depth): return 1\n", r"needs depth, which tersa cannot give"),
        ("x = 1\n", r"defines no function; write one that can be called as build\(shape, classes\)"),
    ],
)
def test_errors_of_the_users_code_are_one_line(body: str, message: str, tmp_path: Path) -> None:
    path = list(sys.path)
    with pytest.raises(ModelError, match=message) as caught:
        builder.build(f"{write(tmp_path, body)}:build", SHAPE, 10)
    assert "\n" not in str(caught.value)
    assert sys.path == path


def test_an_unknown_function_and_a_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path, "def build(): return 1\n")
    with pytest.raises(UsageError, match=r"unknown function of .*mine.py: 'biuld'; did you mean 'build'"):
        builder.build(f"{path}:biuld", SHAPE, 10)
    with pytest.raises(UsageError, match="no model file"):
        builder.build(f"{tmp_path}/none.py:build", SHAPE, 10)


def test_a_file_that_failed_is_no_module(tmp_path: Path) -> None:
    before = {name for name in sys.modules if name.startswith(builder.PREFIX)}
    with pytest.raises(ModelError):
        builder.build(str(write(tmp_path, "1 / 0\n")), SHAPE, 10)
    assert {name for name in sys.modules if name.startswith(builder.PREFIX)} == before


def test_the_cause_is_kept_for_debugging(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        builder.build(str(write(tmp_path, "def build():\n    return {}['k']\n")), SHAPE, 10)
    assert isinstance(caught.value.__cause__, KeyError)
