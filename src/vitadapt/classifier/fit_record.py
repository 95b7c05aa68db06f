"""`fit.json`: what is known of a fitted model, as plain JSON values; its pages are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..methods.spec import method_text
from ..metrics.scores import eleven_point_map, per_class, share_interval
from ..metrics.several_labels import class_scores, decided, map_interval
from ..nn.head_spec import head_text
from ..utils.errors import StorageError, damaged
from ..utils.files import parse_checked_json, read_text
from .competition import Competition
from .holdout import TrainTestSplit
from .model_selection import Candidate, odds

FORMAT = "vitadapt-fit/2"
FORMATS = ("vitadapt-fit/1", FORMAT)  # the first had no checksum
RECORD = "fit.json"


def image_fields(spec: str) -> dict[str, Any]:
    """What a configuration says of the images: the fields, and so the digests, of a run of a benchmark."""
    return {"dataset": spec, "shots": None, "protocol": "fixed"}


def selection_record(
    selected: Candidate, candidates: list[Candidate], data: TrainTestSplit, common: Competition
) -> dict[str, Any]:
    """Data, classes, settings, candidates, and the probabilities from cross-validation of every training image."""
    fold, spec = common.fold, common.config.data
    config, labels = selected.task.config, data.train.labels
    ladder = [
        {
            "name": candidate.name,
            "score": candidate.score,
            "deviation": candidate.deviation,
            "trained": candidate.parameters,
            "seconds": candidate.seconds,
            "kept": candidate.name == selected.name,
            "note": candidate.note,
            "image_size": candidate.task.backbone.image_size,
            "epochs": candidate.task.recipe.epochs if candidate.trains_backbone else None,
            "temperature": candidate.temperature,
            "odds": None if candidate is selected else odds(selected, candidate, labels, common.measure),
        }
        for candidate in candidates
    ]
    cross = {
        "paths": [ref.name for ref in data.train.refs],
        "labels": labels.tolist(),
        "groups": data.groups.tolist(),
        "fold": None if fold is None else fold.tolist(),
        "probabilities": None if selected.probabilities is None else _plain(selected.probabilities),
    }
    return {
        "data": {
            "name": data.name,
            "train": data.counts(data.train),
            "test": data.counts(data.test),
            "given": data.given,
            "delivered": data.counts(data.delivered),
            "measured_by": data.measured_by,
            "findings": [f"{f.level}: {f.message}" for f in data.findings],
            "notes": list(data.notes),
        },
        "classes": list(data.classes),
        "backbone": config.backbone,
        "image_size": config.image_size,
        "method": method_text(config.method),
        "head": head_text(config.head),
        "config": config.to_dict() | image_fields(spec),
        "seed": config.seed,
        "folds": 0 if fold is None else int(fold.max()) + 1,
        "ladder": ladder,
        "cross_validation": cross,
    }


def scores(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] | np.ndarray = ()
) -> dict[str, Any]:
    """Accuracy in percent with its 95 % interval (Wilson) and per class, and the predictions; None without images.

    Of several labels per image, where there are `thresholds`: see `several_scores`.
    """
    count = len(labels)
    plain: dict[str, Any] = {"count": count, "labels": labels.tolist(), "probabilities": _plain(probabilities)}
    if len(thresholds):
        return {**plain, **several_scores(labels, probabilities, thresholds)}
    if not count:
        return {**plain, "accuracy": None, "balanced_accuracy": None, "interval": None, "per_class": []}
    right = int((probabilities.argmax(axis=1) == labels).sum())
    low, high = share_interval(right, count)
    recalls = _percent(per_class(labels, probabilities))
    known = [value for value in recalls if value is not None]
    found = {"accuracy": 100 * right / count, "balanced_accuracy": sum(known) / len(known)}
    return {**plain, **found, "interval": [100 * low, 100 * high], "per_class": recalls}


def several_scores(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] | np.ndarray
) -> dict[str, Any]:
    """Mean average precision in percent with its 95 % interval (bootstrap), and per class average precision, recall,
    precision and F1 of the labels that `thresholds`, (C,) or (N, C), give; None where nothing can be said.
    """
    if not labels.any():
        return {"mean_average_precision": None, "interval": None, "macro_f1": None, "per_class": [], "per_label": {}}
    low, high = map_interval(labels, probabilities)
    recall, precision, f1 = class_scores(labels, decided(probabilities, np.asarray(thresholds)))
    occurring = labels.any(axis=0)
    return {
        "mean_average_precision": 100 * eleven_point_map(labels, probabilities),
        "interval": [100 * low, 100 * high],
        "macro_f1": 100 * float(f1[occurring].mean()),
        "per_class": _percent(per_class(labels, probabilities)),
        "per_label": {"recall": _percent(recall), "precision": _percent(precision), "f1": _percent(f1)},
    }


def headline(test: dict[str, Any]) -> float | None:
    """The score of a model in percent: its accuracy, or its mean average precision; None without images."""
    score: float | None = test[_score_name(test)]
    return score


def _score_name(test: dict[str, Any]) -> str:
    return "mean_average_precision" if "mean_average_precision" in test else "accuracy"


def _percent(shares: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else 100 * float(value) for value in shares]


def _plain(probabilities: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 6) for value in row] for row in probabilities]


def read_record(folder: Path) -> dict[str, Any]:
    """What `fit.json` in `folder` says. Raises StorageError when it is missing or damaged."""
    path = folder / RECORD
    if not path.exists():
        raise StorageError(f"{folder}: no {RECORD} there; make a model with 'vitadapt fit PHOTOS --out {folder}'")
    with damaged(path, "delete it and fit again", StorageError, "is damaged"):
        record = parse_checked_json(read_text(path), lambda plain: plain.get("format") != FORMAT)  # older ones lack it
    if record.get("format") not in FORMATS:
        raise StorageError(f"{path}: not a record of this format (expected {FORMAT}); delete it and fit again")
    if not _is_tested(record.get("test")):
        raise StorageError(f"{path}: does not say how good the model was; delete it and fit again")
    return record


def _is_tested(test: Any) -> bool:
    """Does `test` hold a score with its interval, or none for want of images?"""
    if not isinstance(test, dict) or _score_name(test) not in test:
        return False
    interval, score = test.get("interval"), headline(test)
    numbers = [test.get("count"), *([] if score is None else [score])]
    numbers += interval if isinstance(interval, list) and len(interval) == 2 else [] if interval is None else [""]
    sound = all(isinstance(number, (int, float)) and abs(number) < 1e12 for number in numbers)
    return sound and (score is None) == (interval is None)
