"""The command line: registers the verbs and turns errors into one line and an exit code.

Exit codes: 0 done, 1 the work failed, 2 wrong arguments, 3 done but a goal was missed, 130 interrupted.
Verbs import the library inside their bodies, so that `tersa --help` answers without loading torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tersa.cli import (
    adapt,
    bench,
    compare,
    data,
    doctor,
    export,
    predict,
    prune,
    report,
    reproduce,
    runs,
    search,
    shrink,
    study,
    train,
)
from tersa.cli import (
    run as recipe,
)
from tersa.cli.console import Kept
from tersa.errors import TersaError, UsageError

CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""click's ClickException: typer ships its own copy of click since 0.26 and does not export the class."""

EPILOG = "Start with: tersa shrink --data digits"

app = typer.Typer(
    name="tersa",
    help="Make a small neural network fit a machine: fewer bits, fewer channels, fewer milliseconds.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    shrink.shrink,
    prune.prune,
    adapt.adapt,
    train.train,
    bench.bench,
    export.export,
    predict.predict,
    report.report,
):
    app.command(epilog=sys.modules[verb.__module__].EPILOG)(verb)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.command(epilog=recipe.EPILOG)(recipe.run)
app.command(epilog=search.EPILOG)(search.search)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(study.app, name="study")
app.add_typer(reproduce.app, name="reproduce")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tersa {version('tersa')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (after any verb).")
    ] = False,
    tables: Annotated[
        str | None,
        typer.Option(
            "--tables",
            metavar="FILE",
            help="Write each printed table to a .csv, .md, .tex or .parquet (after any verb).",
        ),
    ] = None,
) -> None:
    """Options before the verb."""


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the `tersa` script."""
    # Threads that wait must sleep, not spin: on a busy machine spinning made small networks 20 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    sys.exit(execute([word for word in given if word != "--debug"], debug=debug))


def taken(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """A command line without `--tables FILE`, which every verb has, and the files.

    >>> taken(["compare", "a", "b", "--tables", "t.csv", "--tables=t.tex"])
    (['compare', 'a', 'b'], [PosixPath('t.csv'), PosixPath('t.tex')])

    Raises:
        UsageError: no file behind it.
    """
    left: list[str] = []
    paths: list[Path] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--tables":
            left.append(word)
            continue
        file = value if equals else next(words, "")
        if not file or file.startswith("-"):
            raise UsageError("--tables needs a file, such as --tables table.csv (or .md, .tex, .parquet)")
        paths.append(Path(file))
    return left, paths


def execute(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command line and return its exit code; a traceback is let through only with `debug`."""
    try:
        arguments, paths = taken(arguments)
        Kept.ask(paths)
        code = app(arguments, standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except CLICK_ERROR as error:
        return _refused(error)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted; finished steps are kept, --resume goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TersaError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1
    except Exception as error:  # the last line of defence: a user sees one line, not a stack
        if debug:
            raise
        print(f"error: unexpected {type(error).__name__}: {error}; --debug shows where", file=sys.stderr)
        return 1
    finally:
        Kept.ask([])
    return code if isinstance(code, int) else 0


def _refused(error: Any) -> int:
    """Arguments that typer could not read: its message in one line, and where to look."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return int(error.exit_code)
    verb = error.ctx.command_path if getattr(error, "ctx", None) else "tersa"
    words = " ".join(["tersa", *verb.split()[1:]])
    print(f"error: {error.format_message().rstrip('.')}; see {words} --help", file=sys.stderr)
    return int(error.exit_code)
