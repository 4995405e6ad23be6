"""Trained weights from a file into a network: safetensors, or a PyTorch checkpoint that is weights only.

A checkpoint is data, never a program: PyTorch files are read with `weights_only=True`, and a file that needs
more than tensors is refused before anything in it runs. Weights may lie under one of the usual keys
(`state_dict`, `model`, ...) and carry the prefix of a wrapper (`module.`, `_orig_mod.`, ...). All differences
from the network are reported in one message, and the network is not touched unless everything fits.

Example:
    >>> from torch import nn
    >>> weights = {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}
    >>> fit_(nn.Linear(2, 1), weights, "w.pt", "mine")
    Linear(in_features=2, out_features=1, bias=True)
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tersa.errors import ModelError, UsageError
from tersa.models.summary import first_line

NESTING = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys under which training programs put the weights, in the order in which they are tried."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that wrappers give every weight: data parallel, torch.compile, Lightning and hand-written ones."""

SHOWN = 4
"""Names listed per kind of difference; the rest is counted."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Args:
        path: `.safetensors`, or anything that `torch.save` wrote and that holds tensors only.

    Raises:
        UsageError: no such file.
        ModelError: unreadable, not a mapping of names to tensors, or in need of more than tensors.
    """
    if not path.is_file():
        raise UsageError(f"no checkpoint file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    return _weights(_read_torch(path), path)


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(_refusal(path, str(error))) from error
    except Exception as error:  # damaged or hostile bytes may raise anything
        text = first_line(error)
        raise ModelError(
            f"{path} is not a readable PyTorch checkpoint: {type(error).__name__}: {text}"
        ) from error


def _refusal(path: Path, message: str) -> str:
    """Why the weights-only reader stopped: foreign code, or no checkpoint at all."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    if named is None:
        return f"{path} is not a readable PyTorch checkpoint: damaged, or not written by torch.save"
    return (
        f"{path} holds more than weights ({named[1]}), and loading that would run code from the file; "
        f"it was not loaded: save the weights alone with torch.save(model.state_dict(), path)"
    )


def _weights(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside what was saved."""
    found: Any = content
    for _ in range(2):  # a checkpoint inside a checkpoint: {'model': {'state_dict': ...}}
        if not isinstance(found, Mapping):
            break
        inner = next((found[key] for key in NESTING if isinstance(found.get(key), Mapping)), None)
        found = found if inner is None else inner
    if not isinstance(found, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a mapping of names to tensors")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(found)[:SHOWN]) or "nothing"
        raise ModelError(
            f"{path} holds no tensors under a known key; found {keys}; known: {', '.join(NESTING)}"
        )
    return tensors


def fit_(model: nn.Module, weights: Mapping[str, Tensor], source: str, name: str) -> nn.Module:
    """Copy weights into a network if all of them fit, in place.

    `num_batches_tracked` may be missing: it counts, it does not compute.

    Args:
        model: the network.
        weights: by name, see `read`.
        source: of the weights, for the message.
        name: of the network, for the message.

    Returns:
        The same network.

    Raises:
        ModelError: names missing or unexpected, or shapes that differ; all of them in one message.
    """
    wanted = model.state_dict()
    given = without_wrappers(dict(weights), set(wanted))
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in wanted]
    misshapen = [
        f"{key} {tuple(given[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    found = "; ".join(f"{kind} {_listed(names)}" for kind, names in kinds.items() if names)
    if found:
        raise ModelError(f"checkpoint {source} does not fit model '{name}': {found}")
    model.load_state_dict({**wanted, **given})
    return model


def without_wrappers(weights: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Weights without a wrapper's prefix, where every name has it and the network's names do not."""
    for prefix in WRAPPERS * 2:  # wrappers wrap wrappers: `module._orig_mod.`
        if weights and all(key.startswith(prefix) for key in weights):
            own = sum(key in wanted for key in weights)
            bare = {key.removeprefix(prefix): value for key, value in weights.items()}
            if sum(key in wanted for key in bare) >= own:
                weights = bare
    return weights


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
