"""What can go wrong, said in one line: what was asked, what was found, what is allowed, what to do.

Every error that a user can cause derives from `TersaError` and carries the exit code that the command
line returns for it. Anything else that is raised is a defect of tersa and keeps its traceback.

Example:
    >>> raise unknown("rule", "hsci", ["bp", "hsic"])
    Traceback (most recent call last):
    ...
    tersa.errors.UsageError: unknown rule 'hsci'; did you mean 'hsic'? known: bp, hsic
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterable


class TersaError(Exception):
    """Work that failed for a reason the user can act on (exit code 1).

    Attributes:
        found: the single faults, where several of one specification are reported together (`faults`).
    """

    exit_code = 1
    found: tuple[str, ...] = ()


class UsageError(TersaError):
    """Arguments that cannot be carried out; found before any work starts (exit code 2)."""

    exit_code = 2


class DataError(TersaError):
    """Input data that are missing, damaged or not what they claim to be."""


class ModelError(TersaError):
    """A model that cannot be built, loaded, traced or exported."""


class TargetError(TersaError):
    """A runtime that is missing, or does not offer what was asked of it."""


class Diverged(TersaError):
    """Training that ended in NaN or infinity; the history up to there is kept."""


def brief(error: BaseException) -> str:
    """What a foreign library said, fit to stand inside one line: its first line, at most 200 characters.

    >>> brief(ValueError("bad header\\nat byte 7")), brief(KeyError())
    ('bad header', 'KeyError')
    """
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
    text = "".join(letter if letter.isprintable() else " " for letter in line)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text that can be stored and printed, also where its name is no UTF-8.

    >>> shown("caf" + chr(0xDCE9)), shown("café")
    ('caf\\\\xe9', 'café')
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def utf8(path: str | os.PathLike[str], what: str) -> None:
    """Refuse a name that is no UTF-8 where it would be written into results.

    Raises:
        UsageError: it is none.
    """
    text = shown(path)
    if text != os.fspath(path):
        raise UsageError(f"{what} {text} has a name that is not UTF-8; rename it")


def plain_text(text: str) -> bool:
    """Whether a text may go to a terminal: one line, no control characters, no halves of a UTF-16 pair.

    >>> plain_text("猫 1/1"), plain_text("cat\\x1b[2J"), plain_text("\\ud800")
    (True, False, False)
    """
    return not any(unicodedata.category(letter) in UNSAFE for letter in text)


UNSAFE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of letters that no name has: controls, surrogates, line and paragraph separators."""
LONGEST = 200
"""Characters of a foreign message that are passed on; some decoders put the file's own bytes into theirs."""


def unknown(kind: str, asked: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is in no registry, with the closest match.

    Args:
        kind: what the name stands for, in the words of the command line (`model`, `rule`).
        asked: the name as the user typed it.
        known: every name that would have worked.
    """
    names = sorted(known)
    close = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return UsageError(f"unknown {kind} '{asked}'{hint} known: {', '.join(names)}")


def faults(what: str, found: list[str]) -> UsageError:
    """All faults of one specification together, so that a user mends them in one go."""
    if len(found) == 1:
        error = UsageError(f"{what}: {found[0]}")
    else:
        lines = "".join(f"\n  - {fault}" for fault in found)
        error = UsageError(f"{what}: {len(found)} faults{lines}")
    error.found = tuple(found)
    return error


def faults_of(error: TersaError) -> list[str]:
    """What an error of `faults` was made of, or its message where it is about one thing.

    >>> faults_of(faults("goals", ["size is 0", "macs is -1"])), faults_of(UsageError("no file x"))
    (['size is 0', 'macs is -1'], ['no file x'])
    """
    return list(error.found) or [str(error)]
