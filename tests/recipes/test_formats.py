"""The formats of `tersa export`: what a file is held against, and what a failed one leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import ModelError
from tersa.quant.subsidiary import masks_of
from tersa.recipes import formats, subjects
from tersa.recipes.formats import FORMATS, Order, write_c
from tersa.recipes.subjects import find_subject
from tersa.records.results import Agreement


@pytest.fixture(autouse=True)
def bundled_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TERSA_DATA", raising=False)


def order(spec: str, out: Path, task: Task | None = None) -> Order:
    data = load_data("digits") if task is None else task
    return Order(find_subject(spec, data, seed=3), "fp32", out, data)


def apart(*_: object, **__: object) -> Agreement:
    return Agreement(images=2, same_class=1, largest_difference=1.0, tolerance=0.0)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("onnx", (subjects, "agreement")),
        ("tersa", (subjects, "agreement")),
        ("tersa", (formats, "compare_logits")),
        ("c", (formats, "compare_logits")),
    ],
)
def test_a_file_that_fails_its_check_leaves_the_old_one(
    kind: str, place: tuple[object, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"net{FORMATS[kind].suffix}"
    out.write_bytes(b"good")
    monkeypatch.setattr(*place, apart)
    with pytest.raises(ModelError, match=rf"^net\{out.suffix} does not give the trained network's outputs"):
        FORMATS[kind].write(order("tfc", out))
    assert out.read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_a_pixel_of_one_half_is_one_code_in_network_and_file(tmp_path: Path) -> None:
    """Digits are sixteenths: 8 / 16 is a tie at one bit."""
    made = write_c(order("tfc+w1a1:in=1", tmp_path / "net.c"))
    assert (made.agreement.largest_difference, made.agreement.same_class) == (0.0, 360)
    found = FORMATS["onnx"].write(order("tfc+w1a1:in=1", tmp_path / "net.onnx"))
    assert found.agreement.same_class == 360


@pytest.mark.parametrize("kind", ["c", "tersa"])
def test_data_that_are_no_bytes_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    task = load_data("digits")
    wide = [replace(each, images=8 * each.images - 2) for each in (task.train, task.validation, task.test)]
    task = replace(task, train=wide[0], validation=wide[1], test=wide[2])
    with pytest.raises(ModelError, match=r"these data are not whole bytes: their pixels from -2 to 6 are no"):
        FORMATS[kind].write(order("tfc+w1a1:first=float", tmp_path / f"net.{kind}", task))
    assert not (tmp_path / f"net.{kind}").exists()


def test_bytes_that_fail_are_not_blamed_on_the_data() -> None:
    with pytest.raises(ModelError, match=r"classes differ$"):
        subjects.require_on_bytes(apart(), "net.c", torch.tensor([[0.0, 128 / 255, 1.0]]))


def test_xnor_net_is_refused_by_name_and_exported_as_it_is_told(tmp_path: Path) -> None:
    given = order("tfc+w1a1:scale=xnor", tmp_path / "net.onnx")
    with pytest.raises(
        ModelError, match=r"scale=xnor has one; export it with --format onnx, or train it with"
    ):
        FORMATS["qonnx"].write(given)
    assert not given.out.exists()
    assert FORMATS["onnx"].write(given).agreement.same_class == 360


@pytest.mark.parametrize("kind", ["c", "tersa", "onnx"])
def test_masked_channels_are_left_out_of_a_file(kind: str, tmp_path: Path) -> None:
    """The file is smaller than that of the whole network and gives the same logits."""
    given = order("tfc+w1a1:mask=subsidiary", tmp_path / f"net.{kind}")
    whole = FORMATS[kind].write(order("tfc+w1a1", tmp_path / f"whole.{kind}"))
    module = given.subject.module
    assert module is not None
    for mask in masks_of(module):
        mask.latent.data[::3] = -0.5
    made = FORMATS[kind].write(given)
    assert made.agreement.same_class == made.agreement.images == whole.agreement.images
    assert given.out.stat().st_size < 0.9 * (tmp_path / f"whole.{kind}").stat().st_size
    assert masks_of(module)
