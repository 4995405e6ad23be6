"""How well a network answers one split: logits, accuracy, loss.

The network is read in eval mode and float32, whatever it was trained in, and is left in the modes it was in.

Example:
    >>> from tersa.data.task import Provenance, Split
    >>> split = Split(torch.zeros(2, 1, 1, 2), torch.tensor([0, 1]))
    >>> task = Task("t", split, split, split, ("a", "b"), (0.0,), (1.0,), Provenance("made", "", {}))
    >>> evaluate(nn.Flatten(), split, task).accuracy
    50.0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.data.task import Split, Task
from tersa.errors import DataError, ModelError
from tersa.train.device import modes_kept

BATCH = 250
"""Images per call: at 1,000 the activations of LeNet do not stay in the cache, and take a third longer."""
GPU_BATCH = 2_000
"""Images per call on a GPU, which waits for Python with fewer."""


@dataclass(frozen=True)
class Evaluation:
    """Answers of one network on one split.

    Attributes:
        logits: (N, K) float32, on the CPU.
        labels: (N,) int64, on the CPU.
        accuracy: percent of right answers.
        loss: mean cross-entropy, without smoothing.
        correct: (N,) bool: which answers are right (what paired comparisons need).
    """

    logits: Tensor
    labels: Tensor
    accuracy: float
    loss: float
    correct: Tensor


def predict(
    model: nn.Module, split: Split, task: Task, *, batch: int | None = None, device: str = "cpu"
) -> Tensor:
    """Logits of the whole split, (N, K) float32 on the CPU.

    Args:
        model: takes normalised (N, C, H, W), gives (N, K); moved to `device`.
        split: images to answer.
        task: whose normalisation and classes hold.
        batch: images per call; changes speed and memory, not answers. None: what suits the device.
        device: where it computes.

    Raises:
        DataError: an empty split.
        ModelError: the model's output is not (N, K).
    """
    if not len(split):
        raise DataError(f"data '{task.name}': the split to evaluate has no images; give at least one")
    model.to(device)
    batch = batch or (GPU_BATCH if device.startswith("cuda") else BATCH)
    answers: list[Tensor] = []
    with modes_kept(model), torch.inference_mode():
        model.eval()
        for start in range(0, len(split), batch):
            images = split.images[start : start + batch].to(device)
            logits = model(task.normalise(images))
            check_logits(logits, len(images), task)
            answers.append(logits.float().cpu())
    # Out of inference mode a tensor made there cannot be used by autograd: hand out a plain one.
    return torch.cat(answers).clone()


def check_logits(logits: Tensor, images: int, task: Task) -> None:
    """Refuse a network whose output does not fit the task.

    Raises:
        ModelError: not one row of K numbers per image.
    """
    wanted = (images, len(task.classes))
    if tuple(logits.shape) != wanted:
        raise ModelError(
            f"the model gives {tuple(logits.shape)} for {images} images of data '{task.name}'; "
            f"it must give {wanted}: one number per image and class"
        )


def evaluate(
    model: nn.Module, split: Split, task: Task, *, batch: int | None = None, device: str = "cpu"
) -> Evaluation:
    """Accuracy and loss of a network on a split.

    Args:
        model: takes normalised (N, C, H, W), gives logits (N, K); moved to `device`.
        split: images with labels.
        task: whose normalisation and classes hold.
        batch: images per call; None: what suits the device.
        device: where it computes.

    Raises:
        DataError: an empty split.
        ModelError: the model's output is not (N, K).
    """
    logits = predict(model, split, task, batch=batch, device=device)
    labels = split.labels.cpu()
    correct = logits.argmax(dim=1) == labels
    loss = float(F.cross_entropy(logits, labels))
    return Evaluation(logits, labels, 100.0 * float(correct.double().mean()), loss, correct)
