"""The command line: parse, call, print. Heavy modules are imported inside the commands, so that --help is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..utils.errors import ConfigError, VitadaptError
from . import classifier, data, doctor, export, leaderboard, plan, report, serve
from . import results as statistics
from .exit_status import INTERRUPTED, open_streams, status_of
from .options import AsJson, Cache, DataRoot, Device, NoCache, Out, complain, environment_of, records_of, summaries_of

if TYPE_CHECKING:
    from ..benchmark.config import RunConfig
    from ..benchmark.parallel.executor import Hire, Outcome
    from ..benchmark.results.record import Record, RecordSummary
    from ..training.features import Environment


app = typer.Typer(
    help="Adapt a pretrained vision transformer to your images by training a few thousand numbers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(classifier.app)
app.add_typer(data.app, name="data")
app.add_typer(leaderboard.app)
app.add_typer(statistics.app)
app.add_typer(report.app)
app.add_typer(plan.app)
app.add_typer(export.app)
app.add_typer(doctor.app)
app.add_typer(serve.app)

Download = Annotated[bool, typer.Option("--download", help="Fetch named datasets that are missing into --data-root.")]


@app.command()
def run(
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A name, a folder of class folders, or a CSV file.")],
    method: Annotated[
        list[str], typer.Option("--method", "-m", help="A method, e.g. lora or lora:rank=8,targets=q+k+v; repeatable.")
    ],
    backbone: Annotated[str, typer.Option("--backbone", "-b")] = "dinov2-s14-offline",
    shots: Annotated[str, typer.Option(help="Labelled images per class, or 'all'.")] = "5",
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of sample, initialisation and order; repeatable.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels; a multiple of the patch size.")] = None,
    protocol: Annotated[str, typer.Option(help="How hyper-parameters are found.")] = "fixed",
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    recipe: Annotated[str, typer.Option(help="Changes to the protocol's recipe, e.g. lr=0.01,epochs=20.")] = "",
    head: Annotated[
        list[str] | None, typer.Option(help="How the head starts: zero, text, or text:scale=pretrained; repeatable.")
    ] = None,
    class_names: Annotated[
        str | None, typer.Option(help="A file of class names in words: one per line, or JSON {class: name}.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="A sentence with {} for the class name; repeatable.")
    ] = None,
    knowledge: Annotated[
        str,
        typer.Option(help="What is known of the classes: path=FILE.json, or path=DIR,dictionary=wiktionary,gpt3=5."),
    ] = "",
    subset: Annotated[
        Path | None, typer.Option(help="Train on the images of this manifest ('vitadapt data subset') instead.")
    ] = None,
    out: Out = Path("runs"),
    cache: Cache = None,
    no_cache: NoCache = False,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
) -> None:
    """Adapt a backbone to a dataset, score it once on the test images, and record everything."""
    from ..benchmark.sweep import expand
    from ..utils.fields import parse_fields

    axes: dict[str, Any] = {"backbone": backbone, "dataset": dataset, "method": method, "protocol": protocol}
    axes |= {"shots": _shots(shots), "seed": seed or [0], "precision": precision}
    if image_size is not None:
        axes["image_size"] = image_size
    if head:
        axes["head"] = head
    if subset is not None:
        axes |= _subset_axes(subset)
    prompts: dict[str, Any] = {"class_names": class_names, "templates": template, "knowledge": parse_fields(knowledge)}
    prompts = {name: value for name, value in prompts.items() if value}
    environment = replace(environment_of(cache, no_cache, data_root, device), subset=subset)
    cells = expand(axes, parse_fields(recipe), prompts)
    if download:
        data.fetch_missing(cells, out, data_root)
    _execute(cells, out, environment)


@app.command()
def bench(
    recipe: Annotated[Path, typer.Argument(help="A benchmark file (TOML), or a name of 'vitadapt list recipes'.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Only these cells, e.g. shots=5 or dataset=dtd; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: runs/NAME of the file.")] = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    data_root: DataRoot = None,
    download: Download = False,
    device: Device = "auto",
    plot: Annotated[bool, typer.Option(help="Also write accuracy.png beside the records.")] = False,
    workers: Annotated[int, typer.Option(help="Processes on this machine, each with its share of cores and GPUs.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per cell (default: the cores shared out; on a cluster 1).")
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: only part i of n equal parts of the cells, for job arrays.")] = "",
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster (host:6379, auto), or local.")] = "",
    gpus_per_cell: Annotated[
        float | None, typer.Option(help="With --ray: GPUs per cell; 0.25 packs four on one.")
    ] = None,
) -> None:
    """Run every cell of a benchmark that is not recorded yet, and print the table."""
    from ..benchmark.parallel.launch import crew_for
    from ..benchmark.parallel.schedule import shard as part_of
    from ..benchmark.sweep import read_bench, select

    out = out or Path("runs") / recipe.stem
    cells = select(read_bench(recipe), only or [])
    environment = environment_of(cache, no_cache, data_root, device)
    hire = crew_for(workers, threads, ray, gpus_per_cell, environment.setting.device)
    cells = part_of(cells, shard) if shard else cells
    if download:
        data.fetch_missing(cells, out, data_root)
    _execute(cells, out, environment, plot, hire)


@app.command()
def results(
    runs: Annotated[Path, typer.Argument(help="A folder made by run or bench.")],
    format: Annotated[str, typer.Option("--format", "-f", help="text, md, csv, latex or json.")] = "text",
    reliability: Annotated[bool, typer.Option(help="How far the probabilities can be trusted, instead.")] = False,
    optimism: Annotated[
        bool, typer.Option(help="How much published-style numbers owe to looking at the test set, instead.")
    ] = False,
) -> None:
    """Print the table of all records in a folder: dataset x method, mean +- sd over seeds, average, PE."""
    from ..report.table import render

    if format not in ("text", "md", "csv", "latex", "json"):
        raise ConfigError(f"unknown format {format!r}; choose text, md, csv, latex or json")
    if optimism:
        statistics.print_optimism(records_of(runs), format)  # type: ignore[arg-type]
    elif reliability:
        statistics.print_reliability(runs, records_of(runs), format)  # type: ignore[arg-type]
    elif format == "text":
        _print_table(summaries_of(runs))
    else:
        print(render(summaries_of(runs), format))  # type: ignore[arg-type]


@app.command()
def count(
    backbone: Annotated[str, typer.Option("--backbone", "-b")] = "random:clip-vit-b32",
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Default: all methods.")] = None,
    audit: Annotated[bool, typer.Option(help="Class every trainable tensor as live, dead, stuck or shared.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count what each method trains on a backbone, next to the published figures."""
    from ..benchmark import parameter_counts

    rows = parameter_counts.count_methods(backbone, method or [])
    reports = parameter_counts.audit_methods(backbone, [row.method for row in rows if row.applies]) if audit else {}
    if as_json:
        print(json.dumps(parameter_counts.plain(rows, reports), indent=1))
    else:
        _print_counts(rows, reports)
    if parameter_counts.unsound(reports):
        raise typer.Exit(1)


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="methods, backbones, datasets, protocols or recipes.")],
    as_json: AsJson = False,
) -> None:
    """List what can be named."""
    from ..utils.registry import unknown
    from .listing import LISTINGS

    if what not in LISTINGS:
        raise unknown("list", what, LISTINGS)
    rows = LISTINGS[what]()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _print_rows(rows)


