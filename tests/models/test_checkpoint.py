"""Weights from files: every form that training programs write, all faults in one message, and no code run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tersa.errors import ModelError, UsageError
from tersa.models import build
from tersa.models.checkpoint import fit_, read

GREY = (1, 8, 8)
SPEC = "lenet:2-3-4"
Fill = Callable[[nn.Module], nn.Module]


def network(seed: int = 0) -> nn.Module:
    return build(SPEC, GREY, 10, seed=seed)


@pytest.fixture
def trained(wave_: Fill) -> dict[str, Tensor]:
    return wave_(network()).state_dict()


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3, "best": 0.99},
    "model": lambda w: {"model": w, "optimizer": {"lr": 0.1}},
    "nested": lambda w: {"model": {"state_dict": w}},
    "data parallel": lambda w: prefixed(w, "module."),
    "compiled data parallel": lambda w: {"state_dict": prefixed(w, "module._orig_mod.")},
    "lightning": lambda w: {"state_dict": prefixed(w, "model."), "hyper_parameters": {"width": 4}},
}


@pytest.mark.parametrize("form", list(FORMS))
def test_usual_forms_are_read(form: str, trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(FORMS[form](trained), path)
    model = fit_(network(seed=1), read(path), "w.pt", SPEC)
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())


def test_safetensors(trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(trained, path)
    model = fit_(network(seed=1), read(path), "w", SPEC)
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())


def test_half_precision_becomes_the_networks_type(trained: dict[str, Tensor]) -> None:
    model = fit_(network(), {key: value.half() for key, value in trained.items()}, "w", SPEC)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.state_dict()["fc1.weight"], trained["fc1.weight"].half().float())


def test_all_faults_come_in_one_message_and_nothing_is_changed(trained: dict[str, Tensor]) -> None:
    model = network(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {**trained, "head.weight": torch.ones(1), "fc1.weight": torch.ones(4, 7)}
    del given["fc2.bias"], given["conv1.bias"]
    with pytest.raises(ModelError) as caught:
        fit_(model, given, "w.pt", SPEC)
    assert str(caught.value) == (
        "checkpoint w.pt does not fit model 'lenet:2-3-4': missing conv1.bias, fc2.bias; "
        "unexpected head.weight; misshapen fc1.weight (4, 7) for (4, 12)"
    )
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_long_lists_are_cut(trained: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=r"missing conv1.weight, .* and 4 more; unexpected a$"):
        fit_(network(), {"a": torch.ones(1)}, "w", SPEC)


def test_batch_counts_may_be_missing(wave_: Fill) -> None:
    weights = wave_(build("resnet:20", GREY, 10)).state_dict()
    bare = {key: value for key, value in weights.items() if "num_batches" not in key}
    model = fit_(build("resnet:20", GREY, 10, seed=2), bare, "w", "resnet:20")
    assert torch.equal(model.state_dict()["layer1.0.bn1.running_var"], weights["layer1.0.bn1.running_var"])


def test_a_prefix_that_is_the_networks_own_stays() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    source = Wrapped()
    target = fit_(Wrapped(), source.state_dict(), "w", "mine")
    assert torch.equal(target.state_dict()["model.weight"], source.model.weight)


class Attack:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_never_run(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "w.pt", tmp_path / "marker"
    torch.save({"state_dict": Attack(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ModelError, match=r"holds more than weights \(\w+\.mkdir\), .* it was not loaded: save"
    ):
        read(path)
    assert not marker.exists()
    with pytest.raises(pickle.UnpicklingError):  # what the refusal stands on
        torch.load(path, weights_only=True)
    torch.load(path, weights_only=False)
    assert marker.exists()  # the attack was a real one


def test_a_plain_pickle_file_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "w.pth", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Attack(marker)))
    with pytest.raises(ModelError):
        read(path)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"holds more than weights \(tersa.models.lenet.LeNet\)") as caught:
        read(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pt", b""),
        ("w.pt", b"not a checkpoint at all"),
        ("w.pt", b"PK\x03\x04 broken"),
        ("w.safetensors", b""),
        ("w.safetensors", b"\xff" * 64),
    ],
)
def test_damaged_files_are_said_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="is not a readable") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_cut_file(trained: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="is not a readable PyTorch checkpoint"):
        read(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"), [([1, 2], "holds a list"), ({"epoch": 3}, "found epoch; known")]
)
def test_content_without_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        read(tmp_path / "w.pt")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint file"):
        read(tmp_path / "w.pt")
