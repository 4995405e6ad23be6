"""Clustering the network of a run: shared values of few bits, one entropy-coded file, what it answers.

    runs/NAME/spec.toml      everything asked, written first
              model.coded    the network (`tersa.export.coded`)
              result.json    written last

What `tersa prune --cluster` does at its end, for a network that is there already. Choices are made on the
validation split; the test split is read once, by running what the decoder gives.

Example:
    >>> ClusterRequest(run="runs/base", bits=9).check()
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: 9 bits for shared values; allowed: 1 to 8, or auto
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import nn

from tersa.data.sources import load as load_task
from tersa.data.task import Task
from tersa.errors import UsageError
from tersa.export.coded import read_coded
from tersa.models.summary import macs, parameters
from tersa.prune.twins import is_low_bit
from tersa.recipes.compress import compress
from tersa.recipes.compress_result import Compressed, Compression
from tersa.recipes.folder import RESULT, open_folder
from tersa.recipes.goals import parse_bound
from tersa.recipes.setting import Setting, threads_of
from tersa.recipes.subjects import find_subject, model_of
from tersa.records.base import SCHEMA, Record, read_record, write_record
from tersa.train.device import choose
from tersa.train.evaluation import evaluate, predict

CODED = "model.coded"


class ClusterRequest(Record):
    """What is asked; stored as `spec.toml`."""

    run: str
    """Folder of the run whose network is clustered."""
    data: str = "digits"
    """What it was trained on."""
    validation: int | float | None = None
    """Images (or share) of train that steer, or None for the data's default."""
    seed: int = Field(default=0, ge=0)
    """Of the split and of the training of shared values."""
    bits: int | Literal["auto"] = "auto"
    """n, 1 to 8: a codebook has at most 2^n values; `auto` for the fewest that keep the floor."""
    coder: Literal["auto", "huffman", "arithmetic", "raw"] = "auto"
    """`auto` for the shortest of all."""
    codebook: Literal["layer", "network", "auto"] = "auto"
    """One for each layer or one for the network."""
    iterations: int = Field(default=500, ge=0)
    """Updates that each width is trained for, following the network before clustering; 0: k-means alone."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of AdamW with one cycle."""
    max_loss: float | None = Field(default=None, ge=0, lt=100)
    """Points of validation accuracy that may be lost: the floor."""
    size: str | None = None
    """Of the file at most: `1500`, `2kB`, or `0.1x` of 4 bytes a parameter: the most accurate within."""

    def check(self) -> None:
        """Refuse what no network can be given.

        Raises:
            UsageError: bits, a size, or settings that cannot be.
        """
        if self.size is not None and self.max_loss is not None:
            raise UsageError(
                "size asks for the most accurate file within it, max_loss for the smallest; give one"
            )
        self.compression(None, 4000)

    def compression(self, accuracy: float | None, original: int) -> Compression:
        """How `compress` does it.

        Args:
            accuracy: of the network on validation, percent.
            original: bytes of its parameters in float32.
        """
        limit = parse_bound(self.size, "size") if self.size is not None else None
        floor = None
        if accuracy is not None and self.max_loss is not None:
            floor = max(0.0, accuracy - self.max_loss)
        how = Compression(
            bits=self.bits,
            coder=self.coder,
            codebook=self.codebook,
            floor=floor,
            most_bytes=None if limit is None else int(limit.limit(original)),
            iterations=self.iterations,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        how.check()
        return how


class ClusterResult(Record):
    """Everything that clustering found: `result.json`."""

    schema_version: int = SCHEMA
    verb: Literal["cluster"] = "cluster"
    model: str
    """The network before pruning."""
    data: str
    """The data set."""
    before_accuracy: float
    """Percent of the test split, of the network that was handed in."""
    test_accuracy: float
    """Percent of the test split, by running what the decoder gives."""
    same: int
    """On how many test images the decoder's network gives the very logits of the network that was coded."""
    images: int
    """Of the test split."""
    parameters: int
    """Of the network that was handed in."""
    macs: int
    """Of both, for one image."""
    size_bytes: int
    """Of the file."""
    compressed: Compressed
    """How, and what was tried."""
    artefacts: list[str]
    """Files in the run's folder."""
    report: str = ""
    """There is none."""
    seconds: float
    """Wall time."""


def run_cluster(
    request: ClusterRequest,
    out: Path,
    *,
    setting: Setting | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> ClusterResult:
    """Cluster, train, code and test the network of a run.

    Args:
        request: what is asked.
        out: folder for the results.
        setting: how it is carried out.
        resume: a finished one is returned as it is, another starts again.
        overwrite: start again.

    Raises:
        UsageError: settings that cannot be, no such run, or a low-bit network.
        ModelError: a network that cannot be clustered.
        Diverged: training that ended in NaN every time.
    """
    began, setting = time.perf_counter(), setting or Setting()
    request.check()
    task = load_task(
        request.data, data_dir=setting.data_dir, seed=request.seed, validation=request.validation
    )
    network = network_of(Path(request.run), task)
    folder = open_folder(out, "cluster", request, resume=resume, overwrite=overwrite)
    if (folder / RESULT).is_file() and (folder / CODED).is_file():
        return read_record(folder / RESULT, ClusterResult)
    spec = model_of(Path(request.run))
    with threads_of(setting):
        accuracy = evaluate(network, task.validation, task).accuracy
        how = request.compression(accuracy, 4 * parameters(network))
        path, device = folder / CODED, choose(setting.device)
        made, exact = compress(task, network, spec, network, how, path=path, device=device, say=setting.say)
        decoded, _ = read_coded(path, spec)
        before, wanted, found = (predict(each.cpu(), task.test, task) for each in (network, exact, decoded))
    result = ClusterResult(
        model=spec,
        data=task.name,
        before_accuracy=100.0 * float((before.argmax(dim=1) == task.test.labels).float().mean()),
        test_accuracy=100.0 * float((found.argmax(dim=1) == task.test.labels).float().mean()),
        same=int((wanted == found).all(dim=1).sum()),
        images=len(task.test),
        parameters=parameters(network),
        macs=macs(network, task.shape),
        size_bytes=made.size_bytes,
        compressed=made,
        artefacts=[CODED],
        seconds=time.perf_counter() - began,
    )
    write_record(folder / RESULT, result)
    return result


def network_of(folder: Path, task: Task) -> nn.Module:
    """The network with the weights of a finished run.

    Raises:
        UsageError: not such a run, or a low-bit network, whose weights share values already.
    """
    subject = find_subject(str(folder), task)
    if subject.module is None:
        raise UsageError(f"{folder} holds a file without its network; cluster a run of train or prune")
    if is_low_bit(subject.module):
        raise UsageError(
            f"{folder} holds a low-bit network, whose weights share few values already; pack it instead "
            "(tersa export --format tersa)"
        )
    return subject.module.eval()
