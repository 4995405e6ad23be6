"""tersa: make a small neural network fit a machine.

The names below are loaded when they are first used, so that `import tersa` takes no time.

Example:
    >>> import tersa
    >>> task = tersa.load("digits")
    >>> model = tersa.build("mlp:20", task.shape, len(task.classes))
    >>> tersa.summary(model, task.shape).parameters
    1510
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Before anything imports onnxruntime: from 1.29 on it stores an identifier and sends usage data otherwise.

if TYPE_CHECKING:
    from tersa.data.sources import load
    from tersa.data.task import Task
    from tersa.errors import TersaError
    from tersa.export.onnx import export_onnx
    from tersa.models.load import load as load_model
    from tersa.models.summary import summary
    from tersa.models.zoo import build
    from tersa.prune.groups import find_groups
    from tersa.quant.quantiser import quantise
    from tersa.quant.spec import QuantSpec
    from tersa.recipes.goals import Goals
    from tersa.recipes.request import ShrinkSpec
    from tersa.recipes.setting import Setting
    from tersa.recipes.shrink import shrink
    from tersa.study.cell import Cell
    from tersa.study.stacked import train_stack
    from tersa.train.config import TrainConfig
    from tersa.train.evaluation import evaluate

HOMES = {
    "Cell": "tersa.study.cell",
    "Goals": "tersa.recipes.goals",
    "QuantSpec": "tersa.quant.spec",
    "Setting": "tersa.recipes.setting",
    "ShrinkSpec": "tersa.recipes.request",
    "Task": "tersa.data.task",
    "TersaError": "tersa.errors",
    "TrainConfig": "tersa.train.config",
    "build": "tersa.models.zoo",
    "evaluate": "tersa.train.evaluation",
    "export_onnx": "tersa.export.onnx",
    "find_groups": "tersa.prune.groups",
    "load": "tersa.data.sources",
    "load_model": "tersa.models.load:load",
    "quantise": "tersa.quant.quantiser",
    "shrink": "tersa.recipes.shrink",
    "summary": "tersa.models.summary",
    "train_stack": "tersa.study.stacked",
}
"""Public name -> module (and the name there, where it differs)."""

__all__ = [
    "Cell",
    "Goals",
    "QuantSpec",
    "Setting",
    "ShrinkSpec",
    "Task",
    "TersaError",
    "TrainConfig",
    "build",
    "evaluate",
    "export_onnx",
    "find_groups",
    "load",
    "load_model",
    "quantise",
    "shrink",
    "summary",
    "train_stack",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module 'tersa' has no attribute '{name}'; it has {', '.join(__all__)}")
    module, _, attribute = HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
