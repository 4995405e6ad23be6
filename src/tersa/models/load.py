"""Any network that a user can name: the zoo's, their own Python file, or an exported program.

    lenet, mlp:100x100, ...        the zoo; with `--checkpoint`, trained
    path/module.py:build           a function that returns an `nn.Module` (`builder.py` says how it is called)
    path/model.pt2                 a `torch.export` file, with its weights; lifted back into layers

`+separable`, `+fire` or `+shift` behind any of them replaces its convolutions by light modules (`lighten.py`
has the grammar); a file's trained weights then give the start of separable convolutions.

`--checkpoint` takes safetensors or a weights-only PyTorch file. An ONNX file has no layers to train or to
prune: `bench`, `export` and `predict` take it, this module says so. Every network is tried on one batch
before it is given out.

Example:
    >>> loaded = load("lenet", (1, 28, 28), 10)
    >>> loaded.kind, loaded.trained, loaded.sha256
    ('zoo', False, {})
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tersa.errors import ModelError, UsageError
from tersa.models import archive, builder, zoo
from tersa.models.checkpoint import fit_
from tersa.models.checkpoint import read as read_checkpoint
from tersa.models.family import Shape
from tersa.models.lift import from_export
from tersa.models.lighten import lighten_, split
from tersa.models.summary import evaluating, first_line

Kind = Literal["zoo", "builder", "export"]

BATCH = 2
"""Images in the trial batch: 1 would hide a network that ignores the batch axis."""


@dataclass(frozen=True)
class LoadedModel:
    """A network and where it came from.

    Attributes:
        module: the network in train mode, on the CPU.
        spec: the text that gives it again.
        kind: `zoo`, `builder` (a user's Python file) or `export` (a `.pt2` file).
        trained: its weights come from a checkpoint or an exported file, and no light module took the place of
            some of the file's. A user's function that loads weights of its own cannot be told from one that
            does not: it counts as untrained without a checkpoint.
        sha256: digest of every file that it was made from, by path.
    """

    module: nn.Module
    spec: str
    kind: Kind
    trained: bool
    sha256: dict[str, str] = field(default_factory=dict[str, str])


def load(
    spec: str, shape: Shape, classes: int, *, seed: int = 0, checkpoint: Path | None = None
) -> LoadedModel:
    """The network that a spec names, tried on one batch.

    Args:
        spec: see the head of this file.
        shape: (C, H, W) of one image.
        classes: K.
        seed: of the weights of a network that is not trained.
        checkpoint: weights for a zoo network or a user's function.

    Raises:
        UsageError: an unknown or malformed spec, an ONNX file, a missing file, or a checkpoint where none
        fits. ModelError: a file that cannot be read or was refused, weights that do not fit, an error in the
        user's
            code, or a network that does not map (2, C, H, W) to finite logits (2, K).
    """
    spec = spec.strip()
    kind = kind_of(spec)
    base, lights = split(spec)
    whole = kind == "export" and not lights
    if whole and checkpoint is not None:
        raise UsageError(f"'{spec}' carries its own weights; leave out --checkpoint {checkpoint}")
    makers: dict[Kind, Callable[[], tuple[nn.Module, dict[str, str]]]] = {
        "zoo": lambda: (zoo.build(base, shape, classes, seed=seed), {}),
        "builder": lambda: builder.build(base, shape, classes, seed=seed),
        "export": lambda: _exported(Path(base)),
    }
    module, files = makers[kind]()
    for light in lights:
        start = "weights" if kind == "export" and light.kind == "separable" else "random"
        lighten_(module, light.kind, light.layers, squeeze=light.squeeze, start=start, seed=seed)
    if checkpoint is not None:
        files = {**files, **_restore_(module, checkpoint, spec)}
    check(module, spec, shape, classes)
    trained = whole or checkpoint is not None
    return LoadedModel(module.train(), spec, kind, trained, files)


def kind_of(spec: str) -> Kind:
    """Where a spec leads, from its text alone.

    Raises:
        UsageError: an ONNX file, a path of no known kind, or unknown light modules behind a `+`.
    """
    text, _ = split(spec)
    if zoo.bits_of(text) is not None:
        return "zoo"
    path = text.rpartition(":")[0] if ".py:" in text else text
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        raise UsageError(
            f"'{text}': an ONNX file has no layers to train or prune; it serves bench, export, predict only; "
            f"give the PyTorch model (path/module.py:build or a .pt2 file)"
        )
    if suffix == ".py":
        return "builder"
    if suffix == ".pt2":
        return "export"
    if suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
        raise UsageError(
            f"'{text}' holds weights without a network; name the network and give them as --checkpoint {text}"
        )
    if os.sep in text or suffix in (".h5", ".keras", ".tflite"):
        raise UsageError(
            f"'{text}' is no model that can be loaded; give a name, path/module.py:build or path.pt2"
        )
    return "zoo"


def check(module: nn.Module, spec: str, shape: Shape, classes: int) -> None:
    """Try a network on a batch of zeros, in eval mode, and leave it as it was.

    Raises:
        ModelError: it does not take (2, C, H, W), or its output is not finite and of shape (2, K).
    """
    batch = (BATCH, *shape)
    try:
        with evaluating(module), torch.no_grad():
            output = module(torch.zeros(batch))
    except Exception as error:  # a user's forward may raise anything
        raise ModelError(
            f"model '{spec}' does not take a batch of shape {batch}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"model '{spec}' gives a {type(output).__name__}; it must give one tensor of logits")
    if tuple(output.shape) != (BATCH, classes):
        raise ModelError(
            f"model '{spec}' gives an output of shape {tuple(output.shape)} for a batch of {batch}, "
            f"the data have {classes} classes and need {(BATCH, classes)}"
        )
    if not torch.isfinite(output).all():
        raise ModelError(
            f"model '{spec}' gives NaN or infinity for a blank image; its weights are not usable"
        )


def _exported(path: Path) -> tuple[nn.Module, dict[str, str]]:
    module = from_export(archive.read(path))
    return module, {str(path): builder.sha256(path)}


def _restore_(module: nn.Module, path: Path, spec: str) -> dict[str, str]:
    """Copy a checkpoint's weights into the network; the digest of its file."""
    fit_(module, read_checkpoint(path), str(path), spec)
    return {str(path): builder.sha256(path)}
