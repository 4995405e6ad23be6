"""The code of a documentation page: what its fences hold, how they are run, how output is compared.

    ```python title="net.py"     written to a file of that name; so are ```toml and ```text with a title
    ```python                    run as it stands; with >>> as a doctest, which gives what it says
    ```console                   each line `$ command` is run; the lines below are its standard output

All of a page runs in one temporary folder, from top to bottom. In console output `...` stands for anything,
white space and ruled lines do not count, and numbers are equal unless a note before the fence allows more:

    <!-- snippet: within=2% -->            numbers of at least 1 may differ by 2 % of the documented one
    <!-- snippet: slow 3 minutes -->       run by the slow tier alone; `slow 3 minutes within=2%` for both
    <!-- snippet: not-run needs a GPU -->  not run, and why

`--8<-- "file"` inside a fence stands for that file's text, as in the site. A failing command ends the page,
unless the next command is `echo $?`.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tersa.cli.main import execute

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+)(?P<language>\w*)(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)(?P=ticks)$",
    re.M | re.S,
)
NOTE = re.compile(r"<!-- snippet: (?P<kind>within|slow|not-run)[= ]?(?P<text>.*?) ?-->\n\s*$")
TITLE = re.compile(r'title="([^"]+)"')
INCLUDE = re.compile(r'^--8<-- "([^"]+)"$', re.M)
NUMBER = re.compile(r"\d+(?:[\d,]*\d)?(?:\.\d+)?")
RULED = re.compile(r"^[\s\u2500-]+$", re.M)
LANGUAGES = ("python", "console", "toml", "text", "json", "c", "")
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@dataclass(frozen=True)
class Snippet:
    """One fence of a page.

    Attributes:
        language: as written, `python`, `console`, ...
        title: name of the file that it is, or empty.
        body: its text, with files filled in.
        line: where it stands in the page.
        kind: `within`, `slow` or `not-run` of the note before it, or empty.
        note: what stands behind that.
    """

    language: str
    title: str
    body: str
    line: int
    kind: str = ""
    note: str = ""

    @property
    def runs(self) -> bool:
        """It does something."""
        return self.language in ("python", "console") and self.kind != "not-run"

    @property
    def tolerance(self) -> float:
        """Share of a documented number that a printed one may be off."""
        allowed = re.search(r"within=([\d.]+)%", f"{self.kind}={self.note}")
        return float(allowed[1]) / 100 if allowed else 0.0


def snippets(text: str) -> list[Snippet]:
    """The fences of a page, in order."""
    found: list[Snippet] = []
    for match in FENCE.finditer(text):
        title = TITLE.search(match["info"])
        note = NOTE.search(text[: match.start()])
        body = re.sub(f"^{match['indent']}", "", match["body"], flags=re.M)
        found.append(
            Snippet(
                match["language"],
                title[1] if title else "",
                INCLUDE.sub(lambda file: (ROOT / file[1]).read_text(encoding="utf-8").rstrip("\n"), body),
                text[: match.start()].count("\n") + 1,
                note["kind"] if note else "",
                note["text"] if note else "",
            )
        )
    return found


@dataclass
class Page:
    """A page being run.

    Attributes:
        name: of the page, for messages.
        folder: where its commands run.
        shell: hand each command to a shell, as a reader does; else tersa's own are run in this process.
        names: what its doctests have defined.
        code: exit code of the last command.
    """

    name: str
    folder: Path
    shell: bool = False
    names: dict[str, object] = field(default_factory=dict[str, object])
    code: int = 0

    def run(self, snippet: Snippet) -> None:
        """Run one fence, and compare what it prints."""
        if snippet.title:
            place = self.folder / snippet.title
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(snippet.body, encoding="utf-8")
        elif snippet.language == "console":
            self._console(snippet)
        elif ">>>" in snippet.body:
            self._doctest(snippet)
        else:
            done = self._process([sys.executable, "-c", snippet.body])
            assert done.returncode == 0, f"{self.name}:{snippet.line}\n{done.stderr}"

    def _console(self, snippet: Snippet) -> None:
        steps = list(commands(snippet.body))
        for index, (command, expected) in enumerate(steps):
            printed, errors = self._command(command)
            if command != "echo $?":
                looked_at = index + 1 < len(steps) and steps[index + 1][0] == "echo $?"
                assert self.code == 0 or looked_at, f"{self.name}: {command}\n{printed}{errors}"
            fault = difference(expected, printed, snippet.tolerance)
            assert not fault, f"{self.name}: {command}\n{fault}\nprinted:\n{printed}{errors}"

    def _command(self, command: str) -> tuple[str, str]:
        if command == "echo $?":
            return str(self.code), ""
        plain = command.startswith("tersa ") and not re.search(r"[|<>;&$*]", command)
        if plain and not self.shell:
            out, errors = io.StringIO(), io.StringIO()
            streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors)
            with contextlib.chdir(self.folder), streams[0], streams[1]:
                self.code = execute(shlex.split(command, comments=True)[1:])
            return out.getvalue(), errors.getvalue()
        done = self._process(["bash", "-c", command])
        self.code = done.returncode
        return done.stdout, done.stderr

    def _process(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def _doctest(self, snippet: Snippet) -> None:
        test = doctest.DocTestParser().get_doctest(
            snippet.body, self.names, self.name, self.name, snippet.line
        )
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        out = io.StringIO()
        with contextlib.chdir(self.folder):
            failed = runner.run(test, out=out.write, clear_globs=False).failed
        self.names = test.globs
        assert not failed, out.getvalue()


def commands(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a console fence with the output that is documented; a line ending in \\ goes on."""
    for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
        lines = part.splitlines()
        taken = 1
        while lines[taken - 1].endswith("\\"):
            taken += 1
        command = " ".join(line.removesuffix("\\").strip() for line in lines[:taken])
        yield command, "\n".join(lines[taken:])


