"""Scores against what they cost: trainable parameters, seconds, memory."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..benchmark.analysis.groups import TableRow, groups_of
from ..benchmark.results.record import Record
from .figure import INK, MUTED, PAPER, WIDE, Axes, Panel, Picture, Tag, clean, colour, label_points, log_axis
from .figure_data import Subject, score_label

SHARED_PHASES = ("data", "features")
MOST_NAMES = 24  # beside points; with more of them only those on the Pareto front


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (cost, score) points that no other point beats in both, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def accuracy(subject: Subject) -> Picture:
    """The picture of the paper: score against trainable parameters, with PE as colour and the Pareto front."""
    panels = []
    for title, about, records in subject.settings():
        rows = [row for row in subject.whole_rows(records) if row.trained is not None]
        if rows:
            spread = seed_spread(records)
            draw = partial(_draw_accuracy, rows=rows, spread=spread, ylabel=score_label(subject, records))
            panels.append(Panel(title, draw, about, _summary(rows), WIDE))
    caption = (
        "The line is the Pareto front: no method has a higher score with fewer parameters. Bars: one standard "
        "deviation over seeds. Methods without a score on every dataset are left out."
    )
    return Picture("accuracy", "Accuracy against trainable parameters", caption, panels)


def seed_spread(records: Sequence[Record]) -> dict[str, float]:
    """Method -> standard deviation over seeds of the mean over datasets, from seeds with a score on every dataset."""
    datasets = {record.config["dataset"] for record in records}
    spread = {}
    for group in groups_of(records):
        scores: dict[Any, dict[str, float]] = defaultdict(dict)
        for record in group.records:
            if record.score is not None:
                scores[record.config["seed"]][record.config["dataset"]] = record.score
        means = [statistics.fmean(cells.values()) for cells in scores.values() if len(cells) == len(datasets)]
        if len(means) > 1:
            spread[group.method] = statistics.stdev(means)
    return spread


def _summary(rows: Sequence[TableRow]) -> str:
    return "; ".join(f"{row.method} {row.average:.1f} %" for row in rows)


def _draw_accuracy(axes: Axes, tag: Tag, rows: Sequence[TableRow], spread: dict[str, float], ylabel: str) -> None:
    points = [(max(row.trained or 0.0, 1.0), row.average or 0.0) for row in rows]  # a logarithm knows no zero
    pe = [row.pe or 0.0 for row in rows]
    front = pareto(points)
    log_axis(axes.xaxis, [x for x, _ in points])
    axes.plot([points[i][0] for i in front], [points[i][1] for i in front], color=MUTED, lw=1, zorder=1, alpha=0.7)
    scale = {"cmap": "viridis", "vmin": min(pe) - 1e-6, "vmax": max(pe) + 1e-6}
    dots = None
    for row, (x, y), value in zip(rows, points, pe, strict=True):
        if row.method in spread:
            bar = axes.errorbar(x, y, yerr=spread[row.method], color=MUTED, lw=1, capsize=2.5, zorder=2)
            tag(bar.lines[2][0], "", method=row.method)
        dots = axes.scatter([x], [y], c=[value], s=56, zorder=3, edgecolor=INK, linewidth=0.6, **scale)
        tag(dots, f"{row.method}: {y:.1f} % with {row.trained:,.0f} parameters, PE {value:.1f}", method=row.method)
    axes.margins(x=0.14, y=0.14)
    axes.set(xlabel="trainable parameters (head included)", ylabel=ylabel)
    axes.grid(True)
    axes.figure.colorbar(dots, ax=axes, label="PE score", pad=0.02, aspect=30)
    _name(axes, tag, rows, points, front)


def _name(
    axes: Axes, tag: Tag, rows: Sequence[TableRow], points: list[tuple[float, float]], front: Sequence[int]
) -> None:
    shown = range(len(rows)) if len(rows) <= MOST_NAMES else front
    names = [clean(rows[i].method) for i in shown]
    for index, text in zip(shown, label_points(axes, [points[i] for i in shown], names), strict=True):
        tag(text, "", method=rows[index].method)


def cost(subject: Subject) -> Picture:
    """Seconds and memory against the score."""
    panels = []
    for title, about, records in subject.settings():
        rows = subject.whole_rows(records)
        memory = {
            group.method: statistics.fmean(r.peak_memory_mb for r in group.records) for group in groups_of(records)
        }
        seconds = {group.method: statistics.median(map(own_seconds, group.records)) for group in groups_of(records)}
        ylabel = score_label(subject, records)
        for name, costs in (("seconds per run", seconds), ("peak memory of the process (MB)", memory)):
            if any(costs[row.method] > 0 for row in rows):
                draw = partial(_draw_cost, rows=rows, costs=costs, xlabel=name, ylabel=ylabel, subject=subject)
                panels.append(Panel(title, draw, about, "", (4.6, 3.4)))
    caption = (
        "Seconds: training and test on the machine that ran it, the median over runs. The data and the features of "
        "the frozen network are left out: the first run prepares them for all others. Memory: the most that the "
        "process had held by then, the mean over runs."
    )
    return Picture("cost", "Cost against score", caption, panels)


def own_seconds(record: Record) -> float:
    """Seconds that a run needs for itself: without start-up, data and features, which runs after it find done."""
    spent = [seconds for phase, seconds in record.seconds.items() if phase not in SHARED_PHASES]
    return sum(spent or record.seconds.values())


def _draw_cost(
    axes: Axes, tag: Tag, rows: Sequence[TableRow], costs: dict[str, float], xlabel: str, ylabel: str, subject: Subject
) -> None:
    points = [(max(costs[row.method], 1e-3), row.average or 0.0) for row in rows]
    log_axis(axes.xaxis, [x for x, _ in points])
    for row, (x, y) in zip(rows, points, strict=True):
        dot = axes.scatter(
            [x], [y], s=44, color=colour(subject.methods.index(row.method)), zorder=3, edgecolor=PAPER, linewidth=0.6
        )
        tag(dot, f"{row.method}: {y:.1f} %, {x:,.1f} {xlabel}", method=row.method)
    axes.margins(x=0.16, y=0.16)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(True)
    _name(axes, tag, rows, points, pareto(points))
