"""A tiny CLIP whose text tower knows the digits: its class vectors are noisy means of its own image features.

The image tower is random; its projection whitens the features of real training images and lets one direction stand for
what all images have in common, so that cosines differ as little as those of a real CLIP. The text tower is random, too;
its projection maps the sentence about each class to the mean direction of the features of that class, with noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from text_cases import open_clip_clip
from torch import Tensor

from vitadapt.data import open_dataset
from vitadapt.nn.head import without_projection
from vitadapt.text import load_text_tower
from vitadapt.text.class_features import sentences
from vitadapt.training.features import Environment, frozen_features, pixels_of
from vitadapt.weights import load_backbone

COMMON = 1.7  # length of what all images have in common, as a part of what they differ by
SHARE = 0.3  # of what texts differ by


def digits_clip(folder: Path, noise: float) -> str:
    """The name to load it by; `folder` gets its file. noise: length of what is added to a class vector of length 1."""
    state = {name: tensor.clone() for name, tensor in open_clip_clip().state_dict().items()}
    extra = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    name = f"file:{folder / 'clip.pt'}?activation=quick_gelu"

    def save() -> None:
        torch.save({**state, **{key: torch.tensor(value) for key, value in extra.items()}}, folder / "clip.pt")

    state["text_projection"] = torch.eye(*state["text_projection"].shape)
    save()
    backbone, train = load_backbone(name), open_dataset("digits").splits["train"]
    pixels = pixels_of(train, backbone, Environment())
    pooled = frozen_features(without_projection(backbone)[0], "", pixels, Environment(), "features").double()  # (N, F)
    projection = whitening(pooled, state["visual.proj"].shape[1])
    wanted = class_vectors(pooled @ projection, torch.from_numpy(train.labels), noise)
    texts = [of_class[0] for of_class in sentences("digits", open_dataset("digits").classes, None)]
    seen = load_text_tower(name, backbone).encode(texts).double()  # (C, E): as many of the tower's own numbers
    state["visual.proj"] = projection.float()
    state["text_projection"][: seen.shape[1]] = torch.linalg.lstsq(seen, wanted, driver="gelsd").solution.float()
    save()
    return name


def whitening(pooled: Tensor, width: int) -> Tensor:
    """(F, E): the largest principal axes of features (N, F) at equal sizes, and behind them their mean direction."""
    mean = F.normalize(pooled.mean(dim=0), dim=0)
    values, axes = torch.linalg.eigh(torch.cov((pooled - pooled @ mean[:, None] * mean).T))
    whiten = axes[:, 1 - width :] / values[1 - width :].sqrt()
    common = mean * (COMMON * (width - 1) ** 0.5 / (pooled @ mean).mean())
    return torch.column_stack([whiten - mean[:, None] * (mean @ whiten), common])


def class_vectors(features: Tensor, labels: Tensor, noise: float) -> Tensor:
    """(C, E) from features (N, E) whose last column is what they have in common."""
    own = F.normalize(features[:, :-1], dim=1)
    means = F.normalize(torch.stack([own[labels == c].mean(dim=0) for c in range(10)]), dim=1)
    generator = torch.Generator().manual_seed(0)
    random = F.normalize(torch.randn(means.shape, generator=generator, dtype=means.dtype), dim=1)
    known = SHARE * F.normalize(means + noise * random, dim=1)
    return torch.column_stack([known, torch.full((10, 1), (1 - SHARE**2) ** 0.5, dtype=means.dtype)])
