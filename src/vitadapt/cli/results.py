"""`vitadapt results`, `report` and `plot`: tables, pages and pictures of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from ..utils.errors import ConfigError
from . import options as opt
from .output import echo, echo_json, echo_result, number, print_columns

if TYPE_CHECKING:
    from ..benchmark.results.record import Record, RecordSummary
    from ..benchmark.results.store import Store

app = typer.Typer()
Figure = Literal["accuracy", "heatmap", "seeds", "learning", "reliability", "cost", "search"]

HEADS = {"nll": "NLL", "ece": "ECE", "brier": "Brier", "aurc": "AURC", "temperature": "T", "zero-shot": "as zero-shot"}
HEADS |= {"nll@T": "NLL at T", "ece@T": "ECE at T", "brier@T": "Brier at T"}
MEASURED = [
    "means over datasets of means over seeds, less is better; ECE in 15 bins of equal mass, NLL in nats",
    "T: temperature from training images held out in turn ('vitadapt calibrate'); never from the test images",
]
REMARKS = (
    "selection: what choosing the epoch by the test set adds (best on test minus last epoch of the same training)",
    "gap: best on test minus the corrected method under the honest protocol, on the cells that have both",
)


@opt.command(app, opt.BENCHMARK, "vitadapt results runs/smoke --format md")
def results(
    runs: opt.Runs,
    only: opt.Cells = None,
    format: opt.Form = "text",
    reliability: Annotated[bool, Option(help="Show how far probabilities can be trusted.")] = False,
    optimism: Annotated[bool, Option(help="Show what looking at the test set adds.")] = False,
    parts: Annotated[bool, Option(help="Show the scores on base and new classes, or on other data sets.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Print the table of all records in a folder: dataset x method, mean +- sd over seeds, average, PE."""
    format = "json" if as_json else format
    if optimism:
        print_optimism(opt.records_of(runs, only), format)
    elif parts:
        print_parts(opt.records_of(runs, only), format)
    elif reliability:
        print_reliability(runs, opt.records_of(runs, only), format)
    else:
        print_table(opt.summaries_of(runs, only), format)


def print_table(records: Sequence[RecordSummary], form: opt.TableFormat) -> None:
    """The table of `vitadapt results`."""
    from ..benchmark.analysis.groups import rows_of
    from ..report.table import columns_of, remarks_of, render

    if form == "json":
        print(render(records, form))
        return
    rows = rows_of(records)
    _print(*columns_of(rows), remarks_of(rows), form, left=("method", "backbone", "protocol"))


def _print(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    remarks: Sequence[str],
    form: opt.TableFormat,
    left: Sequence[str],
) -> None:
    """A table with remarks below it, in any format but JSON."""
    from ..report.table import format_table

    if form == "text":
        print_columns(head, body, left=left)
        echo(*remarks)
    else:
        echo(*format_table(head, body, remarks, form).split("\n"))


def print_reliability(runs: Path, records: Sequence[Record], form: opt.TableFormat) -> None:
    """The reliability of each method's probabilities, from stored predictions."""
    from ..benchmark.analysis.groups import varying
    from ..benchmark.post_hoc.temperature import reliability_of
    from ..benchmark.results.store import Store
    from ..report.table import random_weights, setting_text

    rows = reliability_of(records, Store(runs))
    if not rows:
        raise ConfigError(f"{runs}: no predictions are stored there")
    if form == "json":
        echo_json([{**asdict(row), "setting": dict(row.setting)} for row in rows])
        return
    settings = varying(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.measures))
    body = [
        [setting_text(n, dict(row.setting)[n]) for n in settings]
        + [row.method, str(len(row.runs)), *(number(row.measures.get(name), ".3f") for name in names)]
        for row in rows
    ]
    head = [*settings, "method", "runs", *(HEADS.get(name, name) for name in names)]
    _print(head, body, [*MEASURED, *random_weights(rows)], form, left=("method", *settings))


