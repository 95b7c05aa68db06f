"""`vitadapt compare`: whether the differences between methods are real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import ConfigError

if TYPE_CHECKING:
    from .comparison import Comparison
    from .ranking import Ranking
    from .results import Store

app = typer.Typer()

Runs = Annotated[Path, typer.Argument(help="A folder made by run or bench.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

EXPLAINED = """points: mean over datasets of the mean over seeds; interval: 95 %, datasets and seeds resampled
p: Wilcoxon signed-rank, corrected for the number of comparisons (Holm); runs on one dataset resemble each other,
   so that p over pairs speaks of these datasets, and only p over datasets of others
detectable: the smallest true difference that so many pairs find (paired t test, level 0.05, power 0.8)"""


@app.command()
def compare(
    runs: Runs,
    baseline: Annotated[str | None, typer.Option(help="Compare every method with this one, not all pairs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods: paired differences with intervals and tests, ranks, and how firm the order is."""
    from .comparison import compare as compared

    records, damaged = _store(runs).records()
    if not records:
        raise ConfigError(f"{runs}: no records yet")
    found = compared(records, baseline)
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=1))
        return
    for line in damaged:
        print(f"left out: {line}")
    for number, one in enumerate(found):
        print(("\n" if number else "") + _setting_text(one.setting))
        _print_comparison(one)
    if any(one.differences for one in found):
        print(f"\n{EXPLAINED}")


def _store(runs: Path) -> Store:
    from .results import Store

    return Store(runs)


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
    from .console import print_columns

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
    from .console import print_columns

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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"
