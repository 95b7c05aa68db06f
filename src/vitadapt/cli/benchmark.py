"""`vitadapt run`, `bench` and `plan`: benchmarks, and what they will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from ..utils.errors import ConfigError, VitadaptError
from . import options as opt
from .data import fetch_missing
from .output import complain, echo, echo_json, print_columns
from .results import print_table

if TYPE_CHECKING:
    from ..benchmark.config import RunConfig
    from ..benchmark.parallel.executor import Executor
    from ..benchmark.plan import Estimate
    from ..benchmark.results.record import Record
    from ..benchmark.results.store import Store
    from ..training.features import Environment

app = typer.Typer()

EXPLAINED = (
    "hours: at most, on this machine as busy as it is now, a cell at a time; decoding images comes on top",
    "disk: decoded images, features, adapters and predictions; memory: the most that this process held while measuring",
)


@opt.command(app, opt.BENCHMARK, "vitadapt run --dataset photos/ --method lora --method kadaptation --shots 5")
def run(
    dataset: Annotated[str, Option("--dataset", "-d", help="A name, a folder of class folders, or a list (.csv ...).")],
    method: Annotated[list[str], Option("--method", "-m", help="For example lora, or lora:rank=8; repeatable.")],
    backbone: opt.Backbone = opt.OFFLINE,
    shots: Annotated[str, Option(help="Labelled images per class, or 'all'.")] = "5",
    seed: Annotated[list[int] | None, Option(help="Of sample, start and order; repeatable (default: 0).")] = None,
    image_size: opt.ImageSize = None,
    protocol: Annotated[str, Option(help="See 'vitadapt list protocols'.")] = "fixed",
    precision: opt.PrecisionOption = "fp32",
    recipe: Annotated[str, Option(help="Changes to the protocol's recipe, e.g. lr=0.01,epochs=20.")] = "",
    head: Annotated[list[str] | None, Option(help="zero, text, or text:scale=pretrained; repeatable.")] = None,
    class_names: opt.ClassNames = None,
    template: opt.Template = None,
    knowledge: opt.Knowledge = "",
    subset: Annotated[Path | None, Option(help="A manifest with the images to train on.")] = None,
    test: Annotated[str, Option(help="base-to-new, or other data sets joined by +, to test on besides.")] = "",
    out: opt.Out = Path("runs"),
    track: opt.Track = None,
    cache: opt.Cache = None,
    no_cache: opt.NoCache = False,
    data_root: opt.DataRoot = None,
    download: opt.Download = False,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
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
    if test:
        axes["test"] = test
    if subset is not None:
        axes |= _subset_axes(subset)
    prompts: dict[str, Any] = {"class_names": class_names, "templates": template, "knowledge": parse_fields(knowledge)}
    prompts = {name: value for name, value in prompts.items() if value}
    environment = replace(opt.environment_of(cache, no_cache, data_root, device), subset=subset)
    cells = expand(axes, parse_fields(recipe), prompts)
    if download:
        fetch_missing(cells, out, data_root)
    _execute(cells, out, environment, as_json=as_json, track=track)


@opt.command(app, opt.BENCHMARK, "vitadapt bench smoke")
def bench(
    recipe: opt.BenchmarkFile,
    only: opt.Cells = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Default: runs/NAME of the file.")] = None,
    cache: opt.Cache = None,
    no_cache: opt.NoCache = False,
    data_root: opt.DataRoot = None,
    download: opt.Download = False,
    device: opt.Device = "auto",
    track: opt.Track = None,
    plot: Annotated[bool, Option(help="Also write accuracy.png beside the records.")] = False,
    workers: Annotated[int, Option(help="Processes on this machine, each with its share of cores and GPUs.")] = 1,
    threads: Annotated[int | None, Option(help="CPU threads per cell (default: the cores are shared).")] = None,
    shard: Annotated[str, Option(help="i/n: only part i of n equal parts of the cells, for job arrays.")] = "",
    ray: Annotated[str, Option(help="Address of a Ray cluster (host:6379, auto), or local.")] = "",
    gpus_per_cell: Annotated[float | None, Option(help="With --ray: GPUs per cell; 0.25 packs four on one.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Run every cell of a benchmark that is not recorded yet, and print the table."""
    from ..benchmark.sweep import executor_for, read_bench, select
    from ..benchmark.sweep import shard as part_of

    out = out or Path("runs") / recipe.stem
    cells = select(read_bench(recipe), only or [])
    environment = opt.environment_of(cache, no_cache, data_root, device)
    executor = executor_for(workers, threads, ray, gpus_per_cell, environment.setting.device)
    cells = part_of(cells, shard) if shard else cells
    if download:
        fetch_missing(cells, out, data_root)
    _execute(cells, out, environment, plot, executor, as_json, track)


