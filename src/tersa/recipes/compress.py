"""Deep compression after pruning: cluster the weights, train the centroids, entropy-code, write one file.

    prune      what is handed in: fewer channels, or zeros
    cluster    2^n shared values per tensor, or one codebook for all       `prune.clustering.cluster`
    train      centroids (and, straight-through, which weight takes which) `prune.clustering.Sharing`
    code       Huffman or arithmetic                                       `prune.coding`, `export.coded`

by distillation from the network before pruning, AdamW with one cycle. The accuracy that is reported is of the
network that was read back from the file. With `bits="auto"` widths are tried from 2 up, and the first whose
validation accuracy keeps the floor is taken; where none does, the most accurate one is, and the record says
so.

Validation steers; the test split is not looked at.

Example:
    >>> from tersa.data.sources import load as load_task
    >>> from tersa.models.zoo import build
    >>> import tempfile
    >>> task = load_task("digits")
    >>> network = build("mlp:8", task.shape, 10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "small.coded"
    ...     done, _ = compress(task, network, "mlp:8", None, Compression(bits=2, iterations=5), path=path)
    >>> done.bits, done.parameters, done.size_bytes < 300
    (2, 610, True)

References:
    Han, Mao & Dally, Deep Compression (ICLR 2016).
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import nn

from tersa.data.augment import NONE, default_augmentation
from tersa.data.task import Task
from tersa.errors import Diverged, UsageError
from tersa.export.artefact import Header
from tersa.export.coded import encode, read_coded, write_coded
from tersa.models.load import load
from tersa.models.summary import parameters
from tersa.prune.clustering import (
    BIAS_BITS,
    Clustered,
    Codebook,
    Codes,
    Sharing,
    cluster,
    install_,
)
from tersa.prune.coding import entropy_bits
from tersa.recipes.setting import Say, Setting
from tersa.records import SCHEMA, Record
from tersa.train.config import TrainConfig, override
from tersa.train.evaluation import evaluate
from tersa.train.lessons import Lessons
from tersa.train.loop import Progress, train

FEWEST_BITS, MOST_BITS = 2, 8
"""Widths that `auto` tries, and that may be asked for (1 bit too)."""

BOOK_SHARE = 0.02
"""A codebook for all layers is taken unasked where it saves this share of the file."""

TRIES = 3
"""Attempts at a training that diverges, each at a quarter of the last one's learning rate."""


class Compression(Record):
    """How a network is compressed."""

    bits: int | Literal["auto"] = "auto"
    """n, 1 to 8: a codebook has at most 2^n values; `auto` for the fewest that keep the floor."""
    coder: Literal["auto", "huffman", "arithmetic", "raw"] = "auto"
    """`auto` for the shortest of all."""
    codebook: Literal["layer", "network", "auto"] = "auto"
    """One for each layer or one for the network; `auto` for the latter where it saves 2 % of the file."""
    bias_bits: int = Field(default=BIAS_BITS, ge=2, le=16)
    """m, of the biases of convolutions and fully connected layers."""
    floor: float | None = Field(default=None, ge=0, le=100)
    """Validation accuracy in percent that `auto` keeps; None: that of the network handed in."""
    iterations: int = Field(default=2000, ge=0)
    """Updates that each width is trained for; 0 for k-means alone."""
    reassign: bool = True
    """Weights may change their centroid while it is trained (straight-through); false: the paper's way."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of AdamW with one cycle."""
    batch: int = Field(default=128, ge=1)
    """Images an update."""
    temperature: float = Field(default=4.0, gt=0)
    """Of the distillation."""
    teacher_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of the teacher's term in the loss, where there is a teacher."""
    seed: int = Field(default=0, ge=0)
    """Of the order of images and their augmentation."""

    def check(self) -> None:
        """Refuse what no network can be given.

        Raises:
            UsageError: a width outside what is offered.
        """
        if self.bits != "auto" and not 1 <= self.bits <= MOST_BITS:
            raise UsageError(f"{self.bits} bits for shared values; allowed: 1 to {MOST_BITS}, or auto")


class CompressedLayer(Record):
    """One clustered tensor in a coded file."""

    name: str
    """As in the state dict."""
    shape: tuple[int, ...]
    """Sizes after pruning."""
    zeros: int
    """Weights that were pruned to exactly zero."""
    values: int
    """Different values that its weights take, zero among them."""
    entropy_bits: float
    """Of one of its weights."""