def _subset_axes(path: Path) -> dict[str, Any]:
    """What a manifest says of a configuration; its own shots are those that the record shows."""
    from ..data.sampling.manifests import manifest_digest, read_manifest

    manifest = read_manifest(path)
    return {"subset": manifest_digest(manifest), "shots": manifest.get("shots", "all")}


def _shots(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"--shots takes a whole number or 'all', not {text!r}") from error


def _execute(
    configs: list[RunConfig], out: Path, environment: Environment, plot: bool = False, hire: Hire | None = None
) -> None:
    """Run the cells under a progress bar, print the table, and leave with status 1 when a cell failed."""
    from ..benchmark.parallel.executor import Alone
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import check_names, run_bench
    from .progress import BenchDisplay

    check_names(configs)
    with BenchDisplay() as display:
        outcomes = run_bench(configs, Store(out), environment, display, hire or Alone)
    records = [outcome.record for outcome in outcomes if outcome.record]
    if records:
        _print_table(records)
        print(f"\nrecords, predictions and adapters: {out}")
        if plot:
            _plot_if_possible(records, out / "accuracy.png")
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        complain(f"{_cell_name(outcome)}: {outcome.failure}")
    if failed:
        raise typer.Exit(1)


def _plot_if_possible(records: list[Record], path: Path) -> None:
    from ..report.plot import plot_accuracy

    try:
        print(f"plot: {plot_accuracy(records, path)}")
    except VitadaptError as error:
        complain(str(error))


def _cell_name(outcome: Outcome) -> str:
    from ..methods.spec import method_text

    config = outcome.config
    return f"{method_text(config.method)} on {config.dataset}, seed {config.seed}"


def _print_table(records: Sequence[RecordSummary]) -> None:
    from ..benchmark.analysis.groups import rows_of
    from ..report.table import columns_of, remarks_of
    from .tables import print_columns

    rows = rows_of(records)
    head, body = columns_of(rows)
    print_columns(head, body, left=("method", "backbone", "protocol"))
    for remark in remarks_of(rows):
        print(remark)


def _print_counts(rows: list[Any], reports: dict[str, Any]) -> None:
    from .tables import print_columns

    body = [[r.method, r.shown, r.with_head, f"{r.published:,}" if r.published else ""] for r in rows]
    print_columns(["method", "without head", "with mean head (513 x 57.55)", "published"], body, left=("method",))
    for method, tensors in reports.items():
        lines = [[t.name, "x".join(map(str, t.shape)), t.status, "shared" if t.shared else ""] for t in tensors]
        print(f"\n{method}")
        print_columns(["tensor", "shape", "status", ""], lines, left=("tensor", "status", ""))


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from .tables import print_columns

    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [["" if row.get(h) is None else str(row[h]) for h in heads] for row in rows]
    print_columns(heads, body, left=tuple(heads))


def main() -> NoReturn:
    """Entry point. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    open_streams()
    try:
        status = app(standalone_mode=False) or 0  # the exit code of typer.Exit comes back as the value
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - told apart, and raised again when it is a bug
        status = status_of(error)
    if status == INTERRUPTED:
        complain("interrupted; what was finished is kept, the same command goes on from there")
    sys.exit(status)


if __name__ == "__main__":
    main()
