"""`vitadapt compare`, `curve` and `calibrate`: what the records of finished runs can and cannot show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..utils.errors import ConfigError, Diverged, NotApplicable
from .options import AsJson, Cache, DataRoot, Device, Runs, complain, environment_of, records_of

if TYPE_CHECKING:
    from ..benchmark.analysis.comparison import Comparison
    from ..benchmark.analysis.ranking import Ranking
    from ..benchmark.post_hoc.interpolation import Point
    from ..benchmark.results.record import Record
    from ..benchmark.results.store import Store
    from ..report.table import Format

app = typer.Typer()

Digests = Annotated[list[str] | None, typer.Argument(help="Digests of records, or how they begin (default: all).")]

EXPLAINED = """points: mean over datasets of the mean over seeds; interval: 95 %, datasets and seeds resampled
p: Wilcoxon signed-rank, corrected for the number of comparisons (Holm); runs on one dataset resemble each other,
   so that p over pairs speaks of these datasets, and only p over datasets of others
detectable: the smallest true difference that so many pairs find (paired t test, level 0.05, power 0.8)"""

HEADS = {"nll": "NLL", "ece": "ECE", "brier": "Brier", "aurc": "AURC", "temperature": "T", "zero-shot": "as zero-shot"}
HEADS |= {"nll@T": "NLL at T", "ece@T": "ECE at T", "brier@T": "Brier at T"}
MEASURED = [
    "means over datasets of means over seeds, less is better; ECE in 15 bins of equal mass, NLL in nats",
    "T: temperature from training images held out in turn ('vitadapt calibrate'); never from the test images",
]


@app.command()
def compare(
    runs: Runs,
    baseline: Annotated[str | None, typer.Option(help="Compare every method with this one, not all pairs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods: paired differences with intervals and tests, ranks, and how firm the order is."""
    from ..benchmark.analysis.comparison import compare as compared

    found = compared(records_of(runs), baseline)
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=1))
        return
    for number, one in enumerate(found):
        print(("\n" if number else "") + _setting_text(one.setting))
        _print_comparison(one)
    if any(one.differences for one in found):
        print(f"\n{EXPLAINED}")


@app.command()
def curve(
    runs: Runs,
    digests: Digests = None,
    as_json: AsJson = False,
    cache: Cache = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Score finished runs with the learnt change scaled by 0, 0.25 .. 1, the head kept. An analysis, not a choice."""
    from ..benchmark.post_hoc.interpolation import curve as points_of

    store, environment = _store(runs), environment_of(cache, False, data_root, device)
    found, skipped = {}, {}
    for record in _chosen(runs, digests):
        try:
            found[record.digest] = record, points_of(record, store, environment)
        except (NotApplicable, ConfigError) as error:
            skipped[record.digest] = f"{_name(record)}: {error}"
    if as_json:
        print(json.dumps({digest: [asdict(p) for p in points] for digest, (_, points) in found.items()}, indent=1))
    else:
        _print_curves(list(found.values()))
    _finish(skipped, bool(found))


@app.command()
def calibrate(
    runs: Runs,
    digests: Digests = None,
    folds: Annotated[int, typer.Option(help="Trainings per run, each without one part of its images.")] = 5,
    cache: Cache = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Fit a temperature to each run, on training images held out in turn: the run's training is repeated per fold."""
    from ..benchmark.post_hoc.temperature import calibrate as fitted

    store, environment = _store(runs), environment_of(cache, False, data_root, device)
    skipped, done = {}, False
    for record in _chosen(runs, digests):
        try:
            print(f"{_name(record)}: temperature {fitted(record, store, environment, folds):.3g}", flush=True)
            done = True
        except (NotApplicable, ConfigError, Diverged) as error:
            skipped[record.digest] = f"{_name(record)}: {error}"
    _finish(skipped, done)


def print_reliability(runs: Path, records: Sequence[Record], form: Format) -> None:
    """The reliability of each method's probabilities, from stored predictions."""
    from ..benchmark.analysis.groups import varying
    from ..benchmark.post_hoc.temperature import reliability_of
    from ..report.table import setting_text, written
    from .tables import print_columns

    rows = reliability_of(records, _store(runs))
    if not rows:
        raise ConfigError(f"{runs}: no predictions are stored there")
    if form == "json":
        print(json.dumps([{**asdict(row), "setting": dict(row.setting)} for row in rows], indent=1))
        return
    settings = varying(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.measures))
    body = [
        [setting_text(n, dict(row.setting)[n]) for n in settings]
        + [row.method, str(len(row.runs)), *(_short(row.measures.get(name)) for name in names)]
        for row in rows
    ]
    head = [*settings, "method", "runs", *(HEADS.get(name, name) for name in names)]
    if form == "text":
        print_columns(head, body, left=("method", *settings))
        print("\n".join(MEASURED))
    else:
        print(written(head, body, MEASURED, form))


def _print_curves(found: Sequence[tuple[Record, Sequence[Point]]]) -> None:
    from .tables import print_columns

    with_text = any(point.zero_shot is not None for _, points in found for point in points)
    body = []
    for record, points in found:
        agreed = [[_number(p.zero_shot)] if with_text else [] for p in points]
        rows = [
            [f"{p.scale:g}", f"{p.score:.2f}", f"{p.nll:.3f}", f"{p.ece:.3f}", *a]
            for p, a in zip(points, agreed, strict=True)
        ]
        body += [[_name(record) if i == 0 else "", *row] for i, row in enumerate(rows)]
    if body:
        head = ["run", "scale", "score", "NLL", "ECE", *(["as zero-shot"] if with_text else [])]
        print_columns(head, body, left=("run",))
        print("\nscored on the test images: an analysis of finished runs; no scale may be chosen by it")


