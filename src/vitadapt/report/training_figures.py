"""Beyond scores: how trainings went, what searches tried, and how far probabilities can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..benchmark.analysis.groups import Group
from ..benchmark.results.record import Record
from .figure import INK, MUTED, Axes, Panel, Picture, Tag, colour, dash, log_axis
from .figure_data import Predictions, Subject

MOST_PREDICTIONS = 300  # files that are read for reliability diagrams


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


def _draw_learning(axes: Axes, tag: Tag, groups: Sequence[Group[Record]], subject: Subject) -> None:
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
    axes.set(xlabel="epoch", ylabel="training loss")


def reliability(subject: Subject) -> Picture:
    """Confidence against the share that is right, from stored predictions of the test images."""
    found = [item for item in subject.by_method() if any(record.files for record in item[2].records)]
    most = max(3, MOST_PREDICTIONS // max(len(found), 1))
    panels = []
    for title, about, group in found:
        chosen = sorted((r for r in group.records if "predictions" in r.files), key=lambda r: r.config["seed"])[:most]
        if chosen:
            draw = partial(_draw_reliability, records=chosen, subject=subject)
            panels.append(Panel(title, draw, about, "", (3.1, 3.0)))
    caption = (
        "Confidence and share of right answers in bins of equal size, one line per dataset; below the diagonal a model "
        f"is too sure of itself. At most {most} runs per method are read, lower seeds first."
    )
    legend = [subject.name(dataset) for dataset in subject.short]
    return Picture(
        "reliability", "Reliability of the probabilities", caption, panels, legend if len(legend) > 1 else ()
    )


def _draw_reliability(axes: Axes, tag: Tag, records: Sequence[Record], subject: Subject) -> None:
    """Confidence against the share of right answers; one line per dataset, its seeds pooled."""
    from ..metrics.calibration import calibration_bins, ece

    errors = []
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, linestyle=(0, (4, 3)))
    for dataset, (labels, probabilities) in pooled(records, subject.predictions).items():
        number = list(subject.short).index(dataset)
        bins, error = calibration_bins(labels, probabilities), ece(labels, probabilities)
        errors.append(error)
        paint = {"color": colour(number), "linestyle": dash(number), "lw": 1.3, "marker": "o", "ms": 3, "alpha": 0.85}
        (line,) = axes.plot(bins.confidence, bins.accuracy, **paint)
        tag(line, f"{subject.short[dataset]}: calibration error {100 * error:.1f} %", dataset=dataset)
    text = (
        f"{'mean ' if len(errors) > 1 else ''}ECE {100 * np.mean(errors):.1f} %"
        if errors
        else "predictions are missing"
    )
    axes.text(0.03, 0.95, text, transform=axes.transAxes, va="top", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right", aspect="equal")
    axes.grid(True)


def pooled(records: Sequence[Record], predictions: Predictions) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Dataset -> (labels, probabilities) of all its records that have predictions.

    Raises StorageError when one of the files is missing or damaged: a picture of the others would look like one of all.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for record in records:
        if "predictions" not in record.files:
            continue
        probabilities, labels = predictions(record)
        known = parts[record.config["dataset"]]
        if not known or known[0][1].shape[1] == probabilities.shape[1]:
            known.append((labels, probabilities))
    return {
        dataset: (np.concatenate([a for a, _ in known]), np.concatenate([b for _, b in known]))
        for dataset, known in parts.items()
    }


def search(subject: Subject) -> Picture:
    """What the searches tried, and how it scored on the validation images."""
    panels = []
    for title, about, group in subject.by_method():
        trials = [trial for record in group.records for trial in trials_of(record)]
        if trials:
            chosen = [(r.chosen.get("lr"), r.chosen.get("weight_decay")) for r in group.records]
            panels.append(
                Panel(title, partial(_draw_search, trials=trials, chosen=chosen), about, f"{len(trials)} trials")
            )
    caption = (
        "Every trial of the searches, all datasets and seeds together; rings mark what was chosen, crosses diverged."
    )
    return Picture("search", "Search for learning rate and weight decay", caption, panels)


def trials_of(record: Record) -> list[tuple[float, float, float | None]]:
    """(learning rate, weight decay, score or None) of every point that was tried; of several trials of one point the
    longest. Records without a search, or with a trace in another form, have none."""
    longest: dict[tuple[float, float], tuple[int, float | None]] = {}
    for row in record.chosen.get("trace") or []:
        if not isinstance(row, Sequence) or len(row) < 4 or not all(isinstance(part, (int, float)) for part in row[:2]):
            continue
        lr, decay, epochs, score = row[:4]
        if (epochs or 0) >= longest.get((lr, decay), (0, None))[0]:
            longest[(lr, decay)] = (epochs or 0, score)
    return [(lr, decay, score) for (lr, decay), (_, score) in longest.items()]


def _draw_search(
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
    axes.set(xlabel="learning rate", ylabel="weight decay")
