"""The whole state of a run in one file, so that it can be taken up again bit for bit.

The file is a safetensors file: every tensor of the state (weights, best weights, optimiser, random
generators) under a numbered name, and in its metadata one JSON text with everything else (position, history,
the shape of the optimiser's nested state, and what the run is: settings, data, model, teacher) and a sha256
over text and tensors. One file cannot be half replaced, and nothing in it is code.

Example:
    >>> tensors = {}
    >>> text = pack({0: {"step": torch.tensor(3.0), "old": [torch.ones(2), None]}, "lr": (0.5, 1)}, tensors)
    >>> sorted(tensors)
    ['0', '1']
    >>> unpack(text, tensors)
    {0: {'step': tensor(3.), 'old': [tensor([1., 1.]), None]}, 'lr': (0.5, 1)}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tersa.errors import DataError, UsageError
from tersa.files import replacing
from tersa.records.base import SCHEMA, Record
from tersa.records.results import Epoch
from tersa.train.config import TrainConfig

HEADER = "tersa.checkpoint"
DIGEST = "sha256"

Json = Any
"""What `json` reads and writes."""


class Identity(Record):
    """What must be equal for a run to go on: everything that its result depends on but the machine."""

    config: TrainConfig
    """Settings of the run."""
    data: str
    """Fingerprint of the data."""
    model: dict[str, str]
    """Type and shape of each tensor of the model's state, by name."""
    teacher: str
    """Digest of the teacher's weights, or empty."""
    evaluate_every: int | None
    """Epochs between two evaluations; None for none at all."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a run between two epochs.

    Attributes:
        iteration: updates done.
        seconds: of work so far, over all attempts.
        history: evaluated epochs so far.
        weights: state of the model.
        kept: state of the model at the best (or last) evaluated epoch.
        optimizer: the optimiser's `state_dict`.
        generators: states of the random generators, by name.
    """

    iteration: int
    seconds: float
    history: tuple[Epoch, ...]
    weights: dict[str, Tensor]
    kept: dict[str, Tensor]
    optimizer: dict[str, Any]
    generators: dict[str, Tensor]


QUICK_WRITE = 0.25
"""Seconds that a checkpoint may take to be written after every epoch."""
WRITE_SHARE = 20
"""A slower one is written again after so many times what it took."""


@dataclass
class Pace:
    """How often a run writes its state: after every epoch, but where that takes long, not all the time.

    Attributes:
        took: seconds that the last write took.
        ended: when it did.
    """

    took: float = 0.0
    ended: float = 0.0

    def due(self, now: float) -> bool:
        """The state is to be written.

        >>> pace = Pace()
        >>> pace.wrote(10.0, 11.0)
        >>> pace.due(30.0), pace.due(31.0)
        (False, True)
        """
        return self.took < QUICK_WRITE or now - self.ended >= WRITE_SHARE * self.took

    def wrote(self, began: float, ended: float) -> None:
        """The state was written."""
        self.took, self.ended = ended - began, ended


def signature(module: nn.Module) -> dict[str, str]:
    """Type and shape of each tensor of a module's state: `float32 (20, 1, 5, 5)`."""
    return {name: f"{str(t.dtype)[6:]} {tuple(t.shape)}" for name, t in module.state_dict().items()}


def weights_digest(module: nn.Module) -> str:
    """sha256 over a module's state, 16 hexadecimal digits."""
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over named tensors, 16 hexadecimal digits."""
    return _digest("", {name: tensor.detach().cpu() for name, tensor in tensors.items()})[:16]


def write_snapshot(path: Path, snapshot: Snapshot, identity: Identity) -> None:
    """Write a run's state, whole or not at all; an older file stays until the new one is on disk."""
    tensors: dict[str, Tensor] = {}
    body = {
        "schema_version": SCHEMA,
        "identity": identity.model_dump(mode="json"),
        "iteration": snapshot.iteration,
        "seconds": snapshot.seconds,
        "history": [row.model_dump() for row in snapshot.history],
        "weights": pack(snapshot.weights, tensors),
        "kept": pack(snapshot.kept, tensors),
        "optimizer": pack(snapshot.optimizer, tensors),
        "generators": pack(snapshot.generators, tensors),
    }
    text = json.dumps(body, separators=(",", ":"))
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: text, DIGEST: _digest(text, tensors)})


