"""Measured on training images left out: which images to call unknown, how large sets of classes must be, and what a
head in closed form would be worth. Once for every fitted model, from its cross-validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from ..methods.class_statistics import Array, ClassStatistics, chunks, compact
from ..methods.discriminant import SHRINKAGES, Discriminant, chosen, deviations, heads_of
from ..metrics.calibration import fit_temperature
from ..metrics.conformal import coverage, least_rate, nonconformity, thinned, typicality
from ..metrics.scores import accuracy, share_interval
from ..nn.head import Classifier
from ..nn.novelty import Novelty
from ..nn.support import Support
from ..nn.surgery import trainable
from ..training.task import Task
from .model_selection import Candidate
from .statistics_file import ModelStatistics, directions_of

MOST_AXES = 32  # of a covariance that a model keeps
RATE = 0.05  # share of ordinary images that is called unknown, unless another one is asked for
COVERAGE = 0.9  # of the sets whose coverage the report shows
GROUPS = 5  # of classes that are left out together, at most
MOST_IMAGES = 1000  # on which leaving classes out is measured


@dataclass(frozen=True)
class CrossValidated:
    """N training images, each as seen by a model that did not learn from it.

    labels, fold: (N,). probabilities: (N, C). features: one tensor (N, E) for every fold, by the network that did not
    learn from that fold; the same one for all where no network is trained.
    """

    labels: np.ndarray
    fold: np.ndarray
    probabilities: np.ndarray
    features: Sequence[Tensor]

    @property
    def classes(self) -> int:
        return int(self.probabilities.shape[1])

    def folds(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Of every fold a mask (N,), and the features."""
        for number, features in zip(np.unique(self.fold).tolist(), self.features, strict=True):
            yield self.fold == number, features


@dataclass(frozen=True)
class Calibrated:
    """A model that knows what it does not know, what `vitadapt update` needs, and what the record says of both.

    Of a model of several labels per image there is none of this.
    """

    model: Classifier
    statistics: ModelStatistics | None
    record: dict[str, Any]


def calibrate_candidate(candidate: Candidate, whole: Task, model: Classifier, fold: np.ndarray | None) -> Calibrated:
    """`calibrate` for the candidate that was selected, and `model`, which was trained on all images of `whole`.

    fold: (N,) of the images that the candidate was cross-validated on.
    """
    if candidate.task.labels.ndim == 2:  # one class of an image tells nothing of how unlike its other ones are
        return Calibrated(model, None, {})
    found, numbers = None, [] if fold is None else np.unique(fold).tolist()
    features = [torch.from_numpy(of_fold) for of_fold in candidate.features] or [candidate.task.features] * len(numbers)
    if fold is not None and candidate.probabilities is not None and len(features) == len(numbers):
        found = CrossValidated(candidate.task.labels.numpy(), fold, candidate.probabilities, features)
    versions = None if trainable(model.backbone) else whole.versions
    return calibrate(model, whole.features_of(model), whole.labels.numpy(), found, versions)


def calibrate(
    model: Classifier,
    features: Tensor,
    labels: np.ndarray,
    found: CrossValidated | None,
    versions: Tensor | None = None,
) -> Calibrated:
    """features, labels: (N, E) and (N,) of the training images, by the network of `model`; found: by cross-validation.

    versions: (V, N, E) of the images, as the discriminant reads them.

    Without cross-validation nothing can be refused, and the record says nothing.
    """
    classes, trained = model.head.linear.out_features, bool(trainable(model.backbone))
    centre = features.float().mean(dim=0)
    raw = ClassStatistics.of(features.numpy(), labels, classes)
    spread = None
    if versions is not None:
        parts = (directions_of(versions[:, own], centre) for own in chunks(np.arange(len(labels))))
        spread = compact(deviations(part) / np.sqrt(len(labels)) for part in parts)
    directions = ClassStatistics.of(directions_of(features, centre), labels, classes, spread)
    unseen, unfit, solved_unfit, correction = np.zeros(0), np.zeros(0), np.zeros(0), 1.0
    owners, record = labels[:0], {}
    if found is not None:
        unseen, unfit = left_out_scores(found), nonconformity(found.labels, found.probabilities)
        solved, temperature = closed_form(found)
        correction = temperature if trained else 1.0
        record = measured(found, trained) | {
            "closed_form": {
                "accuracy": 100 * accuracy(found.labels, solved),
                "head": 100 * accuracy(found.labels, found.probabilities),
                "count": len(found.labels),
            },
        }
        owners, solved_unfit = found.labels, nonconformity(found.labels, solved)
    shrinkage, temperature = chosen_of(directions) if directions.counts.max() > 1 else (1.0, 1.0)
    known = ModelStatistics(
        raw, directions, centre, owners, unseen, solved_unfit, shrinkage, temperature, correction,
        len(labels),
    )  # fmt: skip
    return Calibrated(Classifier(model.backbone, model.head, novelty_of(raw, unseen, unfit)), known, record)


def measured(found: CrossValidated, trained: bool) -> dict[str, Any]:
    """What a record says of unknown images and sets of classes, as plain values.

    trained: did the network see images of the classes that are left out?
    """
    left, count = strangers(found), len(found.labels)
    sets = coverage(found.labels, found.probabilities, found.fold, COVERAGE)
    unknown = {
        "rate": max(RATE, least_rate(count)),
        "images": count,
        "auroc": float(left.auroc.mean()),
        "interval": list(left.interval()),
        "refused": float(left.refused.mean()),
        "classes": len(left.auroc),
        "seen_in_training": trained,
    }
    interval = [100 * share for share in share_interval(sets.right, sets.count)]
    return {"unknown": unknown, "sets": {**asdict(sets), "interval": interval}}


