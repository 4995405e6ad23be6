"""What is asked of one training run, and the whole of its settings, checked before any work.

Example:
    >>> merged({"epochs": 3, "batch": None}, ["seed=7"])
    {'epochs': 3, 'seed': '7'}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tersa.data.task import Task
from tersa.errors import UsageError, faults
from tersa.models.zoo import bits_of, default_spec
from tersa.records.base import Record
from tersa.train.baseline import default_config
from tersa.train.config import TrainConfig, override
from tersa.train.latents import check_moments
from tersa.train.lessons import most_views


class TrainRequest(Record):
    """What a user asks for; settings that are not given are the data's defaults."""

    data: str = "digits"
    """A known data set or a path."""
    model: str | None = None
    """A spec, `module.py:build` or an exported file; None for the data's default."""
    checkpoint: str | None = None
    """Weights to start from."""
    teacher: str | None = None
    """Model that is followed; `distillation` says how. A low-bit network that follows one in floating point
    is an Apprentice (`train.losses`)."""
    teacher_checkpoint: str | None = None
    """Trained weights of the teacher."""
    teacher_views: int = Field(default=0, ge=0)
    """Views of each training image, fixed, on which the teacher is asked once (`train.lessons`); 0: it is
    asked about every batch."""
    validation: int | float | None = None
    """Images (or share) of train that steer, or None for the data's default."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Fields of `TrainConfig` by name; text is converted."""


class TrainSpec(Record):
    """Everything that decides the result of one run; stored as `spec.toml`."""

    data: str
    """A known data set or a path."""
    model: str
    """A spec, `module.py:build` or an exported file."""
    checkpoint: str | None = None
    """Weights it starts from."""
    teacher: str | None = None
    """Model that is followed."""
    teacher_checkpoint: str | None = None
    """Trained weights of the teacher."""
    teacher_views: int | None = None
    """Views of each training image on which the teacher is asked once; None: it is asked about batches."""
    validation: int | float | None = None
    """Images (or share) of train that steer, or None for the data's default."""
    config: TrainConfig
    """Settings of the training."""


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """`key=value` texts as a mapping.

    Raises:
        UsageError: a text without `=`, or a key that is given twice.

    >>> parse_settings(["pad=2", "keep=last"])
    {'pad': '2', 'keep': 'last'}
    """
    found: dict[str, str] = {}
    wrong: list[str] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            wrong.append(f"'{pair}' is not key=value")
        elif key.strip() in found:
            wrong.append(f"{key.strip()} is given twice")
        else:
            found[key.strip()] = value.strip()
    if wrong:
        raise faults("--set", wrong)
    return found


def merged(options: Mapping[str, object], pairs: list[str]) -> dict[str, object]:
    """Settings from options of their own (None: not given) and from `key=value` texts.

    Raises:
        UsageError: a malformed text, or a setting that is given in both ways.
    """
    given = {name: value for name, value in options.items() if value is not None}
    more = parse_settings(pairs)
    if twice := sorted(given.keys() & more.keys()):
        raise UsageError(f"{', '.join(twice)} is given as an option and with --set; give it once")
    return {**given, **more}


def resolve(request: TrainRequest, task: Task, device: str = "cpu") -> TrainSpec:
    """A request with every default filled in.

    Raises:
        UsageError: settings that cannot be, or a teacher's weights without a teacher.
    """
    if request.teacher_checkpoint and not request.teacher:
        raise UsageError("--teacher-checkpoint is given without --teacher; name the teacher's model")
    if request.teacher_views and not request.teacher:
        raise UsageError("--teacher-views is given without --teacher; name the teacher's model")
    if request.teacher_views > (most := most_views(task)):
        raise UsageError(f"--teacher-views {request.teacher_views}: at most {most} of these images fit")
    model = request.model or default_spec(task.shape, len(task.classes))
    config = override(default_config(task, model, device=device), request.settings)
    bits = bits_of(model)
    if bits is not None and bits.scale == "lab":
        check_moments(config.optimizer)
    if request.teacher and config.distillation == "none":
        raise UsageError(
            "--teacher is given but distillation=none; add --set distillation=temperature or =document"
        )
    if config.distillation != "none" and not request.teacher:
        raise UsageError(
            f"distillation={config.distillation} needs --teacher MODEL and --teacher-checkpoint FILE"
        )
    asked = request.model_dump(exclude={"settings", "model", "teacher_views"})
    return TrainSpec(**asked, teacher_views=request.teacher_views or None, model=model, config=config)
