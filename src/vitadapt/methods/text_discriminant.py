"""Text discriminant: the discriminant in closed form, with the texts of the classes as its prior.

Ours. The logits of the texts say what is likely before any image is seen, those of the discriminant
(`discriminant.py`, on the features that are compared with texts) what the images say:

    logits = (mix s T f + (W f + b) / T_d) / T.

The shrinkage and the temperature T_d are those of the discriminant; mix and T are then the ones that predict images
left out best. At one shot, where none can be left out, both are 1 and W f is 10 cos(f, f_c). Stored: C (E + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..nn.support import Solution, Support
from .discriminant import SINGLE, chosen_for, discriminants
from .left_out import losses
from .registry import METHODS
from .text_prior import TextPrior

MIXES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
TEMPERATURES = np.geomspace(0.5, 4, 13)


@METHODS.register("text-discriminant")
@dataclass(frozen=True)
class TextDiscriminant(TextPrior):
    """(mix s T f + (W f + b) / T_d) / T: the regularised linear discriminant with the texts as its prior."""

    reads_versions: ClassVar[bool] = True
    learns_prior: ClassVar[bool] = False

    def solve_head(self, support: Support) -> Solution:
        text = support.scale * self.texts(support).astype(np.float64)
        x, labels, classes = support.features, support.labels, support.classes
        if np.bincount(labels).max() < 2:
            images = np.zeros_like(text)
            images[labels] = SINGLE * x.astype(np.float64)
            return Solution(text + images, np.zeros(classes))
        found = chosen_for(support)
        zero_shot = x[found.rows] @ text.T
        table = [losses(mix * zero_shot + found.logits, labels[found.rows], TEMPERATURES) for mix in MIXES]
        best, t = np.unravel_index(np.argmin(table), (len(MIXES), len(TEMPERATURES)))
        ((weight, bias),) = discriminants(support, (found.shrinkage,))
        weight = (MIXES[best] * text + weight / found.temperature) / TEMPERATURES[t]
        return Solution(weight, bias / (found.temperature * TEMPERATURES[t]))
