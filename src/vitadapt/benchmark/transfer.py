"""What a classifier is tested on besides the classes that it was trained on: new classes, and other datasets.

The field `test` of a configuration is "base-to-new", or names of datasets joined by +. A dataset whose classes the
training has, too, by name, is tested with the trained head (domain generalisation: Zhou et al. 2022, CoCoOp); any other
with a head of its class names on the adapted backbone, which no training has seen (cross-dataset transfer).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, Examples, open_dataset
from ..data.class_names import class_key
from ..metrics.scores import METRICS
from ..nn.head import Classifier, Head, TextStart, without_projection
from ..nn.head_spec import TEXT
from ..text.class_features import sentences, text_start
from ..training.features import Environment, cached_backbone
from ..training.task import Trained
from ..utils.errors import ConfigError, NotApplicable
from ..utils.files import expanded
from .config import RunConfig

BASE_TO_NEW = "base-to-new"


@dataclass(frozen=True, eq=False)
class Target:
    """Images to test on, and their classes: `rows` of the trained ones, or those that `text` is about.

    projection: (E, D) that the head is to hold, where that of the classifier does.
    """

    name: str
    dataset: Dataset  # without a part for testing all of its images are
    rows: tuple[int, ...] = ()
    text: TextStart | None = None
    projection: Tensor | None = None

    @torch.no_grad()
    def classifier(self, trained: Trained) -> Trained:
        """What answers for these images; the class names are read by the text tower as it was trained."""
        if self.text is None:
            return trained
        model, features, texts = trained.model, self.text.features, self.text.texts
        if model.head.texts is not None and texts is not None:
            features = texts.of(model.head.texts.network)()
        if self.projection is not None:
            features = features.to(self.projection) @ self.projection  # (C, E) (E, D)
        head = Head(features.shape[1], len(features), TEXT, self.text.scale).to(features.device)
        head.start_from(features)
        return replace(trained, model=Classifier(model.backbone, head.requires_grad_(False)).eval())

    def score(self, probabilities: np.ndarray) -> float:
        """In percent, of the probabilities (N, C) that `classifier` gives."""
        among = probabilities[:, list(self.rows)] if self.rows else probabilities
        return 100 * METRICS[self.dataset.metric](self.examples.labels, among)

    @property
    def examples(self) -> Examples:
        """The images with their labels."""
        splits = self.dataset.splits
        return splits["test"] if "test" in splits else splits["train"]


def parts_of(test: str | None) -> tuple[str, ...]:
    """The names of the datasets in the field `test`. Raises ConfigError for an empty one, or base-to-new among them."""
    names = () if test in (None, BASE_TO_NEW) else tuple(str(test).split("+"))
    if not all(names) or BASE_TO_NEW in names:
        raise ConfigError(f"test = {test!r}: write base-to-new, or names of datasets joined by +")
    return names


def trained_on(config: RunConfig, dataset: Dataset) -> Dataset:
    """What of `dataset` the configuration trains on: the base half of its classes where the others are to be new."""
    return halves(dataset)[0] if config.test == BASE_TO_NEW else dataset


def targets_of(config: RunConfig, dataset: Dataset, environment: Environment) -> list[Target]:
    """What is tested besides the classes that are trained; before a training, because a text tower may be lacking.

    dataset: `trained_on`. Raises DataError, NotApplicable without a text tower, and ConfigError for the dataset itself
    where it has no images to test on alone.
    """
    if config.test == BASE_TO_NEW:
        full = open_dataset(config.dataset, environment.data_root)
        new = halves(full)[1]
        return [_named("new", new, sentences_of(config, full, new), config, environment)]
    known, found = {class_key(name): i for i, name in enumerate(dataset.classes)}, []
    own = config.training.prompts or config.prompts
    prompts = replace(own, class_names=()) if own else None
    for spec in parts_of(config.test):
        other = open_dataset(spec, environment.data_root, whole=True)
        if "test" not in other.splits and expanded(spec).resolve() == expanded(config.dataset).resolve():
            raise ConfigError(f"test = {config.test}: {spec} is trained on, and is tested anyway; name other datasets")
        rows = tuple(known.get(class_key(name), -1) for name in other.classes)
        if min(rows) >= 0:
            found.append(Target(spec, other, rows))
        else:
            found.append(_named(spec, other, sentences(spec, other.classes, prompts), config, environment))
    return found


def _named(name: str, dataset: Dataset, texts: list[list[str]], config: RunConfig, environment: Environment) -> Target:
    """The target whose classes are known by the sentences about each."""
    training, setting = config.training, environment.setting
    backbone, _ = cached_backbone(training.backbone, training.image_size, setting.device)
    try:
        text, _ = text_start(training.backbone, backbone, texts, environment.cache, setting)
    except NotApplicable as error:
        raise NotApplicable(f"test={config.test} needs the names of new classes: {error}") from error
    projection = without_projection(backbone)[1] if training.head.projection == "merged" else None
    return Target(name, dataset, text=replace(text, features=text.features.to(setting.device)), projection=projection)


def sentences_of(config: RunConfig, full: Dataset, part: Dataset) -> list[list[str]]:
    """The sentences about the classes of `part`, some of those of `full`."""
    texts = sentences(config.dataset, full.classes, config.training.prompts or config.prompts)
    return [texts[full.classes.index(name)] for name in part.classes]


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The first half of the classes, rounded up, and the others, in the order in which the copy numbers them.

    Raises ConfigError for fewer than four classes, and for several labels per image.
    """
    count = len(dataset.classes)
    if count < 4 or any(part.multilabel for part in dataset.splits.values()):
        raise ConfigError(f"{dataset.name}: base-to-new needs four classes or more, and one label per image")
    order, middle = dataset.order or tuple(range(count)), math.ceil(count / 2)
    return _part(dataset, order[:middle]), _part(dataset, order[middle:])


def _part(dataset: Dataset, ids: Sequence[int]) -> Dataset:
    """The images of the classes `ids`, which are numbered in that order."""
    place = np.full(len(dataset.classes), -1)
    place[list(ids)] = np.arange(len(ids))
    splits = {}
    for split, examples in dataset.splits.items():
        chosen = examples.take(np.flatnonzero(place[examples.labels] >= 0))
        splits[split] = replace(chosen, labels=place[chosen.labels])
    return replace(dataset, classes=tuple(dataset.classes[i] for i in ids), splits=splits, order=())


def combined(config: RunConfig, own: float, others: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """All scores by name, and the one number: the harmonic mean of base (`own`) and new classes, or the mean over the
    other datasets. Without others nothing but `own`.
    """
    if config.test is None:
        return {}, own
    if config.test != BASE_TO_NEW:
        return {config.dataset: own, **others}, float(np.mean(list(others.values())))
    new = others["new"]
    return {"base": own, **others}, 2 * own * new / (own + new) if own + new else 0.0
