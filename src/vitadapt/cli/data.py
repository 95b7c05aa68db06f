"""`vitadapt data`: which data sets there are, whether a copy is sound, subsets that can be passed on, downloads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..benchmark.config import RunConfig
    from ..data.checks.dataset import Report
    from ..data.download.files import Progress

app = typer.Typer(help="Data sets: list, check, pass on a subset, fetch.", no_args_is_help=True)

Root = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds the files of named datasets.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Name = Annotated[str, typer.Argument(help="A name, a folder of class folders, or a CSV file.")]


@app.command("list")
def list_all(data_root: Root = None, as_json: AsJson = False) -> None:
    """List the named datasets: classes, images, licence, and where each was found or how to get it."""
    from ..data import list_datasets
    from .tables import print_columns

    rows = list_datasets(data_root)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    heads = ("name", "classes", "train/val/test", "found", "licence")
    body = [
        [str(row["name"]), str(row["classes"]), _sizes(row), _found(row, data_root), _in_short(row)] for row in rows
    ]
    print_columns(heads, body, left=("name", "found", "licence"), whole=heads[:3])
    print("\n(fetch): vitadapt data fetch NAME --data-root FOLDER, or --download of run and bench")
    print("(by hand): 'vitadapt data list --json' tells from where, and the metric and the full licence of each")
    if data_root is None:
        print("Only what is installed was looked for; --data-root FOLDER looks there, too.")


def _sizes(row: dict[str, object]) -> str:
    return "/".join("-" if row[split] is None else str(row[split]) for split in ("train", "val", "test"))


def _found(row: dict[str, object], root: Path | None) -> str:
    """Where it is, below the data root if it is there; else, in brackets, how to get it."""
    place = row["found"]
    if not isinstance(place, str):
        return "(fetch)" if row["fetchable"] else "(by hand)"
    if root is None or not Path(place).is_relative_to(root):
        return place.removeprefix("the Python package ")
    return str(Path(place).relative_to(root))


def _in_short(row: dict[str, object]) -> str:
    """The licence without its remarks."""
    return re.split(r"[;,(]", str(row["licence"]))[0].strip()


@app.command()
def check(
    name: Name,
    data_root: Root = None,
    shots: Annotated[int | None, typer.Option(help="Images per class that training will ask for.")] = None,
    class_names: Annotated[str | None, typer.Option(help="A file of class names in words, as for run.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="A sentence with {} for the class name; repeatable.")
    ] = None,
    knowledge: Annotated[str, typer.Option(help="What is known of the classes, as for run.")] = "",
    as_json: AsJson = False,
) -> None:
    """Examine a dataset: sizes, class order, duplicates, odd images, long prompts. Status 1 when something is wrong."""
    from ..benchmark.sweep import read_prompts
    from ..data.checks.dataset import check as examine
    from ..text.class_features import prompt_findings
    from ..utils.fields import parse_fields

    said = {"class_names": class_names, "templates": template, "knowledge": parse_fields(knowledge)}
    prompts = read_prompts({field: value for field, value in said.items() if value})
    report = examine(name, data_root, shots)
    if report.classes:
        report = report.plus(prompt_findings(name, report.classes, prompts))
    if as_json:
        print(json.dumps(report.plain(), indent=1))
    else:
        _print_report(report)
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
def subset(
    name: Name,
    shots: Annotated[int, typer.Option(help="Images per class.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    verify: Annotated[Path | None, typer.Option(help="A manifest; find its images in this copy instead.")] = None,
    data_root: Root = None,
) -> None:
    """Print a few-shot subset as a manifest by content hash, or find the images of one in this copy."""
    from ..data import open_dataset
    from ..data.sampling.manifests import make_manifest, read_manifest, subset_rows

    dataset = open_dataset(name, data_root)
    if verify is None:
        print(json.dumps(make_manifest(dataset, shots, seed), indent=1))
        return
    rows = subset_rows(dataset, read_manifest(verify))
    print(f"all {len(rows)} images of {verify} are in the train split of {dataset.name}, with the same classes")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A named dataset.")],
    data_root: Annotated[Path, typer.Option("--data-root", help="Folder to put it in.")],
    source: Annotated[str, typer.Option("--from", help="torchvision, hub or auto.")] = "auto",
) -> None:
    """Download a named dataset; what is there already is kept, an interrupted download goes on."""
    from ..data.download.datasets import fetch as download

    with _bars() as report:
        place = download(name, data_root, report, source)
    print(f"{name} is in {place}")


def fetch_missing(configs: Sequence[RunConfig], out: Path, data_root: Path | None) -> None:
    """What --download does: fetch the named datasets that cells without a record in `out` lack; names come first."""
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import check_names
    from ..data.download.datasets import fetch_missing as download

    check_names(configs)
    store = Store(out)
    names = [config.dataset for config in configs if not store.path("records", config.digest()).exists()]
    with _bars() as report:
        download(names, data_root, report)


@contextmanager
def _bars() -> Iterator[Progress]:
    """A bar on the standard error for every file that is reported."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=total or None)
            bars.update(tasks[file], completed=done)

        yield report


def _print_report(report: Report) -> None:
    from .tables import print_columns

    body = [[name, *(str(counts[c]) for counts in report.counts.values())] for c, name in enumerate(report.classes)]
    totals = ["all", *(str(sum(counts)) for counts in report.counts.values())]
    if report.counts:
        print_columns(["class", *report.counts], [*body, totals], left=("class",))
        print()
    lines = [[finding.level, finding.check, finding.message] for finding in report.findings]
    if lines:
        print_columns(["level", "check", "finding"], lines, left=("level", "check", "finding"))
    print(f"{report.dataset}: {'no errors' if report.healthy else 'errors were found'}")
