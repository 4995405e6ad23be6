"""`tersa train --rule`: one run under a learning rule and a quantiser, from names to a folder.

    runs/NAME/spec.toml           the cell: every setting that decides the result
              model.safetensors   the trained (snapped) weights, named as in the zoo's module
              report.html         the page of a study of one cell
              result.json         written last, with the accuracy after each epoch

It is a study of one cell: the same engine, numbers and defaults (document 000's). The test split is evaluated
after each epoch, as the document did, and selects nothing. A run that is killed starts again with `resume`; a
finished one is handed back as it is.

Example:
    >>> import tempfile
    >>> cell = cell_of({"data": "digits", "model": "mlp:16", "epochs": 2, "bits": 3, "storage": "latent"})
    >>> cell.quant, run_learning(cell, Path(tempfile.mkdtemp()) / "demo").status
    ('symmetric', 'done')
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import faults
from tersa.files import replacing
from tersa.recipes.folder import RESULT, open_folder, releasing
from tersa.recipes.learn_report import REPORT, write_report
from tersa.recipes.setting import Setting
from tersa.records.base import SCHEMA, Record, read_record, write_record
from tersa.records.results import Environment
from tersa.rules.base import Extras
from tersa.rules.network import Network, Weights
from tersa.rules.registry import rule as rule_of
from tersa.study.cell import Cell, CellEpoch, LayerState, Status
from tersa.study.sense import meaningless, say
from tersa.study.stacked import network_for, train_stack
from tersa.targets.environment import cores, environment
from tersa.train.device import choose

WEIGHTS = "model.safetensors"
EXTRA_BITS = 4
"""Extra bits of storage `accumulate` where none are given."""
QUANTISING = ("bits", "range", "rounding", "storage", "extra_bits", "low", "high", "percentile")
"""Settings that ask for a quantiser; it is `symmetric` where none is named."""


class LearnedRun(Record):
    """Everything that one run under a rule found: `result.json`."""

    schema_version: int = SCHEMA
    verb: Literal["train"] = "train"
    name: str
    """Name of the run's folder."""
    command: str
    """What the user typed."""
    status: Status
    """`done` or `diverged`."""
    test_accuracy: float
    """Percent, after the last epoch."""
    cell: Cell
    """Every setting."""
    parameters: int
    """Weights and biases of the network."""
    epochs: list[CellEpoch]
    """What was known after each."""
    layers: list[LayerState] = Field(default_factory=list[LayerState])
    """Range, mean and variance of each tensor after each epoch."""
    task_note: str = ""
    """What a reader must know of the data."""
    device: str
    """Where it was trained."""
    environment: Environment
    """Machine and versions."""
    artefacts: list[str]
    """Files in the run's folder."""
    report: str = ""
    """The page, in the run's folder; empty where an older tersa made none."""
    seconds: float
    """Wall time of the training."""
    message: str = ""
    """Why it diverged."""

    def absolute(self, folder: Path) -> Self:
        """The same with the whole paths of the artefacts and the page."""
        files = [str(folder / name) for name in self.artefacts]
        return self.model_copy(
            update={"artefacts": files, "report": str(folder / self.report) if self.report else ""}
        )


class LearnPlan(Record):
    """What a run would do."""

    cell: Cell
    """Every setting."""
    parameters: int
    """Weights and biases of the network."""
    images: int
    """That it would learn from."""
    epochs: int
    """Of all phases of the rule."""
    updates: int
    """In all."""


def cell_of(settings: Mapping[str, object]) -> Cell:
    """The cell that settings ask for.

    Bits, range, rounding or storage without a quantiser mean the symmetric one; storage `accumulate` without
    extra bits means `EXTRA_BITS`.

    Args:
        settings: fields of `Cell` by name; text is converted.

    Raises:
        UsageError: unknown fields, values that cannot be, or a combination without meaning, in one message.
    """
    values = dict(settings)
    if "quant" not in values and any(name in values for name in QUANTISING):
        values["quant"] = "symmetric"
    if values.get("storage") == "accumulate":
        values.setdefault("extra_bits", EXTRA_BITS)
    try:
        cell = Cell.model_validate(values)
    except ValidationError as error:
        raise faults("training settings", [say(detail) for detail in error.errors()]) from None
    rule_of(cell.rule)
    if wrong := meaningless(cell):
        raise faults("training settings", wrong)
    return cell


def plan_learning(cell: Cell, setting: Setting | None = None) -> LearnPlan:
    """What `run_learning` would do; nothing is written.

    Raises:
        UsageError, DataError: what the run would raise before its work.
    """
    task, network = _prepare(cell, setting or Setting())
    images = len(task.train) + (len(task.validation) if cell.judged_on == "test" else 0)
    phases = rule_of(cell.rule).phases(network)
    epochs = sum(cell.epochs if phase.epochs is None else phase.epochs for phase in phases)
    updates = -(-images // cell.batch) * epochs
    return LearnPlan(cell=cell, parameters=network.parameters, images=images, epochs=epochs, updates=updates)


@releasing
def run_learning(
    cell: Cell,
    out: Path,
    *,
    setting: Setting | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> LearnedRun:
    """Train one network by a rule and keep what came of it in a folder.

    Args:
        cell: what is asked.
        out: folder for the results.
        setting: how it is carried out.
        resume: hand back a finished run, or start an unfinished one again.
        overwrite: start again.

    Raises:
        UsageError: the cell cannot be trained, or `out` holds another run.
        DataError: the data are not there or damaged.
    """
    setting = setting or Setting()
    device = choose(setting.device)
    task, network = _prepare(cell, setting)
    folder = open_folder(out, "train", cell, resume=resume, overwrite=overwrite)
    if not (folder / RESULT).is_file():
        result = _train(cell, folder, task, network, setting, device)
        write_report(folder, result)
        write_record(folder / RESULT, result)
    return read_record(folder / RESULT, LearnedRun)


def _prepare(cell: Cell, setting: Setting) -> tuple[Task, Network]:
    task = load_task(cell.data, data_dir=setting.data_dir)
    return task, network_for(cell, task)


def _train(
    cell: Cell, folder: Path, task: Task, network: Network, setting: Setting, device: str
) -> LearnedRun:
    """Train, write the weights, and put together what is known."""
    held: dict[str, Tensor] = {}

    def keep(index: int, weights: Weights, extras: Extras) -> None:
        for layer, pair in zip(network.layers, weights, strict=True):
            held[f"{layer.name}.weight"] = pair.weight[0].cpu().contiguous()
            held[f"{layer.name}.bias"] = pair.bias[0].cpu().contiguous()

    threads = setting.threads or cores()
    setting.say("train", 0.0, "")
    result = train_stack(
        [cell],
        task,
        threads=threads,
        device=device,
        keep=keep,
        progress=lambda share: setting.say("train", share, ""),
    )[0]
    setting.say("train", 1.0, result.status)
    with replacing(folder / WEIGHTS) as place:
        save_file(held, place)
    assert result.test_accuracy is not None
    return LearnedRun(
        name=folder.name,
        command=setting.command or f"tersa train --data {cell.data} --model {cell.model} --rule {cell.rule}",
        status=result.status,
        test_accuracy=result.test_accuracy,
        cell=cell,
        parameters=network.parameters,
        epochs=result.epochs,
        layers=result.layers,
        task_note=task.provenance.note,
        device=device,
        environment=environment(torch.get_num_threads()),
        artefacts=[WEIGHTS],
        report=REPORT,
        seconds=result.seconds,
        message=result.message,
    )
