"""The steps of which protocols are made: the published split, the score of one trial, the final training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.datasets import resolve
from ...data.sampling.few_shot import sample_few_shot, validation_split
from ...training.cross_validation import start, train_final
from ...training.recipe import Recipe, recipe_for
from ...training.task import Task, Trained
from ...utils.errors import ConfigError, Diverged
from ...utils.files import bytes_digest
from ..config import RunConfig
from .base import Budget, Protocol
from .search import Choice

SEARCHED_SHOTS = {"patch-camelyon": 10_000}
"""Images per class among which the published search looks when all images of a dataset are used; else all of them."""
STATE_LIMIT = 4e9
"""Bytes that the unfinished trainings of a search may take on disk; beyond it they begin anew, to the same numbers."""


@dataclass(frozen=True)
class Split:
    """Rows of a training pool: those that trials train on, those that score them, those of the final training."""

    train: Tensor
    held: Tensor
    final: Tensor


class OnPublishedSplit(Protocol):
    """A protocol that draws two images per class at 1 shot, of which one trains and one validates."""

    def draws(self, shots: int | None) -> int | None:
        return 2 if shots == 1 else shots


def published_split(config: RunConfig, labels: Tensor) -> Split:
    """The published validation split: the first fifth of every class, rounded up, scores; the final run takes all.

    At 1 shot the final run takes what the trials trained on. Raises ConfigError when nothing is left to train on.
    """
    rows, row = np.arange(len(labels)), resolve(config.dataset)
    most = SEARCHED_SHOTS.get(row.name) if row and config.shots is None else None
    if most:
        rows = sample_few_shot(labels.numpy(), most, config.seed, allow_fewer=True)
    train, held = (torch.from_numpy(rows[part]) for part in validation_split(labels.numpy()[rows]))
    if not len(train):
        raise ConfigError(f"protocol {config.protocol} needs two images per class: one trains, one validates")
    return Split(train, held, train if config.shots == 1 else torch.arange(len(labels)))


def split_budget(config: RunConfig, labels: Tensor, trials: int, epochs: int, scorings: int) -> Budget:
    """Of a search on the published split: `epochs` of all trials together, and how often they score."""
    split = published_split(config, labels)
    trained = epochs * len(split.train) + config.training.recipe.epochs * len(split.final)
    return Budget(trials, trained, scorings * len(split.held))


def at_point(recipe: Recipe, lr: float, decay: float) -> Recipe:
    """The recipe with one learning rate for everything, and this weight decay."""
    return replace(recipe, lr=lr, head_lr=lr, weight_decay=decay)


def refuse_searched(config: RunConfig) -> None:
    """Raises ConfigError when a recipe sets what its protocol searches for: it would be ignored."""
    given, prescribed = config.training.recipe, recipe_for(config.protocol, config.method)
    for name in ("lr", "head_lr", "weight_decay"):
        if getattr(given, name) != getattr(prescribed, name):
            raise ConfigError(f"protocol {config.protocol} searches for {name}; leave it out of the recipe")


def best_epoch(train: Task, held: Task, recipe: Recipe, label: str) -> tuple[float]:
    """Train on `train`; the largest score on `held` after any epoch. Raises Diverged."""
    scores: list[float] = []
    model, order = start(train)
    train.fit(model, recipe, order, label, after_epoch=lambda: scores.append(held.score(model)))
    return (max(scores),)


def after(train: Task, held: Task, recipe: Recipe, epochs: int, label: str) -> tuple[float, float]:
    """Train on `train`, or go on from its checkpoint, up to `epochs`; score and likelihood of `held` then.

    Raises Diverged.
    """
    model, order = start(train)
    train.fit(model, recipe, order, label, until=epochs)
    probabilities = held.probabilities(model)
    return held.score_of(probabilities), held.likelihood_of(probabilities)


def finish(task: Task, choice: Choice, recipe: Recipe, rows: Tensor | None, epochs: int) -> Trained:
    """The final training, with what the search did in the record. `epochs` is the length of a trial without its own.

    Raises Diverged, which then holds what the search did.
    """
    trace = [[t.lr, t.weight_decay, t.epochs or epochs, t.score, t.stage] for t in choice.trials]
    found = {"validation": choice.score, "trials": choice.runs, "trace": trace}
    try:
        return train_final(task, recipe, rows, **found)
    except Diverged as error:
        values = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
        raise Diverged(str(error), {**values, **found}) from error


class States:
    """Where the unfinished trainings of a search are kept, so that survivors go on: nowhere if they are too large.

    numbers: how many trainable numbers they hold together; a state holds at most three copies of each.
    """

    def __init__(self, task: Task, numbers: int) -> None:
        self.base = task.checkpoint if 12 * numbers <= STATE_LIMIT else None

    def path(self, lr: float, decay: float) -> Path | None:
        name = bytes_digest(repr((lr, decay)).encode())[:12]
        return self.base and self.base.with_name(f"{self.base.stem}.trial-{name}")

    def remove(self) -> None:
        """The search is over."""
        if self.base is not None:
            for path in self.base.parent.glob(f"{self.base.stem}.trial-*"):
                path.unlink(missing_ok=True)