def print_parts(records: Sequence[Record], form: opt.TableFormat) -> None:
    """The scores of which each record's score is made. Raises ConfigError when no record has several."""
    from ..benchmark.analysis.groups import varying
    from ..benchmark.analysis.parts import parts_of_scores
    from ..report.figure import short_names
    from ..report.table import PARTS, random_weights, setting_text

    rows = parts_of_scores(records)
    if not rows:
        raise ConfigError("no record has several scores; run some with --test base-to-new")
    if form == "json":
        echo_json([{**asdict(row), "setting": dict(row.setting), "mean": row.mean, "sd": row.sd} for row in rows])
        return
    settings, names = varying(rows), short_names(list(dict.fromkeys(row.dataset for row in rows)))
    head = [*settings, "method", "dataset", "part", "runs", "mean", "sd"]
    body = [
        [setting_text(name, dict(row.setting)[name]) for name in settings]
        + [row.method, names[row.dataset], row.name, str(len(row.scores)), number(row.mean, ".1f")]
        + [number(row.sd, ".1f")]
        for row in rows
    ]
    _print(head, body, [PARTS, *random_weights(rows)], form, (*settings, "method", "dataset", "part"))


def print_optimism(records: Sequence[Record], form: opt.TableFormat) -> None:
    """How many points of each published-style number come from looking at the test set. Raises ConfigError."""
    from ..benchmark.analysis.selection_bias import optimism_of
    from ..report.figure import short_names
    from ..report.table import random_weights, setting_text

    rows = optimism_of(records)
    if not rows:
        from ..benchmark.protocols.registry import PROTOCOLS

        seeing = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.sees_test)
        raise ConfigError(f"no records of a protocol that sees the test set; those are {seeing}")
    if form == "json":
        echo_json([{**asdict(row), "setting": dict(row.setting), "selection": row.selection} for row in rows])
        return
    settings = [name for name in dict(rows[0].setting) if len({dict(row.setting)[name] for row in rows}) > 1]
    names = short_names(list(dict.fromkeys(row.dataset for row in rows)))
    head = [*settings, "method", "dataset", "runs", "best on test", "last epoch", "selection"]
    head += ["corrected method", "honest", "gap", "pairs"]
    body = [
        [setting_text(name, dict(row.setting)[name]) for name in settings]
        + [row.method, names[row.dataset], str(row.seeds), f"{row.best:.1f}", f"{row.last:.1f}"]
        + [f"{row.selection:+.1f}", row.corrected, number(row.honest, ".1f"), number(row.gap, "+.1f")]
        + [str(row.pairs)]
        for row in rows
    ]
    left = (*settings, "method", "dataset", "corrected method")
    _print(head, body, [*REMARKS, *random_weights(rows)], form, left)


@opt.command(app, opt.BENCHMARK, "vitadapt report runs/smoke")
def report(
    runs: opt.Runs,
    out: Annotated[Path | None, Option("--out", "-o", help="Default: report.html beside the records.")] = None,
    only: opt.Cells = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write one page with all pictures, tables, commands and versions; it opens in any browser, without a network."""
    from ..report.run_report import write_report

    store, records, damaged = _open(runs, only or [])
    path = write_report(records, store, out or runs / "report.html", damaged)
    echo_result(path, {"path": str(path)}, as_json)


@opt.command(app, opt.BENCHMARK, "vitadapt plot runs/smoke --figure heatmap --out heatmap.pdf")
def plot(
    runs: opt.Runs,
    out: Annotated[Path | None, Option("--out", "-o", help="A .png, .svg or .pdf file.")] = None,
    figure: Annotated[Figure, Option(help="What to draw.")] = "accuracy",
    only: opt.Cells = None,
    as_json: opt.AsJson = False,
) -> None:
    """Draw a picture for a paper: by default accuracy against the number of trainable parameters."""
    from ..report.plot import plot as draw

    store, records, _ = _open(runs, only or [])
    path = draw(records, out or runs / f"{figure}.png", figure, store.predictions)
    echo_result(path, {"path": str(path)}, as_json)


def _open(runs: Path, only: Sequence[str]) -> tuple[Store, list[Record], list[str]]:
    """The store, the records asked for, and a line for each damaged one, shown, too. Raises ConfigError."""
    from ..benchmark.results.store import Store

    store = Store(runs)
    records, damaged = store.records()
    return store, opt.readable(runs, records, damaged, only), damaged
