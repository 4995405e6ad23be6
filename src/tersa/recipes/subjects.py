"""What a user names when a verb wants a network to run: an ONNX file, a finished run, or a model.

    result.onnx                     a file that tersa exported
    net.tersa                       the packed program of a low-bit network
    model.coded                     a clustered, entropy-coded network (`tersa prune --cluster`)
    runs/demo                       a run folder: its .onnx or .tersa file, and its weights in its network
    lenet, module.py:build, m.pt2   a model, as `tersa.models.load` takes it, with `--checkpoint` if trained

A subject becomes an artefact in a precision (`to_artefact`), or the error says why it cannot.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tersa.binary.convert import convert
from tersa.data.sources import load as load_data
from tersa.data.task import Task
from tersa.errors import DataError, ModelError, TargetError, UsageError
from tersa.export.artefact import (
    PACKED,
    PRECISIONS,
    Artefact,
    Header,
    is_ours,
    read_artefact,
    read_foreign,
    tersa_version,
)
from tersa.export.artefact import SCHEMA as METADATA
from tersa.export.bundle import SUFFIX, write_bundle
from tersa.export.check import TOLERANCE, Images, agreement, classify, module_logits, require
from tersa.export.coded import read_coded
from tersa.export.int8 import Calibration, quantise_onnx
from tersa.export.onnx import Deployed, as_pixels, evaluation_copy, export_onnx
from tersa.export.qonnx_check import as_bytes
from tersa.files import write_atomic
from tersa.models.checkpoint import read as read_checkpoint
from tersa.models.load import load
from tersa.models.zoo import default_spec
from tersa.prune.surgery import resize_
from tersa.recipes.folder import RESULT, SPEC, read_spec
from tersa.recipes.trajectory import Trajectory, point
from tersa.records.results import Agreement
from tersa.train.latents import settle_pixels_

WEIGHTS = "model.safetensors"
CODED = ".coded"
FILES = (".onnx", SUFFIX, CODED)
"""Files that bring their input shape and classes with them."""

CALIBRATION_IMAGES = 512
BYTE_ERROR = 1e-6
"""A float32 pixel this near to a multiple of 1/255 is that byte."""
CHECK_IMAGES = 256
"""Images of noise that an export is checked on where no data are given."""


@dataclass(frozen=True)
class Subject:
    """A network that a user named.

    Attributes:
        name: as the user typed it.
        header: class names, input shape and normalisation.
        module: takes normalised input; None for a bare file.
        file: the artefact that is there already, None for a model.
        trained: its answers mean something.
        foreign: a file that tersa did not write: its classes and normalisation are not known.
        batch: the one batch size that a foreign file takes, or None for any.
        note: which of a run's networks it is, empty for its result.
    """

    name: str
    header: Header
    module: nn.Module | None = None
    file: Artefact | None = None
    trained: bool = True
    foreign: bool = False
    batch: int | None = None
    note: str = ""


def needs_task(text: str) -> bool:
    """Whether the name is a model, which takes its input shape and classes from data."""
    path = Path(text)
    return path.suffix not in FILES and not path.is_dir()


def find_subject(
    text: str,
    task: Task | None,
    *,
    checkpoint: Path | None = None,
    seed: int = 0,
    foreign: bool = False,
    data_dir: Path | None = None,
    network: str | None = None,
) -> Subject:
    """The network that a user named.

    Args:
        text: see the head of this file.
        task: gives a model its input shape, classes and normalisation; a file has its own.
        checkpoint: weights for a model.
        seed: of the weights of a model that is not trained.
        foreign: take ONNX files of other programs too, untrained.
        data_dir: where to look first for the data of a run without an ONNX file, where an older tersa made
            it and its result does not say how its images are normalised.
        network: the model behind a `.coded` file, where that is a user's own (`net.py:build`).

    Raises:
        UsageError: no such file or run, an unknown model, or a model without data.
        ModelError: a file that tersa did not write or cannot read.
    """
    path = Path(text)
    if needs_task(text):
        if task is None:
            raise UsageError(f"model '{text}' takes its input shape and classes from data; give --data NAME")
        loaded = load(text, task.shape, len(task.classes), seed=seed, checkpoint=checkpoint)
        if not loaded.trained:
            settle_pixels_(loaded.module, task)
        return Subject(text, Header.of(task), loaded.module, trained=loaded.trained)
    if checkpoint is not None:
        raise UsageError(f"{text} has its own weights; leave out --checkpoint {checkpoint}")
    found = _from_run(path, task, data_dir) if path.is_dir() else _from_file(path, foreign, network)
    if task is not None and not found.foreign:
        check_fits(found, task, text)
    return found


def check_fits(found: Subject, task: Task, text: str) -> None:
    """The data have the images and classes that a network takes.

    Raises:
        UsageError: they have not.
    """
    if found.header.shape != task.shape:
        raise UsageError(f"{text} takes images {found.header.shape}, {task.name} has {task.shape}")
    if len(found.header.classes) != len(task.classes):
        raise UsageError(
            f"{text} has {len(found.header.classes)} classes, {task.name} has {len(task.classes)}"
        )


def _from_file(path: Path, foreign: bool, network: str | None) -> Subject:
    if path.suffix == CODED:
        module, header = read_coded(path, network)
        return Subject(str(path), header, module)
    if not foreign or path.suffix == SUFFIX or is_ours(path):
        file = read_artefact(path)
        return Subject(str(path), file.header, file=file)
    other = read_foreign(path)
    header = other.artefact.header
    return Subject(str(path), header, None, other.artefact, trained=False, foreign=True, batch=other.batch)


def _from_run(folder: Path, task: Task | None, data_dir: Path | None) -> Subject:
    """A finished run: its ONNX file or packed program, and its weights in the network that its spec names."""
    result = _result(folder)
    spec = read_spec(folder) if (folder / SPEC).is_file() else {}
    file = _artefact_of(folder, result)
    model, weights = result.get("model") or spec.get("model"), folder / WEIGHTS
    if not model or not weights.is_file():
        if file is None:
            raise UsageError(
                f"{folder} holds neither an ONNX file, nor a packed program, nor a network with its weights"
            )
        return Subject(str(folder), file.header, file=file)
    packed = file is not None and file.header.precision == PACKED  # its program takes bytes as they are
    header = file.header if file and not packed else _stored_header(folder, result)
    if header is None:
        name = str(spec.get("data") or result.get("task"))
        header = Header.of(_trained_on(spec, name, task, data_dir))
    module = load(str(model), header.shape, len(header.classes)).module
    resize_(module, read_checkpoint(weights))
    if file is not None:
        file = replace(file, module=Deployed(evaluation_copy(module), header))
    return Subject(str(folder), header, module, file)


def _stored_header(folder: Path, result: Mapping[str, Any]) -> Header | None:
    """What `tersa train` notes of a run's images; None where it is not there, as in runs of older versions.

    Raises:
        ModelError: it is there and cannot be.
    """
    found = {name: result.get(name) for name in ("classes", "shape", "mean", "std")}
    if any(value is None for value in found.values()):
        return None
    texts = {name: json.dumps(value) for name, value in found.items()}
    texts["input_shape"] = texts.pop("shape")
    written = {"schema": str(METADATA), "precision": "fp32", "tersa_version": tersa_version()}
    return Header.parse(written | texts, str(folder / RESULT))


def _trained_on(spec: Mapping[str, Any], name: str, task: Task | None, data_dir: Path | None) -> Task:
    """A run's data, cut by its seed and validation: its normalisation is that of its training images."""
    if task is not None and task.name != name:
        return task
    seed = spec.get("seed", dict(spec.get("config", {})).get("seed", 0))
    return load_data(name, data_dir=data_dir, seed=int(seed), validation=spec.get("validation"))


