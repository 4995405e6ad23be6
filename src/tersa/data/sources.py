"""The sources that are known, where their files are looked for, and `load`, which makes a task of one.

Files of source NAME are looked for in `ROOT/NAME/` and in `ROOT/` itself, for these roots in this order:
`data_dir`, `$TERSA_DATA`, the user cache (`$TERSA_CACHE/data` where that is set). What is not found is
downloaded from its official place into the user cache and checked there.

Example:
    >>> task = load("digits")
    >>> task.shape, len(task.train), len(task.validation), len(task.test)
    ((1, 8, 8), 1150, 287, 360)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tersa.data import cache, cifar, digits, folder, idx, npz
from tersa.data.download import fetch as fetch_file
from tersa.data.source import Decoded, Found, Source
from tersa.data.split import channel_statistics, stratified, validation_count
from tersa.data.task import Provenance, Split, Task
from tersa.errors import DataError, UsageError, unknown, utf8

logger = logging.getLogger(__name__)

# A new source: one line here.
NAMED = (
    digits.SOURCE,
    idx.MNIST,
    idx.FASHION_MNIST,
    cifar.SOURCE,
)
BY_PATH = (
    folder.SOURCE,
    npz.SOURCE,
)
SOURCES: dict[str, Source] = {source.name: source for source in NAMED}

State = Literal["bundled", "found", "incomplete", "missing"]


@dataclass(frozen=True)
class Standing:
    """One source as it stands on this machine.

    Attributes:
        name: of the source.
        about: what it is, in one line.
        state: `bundled`, `found`, `incomplete` (some of its files lack) or `missing`.
        location: the folder of the files, the package that brings them, or empty.
        files: the names of the files that are there.
        lacking: the names of the files that are not.
        download_bytes: what a download would fetch; 0 where there is none.
        hint: how to get what is missing, or empty.
    """

    name: str
    about: str
    state: State
    location: str
    files: tuple[str, ...]
    lacking: tuple[str, ...]
    download_bytes: int
    hint: str


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    seed: int = 0,
    validation: int | float | None = None,
    download: bool = True,
) -> Task:
    """Make a task of a known data set, or of your own images or arrays.

    Args:
        name: `digits`, `mnist`, `fashion-mnist`, `cifar-10`; or the path of a folder or zip of class folders
            (`tersa.data.folder`) or of an `.npz` file (`tersa.data.npz`). A known name wins over a folder of
            that name: write `./mnist` for the folder.
        data_dir: looked in first for the files of a known data set.
        seed: of the cut of validation from train.
        validation: how many train images (a whole number) or which share of them (a fraction) validation
            gets; by default 5,000 of 50,000 or more, else a fifth. Not for data with a validation split.
        download: fetch from the official place what is found nowhere.

    Returns:
        The task. Bytes are memory-mapped from the cache of decoded images where there is one.

    Raises:
        UsageError: an unknown name, no such path, or a validation that cannot be cut.
        DataError: files that are missing, damaged or not what they should be; nothing of them is kept.
    """
    source, files = locate(name, data_dir=data_dir, download=download)
    sha256 = {path.name or path.resolve().name: _digest(path) for path in files}
    if source.cached:
        decoded = cache.decoded(cache.key_of(source.name, sha256), lambda: source.read(files))
    else:
        decoded = source.read(files)
    location = str(_common(files)) if files else source.package
    provenance = Provenance(source.name, location, sha256 | decoded.sha256, decoded.note)
    return task_of(
        name, decoded, provenance, normalisation=source.normalisation, seed=seed, validation=validation
    )


def task_of(
    name: str,
    decoded: Decoded,
    provenance: Provenance,
    *,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    seed: int = 0,
    validation: int | float | None = None,
) -> Task:
    """Cut decoded data into a task; the arguments are those of `load`."""
    images, labels = torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)
    whole = Split(images, labels)
    train, test, own = (whole.take(decoded.part(split)) for split in ("train", "test", "validation"))
    if len(own) and validation is not None:
        raise UsageError(
            f"'{name}' has a validation split of its own ({len(own)} images); leave `validation` out"
        )
    if not len(own):
        count = validation_count(len(train), validation)
        if validation is None:  # few images in many classes: leave one of each in train
            count = min(count, max(len(train) - len(decoded.classes), 1))
        generator = torch.Generator().manual_seed(seed)
        rest, taken = stratified(train.labels, count, generator)
        train, own = train.take(rest), train.take(taken)
    mean, std = normalisation or channel_statistics(train.images)
    return Task(name, train, own, test, decoded.classes, mean, std, provenance)


def locate(
    name: str, *, data_dir: Path | None = None, download: bool = True
) -> tuple[Source, tuple[Path, ...]]:
    """The source of a name or path, with its files, downloaded if need be.

    Returns:
        The source and its files; no files for a bundled source.

    Raises:
        UsageError: an unknown name, or no such path.
        DataError: files that are found nowhere, and not downloaded.
    """
    if name not in SOURCES:
        return _at_path(name)
    source = SOURCES[name]
    if source.package:
        return source, ()
    _, found = search(source, data_dir)
    if found.complete and not (download and _stale(source, found)):
        return source, found.files
    if not download:
        raise DataError(f"{_not_found(source, found, data_dir)}; {_hint(source)}")
    return source, fetch(source)


def fetch(source: Source) -> tuple[Path, ...]:
    """Download a source into the user cache; files that are whole already are kept.

    Raises:
        DataError: the source has no official place, or none of them gave the right bytes.
    """
    if not source.remote:
        raise DataError(f"{source.name} cannot be downloaded")
    place = cache.cache_dir() / "data" / source.name
    for remote in source.remote:
        fetch_file(remote, source.mirrors, place)
    found = source.find(place)
    assert found.complete, "all files of a source have been downloaded"
    return found.files


def roots(data_dir: Path | None = None) -> Iterator[Path]:
    """The folders in which known data sets are looked for, in order.

    Raises:
        UsageError: `data_dir` is no folder.
    """
    if data_dir is not None:
        if not data_dir.is_dir():
            raise UsageError(f"no folder {data_dir} (--data-dir)")
        yield data_dir
    if os.environ.get("TERSA_DATA"):
        yield cache.at_home(os.environ["TERSA_DATA"])
    yield cache.cache_dir() / "data"


def search(source: Source, data_dir: Path | None = None) -> tuple[Path | None, Found]:
    """The first folder that holds all of a source; else the first that holds some of it."""
    partly: tuple[Path | None, Found] = (None, Found())
    for root in roots(data_dir):
        for place in (root / source.name, root):
            found = source.find(place) if place.is_dir() else Found()
            if found.complete:
                return place, found
            if found.files and partly[0] is None:
                partly = (place, found)
    return partly


def survey(data_dir: Path | None = None) -> list[Standing]:
    """Every known data set, as it stands on this machine; nothing is decoded or downloaded."""
    return [_standing(source, data_dir) for source in SOURCES.values()]


def _standing(source: Source, data_dir: Path | None) -> Standing:
    place, found = (None, Found()) if source.package else search(source, data_dir)
    state: State = "bundled" if source.package else "missing"
    if found.files:
        state = "found" if found.complete else "incomplete"
    return Standing(
        name=source.name,
        about=source.about,
        state=state,
        location=str(place) if place else source.package,
        files=tuple(path.name for path in found.files),
        lacking=found.missing if found.files else tuple(remote.name for remote in source.remote),
        download_bytes=sum(remote.size for remote in source.remote),
        hint="" if state in ("bundled", "found") else _hint(source),
    )


def _at_path(name: str) -> tuple[Source, tuple[Path, ...]]:
    path = cache.at_home(name)
    utf8(path, "data set")
    for source in BY_PATH:
        found = source.find(path)
        if found.complete:
            return source, found.files
    if path.exists():
        raise UsageError(
            f"'{name}' is no data set; expected a folder or .zip of class folders, or an .npz file"
        )
    if len(path.parts) > 1 or path.suffix.lower() in (".zip", ".npz"):
        raise UsageError(
            f"no file or folder '{name}'; give an existing path, or one of {', '.join(sorted(SOURCES))}"
        )
    hint = "or the path of a folder or .zip of class folders, or of an .npz file"
    raise UsageError(f"{unknown('data set', name, SOURCES)}; {hint}")


def _digest(path: Path) -> str:
    """sha256 of a file, or of all images in a folder of class folders."""
    if path.is_dir():
        return cache.tree_digest(path, [path / item.name for item in folder.listing(path).items])
    return cache.file_digest(path)


def _common(files: tuple[Path, ...]) -> Path:
    """The one file, or the folder of several."""
    return files[0] if len(files) == 1 else files[0].parent


def _stale(source: Source, found: Found) -> bool:
    """A file among our own downloads has not the official bytes any more: it is to be fetched again."""
    official = {remote.name: remote.sha256 for remote in source.remote}
    place = cache.cache_dir() / "data" / source.name
    return any(
        path.parent == place and path.name in official and cache.file_digest(path) != official[path.name]
        for path in found.files
    )


def _not_found(source: Source, found: Found, data_dir: Path | None) -> str:
    looked = ", ".join(str(root / source.name) for root in roots(data_dir))
    if found.files:
        return f"{source.name} is incomplete in {found.files[0].parent}: no {', '.join(found.missing)}"
    return f"{source.name} is not on this machine (looked in {looked})"


def _hint(source: Source) -> str:
    size = sum(remote.size for remote in source.remote) / 1e6
    get = f"`tersa data get {source.name}` downloads it ({size:.0f} MB)"
    return f"{get}, or put its files into $TERSA_DATA/{source.name}"
