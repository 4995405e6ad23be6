"""How work is carried out."""

from pathlib import Path

import pytest

from tersa.recipes import setting
from tersa.recipes.setting import precision_of


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_bf16", "bf16"), ("avx2 avx512f", "fp32"), ("", "fp32")]
)
def test_auto_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, flags: str, expected: str
) -> None:
    monkeypatch.setattr(setting, "cpuinfo", lambda: f"flags : {flags}\n")
    assert precision_of("auto", "cpu", gpu="bf16") == expected
    assert precision_of("auto", "cuda", gpu="fp32") == "fp32"
    assert precision_of("auto", "cuda:1", gpu="bf16") == "bf16"
    assert precision_of("fp32", "cuda", gpu="bf16") == "fp32"
    assert precision_of("bf16", "cpu", gpu="fp32") == "bf16"


def test_auto_precision_is_that_of_the_work_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setting, "cpuinfo", lambda: "flags : avx2")
    (tmp_path / "spec.toml").write_text('schema_version = 1\nverb = "reproduce"\nprecision = "bf16"\n')
    assert precision_of("auto", "cpu", gpu="fp32", begun=tmp_path, verb="reproduce") == "bf16"
    assert precision_of("fp32", "cpu", gpu="fp32", begun=tmp_path, verb="reproduce") == "fp32"
    assert precision_of("auto", "cpu", gpu="bf16", begun=tmp_path, verb="prune") == "fp32"
    assert precision_of("auto", "cpu", gpu="bf16", begun=tmp_path / "none", verb="reproduce") == "fp32"
    assert precision_of("auto", "cuda", gpu="bf16", begun=None, verb="reproduce") == "bf16"
