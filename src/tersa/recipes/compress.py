"""Deep compression after pruning: cluster the weights, train the centroids, entropy-code, write one file.

    prune      what is handed in: fewer channels, or zeros
    cluster    2^n shared values per tensor, or one codebook for all       `prune.clustering.cluster`
    train      centroids (and, straight-through, which weight takes which) `prune.clustering.Sharing`
    code       Huffman or arithmetic                                       `prune.coding`, `export.coded`

by distillation from the network before pruning, or from the labels alone, AdamW with one cycle. The
accuracy that is reported is of the network that was read back from the file. With `bits="auto"` widths are
tried from 2 up, and the first whose validation accuracy keeps the floor is taken.

Bytes are traded against error while shared values are trained (`prune.rate`): a weight takes the value that
is cheapest in error and bits together.

    floor, no limit    after the width that keeps the floor, `TRADES` are tried on as many values or twice as
                       many, until one loses the floor; the smallest file that keeps it is taken
    most_bytes         one training, in which the trade is steered until the file has that size; the most
                       accurate moment whose file fits is taken. With `bits="auto"` a file that stays smaller
                       than it may be and loses the floor is tried again with twice as many values
    neither            no trade; the most accurate moment is taken

A moment is the state at one of `MOMENTS` evaluations in the last third of a training, or k-means before it;
with `most_bytes` also the weights as they are, quantised at the trade that fits (`Sharing.settle_`): a
network that was fine-tuned at length may lose more by being trained again than by its rounding.
Where nothing keeps the floor the most accurate is taken, where nothing fits the smallest, and the record says
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
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tersa.data.augment import NONE, default_augmentation
from tersa.data.task import Task
from tersa.errors import Diverged
from tersa.export.artefact import Header
from tersa.export.coded import encode, read_coded, write_coded
from tersa.models.load import load
from tersa.models.summary import parameters
from tersa.prune.clustering import (
    Clustered,
    Codebook,
    Codes,
    Sharing,
    cluster,
    install_,
)
from tersa.prune.coding import entropy_bits
from tersa.prune.evidence import Sample
from tersa.prune.rate import MOST, Rate, curvature
from tersa.recipes.compress_result import (
    FEWEST_BITS,
    MOST_BITS,
    Compressed,
    CompressedLayer,
    Compression,
    Tried,
)
from tersa.recipes.setting import Say, Setting
from tersa.records.results import Epoch
from tersa.train.config import TrainConfig, extent, override
from tersa.train.evaluation import evaluate
from tersa.train.lessons import Lessons
from tersa.train.loop import Progress, train

TRADES = (0.01, 0.03, 0.1)
"""Tried in this order where a floor decides: about 4, 3 and 2.5 bits a weight."""

FIRST_TRADE = 0.01
"""Where a trade that is steered starts."""

LEAST_TRADE, HALVINGS = 1e-6, 14
"""Where the search for the trade that fits without training begins, and its steps, on a log scale."""

MOMENTS = 8
"""Evaluations in the last third of a training."""

MARGIN = 0.005
"""Share of `most_bytes` that the aim stays below: what is coded fluctuates by about as much."""

TRADED_BITS = 5
"""n of `auto` with a limit in bytes, where the trade decides how many values are used."""

SPARE = 0.05
"""Share of a limit in bytes from which on what is left of it is worth another training, with more values."""

SAMPLE = 1000
"""Training images that curvatures are measured on."""

BOOK_SHARE = 0.02
"""A codebook for all layers is taken unasked where it saves this share of the file."""

TRIES = 3
"""Attempts at a training that diverges, each at a quarter of the last one's learning rate."""


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
    """One width at one moment of a training, or before it."""

    bits: int
    codebook: Codebook
    clustered: Clustered
    size: int
    accuracy_clustered: float
    accuracy: float
    loss: float
    trade: float = 0.0


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
    best = _best(tried, floor, how.most_bytes)
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
        floor_met=floor is None or best.accuracy >= floor,
        most_bytes=how.most_bytes,
        size_met=how.most_bytes is None or parts.total <= how.most_bytes,
        trade=best.trade,
        tried=tuple(
            Tried(bits=one.bits, trade=one.trade, size_bytes=one.size, accuracy=one.accuracy) for one in tried
        ),
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


def _best(found: Sequence[_Candidate], floor: float | None, most_bytes: int | None) -> _Candidate:
    """The one to keep; see the module for what counts."""
    fits = [one for one in found if most_bytes is None or one.size <= most_bytes]
    if not fits:
        return min(found, key=lambda one: (one.size, one.loss))
    kept = [one for one in fits if floor is not None and one.accuracy >= floor]
    if kept and most_bytes is None:
        return min(kept, key=lambda one: (one.size, one.loss))
    return max(fits, key=lambda one: (one.accuracy, -one.loss))


def _try(work: _Work, floor: float | None) -> list[_Candidate]:
    """The width asked for, or widths from few bits up to the first that keeps the floor; then trades."""
    how, tried = work.how, list[_Candidate]()
    widths = range(TRADED_BITS if how.most_bytes else FEWEST_BITS, MOST_BITS + 1)
    for bits in widths if how.bits == "auto" else (how.bits,):
        tried.append(_candidate(work, bits, floor, FIRST_TRADE if how.most_bytes else None))
        if floor is not None and tried[-1].accuracy >= floor:
            break
        if how.most_bytes and tried[-1].size > (1 - SPARE) * how.most_bytes:
            break
    last = tried[-1]
    if how.most_bytes or not how.iterations or not how.reassign or floor is None or last.accuracy < floor:
        return tried
    bits = min(MOST_BITS, last.bits + 1) if how.bits == "auto" else how.bits
    for trade in TRADES:
        tried.append(_candidate(work, bits, floor, trade))
        if tried[-1].accuracy < floor:
            break
    return tried


