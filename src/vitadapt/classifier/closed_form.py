"""A model's head solved anew when classes and images come and go; its network stays.

The head is a discriminant (`methods/discriminant.py`) on the network's features, in closed form from
the statistics beside the adapter file: an added class gives the head that all images together would give. Every class
is as likely beforehand as every other, however many images it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from ..data.sampling.folds import FOLDS
from ..methods import Discriminant
from ..methods.class_statistics import ClassStatistics
from ..methods.discriminant import SINGLE
from ..methods.left_out import parts_of
from ..metrics.conformal import nonconformity
from ..nn.head import Classifier, Head
from ..nn.head_spec import HeadSpec
from ..nn.surgery import trainable
from ..training.adapter_file import AdapterInfo
from .novelty import CrossValidated, chosen_of, measured, novelty_of, solved_heads
from .statistics_file import ModelStatistics, directions_of

DUE_SHARE = 1 / 3  # of images that came or went since the fit
DUE_RECALL = 0.8  # of a class that came, as a part of the accuracy


@dataclass(frozen=True)
class Solved:
    """A model with a new head. probabilities: (n, C) of the images of which features are kept, by heads made without
    them; part: (n,) with which others each was left out.
    """

    model: Classifier
    info: AdapterInfo
    known: ModelStatistics
    labels: np.ndarray
    probabilities: np.ndarray
    part: np.ndarray

    def recall(self, c: int) -> float | None:
        """The share of images of a class that is answered rightly by heads made without them; None for one image."""
        own = self.labels == c
        return float((self.probabilities[own].argmax(axis=1) == c).mean()) if own.sum() > 1 else None

    @property
    def accuracy(self) -> float | None:
        """Of all images of classes with two and more; None without any."""
        rows = np.bincount(self.labels)[self.labels] > 1
        right = self.probabilities.argmax(axis=1) == self.labels
        return float(right[rows].mean()) if rows.any() else None

    def record(self) -> dict[str, Any]:
        """What leaving images and classes out gives for the new head; nothing where most images are not kept."""
        if not _is_kept(self.known.directions) or len(np.unique(self.labels)) < len(self.info.classes):
            return {}
        features, fold = torch.from_numpy(self.known.features.x).float(), self.part % FOLDS
        found = CrossValidated(self.labels, fold, self.probabilities, [features] * len(np.unique(fold)))
        return measured(found, bool(trainable(self.model.backbone)))


def without(known: ModelStatistics, removed: int) -> ModelStatistics:
    """Without one class; the later ones move up."""
    own = known.owners != removed
    gone = int(known.features.counts[removed])
    return replace(
        known,
        features=known.features.without(removed),
        directions=known.directions.without(removed),
        owners=known.owners[own] - (known.owners[own] > removed),
        novelty=known.novelty[own],
        nonconformity=known.nonconformity[own],
        changed=known.changed + gone,
    )


def solve(
    model: Classifier, info: AdapterInfo, known: ModelStatistics, features: np.ndarray, labels: np.ndarray, classes: int
) -> Solved:
    """A head for all images that `known` is made of, and new ones: features (M, E) by the network, labels (M,).

    A class that is added comes behind the others. info: says the new classes.
    """
    adapted = bool(trainable(model.backbone))
    raw = known.features.with_images(features, labels, classes)
    directions = known.directions.with_images(directions_of(features, known.centre), labels, classes)
    known = replace(known, features=raw, directions=directions, changed=known.changed + len(labels))
    if _is_kept(directions) and directions.counts.max() > 1:
        shrinkage, temperature = chosen_of(directions)
        known = replace(known, shrinkage=shrinkage, temperature=temperature)
    weight, bias = closed_head(known)
    spec = HeadSpec(length="unit", blocks=info.head.blocks, mirror=info.head.mirror)
    head = Head(weight.shape[1], classes, spec).to(model.head.linear.weight.device)
    head.get_buffer("centre").copy_(known.centre)
    head.set_linear(weight, bias)
    counts = raw.counts
    training = {**info.training, "images": int(counts.sum()), "shares": (counts / counts.sum()).tolist()}
    training["prior"] = [1 / classes] * classes  # what the head counts on
    method = info.method if adapted else Discriminant()
    info = replace(info, head=spec, method=method, names=(), templates=(), training=training)
    found = _left_out(known)
    known = _with_scores(known, found, len(labels), adapted)
    several = raw.counts[known.owners] > 1  # an image alone in its class, left out, is like a stranger
    novelty = novelty_of(raw, known.novelty[several], known.nonconformity[several])
    network = Classifier(model.backbone, head.requires_grad_(info.method.trains_head), novelty).eval()
    return Solved(network, info, known, raw.labels, found.probabilities, found.part)


def closed_head(known: ModelStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, E) and bias (C,) on directions."""
    if known.directions.counts.max() < 2:  # nothing tells how images of one class differ
        return SINGLE * known.directions.means, np.zeros(known.directions.classes)
    ((weight, bias),) = solved_heads(known.directions, (known.shrinkage,))
    scale = known.temperature * known.correction
    return weight / scale, bias / scale


