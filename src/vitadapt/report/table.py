"""Records -> a table: one row per method (and whatever else varies), one column per dataset, average, PE, cost."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from tabulate import tabulate

from ..benchmark.analysis.groups import InSetting, TableRow, rows_of, varying
from ..benchmark.results.record import DAGGER, RecordSummary
from ..metrics.scores import PE_PARAMETERS, PPT_PARAMETERS
from .figure import short_names

PARTS = "score: the harmonic mean of base and new, or the mean over the other data sets"
"""What the score is of a record with a field `test`."""
Format = Literal["text", "md", "csv", "latex", "json"]


def columns_of(rows: Sequence[TableRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells as text; a setting is a column only when it varies between rows."""
    settings = varying(rows)
    datasets = list(rows[0].cells) if rows else []
    average = ["average"] if len(datasets) > 1 else []
    head = [*settings, "method", "trained", *short_names(datasets).values(), *average, "PE", "PPT", "seconds"]
    body = []
    for row in rows:
        shown = [setting_text(name, dict(row.setting)[name]) for name in settings]
        scores = [row.cells[dataset].text() or "-" for dataset in datasets]
        mean = [_number(row.average)] if average else []
        trained = "-" if row.trained is None else f"{row.trained:,.0f}"
        costs = [_number(row.pe), _number(row.ppt), f"{row.seconds:.0f}" if row.seconds else "-"]
        body.append([*shown, row.method, trained, *scores, *mean, *costs])
    return head, body


def remarks_of(rows: Sequence[TableRow]) -> list[str]:
    """The lines below a table: what PE, daggers and scores of parts mean, splits that are not the benchmark's."""
    native = sorted({name for row in rows for name, cell in row.cells.items() if "native" in cell.splits})
    remarks = []
    if any(row.pe is not None for row in rows):
        remarks.append(f"PE = score exp(-log10(trained / {PE_PARAMETERS:.0e} + 1)), PPT with {PPT_PARAMETERS:.0e}")
    if any(dict(row.setting).get("test") for row in rows):
        remarks.append(f"{PARTS}; 'vitadapt results FOLDER --parts' shows each")
    remarks += [f"{DAGGER} {caveat}" for caveat in sorted({row.caveat for row in rows if row.caveat})]
    if native:
        remarks.append(
            f"native split, not the benchmark's, so that published scores do not compare: {', '.join(native)}"
        )
    return [*remarks, *_changed(rows), *random_weights(rows)]


def random_weights(rows: Sequence[InSetting]) -> list[str]:
    """What to say below scores of backbones that were never trained."""
    names = sorted({name for row in rows if (name := str(dict(row.setting)["backbone"])).startswith("random:")})
    return [f"{', '.join(names)}: random weights, so that these scores mean nothing"] if names else []


def _changed(rows: Sequence[TableRow]) -> list[str]:
    """A line per dataset whose images were not always the same, such as a folder that lost one meanwhile."""
    tested, drawn = defaultdict[str, set[tuple[str, int]]](set), defaultdict[str, dict[str, set[str]]](dict)
    for row in rows:
        for dataset, cell in row.cells.items():
            other = dict(row.setting).get("test")
            name = f"{dataset}, {other}" if other else dataset
            tested[name] |= cell.tested
            for draw, digest in cell.drawn:
                drawn[name].setdefault(draw, set()).add(digest)
    found = [
        f"{name}: tested on {' and '.join(str(count) for _, count in sorted(sets, key=lambda s: s[1]))} images"
        for name, sets in tested.items()
        if len(sets) > 1
    ]
    for name, draws in drawn.items():
        if changed := sum(len(sets) > 1 for sets in draws.values()):
            found.append(f"{name}: {changed} of {len(draws)} draws of training images differ between methods")
    return [
        f"{line}, not always the same, so that these scores do not compare; run again what is not on the right ones"
        for line in found
    ]


def setting_text(name: str, value: Any) -> str:
    """A value of a setting as people read it: no limit of shots is all of them, no size is the backbone's own."""
    if value is None:
        return "all" if name == "shots" else "own"  # size, test images
    return str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def render(records: Sequence[RecordSummary], form: Format) -> str:
    """The table as Markdown, CSV, LaTeX or JSON text."""
    rows = rows_of(records)
    if form == "json":
        return json.dumps([_plain(row) for row in rows], indent=1)
    head, body = columns_of(rows)
    return format_table(head, body, remarks_of(rows), form)


def format_table(head: Sequence[str], body: Sequence[Sequence[str]], remarks: Sequence[str], form: Format) -> str:
    """A table as Markdown, CSV or LaTeX text."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *body])
        return text.getvalue()
    if form == "latex":
        first, *lines = (f"{' & '.join(row)} \\\\".replace("±", r"$\pm$") for row in (head, *body))
        rules = [r"\toprule", first, r"\midrule", *lines, r"\bottomrule"]
        tabular = [f"\\begin{{tabular}}{{{'l' * len(head)}}}", *rules, r"\end{tabular}", ""]
        return "\n".join([*tabular, *(f"% {remark}" for remark in remarks)])
    return "\n\n".join([tabulate(body, head, "pipe", disable_numparse=True), *remarks])


def _plain(row: TableRow) -> dict[str, Any]:
    cells = {
        name: {
            "mean": cell.mean,
            "sd": cell.sd,
            "seeds": len(cell.scores),
            "diverged": cell.diverged,
            "split": ", ".join(cell.splits),
        }
        for name, cell in row.cells.items()
    }
    costs = {"trained": row.trained, "average": row.average, "pe": row.pe, "ppt": row.ppt, "seconds": row.seconds}
    costs |= {"pe_parameters": PE_PARAMETERS, "ppt_parameters": PPT_PARAMETERS}
    return {**dict(row.setting), "method": row.method, "datasets": cells, **costs, "caveat": row.caveat}
