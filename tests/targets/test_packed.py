"""The target `packed`: .tersa files through every door a user has: export, bench, predict."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.binary.programs import CLASSES, MEAN, STD, images, network

from tersa.cli.main import execute
from tersa.errors import ModelError, TargetError, UsageError
from tersa.export.artefact import PACKED, Artefact, Header, read_artefact
from tersa.export.bundle import read_bundle
from tersa.export.check import classify, module_logits
from tersa.recipes.export import ExportRequest, export_subject
from tersa.recipes.subjects import Subject, find_subject, noise, to_artefact
from tersa.targets.base import Effort
from tersa.targets.measure import measure
from tersa.targets.registry import parse

SHAPE = (3, 16, 16)
HEADER = Header(CLASSES, SHAPE, MEAN, STD)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """A packed file, made as every verb makes one; asked for as .onnx, it gets its own ending."""
    subject = Subject("bresnet20", HEADER, network("bresnet20", SHAPE))
    return to_artefact(subject, PACKED, tmp_path_factory.mktemp("packed") / "net.onnx", None)


def test_a_session_gives_the_networks_logits(artefact: Artefact) -> None:
    assert artefact.path.suffix == ".tersa"
    assert artefact.module is not None
    pixels = images(SHAPE, 5)
    wanted = module_logits(artefact.module, pixels)
    for threads in (1, 2):
        session = parse(f"packed@threads={threads}").prepare(artefact, "net")
        assert (session.precision, session.threads, session.target) == (
            PACKED,
            threads,
            f"packed@threads={threads}",
        )
        assert session.executed == "1/1 (W/A), input 8, first 1/8, last 1/1"
        assert np.array_equal(session.run((pixels / np.float32(255)).astype(np.float32)), wanted)
        assert np.array_equal(session.run(pixels), wanted)


def test_it_is_measured_like_any_other(artefact: Artefact) -> None:
    assert artefact.module is not None
    session = parse("packed").prepare(artefact, "net")
    pixels = noise(HEADER, 2)
    row = measure(
        [session], pixels, effort=Effort(seconds=0.05, warmup_seconds=0.05),
        reference=[module_logits(artefact.module, pixels)], tolerance=0.0,
    )[0]  # fmt: skip
    assert (row.precision, row.batch, row.threads) == (PACKED, 2, 1)


def test_the_file_alone_is_enough(artefact: Artefact) -> None:
    alone = read_artefact(artefact.path)
    assert (alone.header.classes, alone.header.shape, alone.header.precision) == (CLASSES, SHAPE, PACKED)
    pixels = images(SHAPE, 3)
    assert np.array_equal(classify(alone.path, pixels), classify(artefact.path, torch.from_numpy(pixels)))
    found = find_subject(str(artefact.path), None)
    assert found.file is not None
    assert to_artefact(found, PACKED, Path("unused"), None).path == artefact.path


def test_what_cannot_be_is_refused(artefact: Artefact, tmp_path: Path) -> None:
    packed, other = parse("packed"), parse("onnxruntime")
    with pytest.raises(TargetError, match="onnxruntime does not offer packed; it has fp32, int8"):
        other.prepare(artefact, "net")
    floats = replace(artefact, header=replace(artefact.header, precision="fp32"))
    with pytest.raises(ModelError, match="is not an ONNX file"):
        packed.prepare(floats, "net")
    with pytest.raises(TargetError, match="packed does not offer bf16; it has packed, fp32, int8"):
        packed.prepare(floats, "net", "bf16")
    with pytest.raises(TargetError, match=r"packed needs a \.tersa file"):
        packed.prepare(floats, "net", PACKED)
    for precision in ("fp32", "int8"):
        with pytest.raises(TargetError, match="is a packed file, its fp32 weights are gone"):
            to_artefact(find_subject(str(artefact.path), None), precision, tmp_path / "x.onnx", None)
    (tmp_path / "bad.tersa").write_bytes(artefact.path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"is damaged|in a file of"):
        read_artefact(tmp_path / "bad.tersa")
    with pytest.raises(UsageError, match="threads is 1 to"):
        parse("packed@threads=1000")


def test_export_from_a_model_and_again_from_its_file(tmp_path: Path) -> None:
    made = export_subject(ExportRequest("tfc", tmp_path / "a.tersa", format="tersa", data="digits"))
    assert (made.precision, made.agreement.largest_difference) == (
        "1/1 (W/A), input 8, first 1/8, last 1/1",
        0.0,
    )
    assert made.agreement.same_class == made.agreement.images == 360
    assert any("360 of 360 images: the very logits" in note for note in made.notes)
    assert made.size_bytes < 6000
    copied = export_subject(ExportRequest(str(tmp_path / "a.tersa"), tmp_path / "b.tersa", format="tersa"))
    assert (tmp_path / "b.tersa").read_bytes() == (tmp_path / "a.tersa").read_bytes()
    assert copied.agreement.images == 256


def test_a_float_network_has_no_packed_form(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs low-bit layers and the network has none"):
        export_subject(ExportRequest("lenet", tmp_path / "a.tersa", format="tersa", data="digits"))
    assert not list(tmp_path.iterdir())


def test_predict_and_bench_take_the_file(
    artefact: Artefact, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = images(SHAPE, 1)
    np.save("a.npy", pixels[0])
    assert execute(["predict", str(artefact.path), "a.npy", "--top", "1"]) == 0
    best = read_bundle(artefact.path).classes[int(classify(artefact.path, pixels).argmax())]
    assert f"  {best} " in capsys.readouterr().out
    command = ["bench", str(artefact.path), "--targets", "packed,onnxruntime", "--seconds", "0.05"]
    assert execute(command) == 0
    out = capsys.readouterr().out
    assert "onnxruntime does not offer packed" in out
