"""What a cell works on before any training: backbone, labelled images, their features, the text of the classes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from ..data import Dataset, Examples, open_dataset, sample_few_shot
from ..data.sampling.manifests import manifest_digest, read_manifest, subset_rows
from ..methods.audit import TensorReport, probe
from ..nn.backbone import Backbone, backbone_digest
from ..nn.head import TextStart, unprojected
from ..text.class_features import text_start
from ..training.features import Environment, cached_backbone, frozen_features, pixels_of
from ..training.task import Task
from ..utils.errors import ConfigError
from .config import RunConfig
from .protocols.released import procedure_of


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Prepared:
    """What a cell works on before any training: nothing of it comes from the test images.

    `base` is the digest of the backbone as it was loaded, `frozen` as it is used; `said` are notes for the record.
    """

    task: Task
    dataset: Dataset
    pool: Examples
    base: str
    frozen: str
    said: list[str]


def prepare(config: RunConfig, environment: Environment, clock: Clock | None = None) -> Prepared:
    """Backbone, labelled images, their features and the text of a cell. The task has no files of its own."""
    clock, setting = clock or Clock(), replace(environment.setting, precision=config.precision)
    with clock.phase("data"):
        backbone, base = cached_backbone(config.backbone, config.image_size, setting.device)
        dataset = open_dataset(config.dataset, environment.data_root)
        pool = training_pool(config, dataset, environment)
        images = pixels_of(pool, dataset, backbone, environment)
    with clock.phase("features"):
        text, said = _text(config, backbone, dataset, environment)
        backbone, frozen, text = _with_projection(config, backbone, base, text)
        features = frozen_features(backbone, frozen, images, environment, "features")
    task = Task(
        config=config,
        backbone=backbone,
        images=images,
        labels=torch.from_numpy(pool.labels),
        classes=len(dataset.classes),
        features=features,
        setting=setting,
        text=text,
        metric=dataset.metric,
    )
    return Prepared(task, dataset, pool, base, frozen, said)


def _text(
    config: RunConfig, backbone: Backbone, dataset: Dataset, environment: Environment
) -> tuple[TextStart | None, list[str]]:
    if config.head_spec.start != "text":
        return None, []
    return text_start(config, backbone, dataset, environment.cache, environment.setting)


def _with_projection(
    config: RunConfig, backbone: Backbone, base: str, text: TextStart | None
) -> tuple[Backbone, str, TextStart | None]:
    """Backbone, its digest and the text as they are; or, where the head is to hold it, all without the projection."""
    if config.head_spec.projection == "kept":
        return backbone, base, text
    bare, projection = unprojected(backbone)
    merged = replace(text, features=text.features.to(projection) @ projection) if text else None  # (C, E) (E, D)
    return bare, backbone_digest(bare), merged


@lru_cache(maxsize=64)
def cached_probe(name: str, image_size: int | None, method: Any) -> list[TensorReport]:
    """Whether each tensor that `method` trains can learn; asked once per process, not once per seed and dataset."""
    backbone, _ = cached_backbone(name, image_size, "cpu")
    return probe(backbone, method)


def training_pool(config: RunConfig, dataset: Dataset, environment: Environment) -> Examples:
    """The labelled images that a run may use: a given subset, all of train, or `shots` per class drawn with `seed`.

    A method that trains nothing uses none. Raises ConfigError when the environment does not have the subset that the
    configuration names.
    """
    train = dataset.splits["train"]
    if not config.method.trains_head:
        return train.take([])
    if config.subset is not None:
        manifest = read_manifest(environment.subset) if environment.subset else None
        if manifest is None or manifest_digest(manifest) != config.subset:
            raise ConfigError(f"the images of subset {config.subset} are not known here; give its file with --subset")
        return train.take(subset_rows(dataset, manifest, cache=environment.cache))
    shots = procedure_of(config.protocol).draws(config.shots)
    if shots is None:
        return train
    published = dataset.split in ("elevater", "native")  # there, a class with fewer images gives all that it has
    rows = sample_few_shot(train.labels, shots, config.seed, classes=dataset.classes, allow_fewer=published)
    return train.take(rows)
