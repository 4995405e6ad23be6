"""A user's own network: `path/module.py:build`.

The file is imported under a name of its own, with its folder on the import path while it is imported and
called, so that it can import its neighbours. The function after the colon (or class; `build` when none is
named) is called by what its signature accepts:

    build(shape=..., classes=...)   parameters named `shape`, `classes` or `num_classes` are passed by name
    build(shape, classes)           two parameters of other names that must be given
    build()                         nothing that must be given

with shape = (C, H, W) and classes = K. Whatever the user's code raises becomes one line with its file and
line.

Example:
    >>> arguments(lambda num_classes=10: None, (1, 28, 28), 7)
    ((), {'num_classes': 7})
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tersa.errors import ModelError, UsageError, unknown
from tersa.models.family import Shape
from tersa.models.summary import first_line

DEFAULT_FUNCTION = "build"
PREFIX = "tersa_user_"
"""Of the name under which a user's file is imported."""
CALLS = "build(shape, classes), build(classes=...) or build()"


def split(spec: str) -> tuple[Path, str]:
    """File and function of `path/module.py:build`."""
    path, _, function = spec.rpartition(":") if not spec.endswith(".py") else (spec, "", "")
    return Path(path), function or DEFAULT_FUNCTION


def build(spec: str, shape: Shape, classes: int, *, seed: int = 0) -> tuple[nn.Module, dict[str, str]]:
    """The user's network, and the sha256 of the files that made it.

    Args:
        spec: `path/module.py:function`.
        shape: (C, H, W) of one image.
        classes: K.
        seed: the random state during the call; the one outside is left as it was.

    Returns:
        The module as the user's function gave it, and digests by path: of the file and of the modules in its
        folder that it imported.

    Raises:
        UsageError: no such file, or no such function in it.
        ModelError: an error in the user's code, or a result that is no `nn.Module`.
    """
    path, name = split(spec)
    if not path.is_file():
        raise UsageError(f"no model file {path}")
    before = set(sys.modules)
    with _importing_from(path.parent), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _guarded(path, lambda: _import(path))
        function = _function(module, path, name)
        positional, named = _guarded(path, lambda: arguments(function, shape, classes))
        model = _guarded(path, lambda: function(*positional, **named))
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path}: {name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model, {str(file): sha256(file) for file in (path, *_neighbours(path.parent, before))}


def arguments(
    function: Callable[..., Any], shape: Shape, classes: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the user's function is called with, see the head of this file.

    Raises:
        ModelError: parameters that must be given and that no form of call gives.
    """
    offered = {"shape": shape, "classes": classes, "num_classes": classes}
    kinds = inspect.Parameter
    taken = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    named = {p.name: offered[p.name] for p in taken if p.name in offered and p.kind != kinds.POSITIONAL_ONLY}
    needed = [p for p in taken if p.default is kinds.empty and p.name not in named]
    if not needed:
        return (), named
    if len(needed) == 2 and not named and all(p.kind != kinds.KEYWORD_ONLY for p in needed):
        return (shape, classes), {}
    raise ModelError(
        f"the model function needs {', '.join(p.name for p in needed)}, which tersa cannot give; "
        f"write it to be called as {CALLS}"
    )


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _import(path: Path) -> ModuleType:
    """The user's file as a fresh module; its name carries its place, so that two files never mix."""
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file; write path/module.py:build")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, path: Path, name: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    if not own:
        raise ModelError(f"{path} defines no function; write one that can be called as {CALLS}")
    raise unknown(f"function of {path}:", name, own)


def _guarded(path: Path, call: Callable[[], Any]) -> Any:
    """The result of the user's code; what it raises becomes one line, the original kept as the cause."""
    try:
        return call()
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # a user's file may raise anything, or call exit()
        where = _line(path, error)
        raise ModelError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


def _line(path: Path, error: BaseException) -> str:
    """`file:line` of the last line of the user's file that led to the error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f"{path}:{lines[-1]}" if lines else str(path)


@contextmanager
def _importing_from(folder: Path) -> Generator[None]:
    """The folder first on the import path inside the block."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _neighbours(folder: Path, before: set[str]) -> list[Path]:
    """Files under the folder that were imported since `before`, sorted, without installed packages."""
    root = folder.resolve()
    new = [sys.modules[name] for name in set(sys.modules) - before if not name.startswith(PREFIX)]
    named = (getattr(module, "__file__", None) for module in new)
    files = {Path(file).resolve() for file in named if file}
    own = sorted(file for file in files if root in file.parents and "site-packages" not in file.parts)
    return [folder / file.relative_to(root) for file in own]
