"""`tersa export --at`: any network that a run passed on its way, by accuracy or by number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tomlkit
import torch
from safetensors.torch import load_file
from torch import nn

from tersa.data import load as load_task
from tersa.errors import DataError, ModelError, UsageError
from tersa.models.load import load
from tersa.models.summary import parameters
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_
from tersa.recipes.export import ExportRequest, export_subject
from tersa.recipes.subjects import find_point
from tersa.recipes.trajectory import Table, Trajectory, point
from tersa.records.results import Step

MODEL, SHAPE = "mlp:6", (1, 8, 8)
LOGIT = 1e-4
"""Float sums in another order, with the normalisation folded into the first layer."""

ROWS: list[tuple[Table, int, float, int]] = [
    ("steps", 0, 98.0, 0),
    ("steps", 1, 98.5, 1),
    ("steps", 2, 97.0, 3),
    ("steps", 3, 90.0, 5),
    ("tuned", 2, 98.0, 3),
    ("tuned", 3, 95.5, 5),
]
"""Table, step, validation accuracy, units gone."""


def network(gone: int, spec: str = MODEL) -> nn.Module:
    model = load(spec, SHAPE, 10, seed=2).module.eval()
    groups = find_groups(model, SHAPE)
    if gone:
        remove_(model, groups, groups.units[:gone])
    return model


def made(folder: Path, spec: dict[str, object] | None = None, base: str = MODEL, light: str = "") -> Path:
    """A run folder as a killed run leaves it: a spec and its steps."""
    folder.mkdir()
    asked = {"schema_version": 1, "verb": "prune", "data": "digits", "seed": 0, "model": MODEL}
    (folder / "spec.toml").write_text(tomlkit.dumps({**asked, **(spec or {})}))
    way = Trajectory(folder, {"data": "d"})
    for table, index, accuracy, gone in ROWS:
        model = network(gone, base if (table, index) == ("steps", 0) else base + light)
        row = Step(
            index=index,
            stage="prune",
            what="",
            validation_accuracy=accuracy,
            loss_points=98.0 - accuracy,
            standard_error=0.1,
            parameters=parameters(model),
            macs=1,
            widths={},
            seconds=0.0,
        )
        way.add(table, row, model, torch.arange(gone))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "x")


# Which one


@pytest.mark.parametrize(
    ("at", "table", "index"),
    [
        ("0", "steps", 0),
        ("1", "steps", 1),
        ("2", "steps", 2),
        (" 3 ", "steps", 3),
        ("4", "tuned", 2),
        ("5", "tuned", 3),
        ("0.98", "tuned", 2),
        ("98%", "tuned", 2),
        ("98.0 %", "tuned", 2),
        ("0.981", "steps", 1),
        ("0.97", "tuned", 2),
        ("95.5%", "tuned", 3),
        ("0.5", "tuned", 3),
        ("0.0", "tuned", 3),
        ("98.5%", "steps", 1),
    ],
)
def test_the_smallest_network_that_is_accurate_enough(at: str, table: str, index: int, folder: Path) -> None:
    """Fine-tuned or not; of equally small ones the more accurate. Numbers are those of the report."""
    found = point(Trajectory(folder), at)
    assert (found[0], found[1].index) == (table, index)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("best", "--at 'best' is not understood; write an accuracy"),
        ("", "--at '' is not understood"),
        (
            "12",
            r"--at 12: .* 0 to 5, the last 2 of them fine-tuned; an accuracy is 0.12 or 12%",
        ),
        ("0.999", "--at 0.999: no step has 99.9 % on validation; the best has 98.50 %"),
        ("98.5", "--at '98.5' is not an accuracy; write a share .0.995. or percent"),
        ("101%", "--at '101%' is not an accuracy"),
        ("-0.5", "--at '-0.5' is not an accuracy"),
        ("nan", "--at 'nan' is not an accuracy"),
    ],
)
def test_a_point_that_is_not_there_is_told(at: str, words: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=words):
        point(Trajectory(folder), at)


# The network of it


@pytest.mark.parametrize(("at", "gone"), [("0", 0), ("1", 1), ("0.98", 3), ("0.955", 5)])
def test_it_is_the_network_of_that_step(at: str, gone: int, folder: Path) -> None:
    subject = find_point(folder, at)
    assert subject.module is not None
    wanted = network(gone).state_dict()
    found = subject.module.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert not subject.module.training
    assert f"{parameters(network(gone)):,} parameters" in subject.note
    assert subject.note.startswith("fine-tuned step" if at.startswith("0.9") else "step")


def test_it_is_exported_and_answers_as_the_network_does(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "at.onnx"
    result = export_subject(ExportRequest(str(folder), out, at="0.98", data="digits"))
    assert result.artefacts == [str(out)]
    assert any("98.00 % on validation" in note for note in result.notes)
    task = load_task("digits")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: task.test.images.numpy()})[0]
    with torch.inference_mode():
        wanted = network(3)(task.normalise(task.test.images)).numpy()
    np.testing.assert_allclose(logits, wanted, atol=LOGIT * max(1.0, np.abs(wanted).max()))
    right = float((logits.argmax(axis=1) == task.test.labels.numpy()).mean())
    assert result.test_accuracy == pytest.approx(100 * right)


def test_the_default_model_of_the_data(tmp_path: Path) -> None:
    """A spec without a model stands for the data's default; its weights are of other sizes here."""
    found = made(tmp_path / "x", {"model": ""})
    with pytest.raises(ModelError, match="of another network"):
        find_point(found, "1")


