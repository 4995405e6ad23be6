"""Text from outside made harmless to look at: no control characters, no reordering of what stands beside it.

Class names come from folder names, notes from error messages, commands from the shell. Escaping for HTML is
the template's work (it always does); this removes what escaping leaves alone: terminal escape sequences and
the Unicode characters that make a page or a terminal show text in another order than it is stored.

Example:
    >>> plain("cat\\x1b[31m"), plain("abc\\u202edef")
    ('cat�[31m', 'abc�def')
"""

from __future__ import annotations

import dataclasses
import unicodedata
from typing import Any, TypeVar

from tersa.records.results import ShrinkResult

V = TypeVar("V")

REPLACEMENT = "\ufffd"
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: str) -> str:
    """The text on one line, every control or reordering character replaced by U+FFFD.

    Letters of right-to-left scripts stay as they are; line breaks and tabs become spaces.
    """
    return "".join(_harmless(character) for character in text)


def short(text: str, length: int) -> str:
    """At most `length` characters, the end replaced by an ellipsis.

    >>> short("automobile", 6)
    'autom…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def cleaned(result: ShrinkResult) -> ShrinkResult:
    """The same result with `plain` applied to every text in it."""
    return ShrinkResult.model_validate(_walk(result.model_dump()))


def cleaned_view(value: V) -> V:
    """The same view, a dataclass of plain values, with `plain` applied to every text in it."""
    walked: Any = value
    if isinstance(value, str):
        walked = _walk(value)
    elif isinstance(value, tuple):
        walked = tuple(cleaned_view(each) for each in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: cleaned_view(getattr(value, f.name)) for f in dataclasses.fields(value)}
        walked = dataclasses.replace(value, **fields)
    return walked


def _harmless(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if character in _REORDERING or unicodedata.category(character) in ("Cc", "Cs"):
        return REPLACEMENT
    return character


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        # Most texts are long base64 pictures: nothing to look for in ASCII that can be printed.
        return value if value.isascii() and value.isprintable() else plain(value)
    if isinstance(value, dict):
        return {_walk(key): _walk(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item) for item in value]
    return value
