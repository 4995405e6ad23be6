"""One entry for every kind of model: what it gives, and what it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from tersa.errors import ModelError, UsageError
from tersa.models import build, load
from tersa.models.load import check, kind_of

SHAPE = (1, 8, 8)
SPEC = "lenet:2-3-4"
HEAD = "import torch\nfrom torch import nn\n"
Fill = Callable[[nn.Module], nn.Module]


@pytest.fixture
def weights(wave_: Fill, tmp_path: Path) -> Path:
    torch.save(wave_(build(SPEC, SHAPE, 10)).state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def user_file(folder: Path, expression: str) -> str:
    (folder / "mine.py").write_text(f"{HEAD}def build(shape, classes):\n    return {expression}\n")
    return f"{folder}/mine.py:build"


def test_a_zoo_model(weights: Path) -> None:
    fresh = load(f" {SPEC} ", SHAPE, 10, seed=3)
    assert (fresh.spec, fresh.kind, fresh.trained, fresh.sha256) == (SPEC, "zoo", False, {})
    assert fresh.module.training
    assert torch.equal(
        fresh.module.state_dict()["fc1.weight"], build(SPEC, SHAPE, 10, seed=3).state_dict()["fc1.weight"]
    )
    trained = load(SPEC, SHAPE, 10, checkpoint=weights)
    assert (trained.kind, trained.trained) == ("zoo", True)
    assert trained.sha256 == {str(weights): hashlib.sha256(weights.read_bytes()).hexdigest()}
    stored = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, stored[key]) for key, value in trained.module.state_dict().items())


def test_a_users_function_with_a_checkpoint(tmp_path: Path) -> None:
    spec = user_file(tmp_path, "nn.Sequential(nn.Flatten(), nn.Linear(64, classes))")
    source = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    assert not load(spec, SHAPE, 5).trained
    found = load(spec, SHAPE, 5, checkpoint=tmp_path / "w.pth")
    assert (found.kind, found.trained, found.spec) == ("builder", True, spec)
    assert sorted(Path(name).name for name in found.sha256) == ["mine.py", "w.pth"]
    x = torch.ones(2, *SHAPE)
    assert torch.equal(found.module(x), source(x))


def test_an_exported_program(
    wave_: Fill,
    export: Callable[..., ExportedProgram],
    save_program: Callable[[ExportedProgram], Path],
    images: Callable[..., Tensor],
) -> None:
    model = wave_(build("resnet:20", SHAPE, 10)).eval()
    path = save_program(export(model, SHAPE))
    found = load(str(path), SHAPE, 10)
    assert (found.kind, found.trained, list(found.sha256)) == ("export", True, [str(path)])
    assert found.module.training
    assert torch.equal(found.module.eval()(images(SHAPE)), model(images(SHAPE)))
    with pytest.raises(UsageError, match="carries its own weights; leave out --checkpoint"):
        load(str(path), SHAPE, 10, checkpoint=path)


def test_a_program_of_another_shape_or_with_a_fixed_batch_in_its_own_operators(
    export: Callable[..., ExportedProgram], save_program: Callable[[ExportedProgram], Path]
) -> None:
    path = save_program(export(build(SPEC, SHAPE, 10), SHAPE))
    with pytest.raises(ModelError, match=r"does not take a batch of shape \(2, 3, 8, 8\)"):
        load(str(path), (3, 8, 8), 10)
    with pytest.raises(
        ModelError, match=r"output of shape \(2, 10\) .* the data have 7 classes and need \(2, 7\)"
    ):
        load(str(path), SHAPE, 7)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("nn.Sequential(nn.Flatten(), nn.Linear(64, 100))", r"output of shape \(2, 100\).* need \(2, 10\)"),
        (
            "nn.Sequential(nn.Flatten(), nn.Linear(192, 10))",
            r"does not take a batch of shape \(2, 1, 8, 8\): Runtime",
        ),
        ("nn.Conv2d(1, 10, 1)", r"output of shape \(2, 10, 8, 8\)"),
        ("nn.LSTM(8, 10)", r"does not take a batch"),
        (
            "nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)), nn.Linear(128, 10))",
            r"output of shape \(1, 10\)",
        ),
    ],
)
def test_what_does_not_classify_these_data(expression: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(user_file(tmp_path, expression), SHAPE, 10)
    assert "\n" not in str(caught.value)


class Answer(nn.Module):
    """Gives what it was told to."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> object:
        assert not self.training
        return self.value


def test_the_trial_wants_one_finite_tensor_and_keeps_the_mode() -> None:
    good = Answer(torch.ones(2, 3))
    check(good, "mine", SHAPE, 3)
    assert good.training
    with pytest.raises(ModelError, match="gives a tuple; it must give one tensor"):
        check(Answer((torch.ones(2, 3),)), "mine", SHAPE, 3)
    with pytest.raises(ModelError, match="NaN or infinity"):
        check(Answer(torch.full((2, 3), float("nan"))), "mine", SHAPE, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "model.onnx",
            "an ONNX file has no layers to train or prune; it serves bench, export, predict only; give",
        ),
        ("runs/a/MODEL.ONNX", "give the PyTorch model"),
        (
            "model.pth",
            "holds weights without a network; name the network and give them as --checkpoint model.pth",
        ),
        ("w.safetensors", "give them as --checkpoint"),
        ("runs/demo", "is no model that can be loaded; give a name, path/module.py:build or path.pt2"),
        ("model.tflite", "is no model that can be loaded"),
        ("lenett", "did you mean 'lenet'"),
        ("none.py:build", "no model file none.py"),
        ("none.pt2", "no exported model none.pt2"),
    ],
)
def test_what_is_no_model(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(spec, SHAPE, 10)
    assert "\n" not in str(caught.value)


def test_kinds_by_their_text() -> None:
    kinds = [kind_of(spec) for spec in ("lenet", "mobilenet:1.0", "a/b.py", "a/b.py:net", "c.pt2", "vgg:16")]
    assert kinds == ["zoo", "zoo", "builder", "builder", "export", "zoo"]


def test_a_checkpoint_that_does_not_fit(weights: Path) -> None:
    with pytest.raises(
        ModelError, match=r"does not fit model 'lenet:2-3-5': misshapen fc1.weight \(4, 12\) for \(5,"
    ):
        load("lenet:2-3-5", SHAPE, 10, checkpoint=weights)