class Compressed(Record):
    """What compression made of a network, and what it cost."""

    schema_version: int = SCHEMA
    spec: str
    """The network before pruning."""
    bits: int
    """n: a codebook has at most 2^n values."""
    codebook: Codebook
    """One for each layer, or one for the network."""
    coder: str
    """As asked for."""
    layers: tuple[CompressedLayer, ...]
    """The clustered tensors."""
    header_bytes: int
    """Spec, sizes, classes, normalisation, checksum."""
    codebook_bytes: int
    """Centroids and scales."""
    code_bytes: int
    """Of the clustered weights."""
    bias_bytes: int
    """Of biases, normalisation layers and small tensors."""
    entropy_bytes: float
    """What the counts of each layer's codes allow for `code_bytes`, without storing the counts."""
    size_bytes: int
    """Of the file on disk."""
    original_bytes: int
    """4 bytes for each parameter of the network before pruning."""
    ratio: float
    """Original over file."""
    parameters: int
    """Of the network after pruning."""
    accuracy_before: float
    """Percent of the validation split, of the network that was handed in."""
    accuracy_clustered: float
    """The same after k-means, before training."""
    validation_accuracy: float
    """The same of the network read back from the file."""
    floor: float | None
    """Validation accuracy that `auto` was to keep."""
    floor_met: bool
    """It was, or none was given."""
    tried: tuple[tuple[int, float], ...]
    """(bits, validation accuracy) of every width that was trained, in order."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True)
class _Work:
    """What does not change while widths are tried."""

    task: Task
    network: nn.Module
    spec: str
    header: Header
    built: nn.Module
    teacher: nn.Module | Lessons | None
    how: Compression
    device: str
    say: Say


@dataclass(frozen=True)
class _Candidate:
    """One width, trained."""

    bits: int
    codebook: Codebook
    clustered: Clustered
    accuracy_clustered: float
    accuracy: float


def compress(
    task: Task,
    network: nn.Module,
    spec: str,
    teacher: nn.Module | Lessons | None,
    how: Compression,
    *,
    path: Path,
    device: str = "cpu",
    say: Say = Setting.say,
) -> tuple[Compressed, nn.Module]:
    """Cluster, train, code and write a network.

    Args:
        task: train teaches, validation steers.
        network: pruned (or not); it is not changed.
        spec: gives the network as it was before pruning, with the same tensor names; see `models.load`.
        teacher: followed while training: a network, its answers, or None for the labels alone.
        how: settings.
        path: of the `.coded` file.
        device: where training computes.
        say: shows progress.

    Returns:
        What was made of it, and the network whose weights were coded: the decoder must give its logits.

    Raises:
        UsageError: settings that cannot be, see `Compression.check`.
        ModelError: a network that cannot be clustered, or is not of the spec.
        Diverged: training that ended in NaN every time.
    """
    began = time.perf_counter()
    how.check()
    network = copy.deepcopy(network).cpu().eval()
    before = evaluate(network, task.validation, task).accuracy
    floor = before if how.floor is None and how.bits == "auto" else how.floor
    built = load(spec, task.shape, len(task.classes)).module
    work = _Work(task, network, spec, Header.of(task), built, teacher, how, device, say)
    tried = _try(work, floor)
    kept = [one for one in tried if floor is None or one.accuracy >= floor]
    best = kept[0] if kept else max(tried, key=lambda one: one.accuracy)
    parts = write_coded(path, best.clustered, spec, work.header, built, how.coder)
    read_back, _ = read_coded(path, spec)
    accuracy = evaluate(read_back, task.validation, task).accuracy
    assert accuracy == best.accuracy, "what is read back must be what was evaluated"
    original = 4 * parameters(built)
    weights = best.clustered.weights
    coded = copy.deepcopy(network)
    install_(coded, best.clustered)
    made = Compressed(
        spec=spec,
        bits=best.bits,
        codebook=best.codebook,
        coder=how.coder,
        layers=tuple(_layer(name, one) for name, one in weights.items()),
        header_bytes=parts.header,
        codebook_bytes=parts.codebooks,
        code_bytes=parts.codes,
        bias_bytes=parts.biases + parts.others,
        entropy_bytes=sum(entropy_bits(one.codes.numpy()) for one in weights.values()) / 8,
        size_bytes=parts.total,
        original_bytes=original,
        ratio=original / parts.total,
        parameters=parameters(network),
        accuracy_before=before,
        accuracy_clustered=best.accuracy_clustered,
        validation_accuracy=accuracy,
        floor=floor,
        floor_met=bool(kept),
        tried=tuple((one.bits, one.accuracy) for one in tried),
        seconds=time.perf_counter() - began,
    )
    return made, coded


def _layer(name: str, one: Codes) -> CompressedLayer:
    return CompressedLayer(
        name=name,
        shape=tuple(one.codes.shape),
        zeros=int((one.codes == 0).sum()) if one.sparse else 0,
        values=len(one.codes.unique()),
        entropy_bits=entropy_bits(one.codes.numpy()) / one.codes.numel(),
    )


def _try(work: _Work, floor: float | None) -> list[_Candidate]:
    """The width asked for, or widths from the fewest bits up to the first that keeps the floor."""
    asked = work.how.bits
    tried: list[_Candidate] = []
    for bits in range(FEWEST_BITS, MOST_BITS + 1) if asked == "auto" else (asked,):
        tried.append(_candidate(work, bits))
        if floor is not None and tried[-1].accuracy >= floor:
            break
    return tried


def _candidate(work: _Work, bits: int) -> _Candidate:
    """One width; where training made it worse, what k-means gave is kept."""
    codebook = _codebook(work, bits)
    start = cluster(work.network, bits, codebook=codebook, bias_bits=work.how.bias_bits)
    first = _accuracy(work, start)
    if work.how.iterations:
        trained = _train(work, start)
        accuracy = _accuracy(work, trained)
        if accuracy >= first:
            return _Candidate(bits, codebook, trained, first, accuracy)
    return _Candidate(bits, codebook, start, first, first)


def _codebook(work: _Work, bits: int) -> Codebook:
    """The one asked for, or the one for all where it makes the file `BOOK_SHARE` smaller."""
    asked, how = work.how.codebook, work.how
    if asked != "auto":
        return asked

    def size(kind: Codebook) -> int:
        clustered = cluster(work.network, bits, codebook=kind, bias_bits=how.bias_bits)
        return len(encode(clustered, work.spec, work.header, work.built, how.coder)[0])

    return "network" if size("network") <= (1 - BOOK_SHARE) * size("layer") else "layer"


def _accuracy(work: _Work, clustered: Clustered) -> float:
    decoded = copy.deepcopy(work.network)
    install_(decoded, clustered)
    return evaluate(decoded, work.task.validation, work.task).accuracy


def _train(work: _Work, start: Clustered) -> Clustered:
    """Train a clustered network; again at a quarter of the rate where it diverges.

    Raises:
        Diverged: every time.
    """
    rate = work.how.learning_rate
    widest = max(len(book) for book in start.books)

    def show(now: Progress) -> None:
        work.say(f"train {widest} shared values", now.iteration / now.iterations, "")

    for _ in range(TRIES):
        sharing = Sharing(work.network, start, reassign=work.how.reassign)
        config, teacher = _settings(work, rate), work.teacher
        done = train(
            sharing, work.task, config, teacher=teacher, device=work.device, evaluate_every=0, progress=show
        )
        if done.status != "diverged":
            return sharing.to("cpu").clustered()
        rate /= 4
    raise Diverged(f"training shared values diverged {TRIES} times, at last at a rate of {4 * rate:g}")


def _settings(work: _Work, rate: float) -> TrainConfig:
    how, spatial = work.how, any(isinstance(module, nn.Conv2d) for module in work.network.modules())
    if isinstance(work.teacher, Lessons):
        flip, pad = work.teacher.augmentation
    else:
        augmentation = default_augmentation(work.task) if spatial else NONE
        flip, pad = augmentation.flip, augmentation.pad
    plain = TrainConfig(
        optimizer="adamw",
        learning_rate=rate,
        batch=min(how.batch, len(work.task.train)),
        iterations=how.iterations,
        schedule="one-cycle",
        warmup=0.1,
        flip=flip,
        pad=pad,
        keep="last",
        seed=how.seed,
        channels_last=spatial,
    )
    if work.teacher is None:
        return plain
    return override(
        plain,
        {
            "distillation": "temperature",
            "distillation_weight": how.teacher_weight,
            "distillation_temperature": how.temperature,
        },
    )
