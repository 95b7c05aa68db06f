"""The pictures by name, each made of panels from records: what `vitadapt plot` writes and `vitadapt report` shows.

Records of different settings (backbone, image size, shots, protocol, precision) never meet in one panel.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..results import Record
from .diagrams import draw_reliability, draw_search, trials_of
from .panels import (
    GRID,
    INK,
    MUTED,
    PAPER,
    WIDE,
    Axes,
    Panel,
    Picture,
    Tag,
    clean,
    colour,
    dash,
    label_points,
    log_axis,
    short_names,
)
from .table import Group, Row, groups_of, rows_of, setting_text, varying

Predictions = Callable[[Record], tuple[np.ndarray, np.ndarray]]
"""Record -> (probabilities (N, C), labels). Raises StorageError when there are none."""

MOST_PANELS = 60
MOST_NAMES = 24  # beside points; with more of them only those on the Pareto front
MOST_PREDICTIONS = 300  # files that are read for reliability diagrams


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (cost, score) points that no other point beats in both, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


class Subject:
    """Records sorted for drawing: by setting, with one number (colour) for each method and short names of datasets."""

    def __init__(self, records: Sequence[Record], predictions: Predictions) -> None:
        self.records, self.predictions = records, predictions
        self.groups = groups_of(records)
        self.called = {record.digest: group.method for group in self.groups for record in group.records}
        self.methods = list(dict.fromkeys(group.method for group in self.groups))
        self.short = short_names(sorted({record.config["dataset"] for record in records}))
        self.varying = varying(self.groups)

    def settings(self) -> Iterator[tuple[str, dict[str, str], list[Record]]]:
        """(title, what filters know, records) of each setting; the title is empty when there is only one."""
        members: dict[Any, list[Group]] = defaultdict(list)
        for group in self.groups:
            members[group.setting].append(group)
        for setting, groups in members.items():
            about = {name: setting_text(name, value) for name, value in setting}
            title = " · ".join(f"{name.replace('_', ' ')} {about[name]}" for name in self.varying)
            yield title, about, [record for group in groups for record in group.records]

    def by_dataset(self) -> Iterator[tuple[str, dict[str, str], list[Group]]]:
        """(title, what filters know, groups) of each setting and dataset."""
        for title, about, records in self.settings():
            for dataset in self.short:
                mine = [record for record in records if record.config["dataset"] == dataset]
                if mine:
                    yield self._title(self.name(dataset), title), {**about, "dataset": dataset}, self._named(mine)

    def by_method(self) -> Iterator[tuple[str, dict[str, str], Group]]:
        """(title, what filters know, group) of each setting and method."""
        for title, about, records in self.settings():
            for group in self._named(records):
                yield self._title(group.method, title), {**about, "method": group.method}, group

    def name(self, dataset: str) -> str:
        """The dataset's name as it is drawn."""
        return clean(self.short[dataset])

    def rows(self, records: Sequence[Record]) -> list[Row]:
        """Rows of one setting, methods in the same order everywhere."""
        return sorted(rows_of(records), key=lambda row: self.methods.index(row.method))

    def whole_rows(self, records: Sequence[Record]) -> list[Row]:
        """Those of the rows that have a score on each dataset of the setting."""
        return [row for row in self.rows(records) if row.average is not None]

    def _named(self, records: Sequence[Record]) -> list[Group]:
        """The groups cut down to `records`; their names stay, so that a method has one colour everywhere."""
        wanted = {id(record) for record in records}
        cut = [Group(g.setting, g.method, [r for r in g.records if id(r) in wanted]) for g in self.groups]
        return sorted((g for g in cut if g.records), key=lambda group: self.methods.index(group.method))

    @staticmethod
    def _title(first: str, second: str) -> str:
        return f"{clean(first)}\n{clean(second, 60)}" if second else clean(first)


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


def score_label(subject: Subject, records: Sequence[Record]) -> str:
    """What the score axis shows."""
    datasets = {record.config["dataset"] for record in records}
    return (
        f"score on {subject.name(*datasets)} (%)" if len(datasets) == 1 else f"mean score, {len(datasets)} datasets (%)"
    )


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


def _summary(rows: Sequence[Row]) -> str:
    told = [f"{row.method} {row.average:.1f} %" for row in rows]
    return "; ".join(told)


def _draw_accuracy(axes: Axes, tag: Tag, rows: Sequence[Row], spread: dict[str, float], ylabel: str) -> None:
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
    axes.set_xlabel("trainable parameters (head included)")
    axes.set_ylabel(ylabel)
    axes.grid(True)
    axes.figure.colorbar(dots, ax=axes, label="PE score", pad=0.02, aspect=30)
    _name(axes, tag, rows, points, front)


def _name(axes: Axes, tag: Tag, rows: Sequence[Row], points: list[tuple[float, float]], front: Sequence[int]) -> None:
    shown = range(len(rows)) if len(rows) <= MOST_NAMES else front
    names = [clean(rows[i].method) for i in shown]
    for index, text in zip(shown, label_points(axes, [points[i] for i in shown], names), strict=True):
        tag(text, "", method=rows[index].method)


