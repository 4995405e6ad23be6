"""Views of every page whose texts are all hostile: filled in by their types, a new field too."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

MANY = 3
"""Entries of every sequence: enough for a line through points."""


def filled(kind: Any, text: str) -> Any:
    """A value of a type with `text` wherever a text can stand.

    >>> filled(tuple[str, ...], "<b>")
    ('<b>', '<b>', '<b>')
    """
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is str or kind is Any:
        return text
    if kind is bool:
        return True
    if kind is int:
        return 3
    if kind is float:
        return 1.5
    if kind is Path:
        return Path(text)
    if kind is type(None):
        return None
    if origin is Literal:
        return inside[0]
    if origin in (typing.Union, types.UnionType):
        return filled(next(each for each in inside if each is not type(None)), text)
    if origin is tuple and (len(inside) != 2 or inside[1] is not Ellipsis):
        return tuple(filled(each, text) for each in inside)
    if origin in (tuple, list, Sequence) or origin is typing.get_origin(Sequence[int]):
        return tuple(filled(inside[0], text) for _ in range(MANY))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, int]):
        return {filled(inside[0], text): filled(inside[1], text)}
    if hasattr(kind, "model_fields"):
        hints = typing.get_type_hints(kind)
        return kind.model_construct(**{name: filled(hints[name], text) for name in kind.model_fields})
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{each.name: filled(hints[each.name], text) for each in dataclasses.fields(kind)})  # type: ignore[operator] - a class, as the fields say
    raise TypeError(f"no value of {kind}")
