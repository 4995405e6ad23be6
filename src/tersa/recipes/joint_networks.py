"""From the settings of a trial to a network that is trained, weighed and kept.

    width    every layer's channels cut to a share, then trained from nothing, once for each width
    prune    the channels of least importance go (Taylor, l2 per layer, a penalty on MACs)
    tune     fine-tune, by distillation from the baseline
    bits     each layer's weights clustered to 2^n shared values, trained for half as long again
    weigh    accuracy on validation, MACs, parameters; the coded file's bytes; latency beside the baseline

Bits change what is stored, not how fast a runtime computes: it is given the same values as floats.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tersa.data.augment import NONE, default_augmentation
from tersa.data.task import Task
from tersa.errors import Diverged, ModelError, TargetError, UsageError, brief
from tersa.export.artefact import Artefact, Header
from tersa.export.coded import encode, read_coded
from tersa.export.onnx import export_onnx
from tersa.files import write_atomic
from tersa.models.checkpoint import read as read_checkpoint
from tersa.models.summary import macs, parameters
from tersa.numerics import paired_loss
from tersa.prune.clustering import Clustered, Sharing, cluster, install_, sort_out
from tersa.prune.costs import cost_aware, unit_macs
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose, layer_widths
from tersa.prune.surgery import after, remove_, resize_
from tersa.recipes.deploy import Dock, race
from tersa.recipes.goals import Goals, Start
from tersa.recipes.joint_request import MOST_BITS, STEP, JointSpec
from tersa.recipes.joint_result import TriedNetwork
from tersa.recipes.joint_trials import Axis
from tersa.recipes.request import baseline_config, protocol_of
from tersa.recipes.setting import Setting
from tersa.recipes.start import Begin
from tersa.train.baseline import save_weights
from tersa.train.config import TrainConfig, override
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress, train

RATE, RATE_OF_VALUES = 2e-3, 1e-3
"""Peak learning rates of the fine-tune, and of shared values."""
SECONDS = 0.5
"""Timed calls of each side of a measurement that steers."""
FOLDER, WIDTHS = "trials", "widths"


@dataclass
class Workshop:
    """What all trials of one search share.

    Attributes:
        spec: what is asked.
        task: the data.
        begin: builds the network.
        baseline: trained, at its full width.
        groups: of its channels.
        dock: weighs and times beside the baseline.
        folder: of the search.
        device: for training.
        setting: how it is carried out.
        models: the trained network of each width, once it is there.
        scores: of its channels.
    """

    spec: JointSpec
    task: Task
    begin: Begin
    baseline: nn.Module
    groups: Groups
    dock: Dock
    folder: Path
    device: str
    setting: Setting
    models: dict[float, tuple[nn.Module, Groups]] = field(
        default_factory=dict[float, tuple[nn.Module, Groups]]
    )
    scores: dict[float, Tensor] = field(default_factory=dict[float, Tensor])

    @property
    def start(self) -> Start:
        """The baseline's costs."""
        assert self.dock.start is not None, "the baseline was weighed"
        return self.dock.start


@dataclass(frozen=True)
class Made:
    """A network of a trial.

    Attributes:
        network: computes with the values that are stored.
        clustered: those; None for float weights.
        groups: of its channels.
    """

    network: nn.Module
    clustered: Clustered | None
    groups: Groups


def axes_of(spec: JointSpec, model: nn.Module, groups: Groups) -> list[Axis]:
    """What is sampled for a network.

    >>> from tersa.models.zoo import build
    >>> from tersa.prune.groups import find_groups
    >>> net = build("mlp:8", (1, 8, 8), 10)
    >>> [axis.name for axis in axes_of(JointSpec(scope="layer"), net, find_groups(net, (1, 8, 8)))]
    ['width', 'prune.fc1', 'bits.fc1.weight', 'bits.fc2.weight']
    """
    axes: list[Axis] = []
    if len(set(spec.widths)) > 1:
        axes.append(Axis("width", tuple(sorted(set(spec.widths)))))
    names = [group.name for group in groups.groups] if spec.scope == "layer" else []
    if most := spec.most_ratio:
        axes += [Axis(f"prune.{name}", low=0.0, high=most, step=STEP) for name in names] or [
            Axis("prune", low=0.0, high=most, step=STEP)
        ]
    if spec.bit_range:
        low, high = spec.bit_range
        axes += [Axis(f"bits.{name}", low=low, high=high, step=1) for name in sort_out(model).weights]
    return axes


