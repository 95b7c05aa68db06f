"""`vitadapt compare`, `curve`, `analyse` and `calibrate`: what the records of finished runs can and cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from ..utils.errors import ConfigError, Diverged, NotApplicable
from . import options as opt
from .output import complain, echo, echo_json, number, print_columns

if TYPE_CHECKING:
    from ..benchmark.analysis.comparison import Comparison
    from ..benchmark.analysis.ranking import Ranking
    from ..benchmark.post_hoc.interpolation import Point
    from ..benchmark.post_hoc.updates import Updates
    from ..benchmark.results.record import Record

app = typer.Typer()

SWAPS = 6  # pairs of methods that are named; of more, how many
EXPLAINED = (
    "points: mean over datasets of the mean over seeds; interval: 95 %, datasets and seeds resampled",
    "p: Wilcoxon signed-rank, corrected for the number of comparisons (Holm); runs on one dataset are similar,",
    "   so p over pairs is about these datasets only, and p over datasets also about others",
    "detectable: the smallest true difference that so many pairs find (paired t test, level 0.05, power 0.8)",
)


@opt.command(app, opt.BENCHMARK, "vitadapt compare runs/smoke --baseline linear-probe")
def compare(
    runs: opt.Runs,
    only: opt.Cells = None,
    baseline: Annotated[str | None, Option(help="Compare every method with this one, not all pairs.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Compare methods: paired differences with intervals and tests, ranks, and how stable the order is."""
    from ..benchmark.analysis.comparison import compare as compared
    from ..report.table import random_weights

    found = compared(opt.records_of(runs, only), baseline)
    if as_json:
        echo_json([{**asdict(one), "setting": dict(one.setting)} for one in found])
        return
    for i, one in enumerate(found):
        echo(*[""] * bool(i), _setting_text(one.setting))
        _print_comparison(one)
    if any(one.differences for one in found):
        echo("", *EXPLAINED)
    echo(*random_weights(found))


@opt.command(app, opt.BENCHMARK, "vitadapt curve runs/smoke")
def curve(
    runs: opt.Runs,
    digests: opt.Digests = None,
    as_json: opt.AsJson = False,
    cache: opt.Cache = None,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
) -> None:
    """Score finished runs with the learnt change scaled by 0, 0.25 .. 1, the head kept. An analysis, not a choice."""
    from ..benchmark.post_hoc.interpolation import curve as points_of
    from ..benchmark.results.store import Store

    store, environment = Store(runs), opt.environment_of(cache, False, data_root, device)
    found, skipped = {}, {}
    for record in _chosen(runs, digests):
        try:
            found[record.digest] = record, points_of(record, store, environment)
        except (NotApplicable, ConfigError) as error:
            skipped[record.digest] = f"{_name(record)}: {error}"
    if as_json:
        echo_json({digest: [asdict(p) for p in points] for digest, (_, points) in found.items()})
    else:
        _print_curves(list(found.values()))
    _finish(skipped, bool(found))