def _name(record: Record) -> str:
    return f"{record.digest} {record.method} on {Path(record.config['dataset']).name}, seed {record.config['seed']}"


def _finish(skipped: Mapping[str, str], done: bool) -> None:
    """Tell what was skipped, and leave with status 1 when nothing else happened."""
    for line in skipped.values():
        complain(line)
    if skipped and not done:
        raise typer.Exit(1)


def _store(runs: Path) -> Store:
    from ..benchmark.results.store import Store

    return Store(runs)


def _chosen(runs: Path, digests: Sequence[str] | None) -> list[Record]:
    """All records, or those whose digest begins as one of `digests`. Raises ConfigError when one fits nothing."""
    records = records_of(runs)
    for start in digests or ():
        if not any(record.digest.startswith(start) for record in records):
            raise ConfigError(f"{runs}: no record {start}; the files in records/ are named by their digests")
    return [record for record in records if not digests or record.digest.startswith(tuple(digests))]


def _plain(one: Comparison) -> dict[str, Any]:
    plain = asdict(one)
    return {**plain, "setting": dict(one.setting)}


def _setting_text(setting: Sequence[tuple[str, Any]]) -> str:
    known = dict(setting)
    shots = "all images" if known.pop("shots") is None else f"{dict(setting)['shots']} shots"
    size = known.pop("image_size", None)
    parts = [str(known.pop("backbone")), *([f"{size} px"] if size else []), shots, *map(str, known.values())]
    return ", ".join(parts)


def _print_comparison(one: Comparison) -> None:
    from .tables import print_columns

    ranks = one.ranking.ranks if one.ranking else {}
    body = [
        [s.method, str(s.cells), f"{s.mean:.2f}", _number(s.sd), _number(ranks.get(s.method))] for s in one.summaries
    ]
    if body:
        print_columns(["method", "runs", "mean", "sd", "rank"], body, left=("method",))
    if one.differences:
        print()
        _print_differences(one)
    if one.ranking:
        _print_ranking(one.ranking)
    for note in one.notes:
        print(f"note: {note}")


def _print_differences(one: Comparison) -> None:
    from .tables import print_columns

    head = ["difference", "points", "interval", "+/=/-", "p pairs", "p datasets", "detectable"]
    body = [
        [
            f"{d.method} - {d.baseline}",
            f"{d.mean:+.2f}",
            "-" if d.low is None else f"{d.low:+.2f} .. {d.high:+.2f}",
            f"{d.wins}/{d.ties}/{d.losses}",
            _p(d.cells.holm),
            _p(d.datasets.holm) if d.datasets.count > 1 else "-",
            _number(d.cells.detectable),
        ]
        for d in one.differences
    ]
    print_columns(head, body, left=("difference",))


def _print_ranking(ranking: Ranking) -> None:
    if ranking.friedman is not None:
        tail = "" if ranking.friedman_datasets is None else f", over datasets {_p(ranking.friedman_datasets)}"
        print(f"all methods alike (Friedman): p {_p(ranking.friedman)} over {ranking.cells} runs each{tail}")
    changes = ranking.changes
    if ranking.drops:
        print(f"order by mean: {' > '.join(ranking.order)}")
        print(f"it changes in {len(changes)} of {len(ranking.drops)} cases where one dataset or one seed is left out")
    for drop in changes:
        swaps = ", ".join(f"{a} / {b}" for a, b in drop.swapped)
        print(f"  without {drop.without}: {swaps} change places")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


REMARKS = (
    "selection: what choosing the epoch by the test set adds (best on test minus last epoch of the same training)",
    "gap: best on test minus the corrected method under the honest protocol, on the cells that have both",
)


def print_optimism(records: Sequence[Record], form: Format) -> None:
    """How many points of each published-style number come from looking at the test set. Raises ConfigError."""
    from ..benchmark.analysis.selection_bias import optimism_of
    from ..report.figure import short_names
    from ..report.table import setting_text, written
    from .tables import print_columns

    rows = optimism_of(records)
    if not rows:
        raise ConfigError("no records of protocol elevater-released there; run some with -m kadaptation-released")
    if form == "json":
        plain = [{**asdict(row), "setting": dict(row.setting), "selection": row.selection} for row in rows]
        print(json.dumps(plain, indent=1))
        return
    settings = [name for name in dict(rows[0].setting) if len({dict(row.setting)[name] for row in rows}) > 1]
    names = short_names(list(dict.fromkeys(row.dataset for row in rows)))
    head = [*settings, "method", "dataset", "runs", "best on test", "last epoch", "selection"]
    head += ["corrected method", "honest", "gap", "pairs"]
    body = [
        [setting_text(name, dict(row.setting)[name]) for name in settings]
        + [row.method, names[row.dataset], str(row.seeds), f"{row.best:.1f}", f"{row.last:.1f}"]
        + [f"{row.selection:+.1f}", row.corrected, _number(row.honest, ".1f"), _number(row.gap, "+.1f")]
        + [str(row.pairs)]
        for row in rows
    ]
    if form == "text":
        print_columns(head, body, left=(*settings, "method", "dataset", "corrected method"))
        print("\n".join(REMARKS))
    else:
        print(written(head, body, REMARKS, form))