def find_point(folder: Path, at: str, *, data_dir: Path | None = None) -> Subject:
    """A network that a run of shrink, prune or adapt passed on its way.

    Args:
        folder: of the run; it need not be finished.
        at: an accuracy or a step, see `trajectory.point`.
        data_dir: where to look first for its data, which give normalisation and classes.

    Raises:
        UsageError: not such a run, or no such point; the points there are, are named.
    """
    spec = read_spec(folder)
    if spec.get("verb") not in ("shrink", "prune", "adapt"):
        raise UsageError(
            f"{folder} was made by tersa {spec.get('verb')}; --at needs a run of shrink, prune or adapt"
        )
    way = Trajectory(folder)
    table, row = point(way, at)
    task = load_data(
        str(spec["data"]), data_dir=data_dir, seed=int(spec.get("seed", 0)), validation=spec.get("validation")
    )
    base = way.origin.get("model") or _base(spec, task)
    light = f"+{spec['light']}" if spec.get("light") and (table, row.index) != ("steps", 0) else ""
    module = load(base + light, task.shape, len(task.classes)).module
    resize_(module, way.weights(table, row.index))
    tuned = "fine-tuned " if table == "tuned" else ""
    note = f"{tuned}step {row.index}: {row.parameters:,} parameters"
    note += f", {row.validation_accuracy:.2f} % on validation"
    return Subject(f"{folder} at {at}", Header.of(task), module.eval(), note=note)