def read_snapshot(path: Path, identity: Identity) -> Snapshot:
    """Read a run's state back, checked byte for byte.

    Args:
        path: written by `write_snapshot`.
        identity: of the run that wants to go on.

    Raises:
        DataError: no such file, truncated, damaged, or of a newer schema.
        UsageError: a checkpoint of another run; the first difference is named.
    """
    text, tensors = _read(path)
    body = json.loads(text)
    version = body["schema_version"]
    if version > SCHEMA:
        raise DataError(
            f"{path} has schema {version}, this tersa reads up to {SCHEMA}; install a newer tersa"
        )
    try:
        found = Identity.model_validate(body["identity"])
        history = tuple(Epoch.model_validate(row) for row in body["history"])
    except (ValidationError, UsageError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"checkpoint {path} is of another version of tersa ({reason}); start again") from None
    different = difference(found, identity)
    if different:
        raise UsageError(f"checkpoint {path} is of another run: {different}; start again, or undo the change")
    return Snapshot(
        iteration=body["iteration"],
        seconds=body["seconds"],
        history=history,
        weights=unpack(body["weights"], tensors),
        kept=unpack(body["kept"], tensors),
        optimizer=unpack(body["optimizer"], tensors),
        generators=unpack(body["generators"], tensors),
    )


def difference(found: Identity, asked: Identity) -> str:
    """The first thing in which two runs differ, in words, or nothing."""
    before, now = found.config.model_dump(), asked.config.model_dump()
    for name, value in now.items():
        if before[name] != value:
            return f"{name} was {before[name]}, now {value}"
    if found.data != asked.data:
        return f"the data were {found.data}, now {asked.data}"
    for name in [*asked.model, *found.model]:
        old, new = found.model.get(name, "not there"), asked.model.get(name, "not there")
        if old != new:
            return f"the model's {name} was {old}, now {new}"
    if found.teacher != asked.teacher:
        return f"the teacher was {found.teacher or 'none'}, now {asked.teacher or 'none'}"
    if found.evaluate_every != asked.evaluate_every:
        return f"evaluate_every was {found.evaluate_every}, now {asked.evaluate_every}"
    return ""


def pack(tree: object, tensors: dict[str, Tensor]) -> Json:
    """Turn nested dicts, lists, tuples, numbers, text and tensors into JSON; tensors go to `tensors`.

    A dict becomes `{"d": [[key, value], ...]}` (keys keep their type), a list `{"l": [...]}`, a tuple
    `{"t": [...]}`, a tensor `{"x": its name in tensors}`; the rest is itself.
    """
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"x": name}
    if isinstance(tree, dict):
        return {"d": [[key, pack(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"l" if isinstance(tree, list) else "t": [pack(value, tensors) for value in tree]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"a run's state cannot hold {type(tree).__name__}")


def unpack(packed: Json, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    match kind:
        case "x":
            return tensors[content]
        case "d":
            return {key: unpack(value, tensors) for key, value in content}
        case "l":
            return [unpack(value, tensors) for value in content]
        case _:
            return tuple(unpack(value, tensors) for value in content)


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Text and tensors of a checkpoint whose digest holds."""
    if not path.is_file():
        raise DataError(f"no checkpoint {path}")
    damaged = f"checkpoint {path} is truncated or damaged; remove it and start again"
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType] - no stub
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError):
        raise DataError(damaged) from None
    if HEADER not in metadata:
        raise DataError(f"{path} is not a checkpoint of a run; give the file that training wrote")
    if metadata.get(DIGEST) != _digest(metadata[HEADER], tensors):
        raise DataError(damaged)
    return metadata[HEADER], tensors


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