def _candidate(work: _Work, bits: int, floor: float | None, trade: float | None) -> _Candidate:
    """One width; where training made it worse, what k-means gave is kept."""
    codebook = _codebook(work, bits)
    start = cluster(work.network, bits, codebook=codebook, bias_bits=work.how.bias_bits)
    first = _weighed(work, start, bits, codebook, None)
    found = _train(work, first, trade) if work.how.iterations else []
    if work.how.most_bytes:
        found.append(_fitted(work, first))
    if trade is None or work.how.most_bytes or not found:
        found.append(first)
    return _best(found, floor, work.how.most_bytes)


def _fitted(work: _Work, first: _Candidate) -> _Candidate:
    """The weights as they are, at the least trade whose file fits: what training has to surpass."""
    assert work.how.most_bytes is not None
    rate = _rate(work, first, FIRST_TRADE)

    def at(trade: float) -> Clustered:
        sharing = Sharing(work.network, first.clustered, reassign=True, rate=rate)
        sharing.settle_(trade)
        return sharing.clustered()

    low, high = LEAST_TRADE, MOST
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        size = encode(at(middle), work.spec, work.header, work.built, work.how.coder)[1].total
        low, high = (low, middle) if size <= work.how.most_bytes else (middle, high)
    return _weighed(work, at(high), first.bits, first.codebook, first.accuracy, high)


def _weighed(
    work: _Work, clustered: Clustered, bits: int, codebook: Codebook, start: float | None, trade: float = 0.0
) -> _Candidate:
    """A clustering, its file's size and its validation accuracy; `start`: that of k-means, if known."""
    decoded = copy.deepcopy(work.network)
    install_(decoded, clustered)
    found = evaluate(decoded, work.task.validation, work.task)
    size = encode(clustered, work.spec, work.header, work.built, work.how.coder)[1].total
    first = found.accuracy if start is None else start
    return _Candidate(bits, codebook, clustered, size, first, found.accuracy, found.loss, trade)


def _codebook(work: _Work, bits: int) -> Codebook:
    """The one asked for, or the one for all where it makes the file `BOOK_SHARE` smaller."""
    asked, how = work.how.codebook, work.how
    if asked != "auto":
        return asked

    def size(kind: Codebook) -> int:
        clustered = cluster(work.network, bits, codebook=kind, bias_bits=how.bias_bits)
        return len(encode(clustered, work.spec, work.header, work.built, how.coder)[0])

    return "network" if size("network") <= (1 - BOOK_SHARE) * size("layer") else "layer"


def _train(work: _Work, first: _Candidate, trade: float | None) -> list[_Candidate]:
    """The moments of a training; again at a quarter of the rate where it diverges.

    Raises:
        Diverged: every time.
    """
    rate = work.how.learning_rate
    widest = max(len(book) for book in first.clustered.books)
    worth = None if trade is None else _rate(work, first, trade)
    epochs = extent(_settings(work, rate), len(work.task.train)).epochs

    def show(now: Progress) -> None:
        work.say(f"train {widest} shared values", now.iteration / now.iterations, "")

    for _ in range(TRIES):
        sharing = Sharing(work.network, first.clustered, reassign=work.how.reassign, rate=worth)
        config, moments = _settings(work, rate), list[_Candidate]()

        def look(row: Epoch, sharing: Sharing = sharing, moments: list[_Candidate] = moments) -> None:
            if 3 * row.epoch >= 2 * epochs:
                now, price = sharing.clustered(), float(sharing.trade) if worth else 0.0
                moments.append(_weighed(work, now, first.bits, first.codebook, first.accuracy, price))

        done = train(
            sharing,
            work.task,
            config,
            teacher=work.teacher,
            device=work.device,
            evaluate_every=max(1, epochs // (3 * MOMENTS)),
            progress=show,
            on_epoch=look,
        )
        if done.status != "diverged":
            return moments
        rate /= 4
    raise Diverged(f"training shared values diverged {TRIES} times, at last at a rate of {4 * rate:g}")


def _rate(work: _Work, first: _Candidate, trade: float) -> Rate:
    """What a bit is worth: curvatures of the network handed in, and the bytes that its codes are to take."""
    images = work.task.train.take(slice(0, SAMPLE))
    scales = {name: one.scale for name, one in first.clustered.weights.items()}
    sample = Sample(work.task, images, min(250, len(images)), None)
    aim, limit = None, work.how.most_bytes
    if limit is not None:
        parts = encode(first.clustered, work.spec, work.header, work.built, work.how.coder)[1]
        rest = parts.total - parts.codes - parts.codebooks + len(scales) + len(first.clustered.biases)
        aim = max(1.0, (1 - MARGIN) * limit - rest)
    return Rate(trade, aim, curvature(copy.deepcopy(work.network), scales, sample))


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
        label_smoothing=how.label_smoothing,
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
