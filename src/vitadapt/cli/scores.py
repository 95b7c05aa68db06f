"""What commands say of how good a model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..training.adapter_file import AdapterInfo

_UNEVEN = 1.5  # times as many images of one class as of another


def score_lines(test: dict[str, Any], what: str) -> list[str]:
    """Accuracy, or mean average precision, of `what` images with its interval, and what else must be known."""
    if "mean_average_precision" in test:
        return _several(test, what)
    if test["accuracy"] is None:
        return [f"accuracy: not known, for there are no {what} images; add some"]
    lines = [f"accuracy on {test['count']} {what} images: {test['accuracy']:.1f} % ({_interval(test)})"]
    if is_uneven(test["labels"]):
        lines.append(
            f"balanced accuracy (the mean over the classes, which are uneven): {test['balanced_accuracy']:.1f} %"
        )
    return lines


def _several(test: dict[str, Any], what: str) -> list[str]:
    score = test["mean_average_precision"]
    if score is None:
        return [f"mean average precision: not known, for there are no {what} images with a label; add some"]
    return [
        f"mean average precision on {test['count']} {what} images: {score:.1f} % ({_interval(test)})",
        f"F1 of the labels that are given, mean over the classes: {test['macro_f1']:.1f} %",
    ]


def score_table(info: AdapterInfo, labels: np.ndarray, found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of scores by class."""
    if info.thresholds:
        heads = ["class", "images", "average precision", "recall", "precision", "F1"]
        return heads, _label_rows(info, labels, found)
    return ["class", "images", "right", "mostly taken for"], _class_rows(info, labels, found)


def _class_rows(info: AdapterInfo, labels: np.ndarray, found: dict[str, Any]) -> list[list[str]]:
    import numpy as np

    predicted = np.array(found["probabilities"]).argmax(axis=1)
    rows = []
    for c, name in enumerate(info.classes):
        answers = predicted[labels == c]
        wrong = answers[answers != c]
        other = info.classes[int(np.bincount(wrong).argmax())] if len(wrong) else ""
        share = found["per_class"][c]
        rows.append([name, str(len(answers)), "" if share is None else f"{share:.1f} %", other])
    return rows


def _label_rows(info: AdapterInfo, labels: np.ndarray, found: dict[str, Any]) -> list[list[str]]:
    shares = (found["per_class"], *(found["per_label"][name] for name in ("recall", "precision", "f1")))
    counts = labels.sum(axis=0).tolist()
    cells = [["" if value is None else f"{value:.1f} %" for value in column] for column in shares]
    return [list(row) for row in zip(info.classes, map(str, counts), *cells, strict=True)]


def _interval(test: dict[str, Any]) -> str:
    low, high = test["interval"]
    return f"95 % interval {low:.1f} to {high:.1f} %"


def is_uneven(labels: list[int]) -> bool:
    """Do some classes have many more images than others?"""
    counts = [labels.count(label) for label in set(labels)]
    return max(counts) >= _UNEVEN * min(counts)
