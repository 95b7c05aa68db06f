"""Which pictures to label next: those that the model is unsure of, and that are unlike one another.

Four rules put pictures in an order. With p1 >= p2 the largest probabilities of a picture, its doubt is 1 - (p1 - p2)
(with several labels per picture, of the label that is nearest to its threshold). The distance of two pictures is
1 - cosine of their features around the model's centre.

* `margin`: the largest doubt, lowered in proportion for pictures nearer than 1/2 to one taken before (the default);
* `uncertainty`: the largest doubt, whatever the pictures show (Scheffer et al. 2001, margin sampling);
* `coreset`: the largest distance to what is labelled or taken, whatever the model says (Sener and Savarese 2018,
  1708.00489, greedy k-centre);
* `random`: any.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import quote

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.examples import ImageRef
from ..nn.head import Classifier
from ..training.adapter_file import AdapterInfo
from ..training.loop import forward_all
from ..utils.errors import ConfigError, DataError, StorageError, WeightsError
from ..utils.progress import Progress
from .batches import batches
from .fit_record import read_record
from .model import Floats, Model, probabilities_of
from .statistics_file import read_statistics

Rule = Literal["margin", "coreset", "uncertainty", "random"]
NEAR = 0.5  # distance below which two pictures count as alike
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Suggestion:
    """A picture to label. probabilities: of every class; doubt: 0 (sure) to 1; distance: to what was known, 0 to 2."""

    ref: ImageRef
    probabilities: Mapping[str, float]
    doubt: float
    distance: float

    @property
    def label(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])


def suggest(
    model: Model,
    refs: Sequence[ImageRef],
    count: int,
    rule: Rule = "margin",
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[list[Suggestion], list[str]]:
    """At most `count` of `refs` to label next, the most wanted first; and one message per unreadable picture.

    seed: of the rule `random`. Raises ConfigError for an unknown rule, DataError when no picture can be read.
    """
    if rule not in RULES:
        raise ConfigError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
    rows, probabilities, features, unreadable = _read(model, refs, progress)
    if not rows:
        raise DataError(f"none of the {len(refs)} images can be read; the first: {unreadable[0]}")
    directions, known = directions_of(features, model), labelled_directions(model)
    doubts = doubt(probabilities, np.array(model.info.thresholds or ()))
    order, distances = ranked(doubts, directions, known, count, rule, seed)
    found = [
        Suggestion(
            refs[rows[i]],
            dict(zip(model.classes, probabilities[i].tolist(), strict=True)),
            float(doubts[i]),
            float(distance),
        )
        for i, distance in zip(order, distances, strict=True)
    ]
    return found, unreadable


def unlabelled(model: Model, refs: Sequence[ImageRef]) -> list[ImageRef]:
    """`refs` without the pictures that the model was made from, as far as they are still where they were."""
    try:
        record = read_record(model.path.parent)
    except StorageError:
        return list(refs)
    known = {os.path.realpath(path) for part in ("cross_validation", "test") for path in record[part]["paths"]}
    return [ref for ref in refs if os.path.realpath(ref.name) not in known]


def label_studio_tasks(
    found: Sequence[Suggestion], info: AdapterInfo, model: str, folder: Path
) -> list[dict[str, Any]]:
    """Tasks for Label Studio with what the model takes each picture for, below `folder`, the root of its local files.

    They suit the labelling interface <View><Image name="image" value="$image"/><Choices name="choice" toName="image">.
    Raises ConfigError for a picture that is not below `folder`.
    """
    tasks = []
    for one in found:
        path = os.path.relpath(os.path.realpath(one.ref.name), os.path.realpath(folder))
        if path.startswith(os.pardir):
            raise ConfigError(f"{one.ref.name} is not below {folder}; write the tasks into a folder above the pictures")
        labels = [one.label]
        if info.thresholds:
            limits = zip(one.probabilities.items(), info.thresholds, strict=True)
            labels = [name for (name, probability), threshold in limits if probability >= threshold]
        result = {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": labels}}
        score = max(one.probabilities.values())
        prediction = {"model_version": model, "score": score, "result": [result] if labels else []}
        place = f"/data/local-files/?d={quote(path.replace(os.sep, '/'))}"
        tasks.append({"data": {"image": place}, "predictions": [prediction]})
    return tasks


def ranked(
    doubts: np.ndarray, directions: np.ndarray, known: np.ndarray, count: int, rule: Rule = "margin", seed: int = 0
) -> tuple[list[int], list[float]]:
    """Rows of the first `count` pictures by `rule`, and the distance of each to what was known before it.

    doubts (N,), directions (N, E) and those of the labelled pictures, known (K, E), all of unit length.
    """
    nearest = np.full(len(doubts), 2.0)  # the largest distance that there is
    for part in np.array_split(known, max(1, len(known) // 1000)):
        if len(part):
            nearest = np.minimum(nearest, np.maximum(1 - (directions @ part.T).max(axis=1), 0.0))
    order: list[int] = []
    distances: list[float] = []
    apart = np.ones(len(doubts))  # from those taken
    chance = np.random.default_rng(seed).random(len(doubts))
    left = np.ones(len(doubts), dtype=bool)
    while len(order) < min(count, len(doubts)):
        spread = doubts * np.minimum(apart / NEAR, 1)
        wanted = {"margin": spread, "coreset": nearest, "uncertainty": doubts, "random": chance}[rule]
        row = int(np.argmax(np.where(left, wanted, -1.0)))
        order.append(row)
        distances.append(float(nearest[row]))
        left[row] = False
        away = np.maximum(1 - directions @ directions[row], 0.0)
        nearest, apart = np.minimum(nearest, away), np.minimum(apart, away)
    return order, distances


def doubt(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(N,) 0 (sure) to 1 of probabilities (N, C). thresholds: (C,) where a picture may have several labels, else ()."""
    if len(thresholds):
        room = np.where(probabilities < thresholds, thresholds, 1 - thresholds)
        return np.asarray((1 - np.abs(probabilities - thresholds) / np.maximum(room, 1e-6)).max(axis=1))
    first, second = -np.partition(-probabilities, 1, axis=1)[:, :2].T
    return np.asarray(1 - (first - second))


