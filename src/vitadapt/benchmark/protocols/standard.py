"""Protocols that go from labelled training images to a trained classifier. None of them can see the test set.

docs/protocols.md describes them: what is tried, for how long, what is chosen by what, and where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...data.sampling.folds import stratified_folds
from ...nn.surgery import trainable
from ...training.cross_validation import cross_validated, train_final
from ...training.recipe import Recipe
from ...training.task import Task, Trained, derive, rows_digest
from ..config import RunConfig
from .base import Budget, Protocol
from .search import Grid, Point, coarse_to_fine, draw_points, halve, rung_sizes, try_all
from .steps import (
    OnPublishedSplit,
    States,
    after,
    at_point,
    best_epoch,
    finish,
    published_split,
    refuse_searched,
    split_budget,
)
from .trials import Score, Trials


@dataclass(frozen=True)
class Fixed(Protocol):
    """One recipe per method, no search; every labelled image is trained on and the last epoch counts."""

    def recipe(self, given: Recipe, labels: Tensor) -> Recipe:
        """That of the training on images with these labels, (N,) or (N, C)."""
        return given

    def __call__(self, task: Task, config: RunConfig) -> Trained:
        return train_final(task, self.recipe(task.recipe, task.labels))

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        return Budget(0, self.recipe(config.training.recipe, labels).epochs * len(labels), 0)


@dataclass(frozen=True)
class Elevater(OnPublishedSplit):
    """The published search, coarse to fine over lr and weight decay on a fifth held out; last epoch of a run on all.

    A trial trains for `epochs`; its best epoch on the images held out is its score.
    """

    grid: Grid = field(default_factory=Grid)
    epochs: int = 10

    def __call__(self, task: Task, config: RunConfig) -> Trained:
        if not trainable(task.build(0)):
            return train_final(task, task.recipe)
        refuse_searched(config)
        split = published_split(config, task.labels)
        train, held, part = task.take(split.train), task.take(split.held), rows_digest(split.train)
        trials = Trials(task.trials, task.identity(), self.grid.most_trials)

        def score(lr: float, decay: float) -> float | None:
            recipe = replace(at_point(task.recipe, lr, decay), epochs=self.epochs)
            key = [lr, decay, self.epochs, part]
            return first(trials.score(key, lambda label: best_epoch(train, held, recipe, label)))

        choice = coarse_to_fine(score, self.grid)
        return finish(task, choice, at_point(task.recipe, choice.lr, choice.weight_decay), split.final, self.epochs)

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        most = self.grid.most_trials
        return split_budget(config, labels, most, most * self.epochs, most * self.epochs)


@dataclass(frozen=True)
class Halving(OnPublishedSplit):
    """The space and split of elevater by successive halving: many short trainings, of which the best third goes on.

    Equal scores are ordered by the likelihood of the images held out.
    per_lr: candidates per learning rate. rungs: after which epochs they are compared. keep: one in `keep` goes on.
    """

    grid: Grid = field(default_factory=Grid)
    per_lr: int = 3
    rungs: tuple[int, ...] = (3, 9, 27)
    keep: int = 3

    def __call__(self, task: Task, config: RunConfig) -> Trained:
        tensors = trainable(task.build(0))
        if not tensors:
            return train_final(task, task.recipe)
        refuse_searched(config)
        split, rungs = published_split(config, task.labels), self._rungs(task.recipe)
        train, held, part = task.take(split.train), task.take(split.held), rows_digest(split.train)
        points = draw_points(self.grid, self.per_lr, derive(config.seed, "candidates"))
        trials = Trials(task.trials, task.identity(), sum(rung_sizes(len(points), rungs, self.keep)))
        states = States(task, len(points) * sum(p.numel() for p in tensors.values()))

        def score(lr: float, decay: float, epochs: int) -> tuple[float, float] | None:
            recipe, stint = at_point(task.recipe, lr, decay), replace(train, checkpoint=states.path(lr, decay))
            found = trials.score([lr, decay, epochs, part], lambda label: after(stint, held, recipe, epochs, label))
            return (found[0], found[1]) if found else None

        choice = halve(score, points, rungs, self.keep)
        states.remove()
        recipe = at_point(task.recipe, choice.lr, choice.weight_decay)
        return finish(task, choice, recipe, split.final, rungs[-1])

    def _rungs(self, recipe: Recipe) -> list[int]:
        return [min(rung, recipe.epochs) for rung in self.rungs]

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        rungs = self._rungs(config.training.recipe)
        sizes = rung_sizes(len(self.grid.lrs) * self.per_lr, rungs, self.keep)
        epochs = sum(size * (now - before) for size, now, before in zip(sizes, rungs, (0, *rungs), strict=False))
        return split_budget(config, labels, sum(sizes), epochs, sum(sizes))


@dataclass(frozen=True)
class CrossValidation(Protocol):
    """The fixed recipe, its lr and weight decay chosen by cross-validation over all labelled images; final run on all.

    lr_factors, decay_factors: what both learning rates, and the weight decay, of the recipe are multiplied by. The
    recipe itself comes first, so that it stays unless another point is strictly better. At 1 shot there is no choice.
    """

    folds: int = 5
    lr_factors: tuple[float, ...] = (1.0, 0.3, 3.0)
    decay_factors: tuple[float, ...] = (1.0, 100.0)

    def __call__(self, task: Task, config: RunConfig) -> Trained:
        folds, recipe = self._folds(config, len(task.labels)), task.recipe
        if folds < 2 or not trainable(task.build(0)):
            return train_final(task, recipe)
        fold = stratified_folds(task.labels.numpy(), folds, derive(config.seed, "folds"))
        points, part = self._points(recipe), rows_digest(torch.from_numpy(fold))
        trials = Trials(task.trials, task.identity(), len(points))

        def score(lr: float, decay: float) -> float | None:
            tried, key = self._at(recipe, lr, decay), [lr, decay, recipe.epochs, part]
            return first(trials.score(key, lambda label: cross_validated(task, tried, fold, label)))

        choice = try_all(score, points)
        return finish(task, choice, self._at(recipe, choice.lr, choice.weight_decay), None, recipe.epochs)

    def _points(self, recipe: Recipe) -> list[Point]:
        return [(recipe.lr * lr, recipe.weight_decay * more) for lr in self.lr_factors for more in self.decay_factors]

    def _at(self, recipe: Recipe, lr: float, decay: float) -> Recipe:
        factor = lr / recipe.lr if recipe.lr else 1.0
        return replace(recipe, lr=lr, head_lr=recipe.head_lr * factor, weight_decay=decay)

    def _folds(self, config: RunConfig, images: int) -> int:
        return min(self.folds, config.shots or self.folds, images)

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        images, folds = len(labels), self._folds(config, len(labels))
        points = len(self.lr_factors) * len(self.decay_factors) if folds > 1 else 0
        trained = (points * (folds - 1) + 1) * config.training.recipe.epochs * images
        return Budget(points * folds, trained, points * images)


def first(score: Score | None) -> float | None:
    """The number that a search compares; None when the trial diverged."""
    return None if score is None else score[0]
