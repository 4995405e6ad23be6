"""The vision transformer against the published size, attention written out, and the images it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tersa.errors import UsageError
from tersa.export.artefact import Header
from tersa.export.check import classify, module_logits
from tersa.export.onnx import export_onnx
from tersa.models import build, parameters
from tersa.models.vit import Block, patch_side
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_

SAME = 1e-5
"""float32 sums in another order."""


def test_tiny_has_the_parameters_of_deit_tiny() -> None:
    # 5,717,416 of DeiT-Ti with 1000 classes, less the class token and its position
    assert parameters(build("vit:tiny", (3, 224, 224), 1000)) == 5_717_416 - 2 * 192


def test_a_block_is_the_formula_of_its_docstring() -> None:
    torch.manual_seed(0)
    block, x = Block(128, 2), torch.randn(3, 5, 128)
    z = block.norm1(x)
    q, k, v = block.qkv(z).split(128, dim=2)
    heads = []
    for part in (slice(0, 64), slice(64, 128)):
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 8.0, dim=2)
        heads.append(weights @ v[..., part])
    x1 = x + block.proj(torch.cat(heads, 2))
    wanted = x1 + block.fc2(torch.nn.functional.gelu(block.fc1(block.norm2(x1))))
    torch.testing.assert_close(block(x), wanted, atol=SAME, rtol=SAME)


@pytest.mark.parametrize(
    ("shape", "side"),
    [((1, 8, 8), 1), ((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 96, 96), 8), ((3, 224, 224), 16)],
)
def test_patches_are_as_small_as_the_limit_allows(shape: tuple[int, int, int], side: int) -> None:
    assert patch_side(shape) == side


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        ("vit:small", (1, 8, 8), "'small' is neither tiny nor DEPTHxWIDTH"),
        ("vit:0x64", (1, 8, 8), "depth 0 is outside 1..48"),
        ("vit:2x100", (1, 8, 8), "width 100 is neither below 64 nor a multiple"),
        ("vit:2x64", (3, 37, 37), "equal square patches, which 37x37 does not allow"),
    ],
)
def test_what_is_no_transformer(spec: str, shape: tuple[int, int, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(spec, shape, 10)


def test_the_exported_file_computes_the_same(tmp_path: Path) -> None:
    header = Header(tuple("abc"), (1, 8, 8), (0.3,), (0.4,))
    artefact = export_onnx(build("vit:2x32", (1, 8, 8), 3), header, tmp_path / "vit.onnx")
    assert artefact.module is not None
    images = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(
        classify(artefact.path, images), module_logits(artefact.module, images), atol=SAME
    )


def test_pruning_takes_hidden_units_and_keeps_the_tokens() -> None:
    model = build("vit:2x32", (1, 8, 8), 3).eval()
    groups = find_groups(model, (1, 8, 8))
    found = {name: count for group in groups.groups for name, count in ((group.name, len(group.units)),)}
    assert {name for name in found if name.endswith(".fc1")} == {"blocks.0.fc1", "blocks.1.fc1"}
    before = parameters(model)
    hidden = next(group for group in groups.groups if group.name == "blocks.0.fc1")
    remove_(model, groups, hidden.units[:10])
    assert before - parameters(model) == 10 * (32 + 1 + 32)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
