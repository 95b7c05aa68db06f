"""What a benchmark will cost before it starts: hours, disk and memory, from a few measured steps and the budgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..data import open_dataset
from ..data.datasets import resolve
from ..nn.head_spec import ZERO
from ..nn.setting import Setting
from ..nn.surgery import solves_head, towers_of, trainable
from ..text.class_features import text_start
from ..training.config import default_head
from ..training.features import Environment, cached_backbone
from ..training.loop import TensorInputs, forward_all
from ..training.task import Task
from ..utils.errors import DataError
from ..utils.system import peak_memory_mb
from .config import RunConfig
from .prepare import training_pool
from .protocols.base import Budget
from .protocols.registry import PROTOCOLS
from .results.store import Store
from .transfer import trained_on

Clock = Callable[[], float]
SECONDS = 1.0
"""How long each pace is measured, after one round that does not count."""


@dataclass(frozen=True)
class Pace:
    """Seconds per image of a training step, of scoring an image held out, and of the frozen backbone; and sizes."""

    trained: float
    scored: float
    forward: float
    width: int  # of the features
    size: int  # pixels along a side
    numbers: int  # that train in the backbone
    memory_mb: float  # the most this process has held


@dataclass
class Estimate:
    """How many cells are missing, the most hours and bytes that they take, and the memory that one was seen to need."""

    dataset: str
    protocol: str
    cells: int = 0
    hours: float = 0.0
    disk_mb: float = 0.0
    memory_mb: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, hours: float, disk_mb: float, memory_mb: float, cells: int = 1) -> None:
        self.cells += cells
        self.hours += hours
        self.disk_mb += disk_mb
        self.memory_mb = max(self.memory_mb, memory_mb)


@dataclass(frozen=True)
class Images:
    """The labels (N,) or (N, C) of a training pool, how many test images there are, and how many classes."""

    labels: Tensor
    test: int
    classes: int
    note: str = ""


def plan(configs: Iterable[RunConfig], store: Store, environment: Environment) -> list[Estimate]:
    """One estimate per dataset and protocol, in the order of `configs`, of the cells that are not recorded yet.

    What several cells share (decoded images, frozen features) counts once. Raises DataError for a dataset that is
    neither here nor in the catalog.
    """
    estimates: dict[tuple[str, str], Estimate] = {}
    shared: set[tuple[Any, ...]] = set()
    for config in (config.resolved() for config in configs):
        row = estimates.setdefault((config.dataset, config.protocol), Estimate(config.dataset, config.protocol))
        if store.get(config.digest()) is not None:
            continue
        images, pace = images_of(config, environment), pace_of(_representative(config), environment.setting)
        if images.note and images.note not in row.notes:
            row.notes.append(images.note)
        row.add(*_cost(config, images, pace, shared), pace.memory_mb)
    return list(estimates.values())


def total(estimates: Iterable[Estimate]) -> Estimate:
    """The sum, under the dataset's name "total"."""
    summed = Estimate("total", "")
    for row in estimates:
        summed.add(row.hours, row.disk_mb, row.memory_mb, row.cells)
    return summed


def _cost(config: RunConfig, images: Images, pace: Pace, shared: set[tuple[Any, ...]]) -> tuple[float, float]:
    """(hours, MB) of one cell; what it shares with others is entered in `shared` and counts for the first."""
    pool = len(images.labels)
    budget = PROTOCOLS[config.protocol].budget(config, images.labels) if pool else Budget(0, 0, 0)
    seconds = budget.trained * pace.trained + budget.scored * pace.scored
    place = (config.dataset, config.image_size, pace.size)
    drawn = (*place, config.shots, config.seed, config.subset)
    size = 4 * pace.numbers + 4 * images.test * images.classes  # adapter and predictions
    for key, count in (((*place, "test"), images.test), (drawn, pool)):
        if _first(shared, ("pixels", *key)):
            size += 3 * pace.size**2 * count
        frozen = pace.numbers == 0 or key == drawn  # the features of test images are kept only if nothing changes them
        if not frozen or _first(shared, ("features", config.backbone, *key)):
            seconds += count * pace.forward
            size += 4 * pace.width * count if frozen else 0
    return seconds / 3600, size / 1e6


def _first(seen: set[tuple[Any, ...]], key: tuple[Any, ...]) -> bool:
    fresh = key not in seen
    seen.add(key)
    return fresh


def images_of(config: RunConfig, environment: Environment) -> Images:
    """The images of a cell; those of a named dataset that is not here are taken from its sizes in the catalog."""
    try:
        dataset = trained_on(config, open_dataset(config.dataset, environment.data_root))
    except DataError:
        row = resolve(config.dataset)
        if row is None:
            raise
        classes, count = len(row.classes), row.sizes["train"]
        shots = PROTOCOLS[config.protocol].draws(config.shots)
        pool = count if shots is None else min(count, shots * classes)
        pool = pool if config.method.trains_head else 0
        return Images(torch.arange(pool) % classes, row.sizes["test"], classes, "not here: sizes of the catalog")
    labels = torch.from_numpy(training_pool(config, dataset, environment).labels)
    return Images(labels, len(dataset.splits["test"].labels), len(dataset.classes))


def _representative(config: RunConfig) -> RunConfig:
    """A cell of the same pace, the same for all cells that share it: dataset, seed and head do not matter for it."""
    method = config.method
    head = ZERO if method.trains_head and default_head("fixed", method).start != "text" else None
    return replace(config.resolved(), dataset="", seed=0, shots=None, subset=None, test=None, head=head, prompts=None)


@lru_cache(maxsize=256)
def pace_of(config: RunConfig, setting: Setting, clock: Clock = time.perf_counter) -> Pace:
    """Measured by `clock` on random images, a batch at a time, for a second each."""
    setting = replace(setting, precision=config.precision, progress=None, on_epoch=None)
    backbone, _ = cached_backbone(config.backbone, config.image_size, setting.device)
    size, training = backbone.image_size, config.training
    # What is learnt does not matter.
    recipe = replace(training.recipe, epochs=1, lr=0.0, head_lr=0.0, head_start="zero")
    images = TensorInputs(torch.randint(0, 256, (recipe.batch_size, 3, size, size), dtype=torch.uint8))
    features = forward_all(backbone, images, setting, "plan")
    forward = _seconds(lambda: forward_all(backbone, images, setting, "plan"), clock) / len(images)
    if not config.method.trains_head or solves_head(config.method):  # seconds, whatever the recipe says
        return Pace(0.0, 0.0, forward, features.shape[1], size, 0, peak_memory_mb())
    labels = torch.arange(len(images)) % 10
    text = None
    if towers_of(config.method) != "image":
        sentences = [[f"a photo of class {number}"] for number in range(10)]
        text, _ = text_start(config.backbone, backbone, sentences, None, setting)
    task = Task(training, backbone, images, labels, 10, features, setting, text=text)
    model = task.build(0)
    trained = _seconds(lambda: task.fit(model, recipe, 0), clock) / len(images)
    scored = _seconds(lambda: task.probabilities(model), clock) / len(images)
    numbers = sum(parameter.numel() for parameter in trainable(model.backbone).values())
    return Pace(trained, scored, forward, features.shape[1], size, numbers, peak_memory_mb())


def _seconds(work: Callable[[], object], clock: Clock) -> float:
    work()
    start, rounds = clock(), 0
    while rounds == 0 or clock() - start < SECONDS:
        work()
        rounds += 1
    return (clock() - start) / rounds
