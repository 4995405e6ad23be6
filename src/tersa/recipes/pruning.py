"""How channels are removed and what follows: every setting of a descent, with its default.

Example:
    >>> default_protocol(55_000).retrain
    200
    >>> Protocol(retrain=100, tune=0, step="2%").stride().count(1120, 500)
    22
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tersa.errors import UsageError, faults, unknown
from tersa.prune.blocks import NM
from tersa.prune.criteria import CRITERIA, WEIGHT_CRITERIA
from tersa.prune.masks import parse_granularity
from tersa.prune.protocol import Stride, stride
from tersa.records.base import Record


class Protocol(Record):
    """How channels are removed and what follows."""

    criterion: str = "taylor"
    """Importance of a channel; see `prune.criteria`."""
    normalisation: Literal["none", "l1", "l2"] = "l2"
    """What makes layers comparable; see `prune.normalise`."""
    mac_weight: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    """Lambda of the penalty on a channel's share of the MACs; 0 for none. See `prune.costs`."""
    criterion_samples: int = Field(default=1000, ge=1)
    """Training images that channels are scored on."""
    recompute: Literal["every", "once"] = "every"
    """When channels are scored: at every step, or once on the baseline."""
    scope: str = "network"
    """Layers that lose channels: `network`, or names and prefixes (`conv*`) with commas between them."""
    granularity: str = "map"
    """What goes: channels for real (`map`), or zeros: `kernel`, `weight`, `2:4` (2 of 4 are kept)."""
    keep: str = ""
    """Layers whose channels stay, likewise; empty for none."""
    share: float = Field(default=0.12, gt=0, lt=1)
    """Share of the remaining channels that one step removes, where `step` says nothing else."""
    step: str = ""
    """Channels of one step: `1`, `2%` of those at the start, `12%left` of those left; empty for `share`."""
    schedule: Literal["open", "one-shot", "steady", "geometric", "cubic"] = "open"
    """`open`: step after step until a goal or the accuracy stops it. Else `amount` in `steps` steps, see
    `prune.schedules`."""
    amount: float = Field(default=0.0, ge=0, lt=1)
    """Share of the channels in scope that a schedule removes in all."""
    steps: int = Field(default=10, ge=1)
    """Steps of a schedule."""
    regrow: float = Field(default=0.0, ge=0, lt=1)
    """Share of a step's removals that are taken back for as many others, where they prove better."""
    round_to: int = Field(default=1, ge=1)
    """Layers that lose channels keep a multiple of so many: what a kernel works on at a time. Channels go in
    blocks then, and a step or a schedule may remove up to a block more than it says."""
    retrain: int = Field(ge=0)
    """Iterations after each step."""
    retrain_scope: Literal["all", "layer"] = "all"
    """What learns after a step: all layers, or those that lost channels."""
    optimiser: Literal["fresh", "follow"] = "fresh"
    """A new optimiser after each step, or one whose state follows the surviving channels."""
    tune: int = Field(ge=0)
    """Iterations of the closing fine-tune; 0 for none."""
    batch: int = Field(default=128, ge=1)
    """Images per iteration of both."""
    update: Literal["adamw", "nesterov"] = "adamw"
    """Update rule of both, with one cycle of the learning rate."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Peak of both."""
    arithmetic: Literal["fp32", "bf16"] = "fp32"
    """Of the forward passes of both; `bf16` keeps weights and updates in float32."""
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    """Of both."""
    clip_norm: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Largest norm of the gradient in both; 0 for no limit."""
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Of the distillation from the baseline."""
    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the teacher's term in the loss; 0 learns from the labels alone."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of the labels' term."""
    pad: int | None = Field(default=None, ge=0)
    """Largest shift of training images in both, pixels; None for what suits the data. A very small network
    gains less from it than a large one."""
    views: int = Field(default=8, ge=1)
    """Views of each training image that the baseline answers for distillation; see `train.lessons`."""

    def stride(self) -> Stride:
        """Channels of one step."""
        return stride(self.step) if self.step else Stride(100 * self.share, "left")

    def layers(self) -> list[str]:
        """The names of `scope`."""
        return listed(self.scope)


def listed(text: str) -> list[str]:
    """Names with commas between them.

    >>> listed("conv1, fc*"), listed("")
    (['conv1', 'fc*'], [])
    """
    return [name for name in (part.strip() for part in text.split(",")) if name]


def default_protocol(images: int) -> Protocol:
    """Iterations that suit a training split of `images`: half an epoch after a step, up to 24 at the end."""
    per_epoch = max(1, images // 128)
    return Protocol(retrain=min(200, max(60, per_epoch // 2)), tune=min(10_000, max(800, 24 * per_epoch)))


STRONG: dict[str, int | float | str] = {
    "update": "nesterov",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "clip_norm": 2.0,
    "temperature": 2.0,
    "teacher_weight": 0.5,
    "label_smoothing": 0.05,
}
"""How `tersa prune` retrains, and `tersa adapt` at its end: what trains small convolutional networks best
where there is time for it."""


def usual_retraining(verb: str) -> dict[str, int | float | str]:
    """Settings that a command or a recipe's step retrains with where it says nothing else.

    Args:
        verb: `prune`, `shrink` or `adapt`.

    >>> usual_retraining("adapt") == usual_retraining("prune") == STRONG
    True
    >>> usual_retraining("shrink")
    {}
    """
    return dict(STRONG) if verb in ("prune", "adapt") else {}


def short(protocol: Protocol) -> Protocol:
    """The same for fine-tunes of some hundred iterations, which are too short for `STRONG`.

    AdamW as by default, and labels alone teach: asking the baseline about every image takes longer than that.

    >>> each = short(Protocol(retrain=50, tune=2000, batch=64, **STRONG))
    >>> each.update, each.learning_rate, each.teacher_weight, each.batch
    ('adamw', 0.002, 0.0, 64)
    """
    usual = {name: Protocol.model_fields[name].default for name in STRONG}
    return protocol.model_copy(update={**usual, "teacher_weight": 0.0})


def check_protocol(protocol: Protocol) -> None:
    """Faults between settings, all together, before any work.

    Raises:
        UsageError: an unknown criterion, a step that is not understood, settings that exclude each other.
    """
    if protocol.criterion not in CRITERIA:
        raise unknown("criterion", protocol.criterion, CRITERIA)
    protocol.stride()
    kind = parse_granularity(protocol.granularity)
    if kind != "map" and protocol.criterion not in WEIGHT_CRITERIA:
        raise UsageError(
            f"--criterion {protocol.criterion} scores whole channels; with --granularity "
            f"{protocol.granularity} choose one of {', '.join(WEIGHT_CRITERIA)}"
        )
    found: list[str] = []
    if protocol.schedule == "open" and protocol.amount:
        found.append("--amount belongs to a schedule; give --schedule one-shot, steady, geometric or cubic")
    if protocol.schedule != "open" and not protocol.amount:
        found.append(f"--schedule {protocol.schedule} needs --amount: the share to remove in all (90%)")
    if protocol.schedule != "open" and protocol.step:
        found.append(f"--step and --schedule {protocol.schedule} both say how many go at a step; give one")
    if protocol.regrow and not protocol.retrain:
        found.append("--regrow compares scores before and after learning; it needs --retrain of at least 1")
    if isinstance(kind, NM) and (protocol.schedule != "open" or protocol.step or protocol.regrow):
        found.append(
            f"--granularity {kind} removes all it can in one step; leave out --schedule, --step and --regrow"
        )
    if protocol.round_to > 1 and kind != "map":
        found.append(f"--round-to is of channels; with --granularity {kind} no channel goes, leave out one")
    if protocol.round_to > 1 and protocol.regrow:
        found.append("--round-to removes channels in blocks, --regrow exchanges single ones; give one")
    if protocol.recompute == "once" and protocol.regrow:
        found.append("--regrow compares fresh scores; it does not go with --recompute once")
    if not protocol.layers():
        found.append(f"--scope '{protocol.scope}' names no layer; give global, or LAYER,LAYER*")
    if protocol.keep and not listed(protocol.keep):
        found.append(f"--keep '{protocol.keep}' names no layer; give LAYER,LAYER*, or leave it out")
    found += _idle(protocol)
    if found:
        raise faults("pruning settings", found)


def _idle(protocol: Protocol) -> list[str]:
    """Settings that differ from what `tersa shrink` and `tersa prune` have, and that nothing would heed."""
    kind = parse_granularity(protocol.granularity)
    criterion = (CRITERIA if kind == "map" else WEIGHT_CRITERIA)[protocol.criterion]
    found: list[str] = []
    if kind != "map" and protocol.mac_weight and _asked(protocol, "mac_weight"):
        found.append(
            f"--mac-penalty is of channels; --granularity {kind} saves no MACs, leave one of them out"
        )
    if isinstance(kind, NM) and protocol.normalisation != "none" and _asked(protocol, "normalisation"):
        found.append(f"--normalize compares layers; --granularity {kind} compares weights of one block")
    looked_at = criterion.needs_images or (kind != "map" and protocol.regrow > 0)
    if not looked_at and _asked(protocol, "criterion_samples"):
        found.append(f"--criterion-samples: --criterion {criterion.name} looks at no images; leave it out")
    if not protocol.retrain and _asked(protocol, "retrain_scope"):
        found.append(f"--retrain-scope {protocol.retrain_scope} is of what --retrain 0 leaves out")
    if not protocol.retrain and not protocol.tune:
        names = ("learning_rate", "teacher_weight", "arithmetic", "pad")
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in names if _asked(protocol, name))
        if flags:
            found.append(f"{flags}: nothing is trained with --retrain 0 and --tune 0")
    return found


def _asked(protocol: Protocol, name: str) -> bool:
    """A setting has another value than by default."""
    usual = Protocol.model_fields[name].default
    return getattr(protocol, name) not in (usual, STRONG.get(name, usual))