def searched(spec: JointSpec, begin: Begin, groups: Groups) -> list[Axis]:
    """The same, where there is something to search.

    Raises:
        UsageError: one network alone can be made, or narrower ones of given weights.
    """
    if begin.trained and any(width != 1 for width in spec.widths):
        raise UsageError(
            f"--widths trains narrower networks anew, but {spec.model} brings weights; give --widths 1"
        )
    axes = axes_of(spec, begin.pruned(), groups)
    if not axes:
        raise UsageError(
            "nothing to search: one width, no pruning and no bits; give --widths, --most or --bits"
        )
    return axes


def try_network(work: Workshop, number: int, settings: Mapping[str, float]) -> TriedNetwork:
    """Make, weigh and keep the network of a trial.

    Raises:
        Diverged: a training ended in NaN.
    """
    return weighed(work, learned(work, number, settings))


def learned(work: Workshop, number: int, settings: Mapping[str, float]) -> TriedNetwork:
    """Make and keep the network of a trial; its latency is not known yet, and so no goal is judged.

    Raises:
        Diverged: a training ended in NaN.
    """
    began = time.perf_counter()
    made = make(work, settings)
    network, task = made.network, work.task
    found = evaluate(network, task.validation, task, device=work.device)
    network.cpu()
    loss = paired_loss(work.dock.correct, found.correct.numpy())
    size = keep(work, made, number, export_onnx(network, task, candidate(work, number)))
    return TriedNetwork(
        number=number,
        width=_width(work.spec, settings),
        ratios={
            name.partition(".")[2] or "network": value
            for name, value in settings.items()
            if name.startswith("prune")
        },
        bits={name[5:]: int(value) for name, value in settings.items() if name.startswith("bits.")},
        validation_accuracy=found.accuracy,
        loss_points=loss.points,
        standard_error=loss.standard_error,
        parameters=parameters(network),
        macs=macs(network, task.shape),
        size_bytes=size,
        latency_ms=None,
        channels=layer_widths(network, work.groups),
        violation=0.0,
        seconds=time.perf_counter() - began,
    )


def weighed(work: Workshop, row: TriedNetwork) -> TriedNetwork:
    """A network with its latency, where that counts, and by how much it misses the goals.

    Raises:
        Diverged: the runtime does not take it.
    """
    began, path = time.perf_counter(), candidate(work, row.number)
    latency = timed(work, Artefact(path, Header.of(work.task))) if work.spec.timed else None
    path.unlink(missing_ok=True)
    row = row.model_copy(update={"latency_ms": latency, "seconds": row.seconds + time.perf_counter() - began})
    return row.model_copy(update={"violation": violation(row, work.spec.goals, work.start)})


def candidate(work: Workshop, number: int) -> Path:
    """The ONNX file of a trial until it is weighed."""
    (work.folder / FOLDER).mkdir(exist_ok=True)
    return work.folder / FOLDER / f"{number:05}.onnx"


