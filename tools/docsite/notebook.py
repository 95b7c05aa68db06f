"""Run a notebook for its saved outputs: really, in an empty folder, cell by cell, without those that say "not run"."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

LONGEST = 60_000  # characters of a saved output: a notebook is read on a phone, too


def run_notebook(path: Path, folder: Path, environment: dict[str, str]) -> str:
    """The notebook as JSON with the outputs of this run. Raises CellExecutionError when a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    os.environ.update(environment)
    client = NotebookClient(book, timeout=1800, resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel():
        for number, cell in enumerate(book.cells):
            if cell.cell_type == "code" and not cell.metadata.get("docs", {}).get("not run"):
                client.execute_cell(cell, number)
                cell.outputs = [_plain(output) for output in cell.outputs]
    for number, cell in enumerate([cell for cell in book.cells if cell.cell_type == "code"], 1):
        cell.execution_count = number if cell.get("outputs") else None
        cell.metadata.pop("execution", None)
    book.metadata.language_info = {"name": "python"}
    text = str(nbformat.writes(book, indent=1))
    if any(len(str(output)) > LONGEST for cell in book.cells for output in cell.get("outputs", ())):
        raise SystemExit(f"{path}: an output is longer than {LONGEST} characters; show less")
    return f"{text}\n" if not text.endswith("\n") else text


def _plain(output: Any) -> Any:
    """Without blanks at the ends of lines, and without the count, which only says in which order cells ran."""
    if output.output_type == "stream":
        output.text = "".join(f"{line.rstrip()}\n" for line in output.text.splitlines())
    if "execution_count" in output:
        output.execution_count = None
    return output