@opt.command(app, opt.BENCHMARK, "vitadapt calibrate runs/smoke --folds 5")
def calibrate(
    runs: opt.Runs,
    digests: opt.Digests = None,
    folds: Annotated[int, Option(help="Trainings per run, each without one part of its images.")] = 5,
    cache: opt.Cache = None,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Fit a temperature to each run, on training images held out in turn: the run's training is repeated per fold."""
    from ..benchmark.post_hoc.temperature import calibrate as fitted
    from ..benchmark.results.store import Store

    store, environment = Store(runs), opt.environment_of(cache, False, data_root, device)
    skipped, temperatures = {}, {}
    for record in _chosen(runs, digests):
        try:
            temperatures[record.digest] = temperature = fitted(record, store, environment, folds)
        except (NotApplicable, ConfigError, Diverged) as error:
            skipped[record.digest] = f"{_name(record)}: {error}"
            continue
        if not as_json:
            echo(f"{_name(record)}: temperature {temperature:.3g}")
    if as_json:
        echo_json(temperatures)
    _finish(skipped, bool(temperatures))


@opt.command(app, opt.BENCHMARK, "vitadapt analyse runs/smoke --intrinsic-dimension")
def analyse(
    runs: opt.Runs,
    digests: opt.Digests = None,
    intrinsic_dimension: Annotated[bool, Option("--intrinsic-dimension", help="Estimate it for each update.")] = False,
    figure: Annotated[Path | None, Option(help="A picture (.png, .svg, .pdf) of one run's dimensions.")] = None,
    images: Annotated[int, Option(help="Test images to look at.", min=2)] = 256,
    cache: opt.Cache = None,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Look into finished runs: size, rank and intrinsic dimension of each module's update, and how features moved."""
    from ..benchmark.post_hoc.updates import analyse as updates_of
    from ..benchmark.results.store import Store

    store, environment = Store(runs), opt.environment_of(cache, False, data_root, device)
    found, skipped = {}, {}
    for record in _chosen(runs, digests):
        try:
            found[record.digest] = record, updates_of(record, store, environment, images)
        except (NotApplicable, ConfigError) as error:
            skipped[record.digest] = f"{_name(record)}: {error}"
    if as_json:
        echo_json({digest: asdict(updates) for digest, (_, updates) in found.items()})
    else:
        for record, updates in found.values():
            _print_updates(_name(record), updates, intrinsic_dimension)
    if figure is not None:
        from ..report.update_figure import draw_updates

        if len(found) != 1:
            raise ConfigError(f"--figure draws one run, and {len(found)} were analysed; name its digest")
        ((record, updates),) = found.values()
        draw_updates(updates, _name(record), figure)
    _finish(skipped, bool(found))


def _print_updates(name: str, found: Updates, dimensions: bool) -> None:
    head = ["block", "module", "norm", "rank", "stable rank", *(["dimension"] if dimensions else [])]
    body = []
    for one in found.updates:
        norm = "" if one.norm is None else f"{one.norm:.2%}"
        rank = "" if one.rank is None else str(one.rank)
        body.append([str(one.block), one.module, norm, rank, number(one.stable_rank)])
        body[-1] += [number(one.dimension)] if dimensions else []
    echo(name)
    print_columns(head, body, left=("module",))
    echo(f"CKA of frozen and adapted tokens, by block: {' '.join(f'{value:.3f}' for value in found.similarity)}", "")


def _print_curves(found: Sequence[tuple[Record, Sequence[Point]]]) -> None:
    with_text = any(point.zero_shot is not None for _, points in found for point in points)
    body = []
    for record, points in found:
        agreed = [[number(p.zero_shot)] if with_text else [] for p in points]
        rows = [
            [f"{p.scale:g}", f"{p.score:.2f}", f"{p.nll:.3f}", f"{p.ece:.3f}", *a]
            for p, a in zip(points, agreed, strict=True)
        ]
        body += [[_name(record) if i == 0 else "", *row] for i, row in enumerate(rows)]
    if body:
        head = ["run", "scale", "score", "NLL", "ECE", *(["as zero-shot"] if with_text else [])]
        print_columns(head, body, left=("run",))
        echo("", "scored on the test images: an analysis of finished runs; no scale may be chosen by it")


def _name(record: Record) -> str:
    return f"{record.digest} {record.method} on {Path(record.config['dataset']).name}, seed {record.config['seed']}"


def _finish(skipped: Mapping[str, str], done: bool) -> None:
    """Tell what was skipped, and leave with status 1 when nothing else happened."""
    for line in skipped.values():
        complain(line)
    if skipped and not done:
        raise typer.Exit(1)


def _chosen(runs: Path, digests: Sequence[str] | None) -> list[Record]:
    """All records, or those whose digest begins as one of `digests`. Raises ConfigError when one fits nothing."""
    records = opt.records_of(runs)
    for start in digests or ():
        if not any(record.digest.startswith(start) for record in records):
            raise ConfigError(f"{runs}: no record {start}; the files in records/ are named by their digests")
    return [record for record in records if not digests or record.digest.startswith(tuple(digests))]


def _setting_text(setting: Sequence[tuple[str, Any]]) -> str:
    known = dict(setting)
    backbone, size, shots = known.pop("backbone"), known.pop("image_size", None), known.pop("shots")
    first = [backbone, f"{size} px" if size else None, "all images" if shots is None else f"{shots} shots"]
    return ", ".join(str(value) for value in (*first, *known.values()) if value is not None)


def _print_comparison(one: Comparison) -> None:
    ranks = one.ranking.ranks if one.ranking else {}
    body = [[s.method, str(s.cells), f"{s.mean:.2f}", number(s.sd), number(ranks.get(s.method))] for s in one.summaries]
    if body:
        print_columns(["method", "runs", "mean", "sd", "rank"], body, left=("method",))
    if one.differences:
        echo("")
        _print_differences(one)
    if one.ranking:
        print_ranking(one.ranking)
    for note in one.notes:
        echo(f"note: {note}")


def _print_differences(one: Comparison) -> None:
    head = ["difference", "points", "interval", "+/=/-", "p pairs", "p datasets", "detectable"]
    body = [
        [
            f"{d.method} - {d.baseline}",
            f"{d.mean:+.2f}",
            "-" if d.low is None else f"{d.low:+.2f} .. {d.high:+.2f}",
            f"{d.wins}/{d.ties}/{d.losses}",
            _p(d.cells.holm),
            _p(d.datasets.holm) if d.datasets.count > 1 else "-",
            number(d.cells.detectable),
        ]
        for d in one.differences
    ]
    print_columns(head, body, left=("difference",))


def print_ranking(ranking: Ranking) -> None:
    """Ranks alike or not, the order by mean, and where it changes: for people."""
    if ranking.friedman is not None:
        tail = "" if ranking.friedman_datasets is None else f", over datasets {_p(ranking.friedman_datasets)}"
        echo(f"all methods alike (Friedman): p {_p(ranking.friedman)} over {ranking.cells} runs each{tail}")
    changes = ranking.changes
    if ranking.drops:
        echo(f"order by mean: {' > '.join(ranking.order)}")
        echo(f"it changes in {len(changes)} of {len(ranking.drops)} cases where one dataset or one seed is left out")
    pairs = math.comb(len(ranking.order), 2)
    for drop in changes:
        swaps = ", ".join(f"{a} / {b}" for a, b in drop.swapped)
        if len(drop.swapped) > SWAPS:
            swaps = f"{len(drop.swapped)} of {pairs} pairs (Kendall's tau {number(drop.tau)}; --json lists them)"
        echo(f"  without {drop.without}: {swaps} change places")


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"
