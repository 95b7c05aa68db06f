"""Versions of the training images behind the frozen blocks of a backbone: computed once, drawn from in every epoch.

What lies before the first adapted block gives the same tokens for the same pixels in every epoch. So a few versions of
each image (as it is, its mirror image, and jittered ones) go through these blocks once; training starts behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data.pixels.cache import TemporaryArray
from ..nn.head import Classifier
from ..nn.setting import Setting
from ..nn.vit import ViT
from .augmentation import jitter
from .loop import Inputs, batches
from .recipe import Recipe

PLAIN, MIRROR = 0, 1
MOST_BYTES = 6 * 10**9  # of versions kept on disk; beyond it fewer of them are
_LARGEST = 6e4  # of numbers that half precision holds


@dataclass(frozen=True)
class Views:
    """Tokens (V, N, T, D) as they enter block `first`, of the images in `rows` (N,).

    Version 0 is the image as it is, and version 1 its mirror image; `drawn` are the versions to train on.
    """

    tokens: np.ndarray
    first: int
    rows: Tensor
    drawn: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> Views:
        """Only the images of `rows` (M,), in that order."""
        return replace(self, rows=self.rows[rows])

    def gather(self, rows: Tensor, version: int = PLAIN) -> Tensor:
        """Tokens (B, T, D) in fp32 of one version of the images `rows` (B,)."""
        return torch.from_numpy(self.tokens[version, self.rows[rows].numpy()].astype(np.float32))

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The same, of a version that is drawn for each image."""
        version = self.drawn[torch.randint(len(self.drawn), (len(rows),), generator=generator)]
        return torch.from_numpy(self.tokens[version.numpy(), self.rows[rows].numpy()].astype(np.float32))


class FromBlock(nn.Module):
    """A classifier behind block `first` of its backbone: tokens (B, T, D) -> logits (B, C), without a mirror image."""

    def __init__(self, classifier: Classifier, first: int) -> None:
        super().__init__()
        self.backbone, self.head, self.first = cast(ViT, classifier.backbone), classifier.head, first

    def features(self, tokens: Tensor) -> Tensor:
        """(B, E)"""
        return self.backbone.forward_tokens(tokens, self.first)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(tokens)))


@torch.inference_mode()
def make_views(
    vit: ViT, images: Inputs, first: int, recipe: Recipe, seed: int, setting: Setting, cache: Path | None
) -> Views | None:
    """`recipe.views` jittered versions, the image and its mirror image, behind the blocks before `first`.

    They are kept in half precision in a nameless file in `cache`, or in memory without one. None where they would take
    more than `MOST_BYTES`. Raises StorageError when there is no room.
    """
    tokens = vit.embed(images.gather(torch.arange(1)).to(setting.device)).shape[1]
    each = len(images) * tokens * vit.config.width * np.dtype(np.float16).itemsize
    versions = min(2 + recipe.views, MOST_BYTES // each)
    if versions < 2:
        return None
    shape = (versions, len(images), tokens, vit.config.width)
    store, generator = TemporaryArray(cache, shape, np.float16), torch.Generator().manual_seed(seed)
    done = 0
    for version in range(versions):
        for rows in batches(len(images), 32):
            pixels = _version(images.gather(rows).to(setting.device), version, recipe, generator)
            with setting.autocast():
                found = vit.run_blocks(vit.embed(pixels), 0, first).float().clamp(-_LARGEST, _LARGEST)
            store.append(found.cpu().numpy().astype(np.float16))
            done += len(rows)
            setting.report("versions of the images", done, versions * len(images))
    drawn = [version for version in range(versions) if version != MIRROR or recipe.flip]
    return Views(store.array(), first, torch.arange(len(images)), torch.tensor(drawn))


def _version(pixels: Tensor, version: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    if version in (PLAIN, MIRROR):
        return pixels.flip(-1) if version == MIRROR else pixels
    return jitter(pixels, recipe.jitter, recipe.flip, generator)


@torch.inference_mode()
def from_views(model: Classifier, views: Views, setting: Setting, label: str, batch_size: int = 64) -> Tensor:
    """Logits (N, C) of `model` for the images themselves, in fp32 on the CPU; with their mirror images, if it asks."""
    rest, logits = FromBlock(model.eval(), views.first), []
    versions = (PLAIN, MIRROR) if rest.backbone.config.mirror else (PLAIN,)
    for rows in batches(len(views), batch_size):
        with setting.autocast():
            features = [rest.features(views.gather(rows, version).to(setting.device)) for version in versions]
        logits.append(model.head(torch.stack(features).mean(dim=0)).float().cpu())
        setting.report(label, int(rows[-1]) + 1, len(views))
    return torch.cat(logits)
