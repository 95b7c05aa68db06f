"""Versions of the training images behind the frozen blocks of a backbone: computed once, drawn from in every epoch.

What lies before the first adapted block gives the same tokens for the same pixels in every epoch. So a few versions of
each image (as it is, its mirror image, and jittered ones) go through these blocks once; training starts behind them.
"""

from __future__ import annotations

import math
import tempfile
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

PLAIN, MIRROR = 0, 1
VERSIONS, JITTER = 3, 0.4  # jittered versions of each image, and how far they are zoomed and shifted
MOST_JITTERED = 1000  # images; of more images only the mirror image is a second version
MOST_BYTES = 6 * 10**9  # of versions kept on disk
IN_MEMORY = 5 * 10**7  # numbers of one version that are kept in memory where there is no cache
_LARGEST = 6e4  # of numbers that half precision holds


@dataclass(frozen=True)
class Views:
    """Tokens (N, T, D) of each version, as they enter block `first`, of the images in `rows` (M,).

    Version 0 is the image as it is, version 1 its mirror image, the others are jittered. `drawn`: those to train on.
    """

    tokens: tuple[np.ndarray, ...]
    first: int
    rows: Tensor
    drawn: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> Views:
        """Only the images of `rows` (B,), in that order."""
        return replace(self, rows=self.rows[rows])

    def drawing(self, flip: bool) -> Views:
        """The same, to be trained on: without the mirror images unless `flip`."""
        return replace(self, drawn=tuple(v for v in range(len(self.tokens)) if flip or v != MIRROR))

    def gather(self, rows: Tensor, version: int = PLAIN) -> Tensor:
        """Tokens (B, T, D) in fp32 of one version of the images `rows` (B,)."""
        return torch.from_numpy(self.tokens[version][self.rows[rows].numpy()].astype(np.float32))

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The same, of a version that is drawn for each image."""
        version = torch.randint(len(self.drawn), (len(rows),), generator=generator).tolist()
        picked = [self.tokens[self.drawn[v]][row] for v, row in zip(version, self.rows[rows].tolist(), strict=True)]
        return torch.from_numpy(np.stack(picked).astype(np.float32))


class FromBlock(nn.Module):
    """A classifier behind block `first` of its backbone: tokens (B, T, D) -> logits (B, C), without a mirror image."""

    def __init__(self, classifier: Classifier, first: int) -> None:
        super().__init__()
        self.backbone, self.head, self.first = cast(ViT, classifier.backbone), classifier.head, first

    def features(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, E)"""
        return self.backbone.forward_tokens(tokens, self.first)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(tokens)))


def shared_block(vit: ViT, pooled: int) -> int:
    """The block up to which all candidates may share the tokens: the last third behind it, and `pooled` last blocks."""
    depth = vit.config.depth
    return depth - min(depth, max(1, depth // 3, pooled))


@torch.inference_mode()
def make_views(
    vit: ViT,
    images: Inputs,
    first: int,
    versions: int,
    seed: int,
    setting: Setting,
    cache: Path | None,
    views: Views | None = None,
) -> Views | None:
    """The image, its mirror image and jittered versions, `versions` in all, behind the blocks before `first`.

    `views`: those that are there already. Tokens are kept in half precision in a nameless file in `cache`, or in memory
    without one. None where they would take more than `MOST_BYTES`. Raises StorageError when there is no room.
    """
    versions = versions if len(images) <= MOST_JITTERED else min(versions, 2)
    count = vit.embed(images.gather(torch.arange(1)).to(setting.device)).shape[1]
    shape = (len(images), count, vit.config.width)
    if versions * math.prod(shape) * np.dtype(np.float16).itemsize > MOST_BYTES:
        return None
    if cache is None and math.prod(shape) > IN_MEMORY:
        cache = Path(tempfile.gettempdir())
    done = views.tokens if views else ()
    for version in range(len(done), versions):
        store = TemporaryArray(cache, shape, np.float16)
        generator = torch.Generator().manual_seed(seed + version)
        for rows in batches(len(images), 32):
            pixels = _version(images.gather(rows).to(setting.device), version, generator)
            with setting.autocast():
                found = vit.run_blocks(vit.embed(pixels), 0, first).float().clamp(-_LARGEST, _LARGEST)
            store.append(found.cpu().numpy().astype(np.float16))
            setting.report(f"version {version + 1} of {versions} of the images", int(rows[-1]) + 1, len(images))
        done = (*done, store.array())
    return Views(done, first, torch.arange(len(images)))


def _version(pixels: Tensor, version: int, generator: torch.Generator) -> Tensor:
    if version in (PLAIN, MIRROR):
        return pixels.flip(-1) if version == MIRROR else pixels
    return jitter(pixels, JITTER, True, generator)


@torch.inference_mode()
def version_features(vit: ViT, views: Views, setting: Setting, versions: int, batch_size: int = 64) -> Tensor:
    """(V, N, E) features of the first versions, each by itself, in fp32 on the CPU."""
    found = []
    for version in range(min(versions, len(views.tokens))):
        parts = []
        for rows in batches(len(views), batch_size):
            with setting.autocast():
                tokens = views.gather(rows, version).to(setting.device)
                parts.append(vit.forward_tokens(tokens, views.first).float().cpu())
        found.append(torch.cat(parts))
    return torch.stack(found)


def features_from_views(model: Classifier, views: Views, setting: Setting) -> Tensor:
    """Features (N, E) of `model` for the images themselves, in fp32 on the CPU; with the mirror images, if it asks."""
    vit = cast(ViT, model.eval().backbone)
    return version_features(vit, views, setting, 2 if vit.config.mirror else 1).mean(dim=0)
