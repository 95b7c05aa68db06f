"""Named ways to go from labelled training images to a trained classifier. None of them can see the test set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .config import Recipe, RunConfig
from .errors import ConfigError
from .head import Classifier, Head, TextStart
from .registry import Registry
from .surgery import adapt, trainable
from .train import FitLog, Inputs, Setting, fit


@dataclass(frozen=True)
class Task:
    """All that a protocol may use: a frozen backbone, the training images with their labels, and their frozen features.

    labels: (N,) class numbers or (N, C) multi-hot. features: (N, E) of the unadapted backbone, computed once.
    text: what a head of class names is made of, when the cell asks for one.
    """

    config: RunConfig
    backbone: nn.Module
    images: Inputs
    labels: Tensor
    classes: int
    features: Tensor
    setting: Setting
    checkpoint: Path | None = None
    text: TextStart | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of this cell."""
        recipe = self.config.resolved().recipe
        assert recipe is not None
        return recipe

    def build(self, seed: int) -> Classifier:
        """A fresh classifier: the backbone adapted with tensors drawn from `seed`, and a head as the cell asks for.

        Raises ConfigError when the head is to start from text and the backbone has none.
        """
        backbone = adapt(self.backbone, self.config.method, seed)
        return Classifier(backbone, self._head().to(self.setting.device)).eval()

    def _head(self) -> Head:
        spec, text = self.config.head_spec, self.text
        head = Head(self.features.shape[1], self.classes, spec, text.scale if text else None)
        if spec.norm == "standard":
            head.standardise(self.features)
        if spec.start == "text":
            if text is None:
                raise ConfigError(f"{self.config.backbone} has no text tower to make a head of class names from")
            head.start_from(text.features)
        if not self.config.method.trains_head:
            return head.requires_grad_(False)
        if spec.start == "text" and self.labels.ndim == 2:
            head.balance(self.features)
        return head

    def fit(self, model: Classifier, recipe: Recipe, seed: int, label: str = "train") -> FitLog:
        """Train `model` on all images; only the head, on the features, when nothing else trains, or nothing."""
        if not trainable(model):
            return FitLog()
        if not trainable(model.backbone):
            return self.fit_head(model, recipe, seed, label)
        if recipe.head_start == "probe":
            self.fit_head(model, replace(recipe, epochs=recipe.probe_epochs), seed, "head")
        setting, checkpoint = self.setting, self.checkpoint
        return fit(
            model, self.images, self.labels, recipe, seed=seed, setting=setting, label=label, checkpoint=checkpoint
        )

    def fit_head(self, model: Classifier, recipe: Recipe, seed: int, label: str) -> FitLog:
        """Train the head alone on the frozen backbone's features."""
        features = self.features.to(self.setting.device)
        quiet = replace(self.setting, progress=None)  # it takes a second
        return fit(model.head, features, self.labels, recipe, seed=seed, setting=quiet, label=label)


@dataclass(frozen=True)
class Trained:
    """A finished training: the classifier of the last epoch, what was chosen to make it, and how it went."""

    model: Classifier
    chosen: dict[str, Any]
    log: FitLog = field(default_factory=FitLog)


PROTOCOLS: Registry[Callable[[Task], Trained]] = Registry("protocol")


@PROTOCOLS.register("fixed")
def fixed(task: Task) -> Trained:
    """One recipe per method, no search; every labelled image is trained on and the last epoch counts."""
    model = task.build(derive(task.config.seed, "init"))
    log = task.fit(model, task.recipe, derive(task.config.seed, "order"))
    chosen = {"lr": task.recipe.lr, "weight_decay": task.recipe.weight_decay} if log.steps else {}
    return Trained(model, chosen, log)


def derive(seed: int, purpose: str) -> int:
    """An independent seed for each purpose, so that changing one stream of random numbers leaves the others alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=6).digest(), "big")