@opt.command(app, opt.BENCHMARK, "vitadapt plan smoke")
def plan(
    recipe: opt.BenchmarkFile,
    only: opt.Cells = None,
    out: Annotated[Path | None, Option("--out", "-o", help="As for bench; recorded cells are done.")] = None,
    cache: opt.Cache = None,
    no_cache: opt.NoCache = False,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Measure a few steps of each method and print hours, disk and memory of what a benchmark still has to do."""
    from ..benchmark.plan import plan as planned
    from ..benchmark.plan import total
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import check_names, read_bench, select

    cells = select(read_bench(recipe), only or [])
    check_names(cells)
    store = Store(out or Path("runs") / recipe.stem)
    rows = planned(cells, store, opt.environment_of(cache, no_cache, data_root, device))
    if as_json:
        echo_json([asdict(row) for row in [*rows, total(rows)]])
    else:
        _print_estimates([*rows, total(rows)])


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
    configs: list[RunConfig],
    out: Path,
    environment: Environment,
    plot: bool = False,
    executor: Executor | None = None,
    as_json: bool = False,
    track: str | None = None,
) -> None:
    """Run the cells under a progress bar, print the table, and leave with status 1 when a cell failed."""
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import check_names, executor_for, run_bench
    from ..methods.spec import method_text
    from ..training import data_parallel
    from ..utils.tracking import tracker_of
    from .progress import BenchDisplay

    check_names(configs)
    store = Store(out)
    if data_parallel.follows():  # the first process shows and records what all of them do
        outcomes = run_bench(configs, store, environment, executor=executor or executor_for())
        raise typer.Exit(int(any(outcome.record is None for outcome in outcomes)))
    if track is not None:
        tracker_of(track)  # what is missing is told at once
    display = BenchDisplay((lambda _: None) if track is None else _tracking(track, store))
    with display.progress:
        outcomes = run_bench(configs, store, environment, display, executor or executor_for())
    records = [outcome.record for outcome in outcomes if outcome.record]
    if records or as_json:
        print_table(records, "json" if as_json else "text")
    if records and not as_json:
        echo("", f"records, predictions and adapters: {out}")
    if records and plot:
        _plot_if_possible(records, store, as_json)
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        config = outcome.config
        complain(f"{method_text(config.method)} on {config.dataset}, seed {config.seed}: {outcome.failure}")
    if failed:
        raise typer.Exit(1)


def _tracking(spec: str, store: Store) -> Callable[[Record], None]:
    """Makes a run of the tracking program for every new record, until it cannot begin one."""
    from ..report.tracking import track_record
    from ..utils.tracking import tracked

    failed: list[VitadaptError] = []

    def track(record: Record) -> None:
        name = f"{Path(record.config['dataset']).name}-{record.label}-{record.config['seed']}"
        try:
            if not failed:
                with tracked(spec, name) as tracker:
                    track_record(tracker, record, store)
        except VitadaptError as error:
            failed.append(error)
            complain(f"{error}; records are kept, and not tracked")

    return track


def _plot_if_possible(records: Sequence[Record], store: Store, quiet: bool) -> None:
    from ..report.plot import plot

    try:
        path = plot(records, store.root / "accuracy.png", "accuracy", store.predictions)
    except VitadaptError as error:
        complain(str(error))
        return
    if not quiet:
        echo(f"plot: {path}")


def _print_estimates(rows: Sequence[Estimate]) -> None:
    body = [
        [r.dataset, r.protocol, str(r.cells), _hours(r.hours), _size(r.disk_mb), _size(r.memory_mb), "; ".join(r.notes)]
        for r in rows
    ]
    head = ["dataset", "protocol", "cells", "hours", "disk", "memory", ""]
    print_columns(head, body, left=("dataset", "protocol", ""))
    echo("", *EXPLAINED)


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 10 else f"{hours:,.0f}"


def _size(mb: float) -> str:
    return f"{mb:.0f} MB" if mb < 1000 else f"{mb / 1000:.1f} GB"
