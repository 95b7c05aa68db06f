"""The pictures of a fitted model: its candidates, confusions, calibration, learning curve and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..metrics.calibration import calibration_bins, ece
from ..metrics.learning_curve import LEVEL, Forecast
from ..metrics.scores import share_interval
from .figure import INK, MUTED, PAPER, Axes, Panel, Picture, Tag, clean, colour, log_axis
from .fitted_model import Answers, Candidate, Fitted

MOST_CELLS = 40  # classes of a confusion matrix that can be drawn
MORE = (10, 20, 50)  # further labels per class that the forecast is made for
BINS = 10


def candidates(model: Fitted) -> Picture:
    """Scores of every candidate by cross-validation and on the held-out pictures."""
    chosen = "The candidate with the best cross-validated score" if model.compared else "The simplest that trains"
    caption = (
        f"{chosen} was kept. Bars: one standard deviation over the folds, and "
        "around the measured accuracy of what was kept a 95 % interval. Odds: how often the kept one is the better of "
        "the two when the training pictures are drawn anew."
    )
    known = [r for r in model.candidates if r.cross_validated is not None or r.held_out is not None]
    size = (5.4, 0.95 + 0.42 * len(known))
    panels = (
        [Panel("", partial(_draw_candidates, model=model, known=known), {}, "the numbers are in the table", size)]
        if known
        else []
    )
    return Picture("candidates", "The candidates", caption, panels, ("cross-validated", "measured") if known else ())


def _draw_candidates(axes: Axes, tag: Tag, model: Fitted, known: Sequence[Candidate]) -> None:
    for y, candidate in enumerate(known):
        if candidate.cross_validated is not None:
            bars = {"fmt": "o", "ms": 6, "capsize": 3, "color": colour(0), "lw": 1.4}
            drawn = axes.errorbar(candidate.cross_validated, y - 0.13, xerr=candidate.deviation, **bars)
            tag(drawn.lines[0], f"{candidate.name}: {candidate.cross_validated:.1f} % cross-validated")
        if candidate.held_out is not None:
            around = None
            if candidate.kept and model.interval is not None and model.score is not None:
                around = [
                    [max(candidate.held_out - model.interval[0], 0)],
                    [max(model.interval[1] - candidate.held_out, 0)],
                ]
            bars = {"fmt": "s", "ms": 6, "capsize": 3, "color": colour(1), "lw": 1.4}
            drawn = axes.errorbar(candidate.held_out, y + 0.13, xerr=around, **bars)
            tag(drawn.lines[0], f"{candidate.name}: {candidate.held_out:.1f} % of the {model.tested}")
    names = [clean(candidate.name) + (" (kept)" if candidate.kept else "") for candidate in known]
    axes.set_yticks(range(len(known)), names)
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.set_xlabel(f"{model.metric} (%)")


def confusion(model: Fitted) -> Picture:
    """Which classes were taken for which."""
    caption = (
        f"Rows: the true class; columns: the answer; numbers: {model.tested}; shade: share of the row. What lies off "
        "the diagonal is wrong."
    )
    count = len(model.classes)
    panels = []
    if len(model.held_out) and count <= MOST_CELLS:
        longest = max(len(clean(name, 24)) for name in model.classes)
        cell = 0.42 if count <= 12 else 0.3
        side = 0.9 + 0.065 * longest + cell * count
        right = len(model.held_out) - len(model.held_out.wrong)
        summary = f"{right} of {len(model.held_out)} pictures are on the diagonal"
        panels = [Panel("", partial(_draw_confusion, model=model), {}, summary, (side, side - 0.25))]
    return Picture("confusion", "Confusion matrix", caption, panels)


def _draw_confusion(axes: Axes, tag: Tag, model: Fitted) -> None:
    from matplotlib.patches import Rectangle

    matrix = model.confusion
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [clean(name, 24) for name in model.classes]
    for (i, j), number in np.ndenumerate(matrix):
        hue = colour(0) if i == j else colour(1)
        share = float(shares[i, j])
        face = {"facecolor": hue, "alpha": 0.08 + 0.85 * share} if number else {"facecolor": "none"}
        patch = axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, edgecolor=PAPER, linewidth=1, **face))
        if number:
            tag(patch, f"{names[i]} taken for {names[j]}: {number} ({100 * share:.0f} %)")
            ink = PAPER if share > 0.45 else INK
            axes.text(j, i, str(number), ha="center", va="center", fontsize=8, color=ink)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="answer", ylabel="truth")


def calibration(model: Fitted) -> Picture:
    """How far the probabilities can be trusted, on held-out pictures and in cross-validation."""
    held = None if model.cross_measured else model.held_out
    parts: dict[str, Answers | None] = {model.tested: held, "cross-validation": model.cross}
    known = {name: answers for name, answers in parts.items() if answers is not None and len(answers) >= BINS}
    panels = [
        Panel(_title(name, answers), partial(_draw_calibration, answers=answers), {}, "", (3.4, 3.3))
        for name, answers in known.items()
    ]
    caption = (
        "When it says 80 %, is it right in 80 of 100 cases? Points on the dashed line: yes; below it the model is too "
        "sure of itself. Whiskers: 95 % intervals. Bars at the foot: how many pictures."
    )
    return Picture("calibration", "Calibration", caption, panels)


def _bins(answers: Answers) -> int:
    """As many as leave eight pictures in each."""
    return min(BINS, max(len(answers) // 8, 1))


def _title(name: str, answers: Answers) -> str:
    return f"{name}: error {100 * ece(answers.labels, answers.probabilities, _bins(answers)):.1f} %"


def _draw_calibration(axes: Axes, tag: Tag, answers: Answers) -> None:
    bins = calibration_bins(answers.labels, answers.probabilities, _bins(answers))
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, linestyle=(0, (4, 3)))
    confidence = answers.probabilities.max(axis=1)
    counts, edges = np.histogram(confidence, bins=20, range=(0, 1))
    axes.bar(edges[:-1], 0.16 * counts / max(counts.max(), 1), 0.05, align="edge", color=colour(0), alpha=0.3)
    for count, x, share in zip(bins.count, bins.confidence, bins.accuracy, strict=True):
        low, high = share_interval(round(share * count), int(count))
        error = [[max(share - low, 0)], [max(high - share, 0)]]
        drawn = axes.errorbar(x, share, yerr=error, fmt="o", ms=4.5, color=colour(0), lw=1.2, capsize=2)
        tag(drawn.lines[0], f"{count} pictures, confidence {100 * x:.0f} %: {100 * share:.0f} % right")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="confidence", ylabel="share right", aspect="equal")
    axes.grid(True)


def labels(model: Fitted) -> Picture:
    """The learning curve and the forecast."""
    caption = (
        "Accuracy of a linear probe on the frozen features, cross-validated at growing subsets of the labels: dots are "
        "means, whiskers one standard deviation over folds and seeds. The line is a power law, the band nine tenths of "
        "the laws that resampled folds give. It holds for more pictures of the same kind."
    )
    if model.forecast is None:
        return Picture("labels", "What more labels would bring", caption, [])
    draw = partial(_draw_forecast, forecast=model.forecast)
    summary = "; ".join(model.forecast.sentence(more) for more in MORE)
    return Picture("labels", "What more labels would bring", caption, [Panel("", draw, {}, summary, (6.0, 3.4))])


def _draw_forecast(axes: Axes, tag: Tag, forecast: Forecast) -> None:
    until = forecast.now + MORE[-1]
    n = np.geomspace(forecast.sizes[0], until, 120)
    low, high = forecast.band(n)
    band = axes.fill_between(n, low, high, color=colour(0), alpha=0.15)
    band.set_linewidth(0)
    tag(band, f"{100 * LEVEL:.0f} % of resampled curves")
    seen = n <= forecast.now
    axes.plot(n[seen], forecast.accuracy(n[seen]), color=colour(0), lw=1.6)
    axes.plot(n[~seen], forecast.accuracy(n[~seen]), color=colour(0), lw=1.6, linestyle=(0, (5, 2)))
    mean, deviation = forecast.scores.mean(axis=0), forecast.scores.std(axis=0, ddof=1)
    for x, score, around in zip(forecast.sizes, mean, deviation, strict=True):
        drawn = axes.errorbar(x, score, yerr=around, fmt="o", ms=5, color=colour(0), lw=1.2, capsize=2.5)
        tag(drawn.lines[0], f"{x:.3g} labels per class: {score:.1f} ± {around:.1f} %")
    for more in MORE:
        gain, least, most = forecast.gain(more)
        (point,) = axes.plot(
            forecast.now + more, forecast.accuracy(forecast.now + more), "D", ms=5, mfc=PAPER, color=colour(1)
        )
        tag(point, f"{more} more labels per class: +{gain:.1f} ({least:.1f} to {most:.1f})")
    axes.axvline(forecast.now, color=MUTED, lw=1, linestyle=(0, (2, 2)))
    axes.annotate("now", (forecast.now, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0), fontsize=8,
                  textcoords="offset points", color=MUTED)  # fmt: skip
    log_axis(axes.xaxis, [n[0], until])
    top = min(100.5, max(high.max(), (mean + deviation).max()) + 2)
    axes.set_ylim(max(min(low.min(), (mean - deviation).min()) - 3, 0), top)
    axes.set(xlabel="labels per class", ylabel="accuracy (%)")
    axes.grid(True)


def training(model: Fitted) -> Picture:
    """The training loss of every epoch."""
    losses = [loss for loss in model.losses if np.isfinite(loss)]
    draw = partial(_draw_training, losses=losses)
    panels = [Panel("", draw, {}, f"the last is {losses[-1]:.3g}", (4.6, 2.8))] if losses else []
    return Picture("training", "Training", "Mean training loss of every epoch of the final training.", panels)


def _draw_training(axes: Axes, tag: Tag, losses: list[float]) -> None:
    shown = np.maximum(losses, 1e-8)
    (line,) = axes.plot(
        range(1, len(shown) + 1), shown, color=colour(0), lw=1.6, marker="o" if len(shown) < 2 else None
    )
    tag(line, f"last loss {shown[-1]:.3g}")
    log_axis(axes.yaxis, list(shown))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(True)
    axes.set(xlabel="epoch", ylabel="training loss")


MODEL_FIGURES: dict[str, Callable[[Fitted], Picture]] = {
    "candidates": candidates,
    "confusion": confusion,
    "calibration": calibration,
    "labels": labels,
    "training": training,
}