@dataclass(frozen=True)
class _LeftOut:
    """Of the n images kept by themselves: their part, probabilities (n, C) and novelty (n,) without them."""

    part: np.ndarray
    probabilities: np.ndarray
    novelty: np.ndarray


def _left_out(known: ModelStatistics) -> _LeftOut:
    raw, part, nothing = known.features, parts_of(known.features.labels), np.zeros(0)
    logits, novelty = np.zeros((len(part), raw.classes)), np.zeros(len(part))
    for number in np.unique(part):
        out = part == number
        rest = replace(known, features=raw.take(~out), directions=known.directions.take(~out))
        if not rest.features.counts.any():
            continue
        weight, bias = closed_head(rest)
        logits[out] = known.directions.x[out] @ weight.T + bias
        novelty[out] = novelty_of(rest.features, nothing, nothing)(torch.from_numpy(raw.x[out])).numpy()
    return _LeftOut(part, softmax(logits, axis=1), novelty)


def _with_scores(known: ModelStatistics, found: _LeftOut, came: int, adapted: bool) -> ModelStatistics:
    """Scores of old images, and of the `came` last ones of those kept by themselves.

    Of an old image the larger of the score from the fit, whose network had not seen it, and the one from now.
    """
    labels, old = known.features.labels, len(known.features.labels) - came
    unfit = nonconformity(labels, found.probabilities)
    owners, fresh = known.owners, (found.novelty, unfit)
    scores: tuple[np.ndarray, ...] = (known.novelty, known.nonconformity)
    if len(owners) == old:
        scores = tuple(np.maximum(one, new[:old]) for one, new in zip(scores, fresh, strict=True))
    elif not len(owners) and not adapted:
        owners, scores = labels[:old], tuple(new[:old] for new in fresh)
    novelty, unfit = (np.concatenate([one, new[old:]]) for one, new in zip(scores, fresh, strict=True))
    return replace(known, owners=np.concatenate([owners, labels[old:]]), novelty=novelty, nonconformity=unfit)


def _is_kept(statistics: ClassStatistics) -> bool:
    """Are at least half of the images kept by themselves?"""
    return 2 * len(statistics.x) >= int(statistics.counts.sum())


def due(solved: Solved, came: Sequence[int]) -> list[str]:
    """Why a new fit is due; empty when it is not. came: numbers of the classes that were added."""
    known, reasons = solved.known, []
    if known.changed > DUE_SHARE * known.trained:
        reasons.append(f"{known.changed} pictures came or went since the last fit, over a third of its {known.trained}")
    whole = solved.accuracy
    for c in came:
        own = solved.recall(c)
        if own is not None and whole is not None and own < DUE_RECALL * whole:
            name = solved.info.classes[c]
            reasons.append(f"only {100 * own:.0f} % of {name} are recognised, of all pictures {100 * whole:.0f} %")
    return reasons