def heatmap(subject: Subject) -> Picture:
    """Scores of every method on every dataset, coloured by the distance from the dataset's mean over methods."""
    panels = []
    for title, about, records in subject.settings():
        rows, width = subject.rows(records), len({record.config["dataset"] for record in records})
        if any(cell.mean is not None for row in rows for cell in row.cells.values()):
            longest = max(len(subject.name(dataset)) for dataset in rows[0].cells)
            size = (2.6 + 0.52 * width, 1.0 + 0.06 * longest + 0.3 * len(rows))
            panels.append(Panel(title, partial(_draw_heatmap, rows=rows, subject=subject), about, _cells(rows), size))
    caption = (
        "Mean score over seeds (%). Colour: points above (green-blue) or below (brown) the mean of all methods there."
    )
    return Picture("heatmap", "Scores by dataset", caption, panels)


def _cells(rows: Sequence[Row]) -> str:
    count = sum(cell.mean is not None for row in rows for cell in row.cells.values())
    return f"{count} scores of {len(rows)} methods; the same numbers are in the table of results"


def _draw_heatmap(axes: Axes, tag: Tag, rows: Sequence[Row], subject: Subject) -> None:
    datasets = list(rows[0].cells)
    scores = np.array([[math.nan if (m := row.cells[d].mean) is None else m for d in datasets] for row in rows])
    known = ~np.isnan(scores)
    middle = np.nansum(scores, axis=0) / np.maximum(known.sum(axis=0), 1)
    gains = np.where(known, scores - middle, 0.0)
    reach = max(float(np.abs(gains).max()), 1.0)
    shades = axes.imshow(gains, cmap="BrBG", vmin=-reach, vmax=reach, aspect="auto", alpha=0.0)
    for i, row in enumerate(rows):
        for j, dataset in enumerate(datasets):
            _draw_cell(axes, tag, row, dataset, (j, i), shades.to_rgba(gains[i, j], alpha=1.0), subject)
    axes.set_xticks(range(len(datasets)), [subject.name(dataset) for dataset in datasets], rotation=40, ha="right")
    axes.set_yticks(range(len(rows)), [clean(row.method) for row in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_cell(
    axes: Axes, tag: Tag, row: Row, dataset: str, place: tuple[int, int], shade: Any, subject: Subject
) -> None:
    from matplotlib.patches import Rectangle

    cell = row.cells[dataset]
    about = {"method": row.method, "dataset": dataset}
    face = "none" if cell.mean is None else shade
    patch = Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=1.5)
    tag(axes.add_patch(patch), f"{row.method} on {subject.short[dataset]}: {cell.text() or 'no score'}", **about)
    light = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 0.5
    ink = MUTED if cell.mean is None else "#000000" if light else "#ffffff"
    said = "–" if cell.mean is None else f"{cell.mean:.1f}"
    tag(axes.text(*place, said, ha="center", va="center", fontsize=8, color=ink), "", **about)


def seeds(subject: Subject) -> Picture:
    """Every seed's score: how much of a difference between methods is luck."""
    panels = []
    for title, about, groups in subject.by_dataset():
        height = 0.9 + 0.24 * len(groups)
        draw = partial(_draw_seeds, groups=groups, subject=subject)
        panels.append(Panel(title, draw, about, "", (3.5, max(height, 1.8))))
    caption = "One dot per seed, a bar at the mean. Methods whose dots mix cannot be told apart by so few seeds."
    return Picture("seeds", "Spread over seeds", caption, panels)


def _draw_seeds(axes: Axes, tag: Tag, groups: Sequence[Group], subject: Subject) -> None:
    for y, group in enumerate(groups):
        number = subject.methods.index(group.method)
        scores = [record.score for record in group.records if record.score is not None]
        for record in group.records:
            if record.score is not None:
                dot = axes.scatter([record.score], [y], s=26, color=colour(number), alpha=0.75, linewidth=0)
                tip = f"{group.method}, seed {record.config['seed']}: {record.score:.1f} %"
                tag(dot, tip, method=group.method)
        if scores:
            mean = statistics.fmean(scores)
            (bar,) = axes.plot([mean, mean], [y - 0.32, y + 0.32], color=colour(number), lw=2)
            tag(bar, f"{group.method}: mean {mean:.1f} %", method=group.method)
    diverged = [sum(record.score is None for record in group.records) for group in groups]
    names = [
        clean(g.method) + (f" ({lost} diverged)" if lost else "") for g, lost in zip(groups, diverged, strict=True)
    ]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.set_xlabel("score (%)")


def learning(subject: Subject) -> Picture:
    """The mean training loss of every epoch."""
    panels = []
    for title, about, groups in subject.by_dataset():
        trained = [group for group in groups if any(record.losses for record in group.records)]
        if trained:
            draw = partial(_draw_learning, groups=trained, subject=subject)
            panels.append(Panel(title, draw, about, f"losses of {len(trained)} methods"))
    caption = "Mean training loss per epoch of the final training; the band holds all seeds. Recipes differ in length."
    return Picture("learning", "Learning curves", caption, panels, subject.methods)


def _draw_learning(axes: Axes, tag: Tag, groups: Sequence[Group], subject: Subject) -> None:
    shown: list[float] = []
    for group in groups:
        number = subject.methods.index(group.method)
        curves = [record.losses for record in group.records if record.losses]
        length = min(map(len, curves))
        losses = np.maximum(np.array([curve[:length] for curve in curves]), 1e-8)
        epochs = np.arange(1, length + 1)
        shown += [losses.min(), losses.max()]
        mean, marker = losses.mean(axis=0), "o" if length == 1 else None
        paint = {"color": colour(number), "linestyle": dash(number), "lw": 1.4, "marker": marker, "ms": 4}
        (line,) = axes.plot(epochs, mean, **paint)
        tag(line, f"{group.method}: last loss {mean[-1]:.3g}", method=group.method)
        if len(curves) > 1:
            band = axes.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=colour(number), alpha=0.15)
            band.set_linewidth(0)
            tag(band, "", method=group.method)
    log_axis(axes.yaxis, shown)
    axes.grid(True)
    lengths = [len(record.losses) for group in groups for record in group.records if record.losses]
    if max(lengths) > 3 * min(lengths):
        log_axis(axes.xaxis, [1, max(lengths)])
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")


