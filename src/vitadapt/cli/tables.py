"""Tables on the terminal. Used by the command line only."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_columns(
    head: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """A table on the standard output; columns named in `left` are left-aligned, those in `whole` never folded.

    Never cut when not on a terminal.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, 4 + sum(2 + max(map(len, column)) for column in zip(head, *body, strict=True))))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="left" if name in left else "right", overflow="fold", no_wrap=name in whole)
    for row in body:
        table.add_row(*map(Text, row))  # plain text: "[offline]" is not markup
    console.print(table, highlight=False)