def _base(spec: Mapping[str, Any], task: Task) -> str:
    """The model that a run began with, where its steps do not say so: a run of an older tersa."""
    if not spec.get("run"):
        return str(spec.get("model") or default_spec(task.shape, len(task.classes)))
    earlier = Path(str(spec["run"]))
    if not earlier.is_dir():
        raise UsageError(
            f"the run began with the network of {earlier}, which is gone; only that folder names the model: "
            "bring it back, or prune again"
        )
    return model_of(earlier)


def model_of(folder: Path) -> str:
    """The spec of the network whose weights a finished run folder holds.

    Raises:
        UsageError: not a finished run, or one without a network.
    """
    spec = read_spec(folder) if (folder / SPEC).is_file() else {}
    model = _result(folder).get("model") or spec.get("model")
    if not model:
        raise UsageError(f"{folder} names no network; give --model and --checkpoint instead")
    return str(model)


def _result(folder: Path) -> dict[str, Any]:
    path = folder / RESULT
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a finished run: it has no {RESULT}; give a run folder or an .onnx file"
        )
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        _ = [str(name) for name in found["artefacts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    return found


def _artefact_of(folder: Path, result: dict[str, Any]) -> Artefact | None:
    """The first ONNX file or packed program among a run's artefacts, or None where it made none."""
    for name in result["artefacts"]:
        if str(name).endswith((".onnx", SUFFIX)):
            path = next((path for path in (folder / name, Path(name)) if path.is_file()), None)
            if path is None:
                raise ModelError(f"{folder} names {name} in {RESULT}, but there is no such file")
            return read_artefact(path)
    return None


def to_artefact(subject: Subject, precision: str, path: Path, task: Task | None) -> Artefact:
    """The subject as a checked file in a precision; a file that has it already is used as it is.

    Args:
        subject: the network.
        precision: `fp32`, `int8` or `packed`.
        path: where a new file goes; a packed one ends in .tersa.
        task: gives INT8 its ranges from training images, and the check its images. Without it both use noise:
            good for timing, not for shipping.

    Raises:
        UsageError: an unknown precision.
        TargetError: an INT8 or packed file cannot become fp32 again.
        ModelError: the network cannot be exported, or the file does not compute the same.
    """
    known = (*PRECISIONS, PACKED)
    if precision not in known:
        raise UsageError(f"unknown precision '{precision}'; known: {', '.join(known)}")
    if subject.file is not None and subject.file.header.precision == precision:
        return subject.file
    stored = subject.file.header.precision if subject.file is not None else ""
    if subject.module is None and (precision == "fp32" or stored == PACKED):
        article = "a" if stored == PACKED else "an"
        raise TargetError(f"{subject.name} is {article} {stored} file, its fp32 weights are gone")
    if subject.foreign:
        raise TargetError(
            f"{subject.name} was not written by tersa: it is run as it is ({subject.header.precision})"
        )
    if precision == "fp32":
        return _exported(subject, path, task)
    if precision == PACKED:
        return _packed(subject, path.with_suffix(SUFFIX), task)
    some = as_pixels(_some(task.train.images)) if task else noise(subject.header, CALIBRATION_IMAGES)
    if subject.file is not None and subject.file.header.precision == "fp32":
        return quantise_onnx(subject.file, path, Calibration(some))
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        return quantise_onnx(_exported(subject, Path(folder) / "fp32.onnx", task), path, Calibration(some))


def noise(header: Header, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(count, C, H, W) pixels in 0..1, each a byte over 255, the same each time."""
    return as_pixels(np.random.default_rng(0).integers(0, 256, (count, *header.shape), dtype=np.uint8))


def accuracy_on_test(artefact: Artefact, task: Task) -> float:
    """Percent of the task's test images that the file gets right, by ONNX Runtime."""
    answers = classify(artefact.path, task.test.images).argmax(axis=1)
    return 100.0 * float((answers == task.test.labels.numpy()).mean())


def _exported(subject: Subject, path: Path, task: Task | None) -> Artefact:
    """The FP32 file, which replaces the one at `path` once it is checked."""
    assert subject.module is not None
    images = task.validation.images if task else noise(subject.header, CHECK_IMAGES)
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        trial = export_onnx(subject.module, subject.header, Path(folder) / path.name)
        assert trial.module is not None
        require(agreement(trial.path, module_logits(trial.module, images), images), path.name)
        write_atomic(path, trial.path.read_bytes())
    return Artefact(path, trial.header, trial.module)


def _packed(subject: Subject, path: Path, task: Task | None) -> Artefact:
    """The packed program; its logits are the network's bit for bit where all its sums are integers.

    It replaces the file at `path` once it is checked.
    """
    if subject.module is None:
        raise TargetError(
            f"{subject.name} is a file without its network; packed needs a run folder or a model"
        )
    header = replace(subject.header, precision=PACKED)
    module = evaluation_copy(subject.module)
    program = convert(module, header.classes, header.shape, header.mean, header.std)
    images = task.validation.images if task else noise(header, CHECK_IMAGES)
    wanted = module_logits(Deployed(module, header), images)
    tolerance = 0.0 if program.exact else TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    with tempfile.TemporaryDirectory(prefix="tersa.") as folder:
        trial = Path(folder) / path.name
        write_bundle(trial, program)
        require_on_bytes(agreement(trial, wanted, images, tolerance=tolerance), path.name, images)
    write_bundle(path, program)
    return Artefact(path, header, Deployed(module, header))


def require_on_bytes(found: Agreement, name: str, images: Images) -> None:
    """Refuse a file that takes bytes and does not give the network's answers to the stored images.

    Raises:
        ModelError: as `require` says; where the images are no bytes, that they are none.
    """
    try:
        require(found, name)
    except ModelError as error:
        pixels = as_pixels(images)
        if np.allclose(pixels, as_pixels(as_bytes(images)), rtol=0.0, atol=BYTE_ERROR):
            raise
        raise ModelError(
            f"{error}; the file takes bytes 0..255, and these data are not whole bytes: their pixels from "
            f"{pixels.min():.3g} to {pixels.max():.3g} are no multiples of 1/255 in 0..1; export to onnx"
        ) from None


def _some(images: torch.Tensor) -> torch.Tensor:
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CALIBRATION_IMAGES]
    return images[chosen]
