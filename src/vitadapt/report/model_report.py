"""One page about a fitted model, for the person who made it: how good it is, where it errs, what would help.

It is one file without a network, like the page about runs, of whose parts it is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from ..metrics.scores import share_interval
from .figure import clean
from .fitted_model import Answers, Fitted
from .html_page import drawn, render
from .labels_report import candidate_rows, facts_of, labels_page
from .model_figures import MODEL_FIGURES, MORE
from .thumbnail import thumbnail

MOST_MISTAKES, MOST_DOUBTS, MOST_CONFUSED = 24, 12, 12
DOUBTED = 0.5  # probability of another class from which a training label is worth a look


def model_page(model: Fitted) -> str:
    """The page as text. Raises MissingPackage without jinja2 or matplotlib."""
    if model.thresholds:
        return labels_page(model)
    pictures = {picture["name"]: picture for picture in drawn(make(model) for make in MODEL_FIGURES.values())}
    values = {
        "title": clean(model.name, 60),
        "head": _headline(model),
        "tested": model.tested,
        "measure": model.measure,
        "pictures": pictures,
        "candidates": candidate_rows(model),
        "classes": _classes(model),
        "confused": _confused(model),
        "mistakes": _gallery(model.held_out, model.held_out.wrong[:MOST_MISTAKES], model.classes),
        "wrong": len(model.held_out.wrong),
        "doubts": _doubts(model),
        "forecast": _forecast(model),
        "limits": [clean(line, 600) for line in model.limits],
        "facts": facts_of(model),
        "notes": [clean(note, 400) for note in model.notes],
        "command": model.command,
        "versions": [(name, value) for name, value in model.versions.items()],
    }
    return render("model.html", ["page.css", "model.css"], ["common.js"], values)


def _headline(model: Fitted) -> dict[str, Any]:
    held = model.held_out
    shown = {"score": None, "low": 0.0, "high": 0.0, "right": len(held) - len(held.wrong), "count": len(held)}
    if model.score is not None and model.interval is not None:
        shown |= {"score": model.score, "low": model.interval[0], "high": model.interval[1]}
    shown["balanced"] = model.balanced
    return shown | {"classes": len(model.classes), "train": int(sum(model.counts)), "method": clean(model.method, 60)}


def _classes(model: Fitted) -> list[dict[str, Any]]:
    """Recall with its interval, precision and F1 of every class; the weakest first."""
    matrix, rows = model.confusion, []
    for c, name in enumerate(model.classes):
        right, count, answered = int(matrix[c, c]), int(matrix[c].sum()), int(matrix[:, c].sum())
        recall = right / count if count else math.nan
        low, high = share_interval(right, count) if count else (math.nan, math.nan)
        precision = right / answered if answered else math.nan
        f1 = 2 * right / (count + answered) if count + answered else math.nan
        share = {"recall": recall, "low": low, "high": high}
        texts = [f"{model.counts[c]:,}", f"{count:,}", _percent(recall), _percent(precision), _percent(f1)]
        rows.append({"name": clean(name, 60), "full": name, "texts": texts, **share})
    return sorted(rows, key=lambda row: (math.isnan(row["recall"]), row["recall"]))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _confused(model: Fitted) -> list[tuple[str, str, int]]:
    """(truth, answer, how often) of the commonest mistakes."""
    matrix = model.confusion.copy()
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:MOST_CONFUSED]
    cells = (divmod(int(place), len(matrix)) for place in order)
    names = [clean(name, 48) for name in model.classes]
    return [(names[i], names[j], int(matrix[i, j])) for i, j in cells if matrix[i, j]]


def _doubts(model: Fitted) -> list[dict[str, Any]]:
    """Training pictures that models which never saw them take for another class, most confidently first."""
    cross = model.cross
    if cross is None:
        return []
    rows = [row for row in cross.wrong if cross.probabilities[row].max() >= DOUBTED]
    return _gallery(cross, rows[:MOST_DOUBTS], model.classes)


def _gallery(answers: Answers, rows: Sequence[int] | np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Pictures with their true and given class, and what the file is called."""
    shown = []
    for row in map(int, rows):
        name = answers.refs[row].name
        truth, answer = int(answers.labels[row]), int(answers.predicted[row])
        shown.append(
            {
                "source": thumbnail(answers.refs[row]),
                "file": clean("/".join(PurePath(name).parts[-2:]), 40),
                "full": clean("/".join(PurePath(name).parts[-2:]), 300),
                "truth": clean(classes[truth], 32),
                "answer": clean(classes[answer], 32),
                "sure": f"{100 * answers.probabilities[row, answer]:.0f}",
                "truth_sure": f"{100 * answers.probabilities[row, truth]:.0f}",
            }
        )
    return shown


def _forecast(model: Fitted) -> dict[str, Any] | None:
    forecast = model.forecast
    if forecast is None:
        return None
    rows = []
    for more in MORE:
        gain, low, high = forecast.gain(more)
        accuracy = float(forecast.accuracy(forecast.now + more))
        rows.append((more, f"+{gain:.1f}", f"+{low:.1f} to +{high:.1f}", f"{accuracy:.1f}"))
    return {"sentence": forecast.sentence(MORE[1]), "now": f"{forecast.now:.3g}", "rows": rows}
