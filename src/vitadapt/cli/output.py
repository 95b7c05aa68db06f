"""What commands print. No control character of a file's or a class's name reaches the terminal."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..utils.errors import printable
from ..utils.progress import ProgressLines

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from ..utils.progress import Progress as Report


def echo(*lines: object) -> None:
    """Lines on the standard output."""
    for line in lines:
        print(printable(str(line)), flush=True)


def echo_json(value: Any) -> None:
    """JSON on the standard output; what is not ASCII is written as an escape."""
    print(json.dumps(value, indent=1))


def echo_json_list(values: Iterable[Any]) -> None:
    """The same of a list, each value as soon as it is there."""
    before = "["
    for value in values:
        print(before, json.dumps([value], indent=1)[2:-2], sep="\n", end="", flush=True)
        before = ","
    print("[]" if before == "[" else "\n]")


def echo_csv(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV table on the standard output, each row as soon as it is there."""
    for row in chain([heads], rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        echo(*text.getvalue().splitlines())


def echo_result(text: object, value: Any, as_json: bool) -> None:
    """One line for people, or the same as JSON."""
    if as_json:
        echo_json(value)
    else:
        echo(text)


def number(value: float | None, form: str = ".2f") -> str:
    """A number of a table; a dash where there is none."""
    return "-" if value is None else format(value, form)


def complain(text: str, *more: str) -> None:
    """One line on the standard error output, and more below it."""
    print(f"vitadapt: {printable(text)}", *map(printable, more), sep="\n", file=sys.stderr)


def print_columns(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    left: Sequence[str] = (),
    whole: Sequence[str] = (),
    header: bool = True,
) -> None:
    """A table on the standard output; columns named in `left` are left-aligned, those in `whole` never folded.

    Never cut when not on a terminal. header: print the head, too.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = [[printable(cell) for cell in row] for row in body]
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, 4 + sum(2 + max(map(len, column)) for column in zip(head, *body, strict=True))))
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for name in head:
        align: Any = "left" if name in left else "right"
        table.add_column(Text(printable(name)), justify=align, overflow="fold", no_wrap=name in whole)
    for row in body:
        table.add_row(*map(Text, row))  # plain text: "[offline]" is not markup
    console.print(table, highlight=False)


@contextmanager
def progress_bar(*columns: ProgressColumn) -> Iterator[tuple[Report, Callable[[str], None]]]:
    """A bar on the standard error output (none without a terminal), and a printer of lines above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    name, shares = TextColumn("{task.description}", markup=False), TextColumn("{task.percentage:.0f} %")
    columns = (name, BarColumn(bar_width=30), *(columns or [shares]), TimeElapsedColumn(), TimeRemainingColumn())
    shown, own = console.is_terminal, sys.stdout.isatty()  # what is printed into a file must not go to the terminal
    with Progress(*columns, console=console, transient=True, disable=not shown, redirect_stdout=own) as bars:
        task, labels = bars.add_task("reading", total=None), [""]

        def message(line: str) -> None:
            console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

        lines = ProgressLines(message)

        def report(label: str, done: int, total: int) -> None:
            if not console.is_terminal:
                return lines(label, done, total)
            if label != labels[0]:
                labels[0] = label
                bars.reset(task, total=total or None, description=printable(label))
            return bars.update(task, completed=done)

        yield report, message
