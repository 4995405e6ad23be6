"""A trained network to start from: made once, then read back by every verb that asks for the same.

A baseline is named by the hash of what made it: data, model (with the user's files), settings, and torch's
major and minor version. It lies in

    $TERSA_CACHE (or the user's cache folder) / baselines / KEY / model.safetensors, record.json

The record is written last and holds the weights' sha256: without it, or where it does not fit, the network
is trained again. Training writes `checkpoint.safetensors` beside them, from which an interrupted one goes on.
A lock lets one process train while others wait for its result; the lock falls with its process.

`default_config` holds the settings that `tersa` trains with where none are given.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tersa.data.augment import default_augmentation
from tersa.data.cache import cache_dir
from tersa.data.task import Task, fingerprint
from tersa.errors import DataError, Diverged
from tersa.files import remove_leftovers, replacing
from tersa.models.load import LoadedModel, load
from tersa.models.zoo import bits_of
from tersa.numerics import digest
from tersa.records.base import SCHEMA, Record, read_record, write_record
from tersa.records.results import Epoch
from tersa.train.config import TrainConfig, override
from tersa.train.evaluation import evaluate
from tersa.train.loop import Progress, TrainResult, train

log = logging.getLogger(__name__)

MNIST = TrainConfig(
    optimizer="nesterov",
    learning_rate=0.05,
    weight_decay=5e-4,
    batch=128,
    epochs=6,
    schedule="one-cycle",
    label_smoothing=0.05,
)
"""For 28x28 images in one channel (MNIST, Fashion-MNIST): a short run for `lenet`."""

DIGITS = TrainConfig(
    optimizer="nesterov",
    learning_rate=0.05,
    weight_decay=5e-4,
    batch=64,
    epochs=60,
    schedule="one-cycle",
    label_smoothing=0.05,
    clip_norm=2.0,
)
"""For a few thousand small images (the bundled 8x8 digits): seconds."""

CIFAR = TrainConfig(
    optimizer="nesterov",
    learning_rate=0.05,
    weight_decay=5e-4,
    batch=128,
    epochs=30,
    schedule="one-cycle",
    label_smoothing=0.05,
    clip_norm=2.0,
)
"""For 32x32 colour images (CIFAR-10)."""

PHOTOS = TrainConfig(
    optimizer="adamw",
    learning_rate=0.001,
    weight_decay=0.05,
    batch=64,
    epochs=20,
    schedule="one-cycle",
    label_smoothing=0.1,
    clip_norm=2.0,
)
"""For larger images."""

LOW_BITS = {
    "optimizer": "adam",
    "learning_rate": 0.02,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "clip_norm": 0.0,
}
"""What replaces these for low-bit networks: latent weights in -1..1 move by steps, and do not decay."""

SMALL_SIDE = 16
LARGE_SIDE = 48
FEW_IMAGES = 5_000


@dataclass(frozen=True)
class Baseline:
    """A trained network and how it came about.

    Attributes:
        module: the network, on the CPU, in eval mode.
        spec: how it was asked for.
        history: its epochs; empty for a network that came trained.
        validation_accuracy: percent.
        cached: it was read from the cache; a network that came trained was not.
        key: hash of what made it, and its folder's name in the cache.
    """

    module: nn.Module
    spec: str
    history: list[Epoch]
    validation_accuracy: float
    cached: bool
    key: str


class BaselineRecord(Record):
    """`record.json` of a cached baseline."""

    schema_version: int = SCHEMA
    key: str
    """Hash of what made the network."""
    task: str
    """Name of the data as it was asked for."""
    spec: str
    """Model as it was asked for."""
    config: TrainConfig
    """Settings it was trained with."""
    torch: str
    """Version of torch that trained it."""
    weights_sha256: str
    """Of `model.safetensors` beside this file."""
    history: list[Epoch]
    """Evaluated epochs."""
    validation_accuracy: float
    """Percent, of the weights that were kept."""
    seconds: float
    """Wall time of the training."""


def default_config(task: Task, spec: str, *, device: str = "cpu") -> TrainConfig:
    """Settings for a quick, strong baseline.

    Chosen by the images' size, channels and number: the presets are the constants of this file. Augmentation
    is what `tersa.data` knows to be safe for these data; a fully connected network gets none, which to it is
    not the same image moved but another one. Convolutions run faster on channels that come last. On a GPU the
    forward pass is in bfloat16, too. Low-bit networks get `LOW_BITS`.

    Args:
        task: what is to be learnt.
        spec: the model as it is asked for.
        device: where it will be, `cpu` or `cuda`.
    """
    channels, height, width = task.shape
    side = max(height, width)
    if side > LARGE_SIDE:
        preset = PHOTOS
    elif side <= SMALL_SIDE or (len(task.train) < FEW_IMAGES and channels == 1):
        preset = DIGITS
    else:
        preset = CIFAR if channels == 3 else MNIST
    if device.startswith("cuda"):
        preset = override(preset, {"precision": "bf16"})
    if spec.startswith("mlp"):
        return preset
    if bits_of(spec) is not None:
        preset = override(preset, LOW_BITS)
    augmentation = default_augmentation(task)
    return override(preset, {"flip": augmentation.flip, "pad": augmentation.pad, "channels_last": True})


def baseline(
    task: Task,
    spec: str,
    config: TrainConfig,
    *,
    checkpoint_file: Path | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Baseline:
    """A trained network: as given, from the cache, or trained now and put there.

    Args:
        task: what it is to do.
        spec: the model (`lenet`, `module.py:build`, an exported file).
        config: settings for training it.
        checkpoint_file: trained weights for `spec`; they are evaluated and not trained.
        device: where to train: `cpu`, `cuda` or `auto`.
        cache: folder to use in place of the user's cache.
        progress: called while it trains.

    Raises:
        Diverged: the training ended in NaN or infinity; nothing is cached.
        ModelError: the model cannot be built, or does not fit the task.
    """
    loaded = load(spec, task.shape, len(task.classes), seed=config.seed, checkpoint=checkpoint_file)
    key = _key(task, loaded, config)
    if loaded.trained:
        loaded.module.eval()
        accuracy = evaluate(loaded.module, task.validation, task).accuracy
        return Baseline(loaded.module, spec, [], accuracy, False, key)
    folder = (cache or cache_dir()) / "baselines" / key
    with _alone_in(folder):
        record = _read(folder, loaded.module)
        cached = record is not None
        if record is None:
            result = _train(folder, task, loaded, config, device, progress)
            record = _write(folder, task, loaded, config, key, result)
    return Baseline(loaded.module, spec, list(record.history), record.validation_accuracy, cached, key)


def _key(task: Task, loaded: LoadedModel, config: TrainConfig) -> str:
    return digest(
        {
            "schema": SCHEMA,
            "data": fingerprint(task),
            "model": loaded.spec,
            "files": sorted(loaded.sha256.values()),
            "config": config.model_dump(mode="json"),
            "torch": ".".join(torch.__version__.split(".")[:2]),
        },
        length=24,
    )


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Hold the folder's lock; wait for it where another process trains the same baseline."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(
            f"the cache cannot be written: {error.strerror}: {folder}; set TERSA_CACHE to a folder that can"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process trains the same baseline; waiting for it (%s)", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(folder: Path, module: nn.Module) -> BaselineRecord | None:
    """Load a cached baseline into `module`, or None where there is none that can be trusted."""
    weights = folder / "model.safetensors"
    if not (folder / "record.json").exists():
        return None
    try:
        record = read_record(folder / "record.json", BaselineRecord)
        if sha256_of(weights) != record.weights_sha256:
            raise DataError(f"{weights} does not have the sha256 of its record")
        module.load_state_dict(load_file(weights))
    except (DataError, OSError, SafetensorError, RuntimeError) as error:
        log.warning("cached baseline discarded, training it again: %s", error)
        return None
    module.eval()
    return record


def _train(
    folder: Path,
    task: Task,
    loaded: LoadedModel,
    config: TrainConfig,
    device: str,
    progress: Callable[[Progress], None] | None,
) -> TrainResult:
    """Train, going on from an earlier attempt where one left a sound checkpoint."""
    checkpoint = folder / "checkpoint.safetensors"

    def attempt() -> TrainResult:
        return train(
            loaded.module, task, config, device=device, checkpoint=checkpoint, resume=True, progress=progress
        )

    try:
        result = attempt()
    except DataError as error:
        log.warning("%s; training from the beginning", error)
        checkpoint.unlink(missing_ok=True)
        result = attempt()
    if result.status == "diverged":
        checkpoint.unlink(missing_ok=True)
        raise Diverged(
            f"training '{loaded.spec}' on '{task.name}' ended in NaN or infinity after {len(result.history)} "
            f"good epochs; lower learning_rate ({config.learning_rate}) or set clip_norm"
        )
    loaded.module.to("cpu")
    return result


def _write(
    folder: Path, task: Task, loaded: LoadedModel, config: TrainConfig, key: str, result: TrainResult
) -> BaselineRecord:
    """Put a trained baseline into the cache: weights, then the record that vouches for them."""
    weights = folder / "model.safetensors"
    remove_leftovers(weights)
    save_weights(loaded.module, weights)
    best = result.best_epoch if config.keep == "best" else result.history[-1].epoch
    (kept,) = [row for row in result.history if row.epoch == best]
    record = BaselineRecord(
        key=key,
        task=task.name,
        spec=loaded.spec,
        config=config,
        torch=torch.__version__,
        weights_sha256=sha256_of(weights),
        history=result.history,
        validation_accuracy=kept.validation_accuracy,
        seconds=result.seconds,
    )
    write_record(folder / "record.json", record)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return record


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors, whole or not at all; shared memory is written twice."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)
