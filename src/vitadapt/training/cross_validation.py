"""One training on all images, and cross-validation over them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..nn.head import Classifier
from ..nn.surgery import trainable
from .recipe import Recipe
from .task import Task, Trained, derive


def cross_validated(task: Task, recipe: Recipe, fold: np.ndarray, label: str) -> tuple[float]:
    """The metric over all images by their `out_of_fold` probabilities.

    All folds are scored together, so that a metric needs no image of every class in each of them.
    """
    return (task.score_of(out_of_fold(task, recipe, fold, label)),)


def out_of_fold(task: Task, recipe: Recipe, fold: np.ndarray, label: str) -> Tensor:
    """(N, C) probabilities of all images, each by the classifier that was trained on the other folds; fold: (N,)."""
    pooled = torch.zeros(len(fold), task.classes)
    for number in np.unique(fold).tolist():
        pooled[torch.from_numpy(fold == number)] = of_fold(task, recipe, fold, number, label)
    return pooled


def of_fold(task: Task, recipe: Recipe, fold: np.ndarray, number: int, label: str) -> Tensor:
    """(n, C) probabilities of the n images in fold `number`, by the classifier that was trained on all others."""
    model, own = _without_fold(task, recipe, fold, number, label)
    return task.take(own).probabilities(model)


def fold_answers(task: Task, recipe: Recipe, fold: np.ndarray, number: int, label: str) -> tuple[Tensor, Tensor | None]:
    """As `of_fold`, and the features (N, E) of all images by the network of that classifier.

    None for features of which nothing is trained: they are those of the task.
    """
    model, own = _without_fold(task, recipe, fold, number, label)
    features = task.features_of(model)
    probabilities = task.take(own).probabilities(model, features=features[own])
    return probabilities, features if trainable(model.backbone) else None


def _without_fold(task: Task, recipe: Recipe, fold: np.ndarray, number: int, label: str) -> tuple[Classifier, Tensor]:
    """The classifier that was trained on all images but those of one fold, and the rows of these."""
    rest, own = (torch.from_numpy(np.flatnonzero(part)) for part in (fold != number, fold == number))
    train = task.take(rest)
    model, order = start(train)
    train.fit(model, recipe, order, label)
    return model, own


def train_final(task: Task, recipe: Recipe, rows: Tensor | None = None, **chosen: Any) -> Trained:
    """Train on `rows`, or all images; the last epoch counts, and nothing is looked at on the way."""
    part = task if rows is None or len(rows) == len(task.labels) else task.take(rows)
    part = replace(part, checkpoint=task.checkpoint)
    model, order = start(part)
    log = part.fit(model, recipe, order)
    return Trained(model, {"lr": recipe.lr, "weight_decay": recipe.weight_decay, **chosen} if log.steps else {}, log)


def start(task: Task) -> tuple[Any, int]:
    """A fresh classifier and the seed of the order of images: the same in all trials, which makes them comparable."""
    return task.build(derive(task.config.seed, "init")), derive(task.config.seed, "order")
