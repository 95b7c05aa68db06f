"""`vitadapt data`: which data sets there are, whether a copy is sound, subsets that can be passed on, downloads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from . import options as opt
from .output import echo, echo_json, echo_result, print_columns, progress_bar

if TYPE_CHECKING:
    from ..benchmark.config import RunConfig
    from ..data.checks.dataset import Report
    from ..utils.progress import Progress

app = typer.Typer(help="Datasets: list them, check a copy, share a subset, download.", no_args_is_help=True)
Source = Literal["auto", "torchvision", "hub"]


@opt.command(app, opt.LOOK_UP, "vitadapt data list --data-root data", "list")
def list_all(data_root: opt.DataRoot = None, as_json: opt.AsJson = False) -> None:
    """List the named datasets: classes, images, licence, and where each was found or how to get it."""
    from ..data import list_datasets

    rows = list_datasets(data_root)
    if as_json:
        echo_json(rows)
        return
    heads = ("name", "classes", "train/val/test", "found", "licence")
    body = [
        [str(row["name"]), str(row["classes"]), _sizes(row), _found(row, data_root), _in_short(row)] for row in rows
    ]
    print_columns(heads, body, left=("name", "found", "licence"), whole=heads[:3])
    echo("", "(fetch): vitadapt data fetch NAME --data-root FOLDER, or --download of run and bench")
    echo("(by hand): 'vitadapt data list --json' has the source, the metric and the full licence of each")
    if data_root is None:
        echo("Only what is installed was looked for; --data-root FOLDER looks there, too.")


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


@opt.command(app, opt.LOOK_UP, "vitadapt data check photos/ --shots 5")
def check(
    name: opt.DatasetName,
    data_root: opt.DataRoot = None,
    shots: Annotated[int | None, Option(help="Images per class that training will ask for.")] = None,
    class_names: opt.ClassNames = None,
    template: opt.Template = None,
    knowledge: opt.Knowledge = "",
    as_json: opt.AsJson = False,
) -> None:
    """Examine a dataset: sizes, class order, duplicates, odd images, long prompts. Status 1 when something is wrong."""
    from ..benchmark.sweep import read_prompts
    from ..data.checks.dataset import check as examine
    from ..text.class_features import prompt_findings
    from ..utils.fields import parse_fields

    texts = {"class_names": class_names, "templates": template, "knowledge": parse_fields(knowledge)}
    prompts = read_prompts({field: value for field, value in texts.items() if value})
    report = examine(name, data_root, shots)
    if report.classes:
        report = report.plus(prompt_findings(name, report.classes, prompts))
    if as_json:
        echo_json(report.plain())
    else:
        _print_report(report)
    if not report.healthy:
        raise typer.Exit(1)


@opt.command(app, opt.LOOK_UP, "vitadapt data subset photos/ --shots 5 > subset.json")
def subset(
    name: opt.DatasetName,
    shots: Annotated[int, Option(help="Images per class.")] = 5,
    seed: Annotated[int, Option(help="Seed of the sample.")] = 0,
    verify: Annotated[Path | None, Option(help="A manifest; find its images in this copy instead.")] = None,
    data_root: opt.DataRoot = None,
) -> None:
    """Print a few-shot subset as a manifest by content hash, or find the images of one in this copy."""
    from ..data import open_dataset
    from ..data.sampling.manifests import make_manifest, read_manifest, subset_rows

    dataset = open_dataset(name, data_root)
    if verify is None:
        echo_json(make_manifest(dataset, shots, seed))
        return
    rows = subset_rows(dataset, read_manifest(verify))
    echo(f"all {len(rows)} images of {verify} are in the train split of {dataset.name}, with the same classes")


@opt.command(app, opt.LOOK_UP, "vitadapt data fetch dtd --data-root data")
def fetch(
    name: Annotated[str, Argument(help="A named dataset.")],
    data_root: Annotated[Path, Option("--data-root", help="Folder to put it in.")],
    source: Annotated[Source, Option("--from", help="Where to fetch it.")] = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Download a named dataset; what is there already is kept, an interrupted download goes on."""
    from ..data.download.datasets import fetch as download

    with _download_bar() as (report, _):
        place = download(name, data_root, report, source)
    echo_result(f"{name} is in {place}", {"dataset": name, "path": str(place)}, as_json)


def fetch_missing(configs: Sequence[RunConfig], out: Path, data_root: Path | None) -> None:
    """What --download does: fetch the named datasets that cells without a record in `out` lack; names come first."""
    from ..benchmark.results.store import Store
    from ..benchmark.sweep import check_names
    from ..benchmark.transfer import parts_of
    from ..data.download.datasets import fetch_missing as download

    check_names(configs)
    store = Store(out)
    lacking = [config for config in configs if not store.path("records", config.digest()).exists()]
    names = [name for config in lacking for name in (config.dataset, *parts_of(config.test))]
    with _download_bar() as (report, _):
        download(names, data_root, report)


def _download_bar() -> AbstractContextManager[tuple[Progress, Callable[[str], None]]]:
    from rich.progress import DownloadColumn, TransferSpeedColumn

    return progress_bar(DownloadColumn(), TransferSpeedColumn())


def _print_report(report: Report) -> None:
    body = [[name, *(str(counts[c]) for counts in report.counts.values())] for c, name in enumerate(report.classes)]
    totals = ["all", *(str(sum(counts)) for counts in report.counts.values())]
    if report.counts:
        print_columns(["class", *report.counts], [*body, totals], left=("class",))
        echo("")
    lines = [[finding.level, finding.check, finding.message] for finding in report.findings]
    if lines:
        print_columns(["level", "check", "finding"], lines, left=("level", "check", "finding"))
    echo(f"{report.dataset}: {'no errors' if report.healthy else 'errors were found'}")
