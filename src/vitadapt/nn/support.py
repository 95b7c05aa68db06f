"""What a head in closed form is made of, the support set, and what it is: values, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..utils.errors import ConfigError


@dataclass(frozen=True)
class Support:
    """Labelled images, as features, and the texts of their classes.

    features: (N, E) as the linear layer of the head gets them; labels: (N,) class numbers; classes: C.
    versions: (V, N, E) features of several versions of each image, where the method reads them and the backbone is a
    ViT; the first is the image as it is.
    text: (C, E) a unit vector for each class, where the head starts from text; scale: factor of its logits.
    pooled: (V, N, F) features before the output projection, of one version or several, where the method reads them.
    start: the tensors of the adapted backbone that are to be learnt, by name, as they start.
    seed: of all that is drawn at random. Raises ConfigError for several labels per image.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: int
    versions: np.ndarray | None = None
    text: np.ndarray | None = None
    scale: float = 1.0
    pooled: np.ndarray | None = None
    start: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels.ndim != 1:
            raise ConfigError("a head in closed form takes one label per image; use linear-probe for several")

    def take(self, rows: np.ndarray) -> Support:
        """Only the images of `rows`, a mask (N,) or numbers."""
        versions, pooled = (None if part is None else part[:, rows] for part in (self.versions, self.pooled))
        labels = self.labels[rows]
        return replace(self, features=self.features[rows], labels=labels, versions=versions, pooled=pooled)


@dataclass(frozen=True)
class Solution:
    """A head in closed form: with normalised features g (E,) the logits are

        weight g + bias + values^T exp(sharpness (keys g - 1)).

    weight (C, E) and bias (C,): None where they stay as they start. keys (K, E) and values (K, C): None without keys.
    backbone: the tensors of `Support.start`, learnt.
    """

    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    keys: np.ndarray | None = None
    values: np.ndarray | None = None
    sharpness: float = 0.0
    backbone: Mapping[str, np.ndarray] = field(default_factory=dict)

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias, of a head that has new ones."""
        assert self.weight is not None and self.bias is not None
        return self.weight, self.bias
