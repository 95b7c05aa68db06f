"""Which backbone suits one's images: frozen features of each and the head in closed form, cross-validated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Examples, open_dataset, open_pixels
from ..data.sampling.folds import stratified_folds
from ..methods.discriminant import Discriminant
from ..metrics.scores import share_interval
from ..nn.head import backbone_of
from ..nn.head_spec import HeadSpec
from ..nn.setting import Setting
from ..nn.support import Support
from ..training.features import geometry_of
from ..training.loop import forward_all
from ..utils.errors import ConfigError, NotApplicable, WeightsError
from ..utils.optional import cache_alone
from ..weights import load_backbone
from ..weights.catalog import backbones

FOLDS = 5
HEAD = HeadSpec(length="unit", blocks=3, mirror=True)
Floats = np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One backbone on one's images: share of right answers with its 95 % interval, or why there is none (`note`).

    `milliseconds` per image to compute the features, on the device that was asked for; `parameters` in millions.
    """

    backbone: str
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    milliseconds: float | None = None
    parameters: float | None = None
    licence: str = ""
    note: str = ""


def compare_backbones(
    spec: str,
    names: Sequence[str],
    setting: Setting,
    root: Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> list[Comparison]:
    """The backbones from the best to the worst on the labelled images that `spec` names (as for `open_dataset`).

    As `ranked`, with the images of a folder, a table or a dataset of the catalog.
    """
    if not names:
        raise ConfigError("name the backbones to compare, e.g. --backbones dinov2-s14-offline clip-vit-b16")
    dataset = open_dataset(spec, root, whole=True)
    return ranked(dataset.splits["train"], len(dataset.classes), names, setting, download, seed)


def ranked(
    examples: Examples,
    classes: int,
    names: Sequence[str],
    setting: Setting,
    download: bool = False,
    seed: int = 0,
    image_size: int | None = None,
) -> list[Comparison]:
    """The backbones from the best to the worst on these images of so many classes; of equal ones the first named.

    A backbone that cannot be had is last, with the reason; without `download`, what is not in the cache cannot be had.
    Raises ConfigError for a class with one image, and NotApplicable for several labels per image.
    """
    labels = np.asarray(examples.labels)
    if labels.ndim != 1:
        raise NotApplicable("backbones are compared on images with one label each; use fit for several")
    smallest = int(np.bincount(labels, minlength=classes).min())
    if smallest < 2:
        raise ConfigError("every class needs at least 2 images for cross-validation; add some, or leave the class out")
    fold = stratified_folds(labels, min(FOLDS, smallest), seed)
    found = []
    for name in dict.fromkeys(names):
        try:
            with nullcontext() if download else cache_alone():
                backbone = load_backbone(name, image_size, setting.device)
        except WeightsError as error:
            found.append(Comparison(name, note=str(error)))
            continue
        network = backbone_of(backbone, HEAD)
        pixels = open_pixels(examples, geometry_of(backbone), None, setting.progress)
        pixels.gather(np.arange(min(len(pixels), 1)))  # decoded before the clock starts
        start = time.perf_counter()
        features = forward_all(network, pixels, setting, name).numpy().astype(np.float64)
        milliseconds = 1000 * (time.perf_counter() - start) / len(labels)
        right = int((_answers(features, labels, classes, fold) == labels).sum())
        row = backbones().get(name)
        parameters = sum(p.numel() for p in backbone.parameters()) / 1e6
        licence = row.licence if row else ""
        share = right / len(labels)
        found.append(Comparison(name, share, *share_interval(right, len(labels)), milliseconds, parameters, licence))
    return sorted(found, key=lambda one: -1.0 if one.accuracy is None else one.accuracy, reverse=True)


def _answers(features: Floats, labels: Floats, classes: int, fold: Floats) -> Floats:
    """(N,) the class of each image by the head that was solved on the other folds."""
    answers = np.empty(len(labels), dtype=np.int64)
    for number in np.unique(fold):
        rest, own = fold != number, fold == number
        centre, spread = features[rest].mean(axis=0), features[rest].std(axis=0) + 1e-6
        x = (features - centre) / spread
        x /= np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
        weight, bias = Discriminant().solve_head(Support(x[rest], labels[rest], classes)).linear()
        answers[own] = (x[own] @ weight.T + bias).argmax(axis=1)
    return answers
