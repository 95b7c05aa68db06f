"""Few shots for a CLIP: no validation images, fixed hyper-parameters, and steps in proportion to the shots.

`epochs` of the recipe is the number of steps for each image of a class (Zanella and Ben Ayed 2024: 500 for LoRA), so
that a set of ten classes and one of a thousand are trained alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...training.recipe import Recipe
from .standard import Fixed


@dataclass(frozen=True)
class FewShotCLIP(Fixed):
    """One recipe per method, its steps in proportion to the shots; every image is trained on, the last epoch counts."""

    def recipe(self, given: Recipe, labels: Tensor) -> Recipe:
        return in_epochs(given, labels)


def in_epochs(recipe: Recipe, labels: Tensor) -> Recipe:
    """The recipe whose `epochs` are epochs. labels: (N,) of the training images, or (N, C)."""
    counts = torch.bincount(labels) if labels.ndim == 1 else labels.sum(dim=0)
    shots = float(counts[counts > 0].float().mean()) if len(labels) else 0.0
    steps = math.ceil(len(labels) / recipe.batch_size) or 1
    return replace(recipe, epochs=max(1, round(recipe.epochs * shots / steps)))