def reliability(subject: Subject) -> Picture:
    """Confidence against the share that is right, from stored predictions of the test images."""
    found = [item for item in subject.by_method() if any(record.files for record in item[2].records)]
    most = max(3, MOST_PREDICTIONS // max(len(found), 1))
    panels = []
    for title, about, group in found[:MOST_PANELS]:
        chosen = sorted((r for r in group.records if "predictions" in r.files), key=lambda r: r.config["seed"])[:most]
        if chosen:
            draw = partial(draw_reliability, records=chosen, subject=subject)
            panels.append(Panel(title, draw, about, "", (3.1, 3.0)))
    caption = (
        "Confidence and share of right answers in bins of equal size, one line per dataset; below the diagonal a model "
        f"is too sure of itself. At most {most} runs per method are read, lower seeds first."
    )
    legend = [subject.name(dataset) for dataset in subject.short]
    return Picture(
        "reliability", "Reliability of the probabilities", caption, panels, legend if len(legend) > 1 else ()
    )


def cost(subject: Subject) -> Picture:
    """Seconds and memory against the score."""
    panels = []
    for title, about, records in subject.settings():
        rows = subject.whole_rows(records)
        memory = {
            group.method: statistics.fmean(r.peak_memory_mb for r in group.records) for group in groups_of(records)
        }
        seconds = {row.method: row.seconds for row in rows}
        ylabel = score_label(subject, records)
        for name, costs in (("seconds per run", seconds), ("peak memory of the process (MB)", memory)):
            if any(costs[row.method] > 0 for row in rows):
                draw = partial(_draw_cost, rows=rows, costs=costs, xlabel=name, ylabel=ylabel, subject=subject)
                panels.append(Panel(title, draw, about, "", (4.6, 3.4)))
    caption = (
        "Averages over runs. Seconds: on the machine that ran it, what was cached left out. Memory: the most that the "
        "process had held by then."
    )
    return Picture("cost", "Cost against score", caption, panels)


def _draw_cost(
    axes: Axes, tag: Tag, rows: Sequence[Row], costs: dict[str, float], xlabel: str, ylabel: str, subject: Subject
) -> None:
    points = [(max(costs[row.method], 1e-3), row.average or 0.0) for row in rows]
    log_axis(axes.xaxis, [x for x, _ in points])
    for row, (x, y) in zip(rows, points, strict=True):
        dot = axes.scatter(
            [x], [y], s=44, color=colour(subject.methods.index(row.method)), zorder=3, edgecolor=PAPER, linewidth=0.6
        )
        tag(dot, f"{row.method}: {y:.1f} %, {x:,.1f} {xlabel}", method=row.method)
    axes.margins(x=0.16, y=0.16)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True)
    _name(axes, tag, rows, points, pareto(points))


def search(subject: Subject) -> Picture:
    """What the searches tried, and how it scored on the validation images."""
    panels = []
    for title, about, group in subject.by_method():
        trials = [trial for record in group.records for trial in trials_of(record)]
        if trials:
            chosen = [(r.chosen.get("lr"), r.chosen.get("weight_decay")) for r in group.records]
            panels.append(
                Panel(title, partial(draw_search, trials=trials, chosen=chosen), about, f"{len(trials)} trials")
            )
    caption = (
        "Every trial of the searches, all datasets and seeds together; rings mark what was chosen, crosses diverged."
    )
    return Picture("search", "Search for learning rate and weight decay", caption, panels)


FIGURES: dict[str, Callable[[Subject], Picture]] = {
    "accuracy": accuracy,
    "heatmap": heatmap,
    "seeds": seeds,
    "learning": learning,
    "reliability": reliability,
    "cost": cost,
    "search": search,
}
__all__ = ["FIGURES", "GRID", "MOST_PANELS", "Predictions", "Subject", "pareto"]
