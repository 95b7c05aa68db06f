"""From a model's numbers about one image to an answer: the command line, Python and the server say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.conformal import class_sets, least_rate, threshold, typicality
from ..metrics.several_labels import decided
from ..nn.novelty import Novelty
from ..training.adapter_file import AdapterInfo
from ..utils.errors import NotApplicable
from .novelty import RATE


@dataclass(frozen=True)
class Rules:
    """How numbers become an answer.

    top: classes that are listed. threshold: below this probability the class is None, unsure. refuse: the share of
    ordinary images that may be called unknown; 0 for never. conformal: the probability with which a set of classes
    shall hold the right one; None for no sets.
    """

    top: int = 1
    threshold: float | None = None
    refuse: float = RATE
    conformal: float | None = None


def answer(
    image: str,
    info: AdapterInfo,
    probabilities: np.ndarray,
    rules: Rules,
    known: Novelty | None = None,
    novelty: float | None = None,
) -> dict[str, Any]:
    """What is said of one image from its probabilities (C,) and its novelty.

    `unknown` is None where the model cannot tell. Raises NotApplicable for sets of a model without what they need.
    """
    found, typical = prediction(image, info, probabilities, rules.top, rules.threshold), typicality_of(known, novelty)
    found["unknown"] = None if typical is None else bool(is_unknown(known, np.array(typical), rules.refuse))
    found["typicality"] = typical
    if rules.conformal is not None:
        inside = class_sets(probabilities[None], set_limit(known, rules.conformal))[0]
        found["set"] = [info.classes[c] for c in np.argsort(-probabilities, kind="stable") if inside[c]]
    return found


def prediction(
    image: str, info: AdapterInfo, probabilities: np.ndarray, top: int = 1, threshold: float | None = None
) -> dict[str, Any]:
    """What is said of one image from its probabilities (C,): the command line and the server say the same.

    Of a model of several labels also `labels`, all that reach their thresholds (or `threshold`), and `class` is the
    most probable of them.
    """
    classes = info.classes
    if info.thresholds:
        return _labelling(image, info, probabilities, top, threshold)
    order = np.argsort(-probabilities, kind="stable")[:top]
    most = float(probabilities[order[0]])
    sure = threshold is None or most >= threshold
    return {
        "image": image,
        "class": classes[order[0]] if sure else None,
        "probability": most,
        "top": {classes[c]: float(probabilities[c]) for c in order},
    }


def _labelling(
    image: str, info: AdapterInfo, probabilities: np.ndarray, top: int, threshold: float | None
) -> dict[str, Any]:
    chosen = decided(probabilities, info.thresholds if threshold is None else (threshold,) * len(info.classes))
    order = np.argsort(-probabilities, kind="stable")
    found = [int(c) for c in order if chosen[c]]
    best = found[0] if found else int(order[0])
    return {
        "image": image,
        "class": info.classes[best] if found else None,
        "probability": float(probabilities[best]),
        "labels": {info.classes[c]: float(probabilities[c]) for c in found},
        "top": {info.classes[int(c)]: float(probabilities[c]) for c in order[:top]},
    }


def typicality_of(known: Novelty | None, novelty: float | None) -> float | None:
    """The share of images left out of training that were at least as unlike; None where that is not known."""
    if known is None or novelty is None or not can_refuse(known):
        return None
    return float(typicality(known.left_out_scores(), np.array([novelty], dtype=np.float32))[0])


def is_unknown(known: Novelty | None, typical: np.ndarray, refuse: float) -> np.ndarray:
    """(N,) is it refused, if a share of `refuse` of usual images may be? That share is at least 1 / (n + 1)."""
    least = 1.0 if known is None else least_rate(len(known.left_out_scores()))
    return np.asarray((typical <= max(refuse, least)) & (refuse > 0))


def set_limit(known: Novelty | None, share: float) -> float:
    """As `threshold`, for sets of classes. Raises NotApplicable where the model has no scores of images left out."""
    if known is None or not len(known.nonconformity_scores()):
        raise NotApplicable(CANNOT)
    return threshold(known.nonconformity_scores(), share)


CANNOT = (
    "this model cannot tell unknown pictures, nor sets of classes: it was made by an older version, or of too few "
    "pictures to cross-validate; make it again with 'vitadapt fit', with at least two pictures of each class"
)


def can_refuse(known: Novelty | None) -> bool:
    """Does the model know how unlike its training images others are?"""
    return known is not None and bool(len(known.left_out_scores()))
