"""What choosing the epoch by the test set adds to a protocol that chooses nothing. It is no result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...metrics.scores import METRICS
from ...nn.surgery import trainable
from ...training.cross_validation import start
from ...training.loop import forward_all, probabilities_of
from ...training.task import Task
from ..config import RunConfig
from .base import Budget, Protocol, TrainedOnTest
from .released import Best
from .standard import Fixed


@dataclass(frozen=True)
class BestOnTest(Protocol):
    """`honest` with the best epoch on the TEST set, as several published loops report; to measure what that adds."""

    sees_test: ClassVar[bool] = True
    honest: Fixed

    def __call__(self, task: Task, config: RunConfig) -> TrainedOnTest:
        assert task.test is not None
        test, best, frozen = task.test, Best(), list[Tensor]()
        model, order = start(task)

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

        log = task.fit(model, self.honest.recipe(task.recipe, task.labels), order, after_epoch=evaluate)
        evaluate()  # a head in closed form has no epochs, and a second stage may have followed them
        trained = best.trained(model, log)
        trained.model.train().eval()  # class vectors by the text tower of that epoch
        return replace(trained, chosen={"lr": task.recipe.lr, **trained.chosen})

    def budget(self, config: RunConfig, labels: Tensor) -> Budget:
        return self.honest.budget(config, labels)
