"""A teacher's answers to fixed views of every training image, computed once and used by many short runs.

Distilling with random augmentation asks the teacher about every batch anew, and a large teacher then costs
several times what its small pupil does. Here each image has V views, drawn once; the teacher answers all of
them once, and each visit to an image picks one of its views at random. Teacher and pupil always see the same
crop, which is what makes distillation work.

    cost = V passes of the teacher over the training split, whatever is learnt from it afterwards

References:
    Shen & Xing, A Fast Knowledge Distillation Framework for Visual Recognition (ECCV 2022); Beyer et al.,
    Knowledge Distillation: A Good Teacher Is Patient and Consistent (CVPR 2022), section 3.

Example:
    >>> from tersa.data.task import Provenance, Split
    >>> split = Split(torch.rand(6, 1, 2, 2), torch.arange(6) % 2)
    >>> task = Task("t", split, split, split, ("a", "b"), (0.5,), (0.3,), Provenance("made", "", {}))
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> tuple(prepare(network, task, flip=False, pad=1, views=3, seed=0).logits.shape)
    (3, 6, 2)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersa.data.augment import Shifts, draw, shifted
from tersa.data.task import Task, pixels
from tersa.errors import UsageError
from tersa.train.config import Precision
from tersa.train.device import reproducible, sent
from tersa.train.evaluation import check_logits
from tersa.train.step import autocast

BATCH = 128
"""Images per call of the teacher; fixed, so that its answers do not depend on who asks."""
GPU_BATCH = 1000
"""The same on a GPU."""
MOST_BYTES = 10**9
"""Of the logits of all views."""


@dataclass(frozen=True)
class Lessons:
    """Views of a training split of N images, and a teacher's logits on each; all on one device.

    Attributes:
        logits: (V, N, K) float32.
        mirrored: (V, N) bool, or None where nothing is flipped; see `data.augment.Shifts`.
        rows: (V, N) int64, or None where nothing is cropped.
        columns: (V, N) int64, likewise.
        pad: of the crop.
    """

    logits: Tensor
    mirrored: Tensor | None
    rows: Tensor | None
    columns: Tensor | None
    pad: int

    @property
    def augmentation(self) -> tuple[bool, int]:
        """(flip, pad) that the views were drawn with."""
        return self.mirrored is not None, self.pad

    def on(self, device: str) -> Lessons:
        """The same lessons on a device."""
        moved = (
            None if each is None else each.to(device) for each in (self.mirrored, self.rows, self.columns)
        )
        return Lessons(self.logits.to(device), *moved, pad=self.pad)

    def pick(self, index: Tensor, generator: torch.Generator) -> tuple[Shifts, Tensor]:
        """A random view of each image at `index` (M,), and the teacher's logits on it, (M, K).

        Args:
            index: positions in the training split.
            generator: on the CPU, so that every device sees the same views.
        """
        place = str(self.logits.device)
        at, count = index.to(place), len(self.logits)
        view = sent(torch.randint(count, (len(at),), generator=generator), place)

        def seen(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[view, at]

        shifts = Shifts(seen(self.mirrored), seen(self.rows), seen(self.columns), self.pad)
        return shifts, self.logits[view, at]


def prepare(
    teacher: nn.Module,
    task: Task,
    *,
    flip: bool,
    pad: int,
    views: int,
    seed: int,
    device: str = "cpu",
    precision: Precision = "fp32",
    progress: Callable[[float], None] | None = None,
) -> Lessons:
    """Draw the views of every training image and ask the teacher about each.

    Args:
        teacher: takes normalised (N, C, H, W), gives (N, K); a copy of it is asked, in eval mode.
        task: whose train split is shown.
        flip: views are mirrored with probability 1/2.
        pad: largest shift in pixels.
        views: V, of each image; one is enough where nothing is augmented.
        seed: of the views.
        device: where the teacher computes; the lessons lie on the CPU.
        precision: of its forward passes, as `TrainConfig.precision`.
        progress: called with the share done.

    Raises:
        ModelError: the teacher's output does not fit the task.
        UsageError: more views than `MOST_BYTES` hold.
    """
    generator = torch.Generator().manual_seed(seed)
    count = views if flip or pad else 1
    if count > (most := most_views(task)):
        raise UsageError(f"{count} views of {len(task.train)} images are too many; at most {most} fit")
    images = task.train.images
    drawn = tuple(draw(len(images), generator, flip=flip, pad=pad) for _ in range(count))
    logits = torch.empty(count, len(images), len(task.classes), device=device)
    size = GPU_BATCH if device.startswith("cuda") else BATCH
    # A copy, so that the caller's network keeps its device; channels last is faster on a CPU.
    asked = copy.deepcopy(teacher).to(device).eval()
    asked.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
    with reproducible(seed, device), torch.inference_mode(), autocast(device, precision):
        for number, shifts in enumerate(drawn):
            for start in range(0, len(images), size):
                span = slice(start, start + size)
                batch = shifted(pixels(images[span].to(device)), _part(shifts, span))
                answer = asked(task.normalise(batch).contiguous(memory_format=torch.channels_last))
                check_logits(answer, len(batch), task)
                logits[number, span] = answer.float()
                if progress:
                    progress((number * len(images) + min(span.stop, len(images))) / (count * len(images)))
    return Lessons(
        logits.cpu(),
        torch.stack([one.mirrored for one in drawn if one.mirrored is not None]) if flip else None,
        torch.stack([one.rows for one in drawn if one.rows is not None]) if pad else None,
        torch.stack([one.columns for one in drawn if one.columns is not None]) if pad else None,
        pad,
    )


def most_views(task: Task) -> int:
    """Views of the training images whose answers fit into `MOST_BYTES`, at least 1."""
    return max(1, MOST_BYTES // (4 * len(task.train) * len(task.classes)))


def _part(shifts: Shifts, span: slice) -> Shifts:
    """The shifts of some images."""

    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[span]

    return Shifts(cut(shifts.mirrored), cut(shifts.rows), cut(shifts.columns), shifts.pad)
