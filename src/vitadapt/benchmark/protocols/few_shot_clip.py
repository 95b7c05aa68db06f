"""Few shots for a CLIP: no validation images, fixed hyper-parameters, and steps in proportion to the shots.

`epochs` of the recipe is the number of steps for each image of a class (Zanella and Ben Ayed 2024: 500 for LoRA), so
that a set of ten classes and one of a thousand are trained alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...metrics.scores import METRICS
from ...nn.surgery import trainable
from ...training.cross_validation import _start, train_final
from ...training.loop import forward_all, probabilities_of
from ...training.recipe import Recipe
from ...training.task import Task, Trained
from ..config import RunConfig
from .base import Budget, Protocol, TrainedOnTest
from .released import Best


@dataclass(frozen=True)
class FewShotCLIP(Protocol):
    """One recipe per method, its steps in proportion to the shots; every image is trained on, the last epoch counts."""

    def __call__(self, task: Task, config: RunConfig) -> Trained:
        return train_final(task, in_epochs(task.recipe, task.labels))

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        return Budget(0, in_epochs(config.training.recipe, labels).epochs * len(labels), 0)


@dataclass(frozen=True)
class FewShotCLIPReleased(FewShotCLIP):
    """The same with the best epoch on the TEST set, as several published loops report; to measure what that adds."""

    sees_test: ClassVar[bool] = True

    def __call__(self, task: Task, config: RunConfig) -> TrainedOnTest:
        assert task.test is not None
        test, best, frozen = task.test, Best(), list[Tensor]()
        model, order = _start(task)

        @torch.no_grad()
        def evaluate() -> None:
            was, _ = model.training, model.eval()
            if trainable(model.backbone):
                logits = forward_all(model, test.images, task.setting, "test")
            else:
                frozen.extend([] if frozen else [forward_all(model.backbone, test.images, task.setting, "test")])
                logits = model.head(frozen[0].to(task.setting.device)).cpu()
            found = probabilities_of(logits.float(), task.labels.ndim == 2).numpy()
            best.offer(100 * METRICS[task.metric](test.labels, found), found, model)
            model.train(was)

        log = task.fit(model, in_epochs(task.recipe, task.labels), order, after_epoch=evaluate)
        evaluate()  # a head in closed form has no epochs, and a second stage may have followed them
        trained = best.trained(model, log)
        trained.model.train().eval()  # class vectors by the text tower of that epoch
        return replace(trained, chosen={"lr": task.recipe.lr, **trained.chosen})


def in_epochs(recipe: Recipe, labels: Tensor) -> Recipe:
    """The recipe whose `epochs` are epochs. labels: (N,) of the training images, or (N, C)."""
    counts = torch.bincount(labels) if labels.ndim == 1 else labels.sum(dim=0)
    shots = float(counts[counts > 0].float().mean()) if len(labels) else 0.0
    steps = math.ceil(len(labels) / recipe.batch_size) or 1
    return replace(recipe, epochs=max(1, round(recipe.epochs * shots / steps)))