def solved_heads(statistics: ClassStatistics, shrinkages: tuple[float, ...]) -> Iterator[tuple[Array, Array]]:
    """Weight (C, E) and bias (C,) of the discriminant for each shrinkage, at temperature 1."""
    return heads_of(statistics.inner(), statistics.means, statistics.counts, shrinkages)


def chosen_of(statistics: ClassStatistics) -> tuple[float, float]:
    """The shrinkage and the temperature of the discriminant, by the images that are kept by themselves."""
    x, labels, classes = statistics.x, statistics.labels, statistics.classes
    found = chosen(x, labels, classes, lambda rows: solved_heads(statistics.take(rows), SHRINKAGES))
    return found.shrinkage, found.temperature


def novelty_of(statistics: ClassStatistics, left_out: np.ndarray, unfit: np.ndarray) -> Novelty:
    """statistics: of features. left_out, unfit: novelty and nonconformity of images left out, none where unknown."""
    whole = statistics.merged()
    centre, means = whole.means[0], statistics.means[statistics.counts > 0]
    within, own = _inverse_axes(statistics)
    total, common = _inverse_axes(whole)
    numbers = (centre, means - centre, within, total, np.array([own, common]), thinned(left_out), thinned(unfit))
    return Novelty(*(torch.from_numpy(np.ascontiguousarray(part)) for part in numbers))


def _inverse_axes(statistics: ClassStatistics) -> tuple[np.ndarray, float]:
    """The inverse of the shrunk covariance, a (I - A^T A), as A (K, E) and a; of its axes the K largest.

    The shrinkage is E / (E + N - 1) (Kubokawa & Srivastava 2008, as in 2402.04087).
    """
    found, width = statistics.axes(), statistics.x.shape[1]
    share = width / (width + max(int(statistics.counts.sum()) - 1, 1))
    floor = share * found.mean_value
    largest = np.argsort(-found.values)[:MOST_AXES]
    weights = 1 - floor / ((1 - share) * found.values[largest].clip(0) + floor)
    return (found.axes[:, largest] * np.sqrt(weights)).T, 1 / floor


def scores_without(features: Tensor, labels: np.ndarray, others: Tensor) -> np.ndarray:
    """(M,) the novelty of other images (M, E), for statistics of these ones, (N, E) and (N,)."""
    known, nothing = np.unique(labels, return_inverse=True)[1], np.zeros(0)
    statistics = ClassStatistics.of(features.numpy(), known, int(known.max()) + 1)
    return np.asarray(novelty_of(statistics, nothing, nothing)(others).numpy())


def left_out_scores(found: CrossValidated) -> np.ndarray:
    """(N,) the novelty of every image, for statistics of the other folds."""
    scores = np.zeros(len(found.labels))
    for own, features in found.folds():
        scores[own] = scores_without(features[~own], found.labels[~own], features[own])
    return scores


def closed_form(found: CrossValidated) -> tuple[np.ndarray, float]:
    """(N, C) what a discriminant on the features says of the images of each fold, made of the others; and the
    temperature that suits it, by which these are divided already.
    """
    logits = np.zeros(found.probabilities.shape)
    for own, features in found.folds():
        centre = features[~own].float().mean(dim=0)
        x = directions_of(features[~own], centre)
        weight, bias = Discriminant().solve_head(Support(x, found.labels[~own], found.classes)).linear()
        logits[own] = directions_of(features[own], centre) @ weight.T + bias
    temperature = fit_temperature(found.labels, softmax(logits, axis=1))
    return softmax(logits / temperature, axis=1), temperature


@dataclass(frozen=True)
class Strangers:
    """What leaving classes out gives: (C,) in percent per class, the AUROC of its images against images of the known
    classes, and the share of them that is refused at `RATE`. count: of all images.
    """

    auroc: np.ndarray
    refused: np.ndarray

    count: int

    def interval(self) -> tuple[float, float]:
        """95 % for the mean AUROC: over classes such as these (Student's t), and not narrower than for a share of so
        many images (Wilson).
        """
        from scipy.stats import t

        mean, classes = float(self.auroc.mean()), len(self.auroc)
        low, high = (100 * share for share in share_interval(round(mean / 100 * self.count), self.count))
        spread = float(self.auroc.std(ddof=1)) if classes > 1 else 50.0
        around = float(t.ppf(0.975, max(classes - 1, 1))) * spread / np.sqrt(classes)
        return max(min(mean - around, low), 0.0), min(max(mean + around, high), 100.0)


def strangers(found: CrossValidated, seed: int = 0) -> Strangers:
    """Images of classes that were left out, and of classes that were not, told apart by their novelty.

    Some classes at a time are left out of the statistics of all folds but one, and the images of that one are scored.
    """
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    some = np.isin(np.arange(len(found.labels)), rng.permutation(len(found.labels))[:MOST_IMAGES])  # (N,)
    group = rng.permutation(found.classes) % min(found.classes, GROUPS)  # (C,)
    auroc, refused = [], []
    for left in range(int(group.max()) + 1):
        out, scores = group[found.labels] == left, np.zeros(len(some))
        for own, features in found.folds():
            rest, own = some & ~own & ~out, some & own
            scores[own] = scores_without(features[rest], found.labels[rest], features[own])
        usual = np.sort(scores[some & ~out])
        for c in np.flatnonzero(group == left):
            strange = scores[some & (found.labels == c)]
            truth = np.arange(len(strange) + len(usual)) < len(strange)
            auroc.append(100 * float(roc_auc_score(truth, np.concatenate([strange, usual]))))
            refused.append(100 * float((typicality(usual, strange) <= max(RATE, least_rate(len(usual)))).mean()))
    return Strangers(np.array(auroc), np.array(refused), int(some.sum()))
