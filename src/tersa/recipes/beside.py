"""What is made beside a result: its sizes trained from scratch, its bytes without zeros, its coded file.

Example:
    >>> import torch
    >>> from tersa.prune.sparse import storage
    >>> storage({"weight": torch.tensor([[0.0, 0.0, 3.0, 0.0]])}).kept
    1
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from tersa.data.task import Task
from tersa.export.coded import read_coded
from tersa.models.family import draw_anew_
from tersa.models.summary import parameters
from tersa.numerics import paired_loss
from tersa.prune.sparse import storage
from tersa.prune.surgery import remove_
from tersa.recipes.compress import compress
from tersa.recipes.compress_result import Compression
from tersa.recipes.folder import read_spec
from tersa.recipes.job import Job
from tersa.recipes.request import ShrinkSpec, baseline_config
from tersa.recipes.retraining import lessons_of
from tersa.records.results import CodedFile, SparseSize, Twin
from tersa.train.config import TrainConfig, override
from tersa.train.device import reproducible
from tersa.train.evaluation import evaluate, predict
from tersa.train.loop import Progress, train

Right = npt.NDArray[np.bool_]

SCRATCH = "scratch.training"
"""State of the training from scratch, in a run's folder until the run has ended."""


def twin_config(spec: ShrinkSpec, task: Task, model: str) -> TrainConfig:
    """How the baseline was trained, by this run or by the one that it begins with; never with a teacher.

    Args:
        spec: of this run.
        task: the data.
        model: spec of the baseline.
    """
    made = read_spec(Path(spec.run)) if spec.run else {}
    if "config" in made:
        config = TrainConfig.model_validate(made["config"])
        usual = TrainConfig()
        alone = {
            name: getattr(usual, name)
            for name in ("distillation", "distillation_weight", "distillation_temperature")
        }
        return override(config, {"seed": spec.seed, **alone})
    earlier = {name: made[name] for name in ("epochs", "training") if name in made}
    return baseline_config(spec.model_copy(update=earlier), task, model)


def from_scratch(job: Job, config: TrainConfig, step: int, before: Right) -> Twin:
    """A network of a step's sizes, drawn anew and trained as the baseline is.

    Args:
        job: the run.
        config: of the baseline's training.
        step: whose channels are gone.
        before: the baseline's right answers on the test split.
    """
    task, began = job.task, time.perf_counter()
    module = (job.drawn or job.fresh)()
    remove_(module, job.groups, job.way.gone(step))
    with reproducible(job.seed, "cpu"):
        draw_anew_(module)

    def show(at: Progress) -> None:
        job.say("from scratch", min(0.99, at.iteration / at.iterations), f"loss {at.loss:.3f}")

    job.say("from scratch", 0.0, "")
    state = job.way.folder / SCRATCH
    done = train(module, task, config, device=job.device, progress=show, checkpoint=state, resume=True)
    validation = evaluate(module, task.validation, task, device=job.device).accuracy
    tested = evaluate(module, task.test, task, device=job.device)
    job.say("from scratch", 1.0, f"{validation:.2f} % on validation")
    return Twin(
        test_accuracy=tested.accuracy,
        validation_accuracy=validation,
        loss_points=paired_loss(before, tested.correct.numpy()).points,
        epochs=len(done.history),
        seconds=time.perf_counter() - began,
    )


def sparse_size(job: Job, network: nn.Module) -> SparseSize:
    """What the zeroed network takes on disk, tensor by tensor in the smallest sparse form."""
    state = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    asked = job.protocol.granularity
    found = storage(state, pattern=asked if ":" in asked else "2:4")
    return SparseSize(
        zeros=found.values - found.kept,
        values=found.values,
        dense_bytes=found.dense_bytes,
        smallest_bytes=found.smallest_bytes,
        forms={layer.name: layer.smallest for layer in found.layers},
    )


RATE, RATE_OF_LABELS = 1e-3, 3e-3
"""Peak learning rates of shared values, where the baseline teaches and where labels alone do."""


def coded_file(
    job: Job, spec: ShrinkSpec, model: str, network: nn.Module, folder: Path, before: Right
) -> CodedFile:
    """The result with clustered weights as an entropy-coded file, and what its decoder answers.

    Args:
        job: the run.
        spec: asks for bits and coder.
        model: spec of the network before pruning, for the decoder.
        network: the result.
        folder: where `model.coded` goes.
        before: the baseline's right answers on the test split.
    """
    task, protocol, path = job.task, job.protocol, folder / "model.coded"
    assert spec.cluster is not None
    assert job.dock.start is not None
    allowed, original = job.allowed_loss, 4 * parameters(job.baseline)
    spatial = any(isinstance(module, nn.Conv2d) for module in network.modules())
    lessons = lessons_of(job, spatial=spatial) if protocol.tune else None
    how = Compression(
        bits=spec.cluster,
        coder=spec.coder,
        floor=None if allowed is None else min(100.0, max(0.0, job.dock.start.accuracy - allowed)),
        most_bytes=None if spec.coded_size is None else int(spec.coded_size.limit(original)),
        iterations=protocol.tune // 2,
        learning_rate=RATE if lessons else RATE_OF_LABELS,
        label_smoothing=0.0 if lessons else protocol.label_smoothing,
        batch=protocol.batch,
        seed=job.seed,
    )
    made, exact = compress(task, network, model, lessons, how, path=path, device=job.device, say=job.say)
    decoded, _ = read_coded(path, model)
    wanted, found = (predict(each, task.test, task) for each in (exact, decoded))
    correct = (found.argmax(dim=1) == task.test.labels).numpy()
    return CodedFile(
        file=path.name,
        bits=made.bits,
        size_bytes=made.size_bytes,
        ratio=original / made.size_bytes,
        test_accuracy=100.0 * float(correct.mean()),
        loss_points=paired_loss(before, correct).points,
        same=int((wanted == found).all(dim=1).sum()),
        images=len(task.test),
        parts={
            "header": made.header_bytes,
            "codebooks": made.codebook_bytes,
            "codes": made.code_bytes,
            "biases and others": made.bias_bytes,
        },
        most_bytes=made.most_bytes,
        size_met=made.size_met,
        floor=made.floor,
        floor_met=made.floor_met,
    )
