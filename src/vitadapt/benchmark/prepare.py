"""What a cell works on before any training: backbone, labelled images, their features, the text of the classes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..data import Dataset, Examples, open_dataset, sample_few_shot
from ..data.pixels.pixels import Pixels
from ..data.sampling.manifests import manifest_digest, read_manifest, subset_rows
from ..methods.audit import TensorReport, probe
from ..methods.spec import method_text
from ..nn.surgery import towers_of
from ..text.class_features import cached_text_tower, text_start
from ..training.features import Environment, cached_backbone, pixels_of
from ..training.task import Task, make_task
from ..utils.errors import ConfigError, NotApplicable
from .config import RunConfig
from .protocols.registry import PROTOCOLS
from .transfer import sentences_of, trained_on


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

    images: those of the `pool`, decoded. notes: for the record.
    """

    task: Task
    dataset: Dataset
    pool: Examples
    images: Pixels
    notes: list[str]


def prepare(config: RunConfig, environment: Environment, clock: Clock | None = None) -> Prepared:
    """Backbone, labelled images, their features and the text of a cell. The task has no files of its own."""
    clock, training, notes, text = clock or Clock(), config.training, list[str](), None
    with clock.phase("data"):
        backbone, _ = cached_backbone(training.backbone, training.image_size, environment.setting.device)
        full = open_dataset(config.dataset, environment.data_root)
        dataset = trained_on(config, full)
        pool = training_pool(config, dataset, environment)
        images = pixels_of(pool, backbone, environment, dataset.squash)
    with clock.phase("features"):
        if training.head.start == "text":
            texts = sentences_of(config, full, dataset)
            try:
                text, notes = text_start(training.backbone, backbone, texts, environment.cache, environment.setting)
            except NotApplicable as error:
                raise NotApplicable(f"{method_text(config.method)}: {error}") from error
        labels, key = pool.labels, config.digest()
        task = make_task(
            training, images, labels, len(dataset.classes), environment, text=text, metric=dataset.metric, key=key
        )
    return Prepared(task, dataset, pool, images, notes)


@lru_cache(maxsize=64)
def cached_probe(name: str, image_size: int | None, method: Any) -> list[TensorReport]:
    """Whether each tensor that `method` trains can learn; asked once per process, not once per seed and dataset."""
    backbone, _ = cached_backbone(name, image_size, "cpu")
    reports = probe(backbone, method)
    if towers_of(method) != "image":
        reports += probe(cached_text_tower(name, "cpu", backbone).network, method)
    return reports


def training_pool(config: RunConfig, dataset: Dataset, environment: Environment) -> Examples:
    """The labelled images that a run may use: a given subset, all of train, or `shots` per class drawn with `seed`.

    A method that trains nothing uses none. Raises ConfigError when the environment does not have the subset that the
    configuration names.
    """
    if "train" not in dataset.splits:
        raise ConfigError(f"{config.dataset} has images to test on alone; train on another dataset, with this in test=")
    train = dataset.splits["train"]
    if not config.method.trains_head:
        return train.take([])
    if config.subset is not None:
        manifest = read_manifest(environment.subset) if environment.subset else None
        if manifest is None or manifest_digest(manifest) != config.subset:
            raise ConfigError(f"the images of subset {config.subset} are not known here; give its file with --subset")
        return train.take(subset_rows(dataset, manifest, cache=environment.cache))
    shots = PROTOCOLS[config.protocol].draws(config.shots)
    if shots is None:
        return train
    published = dataset.split in ("elevater", "native")  # there, a class with fewer images gives all that it has
    rows = sample_few_shot(train.labels, shots, config.seed, classes=dataset.classes, allow_fewer=published)
    return train.take(rows)
