"""The contract of every registered target, and what each refuses."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tersa.errors import ModelError, TargetError, UsageError
from tersa.export.artefact import NO_SPINNING, Artefact, Header, open_session
from tersa.export.check import classify, module_logits
from tersa.export.onnx import export_onnx
from tersa.models import build
from tersa.targets import onnx_runtime, openvino_cpu, registry, ssh_runner
from tersa.targets.base import PRECISIONS, Pixels, Session
from tersa.targets.registry import KINDS, installed, parse, parse_list, split_list

SAME = 1e-5
"""float32 sums in another order, for logits of size 1."""

NEAR = {"bf16": 0.03, "fp16": 0.004, "int8": 0.02}
"""Rounding of every weight and activation to 8 and 11 bits; one level of an activation; logits of size 1."""

HERE = [one.name for one in installed() if one.version]
CORE = ("torch", "torch-compile", "onnxruntime", "c", "packed")
SLOW = ("torch-compile",)
"""A compilation for every batch size."""
FILES = [name for name in HERE if not name.startswith("torch") and name != "executorch"]
"""Those that read the file; the others run its module."""


def each(names: list[str]) -> list[object]:
    """Parameters; optional runtimes carry the marker that `make test-all` asks for."""
    marks = {
        name: pytest.mark.slow if name in SLOW else () if name in CORE else pytest.mark.runtime
        for name in names
    }
    return [pytest.param(name, marks=marks[name]) for name in names]


def prepared(name: str, artefact: Artefact, precision: str) -> tuple[Session | None, str]:
    """A session, or why there is none."""
    try:
        return parse(name).prepare(artefact, "m", precision), ""
    except TargetError as error:
        return None, str(error)


def test_the_core_runtimes_are_here() -> None:
    assert {"torch", "torch-compile", "onnxruntime"} <= set(HERE)


@pytest.mark.parametrize("name", each(HERE))
def test_fp32_gives_the_networks_logits(name: str, artefact: Artefact, images: Pixels) -> None:
    session = parse(f"{name}@threads=1").prepare(artefact, "baseline")
    assert artefact.module is not None
    odd = images[:3]
    with session.pinned():
        np.testing.assert_allclose(session.run(odd), module_logits(artefact.module, odd), atol=SAME)
        np.testing.assert_allclose(session.run(images[:1]), session.run(odd)[:1], atol=SAME)
    assert (session.model, session.target) == ("baseline", f"{name}@threads=1")
    assert session.runtime
    assert (session.precision, session.threads, session.device) == ("fp32", 1, "cpu")
    assert session.executed.removesuffix(", slow path") == "fp32 2 of 2 layers"
    assert session.elsewhere is None
    session.close()


@pytest.mark.parametrize("name", each([name for name in HERE if "int8" in KINDS[name].precisions]))
def test_int8_gives_onnx_runtimes_logits(name: str, int8_artefact: Artefact, images: Pixels) -> None:
    session = parse(name).prepare(int8_artefact, "result")
    wanted = classify(int8_artefact.path, images)
    np.testing.assert_allclose(session.run(images), wanted, atol=NEAR["int8"])
    np.testing.assert_allclose(session.run(images[:3]), wanted[:3], atol=NEAR["int8"])
    assert session.precision == "int8"
    assert session.executed.startswith("int8 ")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", each(HERE))
def test_a_precision_is_executed_or_refused(
    name: str, precision: str, artefact: Artefact, int8_artefact: Artefact, images: Pixels
) -> None:
    source = int8_artefact if precision == "int8" else artefact
    target = parse(name)
    session, refusal = prepared(name, source, precision)
    if session is None:
        offered = f"does not offer {precision}; it has {', '.join(target.precisions)}"
        lacking = f"0 of 2 layers in {precision} on this machine"
        if precision == "packed" and precision in target.precisions:
            assert "packed needs a .tersa file" in refusal
            return
        assert refusal.startswith(f"{name} ")
        assert (lacking if precision in target.precisions else offered) in refusal
        return
    assert (session.precision, session.executed.split(" ")[0]) == (precision, precision)
    with session.pinned():
        found = session.run(images)
    assert found.dtype == np.float32
    difference = np.abs(found - classify(artefact.path, images)).max()
    assert difference < NEAR.get(precision, SAME) + (0.1 if precision == "int8" else 0.0)
    assert difference > 0 or precision == "fp32", "rounding to fewer bits changes the logits"


@pytest.mark.parametrize("name", each(HERE))
def test_the_file_must_be_of_the_precision(name: str, artefact: Artefact, int8_artefact: Artefact) -> None:
    target = parse(name)
    if "int8" in target.precisions:
        with pytest.raises(TargetError, match="int8 needs an INT8 file"):
            target.prepare(artefact, "m", "int8")
        with pytest.raises(TargetError, match=r"fp32 needs the fp32 file, int8\.onnx is int8"):
            target.prepare(int8_artefact, "m", "fp32")
    with pytest.raises(TargetError, match=f"{name} does not offer int4; it has "):
        target.prepare(artefact, "m", "int4")


def test_int8_that_would_run_in_float_is_refused(int8_artefact: Artefact) -> None:
    with pytest.raises(TargetError, match=r"graph=disabled computes 0 of 2 layers in int8 .* \(fp32 2\)"):
        parse("onnxruntime@graph=disabled").prepare(int8_artefact, "m")


@pytest.mark.runtime
@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_computes_what_is_asked(artefact: Artefact, images: Pixels) -> None:
    exact = classify(artefact.path, images)
    plain = parse("openvino").prepare(artefact, "m")
    assert plain.executed == "fp32 2 of 2 layers", "also where bfloat16 is OpenVINO's own choice"
    np.testing.assert_allclose(plain.run(images), exact, atol=SAME)
    for precision in ("bf16", "fp16"):
        short, refusal = prepared("openvino", artefact, precision)
        if short is None:
            assert f"openvino computes 0 of 2 layers in {precision}" in refusal
        else:
            assert 1e-5 < np.abs(short.run(images) - exact).max() < NEAR[precision]


@pytest.mark.runtime
@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_takes_batches_of_any_size_or_those_of_the_file(
    artefact: Artefact, images: Pixels, tmp_path: Path
) -> None:
    session = parse("openvino").prepare(artefact, "m")
    exact = classify(artefact.path, images)
    for count in (1, 4, 2, 1):
        np.testing.assert_allclose(session.run(images[:count]), exact[:count], atol=SAME)
    with pytest.raises(
        ModelError, match=r"openvino takes float32 images \(1, 8, 8\), got float32 \(1, 7, 8\)"
    ):
        session.run(images[:, :, 1:])
    fixed = onnx.load(artefact.path)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(fixed, tmp_path / "two.onnx")
    pair = parse("openvino").prepare(replace(artefact, path=tmp_path / "two.onnx"), "m")
    np.testing.assert_allclose(pair.run(images[:2]), exact[:2], atol=SAME)
    with pytest.raises(ModelError, match="the file takes batches of 2 only, not 4"):
        pair.run(images)
    np.testing.assert_allclose(pair.run(images[2:]), exact[2:], atol=SAME)


def test_fp32_stays_fp32_when_the_process_asks_for_less(artefact: Artefact, images: Pixels) -> None:
    session = parse("torch").prepare(artefact, "m")
    exact = classify(artefact.path, images)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with session.pinned():
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            np.testing.assert_allclose(session.run(images), exact, atol=SAME)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_network_that_compiles_only_in_part_is_refused(artefact: Artefact, images: Pixels) -> None:
    class Printing(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return pixels.mean((2, 3)).repeat(1, 3)

    session = parse("torch-compile").prepare(replace(artefact, module=Printing().eval()), "m")
    with (
        pytest.raises(TargetError, match="torch-compile cannot compile the network: ") as caught,
        session.pinned(),
    ):
        session.run(images)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_more_batch_sizes_than_a_compiler_keeps(artefact: Artefact, images: Pixels) -> None:
    session = parse("torch-compile").prepare(artefact, "m")
    exact = classify(artefact.path, np.concatenate([images] * 3))
    for batch in range(1, 11):
        with session.pinned():
            found = session.run(np.concatenate([images] * 3)[:batch])
        np.testing.assert_allclose(found, exact[:batch], atol=SAME)


@pytest.mark.parametrize("name", each(HERE))
def test_results_do_not_share_memory_between_calls(name: str, artefact: Artefact, images: Pixels) -> None:
    session = parse(name).prepare(artefact, "m")
    with session.pinned():
        first = session.run(images)
        kept = first.copy()
        session.run(1.0 - images)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", KINDS)
def test_the_registry_tells_what_a_target_has(name: str) -> None:
    kind = KINDS[name]
    target = kind.make(threads=1)
    assert (target.name, target.threads, target.precisions) == (name, 1, kind.precisions)
    assert target.describe() == f"{name}@threads=1"
    assert set(kind.precisions) <= set(PRECISIONS)
    assert kind.install.split()[0] in ("pip", "apt-get")


@pytest.mark.parametrize("name", HERE)
def test_a_target_describes_itself(name: str) -> None:
    for key, (default, *others) in KINDS[name].options.items():
        assert parse(f"{name}@{key}={default}").describe() == f"{name}@threads=1"
        for value in others:
            text = f"{name}@threads=1,{key}={value}"
            assert parse(text).describe() == text
            assert parse(text) == parse(parse(text).describe())
    with pytest.raises(UsageError, match="unknown option 'colour'; known: threads"):
        parse(f"{name}@colour=red")


def test_torch_refuses_int8_and_bare_files(artefact: Artefact, int8_artefact: Artefact) -> None:
    with pytest.raises(TargetError, match="torch does not offer int8; it has fp32, bf16, fp16"):
        parse("torch").prepare(int8_artefact, "m")
    with pytest.raises(TargetError, match=r"an \.onnx file has no PyTorch module"):
        parse("torch").prepare(replace(artefact, module=None), "m")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(artefact: Artefact) -> None:
    for name in ("torch", "torch-compile"):
        with pytest.raises(TargetError, match=rf"{name}: PyTorch .* sees no CUDA device"):
            parse(f"{name}@device=cuda").prepare(artefact, "m")


def test_channels_last_gives_the_same(artefact: Artefact, images: Pixels) -> None:
    session = parse("torch@layout=channels_last").prepare(artefact, "m")
    with session.pinned():
        np.testing.assert_allclose(session.run(images), classify(artefact.path, images), atol=SAME)


def test_torch_threads_are_given_back(artefact: Artefact) -> None:
    before = torch.get_num_threads()
    session = registry.KINDS["torch"].make(threads=before + 1).prepare(artefact, "m")
    with session.pinned():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="stop"), session.pinned():
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", each(FILES))
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
        ("torch@graph=all", "unknown option 'graph'; known: threads, device, layout"),
        ("c@threads=2", "threads is 1 to 1 for this target"),
        ("onnxruntime@graph=most", "graph is one of all, extended, basic, disabled, not 'most'"),
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


def test_all_threads_are_those_of_the_processors_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert parse("torch@threads=all").threads >= 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert parse("torch@threads=all").threads == 3
    with pytest.raises(UsageError, match="threads is 1 to 3 for this target here, or all, not '4'"):
        parse("torch@threads=4")


def test_threads_of_onnxruntime_sleep_when_a_call_ends(tmp_path: Path) -> None:
    """Else they spin for 40 ms in the rounds of the network that is timed next."""
    header = Header(("a", "b", "c"), (1, 28, 28), (0.3,), (0.4,))
    wide = export_onnx(build("mlp:1000x1000", header.shape, 3), header, tmp_path / "wide.onnx")
    images = np.random.default_rng(0).random((64, *header.shape), dtype=np.float32)
    session = open_session(wide.path, threads=2)
    spent: list[float] = []
    for _ in range(5):
        session.run(None, {session.get_inputs()[0].name: images})
        before = time.process_time()
        time.sleep(0.05)
        spent.append(time.process_time() - before)
    assert min(spent) < 0.01


def test_runtimes_over_ssh_have_the_settings_that_they_have_here(artefact: Artefact) -> None:
    names = ("intra_op_num_threads", "inter_op_num_threads", "log_severity_level", "graph_optimization_level")
    for graph, level in onnx_runtime.GRAPH_LEVELS.items():
        here = open_session(artefact.path, 2, level).get_session_options()
        there = ssh_runner.onnxruntime_settings(onnxruntime, 2, {"graph": graph})
        assert [getattr(there, name) for name in names] == [getattr(here, name) for name in names]
        key, value = NO_SPINNING
        assert there.get_session_config_entry(key) == here.get_session_config_entry(key) == value
    for precision in openvino_cpu.HINTS:
        for hint in openvino_cpu.OPTIONS["hint"]:
            settings = ssh_runner.openvino_settings(2, {"hint": hint}, precision)
            assert settings == openvino_cpu.settings(2, hint, precision)
    assert openvino_cpu.LAYERS == ssh_runner.OPENVINO_LAYERS
    assert openvino_cpu.NAMES == ssh_runner.OPENVINO_NAMES


def test_a_runtime_that_is_missing_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_package: str) -> str:
        return ""

    monkeypatch.setattr(registry, "package_version", nothing)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(TargetError, match=r'openvino is not installed; pip install "openvino'):
        parse("openvino")
    with pytest.raises(TargetError, match="c is not installed; apt-get install gcc"):
        parse("c")
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
