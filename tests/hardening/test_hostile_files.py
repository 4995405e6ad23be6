"""A file from a stranger never runs: pickles under every name, in every place that takes a file."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.hardening.stage import Stage
from tests.hardening.trials import trials

import tersa
from tersa.errors import TersaError
from tersa.models import load

SOURCE = Path(tersa.__file__).parent


class Attack:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def saved(attack: Attack, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"fc1.weight": attack}}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def objects(attack: Attack) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([attack], dtype=object), allow_pickle=True)
    return file.getvalue()


def in_npz(attack: Attack) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x_train", "y_train"):
            archive.writestr(f"{name}.npy", objects(attack))
    return file.getvalue()


FORMS = {
    "pickle": lambda attack: pickle.dumps(attack),
    "torch zip": saved,
    "torch old": lambda attack: saved(attack, zipped=False),
    "npy of objects": objects,
    "npz of objects": in_npz,
}
WEIGHTS = ("w.pt", "w.pth", "w.ckpt", "w.bin", "w.safetensors", "w.pkl")
MODELS = ("m.pt", "m.pt2", "m.onnx", "m.tersa", "m.coded", "m.pkl")


def attacked(form: str, tmp_path: Path, name: str) -> tuple[Path, Path]:
    """A hostile file, and the folder that it would make."""
    path, marker = tmp_path / name, tmp_path / "marker"
    path.write_bytes(FORMS[form](Attack(marker)))
    return path, marker


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_hostile_checkpoint_is_refused_and_never_run(form: str, name: str, tmp_path: Path) -> None:
    path, marker = attacked(form, tmp_path, name)
    with pytest.raises(TersaError) as caught:
        load("mlp:4", (1, 4, 4), 3, checkpoint=path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_attack_is_a_real_one(tmp_path: Path) -> None:
    path, marker = attacked("pickle", tmp_path, "w.pt")
    pickle.loads(path.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("name", MODELS)
@trials(len(FORMS))
def test_a_hostile_model_is_refused_by_every_verb_that_takes_one(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    for form in FORMS:
        path, marker = attacked(form, tmp_path, name)
        stage.run("export", path, "--out", tmp_path / "x.onnx").refused()
        assert not marker.exists()


@pytest.mark.parametrize(
    "words", [["data", "show"], ["train", "--model", "mlp:4", "--data"]], ids=lambda w: w[0]
)
@trials(len(FORMS))
def test_hostile_data_are_refused_and_never_run(words: list[str], stage: Stage, tmp_path: Path) -> None:
    for form in FORMS:
        path, marker = attacked(form, tmp_path, "data.npz")
        stage.run(*words, path).refused()
        assert not marker.exists()


LOADERS = ("pickle.load", "joblib.load", "dill.load", "marshal.load", "yaml.load")
ALLOWED = {
    "pickle.loads": {"targets/worker.py"},  # a parcel of this process, through its own pipe
    "marshal.loads": {"adapt/original.py"},  # what the same object wrote before, as the published code does
    "exec": set[str](),
    "eval": set[str](),
}
"""Calls that could run a file's content, and where they may stand."""


def test_nothing_in_the_source_can_run_a_file() -> None:
    for path in SOURCE.rglob("*.py"):
        name = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in ("torch.load", "torch.serialization.load"):
                assert given.get("weights_only") == "True", name
            if called in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", name
            if called in ALLOWED or called.startswith(LOADERS):
                assert name in ALLOWED.get(called, set()), f"{name}: {called}"