def make(work: Workshop, settings: Mapping[str, float]) -> Made:
    """The network of a trial, trained; the same settings give the same network.

    Raises:
        Diverged: a training ended in NaN.
    """
    model, groups = of_width(work, _width(work.spec, settings))
    network = copy.deepcopy(model)
    units = pruned_units(work, settings)
    left = remove_(network, groups, units) if len(units) else groups
    _learn_(work, network, work.spec.tune, RATE, "fine-tune")
    network.cpu().eval()
    bits = {name[5:]: int(value) for name, value in settings.items() if name.startswith("bits.")}
    if not bits:
        return Made(network, None, left)
    widths = {name: bits.get(name, MOST_BITS) for name in sort_out(network).weights}
    sharing = Sharing(network, cluster(network, widths), reassign=True)
    _learn_(work, sharing, max(1, work.spec.tune // 2), RATE_OF_VALUES, "shared values")
    clustered = sharing.cpu().clustered()
    install_(network, clustered)
    return Made(network.eval(), clustered, left)


def of_width(work: Workshop, width: float) -> tuple[nn.Module, Groups]:
    """The trained network of a width, and its channel groups; trained when it is first asked for.

    Raises:
        Diverged: its training ended in NaN.
    """
    if width in work.models:
        return work.models[width]
    gone = narrowing(work.groups, width)
    groups = after(work.groups, gone) if len(gone) else work.groups
    if not len(gone):
        work.models[width] = work.baseline, groups
        return work.models[width]
    path, network = work.folder / WIDTHS / f"{width:g}.safetensors", work.begin.pruned()
    if path.is_file():
        resize_(network, read_checkpoint(path))
    else:
        remove_(network, work.groups, gone)
        spec = work.spec.shrinking().model_copy(update={"model": work.begin.model})
        config = baseline_config(spec, work.task, work.begin.model)
        _train_(work, network, config, None, f"train width {width:g}")
        save_weights(network, path)
    work.models[width] = network.cpu().eval(), groups
    return work.models[width]


def narrowing(groups: Groups, width: float) -> Tensor:
    """The units that a network of a width lacks: the last of each group, which keeps at least one."""
    gone = [group.units[max(1, round(width * len(group.units))) :] for group in groups.groups]
    return torch.cat(gone).sort().values if gone else groups.units


def pruned_units(work: Workshop, settings: Mapping[str, float]) -> Tensor:
    """The units that pruning removes from the network of its width."""
    width = _width(work.spec, settings)
    _, groups = of_width(work, width)
    scores = _scores(work, width)
    if work.spec.scope == "network":
        count = round(settings.get("prune", 0.0) * len(groups.units))
        return choose(scores, groups, count=count)
    found: list[Tensor] = []
    for group in groups.groups:
        count = round(settings.get(f"prune.{group.name}", 0.0) * len(group.units))
        allowed = torch.isin(groups.units, group.units)
        found.append(choose(scores, groups, count=count, allowed=allowed))
    return torch.cat(found).sort().values if found else groups.units


def _scores(work: Workshop, width: float) -> Tensor:
    if width not in work.scores:
        model, groups = of_width(work, width)
        protocol = protocol_of(work.spec.shrinking(), work.task)
        generator = torch.Generator().manual_seed(work.spec.seed)
        some = torch.randperm(len(work.task.train), generator=generator)[: protocol.criterion_samples]
        images, criterion = work.task.train.take(some), CRITERIA[protocol.criterion]
        scores = collect(model, groups, work.task, images, criterion, generator=generator)
        scores = normalise(scores, groups, NORMALISATIONS[protocol.normalisation])
        shape = work.task.shape
        work.scores[width] = cost_aware(
            scores, unit_macs(model, groups, shape), macs(model, shape), protocol.mac_weight
        )
    return work.scores[width]


def _width(spec: JointSpec, settings: Mapping[str, float]) -> float:
    return float(settings.get("width", spec.widths[0]))


def _learn_(work: Workshop, network: nn.Module, iterations: int, rate: float, name: str) -> None:
    """Distil from the baseline, AdamW with one cycle."""
    spatial = any(isinstance(module, nn.Conv2d) for module in network.modules())
    views = default_augmentation(work.task) if spatial else NONE
    plain = TrainConfig(
        optimizer="adamw",
        learning_rate=rate,
        batch=min(128, len(work.task.train)),
        iterations=iterations,
        schedule="one-cycle",
        warmup=0.1,
        flip=views.flip,
        pad=views.pad,
        keep="last",
        seed=work.spec.seed,
        channels_last=spatial,
    )
    changes = {"distillation": "temperature", "distillation_weight": 0.9, "distillation_temperature": 4.0}
    _train_(work, network, override(plain, changes), work.baseline, name)


def _train_(
    work: Workshop, network: nn.Module, config: TrainConfig, teacher: nn.Module | None, name: str
) -> None:
    def show(at: Progress) -> None:
        if at.iteration == at.iterations or not teacher:
            work.setting.say(name, at.iteration / at.iterations, f"loss {at.loss:.3f}")

    done = train(
        network,
        work.task,
        config,
        teacher=teacher,
        device=work.device,
        evaluate_every=10**6,
        progress=None if teacher else show,
    )
    if done.status == "diverged":
        raise Diverged(f"{name}: the loss became NaN or infinite")


def keep(work: Workshop, made: Made, number: int, artefact: Artefact) -> int:
    """Write the trial's file; its bytes. Coded, or the float weights, whose ONNX file counts."""
    folder = work.folder / FOLDER
    folder.mkdir(exist_ok=True)
    if made.clustered is None:
        save_weights(made.network, folder / f"{number:05}.safetensors")
        return artefact.size_bytes
    spec, header = work.begin.pruned_model, Header.of(work.task)
    data, parts = encode(made.clustered, spec, header, work.begin.pruned(), "auto")
    write_atomic(folder / f"{number:05}.coded", data)
    return parts.total


def network_of(work: Workshop, row: TriedNetwork) -> tuple[nn.Module, Path | None]:
    """The network of a trial, and its coded file (None for float weights); made again where its file is not
    here, as with a storage that several machines share."""
    coded = work.folder / FOLDER / f"{row.number:05}.coded"
    plain = coded.with_suffix(".safetensors")
    if not (coded.is_file() or plain.is_file()):
        made = make(work, settings_of(row, work.spec))
        keep(work, made, row.number, export_onnx(made.network, work.task, candidate(work, row.number)))
        candidate(work, row.number).unlink()
    if coded.is_file():
        return read_coded(coded, work.begin.pruned_model)[0].eval(), coded
    network = work.begin.pruned()
    resize_(network, read_checkpoint(plain))
    return network.eval(), None


def settings_of(row: TriedNetwork, spec: JointSpec) -> dict[str, float]:
    """The settings that a row came from."""
    ratios = {
        "prune" if name == "network" and spec.scope == "network" else f"prune.{name}": value
        for name, value in row.ratios.items()
    }
    return {"width": row.width, **ratios, **{f"bits.{name}": value for name, value in row.bits.items()}}


def timed(work: Workshop, artefact: Artefact) -> float:
    """Median latency in ms: the baseline's over the speed-up, from interleaved rounds.

    Raises:
        Diverged: the runtime does not take the network.
        TargetError: nor does it take the baseline any more: the trial is none, and is made again later.
    """
    assert work.dock.reference is not None
    seconds = min(SECONDS, work.setting.seconds)
    try:
        found = race(work.dock, work.dock.reference, artefact, seconds=seconds)
        speedup, reason = found.speedup, found.reason
    except ModelError as error:
        speedup, reason = None, brief(error)
    if speedup:
        return work.start.latency_ms / speedup
    try:
        there = race(work.dock, work.dock.reference, work.dock.reference, seconds=seconds)
    except ModelError:
        there = None
    if there is None or there.before is None:
        raise TargetError(f"{work.spec.target} cannot be measured any more: {reason}; --resume goes on")
    raise Diverged(f"{work.spec.target}: {reason}")


def violation(row: TriedNetwork, goals: Goals, start: Start) -> float:
    """By how much a network misses goals on validation; 0 where it is within all.

        sum over bounds of max(0, cost / limit - 1) + max(0, (loss + standard error - allowed) / 100)

    with the loss in points, and one standard error of the paired difference to spare.
    """
    found = 0.0
    allowed = goals.allowed_loss(start.accuracy)
    if allowed is not None:
        found += max(0.0, (row.loss_points + row.standard_error - allowed) / 100.0)
    pairs = (
        (goals.macs, row.macs, start.macs),
        (goals.size, row.size_bytes, start.size_bytes),
        (goals.latency, row.latency_ms, start.latency_ms),
        (goals.parameters, row.parameters, start.parameters),
    )
    for bound, value, reference in pairs:
        if bound is not None:
            assert value is not None, "a latency that is asked for is measured"
            found += max(0.0, value / bound.limit(reference) - 1.0)
    return found
