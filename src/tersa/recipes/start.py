"""Where a run of shrink or prune begins: the network, and how to build it again for weights from disk.

    a spec, a user's module or file    built, with the weights that were given if any
    a run folder                       the network that its spec names, at the sizes of its weights

With `light` the network that loses channels is another one: the same with its convolutions replaced.

Example:
    >>> import torch
    >>> from tersa.data.task import Provenance, Split
    >>> from tersa.recipes.request import ShrinkSpec
    >>> split = Split(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    >>> task = Task("t", split, split, split, ("a", "b"), (0.0,), (1.0,), Provenance("made", "", {}))
    >>> find_start(ShrinkSpec(model="mlp:3"), task).trained
    False
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.models.checkpoint import read as read_checkpoint
from tersa.models.lighten import lighten_, split
from tersa.models.load import load
from tersa.prune.surgery import resize_
from tersa.prune.twins import is_low_bit
from tersa.recipes.folder import SPEC, read_spec
from tersa.recipes.request import ShrinkSpec
from tersa.recipes.subjects import WEIGHTS, model_of


@dataclass(frozen=True)
class Begin:
    """The network that a run begins with.

    Attributes:
        model: spec of the baseline.
        pruned_model: spec of the network that loses channels.
        trained: it comes with weights.
        network: the baseline, with its weights if it has any.
        pruned: the network that loses channels, at the baseline's sizes, for weights from disk.
        drawn: the same with weights as its spec draws them; those of a file stay as they are.
        zeroed: what an earlier run zeroed in it (`weight`, `kernel`, `2:4`), empty for nothing.
    """

    model: str
    pruned_model: str
    trained: bool
    network: Callable[[], nn.Module]
    pruned: Callable[[], nn.Module]
    drawn: Callable[[], nn.Module]
    zeroed: str = ""


def find_start(spec: ShrinkSpec, task: Task) -> Begin:
    """What a request begins with.

    Raises:
        UsageError: no such run, a run that holds no network for these data, or a low-bit network to cluster.
        ModelError: the network cannot be built.
    """
    begin = _of_run(spec, task, Path(spec.run)) if spec.run else _of_model(spec, task)
    if spec.cluster is not None and is_low_bit(begin.network()):
        raise UsageError(
            f"--cluster: {spec.run or begin.model} is a low-bit network, whose weights share few values "
            "already; leave it out, and pack the result (tersa export --format tersa)"
        )
    if begin.trained and spec.epochs is not None:
        raise UsageError(f"--epochs trains a baseline, but {begin.model} brings its weights; leave it out")
    return begin


def _of_model(spec: ShrinkSpec, task: Task) -> Begin:
    classes, name = len(task.classes), str(spec.model)
    checkpoint = Path(spec.checkpoint) if spec.checkpoint else None
    first = load(name, task.shape, classes, seed=spec.seed, checkpoint=checkpoint)

    def pruned() -> nn.Module:
        return load(spec.pruned_model, task.shape, classes, seed=spec.seed).module

    return Begin(
        name,
        spec.pruned_model,
        first.trained,
        lambda: load(name, task.shape, classes, seed=spec.seed, checkpoint=checkpoint).module,
        pruned,
        pruned,
    )


def _of_run(spec: ShrinkSpec, task: Task, folder: Path) -> Begin:
    if not (folder / SPEC).is_file() or not (folder / WEIGHTS).is_file():
        raise UsageError(
            f"--run {folder} is not a finished run of tersa train, shrink or prune: it has no "
            f"{SPEC if not (folder / SPEC).is_file() else WEIGHTS}"
        )
    made = read_spec(folder)
    name, data = model_of(folder), made.get("data")
    if data is not None and str(data) != spec.data:
        raise UsageError(f"{folder} was made on data '{data}', not on '{spec.data}'; give --data {data}")
    weights = read_checkpoint(folder / WEIGHTS)

    def build(suffix: str = "", *, drawn: bool = False) -> nn.Module:
        module = load(name, task.shape, len(task.classes), seed=spec.seed).module
        whole = copy.deepcopy(module)
        resize_(module, _cut(module.state_dict(), weights) if drawn else weights)
        for each in split(f"net{suffix}")[1]:
            layers = lighten_(whole, each.kind, each.layers, squeeze=each.squeeze)
            lighten_(module, each.kind, layers, squeeze=each.squeeze, seed=spec.seed)
        return module

    suffix = f"+{spec.light}" if spec.light else ""
    return Begin(
        name,
        name + suffix,
        True,
        build,
        lambda: build(suffix),
        lambda: build(suffix, drawn=True),
        zeroed_by(folder),
    )


def _cut(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first values of each tensor, as many as there are in its namesake."""
    return {
        name: value[tuple(slice(0, side) for side in like[name].shape)].clone() if name in like else value
        for name, value in state.items()
    }


def zeroed_by(folder: Path) -> str:
    """What the run in a folder zeroed (`weight`, `kernel`, `2:4`), empty for nothing."""
    kind = str(read_spec(folder).get("protocol", {}).get("granularity", "map"))
    return "" if kind == "map" else kind