def test_light_modules_are_in_every_step_but_the_first(tmp_path: Path) -> None:
    light, base = "+separable", "lenet:6-4-4"
    found = made(tmp_path / "x", {"model": base, "light": "separable"}, base, light)
    assert hasattr(find_point(found, "1").module.conv2, "pointwise")
    assert isinstance(find_point(found, "0").module.conv2, nn.Conv2d)


def test_the_network_of_an_earlier_run_is_found_by_its_folder(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "spec.toml").write_text('verb = "train"\ndata = "digits"\nmodel = "mlp:6"\n')
    (earlier / "result.json").write_text(json.dumps({"model": MODEL, "artefacts": []}))
    spec: dict[str, object] = {"run": str(earlier)}
    found = made(tmp_path / "x", spec)
    text = (found / "spec.toml").read_text().replace(f'model = "{MODEL}"\n', "")
    (found / "spec.toml").write_text(text)
    assert parameters(find_point(found, "2").module) == parameters(network(3))


def test_a_run_knows_its_model_without_the_earlier_one(tmp_path: Path) -> None:
    found = made(tmp_path / "x", {"run": str(tmp_path / "gone"), "model": ""})
    with pytest.raises(UsageError, match=r"gone, which is gone; only that folder names the model"):
        find_point(found, "2")
    Trajectory(found, {"data": "d", "model": MODEL})
    assert parameters(find_point(found, "2").module) == parameters(network(3))


# Faults


def test_weights_of_its_own_and_data_that_fit(folder: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "at.onnx", str(tmp_path / "other.npz")
    with pytest.raises(UsageError, match="--at takes the weights of a stored step; leave out --checkpoint"):
        export_subject(ExportRequest(str(folder), out, at="1", checkpoint=tmp_path / "w.safetensors"))
    np.savez(other, images=np.zeros((30, 9, 9, 1), np.uint8), labels=np.arange(30) % 10)
    with pytest.raises(UsageError, match=r"takes images \(1, 8, 8\), .* has \(1, 9, 9\)"):
        export_subject(ExportRequest(str(folder), out, at="1", data=other))
    assert not out.exists()


def test_runs_of_other_verbs_have_no_points(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('verb = "train"\ndata = "digits"\n')
    with pytest.raises(UsageError, match="made by tersa train; --at needs a run of shrink, prune or adapt"):
        find_point(tmp_path, "1")


def test_a_run_that_has_not_begun_has_no_points(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('verb = "prune"\ndata = "digits"\n')
    with pytest.raises(UsageError, match="has no steps yet"):
        find_point(tmp_path, "1")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.toml"], "looking makes no file"


def test_a_damaged_step_is_told(tmp_path: Path) -> None:
    found = made(tmp_path / "x")
    (found / "steps" / "001.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"001\.safetensors cannot be read"):
        find_point(found, "1")
    assert load_file(found / "steps" / "002.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "net.onnx"}, "--at picks a step of a run of shrink or prune; give --run DIR"),
        ({"format": "onix"}, "unknown format 'onix'; did you mean 'onnx'"),
        ({"out": Path("at.txt")}, "--out is a file that ends in .onnx"),
        ({"precision": "int8"}, "--precision int8 needs --data"),
    ],
)
def test_what_cannot_be_exported_is_told(
    changes: dict[str, object], words: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = {"source": str(folder), "out": Path("at.onnx"), "at": "1", **changes}
    with pytest.raises(UsageError, match=words):
        export_subject(ExportRequest(**request))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
