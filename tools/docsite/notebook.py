"""Run a notebook for its saved outputs: really, in an empty folder, cell by cell, without those that say "not run"."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = re.compile(r"━|\d+ % (\d|-):")
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
                cell.outputs = settled(cell.outputs)
    for number, cell in enumerate([cell for cell in book.cells if cell.cell_type == "code"], 1):
        cell.execution_count = number if cell.get("outputs") else None
        cell.metadata.pop("execution", None)
    book.metadata.language_info = {"name": "python"}
    text = str(nbformat.writes(book, indent=1))
    if any(len(str(output)) > LONGEST for cell in book.cells for output in cell.get("outputs", ())):
        raise SystemExit(f"{path}: an output is longer than {LONGEST} characters; show less")
    return f"{text}\n" if not text.endswith("\n") else text


def settled(outputs: list[Any]) -> list[Any]:
    """What a reader sees in the end: streams joined, without the moving bars, colours and counts of the way there."""
    found: list[Any] = []
    for output in outputs:
        if "execution_count" in output:
            output.execution_count = None
        if output.output_type == "stream" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    for output in found:
        if output.output_type == "stream":
            lines = [_ESCAPE.sub("", line.rpartition("\r")[2]).rstrip() for line in output.text.splitlines()]
            text = "".join(f"{line}\n" for line in lines if not _BAR.search(line))
            output.text = re.sub(r"\n{3,}", "\n\n", text).lstrip("\n")
    return found


def printed(text: str) -> str:
    """The printed outputs of a notebook, without its pictures."""
    cells = json.loads(text)["cells"]
    return "".join("".join(output.get("text", ())) for cell in cells for output in cell.get("outputs", ()))
