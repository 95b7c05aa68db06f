"""What methods have in common that know the classes by their texts and by a few images (the few-shot methods of CLIP).

They work on cached features and change nothing before the output projection. What they choose, they choose by training
images left out; none of them looks at other images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.head_spec import TEXT, HeadSpec
from ..nn.support import Support
from ..nn.surgery import Method
from ..utils.errors import ConfigError
from .registry import METHODS

KEYS, FIXED = replace(TEXT, learnt="keys"), replace(TEXT, learnt="nothing")


class TextPrior(Method):
    """A method whose head is made of the texts of the classes and of the features of images, both of unit length."""

    default_head: ClassVar[HeadSpec | None] = TEXT
    several_labels: ClassVar[bool] = False

    def adapt(self, vit: Any) -> None:
        return None

    def texts(self, support: Support) -> np.ndarray:
        """(C, E) a unit vector for each class. Raises ConfigError naming the method when there are none."""
        if support.text is None:
            raise ConfigError(
                f"{METHODS.name_of(self)} needs the texts of the classes; choose a backbone with a text tower (a CLIP) "
                "and leave --head out, or a method that needs none, such as discriminant"
            )
        return np.asarray(support.text)

    def tensors(self, support: Support) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, E), labels (N,) and texts (C, E) for a method that goes down a gradient."""
        text = torch.from_numpy(self.texts(support)).float()
        return torch.from_numpy(support.features).float(), torch.from_numpy(support.labels).long(), text


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, C) of 0 and 1."""
    return np.asarray(np.eye(classes)[labels])


def shots(support: Support) -> float:
    """Images per class, on average."""
    return max(len(support.labels) / support.classes, 1.0)


def cosines(weight: Tensor, features: Tensor, scale: float) -> Tensor:
    """scale times the cosines of directions (B, E) with the rows of weight (C, E), which may have any length."""
    return scale * features @ F.normalize(weight, dim=1).T


def descend(
    loss: Callable[[Tensor, int], Tensor],
    optimizer: torch.optim.Optimizer,
    count: int,
    epochs: int,
    seed: int,
    batch: int = 0,
    warmup: int = 0,
) -> None:
    """`epochs` passes over `count` images, in batches of `batch` (0: all at once); the last epoch counts.

    loss(rows (B,), epoch) -> a scalar. The learning rate falls along half a cosine, step by step; in the `warmup` first
    epochs it is 1e-5.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = batch or count
    steps, step, rate = epochs * -(-count // batch), 0, optimizer.param_groups[0]["lr"]
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator) if batch < count else torch.arange(count)
        for rows in order.split(batch):
            factor = 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = 1e-5 if epoch < warmup else rate * factor
            optimizer.zero_grad()
            loss(rows, epoch).backward()
            optimizer.step()
            step += 1
