"""The command line: the commands, and what happens around each of them.

Heavy modules are imported inside the commands, so that --help is instant.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer import Option

from ..utils.plugins import FILES, load_plugins
from . import (
    analysis,
    benchmark,
    classifier,
    data,
    doctor,
    export,
    features,
    language,
    leaderboard,
    lookup,
    results,
    serve,
    suggest,
    update,
)
from . import options as opt
from .exit_status import INTERRUPTED, exit_status, prepare_streams
from .output import complain, echo

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
for part in (
    classifier,
    update,
    features,
    suggest,
    language,
    export,
    serve,
    benchmark,
    results,
    analysis,
    leaderboard,
    lookup,
    doctor,
):
    app.add_typer(part.app)
app.add_typer(data.app, name="data", rich_help_panel=opt.LOOK_UP)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        echo(f"vitadapt {version('vitadapt')}")
        raise typer.Exit


@app.callback()
def options(
    plugin: Annotated[
        list[Path] | None, Option(help=f"A file with your own methods; repeatable. Or set {FILES}.")
    ] = None,
    threads: Annotated[
        int | None, Option(min=1, help="Threads of the arithmetic (default: one for every core).")
    ] = None,
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Adapt a pretrained vision transformer to your images by training a few thousand numbers."""
    if threads:
        os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}  # read when torch loads
    if plugin:
        load_plugins(plugin)


_COMMON = ("--plugin", "--threads")  # options of all commands


def _common_first(arguments: list[str]) -> list[str]:
    """The options of all commands, which may stand anywhere before a `--`, moved in front of the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    first: list[str] = []
    rest: list[str] = []
    words = iter(arguments[:end])
    for word in words:
        if word in _COMMON:
            first += [word, *filter(None, [next(words, None)])]
        else:
            (first if word.startswith(tuple(f"{name}=" for name in _COMMON)) else rest).append(word)
    return [*first, *rest, *arguments[end:]]


def main() -> NoReturn:
    """Run the command line. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 output cut off."""
    prepare_streams()
    try:
        status = app(_common_first(sys.argv[1:]), standalone_mode=False) or 0  # typer.Exit becomes the value
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - raised again when it is a bug
        status = exit_status(error)
    if status == INTERRUPTED:
        complain("interrupted; finished work is kept, the same command goes on from there")
    sys.exit(status)


if __name__ == "__main__":
    main()
