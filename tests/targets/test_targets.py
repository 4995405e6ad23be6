"""The contract of every registered target, and what each refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tersa.errors import ModelError, TargetError, UsageError
from tersa.export.artefact import Artefact
from tersa.export.check import classify, module_logits
from tersa.targets import registry
from tersa.targets.base import Pixels
from tersa.targets.registry import KINDS, installed, parse, parse_list, split_list

SAME = 1e-5
"""float32 sums in another order, for logits of size 1."""

HERE = [one.name for one in installed() if one.version]
CORE = ("torch", "onnxruntime")


def each(names: list[str]) -> list[object]:
    """Parameters; optional runtimes carry the marker that `make test-all` asks for."""
    return [pytest.param(name, marks=() if name in CORE else pytest.mark.runtime) for name in names]


def test_the_core_runtimes_are_here() -> None:
    assert set(CORE) <= set(HERE)


@pytest.mark.parametrize("name", each(HERE))
def test_fp32_gives_the_networks_logits(name: str, artefact: Artefact, images: Pixels) -> None:
    session = parse(f"{name}@threads=1").prepare(artefact, "baseline")
    assert artefact.module is not None
    with session.pinned():
        np.testing.assert_allclose(session.run(images), module_logits(artefact.module, images), atol=SAME)
        np.testing.assert_allclose(session.run(images[:1]), session.run(images)[:1], atol=SAME)
    assert (session.model, session.target) == ("baseline", f"{name}@threads=1")
    assert session.runtime.startswith(name)
    assert (session.precision, session.threads, session.device) == ("fp32", 1, "cpu")


@pytest.mark.parametrize("name", each([name for name in HERE if "int8" in KINDS[name].precisions]))
def test_int8_gives_onnx_runtimes_logits(name: str, int8_artefact: Artefact, images: Pixels) -> None:
    session = parse(name).prepare(int8_artefact, "result")
    step = 0.02  # one level of an activation may fall to the other side in another runtime
    np.testing.assert_allclose(session.run(images), classify(int8_artefact.path, images), atol=step)
    assert session.precision == "int8"


@pytest.mark.parametrize("name", each(HERE))
def test_results_do_not_share_memory_between_calls(name: str, artefact: Artefact, images: Pixels) -> None:
    session = parse(name).prepare(artefact, "m")
    first = session.run(images)
    kept = first.copy()
    session.run(1.0 - images)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", KINDS)
def test_the_registry_tells_what_a_target_has(name: str) -> None:
    kind = KINDS[name]
    target = kind.make(2, {})
    assert (target.name, target.threads, target.precisions) == (name, 2, kind.precisions)
    assert target.describe() == f"{name}@threads=2"
    assert kind.install.startswith("pip install ")


def test_torch_refuses_int8_and_bare_files(artefact: Artefact, int8_artefact: Artefact) -> None:
    with pytest.raises(TargetError, match="torch does not offer int8; it has fp32"):
        parse("torch").prepare(int8_artefact, "m")
    with pytest.raises(TargetError, match=r"an \.onnx file has no PyTorch module"):
        parse("torch").prepare(replace(artefact, module=None), "m")


def test_torch_threads_are_given_back(artefact: Artefact) -> None:
    before = torch.get_num_threads()
    session = registry.KINDS["torch"].make(before + 1, {}).prepare(artefact, "m")
    with session.pinned():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="stop"), session.pinned():
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", each([name for name in HERE if name != "torch"]))
def test_a_file_that_is_none(name: str, artefact: Artefact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        parse(name).prepare(replace(artefact, path=tmp_path / "none.onnx"), "m")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not an ONNX file") as caught:
        parse(name).prepare(replace(artefact, path=tmp_path / "bad.onnx"), "m")
    assert "\n" not in str(caught.value)


def test_graph_levels(artefact: Artefact, images: Pixels) -> None:
    plain = parse("onnxruntime@graph=disabled").prepare(artefact, "m")
    assert plain.target == "onnxruntime@threads=1,graph=disabled"
    np.testing.assert_allclose(plain.run(images), classify(artefact.path, images), atol=SAME)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("onnxrutime", "unknown target 'onnxrutime'; did you mean 'onnxruntime'"),
        ("torch@graph=all", "unknown option 'graph'; known: threads"),
        ("onnxruntime@graph=most", "graph is one of disabled, basic, extended, all, not 'most'"),
        ("onnxruntime@threads=0", "threads is 1 to"),
        ("onnxruntime@threads=two", "threads is 1 to"),
        ("onnxruntime@threads=99999", "threads is 1 to"),
        ("onnxruntime@threads=0,graph=x", "2 faults"),
        ("", "unknown target"),
    ],
)
def test_texts_that_are_no_target(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_all_threads() -> None:
    assert parse("torch@threads=all").threads >= 1


def test_a_runtime_that_is_missing_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_package: str) -> str:
        return ""

    monkeypatch.setattr(registry, "package_version", nothing)
    with pytest.raises(TargetError, match=r'openvino is not installed; pip install "openvino'):
        parse("openvino")
    assert all(one.version == "" for one in installed())


def test_lists() -> None:
    found = parse_list("torch, onnxruntime@graph=basic,threads=1,torch@threads=1")
    assert [one.describe() for one in found] == [
        *("torch@threads=1", "onnxruntime@threads=1,graph=basic", "torch@threads=1")
    ]
    assert split_list("onnxruntime,threads=1,torch") == ["onnxruntime@threads=1", "torch"]
    with pytest.raises(UsageError, match="given twice"):
        split_list("torch,torch")
    with pytest.raises(UsageError, match="no target"):
        split_list(" , ")


@pytest.mark.runtime
@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_writes_nothing_into_the_home_folder(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    code = (
        "from pathlib import Path; from tersa.export.artefact import read_artefact; "
        "from tersa.targets.registry import parse; import sys; "
        "parse('openvino').prepare(read_artefact(Path(sys.argv[1])), 'm')"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, str(artefact.path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*"))