def difference(expected: str, printed: str, tolerance: float) -> str:
    """What is wrong with an output, or an empty text; nothing is compared where nothing is documented.

    Pieces between `...` are looked for one after the other, each where it first fits.

    >>> difference("a 10 b ... c", "a  10.4\\n b 77 c", 0.05)
    ''
    >>> difference("a 10", "a 11", 0.05)
    '10 is documented, 11 was printed'
    >>> difference("tersa 0.1.0", "tersa 0.1.0", 0), difference("a 10", "a 0.10", 0)
    ('', '10 is documented, 0.10 was printed')
    >>> difference("a 10 ... c", "b 10", 0.05)
    "this was not printed: 'a 10'"
    """
    expected, printed = (" ".join(RULED.sub("", text).split()) for text in (expected, printed))
    if not expected:
        return ""
    pieces = [piece.strip() for piece in expected.split("...")]
    start = 0
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        fault = f"this was not printed: {piece!r}" if piece else ""
        for match in re.compile(_pattern(piece) + "$" * last).finditer(printed, start) if piece else ():
            if index == 0 and match.start():
                break
            fault = _off(piece, match, tolerance)
            if not fault:
                start = match.end()
                break
        if fault:
            return fault
    return ""


def _pattern(piece: str) -> str:
    """A documented text with a group for each number."""
    parts = re.split(f"({NUMBER.pattern})", piece)
    found: list[str] = []
    for before, part in zip(["", *parts], parts, strict=False):
        inside = before.endswith((".", ","))  # 0.1.0 goes on behind 0.1
        start = r"(?<!\d)" if inside else r"(?<![\d.,])"
        found.append(f"{start}({NUMBER.pattern})" if NUMBER.fullmatch(part) else re.escape(part))
    return "".join(found)


def _off(piece: str, match: re.Match[str], tolerance: float) -> str:
    """The first number that is off, in words, or an empty text."""
    for want, got in zip(NUMBER.findall(piece), match.groups(), strict=True):
        a, b = (float(text.replace(",", "")) for text in (want, got))
        if abs(a - b) > tolerance * max(abs(a), 1.0):
            return f"{want} is documented, {got} was printed"
    return ""
