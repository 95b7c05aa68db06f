"""`fit.json`: what is known of a fitted model, as plain JSON values; its pages are made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..methods.spec import method_text
from ..metrics.scores import per_class, share_interval
from ..nn.head_spec import head_text
from ..utils.errors import StorageError, damaged
from ..utils.files import parse_checked_json, read_text
from .holdout import TrainTestSplit
from .model_selection import Candidate, odds

FORMAT = "vitadapt-fit/2"
FORMATS = ("vitadapt-fit/1", FORMAT)  # the first had no checksum
RECORD = "fit.json"


def image_fields(spec: str) -> dict[str, Any]:
    """What a configuration says of the images: the fields, and so the digests, of a run of a benchmark."""
    return {"dataset": spec, "shots": None, "protocol": "fixed"}


def selection_record(
    selected: Candidate, candidates: list[Candidate], data: TrainTestSplit, fold: np.ndarray | None, spec: str
) -> dict[str, Any]:
    """Data, classes, settings, candidates, and the probabilities from cross-validation of every training image.

    spec: the images, as the user named them.
    """
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
            "odds": None if candidate is selected else odds(selected, candidate, labels),
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
            "train": np.bincount(labels, minlength=len(data.classes)).tolist(),
            "test": np.bincount(data.test.labels, minlength=len(data.classes)).tolist(),
            "given": data.given,
            "delivered": np.bincount(data.delivered.labels, minlength=len(data.classes)).tolist(),
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


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Accuracy in percent with its 95 % interval (Wilson) and per class, and the predictions; None without images."""
    count = len(labels)
    plain: dict[str, Any] = {"count": count, "labels": labels.tolist(), "probabilities": _plain(probabilities)}
    if not count:
        return {**plain, "accuracy": None, "interval": None, "per_class": []}
    right = int((probabilities.argmax(axis=1) == labels).sum())
    low, high = share_interval(right, count)
    recalls = [None if np.isnan(value) else 100 * float(value) for value in per_class(labels, probabilities)]
    return {**plain, "accuracy": 100 * right / count, "interval": [100 * low, 100 * high], "per_class": recalls}


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
    """Does `test` hold an accuracy with its interval, or none for want of images?"""
    if not isinstance(test, dict) or "accuracy" not in test:
        return False
    interval = test.get("interval")
    numbers = [test.get("count"), *([] if test["accuracy"] is None else [test["accuracy"]])]
    numbers += interval if isinstance(interval, list) and len(interval) == 2 else [] if interval is None else [""]
    sound = all(isinstance(number, (int, float)) and abs(number) < 1e12 for number in numbers)
    return sound and (test["accuracy"] is None) == (interval is None)
