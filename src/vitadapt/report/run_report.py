"""One page that shows all runs of a folder. It needs no network, no server and no other file.

Written with jinja2, which escapes every name; the pictures are matplotlib's SVG, so that they are those of the papers;
sorting and filtering is a page of plain JavaScript, allowed by its digest alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmark.analysis.groups import VARYING, rows_of, varying
from ..benchmark.commands import commands_of
from ..benchmark.results.record import Record
from ..benchmark.results.store import Store
from ..utils.errors import ConfigError
from ..utils.files import read_bounded, write_atomic
from .figure import clean
from .figure_data import Subject
from .html_page import drawn, render
from .plot import FIGURES
from .table import columns_of, remarks_of, setting_text

FILTERS = ("method", "dataset", *VARYING, "status")
MOST_COMMANDS = 500


def write_report(records: Sequence[Record], store: Store, path: Path, damaged: Sequence[str] = ()) -> Path:
    """Write the page about `records` of `store` to `path`; `damaged` are lines about records that could not be read.

    Raises ConfigError when there is nothing to show, MissingPackage, and StorageError when it cannot be written.
    """
    if not records:
        raise ConfigError(f"{store.root}: no records yet")
    write_atomic(path, page(records, store, damaged).encode("utf-8", "xmlcharrefreplace"))
    return path


def page(records: Sequence[Record], store: Store, damaged: Sequence[str] = ()) -> str:
    """The page as text. Raises MissingPackage."""
    subject = Subject(records, store.predictions)
    values = {
        "title": clean(store.root.resolve().name, 60),
        "head": _headline(records, subject),
        "problems": [*damaged, *_failures(store)],
        "filters": _filters(records, subject),
        "pictures": drawn(make(subject) for make in FIGURES.values()),
        "results": _results(records, subject),
        "runs": _runs(subject),
        "commands": commands_of(record.config for record in records)[:MOST_COMMANDS],
        "versions": _versions(records),
    }
    return render("page.html", ["page.css"], ["common.js", "page.js"], values)


def _headline(records: Sequence[Record], subject: Subject) -> dict[str, Any]:
    """Counts and dates for the top of the page."""
    created = sorted(record.created for record in records if record.created)
    return {
        "runs": len(records),
        "methods": len({record.method for record in records}),
        "datasets": len(subject.short),
        "settings": len({group.setting for group in subject.groups}),
        "seeds": len({record.config["seed"] for record in records}),
        "diverged": sum(record.score is None for record in records),
        "first": created[0][:10] if created else "",
        "last": created[-1][:10] if created else "",
        "common": [(name.replace("_", " "), setting_text(name, records[0].config.get(name))) for name in VARYING],
        "varying": [name.replace("_", " ") for name in subject.varying],
    }


def _failures(store: Store) -> list[str]:
    """The last line of the trace of every run that stopped with an error."""
    failures = []
    for path in sorted((store.root / "failures").glob("*.txt")):
        try:
            lines = read_bounded(path).decode("utf-8", "replace").strip().splitlines()
        except OSError as error:  # what went wrong once must not keep the rest from being shown
            lines = [f"its trace cannot be read ({error.strerror})"]
        failures.append(f"{path.stem} failed: {clean(lines[-1], 300) if lines else 'no trace'}")
    return failures


def _about(record: Record, subject: Subject) -> dict[str, str]:
    """Filter -> value of a record."""
    settings = {name: setting_text(name, record.config.get(name)) for name in VARYING}
    return {
        "method": subject.called[record.digest],
        "dataset": record.config["dataset"],
        **settings,
        "status": record.status,
    }


def _filters(records: Sequence[Record], subject: Subject) -> list[dict[str, Any]]:
    """Everything by which runs differ: its values, how they are shown, and how many runs have each."""
    known = [_about(record, subject) for record in records]
    filters = []
    for name in FILTERS:
        counts = Counter(about[name] for about in known)
        if len(counts) > 1:
            shown = subject.short if name == "dataset" else {}
            values = [(value, clean(shown.get(value, value), 48), counts[value]) for value in counts]
            filters.append({"name": name, "title": name.replace("_", " "), "values": values})
    return filters


def _results(records: Sequence[Record], subject: Subject) -> dict[str, Any]:
    """The table of results; what filters know about its rows and columns."""
    rows = rows_of(records)
    head, body = columns_of(rows)
    datasets = {shown: name for name, shown in subject.short.items()}
    known = [{"method": row.method, **{n: setting_text(n, v) for n, v in row.setting}} for row in rows]
    words = {"method", "backbone", "protocol", "precision"}
    columns = [{"text": text, "dataset": datasets.get(text, ""), "word": text in words} for text in head]
    return {"columns": columns, "rows": list(zip(known, body, strict=True)), "remarks": remarks_of(rows)}


def _runs(subject: Subject) -> dict[str, Any]:
    """All runs for the script: one list per run in the order of `columns`, and what its details show."""
    settings = varying(subject.groups)
    numbers = {"seed": 0, "score": 2, "PE": 2, "trained": 0, "seconds": 1, "memory MB": 0}  # digits after the point
    columns = ["dataset", "method", *(name.replace("_", " ") for name in settings), *numbers, "status"]
    rows = []
    for record in (record for group in subject.groups for record in group.records):
        about = _about(record, subject)
        cells: list[Any] = [subject.short[about["dataset"]], about["method"], *(about[name] for name in settings)]
        cells += [record.config["seed"], _rounded(record.score, 2), _rounded(record.pe, 2)]
        cells += [record.parameters.get("trained"), _rounded(sum(record.seconds.values()), 1)]
        rows.append(
            {"about": about, "cells": [*cells, round(record.peak_memory_mb), record.status], **_details(record)}
        )
    return {"columns": columns, "numbers": numbers, "rows": rows}


def _details(record: Record) -> dict[str, Any]:
    chosen = {name: value for name, value in record.chosen.items() if not isinstance(value, (list, dict))}
    return {
        "record": record.digest,
        "command": "\n".join(commands_of([record.config])),
        "chosen": _listed(chosen),
        "time": _listed({name: f"{value:.1f} s" for name, value in record.seconds.items()}),
        "notes": record.notes,
        "versions": _listed(record.versions),
    }


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _versions(records: Sequence[Record]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Every version in the records, with the number of runs that had it."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in record.versions.items():
            counts.setdefault(name, Counter())[value] += 1
    return [(name, counts[name].most_common()) for name in counts]
