"""What a result shows besides its figures: layers, confusions, example answers, all from the shipped file."""

from __future__ import annotations

import base64

import numpy as np
import numpy.typing as npt
from torch import nn

from tersa.data.sheet import png
from tersa.data.task import Split, Task
from tersa.models.summary import Summary, summary
from tersa.records.results import LayerWidth, Sample

EXAMPLES = 8
"""Right answers and mistakes that a report shows, each."""


def confusion(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int
) -> list[list[int]]:
    """Counts by (true class, predicted class), K rows of K.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    [[1, 0], [1, 1]]
    """
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table.tolist()


def examples(task: Task, split: Split, logits: npt.NDArray[np.float32]) -> tuple[list[Sample], list[Sample]]:
    """Some right answers, one class after the other, and the most confident mistakes."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances = shifted / shifted.sum(axis=1, keepdims=True)
    predicted, labels = logits.argmax(axis=1), split.labels.numpy()
    right = predicted == labels
    firsts = [
        int(np.flatnonzero(right & (labels == k))[0])
        for k in range(len(task.classes))
        if (right & (labels == k)).any()
    ]
    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-chances[wrong].max(axis=1), kind="stable")]

    def sample(index: int) -> Sample:
        return Sample(
            png=base64.b64encode(png(split.images[index], scale=2)).decode(),
            label=task.classes[int(labels[index])],
            predicted=task.classes[int(predicted[index])],
            probability=float(chances[index].max()),
        )

    return [sample(i) for i in firsts[:EXAMPLES]], [sample(int(i)) for i in worst[:EXAMPLES]]


def layer_rows(before: nn.Module, after: nn.Module, task: Task, kept: dict[str, str]) -> list[LayerWidth]:
    """Every layer with weights: outputs, parameters and MACs before and after; 0 where it is not there."""
    old, new = (_by_name(summary(model, task.shape)) for model in (before, after))
    first, last = _weighted(before, old), _weighted(after, new)
    return [
        LayerWidth(
            name=name,
            kind=type(last.get(name, first.get(name))).__name__,
            before=_outputs(first.get(name)),
            after=_outputs(last.get(name)),
            parameters_before=old.get(name, (0, 0))[0],
            parameters_after=new.get(name, (0, 0))[0],
            macs_before=old.get(name, (0, 0))[1],
            macs_after=new.get(name, (0, 0))[1],
            note=kept.get(name, "" if name in first else "in place of a convolution"),
        )
        for name in dict.fromkeys([*first, *last])
    ]


def _weighted(model: nn.Module, rows: dict[str, tuple[int, int]]) -> dict[str, nn.Module]:
    """Convolutions and fully connected layers that are counted, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if name in rows and weight is not None and weight.dim() >= 2:
            found[name] = module
    return found


def _outputs(module: nn.Module | None) -> int:
    """Channels or neurons that a layer makes; 0 where there is no such layer."""
    return int(module.weight.shape[0]) if module is not None else 0  # pyright: ignore - a layer with a weight


def _by_name(found: Summary) -> dict[str, tuple[int, int]]:
    return {row.name: (row.parameters, row.macs) for row in found.rows}
