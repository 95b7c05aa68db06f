"""Scores side by side: by dataset, and by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..benchmark.analysis.groups import Group, TableRow
from ..benchmark.results.record import Record
from .figure import MUTED, PAPER, Axes, Panel, Picture, Tag, clean, colour
from .figure_data import Subject


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


def _cells(rows: Sequence[TableRow]) -> str:
    count = sum(cell.mean is not None for row in rows for cell in row.cells.values())
    return f"{count} scores of {len(rows)} methods; the same numbers are in the table of results"


def _draw_heatmap(axes: Axes, tag: Tag, rows: Sequence[TableRow], subject: Subject) -> None:
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
    axes: Axes, tag: Tag, row: TableRow, dataset: str, place: tuple[int, int], shade: Any, subject: Subject
) -> None:
    from matplotlib.patches import Rectangle

    cell = row.cells[dataset]
    about = {"method": row.method, "dataset": dataset}
    face = "none" if cell.mean is None else shade
    patch = Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=1.5)
    tag(axes.add_patch(patch), f"{row.method} on {subject.short[dataset]}: {cell.text() or 'no score'}", **about)
    light = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 0.5
    ink = MUTED if cell.mean is None else "#000000" if light else "#ffffff"
    text = "–" if cell.mean is None else f"{cell.mean:.1f}"
    tag(axes.text(*place, text, ha="center", va="center", fontsize=8, color=ink), "", **about)


def seeds(subject: Subject) -> Picture:
    """Every seed's score: how much of a difference between methods is luck."""
    panels = []
    for title, about, groups in subject.by_dataset():
        height = 0.9 + 0.24 * len(groups)
        draw = partial(_draw_seeds, groups=groups, subject=subject)
        panels.append(Panel(title, draw, about, "", (3.5, max(height, 1.8))))
    caption = "One dot per seed, a bar at the mean. Where the dots of methods mix, so few seeds cannot separate them."
    return Picture("seeds", "Spread over seeds", caption, panels)


def _draw_seeds(axes: Axes, tag: Tag, groups: Sequence[Group[Record]], subject: Subject) -> None:
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
