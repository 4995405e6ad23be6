"""Weights that are deterministic and never trivial, and exported files, for the tests of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

Shape = tuple[int, int, int]


@pytest.fixture
def wave_() -> Callable[[nn.Module], nn.Module]:
    """Fill a network in place with sines: weights of a sensible size, positive variances."""

    def fill_(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if not tensor.is_floating_point():
                    continue
                wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float32) * 0.7 + len(name))
                scale = 1.0 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
                values = wave * scale if "running_var" not in name else 1.5 + wave
                tensor.copy_(values.reshape(tensor.shape))
        return model

    return fill_


@pytest.fixture
def images() -> Callable[..., torch.Tensor]:
    """A batch of pixels in 0..1 that differ from one another."""

    def make(shape: Shape, batch: int = 3) -> torch.Tensor:
        count = batch * shape[0] * shape[1] * shape[2]
        return (0.5 + 0.5 * torch.sin(torch.arange(count) * 0.37)).reshape(batch, *shape)

    return make


@pytest.fixture
def export() -> Callable[..., ExportedProgram]:
    """Export a network on batches of 3, or of any size when `dynamic`."""

    def make(model: nn.Module, shape: Shape, *, dynamic: bool = True) -> ExportedProgram:
        shapes = ({0: Dim("n", min=1, max=4096)},) if dynamic else None
        return torch.export.export(model, (torch.zeros(3, *shape),), dynamic_shapes=shapes)

    return make


@pytest.fixture
def save_program(tmp_path: Path) -> Callable[[ExportedProgram], Path]:
    """Write an exported program to a file."""

    def write(program: ExportedProgram) -> Path:
        path = tmp_path / "model.pt2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's writer uses its own deprecated names
            torch.export.save(program, path)
        return path

    return write


@pytest.fixture
def decompose() -> Callable[[ExportedProgram], ExportedProgram]:
    """The program in core ATen operators: what older exporters and other tools write."""

    def rewrite(program: ExportedProgram) -> ExportedProgram:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch copies its own deprecated names
            return program.run_decompositions()

    return rewrite
