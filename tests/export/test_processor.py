"""What processors say about themselves."""

from __future__ import annotations

import pytest

from tersa.export.processor import features, processor_name

X86 = "model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\nmodel name\t: Core\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, ("avx2", "avx512", "vnni", "bf16", "amx")),
        (ARM, ("bf16", "neon", "dotprod", "i8mm")),
        ("", ()),
        ("flags : avx2\n\nflags : avx512f\n", ("avx2",)),
    ],
)
def test_features(text: str, expected: tuple[str, ...]) -> None:
    assert features(text) == expected


def test_name() -> None:
    assert processor_name(X86) == "Some CPU @ 2 GHz"
    assert processor_name("")
