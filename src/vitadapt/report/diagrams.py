"""Two panels that need more than records' scores: reliability of probabilities, and the trials of a search."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import StorageError
from ..results import Record
from .panels import INK, MUTED, Axes, Tag, colour, dash, log_axis

Predictions = Callable[[Record], tuple[np.ndarray, np.ndarray]]
"""Record -> (probabilities (N, C), labels). Raises StorageError when there are none."""


class Names(Protocol):
    """What these panels ask of the subject: where predictions are, and what datasets are called."""

    predictions: Predictions
    short: dict[str, str]


def draw_reliability(axes: Axes, tag: Tag, records: Sequence[Record], subject: Names) -> None:
    """Confidence against the share of right answers; one line per dataset, its seeds pooled."""
    from ..reliability import calibration_bins, ece

    errors = []
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, linestyle=(0, (4, 3)))
    for dataset, (labels, probabilities) in pooled(records, subject.predictions).items():
        number = list(subject.short).index(dataset)
        bins, error = calibration_bins(labels, probabilities), ece(labels, probabilities)
        errors.append(error)
        paint = {"color": colour(number), "linestyle": dash(number), "lw": 1.3, "marker": "o", "ms": 3, "alpha": 0.85}
        (line,) = axes.plot(bins.confidence, bins.accuracy, **paint)
        tag(line, f"{subject.short[dataset]}: calibration error {100 * error:.1f} %", dataset=dataset)
    said = (
        f"{'mean ' if len(errors) > 1 else ''}ECE {100 * np.mean(errors):.1f} %"
        if errors
        else "predictions are missing"
    )
    axes.text(0.03, 0.95, said, transform=axes.transAxes, va="top", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right", aspect="equal")
    axes.grid(True)


def pooled(records: Sequence[Record], predictions: Predictions) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Dataset -> (labels, probabilities) of all its records with whole predictions; what is damaged is left out."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for record in records:
        try:
            probabilities, labels = predictions(record)
        except StorageError:
            continue  # the picture shows what there is; `Store.predictions` tells those who need this very file
        known = parts[record.config["dataset"]]
        if not known or known[0][1].shape[1] == probabilities.shape[1]:
            known.append((labels, probabilities))
    return {
        dataset: (np.concatenate([a for a, _ in known]), np.concatenate([b for _, b in known]))
        for dataset, known in parts.items()
    }


def trials_of(record: Record) -> list[tuple[float, float, float | None]]:
    """(learning rate, weight decay, score or None) of every point that was tried; of several trials of one point the
    longest. Records without a search, or with a trace in another form, tell of none."""
    longest: dict[tuple[float, float], tuple[int, float | None]] = {}
    for row in record.chosen.get("trace") or []:
        if not isinstance(row, Sequence) or len(row) < 4 or not all(isinstance(part, (int, float)) for part in row[:2]):
            continue
        lr, decay, epochs, score = row[:4]
        if (epochs or 0) >= longest.get((lr, decay), (0, None))[0]:
            longest[(lr, decay)] = (epochs or 0, score)
    return [(lr, decay, score) for (lr, decay), (_, score) in longest.items()]


def draw_search(
    axes: Axes, tag: Tag, trials: Sequence[tuple[float, float, float | None]], chosen: Sequence[tuple[Any, Any]]
) -> None:
    """Trials in the plane of learning rate and weight decay; colour is the mean score of equal ones."""
    scores: dict[tuple[float, float], list[float]] = defaultdict(list)
    for lr, decay, score in trials:
        scores[(lr, decay)] += [] if score is None else [score]
    fine = {point: float(np.mean(values)) for point, values in scores.items() if values}
    lost = [point for point, values in scores.items() if not values]
    if fine:
        x, y = zip(*fine, strict=True)
        dots = axes.scatter(x, y, c=list(fine.values()), cmap="viridis", s=24, zorder=2, edgecolor=MUTED, linewidth=0.5)
        axes.figure.colorbar(dots, ax=axes, label="validation score", pad=0.02, aspect=30)
    if lost:
        axes.scatter(*zip(*lost, strict=True), marker="x", color=MUTED, s=22, linewidth=1.2)
    rings = {point for point in chosen if None not in point}
    if rings:
        x, y = zip(*rings, strict=True)
        axes.scatter(x, y, facecolor="none", edgecolor=INK, s=80, linewidth=1.2, zorder=3)
    points = [*scores, *rings]
    log_axis(axes.xaxis, [lr for lr, _ in points])
    if all(decay > 0 for _, decay in points):
        log_axis(axes.yaxis, [decay for _, decay in points])
    axes.margins(0.1)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("weight decay")
