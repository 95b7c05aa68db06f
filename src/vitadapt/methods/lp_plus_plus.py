"""LP++: a linear probe on the images whose logits are blended with those of the texts, class by class.

Huang et al. 2024, "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP" (2404.02285; code:
FereshteShakeri/FewShot-CLIP-Strong-Baseline). With features f, texts t_c, and blending numbers a_c, all trained,

    logits_c = w_c f + b_c + a_c t_c f.

The steps have sizes in closed form. With the features F (N, E) of all images: 4 N / lambda_max(F^T F) for w and b, by
gradient descent on all images with momentum 0.9; N / (4 max_c sum_i (f_i t_c)^2) for a, a step every tenth epoch. w_c
starts at the sum of the features of class c, and every a_c at 250 times the mean cosine of images with their own text.
The published code takes the epoch that is best on validation images, and never clears the gradient of a, so that each
step adds up all gradients since the beginning; here the last epoch counts and a step uses its own gradient. Trained: C
(E + 2). They fold into a linear layer, so C (E + 1) are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..nn.support import Solution, Support
from .registry import METHODS
from .text_prior import TextPrior


@METHODS.register("lp-plus-plus")
@dataclass(frozen=True)
class LPPlusPlus(TextPrior):
    """w_c f + b_c + a_c t_c f, trained on all images at once with steps whose sizes follow from the features (LP++)."""

    epochs: int = 300
    momentum: float = 0.9
    every: int = 10

    def solve_head(self, support: Support) -> Solution:
        x, labels, text = self.tensors(support)
        zero_shot = x @ text.T  # (N, C)
        weight = torch.zeros(support.classes, x.shape[1]).index_add_(0, labels, x)
        bias = torch.zeros(support.classes)
        own, counts = zero_shot.gather(1, labels[:, None])[:, 0], torch.bincount(labels, minlength=support.classes)
        mean = torch.zeros(support.classes).index_add_(0, labels, own) / counts.clamp(min=1)
        blend = torch.full((support.classes,), 250 * float(mean[counts > 0].mean()))
        for tensor in (weight, bias, blend):
            tensor.requires_grad_()
        largest = float(torch.linalg.eigvalsh((x.T @ x).double())[-1])
        optimizer = torch.optim.SGD([weight, bias], 4 * len(x) / largest, self.momentum)
        step = len(x) / (4 * float(zero_shot.square().sum(dim=0).max()))
        for epoch in range(1, self.epochs + 1):
            optimizer.zero_grad()
            blend.grad = None
            F.cross_entropy(x @ weight.T + bias + blend * zero_shot, labels).backward()
            optimizer.step()
            if epoch % self.every == 0 and blend.grad is not None:
                with torch.no_grad():
                    blend -= step * blend.grad
        whole = (weight + blend[:, None] * text).detach().numpy()
        return Solution(whole.astype(np.float64), bias.detach().numpy().astype(np.float64))
