"""The page of a fitted model whose pictures may have several labels each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from ..metrics.scores import per_class
from ..metrics.several_labels import decided
from .figure import clean
from .fitted_model import Answers, Candidate, Fitted
from .html_page import drawn, render
from .model_figures import candidates, training
from .thumbnail import thumbnail

MOST_MISTAKES, MOST_DOUBTS = 24, 12


def labels_page(model: Fitted) -> str:
    """The page as text. Raises MissingPackage without jinja2 or matplotlib."""
    pictures = {picture["name"]: picture for picture in drawn(make(model) for make in (candidates, training))}
    wrong = _wrong(model, model.held_out)
    values = {
        "title": clean(model.name, 60),
        "head": _headline(model, len(wrong)),
        "pictures": pictures,
        "candidates": candidate_rows(model),
        "classes": _classes(model),
        "mistakes": _gallery(model, model.held_out, wrong[:MOST_MISTAKES]),
        "doubts": _doubts(model),
        "facts": facts_of(model),
        "notes": [clean(note, 400) for note in model.notes],
        "command": model.command,
        "versions": [(name, value) for name, value in model.versions.items()],
    }
    return render("labels.html", ["page.css", "model.css"], ["common.js"], values)


def candidate_rows(model: Fitted) -> list[tuple[Any, ...]]:
    """Name, texts, whether it was kept, and the odds of every candidate."""
    return [(clean(one.name, 60), *one.texts(), one.kept, _odds(one)) for one in model.candidates]


def _odds(one: Candidate) -> str:
    """The probability that the kept candidate is better than this one, or why that is not known."""
    return one.note if one.odds is None else f"{100 * one.odds:.0f} %"


def facts_of(model: Fitted) -> list[tuple[str, str]]:
    """Name and value of what fixes the model, where it is known."""
    facts = {
        "backbone": f"{clean(model.backbone, 80)} at {model.image_size} x {model.image_size} pixels",
        "method": clean(model.method, 200),
        "trained parameters": f"{model.trained:,}" if model.trained is not None else "",
        "adapter file": f"{model.size / 1000:,.0f} kB" if model.size else "",
        "cross-validation": f"{model.folds} folds" if model.folds else "",
        "seed": "" if model.seed is None else str(model.seed),
        "made": clean(model.created, 60),
        "licence": clean(model.licence, 80),
        "licence of the backbone": clean(model.base_licence, 80),
    }
    return [(name, value) for name, value in facts.items() if value]


def _headline(model: Fitted, wrong: int) -> dict[str, Any]:
    low, high = model.interval or (0.0, 0.0)
    shown: dict[str, Any] = {
        "score": model.score,
        "low": low,
        "high": high,
        "wrong": wrong,
        "count": len(model.held_out),
    }
    shown |= {"tested": model.tested, "measure": model.measure}
    return shown | {"classes": len(model.classes), "train": model.pictures, "method": clean(model.method, 60)}


def _classes(model: Fitted) -> list[dict[str, Any]]:
    """Average precision of every class, and recall, precision and F1 of the labels given; the weakest first."""
    held, count = model.held_out, len(model.classes)
    found = per_class(held.labels, held.probabilities) if len(held) else np.full(count, np.nan)
    columns = [model.label_scores.get(name) or [None] * count for name in ("recall", "precision", "f1")]
    totals = held.labels.sum(axis=0) if len(held) else np.zeros(count, dtype=np.int64)
    rows = []
    for c, name in enumerate(model.classes):
        texts = [f"{model.counts[c]:,}", f"{int(totals[c]):,}", "-" if np.isnan(found[c]) else f"{100 * found[c]:.1f}"]
        texts += ["-" if (share := column[c]) is None else f"{share:.1f}" for column in columns]
        full = {"name": clean(name, 60), "full": name, "texts": [*texts, f"{model.thresholds[c]:.3f}"]}
        rows.append({**full, "score": float(found[c])})
    return sorted(rows, key=lambda row: (np.isnan(row["score"]), row["score"]))


def _wrong(model: Fitted, answers: Answers) -> np.ndarray:
    """Rows with a label too many or too few, first where a probability is farthest on the wrong side."""
    if not len(answers):
        return np.zeros(0, dtype=np.int64)
    distance = _distance(model, answers)
    worst = distance.max(axis=1)
    rows = np.flatnonzero(worst > 0)
    return np.asarray(rows[np.argsort(-worst[rows], kind="stable")])


def _distance(model: Fitted, answers: Answers) -> np.ndarray:
    """(N, C) how far a probability is on the wrong side of its threshold; 0 on the right one."""
    thresholds = np.asarray(model.thresholds)
    wrong = decided(answers.probabilities, thresholds) != (answers.labels > 0)
    return np.where(wrong, np.maximum(abs(answers.probabilities - thresholds), 1e-12), 0)


def _doubts(model: Fitted) -> list[dict[str, Any]]:
    """Training pictures whose labels models that never saw them contradict most."""
    return [] if model.cross is None else _gallery(model, model.cross, _wrong(model, model.cross)[:MOST_DOUBTS])


def _gallery(model: Fitted, answers: Answers, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """Pictures with the labels that are given wrongly, those that are missing, and what the file is called."""
    shown = []
    for row in map(int, rows):
        given = decided(answers.probabilities[row], np.asarray(model.thresholds))
        true = answers.labels[row] > 0
        name = "/".join(PurePath(answers.refs[row].name).parts[-2:])
        shown.append(
            {
                "source": thumbnail(answers.refs[row]),
                "file": clean(name, 40),
                "full": clean(name, 300),
                "more": _named(model, answers.probabilities[row], given & ~true),
                "less": _named(model, answers.probabilities[row], true & ~given),
                "right": ", ".join(clean(model.classes[c], 32) for c in np.flatnonzero(given & true).tolist()),
            }
        )
    return shown


def _named(model: Fitted, probabilities: np.ndarray, chosen: np.ndarray) -> list[tuple[str, str]]:
    """(class, percent) of the chosen classes."""
    return [(clean(model.classes[c], 32), f"{100 * probabilities[c]:.0f}") for c in np.flatnonzero(chosen).tolist()]