def directions_of(features: np.ndarray, model: Model) -> np.ndarray:
    """(N, E) features around the centre of the training images, of unit length."""
    centre = cast(Tensor, model.classifier.head.centre).cpu()
    return F.normalize(torch.as_tensor(features).float() - centre, dim=-1).numpy()


def labelled_directions(model: Model) -> np.ndarray:
    """(K, E) of the pictures that the model was made from, or of the means of their classes; none of a lone file."""
    try:
        known = read_statistics(model.path.parent, len(model.classes)).features
    except WeightsError:
        return np.zeros((0, model.classifier.backbone.features), dtype=np.float32)
    return directions_of(np.concatenate([known.x, known.summed_means[known.summed > 0]]), model)


class _ProbabilitiesAndFeatures(nn.Module):
    """Images (B, 3, S, S) -> logits and features (B, C + E)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        features = self.classifier.backbone(images)
        return torch.cat([self.classifier.head(features).float(), features.float()], dim=1)


def _read(
    model: Model, refs: Sequence[ImageRef], progress: Progress | None
) -> tuple[list[int], Floats, Floats, list[str]]:
    """Rows of the readable pictures, their probabilities (n, C) and features (n, E), and a message for each other."""
    network, classes = _ProbabilitiesAndFeatures(model.classifier), len(model.classes)

    def output(some: Sequence[ImageRef]) -> np.ndarray:
        return forward_all(network, model.pixels(some), model.setting, "predict").numpy()

    rows: list[int] = []
    found = [np.zeros((0, classes + model.classifier.backbone.features), dtype=np.float32)]
    unreadable: list[str] = []
    for batch in batches(refs, output, "predict", progress):
        rows += batch.rows
        found += batch.outputs
        unreadable += batch.unreadable
    numbers = np.concatenate(found)
    logits = torch.from_numpy(np.ascontiguousarray(numbers[:, :classes]))
    return rows, probabilities_of(logits, model.info), numbers[:, classes:], unreadable
